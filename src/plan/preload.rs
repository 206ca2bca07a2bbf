//! Services that sleep and are to be woken when the daemon starts (`kserve-local/preload`): one after the other, lower
//! numbers first, so that they do not take each other's disk and processor.

use std::time::Duration;

use super::planner::Draft;
use super::replica::Phase;
use super::rollout::ComponentReport;
use super::world::{DesiredService, World};

/// Between two turns.
const AT_ONCE: Duration = Duration::from_millis(10);

/// The place of a service in the order, if it has one.
fn place(service: &DesiredService) -> Option<(i32, &crate::api::ServiceKey)> {
    let parts = service.resolution.as_deref().unwrap_or_default();
    let number = parts.iter().filter(|part| part.workload.scaling.sleeps());
    Some((number.filter_map(|part| part.workload.scaling.resting.preload).min()?, &service.key))
}

/// Whether it is a service's turn.
pub(super) fn is_due(world: &World, service: &DesiredService) -> bool {
    let Some(own) = place(service).filter(|_| !world.memory.preloaded.contains(&service.key)) else { return false };
    let mut others = world.services.values().filter_map(|other| place(other));
    !others.any(|other| other < own && !world.memory.preloaded.contains(other.1))
}

/// Notes that a service had its turn: it answers, or it fails, or it is of those that have none.
pub(super) fn note(draft: &mut Draft<'_>, service: &DesiredService, reports: &[ComponentReport]) {
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
