//! Who holds memory now: replicas that run, that are being made, and that are on their way out until they are gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::action::ActionKey;
use super::admission::{Grant, Idle, Room, Want};
use super::doze;
use super::eviction::Candidate;
use super::facts::Facts;
use super::gpus::{GpuNeed, Seat};
use super::ledger::{self, Basis, Footprint, Learned};
use super::planner::Draft;
use super::replica::Replica;
use super::rollout::replace::Strategy;
use super::routes::ReplicaName;
use super::sleep::{self, Rest};
use super::split;
use super::world::{ContainerFact, DesiredService, FactState, Now, ResolvedWorkload, World};
use crate::api::{ServiceKey, meta};
use crate::workload::{ComponentKey, Workload, names};

/// Annotation: services with a higher number are put to sleep later; 0 by default.
pub(super) const PRIORITY: &str = "kserve-local/priority";

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

/// Looks around: what there is, who holds it, and who could be put to sleep.
pub(super) fn room(world: &World, now: Now, facts: &Facts<'_>, rests: &BTreeMap<&ServiceKey, Option<Rest>>) -> Room {
    let memory = world.machine.memory;
    let total = memory.map(|memory| memory.total);
    let config = &world.config.memory;
    let used: u64 = world.used.values().map(|used| used.memory).sum();
    let available = memory.and_then(|memory| memory.available);
    let others = memory
        .zip(available)
        .map_or(0, |(memory, available)| memory.total.saturating_sub(available).saturating_sub(used));
    let mut room = Room {
        total,
        reserve: total.map_or(0, |total| config.reserve.of(total)),
        budget: config.budget.map(|budget| budget.of(total.unwrap_or(u64::MAX))),
        others,
        holders: holders(world),
        ..Room::default()
    };
    for holder in room.holders.values_mut().filter(|holder| holder.sleeps) {
        let service = &holder.component.service;
        let is_asleep = rests.get(service) == Some(&Some(Rest::Asleep));
        // What sleeps with its memory kept goes nowhere by itself.
        holder.leaving |= is_asleep && !doze::keeps_memory(world, service, facts);
    }
    room.seats = seats(world);
    let memory = memory_of_sleepers(&room.holders);
    for (service, rest) in rests {
        if rest.is_some() {
            room.sleepers.insert((*service).clone());
        }
        let Some(service) = world.services.get(*service) else { continue };
        let held = memory.get(&service.key).copied().unwrap_or_default();
        let idle = idle(world, now, facts, (service, *rest), held);
        room.idle.extend(idle.map(|idle| (service.key.clone(), idle)));
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

fn holders(world: &World) -> BTreeMap<ReplicaName, Holder> {
    let mut replicas: BTreeMap<&ReplicaName, Vec<&ContainerFact>> = BTreeMap::new();
    for fact in world.containers.values().filter(|fact| !fact.is_sandbox()) {
        replicas.entry(&fact.replica).or_default().push(fact);
    }
    let mut holders = BTreeMap::new();
    for (name, facts) in replicas {
        let busy = |fact: &&ContainerFact| world.in_flight.contains(&ActionKey::Container(fact.name.clone()));
        let runs = |fact: &&ContainerFact| matches!(fact.state, FactState::Running { .. } | FactState::Paused);
        // Made and not started: an earlier daemon may have ordered that, too, unless it is known that it cannot be.
        let starts =
            |fact: &&ContainerFact| fact.state == FactState::Created && !world.memory.refusals.contains_key(&fact.name);
        if facts.iter().any(|fact| runs(fact) || starts(fact) || busy(fact)) {
            holders.insert(name.clone(), holder(world, &facts));
        }
    }
    // Of what no container shows yet, or any more, the grant is known.
    for (name, grant) in &world.memory.granted {
        let granted = || Holder { sleeps: sleeps(world, &grant.component), ..Holder::granted(grant) };
        holders.entry(name.clone()).or_insert_with(granted);
    }
    holders
}

/// Whether a container ended by itself and has not run well for long enough since.
pub(super) fn has_failed(world: &World, fact: &ContainerFact) -> bool {
    world.memory.containers.get(&fact.name).is_some_and(|known| known.failures > 0)
}

fn holder(world: &World, facts: &[&ContainerFact]) -> Holder {
    let first = facts[0];
    let Footprint { memory, basis, gpus: need } = of_facts(world, facts);
    let used: u64 = facts.iter().filter_map(|fact| world.used.get(&fact.name)).map(|used| used.memory).sum();
    Holder {
        component: first.component.clone(),
        revision: first.revision,
        memory: memory.max(used),
        basis: if used > memory { Basis::Measured } else { basis },
        gpus: first.gpus.clone(),
        need,
        leaving: world.memory.draining.contains_key(first.replica.as_ref()),
        sleeps: sleeps(world, &first.component),
    }
}

/// The footprint of a replica that is known by its containers.
fn of_facts(world: &World, facts: &[&ContainerFact]) -> Footprint {
    let first = facts[0];
    let learned = learned(world, &first.component, &first.fingerprint);
    if let Some(workload) = workload(world, first) {
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

fn learned(world: &World, component: &ComponentKey, fingerprint: &str) -> Learned {
    let known = world.memory.revisions.get(component).map(|revisions| &revisions.known);
    let notes = known.into_iter().flat_map(BTreeMap::values);
    notes.rev().find(|note| note.fingerprint == fingerprint).map(|note| note.learned).unwrap_or_default()
}

fn workload<'w>(world: &'w World, fact: &ContainerFact) -> Option<&'w Workload> {
    let own = |part: &&ResolvedWorkload| part.workload.component == fact.component;
    let older = || world.older.get(&fact.component).and_then(|older| older.get(&fact.revision));
    let same = |part: &&ResolvedWorkload| part.fingerprint.0 == fact.fingerprint;
    parts(world, &fact.component.service)
        .filter(own)
        .find(same)
        .or_else(|| older().filter(same))
        .map(|part| part.workload.as_ref())
}

fn parts<'w>(world: &'w World, service: &ServiceKey) -> impl Iterator<Item = &'w ResolvedWorkload> {
    let service = world.services.get(service);
    service.into_iter().flat_map(|service| service.workloads())
}

fn sleeps(world: &World, component: &ComponentKey) -> bool {
    parts(world, &component.service).any(|part| part.workload.component == *component && part.workload.scaling.sleeps())
}

/// What a replica needs that is about to be started.
pub(super) fn want(draft: &Draft<'_>, replica: &Replica<'_>) -> Want {
    let world = draft.world;
    let facts: Vec<&ContainerFact> = replica.containers.values().copied().collect();
    let fixed = facts.first().map(|fact| fact.gpus.clone()).unwrap_or_default();
    let (component, footprint) = match replica.source {
        Some((workload, fingerprint)) => {
            let learned = learned(world, &workload.component, fingerprint);
            (workload.component.clone(), ledger::footprint(world, workload, learned))
        }
        // Never empty: a replica of which nothing is known has containers.
        None => (facts[0].component.clone(), of_facts(world, &facts)),
    };
    // A canary never takes the place of another revision.
    let own = replica.source.filter(|(workload, _)| workload.canary.is_none());
    let own_place = own.filter(|_| !is_split(world, &component));
    let strategy = own_place.map_or(Strategy::Beside, |(workload, _)| Strategy::of(workload));
    // Nobody needs the other components for a canary: the stable revision has or gets them.
    let siblings = own.map_or(0, |_| siblings(draft, &component));
    let is_waited_for = world.waiting.iter().any(|(one, count)| one.service == component.service && *count > 0);
    let is_retry = !is_waited_for && sleeps(world, &component) && facts.iter().any(|fact| has_failed(world, fact));
    Want {
        replica: replica.name.clone(),
        component,
        revision: replica.revision,
        footprint,
        strategy,
        fixed,
        siblings,
        is_retry,
        promised: 0,
    }
}

/// Whether two revisions of a component are wanted at once: neither takes the place of the other.
fn is_split(world: &World, component: &ComponentKey) -> bool {
    let Some(history) = world.memory.revisions.get(component) else { return false };
    let mut own = parts(world, &component.service).filter(|part| part.workload.component == *component);
    own.any(|part| part.workload.canary.is_none() && split::split(history, &part.workload).is_some())
}

/// Memory that the other components of a service need before the service is whole: of every replica that must answer
/// and holds none yet.
fn siblings(draft: &Draft<'_>, component: &ComponentKey) -> u64 {
    let (world, room) = (draft.world, &draft.room);
    let others = world.services.get(&component.service).and_then(|service| service.resolution.as_deref().ok());
    let others = others.unwrap_or_default().iter().filter(|part| part.workload.component != *component);
    let missing = others.map(|part| {
        let is_own = |holder: &&Holder| holder.component == part.workload.component && !holder.leaving;
        let there = u64::try_from(room.holders.values().filter(is_own).count()).unwrap_or(u64::MAX);
        let lacking = u64::from(part.workload.scaling.least()).saturating_sub(there);
        let learned = learned(world, &part.workload.component, &part.fingerprint.0);
        lacking.saturating_mul(ledger::footprint(world, &part.workload, learned).memory)
    });
    missing.sum()
}

/// Memory that comes free when each service goes to sleep.
fn memory_of_sleepers(holders: &BTreeMap<ReplicaName, Holder>) -> HashMap<ServiceKey, u64> {
    let mut memory: HashMap<ServiceKey, u64> = HashMap::new();
    for holder in holders.values().filter(|holder| holder.sleeps) {
        *memory.entry(holder.component.service.clone()).or_default() += holder.memory;
    }
    memory
}

/// A service nobody asks, that may sleep and holds `memory`.
fn idle(
    world: &World,
    now: Now,
    facts: &Facts<'_>,
    (service, rest): (&DesiredService, Option<Rest>),
    memory: u64,
) -> Option<Idle> {
    if !sleep::may_be_put_to_sleep(world, service, facts, rest?) {
        return None;
    }
    let load = load_time(world, &service.key);
    let started = |fact: &ContainerFact| world.memory.containers.get(&fact.name).and_then(|memory| memory.started);
    let dozes = || doze::keeps_memory(world, &service.key, facts).then_some(Duration::ZERO);
    let started = facts.of_service(&service.key).iter().filter_map(|fact| started(fact)).max().or_else(dozes)?;
    let last = world.memory.activity.get(&service.key).and_then(|activity| activity.last);
    let candidate = Candidate {
        service: service.key.clone(),
        memory,
        reload: load,
        idle: last.map(|last| now.tick.saturating_sub(last)),
        priority: priority(world, service),
    };
    Some(Idle { candidate, due: started + load + residency(world, load) })
}

/// Shortest stay of what took so long to load.
fn residency(world: &World, load: Duration) -> Duration {
    let own = || load.clamp(Duration::from_secs(2), Duration::from_secs(60));
    world.config.memory.min_residency.unwrap_or_else(own)
}

/// What it takes to load a service, as far as it was measured.
fn load_time(world: &World, service: &ServiceKey) -> Duration {
    let known = |part: &ResolvedWorkload| world.memory.revisions.get(&part.workload.component)?.load_millis;
    let slowest = parts(world, service).filter_map(known).max();
    Duration::from_millis(slowest.unwrap_or(1000))
}

/// By annotation, else by class: the settings' and Kubernetes' own.
fn priority(world: &World, service: &DesiredService) -> i64 {
    if let Some(number) = service.meta.annotation(PRIORITY).and_then(|text| text.trim().parse().ok()) {
        return number;
    }
    let parts = service.resolution.as_deref().unwrap_or_default();
    let class = parts.iter().find_map(|part| part.workload.priority_class.as_deref());
    match class {
        Some("system-node-critical") => 2_000_001_000,
        Some("system-cluster-critical") => 2_000_000_000,
        Some(name) => world.config.memory.priority_classes.get(name).copied().unwrap_or_default(),
        None => 0,
    }
}

/// Which replicas there are, and which are worked on.
pub(super) struct Presence<'w> {
    world: &'w World,
    /// Replicas with containers, and whether one of those is no sandbox.
    there: HashMap<&'w str, bool>,
    /// Names of containers somebody works on.
    worked_on: BTreeSet<&'w str>,
}

impl<'w> Presence<'w> {
    pub(super) fn of(world: &'w World) -> Self {
        let mut there: HashMap<&str, bool> = HashMap::new();
        for fact in world.containers.values() {
            *there.entry(fact.replica.as_ref()).or_default() |= !fact.is_sandbox();
        }
        let name = |key: &'w ActionKey| match key {
            ActionKey::Container(name) => Some(name.as_str()),
            _ => None,
        };
        Self { world, there, worked_on: world.in_flight.iter().filter_map(name).collect() }
    }

    /// Whether a replica has any container.
    pub(super) fn is_there(&self, replica: &str) -> bool {
        self.there.contains_key(replica)
    }

    /// Whether what was granted may still be on its way: somebody works on it, or no list has shown since that it is not
    /// there.
    pub(super) fn is_pending(&self, replica: &str, grant: &Grant) -> bool {
        if self.there.get(replica).copied().unwrap_or_default() {
            return true;
        }
        let own = prefix(&self.world.instance, replica);
        let is_worked_on = self.worked_on.range(own.as_str()..).next().is_some_and(|name| name.starts_with(&own));
        is_worked_on || self.world.listed_at.is_none_or(|listed| listed <= grant.at)
    }
}

/// Whether a container's name says that it is one of a replica's.
pub(super) fn is_of(instance: &str, replica: &str, container: &str) -> bool {
    container.starts_with(&prefix(instance, replica))
}

/// What the names of a replica's containers begin with.
fn prefix(instance: &str, replica: &str) -> String {
    names::container_name(instance, replica, meta::KSERVE_CONTAINER)
}
