//! Takes payload events to their sinks. Nobody waits for it: a queue that is full drops events and counts them, and each
//! sink has a queue of its own, so that one that hangs costs the others nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use camino::Utf8PathBuf;
use futures::StreamExt;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::plan::routes::RouteTable;
use crate::storage::PullConfig;
use crate::tasks::Tasks;
use crate::workload::LogSink;

use super::outside::Outside;
use super::payload::Event;
use super::payload_file::PayloadFile;
use super::payload_object::PayloadObjects;
use super::payload_post::PayloadPost;

/// Where events may go on this machine, and with which credentials elsewhere.
#[derive(Clone, Debug, Default)]
pub struct LogPlaces {
    /// Folder of the local files; none writes none.
    pub folder: Option<Utf8PathBuf>,
    /// The daemon's environment: credentials of object stores.
    pub environment: BTreeMap<String, String>,
    /// Limits of connections to object stores.
    pub pull: PullConfig,
}

/// What became of events.
#[derive(Debug, Default)]
pub(crate) struct LogCounts {
    /// Did not fit a queue.
    pub(crate) dropped: AtomicU64,
    /// Were not taken by their sink.
    pub(crate) failed: AtomicU64,
    /// Were.
    pub(crate) delivered: AtomicU64,
}

/// The way in. Cheap to clone; sending never waits.
#[derive(Clone, Debug)]
pub(crate) struct PayloadLog {
    events: mpsc::Sender<Held>,
    held: Arc<AtomicUsize>,
    max_bytes: usize,
    counts: Arc<LogCounts>,
}

/// An event and the room it takes.
#[derive(Debug)]
struct Held {
    event: Event,
    bytes: usize,
    held: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Events that wait to be given to their sinks, and of one sink.
const WAITING: usize = 1000;
/// Events under way to one sink, as upstream's workers.
const AT_ONCE: usize = 5;
/// Longest time for one event.
const PATIENCE: Duration = Duration::from_secs(10);
/// A sink that has nothing to do for this long is let go.
const IDLE: Duration = Duration::from_secs(300);

impl PayloadLog {
    /// Starts the task that hands events out.
    pub(crate) fn start(
        places: LogPlaces,
        routes: Arc<ArcSwap<RouteTable>>,
        own: std::net::SocketAddr,
        max_bytes: usize,
        tasks: &Tasks,
        counts: Arc<LogCounts>,
    ) -> Self {
        let (events, waiting) = mpsc::channel(WAITING);
        let office = Office {
            places: Arc::new(places),
            outside: Arc::new(Outside::new(own)),
            routes,
            own,
            tasks: tasks.clone(),
            counts: Arc::clone(&counts),
            sinks: HashMap::new(),
        };
        tasks.spawn_droppable("payload-log", office.run(waiting));
        Self { events, held: Arc::default(), max_bytes, counts }
    }

    /// Takes an event, or drops it.
    pub(crate) fn send(&self, event: Event) {
        let bytes = event.copy.len();
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let held = Held { event, bytes, held: Arc::clone(&self.held) };
        if before + bytes > self.max_bytes || self.events.try_send(held).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Hands events to sinks.
struct Office {
    places: Arc<LogPlaces>,
    outside: Arc<Outside>,
    routes: Arc<ArcSwap<RouteTable>>,
    own: std::net::SocketAddr,
    tasks: Tasks,
    counts: Arc<LogCounts>,
    sinks: HashMap<LogSink, mpsc::Sender<Held>>,
}

impl Office {
    async fn run(mut self, mut waiting: mpsc::Receiver<Held>) {
        while let Some(held) = waiting.recv().await {
            self.hand(held);
        }
    }

    fn hand(&mut self, held: Held) {
        let sink = held.event.context.logging.sink.clone();
        let open = self.sinks.get(&sink).filter(|sender| !sender.is_closed()).cloned();
        let sender = open.unwrap_or_else(|| self.open(&sink));
        if sender.try_send(held).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Starts the task of a sink. Those that have ended are forgotten.
    fn open(&mut self, sink: &LogSink) -> mpsc::Sender<Held> {
        self.sinks.retain(|_, sender| !sender.is_closed());
        let (sender, receiver) = mpsc::channel(WAITING);
        let writer = match sink {
            LogSink::File => Writer::File(PayloadFile::new(self.places.folder.clone())),
            LogSink::Http(url) => {
                Writer::Http(PayloadPost::new(url, Arc::clone(&self.outside), Arc::clone(&self.routes), self.own))
            }
            LogSink::Object { url, path } => {
                let objects = PayloadObjects::new(url, path, &self.places.pull, &self.places.environment);
                Writer::Object(Box::new(objects))
            }
        };
        let (counts, sink_name) = (Arc::clone(&self.counts), sink.describe());
        self.tasks.spawn_droppable("payload-sink", deliver(receiver, Arc::new(writer), counts, sink_name));
        self.sinks.insert(sink.clone(), sender.clone());
        sender
    }
}

/// How one sink is written to.
enum Writer {
    File(PayloadFile),
    Http(PayloadPost),
    Object(Box<PayloadObjects>),
}

impl Writer {
    async fn write(&self, event: &Event) -> Result<(), String> {
        #[expect(clippy::disallowed_methods, reason = "an event carries the time of day it was sent at")]
        let now = Timestamp::now();
        match self {
            Self::File(file) => file.write(event, now).await,
            Self::Http(post) => post.write(event, now).await,
            Self::Object(objects) => objects.write(event, now).await,
        }
    }

    /// A file is written by one at a time.
    fn at_once(&self) -> usize {
        if matches!(self, Self::File(_)) { 1 } else { AT_ONCE }
    }
}

async fn deliver(receiver: mpsc::Receiver<Held>, writer: Arc<Writer>, counts: Arc<LogCounts>, sink: String) {
    let at_once = writer.at_once();
    // Ends when nothing has come for a while: the office opens it anew.
    let waiting = futures::stream::unfold(receiver, |mut receiver| async {
        let next = tokio::time::timeout(IDLE, receiver.recv()).await.ok()??;
        Some((next, receiver))
    });
    let failing = AtomicU64::new(0);
    waiting
        .for_each_concurrent(at_once, |held| {
            let (writer, counts, failing, sink) = (&writer, &counts, &failing, &sink);
            async move {
                let written = tokio::time::timeout(PATIENCE, writer.write(&held.event)).await;
                let written = written.unwrap_or_else(|_| Err(format!("it took longer than {} s", PATIENCE.as_secs())));
                match written {
                    Ok(()) => {
                        failing.store(0, Ordering::Relaxed);
                        counts.delivered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        counts.failed.fetch_add(1, Ordering::Relaxed);
                        // Once per series of failures: a sink that is down would fill the log.
                        if failing.fetch_add(1, Ordering::Relaxed) == 0 {
                            tracing::warn!(%sink, error, "payload events are not taken");
                        }
                    }
                }
            }
        })
        .await;
}
