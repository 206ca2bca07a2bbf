//! Services nobody asks that could be put to sleep to make room, and what waking them again costs.

use std::time::Duration;

use super::admission::Idle;
use super::doze;
use super::eviction::Candidate;
use super::facts::{Facts, Own};
use super::sleep;
use super::world::{ContainerFact, DesiredService, Now, ResolvedWorkload, World};

/// Annotation: services with a higher number are put to sleep later; 0 by default.
pub(super) const PRIORITY: &str = "kserve-local/priority";

/// Returns a service that may sleep as one that could be put to sleep, when nobody asks it. It holds `memory`.
pub(super) fn idle(world: &World, now: Now, facts: &Facts<'_>, own: &Own<'_, '_>, memory: u64) -> Option<Idle> {
    let service = own.service;
    if !sleep::may_be_put_to_sleep(world, service, facts, own.rest?) {
        return None;
    }
    let load = load_time(own);
    let started = |fact: &ContainerFact| world.memory.containers.get(&fact.name).and_then(|memory| memory.started);
    let dozes = || doze::keeps_memory(world, &service.key, facts).then_some(Duration::ZERO);
    let started = own.containers.iter().filter_map(|fact| started(fact)).max().or_else(dozes)?;
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
fn load_time(own: &Own<'_, '_>) -> Duration {
    let known = |part: &ResolvedWorkload| own.history(&part.workload.component)?.load_millis;
    let slowest = own.service.workloads().filter_map(known).max();
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
