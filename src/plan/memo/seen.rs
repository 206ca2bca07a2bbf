//! Everything a plan of a service was made from, settings apart: what is compared before it is said again.

use std::collections::HashSet;
use std::sync::Arc;

use crate::api::ServiceKey;
use crate::plan::facts::Own;
use crate::plan::memory::{ContainerMemory, Revisions};
use crate::plan::planner::Draft;
use crate::plan::routes::ReplicaName;
use crate::plan::sleep::Rest;
use crate::plan::world::{ContainerFact, DesiredService, ResolvedWorkload, World};
use crate::plan::{preload, refresh, sandbox, split};

/// Everything a plan of a service was made from, settings apart.
#[derive(Debug)]
pub(super) struct Seen {
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

/// Whether a service is one whose plan comes from nothing but what is compared.
pub(super) fn is_plain(world: &World, own: &Own<'_, '_>) -> bool {
    let service = own.service;
    let runs_unseen = |fact: &ContainerFact| {
        let memory = world.memory.containers.get(&fact.name);
        fact.is_running() && memory.is_none_or(|memory| memory.started.is_none())
    };
    let is_plain_part = |part: &ResolvedWorkload| {
        let history = own.history(&part.workload.component);
        let is_settled = |history: &Revisions| {
            history.given_up.is_none() && history.canaries.is_empty() && split::split(history, &part.workload).is_none()
        };
        history.is_none_or(is_settled) && part.workload.model_server.is_none() && !refresh::is_wanted(&part.workload)
    };
    let is_of_part = |fact: &ContainerFact| parts(service).iter().any(|part| part.workload.component == fact.component);
    service.canaries.is_empty()
        && preload::place(service).is_none()
        && parts(service).iter().all(is_plain_part)
        && own.containers.iter().all(|fact| is_of_part(fact) && fact.record.repository.is_none() && !runs_unseen(fact))
}

fn parts(service: &DesiredService) -> &[ResolvedWorkload] {
    service.resolution.as_deref().unwrap_or_default()
}

impl Seen {
    pub(super) fn of(draft: &Draft<'_>, own: &Own<'_, '_>) -> Self {
        let (world, service, rest) = (draft.world, own.service, own.rest);
        let recall = |fact: &ContainerFact| (fact.clone(), world.memory.containers.get(&fact.name).cloned());
        let container = |fact: &&ContainerFact| {
            let (fact, memory) = recall(fact);
            let sandbox = draft.sandboxes.of(&fact.replica).map(recall);
            Container { fact, memory, sandbox }
        };
        let known = |part: &ResolvedWorkload| {
            let revisions = own.history(&part.workload.component);
            (revisions.cloned(), scale(world, part, revisions))
        };
        let is_asleep = |part: &&ResolvedWorkload| rest == Some(Rest::Asleep) && part.workload.scaling.sleeps();
        let places = |part: &ResolvedWorkload| {
            let revisions = own.history(&part.workload.component);
            sandbox::places(part, revisions.map_or(0, Revisions::current)).collect::<Vec<_>>()
        };
        Self {
            service: Arc::clone(service),
            rest,
            slept: slept(world, &service.key),
            parts: parts(service).iter().map(known).collect(),
            containers: own.containers.iter().map(container).collect(),
            vacant: parts(service).iter().filter(is_asleep).flat_map(places).collect(),
        }
    }

    /// Returns the replicas there were.
    pub(super) fn replicas(&self) -> HashSet<&ReplicaName> {
        self.containers.iter().map(|one| &one.fact.replica).collect()
    }

    pub(super) fn holds(&self, draft: &Draft<'_>, own: &Own<'_, '_>) -> bool {
        let (world, service) = (draft.world, own.service);
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
            let revisions = own.history(&part.workload.component);
            revisions == seen.as_ref() && scale(world, part, revisions) == *scaled
        };
        let there = own.containers;
        Arc::ptr_eq(&self.service, service)
            && self.rest == own.rest
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
