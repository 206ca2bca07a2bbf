//! The driver in the box: it looks, plans, orders and takes in what came of it, and keeps the planner's rules.

use std::time::Duration;

use super::super::sample;
use super::{Pending, Sim};
use crate::api::ComponentKind;
use crate::plan::ps;
use crate::plan::trained::RepositoryWork;
use crate::plan::world::{ContainerFact, EngineState, FactState, ImageState, ModelState, PullNote};
use crate::plan::{Action, ActionKey, Memo, Memory, plan, plan_anew};
use crate::workload::ComponentKey;

impl Sim {
    /// One pass of the driver, orders included.
    pub(in super::super) fn pass(&mut self) {
        self.passes += 1;
        self.end_what_ends();
        self.observe();
        let now = self.now();
        let next = plan_anew(&self.world, now, &mut self.memo);
        assert_eq!(next, plan(&self.world, now), "a plan is a function of the world, whatever is kept of those before");
        if self.passes.is_multiple_of(16) {
            assert_eq!(self.room(), ps::room(&self.world, now, &mut Memo::forgetful()), "and so is who holds what");
        }
        if next.actions.is_empty() {
            assert!(next.wake_at.is_none_or(|at| at > now.tick), "awake without work at {now:?}: {:?}", next.wake_at);
        }
        self.check(&next);
        self.save_if(|memory| memory.note_plan(&next, now));
        self.saved.granted.clone_from(&self.world.memory.granted);
        for action in &next.actions {
            assert!(self.world.in_flight.insert(action.key()), "ordered twice: {action}");
            self.dispatch(action.clone());
        }
        self.plan = next;
        self.answer_waiting();
    }

    pub(super) fn save_if(&mut self, change: impl FnOnce(&mut Memory) -> bool) {
        if change(&mut self.world.memory) {
            self.saved.revisions.clone_from(&self.world.memory.revisions);
        }
    }

    /// What the driver learns before it plans.
    fn observe(&mut self) {
        let now = self.now();
        self.lists.push_front((now.tick, self.containers.clone()));
        self.lists.truncate(8);
        if self.faults.engine_down {
            self.world.engine = EngineState::Down { message: "the engine is away".to_owned() };
        } else {
            self.world.engine = EngineState::Up;
            let index = self.faults.stale.min(self.lists.len() - 1);
            let (at, list) = self.lists[index].clone();
            let before = std::mem::replace(&mut self.world.containers, list);
            let gone = before.into_values().filter(|fact| !self.world.containers.contains_key(&fact.name));
            // The driver tells an old list by what it did since; this one does not.
            for fact in gone.filter(|_| index == 0).collect::<Vec<_>>() {
                self.world.note_vanished(&fact, now);
            }
            self.world.listed_at = Some(at);
        }
        let facts: Vec<ContainerFact> = self.world.containers.values().cloned().collect();
        for fact in &facts {
            self.save_if(|memory| memory.adopt(fact, now));
            match &fact.state {
                FactState::Running { .. } => {
                    let up_for = self.runs.get(&fact.name).map_or(Duration::ZERO, |began| self.clock - *began);
                    self.world.memory.note_found_running(&fact.name, up_for, now);
                }
                FactState::Removing => self.world.memory.note_removing(&fact.name, now),
                FactState::Exited(exit) if self.world.memory.note_exit(&fact.name, exit, now) => {
                    let peak = self.world.used.get(&fact.name).map(|used| used.peak);
                    if self.world.memory.weigh_end(&fact.name, exit, peak) {
                        self.world.memory.note_memory_death(fact, 0);
                    }
                    let memory = self.world.memory.containers.get_mut(&fact.name).unwrap();
                    memory.last_words = vec!["loading".to_owned(), "ValueError: no model".to_owned()];
                }
                _ => {}
            }
        }
        for service in self.world.services.clone().values() {
            let component = ComponentKey { service: service.key.clone(), component: ComponentKind::Predictor };
            self.save_if(|memory| memory.release_canaries(&component, &service.canaries));
            for resolved in service.resolution.iter().flatten() {
                self.save_if(|memory| memory.want(&resolved.workload.component, &resolved.fingerprint, now));
            }
            self.save_if(|memory| memory.want_canaries(&component, &service.canaries, now));
        }
        self.revive_older();
        if let (Some(memory), Some(others)) = (&mut self.world.machine.memory, self.others) {
            let used: u64 = self.world.used.values().map(|used| used.memory).sum();
            memory.available = Some(memory.total.saturating_sub(others + used));
        }
        self.world.leases = self.leases.iter().map(|(name, count)| (name.as_str().into(), *count)).collect();
        self.world.wanted = self.world.leases.keys().cloned().collect();
        let waits = |(name, count): (&String, &u64)| (sample::predictor(name), *count);
        self.world.waiting = self.waiting.iter().map(waits).collect();
        if self.world.tidy(now) {
            self.saved.revisions.clone_from(&self.world.memory.revisions);
        }
    }

    /// Everything that was ever applied can be made again.
    fn revive_older(&mut self) {
        self.world.older.clear();
        for (component, history) in &self.world.memory.revisions {
            let kept = [history.rolled_out, history.previous].into_iter().flatten();
            for revision in kept.filter(|revision| *revision != history.target) {
                let made_from = history.known.get(&revision).and_then(|note| self.made_from.get(&note.fingerprint));
                let made_from = made_from.filter(|one| one.workload.component == *component);
                if let Some(resolved) = made_from {
                    self.world.older.entry(component.clone()).or_default().insert(revision, resolved.clone());
                }
            }
        }
    }

    /// Those who wait for a route that is open go there and are answered; those it is refused to leave.
    fn answer_waiting(&mut self) {
        let now = self.now().tick;
        let waiting = std::mem::take(&mut self.waiting);
        for (name, count) in waiting {
            if self.is_open(&name) {
                self.answered += count;
                self.world.memory.note_activity(&sample::key(&name), now);
            } else if self.is_held(&name)
                || !self.backends(&name).is_empty()
                || !self.plan.routes.services.contains_key(&sample::key(&name))
            {
                self.waiting.insert(name, count);
            } else {
                self.refused += count;
            }
        }
    }

    fn dispatch(&mut self, action: Action) {
        match &action {
            Action::Probe(order) => self.checks.push((self.now().tick, order.clone())),
            // A look is a check, too.
            Action::Repository(order) if order.work == RepositoryWork::Look => {}
            other => self.log.push(other.to_string()),
        }
        if matches!(action, Action::Stop { .. }) {
            self.stops.push(action.clone());
        }
        let takes = match &action {
            Action::Stop { .. } => self.faults.stop_takes,
            Action::PullModel { .. } | Action::PullImage { .. } => Duration::from_millis(300),
            Action::Probe(_) => Duration::from_millis(1),
            _ => Duration::from_millis(20),
        };
        match &action {
            Action::PullModel { uri } => {
                self.world.models.insert(uri.clone(), ModelState::Pulling(PullNote::default()));
            }
            Action::Start { name, .. } if self.world.memory.containers.get(name).is_some_and(|m| m.ended.is_some()) => {
                self.world.memory.note_restart(name);
            }
            Action::Stop { name, .. } => self.world.memory.note_stop(name),
            Action::Doze(order) => {
                self.world.memory.note_doze(order);
                self.saved.revisions.clone_from(&self.world.memory.revisions);
            }
            _ => {}
        }
        let slow = if matches!(action.key(), ActionKey::Container(_)) { self.faults.slow } else { Duration::ZERO };
        self.pending.push(Pending { at: self.clock + takes + slow, action });
    }

    pub(super) fn finish_due(&mut self) {
        let (due, later) = std::mem::take(&mut self.pending).into_iter().partition(|pending| pending.at <= self.clock);
        self.pending = later;
        let due: Vec<Pending> = due;
        let (landed, late): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.late).into_iter().partition(|(at, _)| *at <= self.clock);
        self.late = late;
        for (_, action) in landed {
            // Somebody else may have been there first.
            drop(self.act(&action));
        }
        for pending in due {
            self.finish(&pending.action);
        }
    }

    fn finish(&mut self, action: &Action) {
        self.world.in_flight.remove(&action.key());
        let now = self.now();
        self.world.note_ended(action, now);
        match action {
            Action::Probe(order) => {
                let result = self.answer(order);
                self.world.memory.note_check(order, result, now);
            }
            Action::PullModel { uri } => {
                let failed = self.faults.lost_models.iter().any(|path| uri.to_string().contains(path.as_str()));
                let state = if failed { self.model_failure(uri) } else { ModelState::Present { size: 1 } };
                self.world.models.insert(uri.clone(), state);
            }
            Action::CheckImage { image } | Action::PullImage { image } if self.faults.engine_down => {
                self.world.images.remove(image);
            }
            Action::CheckImage { image } if self.faults.unseen_images.contains(image) => {
                let looks = self.log.iter().filter(|line| **line == format!("look for image {image}")).count();
                let (message, failures) = ("layer is damaged".to_owned(), u32::try_from(looks).unwrap());
                let state = ImageState::Unseen { message, transient: true, failures, at: now.tick };
                self.world.images.insert(image.clone(), state);
            }
            Action::CheckImage { image } => {
                let present = self.faults.local_images.contains(image);
                let state =
                    if present { ImageState::Present { pulled_at: None } } else { ImageState::Absent { at: now.tick } };
                self.world.images.insert(image.clone(), state);
            }
            Action::PullImage { image } => {
                let state = self.pull_image(image);
                self.world.images.insert(image.clone(), state);
            }
            Action::LimitCpu { name, run, .. } => self.world.memory.note_limit(name, *run, true, now),
            Action::Repository(order) => {
                let result = self.repository(order);
                self.world.memory.note_repository(order, result, now);
            }
            _ => {
                let turn = self.made;
                self.made += 1;
                let every = |n: Option<u64>| n.is_some_and(|n| turn % n == n - 1);
                if self.faults.engine_down {
                    return;
                }
                let result = if every(self.faults.fail_every) { Err("it broke".to_owned()) } else { self.act(action) };
                let lost = every(self.faults.lose_every).then(|| "the answer was lost".to_owned());
                match (result.err().or(lost), action) {
                    (Some(message), _) => self.world.memory.note_failure(action, message, false, now),
                    (None, Action::Rouse(order)) => self.world.memory.note_roused(order),
                    (None, Action::Remove { name, .. }) => {
                        self.world.containers.remove(name);
                        self.world.memory.forget_container(name);
                    }
                    (None, _) => {}
                }
            }
        }
    }
}
