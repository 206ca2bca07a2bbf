//! `cache prune`, `pin` and `rm`.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::super::output;
use super::super::report::{Exit, Problem};
use super::{PinArgs, PruneArgs, RmArgs, find, one};
use crate::api::StorageUri;
use crate::api::quantity::parse_whole;
use crate::plan::said::bytes;
use crate::storage::{Cache, CacheEntry, Claims, RemoveError};

/// Who pins from here.
const PERSON: &str = "cli";
/// Downloads nobody went on with for this long are given up by `prune`.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Removes what nobody needs.
pub(super) fn prune(cache: &Cache, args: &PruneArgs) -> Result<Exit> {
    let claims = cache.claims()?;
    let mut over = match &args.max_size {
        None => u64::MAX,
        Some(size) => {
            let most = parse_whole(size).map_err(|error| Problem::usage("--max-size").because(error))?;
            cache.usage()?.total().saturating_sub(most)
        }
    };
    let (mut removed, mut freed) = (Vec::new(), 0);
    for entry in candidates(cache, &claims, args)? {
        if over == 0 {
            break;
        }
        let gained = if args.dry_run { entry.model.size } else { removed_bytes(cache, &entry)? };
        freed += gained;
        over = over.saturating_sub(gained);
        removed.push(entry);
    }
    if !args.dry_run {
        freed += cache.tidy(ABANDONED)?;
    }
    if args.output.is_table() {
        for entry in &removed {
            output::line(&format!("{}  {}", entry.id, entry.uri))?;
        }
        let verb = if args.dry_run { "would be removed, at most" } else { "removed," };
        output::note(&format!("{} models {verb} {} freed", removed.len(), bytes(freed)));
    } else {
        let models: Vec<_> = removed.iter().map(|entry| json!({ "id": entry.id, "uri": entry.uri })).collect();
        let document = json!({ "removed": models, "freedBytes": freed, "dryRun": args.dry_run });
        output::print(&args.output.render(&document)?)?;
    }
    Ok(Exit::Done)
}

/// Returns the models nobody needs, the least lately used first.
fn candidates(cache: &Cache, claims: &Claims, args: &PruneArgs) -> Result<Vec<CacheEntry>> {
    let mut free: Vec<_> = cache
        .list()?
        .into_iter()
        .filter(|entry| claims.is_free(&entry.id))
        .map(|entry| (cache.last_used(&entry), entry))
        .collect();
    if let Some(unused) = args.unused_for {
        free.retain(|(used, _)| used.elapsed().is_ok_and(|since| since >= unused));
    }
    free.sort_by_key(|(used, _)| *used);
    Ok(free.into_iter().map(|(_, entry)| entry).collect())
}

/// Removes one model; one that was taken up in between stays.
fn removed_bytes(cache: &Cache, entry: &CacheEntry) -> Result<u64> {
    match cache.remove(&entry.id) {
        Ok(bytes) => Ok(bytes),
        Err(error @ RemoveError::Disk { .. }) => Err(error.into()),
        Err(error) => {
            output::note(&format!("kept: {error}"));
            Ok(0)
        }
    }
}

/// Pins models, or takes the pins off.
pub(super) fn pin(cache: &Cache, args: &PinArgs) -> Result<Exit> {
    for name in &args.models {
        let uri = StorageUri::parse(name).ok().filter(|uri| cache.id_of(uri).is_some());
        let entry = match &uri {
            Some(_) => None,
            None => Some(one(cache, &cache.list()?, name)?),
        };
        let shown = entry.as_ref().map_or_else(|| name.clone(), |entry| entry.uri.clone());
        let changed = match (uri, entry, args.remove) {
            (Some(uri), _, true) => cache.unpin(&uri, PERSON)?,
            (Some(uri), _, false) => cache.pin(&uri, PERSON).map(|()| true)?,
            (None, Some(entry), true) => cache.unpin_id(&entry.id, PERSON)?,
            (None, Some(entry), false) => cache.pin_id(&entry.id, &entry.uri, PERSON).map(|()| true)?,
            (None, None, _) => false,
        };
        let did = match (args.remove, changed) {
            (false, _) => "pinned",
            (true, true) => "unpinned",
            (true, false) => "was not pinned from here",
        };
        output::line(&format!("{shown} {did}"))?;
    }
    Ok(Exit::Done)
}

/// Removes models by name.
pub(super) fn remove(cache: &Cache, args: &RmArgs) -> Result<Exit> {
    for entry in find(cache, &args.models)? {
        let freed = cache.remove(&entry.id).map_err(|error| match error {
            RemoveError::Used { .. } => Problem::not_so("it was not removed")
                .because(error)
                .hint("delete the services that use it first, or let the daemon forget them"),
            RemoveError::Pinned { .. } => Problem::not_so("it was not removed")
                .because(error)
                .hint("`kserve-local cache pin --remove` takes off a pin of `cli`; delete the object for another"),
            RemoveError::Leased { .. } | RemoveError::NotThere(_) => {
                Problem::not_so("it was not removed").because(error)
            }
            RemoveError::Disk { .. } => Problem::machine("it was not removed").because(error),
        })?;
        output::line(&format!("{} removed, {} freed", entry.uri, bytes(freed)))?;
    }
    Ok(Exit::Done)
}
