//! What was planned of services that are as they should be, kept as long as nothing it came from changes.
//!
//! Most passes are about one service, and planning the others again would say the same of them. What is kept of a service
//! is used again when everything it was planned from is equal to what is there now, and no time has come that it waits for.
//! Nobody has to say that something changed: it is compared.
//!
//! **Invariant:** a plan with a memo is the plan without one. Only a plan that asked for no order, no room and no retreat
//! is kept, since all else depends on what other services got; what such a plan reads is `Seen`, and nothing else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::facts::Facts;
use super::memory::{ContainerMemory, Revisions};
use super::planner::{Draft, Plan, plan_service};
use super::pods::PodView;
use super::routes::{ReplicaName, Scrape, ServiceRoute};
use super::scale::Standing;
use super::sleep::Rest;
use super::split;
use super::stages::StageNote;
use super::world::{ContainerFact, DesiredService, EngineState, PlanConfig, ResolvedWorkload, World};
use super::{preload, refresh, sandbox};
use crate::api::{InferenceServiceStatus, ServiceKey};
use crate::workload::ComponentKey;

/// What is kept between passes.
#[derive(Debug, Default)]
pub struct Memo {
    is_forgetful: bool,
    setting: Option<Setting>,
    kept: HashMap<ServiceKey, Kept>,
    /// Counts passes.
    pass: u64,
    /// Services that were planned anew in the last pass.
    anew: usize,
}

/// What every plan comes from.
#[derive(Debug, PartialEq)]
struct Setting {
    instance: String,
    config: PlanConfig,
    engine: EngineState,
    limits_later: bool,
    holds_networks: bool,
}

/// What was planned of one service.
#[derive(Debug)]
struct Kept {
    seen: Seen,
    said: Said,
    /// When it is planned anew although nothing changed, in ticks.
    until: Option<Duration>,
    /// The last pass it was part of.
    pass: u64,
}

/// Everything a plan of a service was made from, settings apart.
#[derive(Debug)]
struct Seen {
    service: Arc<DesiredService>,
    rest: Option<Rest>,
    /// Whether it slept when this pass began, or has not answered since.
    slept: bool,
    parts: Vec<(Option<Revisions>, Option<u32>)>,
    containers: Vec<Container>,
    /// Places of sandboxes that were looked for and not found.
    vacant: Vec<ReplicaName>,
}

/// A container, what is remembered of it, and the sandbox of its replica.
#[derive(Debug)]
struct Container {
    fact: ContainerFact,
    memory: Option<ContainerMemory>,
    sandbox: Option<(ContainerFact, Option<ContainerMemory>)>,
}

/// What a plan says of a service.
#[derive(Debug)]
struct Said {
    status: Option<Arc<InferenceServiceStatus>>,
    other_status: Option<Arc<InferenceServiceStatus>>,
    route: Arc<ServiceRoute>,
    scrapes: Vec<Scrape>,
    pods: Vec<Arc<PodView>>,
    rolled_out: Vec<(ComponentKey, u32)>,
    proven: Vec<(ComponentKey, u32)>,
    asked: Vec<(ComponentKey, u32)>,
    standings: Vec<Standing>,
    stages: Vec<(ComponentKey, StageNote)>,
    /// Replicas that want their sandboxes.
    sandboxed: Vec<ReplicaName>,
}

impl Memo {
    /// Makes one that keeps nothing.
    pub fn forgetful() -> Self {
        Self { is_forgetful: true, ..Self::default() }
    }

    /// Returns how many services the last pass planned anew.
    pub fn planned_anew(&self) -> usize {
        self.anew
    }

    /// Begins a pass. Nothing that came from other settings is used.
    pub(super) fn begin(&mut self, world: &World) {
        self.anew = 0;
        self.pass += 1;
        if !self.is_forgetful && !self.setting.as_ref().is_some_and(|setting| setting.holds(world)) {
            self.kept.clear();
            self.setting = Some(Setting::of(world));
        }
    }

    /// Plans a service, or says again what was said of it.
    pub(super) fn plan<'w>(
        &mut self,
        draft: &mut Draft<'w>,
        service: &'w Arc<DesiredService>,
        rest: Option<Rest>,
        facts: &Facts<'w>,
    ) {
        if self.is_forgetful {
            plan_service(draft, service, rest, facts);
            return;
        }
        let known = self.kept.get_mut(&service.key).filter(|known| known.holds(draft, service, rest, facts));
        if let Some(known) = known {
            known.pass = self.pass;
            known.said.again(draft, service);
            known.until.into_iter().for_each(|at| draft.wake(at));
            return;
        }
        self.anew += 1;
        let before = Mark::of(draft);
        let outer = draft.plan.wake_at.take();
        let is_quiet = plan_service(draft, service, rest, facts);
        let until = draft.plan.wake_at;
        outer.into_iter().for_each(|at| draft.wake(at));
        if is_quiet && before.is_all_there_is(draft) && is_plain(draft.world, service, facts) {
            let seen = Seen::of(draft, service, rest, facts);
            let said = Said::since(&before, draft, service, &seen);
            self.kept.insert(service.key.clone(), Kept { seen, said, until, pass: self.pass });
        }
    }

    /// Ends a pass: what was not part of it is forgotten.
    pub(super) fn end(&mut self) {
        self.kept.retain(|_, kept| kept.pass == self.pass);
    }
}

impl Setting {
    fn of(world: &World) -> Self {
        Self {
            instance: world.instance.clone(),
            config: world.config.clone(),
            engine: world.engine.clone(),
            limits_later: world.limits_later,
            holds_networks: world.holds_networks,
        }
    }

    fn holds(&self, world: &World) -> bool {
        let Self { instance, config, engine, limits_later, holds_networks } = self;
        (instance, config, engine) == (&world.instance, &world.config, &world.engine)
            && (*limits_later, *holds_networks) == (world.limits_later, world.holds_networks)
    }
}

impl Kept {
    fn holds(&self, draft: &Draft<'_>, service: &Arc<DesiredService>, rest: Option<Rest>, facts: &Facts<'_>) -> bool {
        self.until.is_none_or(|at| at > draft.now.tick) && self.seen.holds(draft, service, rest, facts)
    }
}

/// Whether a service is one whose plan comes from nothing but what is compared.
fn is_plain(world: &World, service: &DesiredService, facts: &Facts<'_>) -> bool {
    let there = facts.of_service(&service.key);
    let runs_unseen = |fact: &ContainerFact| {
        let memory = world.memory.containers.get(&fact.name);
        fact.is_running() && memory.is_none_or(|memory| memory.started.is_none())
    };
    let is_plain_part = |part: &ResolvedWorkload| {
        let history = world.memory.revisions.get(&part.workload.component);
        let is_settled = |history: &Revisions| {
            history.given_up.is_none() && history.canaries.is_empty() && split::split(history, &part.workload).is_none()
        };
        history.is_none_or(is_settled) && part.workload.model_server.is_none() && !refresh::is_wanted(&part.workload)
    };
    let is_of_part = |fact: &ContainerFact| parts(service).iter().any(|part| part.workload.component == fact.component);
    service.canaries.is_empty()
        && preload::place(service).is_none()
        && parts(service).iter().all(is_plain_part)
        && there.iter().all(|fact| is_of_part(fact) && fact.record.repository.is_none() && !runs_unseen(fact))
}

fn parts(service: &DesiredService) -> &[ResolvedWorkload] {
    service.resolution.as_deref().unwrap_or_default()
}

impl Seen {
    fn of(draft: &Draft<'_>, service: &Arc<DesiredService>, rest: Option<Rest>, facts: &Facts<'_>) -> Self {
        let world = draft.world;
        let recall = |fact: &ContainerFact| (fact.clone(), world.memory.containers.get(&fact.name).cloned());
        let container = |fact: &&ContainerFact| {
            let (fact, memory) = recall(fact);
            let sandbox = draft.sandboxes.of(&fact.replica).map(recall);
            Container { fact, memory, sandbox }
        };
        let known = |part: &ResolvedWorkload| {
            let revisions = world.memory.revisions.get(&part.workload.component);
            (revisions.cloned(), scale(world, part, revisions))
        };
        let is_asleep = |part: &&ResolvedWorkload| rest == Some(Rest::Asleep) && part.workload.scaling.sleeps();
        let places = |part: &ResolvedWorkload| {
            let revisions = world.memory.revisions.get(&part.workload.component);
            sandbox::places(part, revisions.map_or(0, Revisions::current)).collect::<Vec<_>>()
        };
        Self {
            service: Arc::clone(service),
            rest,
            slept: slept(world, &service.key),
            parts: parts(service).iter().map(known).collect(),
            containers: facts.of_service(&service.key).iter().map(container).collect(),
            vacant: parts(service).iter().filter(is_asleep).flat_map(places).collect(),
        }
    }

    fn holds(&self, draft: &Draft<'_>, service: &Arc<DesiredService>, rest: Option<Rest>, facts: &Facts<'_>) -> bool {
        let world = draft.world;
        let same_memory = |fact: &ContainerFact, memory: Option<&ContainerMemory>| {
            world.memory.containers.get(&fact.name) == memory && !draft.is_busy(&fact.name)
        };
        let same = |(seen, fact): (&Container, &&ContainerFact)| {
            let sandbox = draft.sandboxes.of(&fact.replica);
            let same_sandbox = match (&seen.sandbox, sandbox) {
                (Some((seen, memory)), Some(now)) => seen == now && same_memory(now, memory.as_ref()),
                (seen, now) => seen.is_none() && now.is_none(),
            };
            seen.fact == **fact && same_memory(fact, seen.memory.as_ref()) && same_sandbox
        };
        let same_part = |(part, (seen, scaled)): (&ResolvedWorkload, &(Option<Revisions>, Option<u32>))| {
            let revisions = world.memory.revisions.get(&part.workload.component);
            revisions == seen.as_ref() && scale(world, part, revisions) == *scaled
        };
        let there = facts.of_service(&service.key);
        Arc::ptr_eq(&self.service, service)
            && self.rest == rest
            && self.slept == slept(world, &service.key)
            && self.containers.len() == there.len()
            && self.containers.iter().zip(there).all(same)
            && parts(service).iter().zip(&self.parts).all(same_part)
            && self.vacant.iter().all(|place| draft.sandboxes.of(place).is_none())
    }
}

fn slept(world: &World, service: &ServiceKey) -> bool {
    world.memory.activity.get(service).is_some_and(|one| one.asleep || one.waking)
}

/// What was last decided about the number of replicas, where that follows the load.
fn scale(world: &World, part: &ResolvedWorkload, revisions: Option<&Revisions>) -> Option<u32> {
    let target = revisions.filter(|_| part.workload.scaling.follows_load())?.target;
    world.memory.scales.wanted(&part.workload.component, target)
}

/// How far a draft was.
struct Mark {
    asked: usize,
    resting: usize,
    /// Of lists that what is kept adds nothing to.
    others: [usize; 13],
    statuses: usize,
    other_statuses: usize,
    scrapes: usize,
    pods: usize,
    rolled_out: usize,
    proven: usize,
    asked_for: usize,
    standings: usize,
    stages: usize,
}

impl Mark {
    fn of(draft: &Draft<'_>) -> Self {
        let plan = &draft.plan;
        Self {
            asked: draft.asked,
            resting: draft.sandboxes.resting(),
            others: others(plan),
            statuses: plan.statuses.len(),
            other_statuses: plan.other_statuses.len(),
            scrapes: plan.routes.scrapes.len(),
            pods: plan.pods.len(),
            rolled_out: plan.rolled_out.len(),
            proven: plan.proven.len(),
            asked_for: plan.asked.len(),
            standings: plan.standings.len(),
            stages: plan.stages.len(),
        }
    }

    /// Whether since then nothing was said, wanted or done but what can be said again.
    fn is_all_there_is(&self, draft: &Draft<'_>) -> bool {
        let new_pods = &draft.plan.pods[self.pods..];
        self.asked == draft.asked
            && self.resting == draft.sandboxes.resting()
            && self.others == others(&draft.plan)
            && new_pods.iter().all(|pod| pod.ready)
    }
}

/// Counts what is in the lists that what is kept adds nothing to.
fn others(plan: &Plan) -> [usize; 13] {
    [
        plan.actions.len(),
        plan.taken_back.len(),
        plan.draining.len(),
        plan.waking.len(),
        plan.dozing.len(),
        plan.preloaded.len(),
        plan.loads.len(),
        plan.progress.len(),
        plan.granted.len() + plan.queued.len(),
        plan.replacing.len() + plan.given_up.len(),
        plan.evicted.len(),
        plan.repositories.len(),
        plan.explanations.len(),
    ]
}

impl Said {
    fn since(mark: &Mark, draft: &Draft<'_>, service: &DesiredService, seen: &Seen) -> Self {
        let plan = &draft.plan;
        let sandboxed: HashSet<&ReplicaName> = seen.containers.iter().map(|one| &one.fact.replica).collect();
        Self {
            status: plan.statuses[mark.statuses..].first().map(|(_, status)| Arc::clone(status)),
            other_status: plan.other_statuses[mark.other_statuses..].first().map(|(_, status)| Arc::clone(status)),
            route: Arc::clone(&plan.routes.services[&service.key]),
            scrapes: plan.routes.scrapes[mark.scrapes..].to_vec(),
            pods: plan.pods[mark.pods..].to_vec(),
            rolled_out: plan.rolled_out[mark.rolled_out..].to_vec(),
            proven: plan.proven[mark.proven..].to_vec(),
            asked: plan.asked[mark.asked_for..].to_vec(),
            standings: plan.standings[mark.standings..].to_vec(),
            stages: plan.stages[mark.stages..].to_vec(),
            sandboxed: sandboxed.into_iter().filter(|name| draft.sandboxes.wants(name)).cloned().collect(),
        }
    }

    /// Says it again.
    fn again(&self, draft: &mut Draft<'_>, service: &DesiredService) {
        let key = &service.key;
        let plan = &mut draft.plan;
        plan.statuses.extend(self.status.iter().map(|status| (key.clone(), Arc::clone(status))));
        let others = self.other_status.iter().map(|status| (service.object_key(), Arc::clone(status)));
        plan.other_statuses.extend(others);
        plan.routes.services.insert(key.clone(), Arc::clone(&self.route));
        plan.routes.scrapes.extend_from_slice(&self.scrapes);
        plan.pods.extend_from_slice(&self.pods);
        plan.rolled_out.extend_from_slice(&self.rolled_out);
        plan.proven.extend_from_slice(&self.proven);
        plan.asked.extend_from_slice(&self.asked);
        plan.standings.extend_from_slice(&self.standings);
        plan.stages.extend_from_slice(&self.stages);
        self.sandboxed.iter().for_each(|name| draft.sandboxes.want(name));
    }
}
