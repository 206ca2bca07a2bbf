//! What of the data path can be set, with safe defaults.

use std::time::Duration;

/// Limits and deadlines of the data path. Every wait and every queue in this room ends by one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Threads that serve connections. Default: as many as the machine has cores, at most 8.
    pub workers: usize,
    /// From the first byte of a request's head to its last. Then 408 and a close. Default 15 s.
    pub header_timeout: Duration,
    /// A connection with no request in flight is closed after this long. Default 75 s, above the 65 s of KServe's
    /// own clients and servers.
    pub idle_timeout: Duration,
    /// A client that has bytes to send or to take and moves none for this long is cut off. Default 60 s.
    pub stall_timeout: Duration,
    /// Largest request head in bytes, request line included. Then 431. Default 64 KiB.
    pub max_header_bytes: usize,
    /// Most header lines of a request. Then 431. Default 128.
    pub max_header_count: usize,
    /// Longest request target in bytes. Then 414. Default 16 KiB.
    pub max_uri_bytes: usize,
    /// Most client connections at once; further ones wait in the kernel's backlog. Default 10,000.
    pub max_connections: usize,
    /// Most HTTP/2 streams a client may have open on one connection. Default 256.
    pub max_streams: u32,
    /// Time to connect to a backend. Default 2 s; backends are on this machine.
    pub connect_timeout: Duration,
    /// From a request's last byte to the first of its answer, for components that set no `timeout`. Default 300 s, as
    /// Knative's; none means no limit.
    pub default_request_timeout: Option<Duration>,
    /// Longest silence within an answer that has begun. Default 600 s.
    pub body_idle_timeout: Duration,
    /// Longest silence in both directions of an upgraded connection (WebSocket). Default 1 h.
    pub tunnel_idle_timeout: Duration,
    /// Most idle HTTP/1.1 connections kept per backend. Default 64.
    pub max_idle_upstream: usize,
    /// An idle HTTP/1.1 connection to a backend is closed after this long. Default 4 s: below the 5 s after which
    /// uvicorn and Node close theirs, so that a request never meets a connection that is just being closed.
    pub upstream_idle_timeout: Duration,
    /// Most bytes of a body read ahead to find its `model`. Default 1 MiB.
    pub peek_limit: usize,
    /// Most bytes of a body read while its request waits for a replica, so that a client that leaves is noticed.
    /// Default 64 KiB.
    pub read_ahead: usize,
    /// Most requests waiting for a free replica of one component when all are at their concurrency limit. Default 100.
    pub max_waiting: usize,
    /// Most requests waiting for one component to wake or load. Default 2048.
    pub max_held: u64,
    /// Longest wait for a free replica. Default 30 s.
    pub queue_timeout: Duration,
    /// Failures in a row (no connection, no whole answer, none in time, a 5xx) after which a replica gets no requests
    /// while another one of its revision can take them. Default 5; 0 means never.
    pub failures_to_eject: u32,
    /// After that long one request shows whether it works again; each further pause is twice as long. Default 1 s.
    pub eject_pause: Duration,
    /// The longest such pause. Default 30 s.
    pub max_eject_pause: Duration,
    /// After cancellation, time for requests in flight to finish. Default 30 s.
    pub drain_deadline: Duration,
    /// Whether `X-Forwarded-*` headers of clients are believed and added to. Default no: they are replaced.
    pub trust_forwarded: bool,
}

/// More workers than this only take memory from the models.
const MOST_WORKERS: usize = 8;

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS),
            header_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(60),
            max_header_bytes: 64 << 10,
            max_header_count: 128,
            max_uri_bytes: 16 << 10,
            max_connections: 10_000,
            max_streams: 256,
            connect_timeout: Duration::from_secs(2),
            default_request_timeout: Some(Duration::from_secs(300)),
            body_idle_timeout: Duration::from_secs(600),
            tunnel_idle_timeout: Duration::from_secs(3600),
            max_idle_upstream: 64,
            upstream_idle_timeout: Duration::from_secs(4),
            peek_limit: 1 << 20,
            read_ahead: 64 << 10,
            max_waiting: 100,
            max_held: 2048,
            queue_timeout: Duration::from_secs(30),
            failures_to_eject: 5,
            eject_pause: Duration::from_secs(1),
            max_eject_pause: Duration::from_secs(30),
            drain_deadline: Duration::from_secs(30),
            trust_forwarded: false,
        }
    }
}
