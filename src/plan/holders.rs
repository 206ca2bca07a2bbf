//! Who holds memory now: replicas that run, that are being made, and that are on their way out until they are gone.

use std::collections::{BTreeMap, HashMap};

use super::action::ActionKey;
use super::admission::{Grant, Room};
use super::doze;
use super::facts::{Facts, Own};
use super::gpus::{GpuNeed, Seat};
use super::idle::idle;
use super::ledger::{self, Basis, Footprint, Learned};
use super::memory::Revisions;
use super::routes::ReplicaName;
use super::sleep::Rest;
use super::world::{ContainerFact, DesiredService, FactState, Now, ResolvedWorkload, World};
use crate::api::ServiceKey;
use crate::workload::{ComponentKey, Workload};

/// A replica that holds memory.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) component: ComponentKey,
    pub(super) revision: u32,
    pub(super) memory: u64,
    pub(super) basis: Basis,
    pub(super) gpus: Vec<String>,
    pub(super) need: GpuNeed,
    /// Whether it is on its way out.
    pub(super) leaving: bool,
    /// Whether its component may sleep.
    pub(super) sleeps: bool,
}

impl Holder {
    pub(super) fn granted(grant: &Grant) -> Self {
        Self {
            component: grant.component.clone(),
            revision: grant.revision,
            memory: grant.memory,
            basis: grant.basis,
            gpus: grant.gpus.clone(),
            need: grant.need.clone(),
            leaving: false,
            sleeps: false,
        }
    }

    /// Whether it goes when a service is put to sleep.
    pub(super) fn may_go_with(&self, service: &ServiceKey) -> bool {
        self.sleeps && self.component.service == *service
    }

    /// Takes its seats.
    pub(super) fn sit(&self, seats: &mut BTreeMap<String, Seat>) {
        for uuid in &self.gpus {
            if let Some(seat) = seats.get_mut(uuid) {
                seat.held = seat.held.saturating_add(self.need.memory.unwrap_or(seat.gpu.total));
                seat.replicas += 1;
                seat.taken |= self.need.exclusive;
            }
        }
    }
}

/// Looks around: what there is, who holds it, and who could be put to sleep. `others` are containers of services that are
/// not wanted any more.
pub(super) fn room(
    world: &World,
    now: Now,
    facts: &Facts<'_>,
    services: &[Own<'_, '_>],
    others: &[&[&ContainerFact]],
) -> Room {
    let memory = world.machine.memory;
    let total = memory.map(|memory| memory.total);
    let config = &world.config.memory;
    let used: u64 = world.used.values().map(|used| used.memory).sum();
    let available = memory.and_then(|memory| memory.available);
    let programs = memory
        .zip(available)
        .map_or(0, |(memory, available)| memory.total.saturating_sub(available).saturating_sub(used));
    let mut room = Room {
        total,
        reserve: total.map_or(0, |total| config.reserve.of(total)),
        budget: config.budget.map(|budget| budget.of(total.unwrap_or(u64::MAX))),
        others: programs,
        seats: seats(world),
        holders: holders(world, services, others),
        ..Room::default()
    };
    for holder in room.holders.values_mut().filter(|holder| holder.sleeps) {
        let service = &holder.component.service;
        let own = services.binary_search_by(|own| own.service.key.cmp(service)).ok().map(|place| &services[place]);
        let is_asleep = own.is_some_and(|own| own.rest == Some(Rest::Asleep));
        // What sleeps with its memory kept goes nowhere by itself.
        holder.leaving |= is_asleep && !doze::keeps_memory(world, service, facts);
    }
    let memory = memory_of_sleepers(&room.holders);
    for own in services.iter().filter(|own| own.rest.is_some()) {
        let key = &own.service.key;
        let idle = idle(world, now, facts, own, memory.get(key).copied().unwrap_or_default());
        room.sleepers.insert(key.clone());
        room.idle.extend(idle.map(|idle| (key.clone(), idle)));
    }
    room
}

fn seats(world: &World) -> Option<BTreeMap<String, Seat>> {
    let gpus = world.machine.gpus.as_ref()?;
    let seat = |gpu: &ledger::Gpu| {
        let ours: u64 = world.used.values().filter_map(|used| used.gpus.get(&gpu.uuid)).sum();
        let others = gpu.total.saturating_sub(gpu.free).saturating_sub(ours);
        (gpu.uuid.clone(), Seat { gpu: gpu.clone(), held: 0, others, replicas: 0, taken: false })
    };
    Some(gpus.iter().map(seat).collect())
}

fn holders(world: &World, services: &[Own<'_, '_>], others: &[&[&ContainerFact]]) -> BTreeMap<ReplicaName, Holder> {
    let mut holders = Vec::with_capacity(world.containers.len());
    for own in services {
        let known =
            |component: &ComponentKey| Known { service: Some(own.service.as_ref()), history: own.history(component) };
        add_holders(world, own.containers, known, &mut holders);
    }
    for containers in others {
        add_holders(world, containers, |component| Known::of(world, component), &mut holders);
    }
    let mut holders: BTreeMap<ReplicaName, Holder> = holders.into_iter().collect();
    // Of what no container shows yet, or any more, the grant is known.
    for (name, grant) in &world.memory.granted {
        if !holders.contains_key(name) {
            let sleeps = sleeps(Known::of(world, &grant.component).service, &grant.component);
            holders.insert(name.clone(), Holder { sleeps, ..Holder::granted(grant) });
        }
    }
    holders
}

/// Adds those of a service.
fn add_holders<'w>(
    world: &World,
    containers: &[&ContainerFact],
    known: impl Fn(&ComponentKey) -> Known<'w>,
    holders: &mut Vec<(ReplicaName, Holder)>,
) {
    let mut containers = containers.to_vec();
    containers.sort_by(|one, other| one.replica.cmp(&other.replica));
    for facts in containers.chunk_by(|one, other| one.replica == other.replica) {
        let busy = |fact: &&ContainerFact| world.in_flight.contains(&ActionKey::Container(fact.name.clone()));
        let runs = |fact: &&ContainerFact| matches!(fact.state, FactState::Running { .. } | FactState::Paused);
        // Made and not started: an earlier daemon may have ordered that, too, unless it is known that it cannot be.
        let starts =
            |fact: &&ContainerFact| fact.state == FactState::Created && !world.memory.refusals.contains_key(&fact.name);
        if facts.iter().any(|fact| runs(fact) || starts(fact) || busy(fact)) {
            holders.push((facts[0].replica.clone(), holder(world, known(&facts[0].component), facts)));
        }
    }
}

/// Whether a container ended by itself and has not run well for long enough since.
pub(super) fn has_failed(world: &World, fact: &ContainerFact) -> bool {
    world.memory.containers.get(&fact.name).is_some_and(|known| known.failures > 0)
}

/// What is known of a component beside its containers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'w> {
    /// Its service, if that is wanted.
    pub(super) service: Option<&'w DesiredService>,
    /// Its revisions.
    pub(super) history: Option<&'w Revisions>,
}

impl<'w> Known<'w> {
    pub(super) fn of(world: &'w World, component: &ComponentKey) -> Self {
        let service = world.services.get(&component.service).map(AsRef::as_ref);
        Self { service, history: world.memory.revisions.get(component) }
    }
}

fn holder(world: &World, known: Known<'_>, facts: &[&ContainerFact]) -> Holder {
    let first = facts[0];
    let Footprint { memory, basis, gpus: need } = of_facts(world, known, facts);
    let used: u64 = facts.iter().filter_map(|fact| world.used.get(&fact.name)).map(|used| used.memory).sum();
    Holder {
        component: first.component.clone(),
        revision: first.revision,
        memory: memory.max(used),
        basis: if used > memory { Basis::Measured } else { basis },
        gpus: first.gpus.clone(),
        need,
        leaving: world.memory.draining.contains_key(first.replica.as_ref()),
        sleeps: sleeps(known.service, &first.component),
    }
}

/// The footprint of a replica that is known by its containers.
pub(super) fn of_facts(world: &World, known: Known<'_>, facts: &[&ContainerFact]) -> Footprint {
    let first = facts[0];
    let learned = learned(known, &first.fingerprint);
    if let Some(workload) = workload(world, known.service, first) {
        return ledger::footprint(world, workload, learned);
    }
    let granted = world.memory.granted.get(&first.replica).map(|grant| (grant.memory, grant.basis, grant.need.clone()));
    let (memory, basis, gpus) = granted.unwrap_or_else(|| {
        let guess = || if learned.peak > 0 { learned.peak } else { world.config.memory.runtime_overhead };
        let memory = first.record.memory.unwrap_or_else(guess);
        (memory, Basis::Assumed, GpuNeed { count: u64::from(!first.gpus.is_empty()), ..GpuNeed::default() })
    });
    Footprint { memory, basis, gpus }
}

/// What was learned of a revision of a component.
pub(super) fn learned(known: Known<'_>, fingerprint: &str) -> Learned {
    let notes = known.history.into_iter().flat_map(|history| history.known.values());
    notes.rev().find(|note| note.fingerprint == fingerprint).map(|note| note.learned).unwrap_or_default()
}

fn workload<'w>(world: &'w World, service: Option<&'w DesiredService>, fact: &ContainerFact) -> Option<&'w Workload> {
    let own = |part: &&ResolvedWorkload| part.workload.component == fact.component;
    let older = || world.older.get(&fact.component).and_then(|older| older.get(&fact.revision));
    let same = |part: &&ResolvedWorkload| part.fingerprint.0 == fact.fingerprint;
    let parts = service.into_iter().flat_map(DesiredService::workloads);
    parts.filter(own).find(same).or_else(|| older().filter(same)).map(|part| part.workload.as_ref())
}

pub(super) fn sleeps(service: Option<&DesiredService>, component: &ComponentKey) -> bool {
    let mut parts = service.into_iter().flat_map(DesiredService::workloads);
    parts.any(|part| part.workload.component == *component && part.workload.scaling.sleeps())
}

/// Memory that comes free when each service goes to sleep.
fn memory_of_sleepers(holders: &BTreeMap<ReplicaName, Holder>) -> HashMap<ServiceKey, u64> {
    let mut memory: HashMap<ServiceKey, u64> = HashMap::new();
    for holder in holders.values().filter(|holder| holder.sleeps) {
        *memory.entry(holder.component.service.clone()).or_default() += holder.memory;
    }
    memory
}
