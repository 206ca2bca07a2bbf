//! Backends to stand behind the gateway: a real HTTP server with a function for its answers, and a bare socket.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kserve_local::tasks::Tasks;
use tokio::net::{TcpListener, TcpStream};

/// Body of an answer.
pub(crate) type AnswerBody = BoxBody<Bytes, io::Error>;

/// A backend, and what it has seen.
pub(crate) struct Upstream {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Upstream {
    /// Serves HTTP/1.1.
    pub(crate) async fn http1<F, A>(tasks: &Tasks, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<AnswerBody>> + Send + 'static,
    {
        Self::serve(tasks, answer, false).await
    }

    /// Serves HTTP/2 with prior knowledge.
    pub(crate) async fn h2c<F, A>(tasks: &Tasks, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<AnswerBody>> + Send + 'static,
    {
        Self::serve(tasks, answer, true).await
    }

    async fn serve<F, A>(tasks: &Tasks, answer: F, h2: bool) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<AnswerBody>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let upstream = Self { address, connections: Arc::clone(&connections), requests: Arc::clone(&requests) };
        let group = tasks.clone();
        tasks.spawn("upstream", async move {
            while let Ok((socket, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (answer, requests) = (answer.clone(), Arc::clone(&requests));
                let service = service_fn(move |request| {
                    requests.fetch_add(1, Ordering::SeqCst);
                    let answering = answer(request);
                    async move { Ok::<_, Infallible>(answering.await) }
                });
                let io = TokioIo::new(socket);
                group.spawn("upstream-connection", async move {
                    if h2 {
                        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
                    } else {
                        let _ = http1::Builder::new().serve_connection(io, service).with_upgrades().await;
                    }
                });
            }
        });
        upstream
    }

    /// Gives every connection to `talk`.
    pub(crate) async fn raw<F, T>(tasks: &Tasks, talk: F) -> Self
    where
        F: Fn(TcpStream) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let upstream = Self { address, connections: Arc::clone(&connections), requests };
        let group = tasks.clone();
        tasks.spawn("upstream", async move {
            while let Ok((socket, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                group.spawn("upstream-connection", talk(socket));
            }
        });
        upstream
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Requests received so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A whole body.
pub(crate) fn full(body: impl Into<Bytes>) -> AnswerBody {
    Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// Answers with what it has received: request line, headers and body, as JSON.
pub(crate) async fn mirror(request: Request<Incoming>) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let headers: Vec<(String, String)> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let seen = serde_json::json!({
        "method": parts.method.as_str(),
        "uri": parts.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    let mut response = Response::new(full(seen.to_string()));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// A body whose pieces are sent as they come; dropping the sender ends it, an error breaks it.
pub(crate) fn pieces() -> (tokio::sync::mpsc::Sender<io::Result<Frame<Bytes>>>, AnswerBody) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
    let stream = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    (sender, BodyExt::boxed(StreamBody::new(stream)))
}

/// One piece of a body.
pub(crate) fn data(bytes: impl Into<Bytes>) -> io::Result<Frame<Bytes>> {
    Ok(Frame::data(bytes.into()))
}

/// The trailers of a body.
pub(crate) fn trailers(lines: &[(&'static str, &'static str)]) -> io::Result<Frame<Bytes>> {
    let line = |(name, value): &(&'static str, &'static str)| {
        (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
    };
    Ok(Frame::trailers(lines.iter().map(line).collect()))
}
