//! One exchange on an HTTP/1.1 connection to a backend. It runs in the task of the request it is for: there is no task
//! per connection, and so nothing to hand over and nobody to wake.
//!
//! Only when an answer begins before the request has been sent does a task of its own send the rest, so that neither
//! waits for the other.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use rustix::net::RecvFlags;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio_util::io::poll_read_buf;

use super::answer_frames::Frames;
use super::answer_head::{AnswerHead, Nonsense, read_head};
use super::body::{BodyError, RequestBody};
use super::deadline::Deadline;
use super::headers::Said;
use super::outgoing::{Outgoing, SendError};
use super::patience::{Limits, Patience};
use super::upstream::Checkout;

/// A connection to a backend.
#[derive(Debug)]
pub(crate) struct Talk {
    ear: Ear,
    /// Elsewhere while the rest of a request is sent from there.
    mouth: Option<OwnedWriteHalf>,
    /// Used again for each request.
    deadline: Deadline,
}

/// What a backend says.
#[derive(Debug)]
struct Ear {
    socket: OwnedReadHalf,
    /// Read, not yet passed on.
    read: BytesMut,
    /// How much is read at once. Grows with what comes.
    room: usize,
}

const LEAST_ROOM: usize = 8 << 10;
const MOST_ROOM: usize = 512 << 10;

/// Why there is no answer, or why it ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TalkError {
    /// Reading or writing failed.
    #[error("the connection to the backend broke")]
    Io(#[from] io::Error),
    /// It ended the connection.
    #[error("the backend ended the connection")]
    Ended,
    /// What it says is no HTTP/1.
    #[error(transparent)]
    Nonsense(#[from] Nonsense),
    /// The connection or the stream on it ended, over HTTP/2.
    #[error("the stream to the backend broke")]
    Stream(#[from] h2::Error),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The request's body could not be read.
    #[error(transparent)]
    Body(BodyError),
    /// The backend does not answer.
    #[error(transparent)]
    Backend(#[from] TalkError),
    /// It did not answer in time.
    #[error("the backend did not answer in time")]
    TooLate,
}

impl Talk {
    /// Boxed, because it passes through many hands.
    pub(crate) fn new(socket: TcpStream) -> Box<Self> {
        let (socket, mouth) = socket.into_split();
        let ear = Ear { socket, read: BytesMut::new(), room: LEAST_ROOM };
        Box::new(Self { ear, mouth: Some(mouth), deadline: Deadline::new() })
    }

    /// Returns whether the other end is silent, as it must be before it is asked something: it has neither closed the
    /// connection nor said anything. This asks the kernel, which may not have told us yet.
    pub(crate) fn is_silent(&self) -> bool {
        let seen = rustix::net::recv(self.ear.socket.as_ref(), &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        seen.is_err_and(|error| error == rustix::io::Errno::WOULDBLOCK)
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        most_lines: usize,
        to_head: bool,
    ) -> Poll<Result<AnswerHead, TalkError>> {
        loop {
            let before = self.ear.read.len();
            if ready!(self.ear.poll_read(cx))? == 0 {
                return Poll::Ready(Err(TalkError::Ended));
            }
            // A head ends with a line.
            if memchr::memchr(b'\n', &self.ear.read[before..]).is_none() && self.ear.read.len() < SCAN_AGAIN {
                continue;
            }
            while let Some(head) = read_head(&self.ear.read, most_lines, to_head)? {
                self.ear.read.advance(head.len);
                let status = head.response.status();
                if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(head));
                }
                // The client has been told what there is to tell before an answer.
            }
        }
    }
}

/// Above this an incomplete head is measured at every read.
const SCAN_AGAIN: usize = 64 << 10;

impl Ear {
    /// Reads once.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // What is left of a large buffer is used before there is another one.
        if self.read.capacity() - self.read.len() < self.room / 2 {
            self.read.reserve(self.room);
        }
        let space = self.read.capacity() - self.read.len();
        let len = ready!(poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.read))?;
        if len == space {
            self.room = (self.room * 2).min(MOST_ROOM);
        } else if len < self.room / 4 {
            self.room = (self.room / 2).max(LEAST_ROOM);
        }
        Poll::Ready(Ok(len))
    }
}

/// Sends a request and waits until its answer begins.
pub(crate) fn ask(
    checkout: Checkout,
    request: Request<RequestBody>,
    said: &Said,
    limits: Limits,
) -> impl Future<Output = Result<Response<Hearing>, AskError>> + use<> {
    let to_head = request.method() == Method::HEAD;
    // Not within what follows, where the request would take room until the answer begins.
    let outgoing = Outgoing::new(request, said);
    exchange(checkout, outgoing, to_head, limits)
}

async fn exchange(
    mut checkout: Checkout,
    mut outgoing: Outgoing,
    to_head: bool,
    limits: Limits,
) -> Result<Response<Hearing>, AskError> {
    let most_lines = checkout.most_lines();
    let talk = &mut checkout.talk;
    let mut patience = Patience::new(limits, std::mem::take(&mut talk.deadline));
    let mut refused = None;
    let head = poll_fn(|cx| {
        if let (Some(mouth), None) = (&mut talk.mouth, &refused) {
            match outgoing.poll(cx, mouth) {
                Poll::Ready(Err(SendError::Body(error))) => return Poll::Ready(Err(AskError::Body(error))),
                // It may have said why before it left.
                Poll::Ready(Err(SendError::Io(error))) => refused = Some(error),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        if let Poll::Ready(head) = talk.poll_head(cx, most_lines, to_head) {
            return Poll::Ready(head.map_err(|error| AskError::Backend(refused.take().map_or(error, TalkError::Io))));
        }
        ready!(patience.poll(cx, outgoing.moves(), outgoing.is_done()));
        Poll::Ready(Err(AskError::TooLate))
    });
    let head = head.await?;
    talk.deadline = patience.into_deadline();
    let frames = Frames::new(head.ending);
    let mut hearing = Hearing { checkout: Some(checkout), frames, keeps: head.keeps && refused.is_none(), back: None };
    if !outgoing.is_done() && refused.is_none() {
        hearing.send_rest(outgoing);
    }
    Ok(head.response.map(|()| hearing))
}

/// The body of an answer as it comes.
#[derive(Debug)]
pub(crate) struct Hearing {
    /// Until it turns out that it cannot be used again.
    checkout: Option<Checkout>,
    frames: Frames,
    /// Whether another request may follow.
    keeps: bool,
    /// Who sends the rest of the request, and keeps the connection when both are done.
    back: Option<oneshot::Sender<Checkout>>,
}

impl Hearing {
    /// Has the rest of the request sent.
    fn send_rest(&mut self, outgoing: Outgoing) {
        let Some(checkout) = &mut self.checkout else { return };
        let Some(mouth) = checkout.talk.mouth.take() else { return };
        let (back, answered) = oneshot::channel();
        self.back = Some(back);
        checkout.tasks().spawn_short(Box::pin(send_rest(outgoing, mouth, answered)));
    }

    /// Returns whether everything has come.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.frames.ended()
    }

    /// Returns how many bytes are to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.frames.left()
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TalkError>>> {
        let Some(checkout) = &mut self.checkout else { return Poll::Ready(None) };
        let polled = poll_frame(&mut self.frames, &mut checkout.talk.ear, cx);
        if let Poll::Ready(Err(_)) = &polled {
            self.checkout = None;
        }
        polled.map(Result::transpose)
    }

    /// Returns the connection, which is no longer HTTP's, and what the backend has said on it. None when it was still
    /// being asked.
    pub(crate) fn into_tunnel(mut self) -> Option<(TcpStream, Bytes)> {
        let Talk { ear, mouth, .. } = *self.checkout.take()?.talk;
        let socket = ear.socket.reunite(mouth?).ok()?;
        Some((socket, ear.read.freeze()))
    }
}

fn poll_frame(
    frames: &mut Frames,
    ear: &mut Ear,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Frame<Bytes>>, TalkError>> {
    loop {
        let frame = frames.next(&mut ear.read)?;
        if frame.is_some() || frames.ended() {
            return Poll::Ready(Ok(frame));
        }
        if ready!(ear.poll_read(cx))? == 0 {
            return Poll::Ready(if frames.close() { Ok(None) } else { Err(TalkError::Ended) });
        }
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        let Some(mut checkout) = self.checkout.take() else { return };
        // Whoever says more than was asked for is not asked again.
        if !self.keeps || !self.frames.ended() || !checkout.talk.ear.read.is_empty() {
            return;
        }
        // A connection at rest takes no memory.
        checkout.talk.ear.read = BytesMut::new();
        match self.back.take() {
            None => checkout.put_back(),
            // Given up already when the rest could not be sent.
            Some(back) => drop(back.send(checkout)),
        }
    }
}

/// Sends the rest of a request whose answer has begun, as long as somebody is interested in that.
async fn send_rest(mut outgoing: Outgoing, mut mouth: OwnedWriteHalf, mut answered: oneshot::Receiver<Checkout>) {
    let (mut sent, mut checkout) = (false, None);
    let whole = poll_fn(|cx| {
        if checkout.is_none()
            && let Poll::Ready(answered) = Pin::new(&mut answered).poll(cx)
        {
            let Ok(answered) = answered else { return Poll::Ready(false) };
            checkout = Some(answered);
        }
        if !sent && let Poll::Ready(outcome) = outgoing.poll(cx, &mut mouth) {
            if outcome.is_err() {
                return Poll::Ready(false);
            }
            sent = true;
        }
        if sent && checkout.is_some() { Poll::Ready(true) } else { Poll::Pending }
    });
    if whole.await
        && let Some(mut checkout) = checkout
    {
        checkout.talk.mouth = Some(mouth);
        checkout.put_back();
    }
}
