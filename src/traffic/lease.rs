//! Requests in flight, counted per replica.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::meter::{Measured, Meter};
use super::queue::Queues;
use super::turn;
use super::waiting::WaitingRoom;

/// Counts of one replica.
#[derive(Debug)]
struct Counters {
    in_flight: AtomicU64,
    /// Of those, health checks and scrapes: they keep a replica from being stopped, not from being found idle.
    overlooked: AtomicU64,
    finished: AtomicU64,
    /// When the last request that counts ended, in microseconds since the board was made, plus one; 0 means never.
    ended: AtomicU64,
    /// Somebody looked while requests were in flight, and waits to hear when there are none.
    awaited: AtomicBool,
    idle: Arc<Notify>,
    meter: Meter,
    origin: Instant,
}

impl Counters {
    fn new(idle: &Arc<Notify>, origin: Instant) -> Self {
        Self {
            in_flight: AtomicU64::new(0),
            overlooked: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
            idle: Arc::clone(idle),
            meter: Meter::new(origin.elapsed()),
            origin,
        }
    }

    /// Time since the board was made.
    fn age(&self) -> Duration {
        turn::now().duration_since(self.origin)
    }

    /// Requests in flight that are somebody's.
    fn wanted(&self) -> u64 {
        let in_flight = self.in_flight.load(Ordering::SeqCst);
        in_flight.saturating_sub(self.overlooked.load(Ordering::SeqCst))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What the driver sees of one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaTraffic {
    /// Requests in flight.
    pub in_flight: u64,
    /// Of those, how many are somebody's: not health checks and scrapes.
    pub wanted: u64,
    /// Requests ended since the daemon started.
    pub finished: u64,
    /// How long ago the last byte of the last answer to somebody went out; none when nobody asked yet.
    pub idle_for: Option<Duration>,
}

/// Shared by gateway and driver; cheap to clone.
#[derive(Clone, Debug)]
pub struct TrafficBoard {
    replicas: Arc<Mutex<HashMap<Arc<str>, Arc<Counters>>>>,
    idle: Arc<Notify>,
    origin: Instant,
    pub(super) waiting: WaitingRoom,
    pub(super) queues: Queues,
}

impl Default for TrafficBoard {
    fn default() -> Self {
        Self {
            replicas: Arc::default(),
            idle: Arc::default(),
            origin: Instant::now(),
            waiting: WaitingRoom::default(),
            queues: Queues::default(),
        }
    }
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
        let fresh = || Arc::new(Counters::new(&self.idle, self.origin));
        BoardEntry(Arc::clone(replicas.entry(Arc::clone(replica)).or_insert_with(fresh)))
    }

    /// Returns the counts of one replica.
    pub fn of(&self, replica: &str) -> ReplicaTraffic {
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        replicas.get(replica).map(|counters| read(counters)).unwrap_or_default()
    }

    /// Returns the counts of one replica, and has the bell rung when it becomes idle.
    pub fn watch(&self, replica: &str) -> ReplicaTraffic {
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        replicas.get(replica).map(|counters| watch(counters)).unwrap_or_default()
    }

    /// Returns the counts of every replica that was ever leased and not forgotten, and has the bell rung when one of
    /// those becomes idle for which somebody waits.
    pub fn snapshot(&self, awaited: impl Fn(&str) -> bool) -> HashMap<Arc<str>, ReplicaTraffic> {
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let look = |(name, counters): (&Arc<str>, &Arc<Counters>)| {
            let seen = if awaited(name) { watch(counters) } else { read(counters) };
            (Arc::clone(name), seen)
        };
        replicas.iter().map(look).collect()
    }

    /// Returns what was asked of every replica since it was last asked. Health checks and scrapes are no load.
    pub fn measure(&self) -> HashMap<Arc<str>, Measured> {
        let now = self.now();
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let look = |counters: &Counters| counters.meter.look(counters.wanted(), now);
        replicas.iter().map(|(name, counters)| (Arc::clone(name), look(counters))).collect()
    }

    /// Time since the board was made.
    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Forgets replicas that are gone and idle.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        replicas.retain(|name, counters| keep(name) || Arc::strong_count(counters) > 1);
    }

    /// Rings when a replica has no request in flight any more that had some when it was last watched. (Ringing after
    /// every request would cost as much as the request.)
    pub async fn became_idle(&self) {
        self.idle.notified().await;
    }
}

fn watch(counters: &Counters) -> ReplicaTraffic {
    if counters.in_flight.load(Ordering::SeqCst) > 0 {
        // The mark comes first and the count is read after it: either we see the last request end, or its end sees
        // the mark.
        counters.awaited.store(true, Ordering::SeqCst);
    }
    read(counters)
}

fn read(counters: &Counters) -> ReplicaTraffic {
    let in_flight = counters.in_flight.load(Ordering::SeqCst);
    let ended = counters.ended.load(Ordering::SeqCst).checked_sub(1);
    ReplicaTraffic {
        in_flight,
        wanted: counters.wanted(),
        finished: counters.finished.load(Ordering::Relaxed),
        idle_for: ended.map(|ended| Duration::from_micros(micros(counters.origin.elapsed()).saturating_sub(ended))),
    }
}

/// One replica's place on the board.
#[derive(Clone, Debug)]
pub struct BoardEntry(Arc<Counters>);

impl BoardEntry {
    /// Takes a lease. It ends when the lease is dropped.
    pub fn lease(&self) -> Lease {
        self.0.in_flight.fetch_add(1, Ordering::SeqCst);
        self.0.meter.begin(self.0.age());
        Lease { counters: Arc::clone(&self.0), overlooked: false }
    }
}

/// One request in flight. Dropping it ends it, on every path.
#[derive(Debug)]
pub struct Lease {
    counters: Arc<Counters>,
    overlooked: bool,
}

impl Lease {
    /// Returns how many requests the replica has in flight, this one included.
    pub fn in_flight(&self) -> u64 {
        self.counters.in_flight.load(Ordering::Relaxed)
    }

    /// Makes it one that does not keep the service awake: a health check or a scrape.
    #[must_use]
    pub fn overlooked(mut self) -> Self {
        if !std::mem::replace(&mut self.overlooked, true) {
            self.counters.overlooked.fetch_add(1, Ordering::SeqCst);
            self.counters.meter.forget(self.counters.age());
        }
        self
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let counters = &self.counters;
        if self.overlooked {
            counters.overlooked.fetch_sub(1, Ordering::SeqCst);
        } else {
            let now = counters.age();
            // Before the count goes down: who sees it at nought must see since when.
            counters.ended.store(micros(now) + 1, Ordering::SeqCst);
            counters.meter.end(now);
        }
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
        let traffic = board.of(&replica);
        assert_eq!((traffic.in_flight, traffic.wanted, traffic.finished), (1, 1, 1));
        board.retain(|_| false);
        assert_eq!(board.of(&replica).in_flight, 1, "a leased replica is not forgotten");
        drop(second);
        board.retain(|_| false);
        assert_eq!(board.of(&replica), ReplicaTraffic::default());
    }

    #[tokio::test(start_paused = true)]
    async fn the_idle_clock_starts_at_the_end_of_the_last_request_and_checks_do_not_touch_it() {
        let board = TrafficBoard::default();
        let replica: Arc<str> = "iris-predictor-00001-0".into();
        assert_eq!(board.of(&replica).idle_for, None);
        let lease = board.lease(&replica);
        tokio::time::advance(Duration::from_secs(5)).await;
        drop(lease);
        tokio::time::advance(Duration::from_secs(7)).await;
        let check = board.lease(&replica).overlooked();
        let traffic = board.of(&replica);
        assert_eq!((traffic.in_flight, traffic.wanted), (1, 0), "it is not stopped under a check");
        drop(check);
        assert_eq!(board.of(&replica).idle_for, Some(Duration::from_secs(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn load_is_what_is_asked_and_health_checks_are_none() {
        let board = TrafficBoard::default();
        let replica: Arc<str> = "iris-predictor-00001-0".into();
        let lease = board.lease(&replica);
        let check = board.lease(&replica).overlooked();
        tokio::time::advance(Duration::from_secs(1)).await;
        let load = board.measure()[&replica];
        assert!((load.concurrency - 1.0).abs() < 1e-3 && (load.rps - 1.0).abs() < 1e-3, "{load:?}");
        tokio::time::advance(Duration::from_millis(500)).await;
        drop((lease, check));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!((board.measure()[&replica].concurrency - 0.5).abs() < 1e-3);
    }

    #[test]
    fn the_bell_rings_for_those_who_saw_the_replica_busy_and_for_nobody_else() {
        let board = TrafficBoard::default();
        let replica: Arc<str> = "iris-predictor-00001-0".into();
        let rang = || board.became_idle().now_or_never().is_some();
        drop(board.lease(&replica));
        assert!(!rang(), "nobody has looked");
        let lease = board.lease(&replica);
        assert_eq!(board.snapshot(|_| false)[&replica].in_flight, 1);
        assert_eq!(board.snapshot(|name| name == &*replica)[&replica].in_flight, 1);
        drop(board.lease(&replica));
        assert!(!rang(), "another one is still in flight");
        drop(lease);
        assert!(rang());
        drop(board.lease(&replica));
        assert!(!rang(), "told once");
    }
}
