//! One connection of a client: which protocol it speaks, its requests one after the other or side by side, its rests
//! between them, and its end when the daemon ends.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::traffic::turn::Turn;

use super::executor::StreamExecutor;
use super::flight::Client;
use super::guard::Guard;
use super::quiet::Quietly;
use super::worker::Worker;

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Arc<Worker>, mut socket: TcpStream, client: Arc<Client>) {
    let drain = worker.ending.drain.clone();
    // Small answers must not wait for more; if that cannot be set, they do.
    let _ = socket.set_nodelay(true);
    let limit = worker.config.idle_timeout;
    let first = tokio::select! {
        // Losing the first bytes closes a connection on which no request has been understood.
        first = tokio::time::timeout(limit, first_bytes(&mut socket, worker.config.header_timeout)) => first,
        () = drained(&drain, FIRST_WORDS) => return,
    };
    let Ok(Ok((first, protocol))) = first else { return };
    // All boxed: a connection at rest keeps none of it.
    match protocol {
        Protocol::Http1 => {
            let mut first = first;
            loop {
                let connection = serve_http1(&worker, socket, std::mem::take(&mut first), &client, &drain);
                tell(&client, Box::pin(connection).await);
                let Some(rested) = client.wake() else { return };
                socket = rested;
                tokio::select! {
                    // Losing the wait for readiness loses nothing, and we are closing.
                    more = says_more(&worker, &socket) => if !more { return },
                    () = drained(&drain, LAST_REQUEST) => return,
                }
            }
        }
        Protocol::Http2 => {
            tell(&client, Box::pin(serve_http2(worker, socket, first, Arc::clone(&client), drain)).await);
        }
    }
}

/// Waits until we shut down, and then as long again as a client may need whose words are under way.
pub(crate) async fn drained(drain: &CancellationToken, grace: Duration) {
    drain.cancelled().await;
    tokio::time::sleep(grace).await;
}

/// How long a connection that was accepted and has said nothing yet is waited for when we shut down. Closing it at once
/// would reset it under the hands of a client that is just sending its first request.
pub(crate) const FIRST_WORDS: Duration = Duration::from_secs(1);
/// How long a kept connection without a request is left open when we shut down. A request that was sent before its client
/// could know is answered, and its answer says that it was the last one (RFC 9112, section 9.6).
const LAST_REQUEST: Duration = Duration::from_millis(100);

fn tell(client: &Client, served: hyper::Result<()>) {
    if let Err(error) = served {
        debug!(peer = %client.peer, %error, "client connection ended");
    }
}

#[derive(Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until it is clear which protocol is spoken. The first byte may take its time, the others not.
async fn first_bytes(socket: &mut TcpStream, limit: Duration) -> io::Result<(BytesMut, Protocol)> {
    // A connection that says nothing gets no memory.
    socket.readable().await?;
    let mut first = BytesMut::with_capacity(1024);
    if socket.read_buf(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let preface = async {
        loop {
            let len = first.len().min(PREFACE.len());
            if first[..len] != PREFACE[..len] {
                return Ok((first, Protocol::Http1));
            }
            if len == PREFACE.len() {
                return Ok((first, Protocol::Http2));
            }
            if socket.read_buf(&mut first).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    tokio::time::timeout(limit, preface).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Waits, without a buffer, until the client says something. Returns whether it did in time.
async fn says_more(worker: &Worker, socket: &TcpStream) -> bool {
    let left = worker.config.idle_timeout.saturating_sub(worker.config.rest_after);
    matches!(tokio::time::timeout(left, socket.readable()).await, Ok(Ok(())))
}

async fn serve_http1(
    worker: &Arc<Worker>,
    socket: TcpStream,
    first: BytesMut,
    client: &Arc<Client>,
    drain: &CancellationToken,
) -> hyper::Result<()> {
    let guard = Guard::http1(socket, first, Arc::clone(client), &worker.config);
    let most_lines = worker.config.max_header_count;
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, client) = (Arc::clone(worker), Arc::clone(client));
        // Boxed: it is large, and hyper moves it.
        Box::pin(async move { Ok::<_, std::convert::Infallible>(pin!(worker.answer(client, Box::new(request))).await) })
    });
    // The guard keeps the time; hyper's own timer would also end connections that are merely idle.
    let mut http = http1::Builder::new();
    http.header_read_timeout(None);
    // So does it count the lines; to be told any number costs hyper two lists of that length for each request.
    if most_lines > HYPERS_LINES {
        http.max_headers(most_lines);
    }
    let connection = http.serve_connection(TokioIo::new(guard), service).with_upgrades();
    let connection = pin!(connection);
    let told = drained(drain, LAST_REQUEST);
    let quietly = pin!(Quietly::new(connection));
    until_drained(quietly, drain, told, |mut quietly| quietly.inner().graceful_shutdown()).await
}

/// Header lines of a request that hyper takes by itself.
const HYPERS_LINES: usize = 100;

async fn serve_http2(
    worker: Arc<Worker>,
    socket: TcpStream,
    first: BytesMut,
    client: Arc<Client>,
    drain: CancellationToken,
) -> hyper::Result<()> {
    let guard = Guard::http2(socket, first, Arc::clone(&client), &worker.config);
    let mut builder =
        http2::Builder::new(StreamExecutor { tasks: worker.tasks.clone(), stall: worker.config.stall_timeout });
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(worker.config.max_streams)
        .max_header_list_size(u32::try_from(worker.config.max_header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(worker.config.header_timeout);
    let service = service_fn(move |request: Request<Incoming>| {
        let (worker, client) = (Arc::clone(&worker), Arc::clone(&client));
        // Boxed: it is moved into a task of its own, through several hands.
        Box::pin(async move { Ok::<_, std::convert::Infallible>(pin!(worker.answer(client, Box::new(request))).await) })
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(guard), service));
    // HTTP/2 has words of its own for which requests still count.
    until_drained(connection.as_mut(), &drain, drain.cancelled(), |connection| connection.graceful_shutdown()).await
}

/// Runs a connection to its end, and asks it to come to one when we shut down: once `told` is done, which waits for `drain`.
async fn until_drained<C: Future>(
    mut connection: Pin<&mut C>,
    drain: &CancellationToken,
    told: impl Future<Output = ()>,
    wind_up: impl FnOnce(Pin<&mut C>),
) -> C::Output {
    let mut told = pin!(told);
    let (mut heard, mut wind_up) = (false, Some(wind_up));
    poll_fn(move |cx| {
        let _turn = Turn::begin();
        let ended = connection.as_mut().poll(cx);
        if ended.is_ready() || wind_up.is_none() {
            return ended;
        }
        // Polled once, so that this task is woken; from then on looking is cheaper, at every step of every request.
        let now = (!heard || drain.is_cancelled()) && told.as_mut().poll(cx).is_ready();
        heard = true;
        match wind_up.take_if(|_| now) {
            None => Poll::Pending,
            Some(wind_up) => {
                wind_up(connection.as_mut());
                connection.as_mut().poll(cx)
            }
        }
    })
    .await
}

/// What a client may send ahead on one stream, and on all together.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// What of an answer waits for a slow client, per stream.
const SEND_BUFFER: usize = 256 << 10;
/// Streams opened and reset again before we have looked at them.
const MAX_RESETS: usize = 32;
/// Streams reset for the client's own errors.
const MAX_ERROR_RESETS: usize = 256;
const PING_INTERVAL: Duration = Duration::from_secs(30);
