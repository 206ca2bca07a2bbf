//! What a replica needs that is about to be started, and what its service needs beside it.

use super::admission::Want;
use super::holders::{Holder, Known, has_failed, learned, of_facts, sleeps};
use super::ledger;
use super::planner::Draft;
use super::replica::Replica;
use super::rollout::replace::Strategy;
use super::split;
use super::world::{ContainerFact, DesiredService, World};
use crate::workload::ComponentKey;

/// What a replica needs that is about to be started.
pub(super) fn want(draft: &Draft<'_>, replica: &Replica<'_>) -> Want {
    let world = draft.world;
    let facts: Vec<&ContainerFact> = replica.containers.values().copied().collect();
    let fixed = facts.first().map(|fact| fact.gpus.clone()).unwrap_or_default();
    let (component, footprint) = match replica.source {
        Some((workload, fingerprint)) => {
            let learned = learned(Known::of(world, &workload.component), fingerprint);
            (workload.component.clone(), ledger::footprint(world, workload, learned))
        }
        // Never empty: a replica of which nothing is known has containers.
        None => (facts[0].component.clone(), of_facts(world, Known::of(world, &facts[0].component), &facts)),
    };
    // A canary never takes the place of another revision.
    let own = replica.source.filter(|(workload, _)| workload.canary.is_none());
    let own_place = own.filter(|_| !is_split(world, &component));
    let strategy = own_place.map_or(Strategy::Beside, |(workload, _)| Strategy::of(workload));
    // Nobody needs the other components for a canary: the stable revision has or gets them.
    let siblings = own.map_or(0, |_| siblings(draft, &component));
    let is_waited_for = world.waiting.iter().any(|(one, count)| one.service == component.service && *count > 0);
    let may_sleep = sleeps(Known::of(world, &component).service, &component);
    let is_retry = !is_waited_for && may_sleep && facts.iter().any(|fact| has_failed(world, fact));
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
    let Known { service, history } = Known::of(world, component);
    let Some(history) = history else { return false };
    let own = service.into_iter().flat_map(DesiredService::workloads);
    let mut own = own.filter(|part| part.workload.component == *component);
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
        let learned = learned(Known::of(world, &part.workload.component), &part.fingerprint.0);
        lacking.saturating_mul(ledger::footprint(world, &part.workload, learned).memory)
    });
    missing.sum()
}
