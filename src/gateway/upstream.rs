//! Connections to backends: kept while idle, last in first out, by address and protocol.
//!
//! HTTP/1.1 connections carry one request at a time and come back when its answer has been read to the end. HTTP/2 has
//! one connection per address, shared. A pool is private to its worker; nothing here chooses a backend.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::tasks::Tasks;
use crate::workload::UpstreamProtocol;

use super::body::RequestBody;
use super::config::GatewayConfig;
use super::executor::TaskExecutor;
use super::line::Line;
use super::metrics::Metrics;

/// One connection to an address, or the place where it is being made.
type Shared = Arc<tokio::sync::Mutex<()>>;

/// Connections of one worker.
#[derive(Debug)]
pub(crate) struct Pool {
    config: GatewayConfig,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    idle: Mutex<HashMap<SocketAddr, Vec<Idle>>>,
    shared: Mutex<HashMap<SocketAddr, http2::SendRequest<RequestBody>>>,
    /// Who makes a shared connection; the others wait for that.
    making: Mutex<HashMap<SocketAddr, Shared>>,
}

#[derive(Debug)]
struct Idle {
    talk: Talk,
    since: Instant,
}

/// An HTTP/1.1 connection to a backend, and the socket below it.
#[derive(Debug)]
struct Talk {
    sender: http1::SendRequest<RequestBody>,
    line: Line,
}

/// A connection taken for one request.
#[derive(Debug)]
pub(crate) enum Sender {
    /// Ours alone until the answer has ended.
    Http1(Checkout),
    /// Shared with other requests.
    H2c(http2::SendRequest<RequestBody>),
}

/// An HTTP/1.1 connection out of the pool. Closed when dropped; [`Checkout::put_back`] keeps it.
#[derive(Debug)]
pub(crate) struct Checkout {
    talk: Talk,
    address: SocketAddr,
    pool: Arc<Pool>,
}

/// Why there is no connection to a backend.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The kernel said no.
    #[error("could not connect to {address}")]
    Io {
        /// The backend.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nobody answered in time.
    #[error("could not connect to {0} in time")]
    Timeout(SocketAddr),
    /// HTTP could not be started on the connection.
    #[error("could not start HTTP with {address}")]
    Handshake {
        /// The backend.
        address: SocketAddr,
        /// What hyper said.
        source: hyper::Error,
    },
}

impl Pool {
    pub(crate) fn new(config: GatewayConfig, tasks: Tasks, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            config,
            tasks,
            metrics,
            idle: Mutex::default(),
            shared: Mutex::default(),
            making: Mutex::default(),
        })
    }

    /// Returns a connection to a backend if there is one.
    pub(crate) fn ready(self: &Arc<Self>, address: SocketAddr, protocol: UpstreamProtocol) -> Option<Sender> {
        match protocol {
            UpstreamProtocol::Http1 => self.take_idle(address).map(|talk| self.checkout(talk, address)),
            UpstreamProtocol::H2c => self.take_shared(address).map(Sender::H2c),
        }
    }

    /// Makes a connection to a backend, or waits for the shared one that somebody makes.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        address: SocketAddr,
        protocol: UpstreamProtocol,
    ) -> Result<Sender, ConnectError> {
        match protocol {
            UpstreamProtocol::Http1 => Ok(self.checkout(self.connect_http1(address).await?, address)),
            UpstreamProtocol::H2c => Ok(Sender::H2c(self.share_h2c(address).await?)),
        }
    }

    fn checkout(self: &Arc<Self>, talk: Talk, address: SocketAddr) -> Sender {
        Sender::Http1(Checkout { talk, address, pool: Arc::clone(self) })
    }

    fn take_idle(&self, address: SocketAddr) -> Option<Talk> {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let stack = idle.get_mut(&address)?;
        stack.retain(|one| self.is_fresh(one, now));
        // Not every one is ready: an upstream may answer before it has taken the whole request.
        while let Some(at) = stack.iter().rposition(|one| one.talk.sender.is_ready()) {
            let talk = stack.remove(at).talk;
            // A request that meets a backend closing the connection could not be sent again if it is not idempotent.
            if talk.line.is_silent() {
                return Some(talk);
            }
        }
        None
    }

    fn is_fresh(&self, one: &Idle, now: Instant) -> bool {
        !one.talk.sender.is_closed() && now.duration_since(one.since) < self.config.upstream_idle_timeout
    }

    fn put_idle(&self, address: SocketAddr, talk: Talk) {
        if talk.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let stack = idle.entry(address).or_default();
        if stack.len() >= self.config.max_idle_upstream {
            stack.remove(0);
        }
        stack.push(Idle { talk, since: Instant::now() });
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, stack| {
            stack.retain(|one| self.is_fresh(one, now));
            !stack.is_empty()
        });
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, sender| !sender.is_closed());
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        making.retain(|_, one| Arc::strong_count(one) > 1);
    }

    async fn dial(&self, address: SocketAddr) -> Result<TcpStream, ConnectError> {
        self.metrics.upstream_connects.fetch_add(1, Ordering::Relaxed);
        let stream = tokio::time::timeout(self.config.connect_timeout, TcpStream::connect(address))
            .await
            .map_err(|_| ConnectError::Timeout(address))?
            .map_err(|source| ConnectError::Io { address, source })?;
        stream.set_nodelay(true).map_err(|source| ConnectError::Io { address, source })?;
        Ok(stream)
    }

    async fn connect_http1(&self, address: SocketAddr) -> Result<Talk, ConnectError> {
        let line = Line::new(self.dial(address).await?);
        let (sender, connection) = http1::Builder::new()
            .max_headers(self.config.max_header_count * 2)
            .handshake(TokioIo::new(line.clone()))
            .await
            .map_err(|source| ConnectError::Handshake { address, source })?;
        // Ends when the sender is dropped or the backend closes; its errors reach the request that meets them.
        self.tasks.spawn_short(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%address, %error, "backend connection ended");
            }
        });
        Ok(Talk { sender, line })
    }

    fn take_shared(&self, address: SocketAddr) -> Option<http2::SendRequest<RequestBody>> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.get(&address).filter(|sender| !sender.is_closed()).cloned()
    }

    /// One connection per address: whoever comes first makes it and the others wait for that.
    async fn share_h2c(&self, address: SocketAddr) -> Result<http2::SendRequest<RequestBody>, ConnectError> {
        let making = Arc::clone(self.making.lock().unwrap_or_else(PoisonError::into_inner).entry(address).or_default());
        let _mine = making.lock().await;
        if let Some(sender) = self.take_shared(address) {
            return Ok(sender);
        }
        let sender = self.connect_h2c(address).await?;
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).insert(address, sender.clone());
        Ok(sender)
    }

    async fn connect_h2c(&self, address: SocketAddr) -> Result<http2::SendRequest<RequestBody>, ConnectError> {
        let stream = self.dial(address).await?;
        let (sender, connection) = http2::Builder::new(TaskExecutor(self.tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(self.config.max_header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ConnectError::Handshake { address, source })?;
        self.tasks.spawn_short(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "backend connection ended");
            }
        });
        Ok(sender)
    }
}

/// What one answer may have under way.
const STREAM_WINDOW: u32 = 512 << 10;
/// Practically no limit: a client that reads slowly must hold up its own stream only.
const CONNECTION_WINDOW: u32 = 1 << 30;
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

impl Sender {
    /// Sends a request. The error carries the request when nothing of it was sent.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Http1(checkout) => checkout.talk.sender.try_send_request(request).await,
            Self::H2c(sender) => sender.try_send_request(request).await,
        }
    }

    /// Returns what must go back to the pool once the answer has ended.
    pub(crate) fn into_checkout(self) -> Option<Checkout> {
        match self {
            Self::Http1(checkout) => Some(checkout),
            Self::H2c(..) => None,
        }
    }
}

impl Checkout {
    /// Keeps the connection for another request.
    pub(crate) fn put_back(self) {
        let Self { talk, address, pool } = self;
        pool.put_idle(address, talk);
    }
}
