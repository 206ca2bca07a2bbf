//! KServe V2 over gRPC (`inference.GRPCInferenceService`) and `grpc.health.v1.Health`.
//!
//! Messages are written by hand. Parts the stub only repeats (tensor contents, parameters) stay undecoded bytes:
//! on the wire an embedded message and a byte string are the same thing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::channel::Sender;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use prost::Message;

use crate::faults::Faults;
use crate::model::Stub;
use crate::reply::{self, Reply};

const CONTENT_TYPE: &str = "application/grpc";
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const UNIMPLEMENTED: i32 = 12;
const UNAVAILABLE: i32 = 14;

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    parameters: Vec<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    contents: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct InferRequest {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(string, tag = "2")]
    model_version: String,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    parameters: Vec<Bytes>,
    #[prost(message, repeated, tag = "5")]
    inputs: Vec<Tensor>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    raw_input_contents: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct InferResponse {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(string, tag = "2")]
    model_version: String,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    parameters: Vec<Bytes>,
    #[prost(message, repeated, tag = "5")]
    outputs: Vec<Tensor>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    raw_output_contents: Vec<Bytes>,
}

/// `ModelStreamInferResponse`: an addition of Triton's, and the one stream in both directions.
#[derive(Clone, PartialEq, Message)]
struct StreamInferResponse {
    #[prost(string, tag = "1")]
    error_message: String,
    #[prost(message, optional, tag = "2")]
    infer_response: Option<InferResponse>,
}

/// `ModelReadyRequest`, `ModelMetadataRequest` and the repository requests: a model name comes first in all of them.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Flag {
    #[prost(bool, tag = "1")]
    set: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Loaded {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(bool, tag = "2")]
    done: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ServerMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(string, repeated, tag = "3")]
    extensions: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ModelMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, repeated, tag = "2")]
    versions: Vec<String>,
    #[prost(string, tag = "3")]
    platform: String,
    #[prost(message, repeated, tag = "4")]
    inputs: Vec<Tensor>,
    #[prost(message, repeated, tag = "5")]
    outputs: Vec<Tensor>,
}

/// `grpc.health.v1.HealthCheckResponse`: 1 is serving, 2 is not.
#[derive(Clone, PartialEq, Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Why a call fails: a gRPC status code and its message.
struct Failure(i32, String);

pub async fn answer(stub: &Arc<Stub>, request: Request<Incoming>, faults: &Faults, path: &str) -> Reply {
    if let Some(status) = faults.status {
        return failed(&Failure(i32::from(status), "status, as the request asked".to_owned()));
    }
    if path == "/inference.GRPCInferenceService/ModelStreamInfer" {
        return stream_infer(stub, request, faults);
    }
    let mut body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let called = match take_message(&mut body) {
        Some(Ok(message)) => call(stub, path, message),
        Some(Err(failure)) => Err(failure),
        None => Err(Failure(INVALID_ARGUMENT, "the request holds no message".to_owned())),
    };
    match called {
        Ok(message) => succeeded(message),
        Err(failure) => failed(&failure),
    }
}

fn call(stub: &Stub, path: &str, message: Bytes) -> Result<Bytes, Failure> {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    let answer = match (service, method) {
        ("grpc.health.v1.Health", "Check") => Health { status: if stub.is_ready() { 1 } else { 2 } }.encode_to_vec(),
        ("inference.GRPCInferenceService", "ServerLive") => {
            Flag { set: stub.live.load(Ordering::Relaxed) }.encode_to_vec()
        }
        ("inference.GRPCInferenceService", "ServerReady") => Flag { set: stub.is_ready() }.encode_to_vec(),
        ("inference.GRPCInferenceService", "ServerMetadata") => ServerMetadata {
            name: "stub-runtime".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: vec!["model_repository".to_owned()],
        }
        .encode_to_vec(),
        ("inference.GRPCInferenceService", "ModelReady") => {
            let model = known(stub, message)?;
            Flag { set: stub.model_is_ready(&model) }.encode_to_vec()
        }
        ("inference.GRPCInferenceService", "ModelMetadata") => metadata(known(stub, message)?).encode_to_vec(),
        ("inference.GRPCInferenceService", "ModelInfer") => {
            infer(stub, decode::<InferRequest>(message)?)?.encode_to_vec()
        }
        ("inference.GRPCInferenceService", "RepositoryModelLoad" | "RepositoryModelUnload") => {
            let model = decode::<Named>(message)?.name;
            stub.set_loaded(&model, method == "RepositoryModelLoad");
            Loaded { model_name: model, done: true }.encode_to_vec()
        }
        _ => {
            return Err(Failure(UNIMPLEMENTED, format!("the stub has no method {path}")));
        }
    };
    Ok(answer.into())
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, Failure> {
    M::decode(message).map_err(|error| Failure(INVALID_ARGUMENT, format!("the message does not decode: {error}")))
}

fn known(stub: &Stub, message: Bytes) -> Result<String, Failure> {
    let model = decode::<Named>(message)?.name;
    if stub.knows(&model) { Ok(model) } else { Err(unknown(&model)) }
}

fn unknown(model: &str) -> Failure {
    Failure(NOT_FOUND, format!("Model with name {model} does not exist."))
}

fn metadata(name: String) -> ModelMetadata {
    let tensor =
        Tensor { name: "input-0".to_owned(), datatype: "FP32".to_owned(), shape: vec![-1, -1], ..Tensor::default() };
    ModelMetadata {
        name,
        versions: vec!["1".to_owned()],
        platform: "stub".to_owned(),
        inputs: vec![tensor.clone()],
        outputs: vec![tensor],
    }
}

fn infer(stub: &Stub, request: InferRequest) -> Result<InferResponse, Failure> {
    if !stub.knows(&request.model_name) {
        return Err(unknown(&request.model_name));
    }
    if !stub.model_is_ready(&request.model_name) {
        return Err(Failure(UNAVAILABLE, format!("Model with name {} is not ready.", request.model_name)));
    }
    Ok(InferResponse {
        model_name: request.model_name,
        model_version: request.model_version,
        id: request.id,
        parameters: request.parameters,
        outputs: request.inputs,
        raw_output_contents: request.raw_input_contents,
    })
}

/// Answers every message as it comes, before the next one is there.
fn stream_infer(stub: &Arc<Stub>, request: Request<Incoming>, faults: &Faults) -> Reply {
    let stub = stub.clone();
    let (delay, cut_after) = (faults.chunk_delay, faults.cut_after);
    reply::stream(CONTENT_TYPE, move |mut sender| async move {
        let mut incoming = Messages::of(request.into_body());
        let mut sent = 0;
        while let Some(message) = incoming.next().await {
            if cut_after == Some(sent) {
                reply::break_off(sender).await;
                return;
            }
            reply::pause(delay).await;
            let answer = match message.and_then(|message| infer(&stub, decode(message)?)) {
                Ok(response) => StreamInferResponse { error_message: String::new(), infer_response: Some(response) },
                Err(Failure(_, text)) => StreamInferResponse { error_message: text, infer_response: None },
            };
            if sender.send_data(framed(&answer.encode_to_vec())).await.is_err() {
                return;
            }
            sent += 1;
        }
        finish(sender).await;
    })
}

async fn finish(mut sender: Sender<Bytes, std::io::Error>) {
    // A reader that left does not miss the trailers.
    let _ = sender.send_trailers(trailers(0, "")).await;
}

/// The messages of a request body, one by one.
struct Messages {
    body: Incoming,
    buffer: BytesMut,
    ready: VecDeque<Result<Bytes, Failure>>,
}

impl Messages {
    fn of(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), ready: VecDeque::new() }
    }

    async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(message);
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
            let mut whole = self.buffer.split().freeze();
            while let Some(message) = take_message(&mut whole) {
                self.ready.push_back(message);
            }
            self.buffer.extend_from_slice(&whole);
        }
    }
}

/// Takes one length-prefixed message off the front, if all of it is there.
fn take_message(body: &mut Bytes) -> Option<Result<Bytes, Failure>> {
    let length = u32::from_be_bytes(body.get(1..5)?.try_into().ok()?) as usize;
    if body.len() < 5 + length {
        return None;
    }
    let compressed = body[0] != 0;
    body.advance(5);
    let message = body.split_to(length);
    if compressed {
        return Some(Err(Failure(UNIMPLEMENTED, "the stub does not decompress messages".to_owned())));
    }
    Some(Ok(message))
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("the stub only sends back what fitted in a message");
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(message);
    frame.freeze()
}

fn succeeded(message: Bytes) -> Reply {
    let trailers = trailers(0, "");
    let body = Full::new(framed(&message)).with_trailers(async move { Some(Ok(trailers)) });
    reply::with_body(hyper::StatusCode::OK, CONTENT_TYPE, body.map_err(|never| match never {}))
}

/// An answer of headers alone, as gRPC sends an error that comes before any message.
fn failed(Failure(code, message): &Failure) -> Reply {
    let mut answer = reply::bytes(hyper::StatusCode::OK, CONTENT_TYPE, Bytes::new());
    answer.headers_mut().extend(trailers(*code, message));
    answer
}

fn trailers(code: i32, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    if let Ok(message) = HeaderValue::from_str(message) {
        trailers.insert("grpc-message", message);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_only_when_all_of_it_is_there() {
        let whole = framed(b"hello");
        assert!(take_message(&mut whole.slice(..7)).is_none());
        let mut twice = Bytes::from([whole.clone(), whole].concat());
        assert_eq!(take_message(&mut twice).and_then(Result::ok), Some(Bytes::from_static(b"hello")));
        assert_eq!(take_message(&mut twice).and_then(Result::ok), Some(Bytes::from_static(b"hello")));
        assert!(twice.is_empty());
    }
}
