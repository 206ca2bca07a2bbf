//! The body of a backend's answer, whichever protocol it speaks.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::multiplex::Stream;
use super::talk::{Hearing, TalkError};

/// An answer's body as it comes.
#[derive(Debug)]
pub(crate) enum BackendBody {
    /// Over HTTP/1. Gives the connection back when it has been heard to its end.
    Http1(Hearing),
    /// Over HTTP/2.
    H2c(Stream),
}

impl Body for BackendBody {
    type Data = Bytes;
    type Error = TalkError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TalkError>>> {
        match self.get_mut() {
            Self::Http1(hearing) => hearing.poll_frame(cx),
            Self::H2c(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(hearing) => hearing.is_end_stream(),
            Self::H2c(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let left = match self {
            Self::Http1(hearing) => hearing.left(),
            Self::H2c(stream) => stream.left(),
        };
        left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
