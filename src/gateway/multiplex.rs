//! Exchanges on an HTTP/2 connection to a backend, which many requests share. Each runs in the task of the request it is
//! for; only the connection has a task of its own.
//!
//! As over HTTP/1.1, a task of its own sends the rest of a request whose answer has begun: calls of gRPC speak both ways
//! at once.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, Reason, RecvStream, SendStream};
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::net::TcpStream;

use crate::tasks::Tasks;

use super::body::RequestBody;
use super::deadline::Deadline;
use super::headers::strip_trailers;
use super::patience::{Limits, Patience};
use super::talk::{AskError, TalkError};

/// A connection that can be asked by many at once.
#[derive(Clone, Debug)]
pub(crate) struct Multiplex {
    sender: SendRequest<Bytes>,
    pulse: Arc<Pulse>,
}

/// Whoever uses the connection holds it.
#[derive(Debug)]
struct Pulse {
    ended: AtomicBool,
    tasks: Tasks,
    /// Used again by those who ask after others.
    deadlines: Mutex<Vec<Deadline>>,
}

/// Deadlines that are kept.
const MOST_DEADLINES: usize = 64;

impl Pulse {
    fn deadlines(&self) -> MutexGuard<'_, Vec<Deadline>> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, deadline: Deadline) {
        let mut kept = self.deadlines();
        if kept.len() < MOST_DEADLINES {
            kept.push(deadline);
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The connection takes no more requests. This one is as it was.
    Unsent(Box<Request<RequestBody>>, TalkError),
    /// It may have been sent.
    Asked(AskError),
}

/// What one answer may have under way.
const STREAM_WINDOW: u32 = 512 << 10;
/// Practically no limit: a client that reads slowly must hold up its own stream only.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// What of a request waits for a backend that takes it slowly.
const SEND_BUFFER: usize = 1 << 20;
/// Until the backend has said how many it takes.
const FIRST_STREAMS: usize = 100;
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

impl Multiplex {
    /// Begins to speak HTTP/2 on a connection.
    ///
    /// # Errors
    /// The backend could not be greeted.
    pub(crate) async fn begin(socket: TcpStream, max_header_bytes: usize, tasks: &Tasks) -> Result<Self, h2::Error> {
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .initial_max_send_streams(FIRST_STREAMS)
            .max_header_list_size(u32::try_from(max_header_bytes).unwrap_or(u32::MAX))
            .handshake(socket)
            .await?;
        let pulse =
            Arc::new(Pulse { ended: AtomicBool::new(false), tasks: tasks.clone(), deadlines: Mutex::default() });
        tasks.spawn_short(Box::pin(run(connection, Arc::clone(&pulse))));
        Ok(Self { sender, pulse })
    }

    /// Returns whether the connection has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.pulse.ended.load(Ordering::Acquire)
    }

    /// Returns whether it is the same connection.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pulse, &other.pulse)
    }

    /// Sends a request and waits until its answer begins.
    pub(crate) async fn ask(
        &mut self,
        request: Request<RequestBody>,
        limits: Limits,
    ) -> Result<Response<Stream>, Unanswered> {
        if let Err(error) = poll_fn(|cx| self.sender.poll_ready(cx)).await {
            return Err(Unanswered::Unsent(Box::new(request), TalkError::Stream(error)));
        }
        let (mut parts, body) = request.into_parts();
        let body = Some(body).filter(|body| !body.is_end_stream());
        if let Some(length) = body.as_ref().and_then(|body| body.size_hint().exact()) {
            parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
        }
        let sent = self.sender.send_request(Request::from_parts(parts, ()), body.is_none());
        let (mut answer, stream) = sent.map_err(|error| Unanswered::Asked(TalkError::Stream(error).into()))?;
        let mut upload = Upload { stream, body, piece: None, moves: 0 };
        let mut patience = Patience::new(limits, self.pulse.deadlines().pop().unwrap_or_default());
        let answer = poll_fn(|cx| {
            // What becomes of the stream is known from its answer, which may come although not everything was taken.
            if let Poll::Ready(Err(AskError::Body(error))) = upload.poll(cx) {
                return Poll::Ready(Err(AskError::Body(error)));
            }
            if let Poll::Ready(answer) = Pin::new(&mut answer).poll(cx) {
                return Poll::Ready(answer.map_err(|error| TalkError::Stream(error).into()));
            }
            ready!(patience.poll(cx, upload.moves, upload.is_done()));
            Poll::Ready(Err(AskError::TooLate))
        });
        let answer = answer.await.map_err(Unanswered::Asked)?;
        self.pulse.keep(patience.into_deadline());
        if !upload.is_done() {
            self.pulse.tasks.spawn_short(Box::pin(send_rest(upload)));
        }
        let length = answer.headers().get(header::CONTENT_LENGTH);
        let left = length.and_then(|length| length.to_str().ok()).and_then(|length| length.parse().ok());
        Ok(answer.map(|body| Stream { body, left, data_ended: false, _pulse: Arc::clone(&self.pulse) }))
    }
}

/// The life of a connection. Ends when nobody can ask it any more, when the backend ends it, or when that is silent.
async fn run(mut connection: Connection<TcpStream, Bytes>, pulse: Arc<Pulse>) {
    let pings = connection.ping_pong();
    let is_silent = async {
        let Some(mut pings) = pings else { return std::future::pending().await };
        loop {
            tokio::time::sleep(PING_INTERVAL).await;
            // Held by this task and the pool when nobody waits for an answer.
            if Arc::strong_count(&pulse) <= 2 {
                continue;
            }
            let answered = tokio::time::timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await;
            if !matches!(answered, Ok(Ok(_))) {
                return;
            }
        }
    };
    tokio::select! {
        // Losing the wait for a silence loses nothing.
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "backend connection ended");
        },
        // Losing the connection ends its streams, which is meant.
        () = is_silent => tracing::debug!("a backend did not answer a ping"),
    }
    pulse.ended.store(true, Ordering::Release);
}

/// What is still to be sent of a request.
struct Upload {
    stream: SendStream<Bytes>,
    /// None when it has ended.
    body: Option<RequestBody>,
    /// Waits for room; and whether it is the last.
    piece: Option<(Bytes, bool)>,
    /// Pieces so far.
    moves: u64,
}

impl Upload {
    fn is_done(&self) -> bool {
        self.body.is_none() && self.piece.is_none()
    }

    /// Sends on. Ready when everything has been handed over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AskError>> {
        loop {
            if let Some((piece, last)) = self.piece.take_if(|(piece, _)| piece.is_empty() || self.stream.capacity() > 0)
            {
                self.stream.send_data(piece, last).map_err(TalkError::Stream)?;
                self.moves += 1;
            } else if self.piece.is_some() {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(TalkError::Stream(error).into())),
                    None => return Poll::Ready(Err(TalkError::Ended.into())),
                }
                continue;
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
            match ready!(Pin::new(&mut *body).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    let last = body.is_end_stream();
                    // The least that can be asked for; the rest is asked for by what is sent.
                    self.stream.reserve_capacity(usize::from(!data.is_empty()));
                    self.piece = Some((data, last));
                    if last {
                        self.body = None;
                    }
                }
                Some(Ok(Err(frame))) => {
                    self.body = None;
                    self.stream.reserve_capacity(0);
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    strip_trailers(&mut trailers);
                    self.stream.send_trailers(trailers).map_err(TalkError::Stream)?;
                }
                Some(Err(error)) => {
                    self.body = None;
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(AskError::Body(error)));
                }
                None => {
                    self.body = None;
                    self.stream.send_data(Bytes::new(), true).map_err(TalkError::Stream)?;
                }
            }
        }
    }
}

/// Sends the rest of a request whose answer has begun, until the backend wants no more of it.
async fn send_rest(mut upload: Upload) {
    let sent = poll_fn(|cx| {
        if upload.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        upload.poll(cx)
    });
    if let Err(error) = sent.await {
        tracing::debug!(%error, "a request was not sent to its end");
    }
}

/// The body of an answer as it comes.
#[derive(Debug)]
pub(crate) struct Stream {
    body: RecvStream,
    /// Bytes to come, where that is known.
    left: Option<u64>,
    data_ended: bool,
    _pulse: Arc<Pulse>,
}

impl Stream {
    /// Returns whether everything has come.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// Returns how many bytes are to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        if self.is_end_stream() { Some(0) } else { self.left }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TalkError>>> {
        while !self.data_ended {
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    // Fails for a stream that has ended, whose window nobody needs.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // All has been said, and it wants no more of the request (RFC 9113, section 8.1).
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.body.poll_trailers(cx));
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers).map_err(TalkError::Stream)))
    }
}
