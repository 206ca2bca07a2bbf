//! Counters of the data path, as plain atomics. Telemetry renders [`Metrics::snapshot`]; nothing here knows how.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::api::ServiceKey;

use super::payload_log::LogCounts;

/// Upper bounds of the latency buckets, in seconds; one more bucket takes the rest.
pub const LATENCY_BOUNDS: [f64; 14] =
    [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Counters of everything the gateway does. Every worker has its own, so that none waits for another's cache lines;
/// they are added up when somebody looks.
#[derive(Debug, Default)]
pub struct Metrics {
    services: RwLock<BTreeMap<ServiceKey, Shards>>,
    unrouted: RwLock<Shards>,
    pub(crate) connections: AtomicU64,
    pub(crate) rests: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) upstream_connects: AtomicU64,
    pub(crate) ejections: AtomicU64,
    pub(crate) log_dropped: Arc<AtomicU64>,
    pub(crate) mirrors_sent: AtomicU64,
    pub(crate) mirrors_failed: AtomicU64,
    pub(crate) mirrors_dropped: AtomicU64,
    pub(crate) payloads: Arc<LogCounts>,
}

/// One for each worker that has asked for one.
#[derive(Debug, Default)]
struct Shards(Vec<Arc<ServiceMetrics>>);

impl Shards {
    fn of(&mut self, worker: usize) -> Arc<ServiceMetrics> {
        if self.0.len() <= worker {
            self.0.resize_with(worker + 1, Arc::default);
        }
        Arc::clone(&self.0[worker])
    }

    fn snapshot(&self) -> ServiceSnapshot {
        self.0.iter().fold(ServiceSnapshot::default(), |sum, one| sum.plus(&one.snapshot()))
    }
}

/// One worker's counters of one service, or of requests that reached none.
#[derive(Debug, Default)]
pub(crate) struct ServiceMetrics {
    classes: [AtomicU64; 6],
    in_flight: AtomicU64,
    waiting: AtomicU64,
    latency: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    latency_micros: AtomicU64,
    connect_errors: AtomicU64,
    broken_answers: AtomicU64,
    timeouts: AtomicU64,
    pub(crate) request_bytes: AtomicU64,
    pub(crate) response_bytes: AtomicU64,
}

/// What went wrong with a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamError {
    /// No connection.
    Connect,
    /// The connection ended, or made no sense, before the answer was whole.
    Broken,
    /// No answer in time.
    Timeout,
}

impl ServiceMetrics {
    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// `class` is the first digit of the status, 0 when the client left before there was one.
    pub(crate) fn end(&self, class: usize, elapsed: Duration) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.classes[class.min(5)].fetch_add(1, Ordering::Relaxed);
        let seconds = elapsed.as_secs_f64();
        let bucket = LATENCY_BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(LATENCY_BOUNDS.len());
        self.latency[bucket].fetch_add(1, Ordering::Relaxed);
        self.latency_micros.fetch_add(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The request turned out to be another service's.
    pub(crate) fn forget(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn waits(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn waited(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn upstream_error(&self, error: UpstreamError) {
        let counter = match error {
            UpstreamError::Connect => &self.connect_errors,
            UpstreamError::Broken => &self.broken_answers,
            UpstreamError::Timeout => &self.timeouts,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn snapshot(&self) -> ServiceSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServiceSnapshot {
            responses: self.classes.each_ref().map(read),
            in_flight: read(&self.in_flight),
            waiting: read(&self.waiting),
            latency: self.latency.each_ref().map(read),
            latency_sum: Duration::from_micros(read(&self.latency_micros)),
            connect_errors: read(&self.connect_errors),
            broken_answers: read(&self.broken_answers),
            timeouts: read(&self.timeouts),
            request_bytes: read(&self.request_bytes),
            response_bytes: read(&self.response_bytes),
        }
    }
}

impl Metrics {
    /// Returns a worker's counters of a service, made on first use.
    pub(crate) fn service(&self, worker: usize, key: &ServiceKey) -> Arc<ServiceMetrics> {
        let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        services.entry(key.clone()).or_default().of(worker)
    }

    /// Returns a worker's counters of requests that reached no service.
    pub(crate) fn unrouted(&self, worker: usize) -> Arc<ServiceMetrics> {
        self.unrouted.write().unwrap_or_else(PoisonError::into_inner).of(worker)
    }

    /// Forgets the counters of services that are gone.
    pub fn retain(&self, keep: impl Fn(&ServiceKey) -> bool) {
        self.services.write().unwrap_or_else(PoisonError::into_inner).retain(|key, _| keep(key));
    }

    /// Returns all counters as they are now.
    pub fn snapshot(&self) -> MetricsSnapshot {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MetricsSnapshot {
            services: services.iter().map(|(key, service)| (key.clone(), service.snapshot())).collect(),
            unrouted: self.unrouted.read().unwrap_or_else(PoisonError::into_inner).snapshot(),
            connections: self.connections.load(Ordering::Relaxed),
            rests: self.rests.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
            upstream_connects: self.upstream_connects.load(Ordering::Relaxed),
            ejections: self.ejections.load(Ordering::Relaxed),
            log_dropped: self.log_dropped.load(Ordering::Relaxed),
            mirrors: [&self.mirrors_sent, &self.mirrors_failed, &self.mirrors_dropped].map(read),
            payloads: [&self.payloads.delivered, &self.payloads.failed, &self.payloads.dropped].map(read),
        }
    }
}

/// The gateway's counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricsSnapshot {
    /// By service.
    pub services: BTreeMap<ServiceKey, ServiceSnapshot>,
    /// Requests that reached no service: unknown addresses, lists, malformed ones.
    pub unrouted: ServiceSnapshot,
    /// Client connections open now.
    pub connections: u64,
    /// Times a connection without a request gave its buffers back.
    pub rests: u64,
    /// Requests that ended in a panic of ours.
    pub panics: u64,
    /// Connections made to backends since the start.
    pub upstream_connects: u64,
    /// Times a failing replica was taken out.
    pub ejections: u64,
    /// Access log lines dropped because they could not be written in time.
    pub log_dropped: u64,
    /// Copies of requests that were answered with success, that were not, and that were not sent.
    pub mirrors: [u64; 3],
    /// Payload events that were taken by their sink, that were not, and that did not fit a queue.
    pub payloads: [u64; 3],
}

/// One service's counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSnapshot {
    /// Requests ended, by first digit of the status; 0 counts clients that left before there was one.
    pub responses: [u64; 6],
    /// Requests in flight.
    pub in_flight: u64,
    /// Requests waiting for a free replica.
    pub waiting: u64,
    /// Requests ended, by time to the last byte; bounds are [`LATENCY_BOUNDS`], not cumulative.
    pub latency: [u64; LATENCY_BOUNDS.len() + 1],
    /// Sum of those times.
    pub latency_sum: Duration,
    /// Backends that could not be connected to.
    pub connect_errors: u64,
    /// Answers that ended before they were whole.
    pub broken_answers: u64,
    /// Answers that did not come in time.
    pub timeouts: u64,
    /// Bytes of request bodies forwarded.
    pub request_bytes: u64,
    /// Bytes of answer bodies forwarded.
    pub response_bytes: u64,
}

impl ServiceSnapshot {
    fn plus(mut self, other: &Self) -> Self {
        let add = |sum: &mut [u64], more: &[u64]| sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        add(&mut self.responses, &other.responses);
        add(&mut self.latency, &other.latency);
        self.in_flight += other.in_flight;
        self.waiting += other.waiting;
        self.latency_sum += other.latency_sum;
        self.connect_errors += other.connect_errors;
        self.broken_answers += other.broken_answers;
        self.timeouts += other.timeouts;
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
        self
    }
}
