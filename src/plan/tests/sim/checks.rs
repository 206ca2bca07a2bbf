//! What must hold in every pass, whatever happens, and when nothing does.

use std::collections::{BTreeMap, BTreeSet};

use super::Sim;
use super::shown::open_backends;
use crate::api::ComponentKind;
use crate::plan::action::ProbeKind;
use crate::plan::ledger::Amount;
use crate::plan::routes::{Backend, RouteState};
use crate::plan::sleep::Rest;
use crate::plan::trained::Note;
use crate::plan::world::{ContainerFact, FactState};
use crate::plan::{Action, ActionKey, Plan};

impl Sim {
    /// What must hold in every pass, whatever happens.
    pub(super) fn check(&self, next: &Plan) {
        let mut places = BTreeSet::new();
        for fact in self.containers.values() {
            let place = (&fact.component, fact.revision, fact.ordinal, &fact.container);
            assert!(places.insert(place), "two containers for {place:?}");
        }
        for action in &next.actions {
            self.check_stop(action);
        }
        self.check_budget();
        self.check_gpus();
        self.check_routes(next);
    }

    fn check_stop(&self, action: &Action) {
        let (name, why) = match action {
            Action::Stop { name, why, .. } => (name, why.as_str()),
            Action::Doze(order) => (&order.name, "nobody has asked for it lately"),
            _ => return,
        };
        let Some(fact) = self.world.containers.get(name) else { return };
        let leases = self.world.leases.get(&fact.replica).copied().unwrap_or(0);
        if leases == 0 || why.contains("probe failed") || why.starts_with("the container whose network") {
            return;
        }
        let since = self.world.memory.draining.get(fact.replica.as_ref()).copied();
        let deadline = self.world.config.drain_deadline;
        assert!(since.is_some_and(|since| since + deadline <= self.now().tick), "{action} with {leases} leases");
    }

    /// What runs in truth never asks for more than there is, whatever got lost on the way.
    fn check_budget(&self) {
        let Some(Amount::Bytes(budget)) = self.world.config.memory.budget else { return };
        // A list that is old shows as gone what is not; nobody can count right then.
        if self.faults.stale > 0 {
            return;
        }
        let request = |fact: &&ContainerFact| {
            let made_from = self.made_from.get(&fact.fingerprint)?;
            let specs = &made_from.workload.containers;
            specs.iter().find(|spec| spec.name == fact.container)?.resources.memory_request
        };
        // What is paused keeps its memory.
        let lives = |fact: &&ContainerFact| fact.is_running() || fact.state == FactState::Paused;
        let running = self.containers.values().filter(lives);
        let held: u64 = running.clone().filter_map(|fact| request(&fact)).sum();
        let names: Vec<&String> = running.map(|fact| &fact.name).collect();
        assert!(held <= budget, "{held} of {budget} are held by {names:?}");
    }

    /// A GPU that a replica wants for itself is nobody else's, whatever got lost on the way.
    fn check_gpus(&self) {
        if self.faults.stale > 0 {
            return;
        }
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        for fact in self.containers.values().filter(|fact| fact.holds_memory()) {
            for uuid in &fact.gpus {
                let other = taken.insert(uuid, &fact.replica);
                assert!(other.is_none_or(|other| other == &*fact.replica), "{other:?} and {} have {uuid}", fact.name);
            }
        }
    }

    fn check_routes(&self, next: &Plan) {
        for (key, route) in &next.routes.services {
            let Some(component) = route.components.get(&ComponentKind::Predictor) else { continue };
            let RouteState::Open(backends) = &component.state else { continue };
            assert!(!backends.is_empty());
            assert!(self.world.services.contains_key(key));
            let revisions: BTreeSet<_> = backends.iter().map(|backend| &backend.revision).collect();
            let parts = self.world.services[key].resolution.as_deref().unwrap_or_default();
            let is_canary = parts.iter().any(|part| part.workload.canary_percent.is_some_and(|percent| percent < 100));
            let most = if is_canary { 2 } else { 1 } + self.world.services[key].canaries.len();
            assert!(revisions.len() <= most, "traffic is never split by accident: {backends:?}");
            assert!(backends.iter().all(|backend| backend.weight > 0), "who gets nothing is not in the table");
            for Backend { replica, .. } in backends {
                let facts = self.world.containers.values().filter(|fact| fact.replica == *replica);
                let awake = |fact: &ContainerFact| fact.is_running() && !self.resting.contains(&fact.id);
                assert!(facts.into_iter().any(awake), "{replica} is routed to and does not run");
            }
        }
        self.check_open_routes_stay_open(next);
    }

    /// A route that was open stays open as long as what it led to answers and is wanted, in some revision.
    fn check_open_routes_stay_open(&self, next: &Plan) {
        if self.faults.stale > 0 {
            return;
        }
        for (key, route) in &next.routes.services {
            let before = self.plan.routes.services.get(key).and_then(|before| open_backends(before));
            let (Some(before), None) = (before, open_backends(route)) else { continue };
            let stopped = route.components.values().any(
                |component| matches!(&component.state, RouteState::NotReady { reason, .. } if reason == "Stopped"),
            );
            if next.replacing.iter().any(|(component, _)| component.service == *key) {
                continue;
            }
            let asleep = next.rests.iter().any(|(other, rest)| other == key && *rest == Rest::Asleep);
            if asleep {
                let asked = |name: &str| self.world.leases.get(name).is_some_and(|count| *count > 0);
                assert!(!before.iter().any(|backend| asked(&backend.replica)), "{key} falls asleep under a request");
                continue;
            }
            for backend in before {
                let facts: Vec<_> = self.world.containers.values().filter(|f| f.replica == backend.replica).collect();
                if !facts.iter().all(|fact| self.is_to_stay(fact)) {
                    continue;
                }
                let anew = |name: &String| next.repositories.contains(&(name.clone(), Note::Leaving));
                if facts.iter().any(|fact| anew(&fact.name)) {
                    continue;
                }
                let own: Vec<_> = facts.iter().filter(|f| f.container != "prepare" && !f.is_sandbox()).collect();
                let is_whole = own.first().is_some_and(|fact| fact.record.containers.len() == own.len());
                let well = is_whole && own.into_iter().all(|fact| self.is_well(fact));
                assert!(stopped || !well, "{key} lost {} although it answers: {route:#?}", backend.replica);
            }
        }
    }

    /// Whether traffic may not be taken from a container that answers. A canary that was taken out of the manifest is not
    /// wanted, whatever it answers, and one beside a first deployment that has not come up whole has no more than its share;
    /// and when the wanted revision is given up, the last one that had all traffic comes back and what answered in part
    /// between the two goes.
    fn is_to_stay(&self, fact: &ContainerFact) -> bool {
        let history = &self.world.memory.revisions[&fact.component];
        let is_dropped = |name: &String| {
            let canaries = &self.world.services[&fact.component.service].canaries;
            let is_own = [Some(history.target), history.rolled_out].contains(&Some(fact.revision));
            !is_own && !canaries.iter().any(|one| one.name == *name)
        };
        let is_canary = fact.record.canary.is_some();
        if (is_canary && history.rolled_out.is_none()) || self.is_dark(fact) {
            return false;
        }
        let goes_back = history.given_up.as_ref().is_some_and(|given_up| given_up.revision == history.target);
        let comes_back = is_canary || !goes_back || history.rolled_out == Some(fact.revision);
        comes_back && !fact.record.canary.as_ref().is_some_and(is_dropped)
    }

    /// Whether it is of a revision that is to have no traffic as long as the one before has it.
    fn is_dark(&self, fact: &ContainerFact) -> bool {
        let history = &self.world.memory.revisions[&fact.component];
        let parts = self.world.services[&fact.component.service].resolution.as_deref().unwrap_or_default();
        let is_asked_nothing = parts.iter().any(|part| part.workload.canary_percent == Some(0));
        is_asked_nothing && fact.revision == history.target && history.rolled_out != Some(fact.revision)
    }

    fn is_well(&self, fact: &ContainerFact) -> bool {
        let memory = &self.world.memory;
        let passes = memory.probe(&fact.name, ProbeKind::Model).is_some_and(|probe| probe.passing);
        let stopping = self.world.in_flight.contains(&ActionKey::Container(fact.name.clone()));
        let unhealthy = memory.containers.get(&fact.name).is_some_and(|memory| memory.unhealthy.is_some());
        let serves = fact.container == "kserve-container";
        fact.is_running() && self.has_network(fact) && (passes || !serves) && !stopping && !unhealthy
    }

    /// Runs for a while and asserts that nothing but checks is ordered.
    pub(in super::super) fn assert_quiet(&mut self, seconds: f64) {
        let before = self.log.len();
        self.run(seconds);
        assert_eq!(self.log[before..], [] as [String; 0]);
    }

    /// Runs for a while and asserts that nothing that is shown changes.
    pub(in super::super) fn assert_still(&mut self, seconds: f64) {
        let shown = (self.plan.statuses.clone(), self.plan.routes.clone(), self.plan.pods.clone());
        self.assert_quiet(seconds);
        assert_eq!((self.plan.statuses.clone(), self.plan.routes.clone(), self.plan.pods.clone()), shown);
    }
}
