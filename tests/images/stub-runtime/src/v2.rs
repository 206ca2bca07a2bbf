//! KServe V2 (Open Inference Protocol) over REST: an inference gives its inputs back as outputs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::model::Stub;
use crate::reply::{self, Reply};
use crate::routes::read;

/// The header of the binary tensor extension: how much of the body is JSON.
const JSON_LENGTH: &str = "inference-header-content-length";

pub async fn answer(stub: &Arc<Stub>, request: Request<Incoming>, path: &str) -> Reply {
    let method = request.method().clone();
    let parts: Vec<&str> = path.trim_matches('/').split('/').skip(1).collect();
    match parts.as_slice() {
        [] => reply::ok(&json!({
            "name": "stub-runtime",
            "version": env!("CARGO_PKG_VERSION"),
            "extensions": ["model_repository", "binary_tensor_data"],
        })),
        ["health", "live"] => flag("live", stub.live.load(Ordering::Relaxed)),
        ["health", "ready"] => flag("ready", stub.is_ready()),
        ["models"] => reply::ok(&json!({ "models": stub.settings.model_names })),
        ["repository", "index"] => reply::ok(&index(stub)),
        ["repository", "models", model, verb @ ("load" | "unload")] if method == Method::POST => {
            stub.set_loaded(model, *verb == "load");
            reply::ok(&json!({ "name": model, (*verb): true }))
        }
        ["models", model, "versions", _, rest @ ..] | ["models", model, rest @ ..] => {
            if !stub.knows(model) {
                return reply::error(StatusCode::NOT_FOUND, format!("Model with name {model} does not exist."));
            }
            match rest {
                [] => reply::ok(&metadata(model)),
                ["ready"] => model_ready(stub, model),
                ["infer"] if method == Method::POST => infer(stub, model, request).await,
                _ => reply::error(StatusCode::NOT_FOUND, format!("the stub has nothing at {path}")),
            }
        }
        _ => reply::error(StatusCode::NOT_FOUND, format!("the stub has nothing at {path}")),
    }
}

fn flag(name: &str, set: bool) -> Reply {
    let status = if set { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::json(status, &json!({ name: set }))
}

fn model_ready(stub: &Stub, model: &str) -> Reply {
    let ready = stub.model_is_ready(model);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::json(status, &json!({ "name": model, "ready": ready }))
}

fn index(stub: &Stub) -> Value {
    let state = |model: &str| {
        if stub.model_is_ready(model) { "READY" } else { "UNAVAILABLE" }
    };
    let models = stub.settings.model_names.iter();
    models.map(|model| json!({ "name": model, "state": state(model), "reason": "" })).collect()
}

fn metadata(model: &str) -> Value {
    let tensor = |name: &str| json!({ "name": name, "datatype": "FP32", "shape": [-1, -1] });
    json!({
        "name": model,
        "versions": ["1"],
        "platform": "stub",
        "inputs": [tensor("input-0")],
        "outputs": [tensor("input-0")],
    })
}

async fn infer(stub: &Stub, model: &str, request: Request<Incoming>) -> Reply {
    let json_length = request.headers().get(JSON_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let body = read(request).await;
    if !stub.model_is_ready(model) {
        return reply::error(StatusCode::SERVICE_UNAVAILABLE, format!("Model with name {model} is not ready."));
    }
    let head = body.slice(..json_length.unwrap_or(body.len()).min(body.len()));
    let tail = body.slice(head.len()..);
    let question: Value = match serde_json::from_slice(&head) {
        Ok(question) => question,
        Err(error) => {
            return reply::error(StatusCode::BAD_REQUEST, format!("Unrecognized request format: {error}"));
        }
    };
    let Some(inputs) = question.get("inputs").and_then(Value::as_array) else {
        return reply::error(StatusCode::BAD_REQUEST, "Expected \"inputs\" to be a list");
    };
    let mut answer = json!({ "model_name": model, "model_version": "1", "outputs": inputs });
    if let Some(id) = question.get("id") {
        answer["id"] = id.clone();
    }
    if json_length.is_none() {
        return reply::ok(&answer);
    }
    with_binary_tail(&answer.to_string(), &tail)
}

fn with_binary_tail(head: &str, tail: &Bytes) -> Reply {
    let mut body = BytesMut::with_capacity(head.len() + tail.len());
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(tail);
    let mut reply = reply::bytes(StatusCode::OK, "application/octet-stream", body.freeze());
    reply.headers_mut().insert(JSON_LENGTH, head.len().into());
    reply
}
