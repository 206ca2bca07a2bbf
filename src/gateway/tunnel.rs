//! Upgraded connections (WebSocket): bytes both ways until either side ends, both fall silent, or we shut down.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::body::Held;
use super::flight::Flight;

/// Both ends of an upgrade that the backend has agreed to, and what it holds.
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) backend: TcpStream,
    /// What the backend has said already.
    pub(crate) said: Bytes,
    pub(crate) idle_timeout: Duration,
    pub(crate) cancel: CancellationToken,
    pub(crate) flight: Flight,
    pub(crate) held: Held,
}

impl Tunnel {
    /// Copies until the end. The lease is held until then.
    pub(crate) async fn run(self) {
        let Self { client, backend, said, idle_timeout, cancel, flight, held } = self;
        let copy = async {
            let client = client.await.map_err(io::Error::other)?;
            let moved = Arc::new(AtomicU64::new(0));
            let mut client = Watched { io: TokioIo::new(client), moved: Arc::clone(&moved) };
            let mut backend = Watched { io: backend, moved: Arc::clone(&moved) };
            client.write_all(&said).await?;
            tokio::select! {
                // Losing the copy drops both connections, which is what the other arm wants.
                copied = tokio::io::copy_bidirectional(&mut client, &mut backend) => copied.map(drop),
                () = silence(&moved, idle_timeout) => Err(io::ErrorKind::TimedOut.into()),
            }
        };
        tokio::select! {
            // Losing the copy drops both connections; losing the wait for the token loses nothing.
            ended = copy => if let Err(error) = ended {
                tracing::debug!(%error, "tunnel broke");
            },
            () = cancel.cancelled() => {}
        }
        drop(held);
        drop(flight);
    }
}

/// Ends when nothing has moved for `timeout`.
async fn silence(moved: &AtomicU64, timeout: Duration) {
    let mut before = moved.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(timeout).await;
        let now = moved.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

/// Counts reads, so that silence can be noticed.
struct Watched<T> {
    io: T,
    moved: Arc<AtomicU64>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
