//! One component: which revision is wanted, which one serves, and what becomes of the others.
//!
//! The new revision is started beside the old one, gets the traffic once all its replicas answer, and only then does the
//! old one drain. A revision that never answers gets no request and the old one keeps serving.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::memory::Revisions;
use super::planner::Draft;
use super::pods::{self, PodView};
use super::record::ReplicaRecord;
use super::replica::{self, Phase, Replica};
use super::routes::{Backend, ComponentRoute, RouteState};
use super::status;
use super::world::{ContainerFact, DesiredService, ResolvedWorkload};
use crate::workload::{ComponentKey, Fingerprint, RuntimeRef, names};

/// What a pass found out about one component.
#[derive(Clone, Debug)]
pub struct ComponentReport {
    /// The component.
    pub key: ComponentKey,
    /// KServe's name of its service.
    pub service_name: String,
    /// The wanted revision, when the component could be resolved.
    pub target: Option<u32>,
    /// The revision with the traffic.
    pub serving: Option<u32>,
    /// The last revision that had all traffic, and the one before, as remembered before this pass.
    pub history: Revisions,
    /// Where the wanted revision is: the worst of its replicas.
    pub phase: Phase,
    /// Whether every replica of the wanted revision answers and has the traffic.
    pub settled: bool,
    /// Replicas that are wanted.
    pub replicas: u32,
    /// Replicas of the serving revision that answer.
    pub ready_replicas: u32,
    /// The runtime that was chosen.
    pub runtime: Option<RuntimeRef>,
    /// What the proxy may do.
    pub route: ComponentRoute,
    /// Name under which the server knows its model.
    pub model_name: Option<String>,
    /// Its replicas, for people.
    pub pods: Vec<PodView>,
}

type Units<'w> = BTreeMap<(u32, u32), Vec<&'w ContainerFact>>;

/// Advances one component.
pub(super) fn advance<'w>(
    draft: &mut Draft<'w>,
    key: &ComponentKey,
    wanted: Option<&'w ResolvedWorkload>,
    facts: &[&'w ContainerFact],
) -> ComponentReport {
    let history = draft.world.memory.revisions.get(key).cloned().unwrap_or_default();
    let mut units: Units<'w> = BTreeMap::new();
    for fact in facts {
        units.entry((fact.revision, fact.ordinal)).or_default().push(*fact);
    }
    let target = wanted.map(|_| history.target);
    let strangers = wanted.map(|resolved| take_strangers(&mut units, history.target, &resolved.fingerprint));
    let replicas = wanted.map_or(0, |resolved| resolved.workload.min_replicas.max(1));
    let mut phases = BTreeMap::new();
    let mut views = Vec::new();

    if let (Some(resolved), Some(revision)) = (wanted, target) {
        for ordinal in 0..replicas {
            let containers = units.remove(&(revision, ordinal)).unwrap_or_default();
            let unit = wanted_replica(key, resolved, revision, ordinal, &containers);
            let is_blocked = strangers.iter().flatten().any(|containers| containers[0].replica == unit.name);
            let phase = if is_blocked { Phase::Creating } else { advance_unit(draft, &unit) };
            views.push(pods::pod(draft.world, key, &resolved.workload.service_name, &unit, &phase));
            phases.insert((revision, ordinal), (unit, phase));
        }
    }
    let target_ready = count_ready(&phases, target);
    let old = serving_candidate(&history, target, &units);
    let switched = target.is_some() && target_ready >= replicas.max(1);
    if let Some(old) = old.filter(|_| !switched) {
        for ((revision, ordinal), containers) in units.extract_if(.., |(revision, _), _| *revision == old) {
            let unit = kept_replica(revision, ordinal, &containers);
            let phase = advance_unit(draft, &unit);
            views.push(pods::pod(draft.world, key, &containers[0].service_name, &unit, &phase));
            phases.insert((revision, ordinal), (unit, phase));
        }
    }
    let serving = match (switched, old) {
        (true, _) => target,
        // Nothing older answers: a part of the new revision is better than none of the old.
        (false, Some(old)) if count_ready(&phases, Some(old)) == 0 && target_ready > 0 => target,
        (false, Some(old)) => Some(old),
        (false, None) => target,
    };
    for ((revision, _), containers) in units {
        let why = if Some(revision) == target { "fewer replicas are wanted" } else { "another revision took over" };
        let name = Arc::clone(&containers[0].replica);
        replica::retire(draft, &name, containers.into_iter(), why);
    }
    for containers in strangers.into_iter().flatten() {
        let name = Arc::clone(&containers[0].replica);
        replica::retire(draft, &name, containers.into_iter(), "it was made for something else");
    }
    if switched && let Some(revision) = target {
        draft.plan.rolled_out.push((key.clone(), revision));
    }
    let backends = backends(&phases, serving);
    let phase = worst(&phases, target.or(serving));
    let timeout = wanted.map_or_else(|| recorded_timeout(&phases, serving), |resolved| resolved.workload.timeout);
    let service_name = wanted.map_or_else(
        || facts.first().map(|fact| fact.service_name.clone()).unwrap_or_default(),
        |resolved| resolved.workload.service_name.clone(),
    );
    let ready_replicas = u32::try_from(backends.len()).unwrap_or(u32::MAX);
    let state = if backends.is_empty() { status::refusal(key, &phase) } else { RouteState::Open(backends) };
    ComponentReport {
        key: key.clone(),
        service_name: service_name.clone(),
        target,
        serving: serving.filter(|_| ready_replicas > 0),
        history,
        settled: switched,
        phase,
        replicas,
        ready_replicas,
        runtime: wanted.and_then(|resolved| resolved.workload.runtime.clone()),
        route: ComponentRoute { service_name, state, timeout },
        model_name: wanted.map(|resolved| resolved.workload.model_name.clone()),
        pods: views,
    }
}

/// Takes out replicas that carry the wanted revision's number and are not made from it: they stand in its way.
fn take_strangers<'w>(units: &mut Units<'w>, target: u32, fingerprint: &Fingerprint) -> Vec<Vec<&'w ContainerFact>> {
    let is_stranger =
        |containers: &Vec<&ContainerFact>| containers.iter().any(|fact| fact.fingerprint != fingerprint.0);
    let strangers = units.extract_if(.., |(revision, _), containers| *revision == target && is_stranger(containers));
    strangers.map(|(_, containers)| containers).collect()
}

/// A replica answers only if the proxy can reach it, too.
fn advance_unit(draft: &mut Draft<'_>, unit: &Replica<'_>) -> Phase {
    let phase = replica::advance(draft, unit);
    if phase.is_ready() && backend(unit, unit.revision).is_none() {
        let message = format!("port {} of the container cannot be reached from here", unit.record.entry.port);
        return Phase::NotReady { message };
    }
    phase
}

fn wanted_replica<'w>(
    key: &ComponentKey,
    resolved: &'w ResolvedWorkload,
    revision: u32,
    ordinal: u32,
    containers: &[&'w ContainerFact],
) -> Replica<'w> {
    let workload = &resolved.workload;
    let name = names::replica_name(&key.service.namespace, &workload.service_name, revision, ordinal);
    Replica {
        name: name.into(),
        revision,
        ordinal,
        record: Arc::new(ReplicaRecord::of(workload)),
        source: Some((workload, resolved.fingerprint.0.as_str())),
        containers: containers.iter().map(|fact| (fact.container.as_str(), *fact)).collect(),
    }
}

fn kept_replica<'w>(revision: u32, ordinal: u32, containers: &[&'w ContainerFact]) -> Replica<'w> {
    Replica {
        name: Arc::clone(&containers[0].replica),
        revision,
        ordinal,
        record: Arc::clone(&containers[0].record),
        source: None,
        containers: containers.iter().map(|fact| (fact.container.as_str(), *fact)).collect(),
    }
}

/// Returns the older revision that may still be serving: the last that had all traffic, else the newest whose serving
/// container runs (the first deployment may have been edited before all its replicas answered).
fn serving_candidate(history: &Revisions, target: Option<u32>, units: &Units<'_>) -> Option<u32> {
    let others = || units.iter().filter(|((revision, _), _)| Some(*revision) != target);
    let serves = |fact: &&ContainerFact| {
        fact.is_running() && fact.record.containers.first().is_some_and(|first| first.name == fact.container)
    };
    let running = others().filter(|(_, containers)| containers.iter().any(serves));
    history
        .rolled_out
        .filter(|rolled_out| others().any(|((revision, _), _)| revision == rolled_out))
        .or_else(|| running.map(|((revision, _), _)| *revision).max())
}

type Phases<'w> = BTreeMap<(u32, u32), (Replica<'w>, Phase)>;

fn count_ready(phases: &Phases<'_>, revision: Option<u32>) -> u32 {
    let ready = phases.iter().filter(|((number, _), (_, phase))| Some(*number) == revision && phase.is_ready());
    u32::try_from(ready.count()).unwrap_or(u32::MAX)
}

/// Returns the phase a person should hear of: a failure before progress, progress before readiness.
fn worst(phases: &Phases<'_>, revision: Option<u32>) -> Phase {
    let rank = |phase: &Phase| match phase {
        Phase::Ready => 2,
        phase if phase.is_failure() => 0,
        _ => 1,
    };
    let own = phases.iter().filter(|((number, _), _)| Some(*number) == revision).map(|(_, (_, phase))| phase);
    own.min_by_key(|phase| rank(phase)).cloned().unwrap_or(Phase::Creating)
}

fn backends(phases: &Phases<'_>, serving: Option<u32>) -> Vec<Backend> {
    let ready = phases.iter().filter(|((number, _), (_, phase))| Some(*number) == serving && phase.is_ready());
    ready.filter_map(|((revision, _), (unit, _))| backend(unit, *revision)).collect()
}

fn backend(unit: &Replica<'_>, revision: u32) -> Option<Backend> {
    let owner = unit.record.containers.first()?;
    let fact = unit.containers.get(owner.name.as_str())?;
    let entry = &unit.record.entry;
    Some(Backend {
        replica: Arc::clone(&unit.name),
        address: fact.reach.to(entry.port)?,
        protocol: entry.protocol,
        grpc_address: entry.grpc_port.and_then(|port| fact.reach.to(port)),
        concurrency: unit.record.concurrency,
        weight: 1,
        revision: names::revision_name(&fact.service_name, revision).into(),
    })
}

fn recorded_timeout(phases: &Phases<'_>, serving: Option<u32>) -> Option<Duration> {
    phases.iter().find(|((number, _), _)| Some(*number) == serving).and_then(|(_, (unit, _))| unit.record.timeout)
}

/// Returns the names under which a service's models are called on the bare address.
pub(super) fn model_names(service: &DesiredService, reports: &[ComponentReport]) -> Vec<String> {
    let mut names = vec![service.key.name.clone()];
    for name in reports.iter().filter_map(|report| report.model_name.clone()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
