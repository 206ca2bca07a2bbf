//! What befalls the machine in the box from outside: containers that end, restarts, clocks that jump, requests.

use std::time::Duration;

use jiff::SignedDuration;

use super::super::sample;
use super::Sim;
use crate::api::ComponentKind;
use crate::plan::ledger::Used;
use crate::plan::world::{ContainerFact, EngineState, ExitFact, FactState, ModelState};
use crate::plan::{Action, ActionKey, Memo, Memory, plan};
use crate::workload::ComponentKey;

impl Sim {
    /// Kills a container from outside.
    pub(in super::super) fn crash(&mut self, name: &str) {
        self.end(name, ExitFact { code: 139, ..ExitFact::default() });
    }

    /// Pauses a container from outside.
    pub(in super::super) fn pause(&mut self, name: &str) {
        self.containers.get_mut(name).unwrap().state = FactState::Paused;
    }

    /// Whoever paused containers lets them go on. What the planner took for asleep is the planner's to wake.
    pub(in super::super) fn resume_paused(&mut self) {
        let state = FactState::Running { started_at: Some(self.now().wall) };
        let memory = &self.world.memory;
        for fact in self.containers.values_mut().filter(|fact| fact.state == FactState::Paused) {
            if memory.dozing(&fact.component, &fact.name).is_none_or(|dozing| dozing.id != fact.id) {
                fact.state = state.clone();
            }
        }
    }

    /// Removes a container from outside.
    pub(in super::super) fn remove(&mut self, name: &str) {
        let fact = self.containers.remove(name).unwrap();
        self.leases.remove(fact.replica.as_ref());
    }

    /// Ends the engine with everything it runs.
    pub(in super::super) fn restart_engine(&mut self) {
        let lives = |fact: &&ContainerFact| fact.is_running() || fact.state == FactState::Paused;
        let names: Vec<String> = self.containers.values().filter(lives).map(|fact| fact.name.clone()).collect();
        for name in names {
            self.end(&name, ExitFact { code: 137, ..ExitFact::default() });
        }
    }

    /// Ends the daemon and starts it again. Orders under way are lost, or done by the engine all the same.
    pub(in super::super) fn restart_daemon(&mut self, orders: Orders, ledger: Ledger) {
        let orders = if ledger == Ledger::Lost && orders == Orders::Late { Orders::Done } else { orders };
        for pending in std::mem::take(&mut self.pending) {
            let on_container = matches!(pending.action.key(), ActionKey::Container(_));
            if self.faults.engine_down || !on_container {
                continue;
            }
            match (orders, &pending.action) {
                (Orders::Dropped, _) => {}
                (Orders::Late, Action::Create(_) | Action::Start { .. }) => {
                    self.late.push((self.clock + LATE, pending.action));
                }
                (Orders::Done | Orders::Late, _) => drop(self.act(&pending.action)),
            }
        }
        if ledger == Ledger::Lost {
            self.saved = Memory::default();
        }
        self.world.memory = self.saved.clone();
        for grant in self.world.memory.granted.values_mut() {
            grant.at = LANDS_WITHIN;
        }
        self.world.in_flight.clear();
        self.world.images.clear();
        self.world.models.retain(|_, state| matches!(state, ModelState::Present { .. }));
        self.world.containers.clear();
        self.world.used.clear();
        self.world.listed_at = None;
        self.world.engine = EngineState::Unknown;
        self.lists.clear();
        self.leases.clear();
        self.queued.clear();
        self.waiting.clear();
        self.boot = self.clock;
        self.memo = Memo::default();
        // The folder and the engine have not been read yet: a pass in between must do nothing.
        self.world.desired_known = false;
        let early = plan(&self.world, self.now());
        assert_eq!(early.actions, []);
        self.world.desired_known = true;
        if ledger == Ledger::Lost {
            let now = self.now();
            for service in self.world.services.clone().values() {
                let component = ComponentKey { service: service.key.clone(), component: ComponentKind::Predictor };
                for resolved in service.resolution.iter().flatten() {
                    self.world.memory.want(&resolved.workload.component, &resolved.fingerprint, now);
                }
                self.world.memory.want_canaries(&component, &service.canaries, now);
            }
        }
        let early = plan(&self.world, self.now());
        assert!(early.actions.iter().all(|action| !action.needs_engine()), "{:#?}", early.actions);
        // What is decided before the first list is remembered like everything else.
        let now = self.now();
        self.save_if(|memory| memory.note_plan(&early, now));
    }

    /// Measures that everything that runs uses this.
    pub(in super::super) fn use_memory(&mut self, used: &Used) {
        self.world.used = self.running().into_iter().map(|name| (name, used.clone())).collect();
        self.world.learn_footprints();
        self.saved.revisions.clone_from(&self.world.memory.revisions);
    }

    /// Measures that every container of a service that runs uses so many bytes, and nobody else's anything.
    pub(in super::super) fn use_memory_of(&mut self, service: &str, memory: u64) {
        let own = self.containers.values().filter(|fact| fact.is_running() && fact.component.service.name == service);
        let used = Used { memory, peak: memory, ..Used::default() };
        self.world.used = own.map(|fact| (fact.name.clone(), used.clone())).collect();
        if self.world.learn_footprints() {
            self.saved.revisions.clone_from(&self.world.memory.revisions);
        }
    }

    /// The kernel kills a container for memory.
    pub(in super::super) fn kill_for_memory(&mut self, name: &str) {
        self.end(name, ExitFact { code: 137, out_of_memory: true, ..ExitFact::default() });
    }

    /// Moves the wall clock to an hour of the day it shows.
    pub(in super::super) fn jump_to(&mut self, hour: i64) {
        let seconds = self.now().wall.as_second().rem_euclid(24 * 60 * 60);
        self.jump(hour * 60 * 60 - seconds);
    }

    /// Moves the wall clock.
    pub(in super::super) fn jump(&mut self, seconds: i64) {
        self.wall_offset += SignedDuration::from_secs(seconds);
    }

    /// Takes a lease on some replica that is routed to.
    pub(in super::super) fn lease(&mut self, service: &str) {
        if let Some(name) = self.backends(service).first() {
            *self.leases.entry(name.clone()).or_default() += 1;
        }
    }

    /// Asks a service something: it waits until it is answered or refused.
    pub(in super::super) fn ask(&mut self, service: &str) {
        if self.plan.routes.services.contains_key(&sample::key(service)) {
            *self.waiting.entry(service.to_owned()).or_default() += 1;
        }
    }
}

/// What becomes of orders under way when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) enum Orders {
    /// The engine had not got them yet.
    Dropped,
    /// The engine does them.
    Done,
    /// The engine does them when the next daemon has looked already.
    Late,
}

/// How long the engine takes over what it does late.
const LATE: Duration = Duration::from_millis(700);
/// How long granted room holds although no list shows what became of it, after a restart.
const LANDS_WITHIN: Duration = Duration::from_secs(10);

/// What becomes of the file with the revisions when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) enum Ledger {
    /// It is there.
    Kept,
    /// It is gone.
    Lost,
}
