//! A client that says exactly what it is told, byte by byte.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A client's socket.
pub(crate) struct Raw {
    socket: TcpStream,
    read: Vec<u8>,
}

/// An answer as it was on the wire.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// Everything up to the empty line, in lower case.
    pub(crate) head: String,
    /// The body, without chunk framing.
    pub(crate) body: String,
}

impl Answer {
    /// Returns the body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

impl Raw {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, read: Vec::new() }
    }

    /// Sends bytes. A connection that the other side has closed takes none, which is no error here.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.socket.write_all(bytes.as_ref()).await;
    }

    /// Reads until `ends` likes what has come, or the end.
    async fn until(&mut self, ends: impl Fn(&[u8]) -> Option<usize>) -> Option<Vec<u8>> {
        let read = async {
            loop {
                if let Some(end) = ends(&self.read) {
                    return Some(self.read.drain(..end).collect());
                }
                if self.socket.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the gateway neither answered nor closed")
    }

    async fn text_until(&mut self, mark: &str) -> Option<String> {
        let mark = mark.as_bytes();
        let found = |read: &[u8]| read.windows(mark.len()).position(|part| part == mark).map(|at| at + mark.len());
        Some(String::from_utf8_lossy(&self.until(found).await?).into_owned())
    }

    /// Reads one answer; none when the connection ends before it is whole.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let head = self.text_until("\r\n\r\n").await?.to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let field =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name).map(|value| value.trim().to_owned()));
        let mut body = String::new();
        if status == 101 || status == 204 || status == 304 || status < 200 {
        } else if field("transfer-encoding:").is_some_and(|coding| coding == "chunked") {
            loop {
                let size = self.text_until("\r\n").await?;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                if size == 0 {
                    loop {
                        let line = self.text_until("\r\n").await?;
                        if line == "\r\n" {
                            break;
                        }
                    }
                    break;
                }
                let piece = self.until(|read| (read.len() >= size + 2).then_some(size + 2)).await?;
                body.push_str(&String::from_utf8_lossy(&piece[..size]));
            }
        } else if let Some(length) = field("content-length:") {
            let length: usize = length.parse().unwrap();
            let bytes = self.until(|read| (read.len() >= length).then_some(length)).await?;
            body = String::from_utf8_lossy(&bytes).into_owned();
        } else {
            body = self.rest().await;
        }
        Some(Answer { status, head, body })
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request).await;
        self.answer().await.expect("a whole answer")
    }

    /// Reads exactly that many bytes.
    pub(crate) async fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.until(|read| (read.len() >= len).then_some(len)).await.expect("so many bytes")
    }

    /// Reads one piece of a chunked answer, without its framing.
    pub(crate) async fn piece(&mut self) -> String {
        let size = self.text_until("\r\n").await.expect("a chunk");
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let piece = self.bytes(size + 2).await;
        String::from_utf8_lossy(&piece[..size]).into_owned()
    }

    /// Reads a head.
    pub(crate) async fn head(&mut self) -> String {
        self.text_until("\r\n\r\n").await.expect("a head").to_ascii_lowercase()
    }

    /// Reads to the end.
    pub(crate) async fn rest(&mut self) -> String {
        let end = self.until(|_| None).await;
        assert!(end.is_none());
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }

    /// Waits for the other side to close, and returns whether nothing came before that.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.rest().await.is_empty()
    }
}
