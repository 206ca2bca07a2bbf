//! Building answers: JSON, text, streams, and bodies that break off.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::header::CONTENT_TYPE;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

pub type Reply = Response<UnsyncBoxBody<Bytes, io::Error>>;

pub fn json(status: StatusCode, value: &Value) -> Reply {
    bytes(status, "application/json", value.to_string().into())
}

pub fn ok(value: &Value) -> Reply {
    json(StatusCode::OK, value)
}

pub fn error(status: StatusCode, text: impl Into<String>) -> Reply {
    json(status, &json!({ "error": text.into() }))
}

pub fn text(body: String) -> Reply {
    bytes(StatusCode::OK, "text/plain; charset=utf-8", body.into())
}

pub fn bytes(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    with_body(status, content_type, Full::new(body).map_err(|never: Infallible| match never {}))
}

pub fn with_body<B>(status: StatusCode, content_type: &'static str, body: B) -> Reply
where
    B: Body<Data = Bytes, Error = io::Error> + Send + 'static,
{
    let mut reply = Response::new(body.boxed_unsync());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    reply
}

/// A body that is written by `write` while it is being read.
pub fn stream<W, F>(content_type: &'static str, write: W) -> Reply
where
    W: FnOnce(Sender<Bytes, io::Error>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, body) = Channel::new(1);
    tokio::spawn(write(sender));
    with_body(StatusCode::OK, content_type, body)
}

/// Breaks a streamed body off, once what was written before has had time to leave.
pub async fn break_off(sender: Sender<Bytes, io::Error>) {
    tokio::time::sleep(Duration::from_millis(20)).await;
    sender.abort(cut());
}

/// The error that makes hyper cut the connection (HTTP/1.1) or reset the stream (HTTP/2).
pub fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "cut, as the request asked")
}

pub async fn pause(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}
