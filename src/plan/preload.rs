//! Services that sleep and are to be woken when the daemon starts (`kserve-local/preload`): one after the other, lower
//! numbers first, so that they do not take each other's disk and processor.

use std::time::Duration;

use super::planner::Draft;
use super::replica::Phase;
use super::rollout::ComponentReport;
use super::world::{DesiredService, World};
use crate::api::ServiceKey;

/// Between two turns.
const AT_ONCE: Duration = Duration::from_millis(10);

/// The place of a service in the order, if it has one.
pub(super) fn place(service: &DesiredService) -> Option<(i32, &ServiceKey)> {
    let parts = service.resolution.as_deref().unwrap_or_default();
    let number = parts.iter().filter(|part| part.workload.scaling.sleeps());
    Some((number.filter_map(|part| part.workload.scaling.resting.preload).min()?, &service.key))
}

/// Whose turn it is.
pub(super) fn next(world: &World) -> Option<&ServiceKey> {
    let waiting = world.services.values().filter_map(|service| place(service));
    waiting.filter(|(_, key)| !world.memory.preloaded.contains(*key)).min().map(|(_, key)| key)
}

/// Notes that a service had its turn: it answers, or it fails, or it is of those that have none.
pub(super) fn note(draft: &mut Draft<'_>, service: &DesiredService, reports: &[ComponentReport<'_>]) {
    if place(service).is_none() || draft.world.memory.preloaded.contains(&service.key) {
        return;
    }
    let answers = reports.iter().all(|report| report.settled && report.phase != Phase::Asleep);
    let fails = reports.iter().any(|report| report.phase.is_failure());
    // A stopped service has no reports; nobody waits for it.
    if answers || fails {
        draft.plan.preloaded.push(service.key.clone());
        // Whose turn it is now is found out by looking again.
        draft.wake(draft.now.tick + AT_ONCE);
    }
}
