//! Bounded change log for watchers.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Stored;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its desired state or its status changed.
    Modified,
    /// It is gone; the change carries its last state.
    Deleted,
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// Version of the whole store after the change.
    pub version: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// The object after the change; before it, for a deletion.
    pub stored: Arc<Stored>,
}

/// The caller's version is older than the log reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the requested version {requested} is too old; the oldest known is {oldest}")]
pub struct TooOld {
    /// What was asked for.
    pub requested: u64,
    /// The oldest version that can be continued from.
    pub oldest: u64,
}

/// The log. Old changes fall off the front.
#[derive(Clone, Debug)]
pub struct History {
    changes: VecDeque<Change>,
    /// Version just before the first change still known.
    floor: u64,
}

impl History {
    /// Makes an empty log that begins at version `floor`.
    pub fn new(floor: u64) -> Self {
        Self { changes: VecDeque::new(), floor }
    }

    /// Appends a change.
    pub fn push(&mut self, change: Change) {
        self.changes.push_back(change);
    }

    /// Forgets all but the newest changes, at most so many.
    pub fn keep(&mut self, limit: usize) {
        let surplus = self.changes.len().saturating_sub(limit);
        if let Some(last) = self.changes.drain(..surplus).next_back() {
            self.floor = last.version;
        }
    }

    /// Returns the changes after `version`, oldest first.
    ///
    /// # Errors
    /// The log does not reach back that far; list again.
    pub fn since(&self, version: u64) -> Result<Vec<Change>, TooOld> {
        if version < self.floor {
            return Err(TooOld { requested: version, oldest: self.floor });
        }
        let start = self.changes.partition_point(|change| change.version <= version);
        Ok(self.changes.range(start..).cloned().collect())
    }
}
