//! Which room answers which path, and what every answer has in common.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde_json::json;

use crate::faults::Faults;
use crate::model::Stub;
use crate::reply::{self, Reply};
use crate::{grpc, inspect, openai, v1, v2, websocket};

/// Answers one request. An error cuts the connection.
pub async fn answer(stub: Arc<Stub>, request: Request<Incoming>) -> io::Result<Reply> {
    let path = request.uri().path().to_owned();
    let quiet = path == "/metrics" || path.starts_with("/stub/");
    let counted = (!quiet).then(|| stub.count_request());
    if stub.settings.log_requests && !quiet {
        println!("{} {}", request.method(), request.uri());
    }
    let request_id = request.headers().get("x-request-id").cloned();
    let faults = Faults::of(&request);
    let is_grpc = content_type(&request).starts_with("application/grpc");
    let inference = is_inference(request.method(), &path, is_grpc);

    // gRPC errors travel in trailers with status 200, so its room deals with `x-stub-status` itself.
    let early = if quiet { None } else { faults.before_answer(&stub, inference).await? };
    let answer = match early {
        Some(early) if !is_grpc => early,
        _ if is_grpc => grpc::answer(&stub, request, &faults, &path).await,
        _ if websocket::is_asked_for(&request) => websocket::accept(request),
        _ => route(&stub, request, &faults, &path).await,
    };
    let mut answer = faults.after_answer(answer).await;
    let headers = answer.headers_mut();
    headers.insert("x-stub-instance", stub.instance.parse().expect("hexadecimal digits are a header value"));
    if let Some(id) = request_id {
        headers.insert("x-request-id", id);
    }
    drop(counted);
    Ok(answer)
}

async fn route(stub: &Arc<Stub>, request: Request<Incoming>, faults: &Faults, path: &str) -> Reply {
    let method = request.method().clone();
    match path {
        "/" => reply::ok(&json!({ "status": "alive" })),
        "/healthz" | "/health" | "/ping" | "/livez" => health(stub.live.load(Ordering::Relaxed)),
        "/readyz" => health(stub.is_ready()),
        "/metrics" => reply::text(stub.metrics()),
        "/ws" => reply::error(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket"),
        _ if path.starts_with("/stub/") || path.starts_with("/echo") => inspect::answer(stub, request, path).await,
        "/sink" => inspect::sink(request).await,
        _ if path.starts_with("/bytes/") => inspect::send_bytes(path, request.uri().query(), faults),
        _ if openai::answers(stub, &method, path) => openai::answer(stub, &method, path, read(request).await, faults),
        _ if path.starts_with("/v1/models") => v1::answer(stub, &method, path, &read(request).await),
        _ if path == "/v2" || path.starts_with("/v2/") => v2::answer(stub, request, path).await,
        _ => reply::error(StatusCode::NOT_FOUND, format!("the stub has nothing at {path}")),
    }
}

pub async fn read(request: Request<Incoming>) -> Bytes {
    // A body that breaks off reads as what came of it; the client is gone anyway.
    request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default()
}

fn health(well: bool) -> Reply {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::json(status, &json!({ "ok": well }))
}

fn is_inference(method: &Method, path: &str, is_grpc: bool) -> bool {
    const ENDINGS: [&str; 6] = [":predict", ":explain", "/infer", "/completions", "/embeddings", "/rerank"];
    method == Method::POST
        && if is_grpc { path.ends_with("Infer") } else { ENDINGS.iter().any(|end| path.ends_with(end)) }
}

fn content_type<B>(request: &Request<B>) -> &str {
    request.headers().get(CONTENT_TYPE).map(HeaderValue::to_str).and_then(Result::ok).unwrap_or("")
}
