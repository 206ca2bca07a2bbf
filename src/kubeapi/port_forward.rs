//! `pods/{name}/portforward`: connections of a client, carried to a replica's ports.
//!
//! kubectl up to 1.30 upgrades the connection to SPDY/3.1; later ones carry the same inside a WebSocket. For every
//! connection it accepts, kubectl opens two streams with one request id: `data`, and `error` for a sentence when it fails.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_websockets::{Limits, Message, ServerBuilder};
use tracing::debug;

use super::failure::Failure;
use super::forward_target::Target;
use super::ingress;
use super::resource::Resource;
use super::server::Api;
use super::spdy::{Codec, Frame, Headers};
use crate::tasks::Tasks;

/// Name of the protocol, in both ways of carrying it.
const PROTOCOL: &str = "portforward.k8s.io";
/// Name of the WebSocket's subprotocol.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// What the WebSocket handshake adds to a client's key (RFC 6455, 1.3).
const HANDSHAKE: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Most streams of one client that wait for their other half, or run.
const STREAM_LIMIT: usize = 512;
/// Frames that may wait to be written, and pieces that may wait for one connection.
const QUEUE: usize = 32;
/// Bytes read at once.
const PIECE: usize = 32 << 10;
/// Longest time for a replica to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Reset of a stream that is not taken.
const REFUSED: u32 = 3;

/// How a client wants its streams carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Spdy,
    WebSocket,
}

/// Answers a request to forward ports.
///
/// # Errors
/// No such pod, it does not run, or the request is no upgrade that is known.
pub async fn answer(api: &Arc<Api>, namespace: &str, name: &str, mut request: Request) -> Result<Response, Failure> {
    let carrier = carrier(request.method(), request.headers())?;
    let target = target(api, namespace, name).await?;
    let accept = websocket_accept(request.headers());
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| Failure::bad_request("this connection cannot be upgraded"))?;
    let (tasks, stop) = (api.tasks.clone(), api.stop.clone());
    let mine = tasks.clone();
    tasks.spawn("port-forward", async move {
        tokio::select! {
            // Losing the session closes its connections, which is what an ending daemon wants.
            () = session(upgrade, carrier, Arc::new(target), mine) => {}
            () = stop.cancelled() => {}
        }
    });
    Ok(switched(carrier, accept.as_deref()))
}

async fn target(api: &Arc<Api>, namespace: &str, name: &str) -> Result<Target, Failure> {
    if ingress::is_gateway(namespace, name) {
        return Ok(Target::gateway(name, ingress::reachable(api.state.gateway_address)));
    }
    let pods = Arc::clone(&api.state.pods.borrow());
    let pod = pods.iter().find(|pod| pod.component.service.namespace == namespace && pod.name == name);
    Target::of(pod.ok_or_else(|| Failure::not_found(Resource::Pods, name))?, &*api.state.engine).await
}

fn carrier(method: &Method, headers: &HeaderMap) -> Result<Carrier, Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let offers = |name: &str, wanted: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case(wanted)))
    };
    if text("upgrade").eq_ignore_ascii_case("websocket") && method == Method::GET {
        return match offers("sec-websocket-protocol", TUNNEL) {
            true if headers.contains_key("sec-websocket-key") => Ok(Carrier::WebSocket),
            _ => Err(Failure::bad_request(format!("the only WebSocket protocol of port-forward is {TUNNEL}"))),
        };
    }
    if text("upgrade").eq_ignore_ascii_case("SPDY/3.1") {
        return match offers("x-stream-protocol-version", PROTOCOL) {
            true => Ok(Carrier::Spdy),
            false => Err(Failure::forbidden(format!("the only stream protocol of port-forward is {PROTOCOL}"))),
        };
    }
    Err(Failure::bad_request("Upgrade request required"))
}

fn websocket_accept(headers: &HeaderMap) -> Option<String> {
    let key = headers.get("sec-websocket-key")?;
    let digest = Sha1::new().chain_update(key.as_bytes()).chain_update(HANDSHAKE).finalize();
    Some(BASE64_STANDARD.encode(digest))
}

fn switched(carrier: Carrier, accept: Option<&str>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    match carrier {
        Carrier::Spdy => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            headers.insert("x-stream-protocol-version", HeaderValue::from_static(PROTOCOL));
        }
        Carrier::WebSocket => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert("sec-websocket-protocol", HeaderValue::from_static(TUNNEL));
            if let Some(accept) = accept.and_then(|accept| HeaderValue::from_str(accept).ok()) {
                headers.insert("sec-websocket-accept", accept);
            }
        }
    }
    response
}

/// Serves one client to its end.
async fn session(upgrade: OnUpgrade, carrier: Carrier, target: Arc<Target>, tasks: Tasks) {
    let ended = match upgrade.await {
        Err(error) => Err(io::Error::other(error)),
        Ok(upgraded) => {
            let stream = TokioIo::new(upgraded);
            match carrier {
                Carrier::Spdy => {
                    let (reader, writer) = tokio::io::split(stream);
                    streams(reader, writer, target, &tasks).await
                }
                Carrier::WebSocket => {
                    let limits = Limits::default().max_payload_len(Some(4 << 20));
                    let (sink, stream) = ServerBuilder::new().limits(limits).serve(stream).split();
                    let messages = stream.filter_map(|message| async {
                        match message {
                            Ok(message) if message.is_binary() => Some(Ok(Bytes::from(message.into_payload()))),
                            Ok(_) => None,
                            Err(error) => Some(Err(io::Error::other(error))),
                        }
                    });
                    let sink = sink.sink_map_err(io::Error::other);
                    let sink = sink.with(|bytes: Bytes| async move { Ok::<_, io::Error>(Message::binary(bytes)) });
                    let reader = StreamReader::new(Box::pin(messages));
                    streams(reader, SinkWriter::new(CopyToBytes::new(Box::pin(sink))), target, &tasks).await
                }
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a port-forward ended early");
    }
}

/// What one client has opened.
#[derive(Default)]
struct Open {
    /// `error` streams whose `data` stream has not come, by request id.
    errors: HashMap<String, u32>,
    /// Connections, by `data` stream.
    connections: HashMap<u32, Line>,
}

/// What the client's side holds of one connection.
struct Line {
    /// Takes bytes for the replica, until the client has said its last.
    bytes: Option<mpsc::Sender<Bytes>>,
    /// Ends the connection when the client gives it up: dropped with this, at a reset or when the client is gone.
    _gone: DropGuard,
    /// Cancelled when the connection has ended.
    ended: CancellationToken,
}

async fn streams<R, W>(mut reader: R, mut writer: W, target: Arc<Target>, tasks: &Tasks) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let mut codec = Codec::new().map_err(io::Error::other)?;
    let mut packer = Codec::new().map_err(io::Error::other)?;
    let (frames, mut queue) = mpsc::channel::<Frame>(QUEUE);
    tasks.spawn_short(async move {
        let mut buffer = BytesMut::new();
        while let Some(frame) = queue.recv().await {
            if packer.encode(&frame, &mut buffer).is_err() || writer.write_all(&buffer).await.is_err() {
                return;
            }
            buffer.clear();
            if queue.is_empty() && writer.flush().await.is_err() {
                return;
            }
        }
    });
    let (mut buffer, mut open) = (BytesMut::new(), Open::default());
    loop {
        while let Some(frame) = codec.decode(&mut buffer).map_err(io::Error::other)? {
            take(frame, &mut open, &frames, &target, tasks).await;
        }
        if reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

async fn take(frame: Frame, open: &mut Open, frames: &mpsc::Sender<Frame>, target: &Arc<Target>, tasks: &Tasks) {
    let send = |frame| async {
        // A client that is gone is noticed where its frames are read.
        drop(frames.send(frame).await);
    };
    match frame {
        Frame::Open { stream, headers, .. } => {
            open.connections.retain(|_, line| !line.ended.is_cancelled());
            if open.errors.len() + open.connections.len() >= STREAM_LIMIT {
                return send(Frame::Reset { stream, status: REFUSED }).await;
            }
            send(Frame::Accept { stream }).await;
            open_stream(stream, &headers, open, frames, target, tasks).await;
        }
        Frame::Data { stream, bytes, last } => {
            if let Some(line) = open.connections.get_mut(&stream) {
                if let Some(sender) = line.bytes.as_ref().filter(|_| !bytes.is_empty()) {
                    // A connection that has ended takes nothing more.
                    drop(sender.send(bytes).await);
                }
                if last {
                    // It still listens.
                    line.bytes = None;
                }
            }
        }
        Frame::Reset { stream, .. } => drop(open.connections.remove(&stream)),
        Frame::Ping(number) => send(Frame::Ping(number)).await,
        Frame::Accept { .. } | Frame::Other => {}
    }
}

async fn open_stream(
    stream: u32,
    headers: &Headers,
    open: &mut Open,
    frames: &mpsc::Sender<Frame>,
    target: &Arc<Target>,
    tasks: &Tasks,
) {
    let text = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
    let request = text("requestid").to_owned();
    match (text("streamtype"), text("port").parse::<u16>()) {
        ("error", Ok(_)) => drop(open.errors.insert(request, stream)),
        ("data", Ok(port)) if open.errors.contains_key(&request) => {
            let Some(errors) = open.errors.remove(&request) else { return };
            let (sender, bytes) = mpsc::channel(QUEUE);
            let (gone, ended) = (CancellationToken::new(), CancellationToken::new());
            let connection = Connection { data: stream, errors, frames: frames.clone(), gone: gone.clone() };
            let (target, end) = (Arc::clone(target), ended.clone().drop_guard());
            open.connections.insert(stream, Line { bytes: Some(sender), _gone: gone.drop_guard(), ended });
            tasks.spawn_short(async move {
                connection.run(port, target, bytes).await;
                drop(end);
            });
        }
        _ => drop(frames.send(Frame::Reset { stream, status: REFUSED }).await),
    }
}

/// One connection of a client.
struct Connection {
    data: u32,
    errors: u32,
    frames: mpsc::Sender<Frame>,
    /// Cancelled when the client has given it up.
    gone: CancellationToken,
}

impl Connection {
    async fn run(self, port: u16, target: Arc<Target>, bytes: mpsc::Receiver<Bytes>) {
        let exchange = async {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, target.connect(port)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => self.carry(stream, bytes).await,
                Err(error) => Err(error),
            }
        };
        let outcome = tokio::select! {
            outcome = exchange => outcome,
            // What the replica still says is for nobody: its connection is closed, so that it stops. Nothing more is said
            // on a stream that was reset.
            () = self.gone.cancelled() => {
                self.say(self.errors, Bytes::new(), true).await;
                return;
            }
        };
        let sentence = outcome.err().map(|error| target.refusal(port, &error)).unwrap_or_default();
        self.say(self.data, Bytes::new(), true).await;
        self.say(self.errors, Bytes::from(sentence), true).await;
    }

    async fn carry(&self, stream: TcpStream, mut bytes: mpsc::Receiver<Bytes>) -> io::Result<()> {
        let (mut reader, mut writer) = stream.into_split();
        let there = async {
            while let Some(bytes) = bytes.recv().await {
                writer.write_all(&bytes).await?;
            }
            writer.shutdown().await
        };
        let back = async {
            loop {
                let mut piece = BytesMut::with_capacity(PIECE);
                if reader.read_buf(&mut piece).await? == 0 {
                    self.say(self.data, Bytes::new(), true).await;
                    return Ok(());
                }
                if !self.say(self.data, piece.freeze(), false).await {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        };
        tokio::select! {
            // Once the replica has said all, what the client still says reaches nobody; losing it loses nothing.
            done = back => done,
            // Losing this arm's end is right: a client that stops talking still listens.
            error = async { match there.await { Err(error) => error, Ok(()) => std::future::pending().await } } => Err(error),
        }
    }

    /// Sends bytes on a stream; says whether the client is still there.
    async fn say(&self, stream: u32, bytes: Bytes, last: bool) -> bool {
        self.frames.send(Frame::Data { stream, bytes, last }).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_the_client_resets_ends_at_the_replica_too() {
        let tasks = Tasks::new();
        let replica = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::gateway("iris", replica.local_addr().unwrap());
        let (client, server) = tokio::io::duplex(1 << 20);
        let (reader, writer) = tokio::io::split(server);
        let mine = tasks.clone();
        tasks.spawn("session", async move { streams(reader, writer, Arc::new(target), &mine).await });
        let (mut from, mut to) = tokio::io::split(client);
        let mut codec = Codec::new().unwrap();
        let mut buffer = BytesMut::new();
        for (stream, kind) in [(1, "error"), (3, "data")] {
            let headers = [("streamtype", kind), ("port", "8080"), ("requestid", "0")];
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            codec.encode(&Frame::Open { stream, headers, last: false }, &mut buffer).unwrap();
        }
        to.write_all(&buffer.split()).await.unwrap();
        let (mut model, _) = replica.accept().await.unwrap();
        // The client takes everything it is sent.
        tasks.spawn("client", async move { tokio::io::copy(&mut from, &mut tokio::io::sink()).await });
        model.write_all(b"token ").await.unwrap();
        codec.encode(&Frame::Reset { stream: 3, status: 5 }, &mut buffer).unwrap();
        to.write_all(&buffer).await.unwrap();
        // A model that generates on until nobody takes it.
        let generating = async { while model.write_all(&[0; 1024]).await.is_ok() {} };
        assert!(tokio::time::timeout(Duration::from_secs(10), generating).await.is_ok(), "it generates for nobody");
    }
}
