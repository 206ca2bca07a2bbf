//! Containers somebody else removed: they are made again, at once the first time and on the schedule of a crash loop when it
//! goes on, so that we do not fight a script that cleans up, nor a person.

use std::time::Duration;

use super::action::ActionKey;
use super::backoff;
use super::memory::Memory;
use super::planner::Draft;
use super::replica::Phase;
use super::world::{ContainerFact, Now, World};
use crate::workload::names;

/// A container that was removed by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vanished {
    /// How often in a row; living for ten minutes ends the row.
    pub times: u32,
    /// When that was last noticed.
    pub at: Duration,
}

/// Forgotten this long after the last time, unless the container is there again: longer than the longest wait.
const KEPT: Duration = Duration::from_secs(600);

impl World {
    /// Notes that a container is gone from the engine's list, and forgets what is known of it. That it was removed by
    /// somebody else is what remains when nobody here had anything to do with it.
    pub fn note_vanished(&mut self, fact: &ContainerFact, now: Now) {
        let key = ActionKey::Container(fact.name.clone());
        if !self.in_flight.contains(&key) && !self.memory.stuck.contains_key(&fact.name) {
            // As it will be called when it is made again: somebody may have renamed this one.
            let name = names::container_name(&self.instance, &fact.replica, &fact.container);
            self.memory.note_vanished(&fact.name, name, now);
        }
        self.memory.forget_container(&fact.name);
    }
}

impl Memory {
    fn note_vanished(&mut self, called: &str, name: String, now: Now) {
        let lived = self.containers.get(called).map_or(Duration::ZERO, |memory| memory.lived(now));
        let before = self.vanished.get(&name).map_or(0, |vanished| vanished.times);
        let times = if lived >= backoff::RESTART_RESET { 1 } else { before.saturating_add(1) };
        self.vanished.insert(name, Vanished { times, at: now.tick });
    }

    /// Forgets what happened long ago.
    pub(super) fn tidy_vanished(&mut self, exists: impl Fn(&String) -> bool, now: Now) {
        self.vanished.retain(|name, vanished| exists(name) || now.tick <= vanished.at + KEPT);
    }
}

/// Says so when a container was removed so often that it is too early to make it again.
pub(super) fn removed(draft: &mut Draft<'_>, name: &str) -> Option<Phase> {
    let vanished = *draft.world.memory.vanished.get(name)?;
    let delay = backoff::restart_delay(vanished.times);
    (!draft.due(vanished.at + delay)).then_some(Phase::Removed { times: vanished.times, delay })
}
