//! The worker threads. Each has a runtime of its own, its own connections to backends and its own counters; nothing of a
//! client's connection ever moves to another thread, and no worker takes work from another.
//!
//! One acceptor hands each new connection to the worker that has the fewest. A listener per worker (`SO_REUSEPORT`)
//! would spare the hand-over, but deals connections by hash, which is uneven when there are few of them, as with model
//! clients; drops what waits in a closing listener's backlog; and lets a second process take the port without an error.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::listener;
use super::worker::Worker;

/// A client connection that has just been accepted. Its places are free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) socket: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) place: Place,
}

/// A connection's place among all, and among those of its worker.
#[derive(Debug)]
pub(crate) struct Place {
    _among_all: OwnedSemaphorePermit,
    of_worker: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of_worker.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When connections end.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// Finish and close.
    pub(crate) drain: CancellationToken,
    /// Close now.
    pub(crate) cut: CancellationToken,
}

impl Ending {
    /// Returns the same with tokens of their own, so that workers that look at them do not wait for each other.
    pub(crate) fn of_one_worker(&self) -> Self {
        Self { drain: self.drain.child_token(), cut: self.cut.child_token() }
    }
}

/// All workers.
#[derive(Debug)]
pub(crate) struct Crew {
    members: Vec<Member>,
    last: usize,
}

#[derive(Debug)]
struct Member {
    arrivals: mpsc::Sender<Arrival>,
    connections: Arc<AtomicUsize>,
    ended: oneshot::Receiver<()>,
}

/// Connections on their way to a worker.
const ARRIVALS: usize = 256;
/// Between the end of the last connection and the end of its thread.
const THREAD_END: Duration = Duration::from_secs(2);

impl Crew {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// When the system gives no thread or no poller.
    pub(crate) fn start(workers: Vec<Arc<Worker>>) -> io::Result<Self> {
        let members = workers.into_iter().enumerate().map(|(number, worker)| Member::start(number, worker));
        Ok(Self { members: members.collect::<io::Result<_>>()?, last: 0 })
    }

    /// Hands a connection to the worker that has the fewest; among equals they take turns.
    pub(crate) async fn take(&mut self, socket: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        let count = self.members.len();
        let turns = (1..=count).map(|step| (self.last + step) % count);
        let load = |at: &usize| self.members[*at].connections.load(Ordering::Relaxed);
        self.last = turns.min_by_key(load).unwrap_or_default();
        let member = &self.members[self.last];
        member.connections.fetch_add(1, Ordering::Relaxed);
        let place = Place { _among_all: permit, of_worker: Arc::clone(&member.connections) };
        // A worker whose thread has ended takes nothing; the connection is closed.
        let _ = member.arrivals.send(Arrival { socket, peer, place }).await;
    }

    /// Waits for the threads, which end once they have been told to cut everything.
    pub(crate) async fn end(self) {
        for Member { arrivals, ended, .. } in self.members {
            drop(arrivals);
            // One that hangs ends with the process.
            let _ = tokio::time::timeout(THREAD_END, ended).await;
        }
    }
}

impl Member {
    fn start(number: usize, worker: Arc<Worker>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (arrivals, arriving) = mpsc::channel(ARRIVALS);
        let (end, ended) = oneshot::channel();
        let connections = Arc::default();
        std::thread::Builder::new().name(format!("gateway-{number}")).spawn(move || {
            runtime.block_on(listener::work(&worker, arriving));
            // Drops what is left, connections to backends included.
            drop(runtime);
            drop(worker);
            // Nobody waits any more when the gateway itself was dropped.
            let _ = end.send(());
        })?;
        Ok(Self { arrivals, connections, ended })
    }
}
