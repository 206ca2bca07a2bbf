//! Connections to backends: kept while idle, last in first out, by address and protocol.
//!
//! HTTP/1.1 connections carry one request at a time and come back when its answer has been read to the end; nobody reads
//! from them until they are taken again. HTTP/2 has one connection per address, shared. A pool is private to its worker;
//! nothing here chooses a backend.
//!
//! An address that no route names any more has its connections closed at once, before its container stops: the farewell
//! to a container that is gone would stay unanswered, and the kernel, which looks for the address's owner once a second
//! from then on, would let the next container of that address wait for up to a second.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::tasks::Tasks;
use crate::traffic::turn;
use crate::workload::UpstreamProtocol;

use super::config::GatewayConfig;
use super::metrics::Metrics;
use super::multiplex::Multiplex;
use super::talk::Talk;

/// One connection to an address, or the place where it is being made.
type Shared = Arc<tokio::sync::Mutex<()>>;

/// Connections of one worker.
#[derive(Debug)]
pub(crate) struct Pool {
    config: GatewayConfig,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    /// For every address that a route names.
    idle: Mutex<BTreeMap<SocketAddr, Vec<Idle>>>,
    shared: Mutex<BTreeMap<SocketAddr, Multiplex>>,
    /// Who makes a shared connection; the others wait for that.
    making: Mutex<BTreeMap<SocketAddr, Shared>>,
}

#[derive(Debug)]
struct Idle {
    talk: Box<Talk>,
    since: Instant,
}

/// A connection taken for one request.
#[derive(Debug)]
pub(crate) enum Sender {
    /// Ours alone until the answer has ended.
    Http1(Checkout),
    /// Shared with other requests.
    H2c(Multiplex),
}

/// An HTTP/1.1 connection out of the pool. Closed when dropped; [`Checkout::put_back`] keeps it.
#[derive(Debug)]
pub(crate) struct Checkout {
    pub(crate) talk: Box<Talk>,
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
    /// HTTP/2 could not be started on the connection.
    #[error("could not start HTTP/2 with {address}")]
    Handshake {
        /// The backend.
        address: SocketAddr,
        /// What h2 said.
        source: h2::Error,
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
            UpstreamProtocol::Http1 => Ok(self.checkout(Talk::new(self.dial(address).await?), address)),
            UpstreamProtocol::H2c => Ok(Sender::H2c(self.share_h2c(address).await?)),
        }
    }

    fn checkout(self: &Arc<Self>, talk: Box<Talk>, address: SocketAddr) -> Sender {
        Sender::Http1(Checkout { talk, address, pool: Arc::clone(self) })
    }

    fn take_idle(&self, address: SocketAddr) -> Option<Box<Talk>> {
        let now = turn::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let stack = idle.get_mut(&address)?;
        while let Some(Idle { talk, since }) = stack.pop() {
            // A request that meets a backend closing the connection could not be sent again if it is not idempotent.
            if now.duration_since(since) < self.config.upstream_idle_timeout && talk.is_silent() {
                return Some(talk);
            }
        }
        None
    }

    fn put_idle(&self, address: SocketAddr, talk: Box<Talk>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stack) = idle.get_mut(&address) else { return };
        if stack.len() >= self.config.max_idle_upstream {
            stack.remove(0);
        }
        stack.push(Idle { talk, since: turn::now() });
    }

    /// Keeps connections to these addresses only, from now on; what is under way elsewhere ends first.
    pub(crate) fn keep_to(&self, addresses: impl Iterator<Item = SocketAddr>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *idle);
        for address in addresses {
            idle.entry(address).or_insert_with(|| before.remove(&address).unwrap_or_default());
        }
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|address, _| idle.contains_key(address));
    }

    /// Closes connections that have been idle for too long, and those that backends have closed.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        for stack in self.idle.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            stack.retain(|Idle { talk, since }| {
                now.duration_since(*since) < self.config.upstream_idle_timeout && talk.is_silent()
            });
        }
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, one| !one.has_ended());
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

    fn take_shared(&self, address: SocketAddr) -> Option<Multiplex> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.get(&address).filter(|one| !one.has_ended()).cloned()
    }

    /// One connection per address: whoever comes first makes it and the others wait for that.
    async fn share_h2c(&self, address: SocketAddr) -> Result<Multiplex, ConnectError> {
        let making = Arc::clone(self.making.lock().unwrap_or_else(PoisonError::into_inner).entry(address).or_default());
        let _mine = making.lock().await;
        if let Some(sender) = self.take_shared(address) {
            return Ok(sender);
        }
        let socket = self.dial(address).await?;
        let begun = Multiplex::begin(socket, self.config.max_header_bytes, &self.tasks).await;
        let shared = begun.map_err(|source| ConnectError::Handshake { address, source })?;
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).insert(address, shared.clone());
        Ok(shared)
    }

    /// Has the next request make another connection.
    pub(crate) fn forget(&self, address: SocketAddr, spent: &Multiplex) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.get(&address).is_some_and(|one| one.is(spent)) {
            shared.remove(&address);
        }
    }
}

impl Checkout {
    /// Returns how many header lines an answer may have.
    pub(crate) fn most_lines(&self) -> usize {
        self.pool.config.max_header_count * 2
    }

    /// Returns where tasks are spawned.
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.pool.tasks
    }

    /// Keeps the connection for another request.
    pub(crate) fn put_back(self) {
        let Self { talk, address, pool } = self;
        pool.put_idle(address, talk);
    }
}
