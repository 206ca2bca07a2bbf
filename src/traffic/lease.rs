//! Requests in flight, counted per replica.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Counts of one replica.
#[derive(Debug, Default)]
struct Counters {
    in_flight: AtomicU64,
    finished: AtomicU64,
}

/// What the driver sees of one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaTraffic {
    /// Requests in flight.
    pub in_flight: u64,
    /// Requests ended since the daemon started.
    pub finished: u64,
}

/// Shared by gateway and driver; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TrafficBoard {
    replicas: Arc<Mutex<HashMap<Arc<str>, Arc<Counters>>>>,
    idle: Arc<Notify>,
}

impl TrafficBoard {
    /// Takes a lease on a replica. It ends when the lease is dropped.
    pub fn lease(&self, replica: &Arc<str>) -> Lease {
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        // The count goes up under the lock, so that `retain` never forgets a replica that has just been leased.
        let counters = Arc::clone(replicas.entry(Arc::clone(replica)).or_default());
        counters.in_flight.fetch_add(1, Ordering::Relaxed);
        Lease { counters, idle: Arc::clone(&self.idle) }
    }

    /// Returns the counts of one replica.
    pub fn of(&self, replica: &str) -> ReplicaTraffic {
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        replicas.get(replica).map(|counters| read(counters)).unwrap_or_default()
    }

    /// Returns the counts of every replica that was ever leased and not forgotten.
    pub fn snapshot(&self) -> HashMap<Arc<str>, ReplicaTraffic> {
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        replicas.iter().map(|(name, counters)| (Arc::clone(name), read(counters))).collect()
    }

    /// Forgets replicas that are gone and idle.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        replicas.retain(|name, counters| keep(name) || counters.in_flight.load(Ordering::Relaxed) > 0);
    }

    /// Rings when some replica has no request in flight any more.
    pub async fn became_idle(&self) {
        self.idle.notified().await;
    }
}

fn read(counters: &Counters) -> ReplicaTraffic {
    ReplicaTraffic {
        in_flight: counters.in_flight.load(Ordering::Relaxed),
        finished: counters.finished.load(Ordering::Relaxed),
    }
}

/// One request in flight. Dropping it ends it, on every path.
#[derive(Debug)]
pub struct Lease {
    counters: Arc<Counters>,
    idle: Arc<Notify>,
}

impl Lease {
    /// Returns how many requests the replica has in flight, this one included.
    pub fn in_flight(&self) -> u64 {
        self.counters.in_flight.load(Ordering::Relaxed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.counters.finished.fetch_add(1, Ordering::Relaxed);
        if self.counters.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.idle.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_until_it_is_dropped() {
        let board = TrafficBoard::default();
        let replica: Arc<str> = "iris-predictor-00001-0".into();
        let first = board.lease(&replica);
        let second = board.lease(&replica);
        assert_eq!(board.of(&replica).in_flight, 2);
        drop(first);
        assert_eq!(board.of(&replica), ReplicaTraffic { in_flight: 1, finished: 1 });
        board.retain(|_| false);
        assert_eq!(board.of(&replica).in_flight, 1, "a leased replica is not forgotten");
        drop(second);
        board.retain(|_| false);
        assert_eq!(board.of(&replica), ReplicaTraffic::default());
    }
}
