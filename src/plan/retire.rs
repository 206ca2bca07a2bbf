//! Stopping in order: out of routing (the caller's), last lease, stop, remove.

use std::sync::Arc;
use std::time::Duration;

use super::action::Action;
use super::backoff;
use super::planner::Draft;
use super::pods;
use super::replica::{self, Phase, Replica};
use super::routes::ReplicaName;
use super::world::{ContainerFact, FactReach, FactState};
use crate::workload::names;

/// Takes a replica down in order: out of routing (the caller's), last lease, stop, remove. `since` is when it was first
/// found unwanted.
pub(super) fn retire<'w>(draft: &mut Draft<'w>, containers: &[&'w ContainerFact], why: &str) {
    let Some(first) = containers.first() else { return };
    let name = &first.replica;
    let leaving = Replica::kept(draft, containers);
    draft.plan.pods.push(pods::pod(draft.world, &first.component, &leaving, &Phase::Leaving).into());
    let may_stop = may_leave(draft, name);
    for fact in containers {
        match &fact.state {
            FactState::Running { .. } | FactState::Paused if may_stop => stop(draft, fact, why.to_owned()),
            FactState::Created | FactState::Exited(_) => remove(draft, fact),
            FactState::Removing => drop(replica::dead(draft, fact)),
            _ => {}
        }
    }
}

/// Whether a replica that is not wanted has nothing to answer any more, or has had its time to.
pub(super) fn may_leave(draft: &mut Draft<'_>, name: &ReplicaName) -> bool {
    draft.plan.draining.push(Arc::clone(name));
    let Some(since) = draft.world.memory.draining.get(name.as_ref()).copied() else {
        // First seen unwanted in this pass: the route closes now; what slipped through gets a moment to show itself.
        draft.wake(draft.now.tick + SETTLE);
        return false;
    };
    let busy = draft.world.leases.get(name).copied().unwrap_or(0) > 0;
    let deadline = since + draft.world.config.drain_deadline;
    draft.due(since + SETTLE) && (!busy || draft.due(deadline))
}

/// Between closing a route and looking at its leases: long enough for a request that read the old table to lease.
const SETTLE: Duration = Duration::from_millis(100);

/// Stops a container, unless that failed lately.
pub(super) fn stop(draft: &mut Draft<'_>, fact: &ContainerFact, why: String) {
    stop_within(draft, fact, why, fact.record.grace);
}

/// Stops a container with a time of its own between signal and kill.
pub(super) fn stop_within(draft: &mut Draft<'_>, fact: &ContainerFact, why: String, grace: Duration) {
    if is_stuck(draft, &fact.name) {
        return;
    }
    draft.act(Action::Stop {
        id: fact.id.clone(),
        name: fact.name.clone(),
        grace,
        pre_stop: fact.record.container(&fact.container).and_then(|container| container.pre_stop.clone()),
        reach: owner_reach(draft, fact),
        why,
    });
}

pub(super) fn remove(draft: &mut Draft<'_>, fact: &ContainerFact) {
    if is_stuck(draft, &fact.name) {
        return;
    }
    draft.act(Action::Remove { id: fact.id.clone(), name: fact.name.clone(), replica: Arc::clone(&fact.replica) });
}

/// Whether stopping or removing failed lately and it is too early to try again.
pub(super) fn is_stuck(draft: &mut Draft<'_>, name: &str) -> bool {
    let Some(stuck) = draft.world.memory.stuck.get(name) else { return false };
    let again = stuck.at + backoff::retry_delay(stuck.failures);
    !draft.due(again)
}

/// How the ports of a container's replica are reached: only the owner of the network has an address.
pub(super) fn owner_reach(draft: &Draft<'_>, fact: &ContainerFact) -> FactReach {
    if fact.record.sandbox {
        return draft.sandboxes.of(&fact.replica).map_or(FactReach::None, |sandbox| sandbox.reach.clone());
    }
    let Some(owner) = fact.record.containers.first().filter(|owner| owner.name != fact.container) else {
        return fact.reach.clone();
    };
    let name = names::container_name(&draft.world.instance, &fact.replica, &owner.name);
    draft.world.containers.get(&name).map_or(FactReach::None, |owner| owner.reach.clone())
}
