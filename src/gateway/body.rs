//! Bodies on their way through: passed on piece by piece, counted, never collected.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use crate::traffic::Lease;

use super::backend_body::BackendBody;
use super::balance::Slot;
use super::breaker::Verdict;
use super::executor::{self, Standing};
use super::flight::Flight;
use super::metrics::{ServiceMetrics, UpstreamError};
use super::quiet;
use super::talk::TalkError;
use super::tap::Tap;
use super::upload::{Pace, Upload};

/// What a client sends.
#[derive(Debug)]
pub(crate) struct RequestBody {
    /// Pieces already read, to be sent first.
    front: VecDeque<Frame<Bytes>>,
    rest: Option<Incoming>,
    metrics: Arc<ServiceMetrics>,
    clock: Option<Box<Clock>>,
    tap: Option<Box<Tap>>,
    ended: bool,
}

/// Sees to it that a body comes fast enough.
#[derive(Debug)]
struct Clock {
    pace: Pace,
    upload: Upload,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.upload.waits() + self.pace.within;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        timer.as_mut().reset(deadline);
        timer.as_mut().poll(cx)
    }
}

/// Why a request's body cannot be passed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The client's connection or stream ended, or made no sense.
    #[error("the request's body could not be read")]
    Broken {
        /// What hyper says.
        source: hyper::Error,
    },
    /// It comes too slowly.
    #[error("the request's body came too slowly")]
    TooSlow,
    /// It is longer or shorter than the head said.
    #[error("the request's body is not as long as its head says")]
    Misfit,
}

impl RequestBody {
    /// Passes on `front`, then `rest`, which must come at a `pace` where nobody else sees to that.
    pub(crate) fn new(
        front: VecDeque<Frame<Bytes>>,
        rest: Incoming,
        metrics: Arc<ServiceMetrics>,
        pace: Option<Pace>,
    ) -> Self {
        let rest = (!rest.is_end_stream()).then_some(rest);
        let clock = pace.filter(|_| rest.is_some());
        let clock = clock.map(|pace| Box::new(Clock { pace, upload: Upload::default(), timer: None }));
        Self { front, rest, metrics, clock, tap: None, ended: false }
    }

    /// Passes on what is all there.
    pub(crate) fn whole(body: Bytes, metrics: Arc<ServiceMetrics>) -> Self {
        let front: VecDeque<_> = (!body.is_empty()).then(|| Frame::data(body)).into_iter().collect();
        Self { front, rest: None, metrics, clock: None, tap: None, ended: false }
    }

    /// Has a copy taken of what passes.
    pub(crate) fn tapped(mut self, tap: Option<Box<Tap>>) -> Self {
        self.tap = tap;
        self
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = match (this.front.pop_front(), &mut this.rest) {
            (Some(frame), _) => Some(Ok(frame)),
            (None, Some(rest)) => match quiet::take(rest, cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let Some(clock) = &mut this.clock else { return Poll::Pending };
                    ready!(clock.poll(cx));
                    return Poll::Ready(Some(Err(BodyError::TooSlow)));
                }
            },
            (None, None) => None,
        };
        this.ended |= frame.is_none();
        if let Some(Ok(frame)) = &frame {
            if let (Some(data), Some(tap)) = (frame.data_ref(), &mut this.tap) {
                tap.see(data);
            }
            let len = frame.data_ref().map_or(0, Bytes::len);
            this.metrics.request_bytes.fetch_add(len as u64, Ordering::Relaxed);
            if let Some(clock) = &mut this.clock {
                clock.upload.came(len, clock.pace);
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|source| BodyError::Broken { source })))
    }

    fn is_end_stream(&self) -> bool {
        self.front.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let ahead: u64 = self.front.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        let rest = self.rest.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + ahead);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + ahead);
        }
        hint
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(tap) = self.tap.take().filter(|_| self.ended || self.is_end_stream()) {
            tap.end();
        }
    }
}

/// Why an answer that has begun cannot be finished. The client sees a broken connection or a reset stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// The backend's connection ended or made no sense.
    #[error("the backend's answer was cut")]
    Cut {
        /// How.
        source: TalkError,
    },
    /// Nothing came for too long.
    #[error("the backend's answer stalled for {} s", .0.as_secs())]
    Stalled(Duration),
}

/// What a client gets.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// One of our own answers; none after an upgrade, when the tunnel counts.
    Own(Option<Bytes>, #[expect(dead_code, reason = "counts until it is dropped")] Option<Flight>),
    /// One of our own answers with trailers: gRPC.
    OwnGrpc {
        /// The message.
        message: Option<Bytes>,
        /// What comes after it.
        trailers: Option<HeaderMap>,
        /// Counts until it is dropped.
        _flight: Option<Flight>,
    },
    /// A backend's.
    Relayed(Box<Relay>),
}

/// A backend's answer on its way through. Holds what the request has taken until the last byte is out or the client
/// has gone.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Given back to the pool when it is dropped after its end.
    body: BackendBody,
    ended: bool,
    /// Why it ended before its end.
    cut: Option<TalkError>,
    idle: Option<Pin<Box<Sleep>>>,
    idle_timeout: Duration,
    flight: Flight,
    tap: Option<Box<Tap>>,
    // Dropped last, in this order: the replica is free only after all of the above.
    slot: Option<Slot>,
    _lease: Lease,
}

/// What a forwarded request holds on to.
#[derive(Debug)]
pub(crate) struct Held {
    /// Its place among the replica's concurrent requests.
    pub(crate) slot: Option<Slot>,
    /// Its mark on the notice board.
    pub(crate) lease: Lease,
}

impl Held {
    /// A server error, ours for want of an answer included, speaks against the replica at once; that an answer is good
    /// is known only at its end.
    pub(crate) fn judge(&mut self, status: StatusCode) {
        if status.is_server_error()
            && let Some(slot) = &mut self.slot
        {
            slot.report(Verdict::Failed);
        }
    }
}

impl Relay {
    pub(crate) fn new(
        body: BackendBody,
        idle_timeout: Duration,
        flight: Flight,
        held: Held,
        tap: Option<Box<Tap>>,
    ) -> Self {
        let Held { slot, lease } = held;
        Self { body, ended: false, cut: None, idle: None, idle_timeout, flight, tap, slot, _lease: lease }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        if let Some(source) = self.cut.take() {
            self.break_off(UpstreamError::Broken);
            return Poll::Ready(Some(Err(AnswerError::Cut { source })));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => self.poll_idle(cx),
            Poll::Ready(None) => {
                self.ended = true;
                self.report(Verdict::Worked);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.idle = None;
                if let Some(data) = frame.data_ref() {
                    self.flight.sent(data.len() as u64);
                    if let Some(tap) = &mut self.tap {
                        tap.see(data);
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(source))) => {
                // What has come goes out first: a reset stream forgets what it has not sent, its head included.
                self.cut = Some(source);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// The client must see that the answer is not whole.
    fn break_off(&mut self, error: UpstreamError) {
        self.flight.metrics().upstream_error(error);
        self.flight.client().break_off();
        self.report(Verdict::Failed);
    }

    fn report(&mut self, verdict: Verdict) {
        if let Some(slot) = &mut self.slot {
            slot.report(verdict);
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let timeout = self.idle_timeout;
        let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(idle.as_mut().poll(cx));
        self.break_off(UpstreamError::Timeout);
        Poll::Ready(Some(Err(AnswerError::Stalled(timeout))))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            return;
        }
        if let Some(tap) = self.tap.take() {
            tap.end();
        }
        self.report(Verdict::Worked);
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let polled = match self.get_mut() {
            Self::Own(bytes, _) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::OwnGrpc { message, trailers, .. } => {
                let frame = message.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(frame.map(Ok))
            }
            Self::Relayed(relay) => relay.poll(cx),
        };
        executor::say(if matches!(polled, Poll::Ready(Some(_))) { Standing::Given } else { Standing::Waits });
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes, _) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::OwnGrpc { message, trailers, .. } => message.is_none() && trailers.is_none(),
            Self::Relayed(relay) => relay.ended || relay.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes, _) | Self::OwnGrpc { message: bytes, .. } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Relayed(relay) => relay.body.size_hint(),
        }
    }
}
