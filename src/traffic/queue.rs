//! Requests that wait for a place at a replica that is at its limit, counted per component: they are load as much as
//! those that are being answered.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::TrafficBoard;
use super::meter::{Measured, Meter};
use crate::workload::ComponentKey;

/// The queues.
#[derive(Clone, Debug, Default)]
pub(super) struct Queues(Arc<Mutex<HashMap<ComponentKey, Arc<Queue>>>>);

#[derive(Debug)]
struct Queue {
    length: AtomicU64,
    meter: Meter,
}

/// One request that waits for a place. Dropping it ends the wait, on every path.
#[derive(Debug)]
pub struct Queued {
    queue: Arc<Queue>,
    board: TrafficBoard,
}

impl TrafficBoard {
    /// Counts a request that waits for a place, until what is returned is dropped.
    pub fn queue_for(&self, component: &ComponentKey) -> Queued {
        let now = self.now();
        let mut queues = self.queues.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(Queue { length: AtomicU64::new(0), meter: Meter::new(now) });
        let queue = Arc::clone(queues.entry(component.clone()).or_insert_with(fresh));
        queue.length.fetch_add(1, Ordering::Relaxed);
        queue.meter.begin(now);
        Queued { queue, board: self.clone() }
    }

    /// Returns how many requests waited for a place since it was last asked, per component, and forgets the queues that
    /// are empty.
    pub fn measure_queues(&self) -> BTreeMap<ComponentKey, Measured> {
        let now = self.now();
        let mut queues = self.queues.0.lock().unwrap_or_else(PoisonError::into_inner);
        let look = |(key, queue): (&ComponentKey, &Arc<Queue>)| {
            (key.clone(), queue.meter.look(queue.length.load(Ordering::Relaxed), now))
        };
        let measured = queues.iter().map(look).collect();
        queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        measured
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.queue.meter.end(self.board.now());
        self.queue.length.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::{ComponentKind, ServiceKey};

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_place_is_load_as_long_as_he_waits() {
        let board = TrafficBoard::default();
        let key = ComponentKey { service: ServiceKey::new("default", "iris"), component: ComponentKind::Predictor };
        let waiting = board.queue_for(&key);
        let other = board.queue_for(&key);
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(other);
        assert!((board.measure_queues()[&key].concurrency - 2.0).abs() < 1e-9);
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(waiting);
        assert!((board.measure_queues()[&key].concurrency - 1.0).abs() < 1e-9);
        assert!(board.measure_queues().is_empty(), "an empty queue is forgotten");
    }
}
