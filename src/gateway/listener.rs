//! Accepts connections, tells HTTP/1 from HTTP/2, and ends them in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::plan::routes::RouteTable;
use crate::tasks::Tasks;
use crate::traffic::TrafficBoard;

use super::balance::Balancer;
use super::config::GatewayConfig;
use super::executor::TaskExecutor;
use super::flight::Client;
use super::guard::Guard;
use super::metrics::Metrics;
use super::route::RouteIndex;
use super::upstream::Pool;
use super::worker::Worker;

/// The data path. Built once, then served on one or more listeners.
#[derive(Debug)]
pub struct Gateway {
    routes: Arc<ArcSwap<RouteTable>>,
    board: TrafficBoard,
    config: GatewayConfig,
    metrics: Arc<Metrics>,
    balancer: Arc<Balancer>,
    backend_refused: Arc<Notify>,
}

impl Gateway {
    /// Makes a gateway that forwards as `routes` says at each moment, and marks what it forwards on `board`.
    pub fn new(routes: Arc<ArcSwap<RouteTable>>, board: TrafficBoard, config: GatewayConfig) -> Self {
        Self {
            routes,
            board,
            config,
            metrics: Arc::default(),
            balancer: Arc::default(),
            backend_refused: Arc::default(),
        }
    }

    /// Returns the counters.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Returns a bell that rings when a backend did not accept a connection, so that someone looks at once. It says
    /// neither which nor how many.
    pub fn backend_refused(&self) -> Arc<Notify> {
        Arc::clone(&self.backend_refused)
    }

    /// Serves a listener until `cancel`; then accepts nothing more, lets requests in flight finish up to the drain
    /// deadline, and cuts off the rest.
    ///
    /// # Errors
    ///
    /// When the listener's address cannot be read; errors of single connections end those connections only.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tasks: &Tasks,
        cancel: CancellationToken,
    ) -> io::Result<()> {
        let address = listener.local_addr()?;
        debug!(%address, "data path open");
        let worker = self.worker(tasks);
        let connections = Connections {
            worker: Arc::clone(&worker),
            room: Arc::new(Semaphore::new(self.config.max_connections)),
            drain: cancel.child_token(),
            cut: CancellationToken::new(),
        };
        tokio::select! {
            // Losing an accept loses at most a connection that nobody has served yet, and we are closing.
            () = connections.accept(&listener) => {}
            () = cancel.cancelled() => {}
            // Holds nothing over its waits.
            () = sweep(&worker) => {}
        }
        drop(listener);
        connections.end(self.config.drain_deadline, self.config.max_connections).await;
        worker.pool.clear();
        Ok(())
    }

    fn worker(&self, tasks: &Tasks) -> Arc<Worker> {
        Arc::new(Worker {
            index: ArcSwap::from_pointee(RouteIndex::new(self.routes.load_full())),
            routes: Arc::clone(&self.routes),
            board: self.board.clone(),
            config: self.config.clone(),
            metrics: Arc::clone(&self.metrics),
            balancer: Arc::clone(&self.balancer),
            pool: Pool::new(self.config.clone(), tasks.clone(), Arc::clone(&self.metrics)),
            tasks: tasks.clone(),
            backend_refused: Arc::clone(&self.backend_refused),
        })
    }
}

/// Closes idle connections to backends and forgets what is gone. Never ends.
async fn sweep(worker: &Worker) {
    let mut tick = tokio::time::interval(worker.config.upstream_idle_timeout.max(Duration::from_secs(1)));
    loop {
        tick.tick().await;
        worker.pool.sweep();
        let table = worker.routes.load_full();
        worker.balancer.sweep(|key| table.services.contains_key(&key.service));
    }
}

/// The connections of one listener.
struct Connections {
    worker: Arc<Worker>,
    room: Arc<Semaphore>,
    /// Finish and close.
    drain: CancellationToken,
    /// Close now.
    cut: CancellationToken,
}

impl Connections {
    /// Never ends: an accept that fails is tried again.
    async fn accept(&self, listener: &TcpListener) {
        loop {
            let Ok(place) = Arc::clone(&self.room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((socket, peer)) => self.spawn(socket, peer, place),
                Err(error) => {
                    drop(place);
                    if !is_about_one_connection(&error) {
                        warn!(%error, "could not accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    fn spawn(&self, socket: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
        let (worker, drain, cut) = (Arc::clone(&self.worker), self.drain.clone(), self.cut.clone());
        let tasks = worker.tasks.clone();
        drop(tasks.spawn("connection", async move {
            worker.metrics.connections.fetch_add(1, Ordering::Relaxed);
            let metrics = Arc::clone(&worker.metrics);
            tokio::select! {
                // Losing the connection closes it, and with it everything done for it.
                () = serve(worker, socket, peer, drain) => {}
                () = cut.cancelled() => {}
            }
            metrics.connections.fetch_sub(1, Ordering::Relaxed);
            drop(place);
        }));
    }

    async fn end(&self, deadline: Duration, max: usize) {
        self.drain.cancel();
        let all = u32::try_from(max).unwrap_or(u32::MAX);
        if tokio::time::timeout(deadline, self.room.acquire_many(all)).await.is_err() {
            warn!(remaining = max - self.room.available_permits(), "requests did not finish in time");
        }
        self.cut.cancel();
    }
}

/// After running out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve(worker: Arc<Worker>, mut socket: TcpStream, peer: SocketAddr, drain: CancellationToken) {
    // Small answers must not wait for more; if that cannot be set, they do.
    let _ = socket.set_nodelay(true);
    let limit = worker.config.idle_timeout;
    let first = tokio::select! {
        // Losing the first bytes closes a connection on which no request has been understood.
        first = tokio::time::timeout(limit, first_bytes(&mut socket, worker.config.header_timeout)) => first,
        () = drain.cancelled() => return,
    };
    let Ok(Ok((first, protocol))) = first else { return };
    let client = Client::new(peer);
    let served = match protocol {
        Protocol::Http1 => serve_http1(worker, socket, first, client, drain).await,
        Protocol::Http2 => serve_http2(worker, socket, first, client, drain).await,
    };
    if let Err(error) = served {
        debug!(%peer, %error, "client connection ended");
    }
}

#[derive(Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until it is clear which protocol is spoken. The first byte may take its time, the others not.
async fn first_bytes(socket: &mut TcpStream, limit: Duration) -> io::Result<(BytesMut, Protocol)> {
    let mut first = BytesMut::with_capacity(1024);
    if socket.read_buf(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let preface = async {
        loop {
            let len = first.len().min(PREFACE.len());
            if first[..len] != PREFACE[..len] {
                return Ok((first, Protocol::Http1));
            }
            if len == PREFACE.len() {
                return Ok((first, Protocol::Http2));
            }
            if socket.read_buf(&mut first).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    tokio::time::timeout(limit, preface).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn serve_http1(
    worker: Arc<Worker>,
    socket: TcpStream,
    first: BytesMut,
    client: Arc<Client>,
    drain: CancellationToken,
) -> hyper::Result<()> {
    let guard = Guard::http1(socket, first, Arc::clone(&client), &worker.config);
    let max_headers = worker.config.max_header_count;
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, client) = (Arc::clone(&worker), Arc::clone(&client));
        async move { Ok::<_, std::convert::Infallible>(worker.answer(client, request).await) }
    });
    // The guard keeps the time; hyper's own timer would also end connections that are merely idle.
    let connection = http1::Builder::new()
        .max_headers(max_headers)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(guard), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // Losing the wait for the token loses nothing.
        ended = &mut connection => return ended,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn serve_http2(
    worker: Arc<Worker>,
    socket: TcpStream,
    first: BytesMut,
    client: Arc<Client>,
    drain: CancellationToken,
) -> hyper::Result<()> {
    let guard = Guard::http2(socket, first, Arc::clone(&client), &worker.config);
    let mut builder = http2::Builder::new(TaskExecutor(worker.tasks.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(worker.config.max_streams)
        .max_header_list_size(u32::try_from(worker.config.max_header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(worker.config.header_timeout);
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, client) = (Arc::clone(&worker), Arc::clone(&client));
        async move { Ok::<_, std::convert::Infallible>(worker.answer(client, request).await) }
    });
    let connection = builder.serve_connection(TokioIo::new(guard), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // Losing the wait for the token loses nothing.
        ended = &mut connection => return ended,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// What a client may send ahead on one stream, and on all together.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// What of an answer waits for a slow client, per stream.
const SEND_BUFFER: usize = 256 << 10;
/// Streams opened and reset again before we have looked at them.
const MAX_RESETS: usize = 32;
/// Streams reset for the client's own errors.
const MAX_ERROR_RESETS: usize = 256;
const PING_INTERVAL: Duration = Duration::from_secs(30);
