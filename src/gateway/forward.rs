//! One exchange with a backend: choose it, send the request, relay the answer. Retries only what was never sent.

use std::pin::pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;

use crate::plan::routes::ReplicaName;
use crate::workload::ComponentKey;

use super::attempt::Attempt;
use super::body::{AnswerBody, Held, RequestBody};
use super::desk::Desk;
use super::flight::Flight;
use super::headers::{self, Origin, Said};
use super::metrics::ServiceMetrics;
use super::place::Place;
use super::refusal::Refusal;
use super::relay::{Upgrade, wanted_upgrade};
use super::route::Target;
use super::service_extras::Taps;
use super::tap::Tap;
use super::worker::{Front, Worker};

pub(super) type Refused<T> = Result<T, Box<Refusal>>;

/// One request that has a target.
pub(crate) struct Exchange<'a> {
    pub(crate) worker: &'a Arc<Worker>,
    pub(crate) target: Target,
    pub(crate) desk: Arc<Desk>,
    /// Taken when there is an answer to relay.
    pub(crate) flight: &'a mut Option<Flight>,
    pub(crate) grpc: bool,
    /// The host the client addressed.
    pub(crate) host: Option<HeaderValue>,
    /// It only asks how the service is.
    pub(crate) check: bool,
    /// The client would rather hear at once that the service sleeps than wait for it.
    pub(crate) rather_not_wait: bool,
    /// Where the service was when the request had to wait for it.
    pub(crate) held: OnceLock<HeaderValue>,
    /// Who gets copies of the request and its answer.
    pub(crate) taps: Option<Box<Taps>>,
    /// Our own header lines of the request.
    pub(crate) said: Said,
}

impl Exchange<'_> {
    /// Forwards the request and relays the answer.
    pub(crate) async fn run(
        &mut self,
        mut request: Box<Request<Incoming>>,
        mut front: Front,
    ) -> Refused<Response<AnswerBody>> {
        let upgrade = wanted_upgrade(&mut request);
        let path = self.forwarded_path(request.uri())?;
        // What seldom happens is boxed, here and below: its room would have to be made for every request.
        let place = match self.place_now()? {
            Some(place) => place,
            None => Box::pin(self.wait_for_place(&mut request, &mut front)).await?,
        };
        let mut outgoing = Some(self.prepare(*request, front, upgrade.as_ref()));
        pin!(self.deliver(place, &mut outgoing, &path, upgrade)).await
    }

    /// Forwards a request of our own, whose body is all there.
    pub(crate) async fn run_whole(&mut self, request: Request<Bytes>) -> Refused<Response<AnswerBody>> {
        let path = self.forwarded_path(request.uri())?;
        let place = match self.place_now()? {
            Some(place) => place,
            None => self.place(&[]).await?,
        };
        let (mut parts, body) = request.into_parts();
        let metrics = self.prepare_head(&mut parts, None);
        let body = RequestBody::whole(body, metrics).tapped(self.request_tap());
        self.deliver(place, &mut Some(Request::from_parts(parts, body)), &path, None).await
    }

    /// `outgoing` is there until it is sent; by reference, as it is large.
    async fn deliver(
        &mut self,
        mut place: Place,
        outgoing: &mut Option<Request<RequestBody>>,
        path: &PathAndQuery,
        upgrade: Option<Upgrade>,
    ) -> Refused<Response<AnswerBody>> {
        let mut tried: Vec<ReplicaName> = Vec::new();
        loop {
            let (backend, slot) = place;
            let lease = self.desk.lease(&backend.replica, &self.worker.board);
            let mut held = Held { slot, lease: if self.check { lease.overlooked() } else { lease } };
            let endpoint = self.endpoint(&backend)?;
            if let Some(entry) = self.flight.as_mut().and_then(Flight::entry) {
                entry.replica = Some(Arc::clone(&backend.replica));
            }
            let attempt = pin!(self.attempt(endpoint, path, outgoing)).await;
            match attempt.inspect_err(|refusal| held.judge(refusal.status))? {
                Attempt::Answered(response) => {
                    held.judge(response.status());
                    return self.relay(response, held, upgrade);
                }
                Attempt::Unsent(why) => {
                    held.judge(why.status);
                    drop(held);
                    tried.push(backend.replica);
                    // When every replica was tried, what the last one said is most to the point.
                    place = Box::pin(self.place(&tried)).await.map_err(|_| why)?;
                }
            }
        }
    }

    /// The path as the client wrote it, less the path template's prefix.
    pub(super) fn forwarded_path(&self, uri: &Uri) -> Refused<PathAndQuery> {
        let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let rest = &whole[self.target.strip..];
        let path = if rest.is_empty() || rest.starts_with('?') {
            PathAndQuery::try_from(format!("/{rest}"))
        } else if self.target.strip == 0 {
            return Ok(uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
        } else {
            PathAndQuery::try_from(rest)
        };
        path.map_err(|_| {
            Box::new(Refusal::bad_request("BadPath", "the path cannot be forwarded; percent-encode what no path has"))
        })
    }

    fn prepare(&mut self, request: Request<Incoming>, front: Front, upgrade: Option<&Upgrade>) -> Request<RequestBody> {
        let (mut parts, body) = request.into_parts();
        // Over HTTP/1 the guard sees to it. Calls of gRPC may be silent in the direction in which they stream.
        let pace = (parts.version == Version::HTTP_2 && !self.grpc).then(|| self.worker.config.pace());
        let metrics = self.prepare_head(&mut parts, upgrade);
        Request::from_parts(parts, RequestBody::new(front, body, metrics, pace).tapped(self.request_tap()))
    }

    fn request_tap(&mut self) -> Option<Box<Tap>> {
        self.taps.as_mut()?.request.take()
    }

    /// Makes the head of a request what the backend is to see.
    fn prepare_head(&mut self, parts: &mut http::request::Parts, upgrade: Option<&Upgrade>) -> Arc<ServiceMetrics> {
        let trailers = headers::wants_trailers(&parts.headers);
        let trust = self.worker.config.trust_forwarded;
        headers::strip_request(&mut parts.headers, trust);
        parts.extensions.clear();
        if parts.version == Version::HTTP_2 {
            headers::join_cookies(&mut parts.headers);
        }
        if trailers {
            parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if let Some(upgrade) = upgrade {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, upgrade.protocol.clone());
        }
        let metrics = self.flight.as_ref().map(|flight| Arc::clone(flight.metrics())).unwrap_or_default();
        if let Some(flight) = self.flight.as_mut() {
            let from = Origin { client: &flight.client().ip, host: self.host.as_ref() };
            self.said = Said::new(&mut parts.headers, from, &self.desk, trust);
            if let Some(entry) = flight.entry() {
                entry.id = self.said.id().or_else(|| parts.headers.get("x-request-id")).cloned();
            }
        }
        metrics
    }

    pub(super) fn key(&self) -> ComponentKey {
        ComponentKey { service: self.target.service.key.clone(), component: self.target.component }
    }
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
