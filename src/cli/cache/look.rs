//! `cache ls`, `df` and `verify`: nothing is changed, unless damage is to be removed.

use std::time::SystemTime;

use anyhow::Result;
use serde_json::{Value, json};

use super::super::output::{self, Grid};
use super::super::progress::Reporter;
use super::super::report::{Exit, Problem};
use super::{DfArgs, LsArgs, VerifyArgs, age, find};
use crate::config::Settings;
use crate::plan::pace::words;
use crate::plan::said::bytes;
use crate::storage::{Cache, CacheEntry, Claims, Verified, Verifier};

/// Lists the models.
pub(super) fn list(cache: &Cache, args: &LsArgs) -> Result<Exit> {
    let claims = cache.claims()?;
    let entries = cache.list()?;
    if !args.output.is_table() {
        let models: Vec<Value> = entries.iter().map(|entry| described(cache, entry, &claims)).collect();
        output::print(&args.output.render(&json!({ "models": models }))?)?;
        return Ok(Exit::Done);
    }
    if entries.is_empty() {
        output::note(&format!("There are no models in {}", cache.root()));
    }
    let mut grid = Grid::new(["id", "model", "size", "files", "age", "used", "checked", "needed by"]);
    for entry in &entries {
        grid.row([
            entry.id.clone(),
            entry.uri.clone(),
            bytes(entry.model.size),
            entry.model.files.to_string(),
            age(entry.fetched),
            age(cache.last_used(entry)),
            cache.last_checked(&entry.id).map_or_else(|| "-".to_owned(), age),
            needed_by(&claims, &entry.id),
        ]);
    }
    output::print(&grid.take_text())?;
    Ok(Exit::Done)
}

fn needed_by(claims: &Claims, id: &str) -> String {
    let users = claims.users(id).into_iter().map(|user| format!("daemon {user}"));
    let pins = claims.pinners(id).into_iter().map(|by| format!("pin ({by})"));
    users.chain(pins).collect::<Vec<_>>().join(", ")
}

fn described(cache: &Cache, entry: &CacheEntry, claims: &Claims) -> Value {
    json!({
        "id": entry.id,
        "uri": entry.uri,
        "path": entry.model.path,
        "size": entry.model.size,
        "files": entry.model.files,
        "fetched": time(entry.fetched),
        "lastUsed": time(cache.last_used(entry)),
        "lastChecked": cache.last_checked(&entry.id).and_then(time),
        "usedBy": claims.users(&entry.id),
        "pinnedBy": claims.pinners(&entry.id),
    })
}

fn time(then: SystemTime) -> Option<String> {
    let seconds = then.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok().map(|time| time.to_string())
}

/// Shows what the cache takes.
pub(super) fn usage(cache: &Cache, settings: &Settings, args: &DfArgs) -> Result<Exit> {
    let usage = cache.usage()?;
    let saved = usage.apparent.saturating_sub(usage.stored);
    let room = settings.room;
    if !args.output.is_table() {
        output::print(&args.output.render(&json!({
            "path": cache.root(),
            "models": usage.models,
            "modelBytes": usage.apparent,
            "storedBytes": usage.stored,
            "savedBytes": saved,
            "unfinishedBytes": usage.unfinished,
            "maxBytes": room.most,
            "minFreeBytes": room.spare,
            "diskBytes": usage.disk.size,
            "diskFreeBytes": usage.disk.free,
            "diskFreeInodes": usage.disk.inodes,
        }))?)?;
        return Ok(Exit::Done);
    }
    let mut grid = Grid::new(["what", "size", ""]);
    grid.row(["models".to_owned(), bytes(usage.apparent), format!("{} of them", usage.models)]);
    grid.row(["stored".to_owned(), bytes(usage.stored), format!("{} saved by sharing files", bytes(saved))]);
    grid.row(["unfinished".to_owned(), bytes(usage.unfinished), "downloads to go on with".to_owned()]);
    let most = room.most.map_or_else(|| "no limit".to_owned(), |most| format!("of {} (cache.maxSize)", bytes(most)));
    grid.row(["cache".to_owned(), bytes(usage.total()), format!("{most}, in {}", cache.root())]);
    let inodes = usage.disk.inodes.map_or_else(String::new, |inodes| format!(", room for {inodes} files"));
    let kept = format!("of {}, {} kept free{inodes}", bytes(usage.disk.size), bytes(room.spare));
    grid.row(["disk free".to_owned(), bytes(usage.disk.free), kept]);
    output::print(&grid.take_text())?;
    Ok(Exit::Done)
}

/// Verifies models.
pub(super) fn verify(cache: &Cache, args: &VerifyArgs) -> Result<Exit> {
    let entries = if args.models.is_empty() { cache.list()? } else { find(cache, &args.models)? };
    let total: u64 = entries.iter().map(|entry| entry.model.size).sum();
    let mut verifier = Verifier::new(cache.clone());
    let mut reporter = Reporter::new(args.progress);
    let (mut done, mut results) = (0, Vec::new());
    for entry in entries {
        let verified = verifier.verify(&entry.id, |read| {
            done += read;
            reporter.say(&entry.uri, &format!("verifying {}: {}", entry.uri, words(done, total.max(done), 0)));
        })?;
        results.extend(verified.map(|verified| (entry, verified)));
    }
    reporter.end();
    let mut removed = Vec::new();
    for (entry, _) in results.iter().filter(|(_, verified)| args.remove && !verified.flaws.is_empty()) {
        match cache.remove(&entry.id) {
            Ok(_) => removed.push(entry.id.clone()),
            Err(error) => output::note(&format!("not removed: {error}")),
        }
    }
    let damaged = results.iter().filter(|(_, verified)| !verified.flaws.is_empty()).count();
    if args.output.is_table() {
        output::print(&results.iter().map(|(entry, verified)| told(entry, verified)).collect::<String>())?;
    } else {
        let models: Vec<Value> = results.iter().map(|(entry, verified)| result(entry, verified, &removed)).collect();
        output::print(&args.output.render(&json!({ "models": models, "damaged": damaged }))?)?;
    }
    if damaged > removed.len() {
        let problem = Problem::not_so(format!("{} of {} models are damaged", damaged, results.len()));
        return Err(problem.hint("`kserve-local cache verify --remove` removes them; they are fetched again").into());
    }
    Ok(Exit::Done)
}

fn told(entry: &CacheEntry, verified: &Verified) -> String {
    if verified.flaws.is_empty() {
        return format!("ok        {}  {} files, {}\n", entry.uri, verified.files, bytes(verified.bytes));
    }
    let flaws = verified.flaws.iter().map(|(path, flaw)| format!("damaged   {}  `{path}` {flaw}\n", entry.uri));
    flaws.collect()
}

fn result(entry: &CacheEntry, verified: &Verified, removed: &[String]) -> Value {
    let flaws: Vec<Value> =
        verified.flaws.iter().map(|(path, flaw)| json!({ "file": path, "problem": flaw.to_string() })).collect();
    json!({
        "id": entry.id,
        "uri": entry.uri,
        "ok": flaws.is_empty(),
        "files": verified.files,
        "unrecorded": verified.unrecorded,
        "bytes": verified.bytes,
        "flaws": flaws,
        "removed": removed.contains(&entry.id),
    })
}
