//! Bodies that are held whole: those of graphs and batches. Each has a limit, and all together have one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt;

use super::refusal::Refusal;
use super::worker::RETRY_SOON;

/// Room for bodies, shared by all requests.
#[derive(Debug)]
pub(crate) struct Room {
    each: usize,
    all: usize,
    taken: AtomicUsize,
}

/// What one request has taken of the room. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Space {
    room: Arc<Room>,
    taken: AtomicUsize,
}

/// Why a body is not held.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TooMuch {
    /// It is larger than one may be.
    #[error("the body is larger than {0} bytes")]
    Large(usize),
    /// All together are.
    #[error("the bodies of all requests together are larger than {0} bytes")]
    Full(usize),
    /// It ended before its end.
    #[error("the body could not be read: {0}")]
    Broken(String),
}

impl Room {
    pub(crate) fn new(each: usize, all: usize) -> Self {
        Self { each, all, taken: AtomicUsize::new(0) }
    }

    /// Opens an account for one request.
    pub(crate) fn open(self: &Arc<Self>) -> Space {
        Space { room: Arc::clone(self), taken: AtomicUsize::new(0) }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.taken.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Space {
    fn take(&self, bytes: usize) -> Result<(), TooMuch> {
        let before = self.room.taken.fetch_add(bytes, Ordering::Relaxed);
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.room.all { Err(TooMuch::Full(self.room.all)) } else { Ok(()) }
    }

    /// Reads a body to its end.
    pub(crate) async fn read<B>(&self, mut body: B) -> Result<Bytes, TooMuch>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let mut whole = BytesMut::new();
        let mut first: Option<Bytes> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| TooMuch::Broken(error.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            let seen = first.as_ref().map_or(0, Bytes::len) + whole.len();
            if seen + data.len() > self.room.each {
                return Err(TooMuch::Large(self.room.each));
            }
            self.take(data.len())?;
            // Most bodies come in one piece and are not copied.
            match first.take() {
                None if whole.is_empty() => first = Some(data),
                None => whole.extend_from_slice(&data),
                Some(before) => {
                    whole.extend_from_slice(&before);
                    whole.extend_from_slice(&data);
                }
            }
        }
        Ok(first.unwrap_or_else(|| whole.freeze()))
    }
}

impl From<TooMuch> for Box<Refusal> {
    /// For the body of a client.
    fn from(error: TooMuch) -> Self {
        let message = error.to_string();
        Self::new(match error {
            TooMuch::Large(_) => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "BodyTooLarge", message).closing(),
            TooMuch::Full(_) => Refusal::unavailable("Overloaded", message, RETRY_SOON).closing(),
            TooMuch::Broken(_) => Refusal::broken_body(message),
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn body(bytes: usize) -> Full<Bytes> {
        Full::new(Bytes::from(vec![b'x'; bytes]))
    }

    #[tokio::test]
    async fn a_body_has_a_limit_and_all_together_have_one() {
        let room = Arc::new(Room::new(10, 15));
        let one = room.open();
        assert_eq!(one.read(body(10)).await.unwrap().len(), 10);
        assert!(matches!(one.read(body(11)).await, Err(TooMuch::Large(10))));
        let other = room.open();
        assert!(matches!(other.read(body(6)).await, Err(TooMuch::Full(15))));
        drop((one, other));
        assert_eq!(room.taken.load(Ordering::Relaxed), 0, "what was taken is given back");
        assert!(room.open().read(body(10)).await.is_ok());
    }
}
