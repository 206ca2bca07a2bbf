//! What was asked of each revision in the last second, where replicas follow it: the notice board's counts put together
//! by component.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::plan::World;
use crate::plan::scale::{Load, MEASURE_EVERY};
use crate::traffic::TrafficBoard;
use crate::workload::ComponentKey;

/// Measures once a second, and not at all where nobody wants to know.
#[derive(Debug, Default)]
pub(super) struct LoadMeter {
    /// When it was last measured; none while nobody wants to know.
    last: Option<Duration>,
}

impl LoadMeter {
    /// Returns when to measure next, in ticks; none when nobody wants to know.
    pub(super) fn due(&mut self, world: &World, now: Duration) -> Option<Duration> {
        if world.memory.scales.is_empty() {
            self.last = None;
            return None;
        }
        Some(self.last.map_or(now, |last| last + MEASURE_EVERY))
    }

    /// Measures. Nothing comes of the first time: what was counted before is of no known second.
    pub(super) fn measure(
        &mut self,
        board: &TrafficBoard,
        world: &World,
        now: Duration,
    ) -> Option<BTreeMap<ComponentKey, Load>> {
        let (replicas, queues) = (board.measure(), board.measure_queues());
        let is_first = self.last.replace(now).is_none();
        if is_first {
            return None;
        }
        let places: HashMap<&str, (&ComponentKey, u32)> =
            world.containers.values().map(|fact| (&*fact.replica, (&fact.component, fact.revision))).collect();
        let mut loads: BTreeMap<ComponentKey, Load> = BTreeMap::new();
        // Whoever runs and is not asked has a load, too: none.
        for (component, revision) in places.values() {
            loads.entry((*component).clone()).or_default().revisions.entry(*revision).or_default();
        }
        for (replica, measured) in replicas {
            let Some((component, revision)) = places.get(&*replica) else { continue };
            let load = loads.entry((*component).clone()).or_default();
            let usage = load.revisions.entry(*revision).or_default();
            usage.concurrency += measured.concurrency;
            usage.rps += measured.rps;
        }
        for (component, measured) in queues {
            loads.entry(component).or_default().queued = measured.concurrency;
        }
        Some(loads)
    }
}
