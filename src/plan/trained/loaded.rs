//! What is remembered of the models one server has loaded.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{RepositoryOrder, RepositoryWork};
use crate::plan::Now;
use crate::plan::memory::Memory;
use crate::plan::planner::Plan;

/// The models of one run of a server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// Which run of the container: when it was noted to begin.
    pub run: Option<Duration>,
    /// When it was last looked at, well or not; none until then.
    pub looked: Option<Duration>,
    /// Whether that went well once in this run: before that nothing is known.
    pub known: bool,
    /// Words of the last look that failed, and how many failed in a row.
    pub trouble: Option<(String, u32)>,
    /// Models whose files are there.
    pub models: BTreeMap<String, Held>,
    /// Models that could not be loaded, by name.
    pub failed: BTreeMap<String, Failed>,
    /// Memory declared by what was unloaded or loaded anew in this run, in bytes: nobody can tell whether the server gave
    /// it back.
    pub spent: u64,
    /// Whether all models that were to be loaded were, or failed, once in this run.
    pub complete: bool,
    /// Since when it waits to be started anew.
    pub leaving: Option<Duration>,
    /// Models that are there and not wanted any more, and since when.
    pub unwanted: BTreeMap<String, Duration>,
}

/// A model whose files a server was shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// From what its files were made; empty when nobody knows.
    pub mark: String,
    /// Memory it declares, in bytes.
    pub memory: u64,
    /// Whether it answers.
    pub ready: bool,
}

/// A model that could not be loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failed {
    /// Which one.
    pub mark: String,
    /// The server's words.
    pub message: String,
    /// Failures in a row.
    pub failures: u32,
    /// Time of the last.
    pub at: Duration,
}

/// What a pass found out about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// It has all that it is to have.
    Complete,
    /// It is to be started anew.
    Leaving,
    /// It has a model of this name that is not wanted.
    Unwanted(String),
}

impl Memory {
    /// Notes what came of an order to a server: the models that are there, for a look. One of an earlier run says nothing
    /// of this one and is dropped.
    pub fn note_repository(
        &mut self,
        order: &RepositoryOrder,
        result: Result<BTreeMap<String, Held>, String>,
        now: Now,
    ) {
        let run = self.containers.get(&order.name).and_then(|memory| memory.started);
        if run.is_none() || run != order.run {
            return;
        }
        let loaded = self.repositories.entry(order.name.clone()).or_default();
        if loaded.run != run {
            *loaded = Loaded { run, ..Loaded::default() };
        }
        match (&order.work, result) {
            (RepositoryWork::Look, result) => loaded.note_look(result, now),
            (RepositoryWork::Load { model, mark, memory, .. }, Ok(_)) => {
                loaded.failed.remove(model);
                let held = Held { mark: mark.clone(), memory: *memory, ready: true };
                let before = loaded.models.insert(model.clone(), held);
                loaded.spent += before.filter(|before| before.ready).map_or(0, |before| before.memory);
            }
            (RepositoryWork::Load { model, mark, .. }, Err(message)) => {
                let known = loaded.failed.get(model).filter(|known| known.mark == *mark);
                let failures = known.map_or(0, |known| known.failures).saturating_add(1);
                let failed = Failed { mark: mark.clone(), message, failures, at: now.tick };
                loaded.failed.insert(model.clone(), failed);
                // What it had under the name may be gone.
                loaded.looked = None;
            }
            (RepositoryWork::Unload { model }, Ok(_)) => {
                let gone = loaded.models.remove(model);
                loaded.spent += gone.map_or(0, |held| held.memory);
                loaded.failed.remove(model);
            }
            (RepositoryWork::Unload { model }, Err(message)) => {
                let known = loaded.failed.get(model).map_or(0, |known| known.failures);
                let failed = Failed { message, failures: known.saturating_add(1), at: now.tick, ..Failed::default() };
                loaded.failed.insert(model.clone(), failed);
            }
        }
    }

    /// Notes what a plan says of servers of several models.
    pub(in crate::plan) fn note_repositories(&mut self, plan: &Plan, now: Now) {
        for (name, note) in &plan.repositories {
            let Some(loaded) = self.repositories.get_mut(name) else { continue };
            match note {
                Note::Complete => (loaded.complete, loaded.leaving) = (true, None),
                Note::Leaving => {
                    loaded.leaving.get_or_insert(now.tick);
                }
                Note::Unwanted(model) => {
                    loaded.unwanted.entry(model.clone()).or_insert(now.tick);
                }
            }
        }
        for (name, loaded) in self.repositories.iter_mut().filter(|(_, loaded)| !loaded.unwanted.is_empty()) {
            // One that is wanted again begins anew when it is not.
            let is_said = |model: &str| {
                let said = |(other, note): &(String, Note)| {
                    other == name && matches!(note, Note::Unwanted(unwanted) if unwanted == model)
                };
                plan.repositories.iter().any(said)
            };
            loaded.unwanted.retain(|model, _| is_said(model));
        }
    }

    /// Whether a server waits for the requests it has: to be started anew, or to unload a model.
    pub fn awaits_quiet(&self, container: &str) -> bool {
        self.loaded(container).is_some_and(|loaded| loaded.leaving.is_some() || !loaded.unwanted.is_empty())
    }

    /// Returns what is known of the models of the run a container is in.
    pub(in crate::plan) fn loaded(&self, container: &str) -> Option<&Loaded> {
        let run = self.containers.get(container)?.started?;
        self.repositories.get(container).filter(|loaded| loaded.run == Some(run))
    }
}

impl Loaded {
    fn note_look(&mut self, result: Result<BTreeMap<String, Held>, String>, now: Now) {
        self.looked = Some(now.tick);
        match result {
            Ok(models) => (self.models, self.known, self.trouble) = (models, true, None),
            Err(message) => {
                let failures = self.trouble.as_ref().map_or(0, |(_, failures)| *failures);
                self.trouble = Some((message, failures.saturating_add(1)));
            }
        }
    }

    /// Whether a model answers that was made from this.
    pub(super) fn has(&self, model: &str, mark: &str) -> bool {
        self.models.get(model).is_some_and(|held| held.ready && held.mark == mark)
    }

    /// Whether a model answers, whatever it was made from.
    pub(super) fn answers(&self, model: &str) -> bool {
        self.models.get(model).is_some_and(|held| held.ready)
    }

    /// Memory declared by all that is loaded, in bytes.
    pub(super) fn declared(&self) -> u64 {
        self.models.values().filter(|held| held.ready).map(|held| held.memory).sum()
    }
}
