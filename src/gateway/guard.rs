//! Stands between a client's socket and hyper: strict framing, and an end to every kind of slowness.
//!
//! A connection without a request for a while is taken from hyper, with its buffers, until the client says something: the
//! guard shows hyper an end and gives the socket back to [`Client`].
//!
//! Bytes of a faulty request never reach hyper. In its place hyper reads a stand-in request that asks for the refusal,
//! so that the answer comes in its turn, after those to earlier requests on the connection, and closes it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::FutureExt;
use http::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::config::GatewayConfig;
use super::deadline::Deadline;
use super::flight::Client;
use super::flood::Flood;
use super::framing::{Fault, Framing, HeadLimits, REFUSED_METHOD, Scan};
use super::refusal::Refusal;
use super::upload::{Pace, Upload};

/// A client's socket, watched.
#[derive(Debug)]
pub(crate) struct Guard {
    /// There until the guard is dropped.
    socket: Option<TcpStream>,
    client: Arc<Client>,
    framing: Framing,
    /// Requests begun on this connection when this guard was made.
    begun_before: usize,
    /// Only over HTTP/2.
    flood: Option<Box<Flood>>,
    /// Read, not yet passed on: an incomplete head, or what did not fit.
    pending: BytesMut,
    /// How much of `pending` may be passed on.
    cleared: usize,
    /// After this nothing more is read.
    fault: Option<Fault>,
    reading: Deadline,
    writing: Deadline,
    upload: Upload,
    lingering: Option<Lingering>,
    /// hyper has been shown an end, which the client has not made.
    resting: bool,
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    header: Duration,
    idle: Duration,
    rest: Duration,
    stall: Duration,
    /// How fast a body must come.
    pace: Pace,
}

/// After a fault the client may still be sending. Closing at once would make its kernel throw our answer away.
#[derive(Debug)]
struct Lingering {
    left: usize,
    until: Pin<Box<Sleep>>,
}

const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

impl Guard {
    /// Watches HTTP/1 on a socket of which `first` has already been read.
    pub(crate) fn http1(socket: TcpStream, first: BytesMut, client: Arc<Client>, config: &GatewayConfig) -> Self {
        let limits =
            HeadLimits { bytes: config.max_header_bytes, lines: config.max_header_count, target: config.max_uri_bytes };
        let mut guard = Self::new(socket, BytesMut::new(), client, config, Framing::new(limits));
        guard.pending = first;
        guard.look_at_pending();
        guard
    }

    /// Watches HTTP/2, whose framing hyper knows; only its slowness and its noise are our concern.
    pub(crate) fn http2(socket: TcpStream, first: BytesMut, client: Arc<Client>, config: &GatewayConfig) -> Self {
        let mut flood = Flood::default();
        // What fits into the first read is no flood.
        let _ = flood.read(&first);
        let mut guard = Self::new(socket, first, client, config, Framing::opaque());
        guard.flood = Some(Box::new(flood));
        guard
    }

    fn new(socket: TcpStream, first: BytesMut, client: Arc<Client>, config: &GatewayConfig, framing: Framing) -> Self {
        let limits = Limits {
            header: config.header_timeout,
            idle: config.idle_timeout,
            rest: config.rest_after,
            stall: config.stall_timeout,
            pace: config.pace(),
        };
        Self {
            socket: Some(socket),
            begun_before: client.begun(),
            client,
            framing,
            flood: None,
            cleared: first.len(),
            pending: first,
            fault: None,
            reading: Deadline::new(),
            writing: Deadline::new(),
            upload: Upload::default(),
            lingering: None,
            resting: false,
            limits,
        }
    }

    fn socket(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.socket.as_mut().expect("only dropping takes the socket"))
    }

    /// Whether the client has ended its side, what it has sent before that unread.
    fn is_left(&self) -> bool {
        let ready = self.socket.as_ref().and_then(|socket| socket.ready(Interest::READABLE).now_or_never());
        ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()))
    }

    fn look_at_pending(&mut self) {
        match self.framing.scan(&self.pending[self.cleared..]) {
            Scan::All => self.cleared = self.pending.len(),
            Scan::Upto(len) => self.cleared += len,
            Scan::Fault(len, fault) => {
                self.cleared += len;
                self.break_off(fault);
            }
        }
    }

    /// Throws away what may not be read, and lets the refusal be asked for.
    fn break_off(&mut self, fault: Fault) {
        self.fault = Some(fault);
        self.pending.truncate(self.cleared);
        if fault != Fault::Body {
            self.pending.extend_from_slice(&stand_in(fault));
            self.cleared = self.pending.len();
        }
    }

    fn pass_on(&mut self, buf: &mut ReadBuf<'_>) {
        let len = self.cleared.min(buf.remaining());
        buf.put_slice(&self.pending[..len]);
        self.pending.advance(len);
        self.cleared -= len;
        if self.pending.is_empty() {
            // An idle connection keeps no memory.
            self.pending = BytesMut::new();
        }
    }

    /// Reads from the socket into `buf`; what may not be passed on yet goes to `pending`.
    fn read_through(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        ready!(self.socket().poll_read(cx, buf))?;
        let fresh = &buf.filled()[before..];
        let len = fresh.len();
        if let Some(flood) = &mut self.flood
            && flood.read(fresh)
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the client sends noise")));
        }
        let passed = match self.framing.scan(fresh) {
            Scan::All => return Poll::Ready(Ok(len)),
            Scan::Upto(passed) => {
                self.pending.extend_from_slice(&fresh[passed..]);
                passed
            }
            Scan::Fault(passed, fault) => {
                self.break_off(fault);
                passed
            }
        };
        buf.set_filled(before + passed);
        Poll::Ready(Ok(len))
    }

    /// Reads more of an incomplete head.
    fn read_aside(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [0; 4096];
        let mut aside = ReadBuf::new(&mut space);
        ready!(self.socket().poll_read(cx, &mut aside))?;
        let fresh = aside.filled();
        self.pending.extend_from_slice(fresh);
        // A head ends with a line; without one only its size can have become wrong.
        if fresh.contains(&b'\n') || self.pending.len() > SCAN_AGAIN {
            self.look_at_pending();
        }
        Poll::Ready(Ok(fresh.len()))
    }

    /// Nothing to read: is the client still within its time?
    fn check_time(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let limit = if self.fault.is_some() {
            return Poll::Pending;
        } else if !self.pending.is_empty() {
            self.limits.header
        } else if self.framing.is_between() || self.framing.is_opaque() {
            if self.is_busy() {
                self.reading.restart();
            }
            if self.may_rest() { self.limits.rest } else { self.limits.idle }
        } else {
            self.reading.since(self.upload.waits());
            self.limits.stall
        };
        ready!(self.reading.poll(cx, limit));
        if !self.pending.is_empty() {
            self.break_off(Fault::Timeout);
            return Poll::Ready(Ok(()));
        }
        if self.framing.is_between() || self.framing.is_opaque() {
            self.resting = self.may_rest();
            // Looks to hyper as if the client had closed.
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether a request is in flight, or with hyper and not yet with us: hyper may look for more before it calls us.
    fn is_busy(&self) -> bool {
        self.client.is_busy() || self.framing.heads() > self.client.begun() - self.begun_before
    }

    /// Between two HTTP/1 requests, all said that was to be said.
    fn may_rest(&self) -> bool {
        self.limits.rest < self.limits.idle && self.framing.is_between() && !self.writing.runs()
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lingering = self
            .lingering
            .get_or_insert_with(|| Lingering { left: LINGER_BYTES, until: Box::pin(tokio::time::sleep(LINGER)) });
        let mut space = [0; 4096];
        loop {
            if lingering.until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut aside = ReadBuf::new(&mut space);
            let Some(socket) = &mut self.socket else { return Poll::Ready(()) };
            match Pin::new(socket).poll_read(cx, &mut aside) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {}
            }
            let len = aside.filled().len();
            lingering.left = lingering.left.saturating_sub(len);
            if len == 0 || lingering.left == 0 {
                return Poll::Ready(());
            }
        }
    }

    fn watch_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing.stop();
            if let Some(flood) = &mut self.flood {
                flood.wrote();
            }
            return written;
        }
        let stall = self.limits.stall;
        self.writing.start();
        ready!(self.writing.poll(cx, stall));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Above this an incomplete head is measured at every read.
const SCAN_AGAIN: usize = 8 << 10;

impl AsyncRead for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        let before = buf.filled().len();
        loop {
            if guard.cleared > 0 {
                guard.pass_on(buf);
                return Poll::Ready(Ok(()));
            }
            match guard.fault {
                Some(Fault::Body) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                // The connection ends with the refusal that has been asked for.
                Some(_) => return Poll::Pending,
                None => {}
            }
            let between = guard.pending.is_empty();
            let read = if between { guard.read_through(cx, buf) } else { guard.read_aside(cx) };
            match read {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(len)) => {
                    // The clock of a head starts with its first byte.
                    if between && !guard.framing.is_opaque() {
                        guard.reading.restart();
                        guard.upload.came(len, guard.limits.pace);
                    }
                    if buf.filled().len() > before {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Pending => {
                    ready!(guard.check_time(cx))?;
                    if guard.cleared == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl AsyncWrite for Guard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.socket().poll_write(cx, buf);
        self.watch_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.socket().poll_write_vectored(cx, bufs);
        self.watch_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper comes here whenever a request of the connection has been looked after.
        if self.client.is_watched() && self.is_left() {
            self.client.leave();
        }
        self.socket().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.resting {
            return Poll::Ready(Ok(()));
        }
        ready!(self.socket().poll_shutdown(cx))?;
        let clean = self.fault.is_none() && (self.framing.is_between() || self.framing.is_opaque());
        if !clean {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        if self.client.is_broken() {
            // HTTP/1.0 knows the end of an answer by the end of the connection: only a reset looks broken. If that
            // cannot be had, nothing else can.
            let _ = socket.set_zero_linger();
        } else if self.resting {
            self.client.rest(socket);
        }
    }
}

fn stand_in(fault: Fault) -> Vec<u8> {
    let number = Fault::ALL.iter().position(|one| *one == fault).unwrap_or_default();
    let method = String::from_utf8_lossy(REFUSED_METHOD);
    format!("{method} /{number} HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n").into_bytes()
}

/// Whether a request stands in for one that could not be read.
pub(crate) fn is_stand_in<B>(request: &Request<B>) -> bool {
    request.method().as_str().as_bytes() == REFUSED_METHOD
}

/// Returns the refusal that a stand-in request asks for.
pub(crate) fn refusal_of<B>(request: &Request<B>) -> Option<Refusal> {
    if !is_stand_in(request) {
        return None;
    }
    let number: Option<usize> = request.uri().path().get(1..).and_then(|number| number.parse().ok());
    let fault = number.and_then(|number| Fault::ALL.get(number)).copied().unwrap_or(Fault::RequestLine);
    let (status, reason, message) = match fault {
        Fault::RequestLine => {
            let message =
                "the request line is malformed; send `METHOD /path HTTP/1.1`, other characters percent-encoded";
            (StatusCode::BAD_REQUEST, "BadRequestLine", message)
        }
        Fault::Version => {
            (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "BadVersion", "only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here")
        }
        Fault::UriTooLong => return Some(Refusal::uri_too_long().closing()),
        Fault::HeadTooLarge => return Some(Refusal::headers_too_large().closing()),
        Fault::Line => (
            StatusCode::BAD_REQUEST,
            "BadLine",
            "a header line is folded or does not end with CR LF; send each on one line",
        ),
        Fault::Header => (
            StatusCode::BAD_REQUEST,
            "BadHeader",
            "a header's name or value is malformed; send `name: value` without control characters",
        ),
        Fault::ContentLength => {
            (StatusCode::BAD_REQUEST, "BadContentLength", "Content-Length is repeated or no number; send it once")
        }
        Fault::TransferEncoding => (
            StatusCode::BAD_REQUEST,
            "BadTransferEncoding",
            "Transfer-Encoding is not exactly `chunked`; send that, once",
        ),
        Fault::Ambiguous => (
            StatusCode::BAD_REQUEST,
            "AmbiguousLength",
            "a request has both Content-Length and Transfer-Encoding; send one of them",
        ),
        Fault::Host => (StatusCode::BAD_REQUEST, "BadHost", "a request has no Host, or several; send one"),
        Fault::Timeout => {
            (StatusCode::REQUEST_TIMEOUT, "RequestTimeout", "the request's head did not come in time (`headerTimeout`)")
        }
        Fault::Body => {
            (StatusCode::BAD_REQUEST, "BrokenBody", "the body's chunks are malformed; nothing after them was read")
        }
    };
    Some(Refusal::new(status, reason, message).closing())
}
