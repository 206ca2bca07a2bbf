//! What revisions use of the processor and of memory, where replicas follow that: counts of the engine, put together by
//! component and turned into rates.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::engine::{ContainerId, Usage};
use crate::plan::World;
use crate::plan::scale::Load;
use crate::workload::ComponentKey;

/// Between two counts; rates of shorter times jump.
const EVERY: Duration = Duration::from_secs(5);

/// What was counted last.
#[derive(Debug, Default)]
pub(super) struct ResourceMeter {
    asked: Option<Duration>,
    under_way: bool,
    counted: HashMap<ContainerId, (Duration, u64)>,
    /// Cores and bytes in use, by revision.
    rates: BTreeMap<(ComponentKey, u32), (Option<f64>, f64)>,
}

impl ResourceMeter {
    /// Returns the containers to be counted when it is time for it.
    pub(super) fn due(&mut self, world: &World, now: Duration) -> Option<Vec<ContainerId>> {
        if self.under_way || self.asked.is_some_and(|asked| now < asked + EVERY) {
            return None;
        }
        let followed: Vec<(&ComponentKey, u32)> = world.memory.scales.wants_resources().collect();
        if followed.is_empty() {
            *self = Self::default();
            return None;
        }
        let running = world.containers.values().filter(|fact| fact.is_running() && !fact.is_sandbox());
        let ours = running.filter(|fact| followed.contains(&(&fact.component, fact.revision)));
        let ids: Vec<ContainerId> = ours.map(|fact| ContainerId(fact.id.clone())).collect();
        (self.under_way, self.asked) = (true, Some(now));
        Some(ids)
    }

    /// Takes counts in; none when the engine did not answer.
    pub(super) fn take(&mut self, world: &World, usage: Option<HashMap<ContainerId, Usage>>, now: Duration) {
        self.under_way = false;
        let Some(usage) = usage else { return };
        let before = std::mem::take(&mut self.counted);
        self.rates.clear();
        for fact in world.containers.values() {
            let id = ContainerId(fact.id.clone());
            let Some(used) = usage.get(&id) else { continue };
            let rate = used.cpu_nanos.and_then(|nanos| {
                let known = before.get(&id).copied();
                self.counted.insert(id, (now, nanos));
                rate(known?, (now, nanos))
            });
            let sum = self.rates.entry((fact.component.clone(), fact.revision)).or_default();
            sum.1 += float(used.memory);
            if let Some(rate) = rate {
                sum.0 = Some(sum.0.unwrap_or_default() + rate);
            }
        }
    }

    /// Adds what was counted last to what was asked.
    pub(super) fn add_to(&self, loads: &mut BTreeMap<ComponentKey, Load>) {
        for ((component, revision), (cpu, memory)) in &self.rates {
            if let Some(usage) = loads.get_mut(component).and_then(|load| load.revisions.get_mut(revision)) {
                (usage.cpu, usage.memory) = (*cpu, Some(*memory));
            }
        }
    }
}

/// Cores in use between two counts; none when it was started anew in between.
fn rate(before: (Duration, u64), after: (Duration, u64)) -> Option<f64> {
    let spent = after.1.checked_sub(before.1)?;
    let over = after.0.checked_sub(before.0).filter(|over| !over.is_zero())?;
    Some(float(spent) / 1e9 / over.as_secs_f64())
}

#[expect(clippy::cast_precision_loss, reason = "a few bytes or nanoseconds do not matter")]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_time_spent_over_time_passed() {
        let at = |seconds: u64, nanos: u64| (Duration::from_secs(seconds), nanos);
        assert_eq!(rate(at(10, 1_000_000_000), at(15, 8_500_000_000)), Some(1.5));
        assert_eq!(rate(at(10, 5), at(15, 1)), None, "started anew");
        assert_eq!(rate(at(10, 5), at(10, 9)), None);
    }
}
