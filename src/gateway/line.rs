//! A socket to a backend that hyper reads and writes, and that the pool can look at while it is idle.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// One of the two ends of it on our side. Both belong to one worker, so that the lock is always free.
#[derive(Clone, Debug)]
pub(crate) struct Line(Arc<Mutex<TcpStream>>);

impl Line {
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    /// Returns whether the other end is silent, as it must be before it is asked something: it has neither closed the
    /// connection nor said anything. This asks the kernel, because what it knows may not have been told to hyper yet.
    pub(crate) fn is_silent(&self) -> bool {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = rustix::net::recv(&*socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        seen.is_err_and(|error| error == rustix::io::Errno::WOULDBLOCK)
    }

    fn with<T>(&self, act: impl FnOnce(Pin<&mut TcpStream>) -> T) -> T {
        act(Pin::new(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|socket| socket.poll_read(cx, buf))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|socket| socket.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|socket| socket.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|socket| socket.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|socket| socket.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Line, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Line::new(near), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_line_is_silent_until_the_other_end_says_something_or_leaves() {
        let (line, mut far) = pair().await;
        assert!(line.is_silent());
        far.write_all(b"HTTP/1.1 408 Request Timeout\r\n").await.unwrap();
        assert!(!line.is_silent(), "an answer to nothing");
        let (line, far) = pair().await;
        drop(far);
        assert!(!line.is_silent(), "nobody is there");
    }
}
