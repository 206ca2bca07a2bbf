//! Requests of our own to services behind this gateway: they take the same way as a client's, wake what sleeps, and come
//! back whole.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};

use super::batcher;
use super::desk::Desk;
use super::flight::{Client, Flight};
use super::forward::Exchange;
use super::headers::Said;
use super::refusal::Refusal;
use super::route::Target;
use super::service_extras::{self, Head};
use super::whole::{Space, TooMuch};
use super::worker::Worker;

/// A request to be made for a client.
#[derive(Debug)]
pub(crate) struct Call {
    /// Where it goes.
    pub(crate) target: Target,
    /// Desk of that service.
    pub(crate) desk: Arc<Desk>,
    /// The host it names.
    pub(crate) host: Option<HeaderValue>,
    /// Method.
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: PathAndQuery,
    /// Headers; length and host are set here.
    pub(crate) headers: HeaderMap,
    /// Body.
    pub(crate) body: Bytes,
    /// Whether it is forwarded and that is all: neither logged nor batched nor copied.
    pub(crate) is_plain: bool,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Status.
    pub(crate) status: StatusCode,
    /// Body.
    pub(crate) body: Bytes,
}

impl Reply {
    /// Makes a reply of what the gateway itself would have told a client.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        let (parts, body) = refusal.into_response(false).into_parts();
        Self { status: parts.status, body }
    }
}

/// Sends a request. A refusal of the gateway is a reply, as it would be for any client.
///
/// # Errors
/// The answer could not be held.
pub(crate) async fn post(
    worker: &Arc<Worker>,
    client: &Arc<Client>,
    call: Call,
    space: &Space,
) -> Result<Reply, TooMuch> {
    let extras = call.target.extras().filter(|extras| !call.is_plain && !extras.is_plain()).cloned();
    let mut taps = None;
    if let Some(extras) = extras {
        let head = Head { method: &call.method, headers: &call.headers, path: &call.path };
        let form = extras.batching.as_ref().and_then(|b| batcher::form(b, head.method, head.headers, call.path.path()));
        if let Some(form) = form {
            let at = (&call.target, &call.desk);
            let batched = service_extras::batched(worker, client, at, &extras, form, &head, &call.body);
            match Box::pin(batched).await {
                Ok(None) => {}
                Ok(Some(response)) => {
                    let (parts, body) = response.into_parts();
                    return Ok(Reply { status: parts.status, body });
                }
                Err(refusal) => return Ok(Reply::refused(*refusal)),
            }
        }
        taps = service_extras::taps(worker, client, &call.target, &extras, &head);
    }
    let mut request = Request::new(call.body);
    *request.method_mut() = call.method;
    *request.uri_mut() = Uri::from(call.path);
    *request.headers_mut() = call.headers;
    request.headers_mut().remove(header::HOST);
    let length = HeaderValue::from(request.body().len());
    request.headers_mut().insert(header::CONTENT_LENGTH, length);
    let mut flight = Some(Flight::begin(Arc::clone(client), Arc::clone(&call.desk.metrics)));
    let mut exchange = Exchange {
        worker,
        target: call.target,
        desk: call.desk,
        flight: &mut flight,
        grpc: false,
        rather_not_wait: false,
        host: call.host,
        check: false,
        held: OnceLock::new(),
        taps,
        said: Said::default(),
    };
    match exchange.run_whole(request).await {
        Ok(response) => {
            let (parts, body) = response.into_parts();
            Ok(Reply { status: parts.status, body: space.read(body).await? })
        }
        Err(refusal) => {
            if let Some(flight) = &mut flight {
                flight.answered(refusal.status);
            }
            Ok(Reply::refused(*refusal))
        }
    }
}
