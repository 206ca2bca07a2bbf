//! Requests in flight, counted per replica.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Counts of one replica.
#[derive(Debug, Default)]
struct Counters {
    in_flight: AtomicU64,
    finished: AtomicU64,
    /// Somebody looked while requests were in flight, and waits to hear when there are none.
    awaited: AtomicBool,
    idle: Arc<Notify>,
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
        self.entry(replica).lease()
    }

    /// Returns where leases on a replica are taken, for whoever takes many: without a lock or a lookup each time.
    pub fn entry(&self, replica: &Arc<str>) -> BoardEntry {
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        // A clone of the counters is given out under the lock, so that `retain` never forgets a replica that has just
        // been leased or may be at any time.
        let fresh = || Arc::new(Counters { idle: Arc::clone(&self.idle), ..Counters::default() });
        BoardEntry(Arc::clone(replicas.entry(Arc::clone(replica)).or_insert_with(fresh)))
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
        replicas.retain(|name, counters| keep(name) || Arc::strong_count(counters) > 1);
    }

    /// Rings when a replica has no request in flight any more that had some when it was last looked at. (Ringing after
    /// every request would cost as much as the request.)
    pub async fn became_idle(&self) {
        self.idle.notified().await;
    }
}

fn read(counters: &Counters) -> ReplicaTraffic {
    let busy = |counters: &Counters| counters.in_flight.load(Ordering::SeqCst);
    if busy(counters) > 0 {
        // The mark comes first and the count is read after it: either we see the last request end, or its end sees
        // the mark.
        counters.awaited.store(true, Ordering::SeqCst);
    }
    ReplicaTraffic { in_flight: busy(counters), finished: counters.finished.load(Ordering::Relaxed) }
}

/// One replica's place on the board.
#[derive(Clone, Debug)]
pub struct BoardEntry(Arc<Counters>);

impl BoardEntry {
    /// Takes a lease. It ends when the lease is dropped.
    pub fn lease(&self) -> Lease {
        self.0.in_flight.fetch_add(1, Ordering::SeqCst);
        Lease(Arc::clone(&self.0))
    }
}

/// One request in flight. Dropping it ends it, on every path.
#[derive(Debug)]
pub struct Lease(Arc<Counters>);

impl Lease {
    /// Returns how many requests the replica has in flight, this one included.
    pub fn in_flight(&self) -> u64 {
        self.0.in_flight.load(Ordering::Relaxed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let counters = &self.0;
        counters.finished.fetch_add(1, Ordering::Relaxed);
        let last = counters.in_flight.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && counters.awaited.load(Ordering::SeqCst) {
            counters.awaited.store(false, Ordering::SeqCst);
            counters.idle.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

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

    #[test]
    fn the_bell_rings_for_those_who_saw_the_replica_busy_and_for_nobody_else() {
        let board = TrafficBoard::default();
        let replica: Arc<str> = "iris-predictor-00001-0".into();
        let rang = || board.became_idle().now_or_never().is_some();
        drop(board.lease(&replica));
        assert!(!rang(), "nobody has looked");
        let lease = board.lease(&replica);
        assert_eq!(board.snapshot()[&replica].in_flight, 1);
        drop(board.lease(&replica));
        assert!(!rang(), "another one is still in flight");
        drop(lease);
        assert!(rang());
        drop(board.lease(&replica));
        assert!(!rang(), "told once");
    }
}
