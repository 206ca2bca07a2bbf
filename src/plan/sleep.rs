//! Which services sleep: those that may, and of which nobody has asked anything for long enough.
//!
//! A service sleeps and wakes as a whole: its components are used together, and the transformer of one that wakes is of
//! no use without its predictor. Sleep is decided only while all is well; a service that loads or fails is left to do so.

use std::time::Duration;

use super::checks::{self, Answered};
use super::doze;
use super::facts::{Facts, Own};
use super::planner::Draft;
use super::split;
use super::world::{ContainerFact, DesiredService, ResolvedWorkload, World};
use crate::api::{ComponentKind, ServiceKey};
use crate::workload::ComponentKey;

/// How a service that may sleep stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It sleeps.
    Asleep,
    /// It is awake and all of it answers: the idle clock runs. Or nothing is known of it yet.
    Idle,
    /// It is awake; the clock stands, because somebody asks or because it does not answer yet.
    Busy,
}

/// Says how a service that may sleep stands; none when no component of it may.
pub(super) fn rest<'w>(draft: &mut Draft<'w>, own: &Own<'_, 'w>, facts: &Facts<'w>) -> Option<Rest> {
    let service = own.service;
    let parts = service.resolution.as_deref().unwrap_or_default();
    let sleepers: Vec<&ResolvedWorkload> = parts.iter().filter(|part| part.workload.scaling.sleeps()).collect();
    if sleepers.is_empty() {
        return None;
    }
    if is_asked_for(draft.world, &service.key, facts) {
        return Some(Rest::Busy);
    }
    if is_warm(draft, &sleepers) || facts.is_preloaded_next(&service.key) {
        return Some(Rest::Busy);
    }
    let memory = &draft.world.memory;
    // A new revision starts although nobody asks, as Knative's initial scale wants: to show that it works.
    let is_known = |part: &&ResolvedWorkload| {
        let history = memory.revisions.get(&part.workload.component);
        history.is_some_and(|history| history.is_proven(history.current()))
    };
    if !sleepers.iter().all(is_known) || is_trying_canaries(draft.world, service, facts) {
        return Some(Rest::Busy);
    }
    let activity = memory.activity.get(&service.key).copied().unwrap_or_default();
    // Whoever it waits for room for has gone: nobody is put to sleep for that.
    let runs = || facts.of_service(&service.key).iter().any(|fact| fact.is_running());
    if activity.asleep || (facts.is_queued(&service.key) && !runs()) {
        return Some(Rest::Asleep);
    }
    let Some(last) = activity.last else {
        // What runs is not known before the engine has said it: until then it is neither taken for asleep nor noted as
        // asked for, which would wake what slept before the daemon was restarted.
        if draft.world.listed_at.is_none() {
            return Some(Rest::Idle);
        }
        // Nothing was seen since the daemon started: what runs stays for now, what does not run is not missed.
        let is_awake = |fact: &&ContainerFact| {
            let dozing = memory.dozing(&fact.component, &fact.name);
            fact.is_running() && dozing.is_none_or(|dozing| dozing.id != fact.id)
        };
        let runs = || sleepers.iter().any(|part| facts.of(&part.workload.component).iter().any(is_awake));
        return Some(if runs() { Rest::Busy } else { Rest::Asleep });
    };
    if !parts.iter().all(|part| answers(draft, part, facts.of(&part.workload.component))) {
        return Some(Rest::Busy);
    }
    let patience = sleepers.iter().map(|part| idle_time(draft.world, part)).max().unwrap_or_default();
    Some(if draft.due(last + patience) { Rest::Asleep } else { Rest::Idle })
}

/// Whether it is an hour in which it is kept awake. Wakes the plan when that changes.
fn is_warm(draft: &mut Draft<'_>, sleepers: &[&ResolvedWorkload]) -> bool {
    let Some(warm) = sleepers.iter().find_map(|part| part.workload.scaling.resting.warm.as_ref()) else { return false };
    let now = draft.world.config.time_zone.to_datetime(draft.now.wall);
    draft.wake(draft.now.tick + warm.changes_in(now).max(Duration::from_secs(1)));
    warm.holds(now)
}

/// Whether a service could be put to sleep now, although its time has not come: nobody asks it, and it is known to wake.
pub(super) fn may_be_put_to_sleep(world: &World, service: &DesiredService, facts: &Facts<'_>, rest: Rest) -> bool {
    match rest {
        // Asleep with its memory kept, it can still give that up.
        Rest::Asleep => doze::keeps_memory(world, &service.key, facts),
        Rest::Idle => true,
        // Not asked since the daemon started, but it was there before.
        Rest::Busy => {
            let memory = &world.memory;
            let unseen = memory.activity.get(&service.key).is_none_or(|activity| activity.last.is_none());
            let parts = service.resolution.as_deref().unwrap_or_default();
            let is_known = |part: &ResolvedWorkload| {
                memory
                    .revisions
                    .get(&part.workload.component)
                    .is_some_and(|history| history.is_proven(history.current()))
            };
            let has_hours = parts.iter().any(|part| part.workload.scaling.resting.warm.is_some());
            let is_wanted = has_hours || facts.is_preloaded_next(&service.key);
            unseen && !is_wanted && !is_asked_for(world, &service.key, facts) && parts.iter().all(is_known)
        }
    }
}

/// From the last byte of the last answer to sleep.
fn idle_time(world: &World, part: &ResolvedWorkload) -> Duration {
    let scaling = &part.workload.scaling;
    scaling.window + world.config.scale_to_zero_grace.max(scaling.retention)
}

/// When a service falls asleep if nobody asks any more, in ticks; none while nothing was seen of it.
pub(super) fn sleeps_at(world: &World, service: &ServiceKey) -> Option<Duration> {
    let last = world.memory.activity.get(service)?.last?;
    let parts = world.services.get(service)?.resolution.as_deref().ok()?;
    let sleepers = parts.iter().filter(|part| part.workload.scaling.sleeps());
    Some(last + sleepers.map(|part| idle_time(world, part)).max()?)
}

/// Whether a request waits for it or is being answered.
fn is_asked_for(world: &World, service: &ServiceKey, facts: &Facts<'_>) -> bool {
    facts.is_waited_for(service) || facts.of_service(service).iter().any(|fact| world.wanted.contains(&fact.replica))
}

/// Whether a named canary that has not answered yet is loading. One that fails or has no room keeps nobody awake, and one
/// that is new while its service sleeps starts with it.
fn is_trying_canaries(world: &World, service: &DesiredService, facts: &Facts<'_>) -> bool {
    let component = ComponentKey { service: service.key.clone(), component: ComponentKind::Predictor };
    let Some(history) = world.memory.revisions.get(&component) else { return false };
    let failed = |fact: &ContainerFact| world.memory.containers.get(&fact.name).is_some_and(|known| known.failures > 0);
    let unproven: Vec<u32> = history.canaries.values().copied().filter(|one| !history.is_proven(*one)).collect();
    let own = facts.of(&component).iter().filter(|fact| unproven.contains(&fact.revision));
    own.into_iter().any(|fact| fact.is_running() && !failed(fact))
}

/// Whether every replica that is wanted of a component passed its checks when they were last made.
fn answers(draft: &Draft<'_>, part: &ResolvedWorkload, facts: &[&ContainerFact]) -> bool {
    let Some(history) = draft.world.memory.revisions.get(&part.workload.component) else { return false };
    let split = split::split(history, &part.workload);
    let revisions = [Some(history.current()), split.map(|split| split.stable)];
    let units = revisions.into_iter().flatten().map(|revision| (revision, 0..part.workload.scaling.min.max(1)));
    units.flat_map(|(revision, ordinals)| ordinals.map(move |ordinal| (revision, ordinal))).all(
        |(revision, ordinal)| {
            let own = |fact: &&&ContainerFact| fact.revision == revision && fact.ordinal == ordinal;
            let own: Vec<&ContainerFact> = facts.iter().filter(own).copied().collect();
            checks::answered(draft, &own) == Answered::Yes
        },
    )
}
