//! Which replica takes a request: shares between revisions first, then the least loaded one below its concurrency
//! limit. When all are at the limit, requests wait in a bounded queue, first come first served.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::plan::routes::{Backend, ReplicaName};
use crate::workload::ComponentKey;

/// What [`choose`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This one, by position.
    Take(usize),
    /// Wait: the chosen revision's replicas are all at their limit.
    Full,
    /// Nobody has a share of traffic.
    Nobody,
}

/// Chooses among backends. `busy` gives each one's requests in flight, none for those not to be used; `draw` is a
/// random number below one that decides between revisions.
pub(crate) fn choose(backends: &[Backend], busy: impl Fn(&Backend) -> Option<u32>, draw: f64) -> Choice {
    let usable = || backends.iter().enumerate().filter(|(_, one)| one.weight > 0 && busy(one).is_some());
    let total: u64 = usable().map(|(_, one)| u64::from(one.weight)).sum();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shares")]
    let mut point = (draw * total as f64) as u64;
    let revision = usable().find_map(|(_, one)| {
        let here = point < u64::from(one.weight);
        point = point.saturating_sub(u64::from(one.weight));
        here.then_some(&one.revision)
    });
    let Some(revision) = revision else { return Choice::Nobody };
    let free = usable().filter(|(_, one)| one.revision == *revision).filter_map(|(at, one)| {
        let busy = busy(one)?;
        one.concurrency.is_none_or(|limit| busy < limit).then_some((busy, at))
    });
    free.min().map_or(Choice::Full, |(_, at)| Choice::Take(at))
}

/// Counts requests in flight per replica where a choice depends on it.
#[derive(Debug, Default)]
pub(crate) struct Balancer {
    busy: Mutex<HashMap<ReplicaName, u32>>,
    queues: Mutex<HashMap<ComponentKey, Arc<Queue>>>,
}

/// Requests waiting for a replica of one component.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<usize>,
    freed: Notify,
}

/// One request's place at a replica. Free again when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    balancer: Arc<Balancer>,
    replica: ReplicaName,
    queue: Arc<Queue>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// Nobody has a share of traffic, or all were tried.
    Nobody,
    /// As many as may wait are waiting.
    QueueFull,
    /// Waited in vain.
    TooLong,
}

/// How long and how many may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Most requests waiting for one component.
    pub(crate) max_waiting: usize,
    /// Longest wait.
    pub(crate) timeout: Duration,
}

impl Balancer {
    /// Takes a place at one of the backends, but none of `tried`. `current` gives them as they are after a wait, when
    /// the table may have changed.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        key: &ComponentKey,
        backends: &[Backend],
        current: impl FnMut() -> Vec<Backend>,
        tried: &[ReplicaName],
        patience: Patience,
    ) -> Result<(Backend, Option<Slot>), NoPlace> {
        if let [one] = backends
            && one.concurrency.is_none()
        {
            let usable = one.weight > 0 && !tried.contains(&one.replica);
            return if usable { Ok((one.clone(), None)) } else { Err(NoPlace::Nobody) };
        }
        let queue = self.queue(key);
        if *queue.waiting.lock().unwrap_or_else(PoisonError::into_inner) == 0
            && let Some(taken) = self.try_take(backends, tried, &queue)?
        {
            return Ok((taken.0, Some(taken.1)));
        }
        let _place = Waiting::join(&queue, patience.max_waiting)?;
        let wait = self.wait(&queue, current, tried);
        tokio::time::timeout(patience.timeout, wait).await.unwrap_or(Err(NoPlace::TooLong))
    }

    async fn wait(
        self: &Arc<Self>,
        queue: &Arc<Queue>,
        mut current: impl FnMut() -> Vec<Backend>,
        tried: &[ReplicaName],
    ) -> Result<(Backend, Option<Slot>), NoPlace> {
        loop {
            if let Some((backend, slot)) = self.try_take(&current(), tried, queue)? {
                return Ok((backend, Some(slot)));
            }
            // Woken by a freed place; a new table is noticed at the latest after the recheck. Either way it looks again.
            let _ = tokio::time::timeout(RECHECK, queue.freed.notified()).await;
        }
    }

    fn try_take(
        self: &Arc<Self>,
        backends: &[Backend],
        tried: &[ReplicaName],
        queue: &Arc<Queue>,
    ) -> Result<Option<(Backend, Slot)>, NoPlace> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let load =
            |one: &Backend| (!tried.contains(&one.replica)).then(|| busy.get(&one.replica).copied().unwrap_or(0));
        match choose(backends, load, rand::random::<f64>()) {
            Choice::Nobody => Err(NoPlace::Nobody),
            Choice::Full => Ok(None),
            Choice::Take(at) => {
                let backend = backends[at].clone();
                *busy.entry(Arc::clone(&backend.replica)).or_default() += 1;
                let slot = Slot {
                    balancer: Arc::clone(self),
                    replica: Arc::clone(&backend.replica),
                    queue: Arc::clone(queue),
                };
                Ok(Some((backend, slot)))
            }
        }
    }

    fn queue(&self, key: &ComponentKey) -> Arc<Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(key) {
            return Arc::clone(queue);
        }
        Arc::clone(queues.entry(key.clone()).or_default())
    }

    /// Forgets queues of components that are gone.
    pub(crate) fn sweep(&self, keep: impl Fn(&ComponentKey) -> bool) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|key, queue| Arc::strong_count(queue) > 1 || keep(key));
    }
}

/// How often a waiter looks for a new table without being woken.
const RECHECK: Duration = Duration::from_millis(100);

impl Drop for Slot {
    fn drop(&mut self) {
        let mut busy = self.balancer.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = busy.get_mut(&self.replica) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&self.replica);
            }
        }
        drop(busy);
        self.queue.freed.notify_one();
    }
}

/// A place in a queue.
struct Waiting(Arc<Queue>);

impl Waiting {
    fn join(queue: &Arc<Queue>, max: usize) -> Result<Self, NoPlace> {
        let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if *waiting >= max {
            return Err(NoPlace::QueueFull);
        }
        *waiting += 1;
        Ok(Self(Arc::clone(queue)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ComponentKind, ServiceKey};
    use crate::workload::UpstreamProtocol;

    fn backend(name: &str, revision: &str, weight: u32, concurrency: Option<u32>) -> Backend {
        Backend {
            replica: name.into(),
            address: "127.0.0.1:1".parse().unwrap(),
            protocol: UpstreamProtocol::Http1,
            grpc_address: None,
            concurrency,
            weight,
            revision: revision.into(),
        }
    }

    fn key() -> ComponentKey {
        ComponentKey { service: ServiceKey::new("default", "iris"), component: ComponentKind::Predictor }
    }

    const PATIENCE: Patience = Patience { max_waiting: 1, timeout: Duration::from_secs(5) };

    #[test]
    fn the_least_loaded_replica_below_its_limit_is_chosen() {
        let backends = [
            backend("a", "1", 1, Some(2)),
            backend("b", "1", 1, Some(9)),
            backend("c", "1", 1, None),
            backend("d", "1", 0, None),
        ];
        for (busy, wanted) in
            [([0, 0, 0, 0], Choice::Take(0)), ([1, 0, 1, 0], Choice::Take(1)), ([2, 9, 50, 0], Choice::Take(2))]
        {
            let load = |one: &Backend| backends.iter().position(|other| other == one).map(|at| busy[at]);
            assert_eq!(choose(&backends, load, 0.5), wanted, "{busy:?}");
        }
        assert_eq!(choose(&backends[..2], |_| Some(9), 0.5), Choice::Full);
        assert_eq!(choose(&backends, |_| None, 0.5), Choice::Nobody, "all were tried");
        assert_eq!(choose(&backends[3..], |_| Some(0), 0.5), Choice::Nobody, "no share of traffic");
        assert_eq!(choose(&[], |_| Some(0), 0.5), Choice::Nobody);
    }

    #[test]
    fn revisions_get_their_shares_whatever_their_load() {
        let backends = [backend("a", "1", 45, None), backend("b", "1", 45, None), backend("c", "2", 10, None)];
        let busy = |one: &Backend| Some(if &*one.replica == "c" { 1000 } else { 0 });
        let canary = (0..1000).filter(|at| choose(&backends, busy, f64::from(*at) / 1000.0) == Choice::Take(2)).count();
        assert_eq!(canary, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_over_the_limit_waits_for_a_place_and_no_longer_than_allowed() {
        let (balancer, key) = (Arc::new(Balancer::default()), key());
        let one = || vec![backend("a", "1", 1, Some(1))];
        let (_, slot) = balancer.acquire(&key, &one(), one, &[], PATIENCE).await.unwrap();
        let backends = one();
        let waiter = balancer.acquire(&key, &backends, one, &[], PATIENCE);
        let overflow = async {
            tokio::task::yield_now().await;
            let refused = balancer.acquire(&key, &one(), one, &[], PATIENCE).await.map(drop);
            drop(slot);
            refused
        };
        let (waited, refused) = tokio::join!(waiter, overflow);
        assert_eq!(refused, Err(NoPlace::QueueFull), "at once");
        let (_, slot) = waited.unwrap();
        assert_eq!(balancer.acquire(&key, &one(), one, &[], PATIENCE).await.map(drop), Err(NoPlace::TooLong));
        drop(slot);
        assert!(balancer.acquire(&key, &one(), one, &[], PATIENCE).await.is_ok());
        assert!(balancer.busy.lock().unwrap().is_empty(), "every place was given back");
    }
}
