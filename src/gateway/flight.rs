//! One request from its head to the last byte of its answer, for counting; and its client connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderValue, StatusCode};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::api::ServiceKey;
use crate::traffic::turn;

use super::access_log::{End, Entry};
use super::crew::Place;
use super::metrics::{Metrics, ServiceMetrics};

/// A client connection, or what it has become by an upgrade. Keeps its place until everything done for it has ended.
#[derive(Debug)]
pub(crate) struct Client {
    /// Address of the other end.
    pub(crate) peer: SocketAddr,
    /// Its IP address, for `X-Forwarded-For`.
    pub(crate) ip: HeaderValue,
    /// The service a replica of which it is.
    pub(crate) caller: Option<Arc<ServiceKey>>,
    /// Requests in flight on it.
    in_flight: AtomicUsize,
    /// Requests that we have begun to answer.
    begun: AtomicUsize,
    /// Whether an answer on it could not be finished.
    broken: AtomicBool,
    /// Whether somebody wants to know when it has left although nothing more is read from it.
    watched: AtomicBool,
    /// Whether it was seen to have left, while it was watched.
    left: AtomicBool,
    /// Its socket, while nobody reads from it.
    resting: Mutex<Option<TcpStream>>,
    place: Option<Place>,
    metrics: Arc<Metrics>,
}

impl Client {
    pub(crate) fn new(
        peer: SocketAddr,
        caller: Option<Arc<ServiceKey>>,
        place: Place,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        metrics.connections.fetch_add(1, Ordering::Relaxed);
        let ip = HeaderValue::try_from(peer.ip().to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        let (in_flight, begun, broken) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let (watched, left) = (AtomicBool::new(false), AtomicBool::new(false));
        let (place, resting) = (Some(place), Mutex::default());
        Arc::new(Self { peer, ip, caller, in_flight, begun, broken, watched, left, resting, place, metrics })
    }

    /// Returns someone who asks on this client's behalf: what breaks for them does not break the client's connection.
    pub(crate) fn on_behalf(&self) -> Arc<Self> {
        let (in_flight, begun, broken) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let (peer, ip, caller, metrics) = (self.peer, self.ip.clone(), self.caller.clone(), Arc::clone(&self.metrics));
        let (watched, left, resting) = (AtomicBool::new(false), AtomicBool::new(false), Mutex::default());
        Arc::new(Self { peer, ip, caller, in_flight, begun, broken, watched, left, resting, place: None, metrics })
    }

    /// Puts the socket aside until the client says something.
    pub(crate) fn rest(&self, socket: TcpStream) {
        *self.resting.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
        self.metrics.rests.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the socket that was put aside.
    pub(crate) fn wake(&self) -> Option<TcpStream> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Asks to be told when it leaves, or no longer.
    pub(crate) fn watch(&self, watched: bool) {
        self.watched.store(watched, Ordering::Release);
    }

    /// Returns whether somebody wants to know when it leaves.
    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// It has left.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }

    /// Returns whether it was seen to have left.
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// An answer on it could not be finished.
    pub(crate) fn break_off(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// Returns whether an answer on it could not be finished.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Returns whether a request is in flight.
    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// We begin to answer a request.
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns how many requests we have begun to answer.
    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::Acquire)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.metrics.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A request in flight. Ends when it is dropped, on every path.
#[derive(Debug)]
pub(crate) struct Flight {
    client: Arc<Client>,
    metrics: Arc<ServiceMetrics>,
    started: Instant,
    status: Option<StatusCode>,
    entry: Option<Box<Entry>>,
}

impl Flight {
    pub(crate) fn begin(client: Arc<Client>, metrics: Arc<ServiceMetrics>) -> Self {
        client.in_flight.fetch_add(1, Ordering::AcqRel);
        metrics.begin();
        Self { client, metrics, started: turn::now(), status: None, entry: None }
    }

    /// Counts the request as this service's from now on.
    pub(crate) fn belongs_to(&mut self, metrics: Arc<ServiceMetrics>) {
        self.metrics.forget();
        metrics.begin();
        self.metrics = metrics;
    }

    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Writes the request down when it ends.
    pub(crate) fn write_down(&mut self, entry: Box<Entry>) {
        self.entry = Some(entry);
    }

    /// Returns what will be written down of it, if anything.
    pub(crate) fn entry(&mut self) -> Option<&mut Entry> {
        self.entry.as_deref_mut()
    }

    /// Counts bytes of the answer.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.metrics.response_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(entry) = &mut self.entry {
            entry.sent += bytes;
        }
    }

    pub(crate) fn metrics(&self) -> &Arc<ServiceMetrics> {
        &self.metrics
    }

    /// Returns the client, to keep.
    pub(crate) fn shared_client(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.client.in_flight.fetch_sub(1, Ordering::AcqRel);
        if std::thread::panicking() {
            // Another flight takes the apology to the client, and is counted.
            return self.metrics.forget();
        }
        let took = turn::now().duration_since(self.started);
        self.metrics.end(self.status.map_or(0, |status| usize::from(status.as_u16() / 100)), took);
        if let Some(entry) = &self.entry {
            let client = self.client.ip.to_str().unwrap_or_default();
            let status = self.status.map(|status| status.as_u16());
            entry.end(End { client, status, broken: self.client.is_broken(), took });
        }
    }
}
