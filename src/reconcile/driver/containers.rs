//! Containers: the list of the engine, what became of actions on them, and what is noted of each.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::facts::Fact;
use super::{Driver, RELIST, RELIST_DOWN, Urgency};
use crate::engine::{Blame, Container, EngineError};
use crate::plan::world::{ContainerFact, EngineState, ExitFact, FactState, ModelState};
use crate::plan::{Action, ActionKey};
use crate::reconcile::downloads::is_download;
use crate::reconcile::execute::{self, Failure, Lesson};
use crate::reconcile::last_words::EndedRun;
use crate::reconcile::{observe, renames};
use crate::tasks::caught;

impl Driver {
    /// When the engine is to be asked for its containers.
    pub(super) fn list_at(&self) -> Duration {
        match self.world.engine {
            _ if self.listing => Duration::MAX,
            EngineState::Down { .. } => self.last_list + RELIST_DOWN,
            _ if self.list_again => Duration::ZERO,
            EngineState::Unknown => self.last_list + RELIST_DOWN,
            EngineState::Up => self.last_list + RELIST,
        }
    }

    /// Asks the engine for its containers, once at a time.
    pub(super) fn ask_for_list(&mut self) {
        let tick = self.parts.clock.now().tick;
        if tick < self.list_at() {
            return;
        }
        self.listing = true;
        self.asked_at = tick;
        self.list_again = false;
        let (engine, sender, asked) = (Arc::clone(&self.parts.executor.engine), self.sender.clone(), self.serial);
        self.parts.tasks.spawn_droppable("list", async move {
            let failed = |message| {
                let (verb, name) = ("list", "containers".to_owned());
                Err(EngineError::Refused { verb, name, message, blame: Blame::Machine })
            };
            let result = caught(engine.list()).await.unwrap_or_else(failed);
            // The driver is gone: nobody needs the list.
            let _ = sender.send(Fact::Listed { asked, result }).await;
        });
    }

    pub(super) fn take_list(&mut self, asked: u64, result: Result<Vec<Container>, EngineError>) -> Urgency {
        self.listing = false;
        self.last_list = self.parts.clock.now().tick;
        let containers = match result {
            Ok(containers) => containers,
            Err(error) => {
                let message = execute::chain(&error);
                if self.world.engine != (EngineState::Down { message: message.clone() }) {
                    warn!(error = message, "the container engine does not answer; what runs keeps serving");
                    self.world.engine = EngineState::Down { message };
                    return Urgency::Now;
                }
                return Urgency::Never;
            }
        };
        let (was_away, now) = (matches!(self.world.engine, EngineState::Down { .. }), self.parts.clock.now());
        if was_away {
            info!("the container engine answers again");
            // Refusals while it was away say nothing about now.
            self.world.memory.refusals.clear();
        }
        let mut urgency = if self.world.engine == EngineState::Up { Urgency::Never } else { Urgency::Now };
        // Nothing was forgotten while it did not answer.
        self.untidy |= self.world.engine != EngineState::Up;
        self.world.engine = EngineState::Up;
        self.world.limits_later = self.parts.executor.engine.limits_later();
        self.world.holds_networks = self.parts.executor.engine.holds_networks();
        renames::follow(&mut self.world, &containers);
        if self.world.note_listed(self.asked_at) {
            urgency = Urgency::Now;
        }
        self.parts.executor.downloads.sweep(&containers);
        let newer = |name: &str| self.touched.get(name).is_some_and(|serial| *serial > asked);
        let mut listed = HashSet::new();
        let mut fresh = Vec::new();
        for container in &containers {
            listed.insert(container.name.as_str());
            if newer(&container.name) {
                self.list_again = true;
                continue;
            }
            if self.world.containers.get(&container.name).is_some_and(|known| observe::says_the_same(container, known))
            {
                continue;
            }
            match observe::fact(container) {
                Some(fact) => {
                    observe::find(&mut self.world, container, &fact, was_away, now);
                    fresh.push(fact);
                }
                None if is_download(container) => {}
                None => debug!(container = container.name, "a container of ours has labels of another version"),
            }
        }
        let gone: Vec<String> = self
            .world
            .containers
            .keys()
            .filter(|name| !listed.contains(name.as_str()) && !newer(name))
            .cloned()
            .collect();
        self.touched.retain(|_, serial| *serial > asked);
        for name in gone {
            if let Some(fact) = self.world.containers.remove(&name) {
                self.world.note_vanished(&fact, now);
            }
            self.untidy = true;
            urgency = Urgency::Now;
        }
        for fact in fresh {
            urgency = urgency.max(self.take_fact(fact));
        }
        // Room that was granted for what this list does not show is given to those who wait.
        let is_freed = self.world.desired_known && self.world.tidy_grants(now);
        if is_freed { Urgency::Now } else { urgency }
    }

    /// Takes over what is known of one container now.
    pub(super) fn take_fact(&mut self, mut fact: ContainerFact) -> Urgency {
        let now = self.parts.clock.now();
        let known = self.world.containers.get(&fact.name);
        // A list tells less than a look: what it leaves out is kept.
        if let (Some(old), FactState::Running { started_at: started @ None }) = (known, &mut fact.state)
            && let FactState::Running { started_at } = &old.state
        {
            *started = *started_at;
        }
        if known == Some(&fact) {
            return Urgency::Never;
        }
        self.world.memory.adopt(&fact, now);
        match &fact.state {
            FactState::Running { .. } if known.is_none_or(|old| !old.is_running()) => {
                self.world.memory.note_running(&fact.name, now);
            }
            FactState::Removing => self.world.memory.note_removing(&fact.name, now),
            FactState::Exited(exit) => self.take_end(&fact, exit),
            _ => {}
        }
        self.world.containers.insert(fact.name.clone(), fact);
        self.untidy = true;
        Urgency::Now
    }

    fn take_end(&mut self, fact: &ContainerFact, exit: &ExitFact) {
        let ended_before = self.world.memory.last_end(&fact.name);
        if !self.world.memory.note_exit(&fact.name, exit, self.parts.clock.now()) {
            return;
        }
        let peak = self.world.used.get(&fact.name).map(|used| used.peak);
        if self.world.memory.weigh_end(&fact.name, exit, peak) {
            self.world.memory.note_memory_death(fact, peak.unwrap_or_default());
        }
        self.fetch_last_words(EndedRun::of(fact, exit, ended_before));
    }

    fn fetch_last_words(&self, run: EndedRun) {
        let (engine, sender) = (Arc::clone(&self.parts.executor.engine), self.sender.clone());
        self.parts.tasks.spawn_droppable("last-words", async move {
            let lines = run.last_words(&*engine).await;
            // The driver is gone: nobody needs the words.
            let _ = sender.send(Fact::LastWords { run, lines }).await;
        });
    }

    pub(super) fn take_container(&mut self, action: &Action, result: Result<Option<Container>, Failure>) -> Urgency {
        let key = action.key();
        self.world.in_flight.remove(&key);
        self.world.note_ended(action, self.parts.clock.now());
        let ActionKey::Container(name) = key else { return Urgency::Never };
        self.serial += 1;
        self.touched.insert(name.clone(), self.serial);
        self.untidy = true;
        match result {
            Ok(Some(container)) => {
                if let Action::Rouse(order) = action {
                    self.world.memory.note_roused(order);
                }
                // An action ended well: whatever the engine refused before is over.
                self.world.memory.refusals.remove(&name);
                if let Some(fact) = observe::fact(&container) {
                    self.take_fact(fact);
                }
            }
            Ok(None) => {
                self.world.containers.remove(&name);
                self.world.memory.forget_container(&name);
            }
            Err(failure) => {
                self.learn(&failure);
                self.list_again = true;
                let known = self.world.memory.refusals.get(&name).or(self.world.memory.stuck.get(&name));
                if known.is_none_or(|known| known.message != failure.message) {
                    warn!(container = name, error = failure.message, "the engine did not do it");
                }
                let now = self.parts.clock.now();
                if failure.lesson == Lesson::None {
                    self.world.memory.note_failure(action, failure.message, failure.permanent, now);
                }
            }
        }
        Urgency::Now
    }

    pub(super) fn learn(&mut self, failure: &Failure) {
        match &failure.lesson {
            Lesson::None => {}
            Lesson::EngineDown => self.list_again = true,
            Lesson::ImageGone(image) => {
                self.world.images.remove(image);
            }
            Lesson::ModelGone => {
                self.world.models.retain(|_, state| !matches!(state, ModelState::Present { .. }));
                // Whoever learns this makes a pass anyway.
                let _ = self.look_up_models();
            }
        }
    }
}
