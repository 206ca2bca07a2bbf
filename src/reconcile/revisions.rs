//! The files of revisions: what a restart of the daemon must not forget.
//!
//! ```text
//! revisions.json   every component as of some time           written beside, flushed, renamed
//! revisions.log    components that changed since, by line    added at the end, flushed
//! ```
//!
//! A change costs what it says, however many services there are. When the log has grown it is folded into the first file
//! and goes; a crash in between does no harm, because the log then says of each component last what that file says. A line
//! that was cut off by a crash ends the log.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::desk::Desk;
use crate::api::{ComponentKind, ServiceKey};
use crate::home::{Home, write_atomically};
use crate::plan::admission::Grant;
use crate::plan::memory::{Memory, Revisions};
use crate::plan::routes::ReplicaName;
use crate::reconcile::grants;
use crate::workload::ComponentKey;

/// Revisions of one component, as they are read.
#[derive(Deserialize)]
struct Line {
    namespace: String,
    name: String,
    component: ComponentKind,
    /// None of a component that is gone.
    #[serde(default)]
    revisions: Option<Revisions>,
    #[serde(default)]
    sources: BTreeMap<u32, serde_json::Value>,
}

/// The same as it is written.
#[derive(Serialize)]
struct Known<'m> {
    namespace: &'m str,
    name: &'m str,
    component: ComponentKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    revisions: Option<&'m Revisions>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sources: BTreeMap<u32, &'m serde_json::Value>,
}

/// What of the planner's memory survives the daemon.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Revisions by component.
    pub revisions: BTreeMap<ComponentKey, Revisions>,
    /// What they were written as.
    pub sources: BTreeMap<ComponentKey, BTreeMap<u32, Arc<serde_json::Value>>>,
    /// Room granted to what was being started.
    pub granted: BTreeMap<ReplicaName, Grant>,
}

impl Ledger {
    fn take(&mut self, line: Line) {
        let service = ServiceKey::new(line.namespace, line.name);
        let key = ComponentKey { service, component: line.component };
        let Some(revisions) = line.revisions else {
            self.sources.remove(&key);
            self.revisions.remove(&key);
            return;
        };
        let sources = line.sources.into_iter().map(|(revision, source)| (revision, Arc::new(source)));
        self.sources.insert(key.clone(), sources.collect());
        self.revisions.insert(key, revisions);
    }
}

fn known<'m>(
    key: &'m ComponentKey,
    revisions: Option<&'m Revisions>,
    sources: &'m BTreeMap<ComponentKey, BTreeMap<u32, Arc<serde_json::Value>>>,
) -> Known<'m> {
    let own = sources.get(key).filter(|_| revisions.is_some()).into_iter().flatten();
    Known {
        namespace: &key.service.namespace,
        name: &key.service.name,
        component: key.component,
        revisions,
        sources: own.map(|(revision, source)| (*revision, &**source)).collect(),
    }
}

/// Writes the revisions down as they change.
#[derive(Debug, Default)]
pub(super) struct Book {
    written: BTreeMap<ComponentKey, Revisions>,
    /// Components of which it changed what they were written as.
    sources_changed: BTreeSet<ComponentKey>,
    pages: Arc<Pages>,
}

impl Book {
    /// Makes one whose files say this already.
    pub(super) fn of(written: BTreeMap<ComponentKey, Revisions>) -> Self {
        Self { written, ..Self::default() }
    }

    /// Notes that it changed what a component was written as.
    pub(super) fn note_source(&mut self, component: &ComponentKey) {
        self.sources_changed.insert(component.clone());
    }

    /// Has written what changed since the last time. Returns which components did.
    pub(super) fn save(&mut self, desk: &Desk, home: &Home, memory: &Memory) -> BTreeSet<ComponentKey> {
        let mut changed = std::mem::take(&mut self.sources_changed);
        changed.extend(differing(&self.written, &memory.revisions).into_iter().cloned());
        if changed.is_empty() {
            return changed;
        }
        let mut lines = Vec::new();
        for key in &changed {
            let revisions = memory.revisions.get(key);
            // Everything of it has a form in JSON.
            lines.extend(serde_json::to_vec(&known(key, revisions, &memory.sources)).unwrap_or_default());
            lines.push(b'\n');
            match revisions {
                Some(revisions) => _ = self.written.insert(key.clone(), revisions.clone()),
                None => _ = self.written.remove(key),
            }
        }
        let (pages, home) = (Arc::clone(&self.pages), home.clone());
        pages.waiting().extend(lines);
        desk.order("revisions", move || pages.write(&home));
        changed
    }
}

/// Returns the keys under which two maps do not have the same.
fn differing<'m>(
    before: &'m BTreeMap<ComponentKey, Revisions>,
    now: &'m BTreeMap<ComponentKey, Revisions>,
) -> Vec<&'m ComponentKey> {
    let (mut before, mut changed) = (before.iter().peekable(), Vec::new());
    for (key, revisions) in now {
        while let Some((gone, _)) = before.next_if(|(other, _)| *other < key) {
            changed.push(gone);
        }
        if before.next_if(|(other, _)| *other == key).is_none_or(|(_, known)| known != revisions) {
            changed.push(key);
        }
    }
    changed.extend(before.map(|(gone, _)| gone));
    changed
}

/// The log is folded when it is longer than this and than the file it adds to, in bytes.
const LOG_KEPT: u64 = 256 * 1024;

/// Lines on their way to the log.
#[derive(Debug, Default)]
struct Pages {
    waiting: Mutex<Vec<u8>>,
    /// Length of the part of the log that can be read; none while nobody has looked. Held by whoever writes.
    length: Mutex<Option<u64>>,
}

impl Pages {
    fn waiting(&self) -> MutexGuard<'_, Vec<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits. What cannot be written waits on.
    fn write(&self, home: &Home) {
        let mut length = self.length.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = std::mem::take(&mut *self.waiting());
        let begin = length.take().unwrap_or_else(|| readable(&std::fs::read(home.revisions_log()).unwrap_or_default()));
        match append(&home.revisions_log(), begin, &lines) {
            Ok(()) => *length = Some(begin + u64::try_from(lines.len()).unwrap_or_default()),
            Err(error) => {
                warn!(path = %home.revisions_log(), %error, "could not save the revisions");
                let mut waiting = self.waiting();
                let later = std::mem::replace(&mut *waiting, lines);
                waiting.extend(later);
                *length = Some(begin);
                return;
            }
        }
        let whole = std::fs::metadata(home.revisions()).map_or(0, |whole| whole.len());
        if length.is_some_and(|length| length > LOG_KEPT.max(whole)) {
            match fold(home) {
                Ok(()) => *length = Some(0),
                Err(error) => warn!(path = %home.revisions(), %error, "could not save all revisions anew"),
            }
        }
    }
}

/// Adds lines to the log after what can be read of it, and flushes them.
fn append(path: &Utf8Path, begin: u64, lines: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let is_new = !path.exists();
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_len(begin)?;
    file.seek(SeekFrom::Start(begin))?;
    file.write_all(lines)?;
    file.sync_data()?;
    match path.parent().filter(|_| is_new) {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Writes what both files say into the first, and lets go of the log.
fn fold(home: &Home) -> io::Result<()> {
    let ledger = read(home);
    let lines: Vec<Known<'_>> =
        ledger.revisions.iter().map(|(key, revisions)| known(key, Some(revisions), &ledger.sources)).collect();
    write_atomically(&home.revisions(), &serde_json::to_vec(&lines)?, 0o600)?;
    std::fs::remove_file(home.revisions_log())
}

/// Returns the lines of a log, up to the first that was cut off.
fn lines(log: &[u8]) -> impl Iterator<Item = (&[u8], Line)> {
    let whole = log.split_inclusive(|byte| *byte == b'\n').take_while(|line| line.ends_with(b"\n"));
    whole.map_while(|line| Some((line, serde_json::from_slice(line).ok()?)))
}

fn readable(log: &[u8]) -> u64 {
    lines(log).map(|(line, _)| u64::try_from(line.len()).unwrap_or_default()).sum()
}

fn read(home: &Home) -> Ledger {
    let log = std::fs::read(home.revisions_log()).unwrap_or_default();
    let whole = std::fs::read(home.revisions()).ok();
    let whole: Vec<Line> = whole.map_or_else(Vec::new, |bytes| {
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            warn!(path = %home.revisions(), %error, "the record of revisions is damaged and not used");
            Vec::new()
        })
    });
    let mut ledger = Ledger::default();
    whole.into_iter().chain(lines(&log).map(|(_, line)| line)).for_each(|line| ledger.take(line));
    ledger
}

/// Reads the revisions of an earlier daemon. A damaged file is as none: labels of what runs tell the rest.
pub fn load(home: &Home) -> Ledger {
    Ledger { granted: grants::load(home), ..read(home) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Tasks;

    fn key(name: &str) -> ComponentKey {
        ComponentKey { service: ServiceKey::new("default", name), component: ComponentKind::Predictor }
    }

    fn home(folder: &tempfile::TempDir) -> Home {
        Home::new(Utf8Path::from_path(folder.path()).unwrap())
    }

    fn target(memory: &mut Memory, name: &str, target: u32) {
        memory.revisions.insert(key(name), Revisions { target, ..Revisions::default() });
        memory.sources.entry(key(name)).or_default().insert(target, Arc::new(serde_json::json!({"of": target})));
    }

    #[tokio::test]
    async fn what_changed_is_written_and_nothing_else_and_the_next_daemon_reads_all() {
        let (folder, desk) = (tempfile::tempdir().unwrap(), Desk::open(&Tasks::new()));
        let (home, mut memory, mut book) = (home(&folder), Memory::default(), Book::default());
        target(&mut memory, "a", 1);
        target(&mut memory, "b", 1);
        assert_eq!(book.save(&desk, &home, &memory).len(), 2);
        desk.settled().await;
        let before = std::fs::read_to_string(home.revisions_log()).unwrap();
        assert!(book.save(&desk, &home, &memory).is_empty());
        target(&mut memory, "b", 2);
        assert_eq!(book.save(&desk, &home, &memory), BTreeSet::from([key("b")]));
        desk.settled().await;
        let after = std::fs::read_to_string(home.revisions_log()).unwrap();
        let added = after.strip_prefix(&before).unwrap();
        assert!(added.lines().count() == 1 && !added.contains(r#""name":"a""#), "{added}");
        memory.revisions.remove(&key("a"));
        memory.sources.remove(&key("a"));
        assert_eq!(book.save(&desk, &home, &memory), BTreeSet::from([key("a")]));
        // What a component was written as may be all that changed.
        memory.sources.entry(key("b")).or_default().insert(3, Arc::new(serde_json::json!({"of": 3})));
        book.note_source(&key("b"));
        assert_eq!(book.save(&desk, &home, &memory), BTreeSet::from([key("b")]));
        desk.settled().await;
        let read = load(&home);
        assert_eq!((&read.revisions, &read.sources), (&memory.revisions, &memory.sources));
    }

    #[test]
    fn a_log_adds_to_the_file_of_earlier_versions_and_a_line_that_was_cut_off_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let (home, pages) = (home(&folder), Pages::default());
        let line = |name, target| {
            let revisions = Revisions { target, ..Revisions::default() };
            serde_json::to_string(&known(&key(name), Some(&revisions), &BTreeMap::new())).unwrap()
        };
        let targets = || load(&home).revisions.into_values().map(|one| one.target).collect::<Vec<_>>();
        write_atomically(&home.revisions(), format!("[{},{}]", line("a", 1), line("b", 1)).as_bytes(), 0o600).unwrap();
        assert_eq!(targets(), [1, 1]);
        pages.waiting().extend(format!("{}\n", line("b", 2)).bytes());
        pages.write(&home);
        assert_eq!(targets(), [1, 2]);
        // A crash of the machine: a line by halves, and one of which nothing arrived.
        let whole = std::fs::read(home.revisions_log()).unwrap();
        for torn in [&b"{\"namespace\":\"default\""[..], &[0; 300], b"\n"] {
            std::fs::write(home.revisions_log(), [&whole, torn].concat()).unwrap();
            assert_eq!(targets(), [1, 2]);
            // The next daemon writes on after what can be read.
            let pages = Pages::default();
            pages.waiting().extend(format!("{}\n", line("a", 7)).bytes());
            pages.write(&home);
            assert_eq!(targets(), [7, 2]);
        }
    }

    #[test]
    fn a_log_that_has_grown_is_folded_and_a_crash_while_it_is_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let (home, pages) = (home(&folder), Pages::default());
        let mut revisions = Revisions::default();
        while !home.revisions().exists() {
            revisions.target += 1;
            revisions.given_up = Some(crate::plan::memory::GivenUp { revision: 1, why: "x".repeat(9999) });
            let line = serde_json::to_string(&known(&key("a"), Some(&revisions), &BTreeMap::new())).unwrap();
            pages.waiting().extend(format!("{line}\n").bytes());
            let log = std::fs::read(home.revisions_log()).unwrap_or_default();
            pages.write(&home);
            assert_eq!(load(&home).revisions[&key("a")], revisions);
            if home.revisions().exists() {
                assert!(!home.revisions_log().exists());
                // As if the log had not gone any more.
                std::fs::write(home.revisions_log(), format!("{}{line}\n", String::from_utf8(log).unwrap())).unwrap();
                assert_eq!(load(&home).revisions[&key("a")], revisions);
            }
        }
        assert!(revisions.target > 20, "it is not folded each time: {}", revisions.target);
    }

    #[test]
    fn what_cannot_be_written_waits_and_is_written_with_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let (home, pages) = (home(&folder), Pages::default());
        std::fs::create_dir_all(home.revisions_log()).unwrap();
        let revisions = Revisions { target: 4, ..Revisions::default() };
        let line = serde_json::to_string(&known(&key("a"), Some(&revisions), &BTreeMap::new())).unwrap();
        pages.waiting().extend(format!("{line}\n").bytes());
        pages.write(&home);
        std::fs::remove_dir(home.revisions_log()).unwrap();
        pages.write(&home);
        assert_eq!(load(&home).revisions[&key("a")], revisions);
    }
}
