//! Processor limits are lifted while a model loads: they are for serving, and would only make it load slower. They are
//! applied when the replica first answers. Memory limits always hold.

use super::action::Action;
use super::planner::Draft;
use super::replica::Replica;
use super::world::World;
use crate::workload::Workload;

/// Annotation that keeps the limits on from the start, with `"false"`.
pub const LIFT_CPU: &str = "kserve-local/lift-cpu-limits";

/// Whether the limits of a new replica are lifted.
pub(super) fn lifts(world: &World, workload: &Workload) -> bool {
    let wanted = workload.annotations.get(LIFT_CPU).is_none_or(|value| !value.eq_ignore_ascii_case("false"));
    let limited = workload.containers.iter().any(|spec| spec.resources.cpu_limit_milli.is_some());
    world.limits_later && wanted && limited
}

/// Applies the limits of a replica that answers.
pub(super) fn apply(draft: &mut Draft<'_>, replica: &Replica<'_>) {
    for container in &replica.record.containers {
        let Some(milli) = container.cpu_when_ready else { continue };
        let Some(fact) = replica.containers.get(container.name.as_str()).filter(|fact| fact.is_running()) else {
            continue;
        };
        let Some(memory) = draft.world.memory.containers.get(&fact.name).filter(|memory| !memory.limited) else {
            continue;
        };
        let run = memory.started;
        let again = memory.limit_again;
        if draft.due(again) {
            draft.act(Action::LimitCpu { id: fact.id.clone(), name: fact.name.clone(), milli, run });
        }
    }
}
