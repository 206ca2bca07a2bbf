//! A request on its way to an HTTP/1.1 backend: what of it is still to be written.
//!
//! The head and what there is of the body leave in one write. A piece of the body is asked for only when those before it
//! have been written, but for small ones.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::ask_head::{Extent, write_chunk_size, write_head, write_lines};
use super::body::{BodyError, RequestBody};
use super::headers::Said;

/// What is still to be written of a request.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// None when it has ended.
    body: Option<RequestBody>,
    extent: Extent,
    /// Written first: heads, lines around chunks, and small pieces.
    small: Vec<u8>,
    /// How much of that has been written.
    at: usize,
    /// Written then: a piece of the body.
    piece: Bytes,
    /// Written then: the end of its chunk.
    tail: &'static [u8],
    /// Pieces and writes so far.
    moves: u64,
}

/// Why a request cannot be written.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Its body cannot be read.
    Body(BodyError),
    /// The backend does not take it.
    Io(io::Error),
}

/// Smaller pieces are copied: that costs less than writing from two places.
const COPIED: usize = 4 << 10;
/// As long as less than this waits, more is taken of a body.
const ENOUGH: usize = 16 << 10;
const LINE_END: &[u8] = b"\r\n";
/// The end of a chunk, and the chunk that ends a body.
const LAST_LINES: &[u8] = b"\r\n0\r\n\r\n";

impl Outgoing {
    /// Begins with the head.
    pub(crate) fn new(request: Request<RequestBody>, said: &Said) -> Self {
        let (mut head, body) = request.into_parts();
        let body = Some(body).filter(|body| !body.is_end_stream());
        let hint = body.as_ref().map_or_else(Default::default, Body::size_hint);
        let extent = Extent::decide(&mut head.headers, &hint, body.is_none());
        let mut small = Vec::with_capacity(1024);
        write_head(&mut small, &head, said);
        Self { body, extent, small, at: 0, piece: Bytes::new(), tail: &[], moves: 0 }
    }

    /// Returns whether everything has been written.
    pub(crate) fn is_done(&self) -> bool {
        self.body.is_none() && !self.has_bytes()
    }

    /// Returns a number that grows whenever something moves.
    pub(crate) fn moves(&self) -> u64 {
        self.moves
    }

    /// Writes on. Ready when everything has been written.
    pub(crate) fn poll<W>(&mut self, cx: &mut Context<'_>, socket: &mut W) -> Poll<Result<(), SendError>>
    where
        W: AsyncWrite + Unpin,
    {
        loop {
            let more = self.gather(cx).map_err(SendError::Body)?;
            if self.has_bytes() {
                ready!(self.poll_write(cx, socket)).map_err(SendError::Io)?;
            }
            if self.is_done() {
                return Poll::Ready(Ok(()));
            }
            if more.is_pending() && !self.has_bytes() {
                return Poll::Pending;
            }
        }
    }

    fn has_bytes(&self) -> bool {
        !(self.small.is_empty() && self.piece.is_empty() && self.tail.is_empty())
    }

    /// Takes pieces of the body until there is enough to write. Pending when the body has no more right now.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, BodyError> {
        while self.piece.is_empty() && self.tail.is_empty() && self.small.len() < ENOUGH {
            let Some(body) = &mut self.body else { break };
            let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else { return Ok(Poll::Pending) };
            self.moves += 1;
            match frame.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => {
                    self.add(data)?;
                    if self.body.as_ref().is_some_and(Body::is_end_stream) {
                        self.end(None)?;
                    }
                }
                Some(Err(frame)) => self.end(frame.into_trailers().ok())?,
                None => self.end(None)?,
            }
        }
        Ok(Poll::Ready(()))
    }

    fn add(&mut self, data: Bytes) -> Result<(), BodyError> {
        let chunked = match &mut self.extent {
            Extent::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(BodyError::Misfit)?;
                false
            }
            Extent::Chunked(_) => true,
        };
        if data.is_empty() {
            // As a chunk it would be the last.
            return Ok(());
        }
        if chunked {
            write_chunk_size(&mut self.small, data.len());
        }
        let tail = if chunked { LINE_END } else { &[] };
        if data.len() <= COPIED {
            self.small.extend_from_slice(&data);
            self.small.extend_from_slice(tail);
        } else {
            (self.piece, self.tail) = (data, tail);
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), BodyError> {
        self.body = None;
        match &self.extent {
            Extent::Length(0) => Ok(()),
            Extent::Length(_) => Err(BodyError::Misfit),
            Extent::Chunked(announced) => {
                if !self.tail.is_empty() {
                    // The last piece has not been written yet. Trailers cannot have come with it.
                    self.tail = LAST_LINES;
                    return Ok(());
                }
                self.small.extend_from_slice(b"0\r\n");
                let trailers = trailers.unwrap_or_default();
                write_lines(&mut self.small, trailers.iter().filter(|(name, _)| announced.contains(name)));
                self.small.extend_from_slice(LINE_END);
                Ok(())
            }
        }
    }

    /// Writes once.
    fn poll_write<W>(&mut self, cx: &mut Context<'_>, socket: &mut W) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin,
    {
        let socket = Pin::new(socket);
        let mut written = if self.piece.is_empty() && self.tail.is_empty() {
            ready!(socket.poll_write(cx, &self.small[self.at..]))?
        } else {
            let parts: [&[u8]; 3] = [&self.small[self.at..], &self.piece, self.tail];
            let parts = parts.map(IoSlice::new);
            ready!(socket.poll_write_vectored(cx, &parts))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.moves += 1;
        let small = written.min(self.small.len() - self.at);
        self.at += small;
        if self.at == self.small.len() {
            self.small.clear();
            self.at = 0;
        }
        written -= small;
        let piece = written.min(self.piece.len());
        self.piece.advance(piece);
        self.tail = &self.tail[written - piece..];
        Poll::Ready(Ok(()))
    }
}
