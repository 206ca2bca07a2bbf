//! What comes back from effects, and what each means for the world.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tracing::{info, warn};

use super::{Driver, SOON, Urgency};
use crate::api::StorageUri;
use crate::engine::{Container, ContainerId, EngineError, Usage};
use crate::plan::action::{ProbeKind, ProbeOrder};
use crate::plan::checks;
use crate::plan::trained::{Held, RepositoryOrder};
use crate::plan::world::{ImageState, ModelState};
use crate::plan::{Action, ActionKey};
use crate::probe::Outcome;
use crate::reconcile::execute::{Failure, Lesson};
use crate::reconcile::last_words::EndedRun;
use crate::reconcile::measure::Measured;
use crate::storage::{CachedModel, Checked};

/// A refused connection makes every check due at most this often.
const CHECK_AGAIN: Duration = Duration::from_millis(250);

/// What comes back from an effect.
pub(super) enum Fact {
    Listed { asked: u64, result: Result<Vec<Container>, EngineError> },
    Model { uri: StorageUri, result: Result<CachedModel, Failure> },
    Source { uri: StorageUri, result: Result<Checked, Failure> },
    ImageChecked { image: String, result: Result<bool, Failure> },
    ImagePulled { image: String, result: Result<(), (Failure, bool)> },
    Container { action: Box<Action>, result: Result<Option<Container>, Failure> },
    Probed { order: Box<ProbeOrder>, outcome: Outcome },
    LastWords { run: EndedRun, lines: Vec<String> },
    Used(Option<HashMap<ContainerId, Usage>>),
    Limited { name: String, run: Option<Duration>, result: Result<(), Failure> },
    Measured(Option<Measured>),
    LookedFor(Vec<(StorageUri, ModelState)>),
    Repository { order: Box<RepositoryOrder>, result: Result<BTreeMap<String, Held>, Failure> },
}

impl Driver {
    pub(super) fn take_facts(&mut self, first: Fact) -> Urgency {
        let mut urgency = self.take(first);
        while let Ok(fact) = self.facts.try_recv() {
            urgency = urgency.max(self.take(fact));
        }
        urgency
    }

    pub(super) fn take(&mut self, fact: Fact) -> Urgency {
        match fact {
            Fact::Listed { asked, result } => self.take_list(asked, result),
            Fact::Model { uri, result } => self.take_model(uri, result),
            Fact::Source { uri, result } => self.take_source(&uri, result),
            Fact::ImageChecked { image, result } => self.take_image_check(image, result),
            Fact::ImagePulled { image, result } => self.take_image_pull(image, result),
            Fact::Container { action, result } => self.take_container(&action, result),
            Fact::Probed { order, outcome } => self.take_probe(&order, outcome),
            Fact::Repository { order, result } => self.take_repository(&order, result),
            Fact::LookedFor(found) => self.take_looks(found),
            Fact::Measured(None) => {
                self.rounds.miss();
                self.measure_at = self.rounds.next(&self.world);
                Urgency::Never
            }
            Fact::Measured(Some(measured)) => {
                let now = self.parts.clock.now();
                let is_news = self.rounds.end(&mut self.world, measured, &self.parts.events, now);
                self.measure_at = self.rounds.next(&self.world);
                if is_news { Urgency::Now } else { Urgency::Never }
            }
            Fact::Used(usage) => {
                let tick = self.parts.clock.now().tick;
                self.resources.take(&self.world, usage, tick);
                Urgency::Never
            }
            Fact::Limited { name, run, result } => {
                self.world.in_flight.remove(&ActionKey::Limit(name.clone()));
                if let Err(failure) = &result {
                    warn!(container = name, error = failure.message, "could not limit its processor");
                }
                self.world.memory.note_limit(&name, run, result.is_ok(), self.parts.clock.now());
                Urgency::Gather
            }
            Fact::LastWords { run, lines } => {
                self.world.memory.note_last_words(&run.name, &run.exit, lines);
                Urgency::Now
            }
        }
    }

    pub(super) fn take_model(&mut self, uri: StorageUri, result: Result<CachedModel, Failure>) -> Urgency {
        self.world.in_flight.remove(&ActionKey::Model(uri.clone()));
        self.pulls.model_ended(&uri);
        let state = match result {
            Ok(model) => {
                info!(model = uri.redacted(), bytes = model.size, files = model.files, "model is here");
                self.model_failures.remove(&uri);
                let now = self.parts.clock.now();
                self.resolver.versions().fetched(&mut self.world, &uri, now);
                self.resolver.versions().save(&self.desk, &self.parts.home);
                ModelState::Present { size: model.size }
            }
            Err(failure) => {
                let failures = self.model_failures.entry(uri.clone()).or_default();
                *failures += 1;
                ModelState::Failed {
                    message: failure.message,
                    transient: !failure.permanent,
                    failures: *failures,
                    at: self.parts.clock.now().tick,
                }
            }
        };
        self.world.models.insert(uri, state);
        Urgency::Now
    }

    /// Another version of a model is another revision: its services are resolved again.
    pub(super) fn take_source(&mut self, uri: &StorageUri, result: Result<Checked, Failure>) -> Urgency {
        self.world.in_flight.remove(&ActionKey::Source(uri.unversioned().clone()));
        let now = self.parts.clock.now();
        let changed = self.resolver.versions().take(&mut self.world, uri, result, now);
        self.resolver.versions().save(&self.desk, &self.parts.home);
        if changed {
            self.resolver.forget(uri);
            self.desired_version = None;
            let snapshot = self.parts.store.snapshot();
            self.take_desired(&snapshot);
        }
        Urgency::Now
    }

    pub(super) fn take_image_check(&mut self, image: String, result: Result<bool, Failure>) -> Urgency {
        self.world.in_flight.remove(&ActionKey::Image(image.clone()));
        let at = self.parts.clock.now().tick;
        let state = match result {
            Ok(true) => ImageState::Present { pulled_at: None },
            Ok(false) => ImageState::Absent { at },
            // It is looked for again once the engine answers.
            Err(failure) if failure.lesson == Lesson::EngineDown => {
                self.learn(&failure);
                self.world.images.remove(&image);
                return Urgency::Some;
            }
            Err(Failure { message, permanent, .. }) => {
                let failures = self.image_failures.entry(image.clone()).or_default();
                *failures += 1;
                ImageState::Unseen { message, transient: !permanent, failures: *failures, at }
            }
        };
        self.world.images.insert(image, state);
        Urgency::Now
    }

    pub(super) fn take_image_pull(&mut self, image: String, result: Result<(), (Failure, bool)>) -> Urgency {
        self.world.in_flight.remove(&ActionKey::Image(image.clone()));
        self.pulls.image_ended(&image);
        let tick = self.parts.clock.now().tick;
        let state = match result {
            Ok(()) => {
                info!(image, "image is here");
                self.image_failures.remove(&image);
                ImageState::Present { pulled_at: Some(tick) }
            }
            Err((failure, present)) => {
                self.learn(&failure);
                if present {
                    warn!(
                        image,
                        error = failure.message,
                        "the image could not be pulled; the copy on this machine is used"
                    );
                }
                let failures = self.image_failures.entry(image.clone()).or_default();
                *failures += 1;
                ImageState::Failed {
                    message: failure.message,
                    transient: !failure.permanent,
                    failures: *failures,
                    at: tick,
                    present,
                }
            }
        };
        self.world.images.insert(image, state);
        Urgency::Now
    }

    pub(super) fn take_probe(&mut self, order: &ProbeOrder, outcome: Outcome) -> Urgency {
        self.world.in_flight.remove(&ActionKey::Probe(order.name.clone(), order.kind));
        let (memory, now) = (&mut self.world.memory, self.parts.clock.now());
        let words_before = memory.probe(&order.name, order.kind).map(|known| known.message.clone());
        let changed = match outcome {
            Outcome::Success => memory.note_check(order, Ok(()), now),
            Outcome::Failure(words) => memory.note_check(order, Err(words), now),
            Outcome::Unknown(words) => memory.note_unasked(order, words, now),
        };
        if changed {
            return Urgency::Now;
        }
        let known = memory.probe(&order.name, order.kind);
        let same = known.filter(|known| words_before.unwrap_or_default() == known.message);
        let Some(due) = same.and_then(|known| checks::due_again(known, order)) else { return Urgency::Soon };
        // It says what it said before, and all that follows is the next one: with others, which may be due as soon.
        let due = due.max(now.tick + SOON);
        self.check_at = Some(self.check_at.map_or(due, |sooner| sooner.min(due)));
        Urgency::Never
    }

    /// A backend refused a connection: every readiness check is due. Not more often than makes sense: whoever calls a
    /// dead backend again and again rings each time.
    pub(super) fn check_again(&mut self) -> Urgency {
        let tick = self.parts.clock.now().tick;
        if tick < self.last_check_again + CHECK_AGAIN {
            return Urgency::Never;
        }
        self.last_check_again = tick;
        self.list_again = true;
        for memory in self.world.memory.containers.values_mut() {
            for kind in [ProbeKind::Readiness, ProbeKind::Model] {
                if let Some(probe) = memory.probes.get_mut(&kind) {
                    probe.last = None;
                }
            }
        }
        Urgency::Now
    }
}
