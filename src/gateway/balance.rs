//! Which replica takes a request: shares between revisions first, then the least loaded one below its concurrency
//! limit that is not known to fail. When all are at the limit, requests wait in a bounded queue, first come first served.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::plan::routes::{Backend, ReplicaName, RouteState, RouteTable};
use crate::traffic::turn;
use crate::workload::ComponentKey;

use super::breaker::{Health, Policy, Standing, Verdict};
use super::metrics::Metrics;

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

/// What a choice knows of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Requests in flight.
    pub(crate) busy: u32,
    /// What may be sent to it.
    pub(crate) standing: Standing,
}

/// Two random numbers: one below 1 that decides between revisions, one that decides between equals.
pub(crate) type Draw = (f64, u32);

/// Chooses among backends. `known` gives the condition of each one, none for those not to be used.
pub(crate) fn choose(backends: &[Backend], known: impl Fn(&Backend) -> Option<Condition>, draw: Draw) -> Choice {
    let usable = || backends.iter().enumerate().filter_map(|(at, one)| Some((at, one, known(one)?)));
    let usable = || usable().filter(|(_, one, _)| one.weight > 0);
    let Some(revision) = draw_revision(usable().map(|(_, one, _)| one), draw.0) else { return Choice::Nobody };
    let ours = || usable().filter(|(_, one, _)| one.revision == *revision);
    let free = || ours().filter(|(_, one, seen)| one.concurrency.is_none_or(|limit| seen.busy < limit));
    let least = |standing: Option<Standing>| {
        let eligible = free().filter(|(_, _, seen)| standing.is_none_or(|wanted| seen.standing == wanted));
        let turned = |at: usize| (at + draw.1 as usize) % backends.len();
        eligible.min_by_key(|(at, _, seen)| (seen.busy, turned(*at))).map(|(at, ..)| at)
    };
    // One that may work again is tried with the next request; nobody else would ever find out.
    let best = least(Some(Standing::Due)).or_else(|| least(Some(Standing::In)));
    // When all are out, each is as good as the others.
    let all_out = || ours().all(|(_, _, seen)| seen.standing != Standing::In);
    best.or_else(|| all_out().then(|| least(None)).flatten()).map_or(Choice::Full, Choice::Take)
}

/// Draws a revision by the shares of its replicas.
fn draw_revision<'a>(usable: impl Iterator<Item = &'a Backend> + Clone, draw: f64) -> Option<&'a Arc<str>> {
    let total: u64 = usable.clone().map(|one| u64::from(one.weight)).sum();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shares")]
    let mut point = (draw * total as f64) as u64;
    let mut usable = usable;
    usable.find_map(|one| {
        let here = point < u64::from(one.weight);
        point = point.saturating_sub(u64::from(one.weight));
        here.then_some(&one.revision)
    })
}

/// Counts requests in flight, and failures, per replica where a choice depends on it. Shared by all workers.
#[derive(Debug)]
pub(crate) struct Balancer {
    replicas: Mutex<HashMap<ReplicaName, Load>>,
    queues: Mutex<HashMap<ComponentKey, Arc<Queue>>>,
    policy: Policy,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Load {
    busy: u32,
    health: Health,
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
    /// This request shows whether the replica works again.
    trial: bool,
    reported: bool,
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
    pub(crate) fn new(policy: Policy, metrics: Arc<Metrics>) -> Self {
        Self { replicas: Mutex::default(), queues: Mutex::default(), policy, metrics }
    }

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
        if let Some(place) = self.acquire_now(key, backends, tried)? {
            return Ok(place);
        }
        let queue = self.queue(key);
        let _place = Waiting::join(&queue, patience.max_waiting)?;
        let wait = self.wait(&queue, current, tried);
        tokio::time::timeout(patience.timeout, wait).await.unwrap_or(Err(NoPlace::TooLong))
    }

    /// Takes a place if there is one and nobody waits for it.
    pub(crate) fn acquire_now(
        self: &Arc<Self>,
        key: &ComponentKey,
        backends: &[Backend],
        tried: &[ReplicaName],
    ) -> Result<Option<(Backend, Option<Slot>)>, NoPlace> {
        if let [one] = backends
            && one.concurrency.is_none()
        {
            let usable = one.weight > 0 && !tried.contains(&one.replica);
            return if usable { Ok(Some((one.clone(), None))) } else { Err(NoPlace::Nobody) };
        }
        let queue = self.queue(key);
        if *queue.waiting.lock().unwrap_or_else(PoisonError::into_inner) > 0 {
            return Ok(None);
        }
        let taken = self.try_take(backends, tried, &queue)?;
        Ok(taken.map(|(backend, slot)| (backend, Some(slot))))
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
        let now = turn::now();
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let condition = |one: &Backend| {
            let known = replicas.get(&one.replica);
            let standing = known.map_or(Standing::In, |load| load.health.standing(now));
            (!tried.contains(&one.replica)).then(|| Condition { busy: known.map_or(0, |load| load.busy), standing })
        };
        match choose(backends, condition, rand::random()) {
            Choice::Nobody => Err(NoPlace::Nobody),
            Choice::Full => Ok(None),
            Choice::Take(at) => {
                let backend = backends[at].clone();
                let load = replicas.entry(Arc::clone(&backend.replica)).or_default();
                load.busy += 1;
                let slot = Slot {
                    balancer: Arc::clone(self),
                    replica: Arc::clone(&backend.replica),
                    queue: Arc::clone(queue),
                    trial: load.health.send(now),
                    reported: false,
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

    /// Forgets queues of components, and records of replicas, that are gone.
    pub(crate) fn sweep(&self, keep: impl Fn(&ComponentKey) -> bool, table: &RouteTable) {
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        if !replicas.is_empty() {
            let open = table.services.values().flat_map(|service| service.components.values());
            let open = open.filter_map(|component| match &component.state {
                RouteState::Open(backends) => Some(backends),
                RouteState::Held(_) | RouteState::NotReady { .. } => None,
            });
            let known: HashSet<&str> = open.flatten().map(|one| &*one.replica).collect();
            replicas.retain(|name, load| load.busy > 0 || known.contains(&**name));
        }
        drop(replicas);
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|key, queue| Arc::strong_count(queue) > 1 || keep(key));
    }
}

/// How often a waiter looks for a new table without being woken.
const RECHECK: Duration = Duration::from_millis(100);

impl Slot {
    /// Says how the request ended for the replica; what is said first counts.
    pub(crate) fn report(&mut self, verdict: Verdict) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        let mut replicas = self.balancer.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(load) = replicas.get_mut(&self.replica) else { return };
        if load.health.report(verdict, self.trial, turn::now(), self.balancer.policy) {
            self.balancer.metrics.ejections.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(replica = %self.replica, "replica fails; others get its requests until it works again");
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut replicas = self.balancer.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(load) = replicas.get_mut(&self.replica) {
            load.busy -= 1;
            if self.trial && !self.reported {
                load.health.abandon_trial();
            }
            if load.busy == 0 && load.health.is_clean() {
                replicas.remove(&self.replica);
            }
        }
        drop(replicas);
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

    fn fine(busy: u32) -> Condition {
        Condition { busy, standing: Standing::In }
    }

    const POLICY: Policy = Policy { threshold: 2, pause: Duration::from_secs(1), max_pause: Duration::from_secs(30) };
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
            let load = |one: &Backend| backends.iter().position(|other| other == one).map(|at| fine(busy[at]));
            assert_eq!(choose(&backends, load, (0.5, 0)), wanted, "{busy:?}");
        }
        assert_eq!(choose(&backends, |_| Some(fine(0)), (0.5, 3)), Choice::Take(1), "equals take turns");
        assert_eq!(choose(&backends[..2], |_| Some(fine(9)), (0.5, 0)), Choice::Full);
        assert_eq!(choose(&backends, |_| None, (0.5, 0)), Choice::Nobody, "all were tried");
        assert_eq!(choose(&backends[3..], |_| Some(fine(0)), (0.5, 0)), Choice::Nobody, "no share of traffic");
        assert_eq!(choose(&[], |_| Some(fine(0)), (0.5, 0)), Choice::Nobody);
    }

    #[test]
    fn failing_replicas_get_nothing_while_others_can_take_it() {
        let backends = [backend("a", "1", 1, Some(2)), backend("b", "1", 1, Some(2))];
        let choose = |a: (u32, Standing), b: (u32, Standing)| {
            let known = |one: &Backend| {
                let (busy, standing) = if &*one.replica == "a" { a } else { b };
                Some(Condition { busy, standing })
            };
            super::choose(&backends, known, (0.5, 0))
        };
        assert_eq!(choose((0, Standing::Out), (1, Standing::In)), Choice::Take(1));
        assert_eq!(choose((1, Standing::Due), (0, Standing::In)), Choice::Take(0), "tried again");
        assert_eq!(choose((0, Standing::Out), (2, Standing::In)), Choice::Full, "a busy one is worth waiting for");
        assert_eq!(choose((1, Standing::Out), (0, Standing::Out)), Choice::Take(1), "all are out: all are in");
    }

    #[test]
    fn revisions_get_their_shares_whatever_their_load() {
        let backends = [backend("a", "1", 45, None), backend("b", "1", 45, None), backend("c", "2", 10, None)];
        let busy = |one: &Backend| Some(fine(if &*one.replica == "c" { 1000 } else { 0 }));
        let drawn = |at: i32| choose(&backends, busy, (f64::from(at) / 1000.0, 0));
        let canary = (0..1000).filter(|at| drawn(*at) == Choice::Take(2)).count();
        assert_eq!(canary, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_over_the_limit_waits_for_a_place_and_no_longer_than_allowed() {
        let (balancer, key) = (Arc::new(Balancer::new(POLICY, Arc::default())), key());
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
        assert!(balancer.replicas.lock().unwrap().is_empty(), "every place was given back");
    }
}
