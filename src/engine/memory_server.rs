//! The model server inside an in-memory container: V1 and V2 over HTTP/1.1 and h2c, on loopback ports.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::memory_script::Serves;
use crate::tasks::Tasks;

/// A request may say how long its prediction takes, in milliseconds.
const TAKES_HEADER: &str = "x-imagined-takes-ms";

/// A running server. Dropping it ends it at once, connections included, as a killed process would.
#[derive(Debug)]
pub(super) struct Server {
    /// Container port to host port.
    pub(super) ports: BTreeMap<u16, u16>,
    requests: Arc<AtomicU64>,
    paused: watch::Sender<bool>,
    _end: DropGuard,
}

struct Model {
    serves: Serves,
    started: Instant,
    paused: watch::Receiver<bool>,
    requests: Arc<AtomicU64>,
}

impl Server {
    /// Listens on one loopback port for each container port.
    pub(super) fn start(tasks: &Tasks, ports: &[u16], serves: Serves) -> std::io::Result<Self> {
        let end = tasks.token();
        let requests = Arc::new(AtomicU64::default());
        let (paused, seen) = watch::channel(false);
        let model = Arc::new(Model { serves, started: Instant::now(), paused: seen, requests: Arc::clone(&requests) });
        let mut map = BTreeMap::new();
        for port in ports {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            map.insert(*port, listener.local_addr()?.port());
            let listener = TcpListener::from_std(listener)?;
            tasks.spawn("memory-server", accept(tasks.clone(), listener, Arc::clone(&model), end.clone()));
        }
        Ok(Self { ports: map, requests, paused, _end: end.drop_guard() })
    }

    /// Holds up whatever it is asked, or answers again.
    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// Returns how many requests it has answered or is answering.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn accept(tasks: Tasks, listener: TcpListener, model: Arc<Model>, end: CancellationToken) {
    // Nothing is lost with the accept that loses: the container is ending.
    while let Some(Ok((stream, _))) = end.run_until_cancelled(listener.accept()).await {
        let (model, end) = (Arc::clone(&model), end.clone());
        tasks.spawn("memory-server-connection", async move {
            let service = service_fn(move |request| {
                let model = Arc::clone(&model);
                async move { Ok::<_, Infallible>(model.answer(request).await) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            // A client that breaks off is its own business.
            let _ = end.run_until_cancelled(connection).await;
        });
    }
}

impl Model {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        // Its server ends before the flag is gone, and this with it.
        let _ = self.paused.clone().wait_for(|paused| !paused).await;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let ready = self.started.elapsed() >= self.serves.ready_after;
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (&method, parts.as_slice()) {
            (&Method::GET, [""] | ["v2", "health", "live"]) => reply(StatusCode::OK, &json!({"live": true})),
            (&Method::GET, ["v1", "models"]) => reply(StatusCode::OK, &json!({"models": ["model"]})),
            (&Method::GET, ["v1", "models", name]) => reply(status, &json!({"name": name, "ready": ready})),
            (&Method::GET, ["v2", "health", "ready"]) => reply(status, &json!({"ready": ready})),
            (&Method::GET, ["v2", "models", name, "ready"]) => reply(status, &json!({"name": name, "ready": ready})),
            (&Method::GET, ["v2", "models", name]) => reply(status, &json!({"name": name, "platform": "memory"})),
            (&Method::POST, ["v1", "models", call]) if call.ends_with(":predict") => {
                self.predict(request, status, |sent| json!({"predictions": sent["instances"]})).await
            }
            (&Method::POST, ["v2", "models", name, "infer"]) => {
                self.predict(request, status, |sent| json!({"model_name": name, "outputs": sent["inputs"]})).await
            }
            _ => reply(StatusCode::NOT_FOUND, &json!({"error": format!("no route {method} {path}")})),
        }
    }

    async fn predict(
        &self,
        request: Request<Incoming>,
        status: StatusCode,
        echo: impl FnOnce(Value) -> Value,
    ) -> Response<Full<Bytes>> {
        let takes = request.headers().get(TAKES_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        let takes = takes.map(Duration::from_millis);
        let Ok(body) = request.into_body().collect().await else {
            return reply(StatusCode::BAD_REQUEST, &json!({"error": "the request broke off"}));
        };
        if status != StatusCode::OK {
            return reply(status, &json!({"error": "the model is not ready"}));
        }
        tokio::time::sleep(takes.unwrap_or(self.serves.predict_takes)).await;
        match serde_json::from_slice(&body.to_bytes()) {
            Ok(sent) => reply(status, &echo(sent)),
            Err(error) => reply(StatusCode::BAD_REQUEST, &json!({"error": error.to_string()})),
        }
    }
}

fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
