//! One exchange with a backend: choose it, send the request, relay the answer. Retries only what was never sent.

use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error as _;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use crate::plan::routes::{Backend, ReplicaName, RouteState, ServiceRoute};
use crate::workload::{ComponentKey, UpstreamProtocol};

use super::balance::{NoPlace, Patience, Slot};
use super::body::{AnswerBody, BodyError, Held, Progress, Relay, RequestBody};
use super::desk::Desk;
use super::flight::Flight;
use super::headers::{self, Origin};
use super::hold::{self, PHASE_HEADER};
use super::metrics::{ServiceMetrics, UpstreamError};
use super::refusal::Refusal;
use super::route::Target;
use super::service_extras::Taps;
use super::tap::Tap;
use super::tunnel::Tunnel;
use super::upstream::{ConnectError, Sender};
use super::worker::{Front, RETRY_SOON, Worker};

pub(super) type Refused<T> = Result<T, Box<Refusal>>;

/// Times a request that was not sent is offered to the same backend on another connection.
const MAX_RESENDS: usize = 3;

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
}

/// What the client wants to change to, and its end of the connection.
struct Upgrade {
    protocol: HeaderValue,
    client: OnUpgrade,
    /// Asked for by an extended `CONNECT` of HTTP/2 (RFC 8441), where agreement is a 200.
    extended: bool,
}

/// Finds what the client wants to change to. An extended `CONNECT` becomes the request that HTTP/1 has for it.
fn wanted_upgrade(request: &mut Request<Incoming>) -> Option<Upgrade> {
    if let Some(protocol) = request.extensions().get::<Protocol>() {
        let protocol = HeaderValue::from_str(protocol.as_str()).ok()?;
        let client = hyper::upgrade::on(&mut *request);
        *request.method_mut() = Method::GET;
        headers::add_websocket_key(request.headers_mut());
        return Some(Upgrade { protocol, client, extended: true });
    }
    let protocol = headers::wanted_upgrade(request.headers()).filter(|_| request.version() == Version::HTTP_11)?;
    Some(Upgrade { protocol, client: hyper::upgrade::on(request), extended: false })
}

/// Where and how a backend is spoken to for this request.
#[derive(Clone, Copy)]
struct Endpoint {
    address: std::net::SocketAddr,
    protocol: UpstreamProtocol,
}

/// A replica, and the place at it if those are counted.
type Place = (Backend, Option<Slot>);

/// What came of one try.
enum Attempt {
    Answered(Response<Incoming>, Sender),
    /// Nothing was sent; the request is as it was.
    Unsent(Request<RequestBody>, Box<Refusal>),
}

impl Exchange<'_> {
    /// Forwards the request and relays the answer.
    pub(crate) async fn run(
        mut self,
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
        let outgoing = self.prepare(*request, front, upgrade.as_ref());
        self.deliver(place, outgoing, &path, upgrade).await
    }

    /// Forwards a request of our own, whose body is all there.
    pub(crate) async fn run_whole(mut self, request: Request<Bytes>) -> Refused<Response<AnswerBody>> {
        let path = self.forwarded_path(request.uri())?;
        let place = match self.place_now()? {
            Some(place) => place,
            None => self.place(&[]).await?,
        };
        let (mut parts, body) = request.into_parts();
        let metrics = self.prepare_head(&mut parts, None);
        let outgoing = Request::from_parts(parts, RequestBody::whole(body, metrics).tapped(self.request_tap()));
        self.deliver(place, outgoing, &path, None).await
    }

    async fn deliver(
        mut self,
        mut place: Place,
        mut outgoing: Request<RequestBody>,
        path: &PathAndQuery,
        upgrade: Option<Upgrade>,
    ) -> Refused<Response<AnswerBody>> {
        let progress = outgoing.body().progress();
        let mut tried: Vec<ReplicaName> = Vec::new();
        loop {
            let (backend, slot) = place;
            let lease = self.desk.lease(&backend.replica, &self.worker.board);
            let mut held = Held { slot, lease: if self.check { lease.overlooked() } else { lease } };
            let endpoint = self.endpoint(&backend)?;
            if let Some(entry) = self.flight.as_mut().and_then(Flight::entry) {
                entry.replica = Some(Arc::clone(&backend.replica));
            }
            let attempt = self.attempt(endpoint, path, outgoing, progress.as_deref()).await;
            match attempt.inspect_err(|refusal| held.judge(refusal.status))? {
                Attempt::Answered(response, sender) => {
                    held.judge(response.status());
                    return self.relay(response, sender, held, upgrade);
                }
                Attempt::Unsent(request, why) => {
                    held.judge(why.status);
                    drop(held);
                    outgoing = request;
                    tried.push(backend.replica);
                    // When every replica was tried, what the last one said is most to the point.
                    place = Box::pin(self.place(&tried)).await.map_err(|_| why)?;
                }
            }
        }
    }

    /// Finds a replica with room, if there is one. The target was looked up a moment ago and is as it is now.
    fn place_now(&self) -> Refused<Option<Place>> {
        if self.held_in(&self.target.service).is_some() {
            return Ok(None);
        }
        let backends = self.backends(&self.target.service)?;
        match &*backends {
            [one] if one.concurrency.is_none() && one.weight > 0 => Ok(Some((one.clone(), None))),
            several => {
                let key = self.key();
                let place = self.worker.balancer.acquire_now(&key, several, &[]);
                place.map_err(|none| Box::new(no_place(none, &key)))
            }
        }
    }

    /// Waits for a replica with room, for as long as the client does.
    async fn wait_for_place(&self, request: &mut Request<Incoming>, front: &mut Front) -> Refused<Place> {
        tokio::select! {
            biased;
            place = self.place(&[]) => place,
            // Never ends; what it has read is kept.
            never = read_ahead(request.body_mut(), front, self.worker.config.read_ahead) => match never {},
        }
    }

    /// Finds a replica with room that was not tried yet, and waits for one.
    async fn place(&self, tried: &[ReplicaName]) -> Refused<Place> {
        let (known, waited) = self.awake(self.service()?).await?;
        // Whatever was tried before it woke is not what there is now.
        let tried = if waited { &[] } else { tried };
        let backends = self.backends(&known)?;
        let key = self.key();
        let config = &self.worker.config;
        let patience = match waited {
            false => Patience { max_waiting: config.max_waiting, timeout: config.queue_timeout },
            // All who waited come at once; its concurrency limit shapes the burst.
            true => Patience {
                max_waiting: usize::try_from(config.max_held).unwrap_or(usize::MAX),
                timeout: config.default_request_timeout.unwrap_or(config.queue_timeout),
            },
        };
        let current = || {
            let now = self.service().and_then(|now| self.backends(&now).map(Cow::into_owned));
            now.unwrap_or_default()
        };
        let waiting = (Gauge::new(self.flight.as_ref()), self.worker.board.queue_for(&key));
        let place = self.worker.balancer.acquire(&key, &backends, current, tried, patience).await;
        drop(waiting);
        place.map_err(|none| {
            // When the route was closed while the request waited, its reason is the reason.
            let closed = self.service().and_then(|now| self.backends(&now).map(drop));
            closed.err().unwrap_or_else(|| Box::new(no_place(none, &key)))
        })
    }

    /// The service as it is now.
    pub(super) fn service(&self) -> Refused<Arc<ServiceRoute>> {
        let key = &self.target.service.key;
        self.worker.with_desks(|desks| desks.index.table().services.get(key).cloned()).ok_or_else(|| self.removed())
    }

    fn backends<'a>(&self, service: &'a ServiceRoute) -> Refused<Cow<'a, [Backend]>> {
        let route = service.components.get(&self.target.component);
        match (self.target.state(service), self.target.tag) {
            (Some(RouteState::Open(backends)), None) => Ok(Cow::Borrowed(backends)),
            // A tagged revision is reached although its share of the traffic may be nothing.
            (Some(RouteState::Open(backends)), Some(tag)) => match tag.within(route, backends) {
                none if none.is_empty() => {
                    let message = format!("{} has one revision only", self.key());
                    Err(Box::new(Refusal::new(StatusCode::NOT_FOUND, "NoSuchRevision", message)))
                }
                tagged => Ok(Cow::Owned(tagged)),
            },
            (Some(RouteState::NotReady { reason, message, retry_after }), _) => {
                Err(Box::new(Refusal::unavailable(reason.clone(), message.clone(), *retry_after).in_phase()))
            }
            (Some(RouteState::Held(hold)), _) => Err(Box::new(hold::refusal(hold, "it has just ended"))),
            (None, _) => Err(self.removed()),
        }
    }

    fn removed(&self) -> Box<Refusal> {
        let message = format!("InferenceService `{}` has just been removed", self.target.service.key);
        Box::new(Refusal::new(StatusCode::NOT_FOUND, "UnknownService", message))
    }

    fn endpoint(&self, backend: &Backend) -> Refused<Endpoint> {
        match (self.grpc, backend.grpc_address, backend.protocol) {
            (true, Some(address), _) => Ok(Endpoint { address, protocol: UpstreamProtocol::H2c }),
            (true, None, UpstreamProtocol::Http1) => {
                let message = format!("InferenceService `{}` has no gRPC port", self.target.service.key);
                Err(Box::new(Refusal::new(StatusCode::NOT_IMPLEMENTED, "NoGrpcPort", message)))
            }
            (_, _, protocol) => Ok(Endpoint { address: backend.address, protocol }),
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
        path.map_err(|_| Box::new(Refusal::bad_request("BadPath", "the path cannot be forwarded")))
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
        headers::strip_hop_by_hop(&mut parts.headers);
        parts.headers.remove(header::EXPECT);
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
            let trust = self.worker.config.trust_forwarded;
            headers::set_forwarding(&mut parts.headers, from, &self.desk, trust);
            if let Some(entry) = flight.entry() {
                entry.id = parts.headers.get("x-request-id").cloned();
            }
        }
        metrics
    }

    /// Puts the request into the form the protocol wants.
    fn address(&self, request: &mut Request<RequestBody>, endpoint: Endpoint, path: &PathAndQuery) -> Refused<()> {
        let host = match &self.host {
            Some(host) if !host.is_empty() => host.clone(),
            _ => HeaderValue::try_from(endpoint.address.to_string()).unwrap_or(HeaderValue::from_static("localhost")),
        };
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(path.clone());
        match endpoint.protocol {
            UpstreamProtocol::Http1 => {
                *request.version_mut() = Version::HTTP_11;
                if request.headers().contains_key(header::TE) && !request.headers().contains_key(header::CONNECTION) {
                    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("te"));
                }
                request.headers_mut().insert(header::HOST, host);
            }
            UpstreamProtocol::H2c => {
                *request.version_mut() = Version::HTTP_2;
                request.headers_mut().remove(header::CONNECTION);
                request.headers_mut().remove(header::UPGRADE);
                request.headers_mut().remove(header::HOST);
                uri.scheme = Some(Scheme::HTTP);
                uri.authority = Authority::try_from(host.as_bytes()).ok();
            }
        }
        *request.uri_mut() = Uri::from_parts(uri)
            .map_err(|_| Box::new(Refusal::bad_request("BadPath", "the path cannot be forwarded")))?;
        Ok(())
    }

    async fn attempt(
        &mut self,
        endpoint: Endpoint,
        path: &PathAndQuery,
        mut request: Request<RequestBody>,
        progress: Option<&Progress>,
    ) -> Refused<Attempt> {
        self.address(&mut request, endpoint, path)?;
        let mut why = None;
        for _ in 0..MAX_RESENDS {
            let Endpoint { address, protocol } = endpoint;
            let mut sender = match self.worker.pool.ready(address, protocol) {
                Some(sender) => sender,
                None => match Box::pin(self.worker.pool.connect(address, protocol)).await {
                    Ok(sender) => sender,
                    Err(error) => return Ok(Attempt::Unsent(request, self.no_connection(&error))),
                },
            };
            let limits = self.limits();
            match in_time(sender.send(request), limits, progress).await {
                Some(Ok(response)) => return Ok(Attempt::Answered(response, sender)),
                Some(Err(mut error)) => match error.take_message() {
                    Some(unsent) => {
                        request = unsent;
                        why = Some(self.broken(error.error()));
                    }
                    None => return Err(self.broken(error.error())),
                },
                None => return Err(self.too_late(limits.answer)),
            }
        }
        let why = why.unwrap_or_else(|| Box::new(no_place(NoPlace::Nobody, &self.key())));
        Ok(Attempt::Unsent(request, why))
    }

    pub(super) fn key(&self) -> ComponentKey {
        ComponentKey { service: self.target.service.key.clone(), component: self.target.component }
    }

    fn limits(&self) -> Limits {
        let config = &self.worker.config;
        let route = self.target.service.components.get(&self.target.component);
        let answer = route.and_then(|route| route.timeout).or(config.default_request_timeout);
        Limits { answer, stall: config.stall_timeout }
    }

    fn no_connection(&self, error: &ConnectError) -> Box<Refusal> {
        self.count(UpstreamError::Connect);
        self.worker.backend_refused.notify_one();
        tracing::debug!(service = %self.target.service.key, error = %chain(error), "no connection to backend");
        let message = format!("{} does not accept connections; it is being checked", self.key());
        Box::new(Refusal::unavailable("BackendRefused", message, RETRY_SOON))
    }

    fn broken(&self, error: &hyper::Error) -> Box<Refusal> {
        self.count(UpstreamError::Broken);
        tracing::debug!(service = %self.target.service.key, error = %chain(error), "backend did not answer");
        // Of what goes wrong while a request is sent, only a body that could not be read is the client's doing.
        if error.is_user() {
            let cause = error.source().and_then(|cause| cause.downcast_ref());
            if let Some(BodyError::TooSlow) = cause {
                let message = "the request's body came too slowly";
                return Box::new(Refusal::new(StatusCode::REQUEST_TIMEOUT, "RequestTimeout", message).closing());
            }
            return Box::new(Refusal::bad_request("BrokenBody", "the request's body could not be read").closing());
        }
        let message = format!("{} ended the connection before it answered", self.key());
        Box::new(Refusal::new(StatusCode::BAD_GATEWAY, "BackendBroke", message))
    }

    fn too_late(&self, limit: Option<Duration>) -> Box<Refusal> {
        self.count(UpstreamError::Timeout);
        let seconds = limit.map_or(0.0, |limit| limit.as_secs_f64());
        let message = format!("{} did not begin to answer within {seconds} s", self.key());
        Box::new(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message))
    }

    fn count(&self, error: UpstreamError) {
        if let Some(flight) = self.flight.as_ref() {
            flight.metrics().upstream_error(error);
        }
    }

    fn relay(
        &mut self,
        response: Response<Incoming>,
        sender: Sender,
        held: Held,
        upgrade: Option<Upgrade>,
    ) -> Refused<Response<AnswerBody>> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.change_protocol(response, held, upgrade);
        }
        if response.status().is_success() && upgrade.is_some_and(|upgrade| upgrade.extended) {
            // Over HTTP/2 this would say that the backend has agreed.
            let message = format!("{} did not change the protocol", self.key());
            return Err(Box::new(Refusal::new(StatusCode::BAD_GATEWAY, "NotUpgraded", message)));
        }
        let mut flight = self.flight.take().ok_or_else(|| self.unasked())?;
        flight.answered(response.status());
        let (mut parts, body) = response.into_parts();
        if parts.headers.contains_key(header::TRANSFER_ENCODING) {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        headers::strip_hop_by_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        if let Some(phase) = self.held.take() {
            parts.headers.insert(PHASE_HEADER, phase);
        }
        let tap = self.taps.as_mut().and_then(|taps| taps.of_answer(parts.status, &parts.headers));
        let idle_timeout = self.worker.config.body_idle_timeout;
        let relay = Relay::new(body, idle_timeout, sender.into_checkout(), flight, held, tap);
        Ok(Response::from_parts(parts, AnswerBody::Relayed(relay)))
    }

    /// The backend has agreed to an upgrade: from here on bytes, until one side ends.
    fn change_protocol(
        &mut self,
        mut response: Response<Incoming>,
        held: Held,
        upgrade: Option<Upgrade>,
    ) -> Refused<Response<AnswerBody>> {
        let upgrade = upgrade.ok_or_else(|| self.unasked())?;
        let mut flight = self.flight.take().ok_or_else(|| self.unasked())?;
        flight.answered(response.status());
        let agreed = response.headers().get(header::UPGRADE).cloned().unwrap_or(upgrade.protocol);
        let tunnel = Tunnel {
            client: upgrade.client,
            backend: hyper::upgrade::on(&mut response),
            idle_timeout: self.worker.config.tunnel_idle_timeout,
            cancel: self.worker.ending.cut.clone(),
            flight,
            held,
        };
        drop(self.worker.tasks.spawn("tunnel", tunnel.run()));
        let (mut parts, _) = response.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        parts.extensions.clear();
        if upgrade.extended {
            parts.status = StatusCode::OK;
            parts.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        } else {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, agreed);
        }
        Ok(Response::from_parts(parts, AnswerBody::Own(None, None)))
    }

    fn unasked(&self) -> Box<Refusal> {
        let message = format!("{} changed the protocol without being asked", self.key());
        Box::new(Refusal::new(StatusCode::BAD_GATEWAY, "BackendBroke", message))
    }
}

/// Reads a request's body up to a limit while it waits. Only so does hyper notice that an HTTP/1 client has left, and
/// then drops the request. Never ends.
async fn read_ahead(body: &mut Incoming, front: &mut Front, limit: usize) -> Infallible {
    let mut ahead: usize = front.iter().filter_map(Frame::data_ref).map(Bytes::len).sum();
    while ahead < limit {
        let Some(Ok(frame)) = body.frame().await else { break };
        ahead += frame.data_ref().map_or(0, Bytes::len);
        front.push_back(frame);
    }
    std::future::pending().await
}

/// Counts a request as waiting while it looks for a place.
struct Gauge<'a>(Option<&'a Flight>);

impl<'a> Gauge<'a> {
    fn new(flight: Option<&'a Flight>) -> Self {
        if let Some(flight) = flight {
            flight.metrics().waits();
        }
        Self(flight)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        if let Some(flight) = self.0 {
            flight.metrics().waited();
        }
    }
}

fn no_place(none: NoPlace, key: &ComponentKey) -> Refusal {
    let (reason, message) = match none {
        NoPlace::Nobody => ("NoBackend", format!("{key} has no replica that takes traffic")),
        NoPlace::QueueFull => ("Overloaded", format!("{key} is at its concurrency limit and its queue is full")),
        NoPlace::TooLong => ("Overloaded", format!("{key} was at its concurrency limit for too long")),
    };
    Refusal::unavailable(reason, message, RETRY_SOON)
}

#[derive(Clone, Copy)]
struct Limits {
    /// From the request's last byte to the answer's first.
    answer: Option<Duration>,
    /// Longest time in which nothing of the request's body moves.
    stall: Duration,
}

/// Waits for an answer: as long as the body moves, and then for the limit.
async fn in_time<F: Future>(answer: F, limits: Limits, progress: Option<&Progress>) -> Option<F::Output> {
    let Some(limit) = limits.answer else { return Some(answer.await) };
    let mut answer = pin!(answer);
    let mut timer = pin!(tokio::time::sleep(limit.max(limits.stall)));
    let mut pieces = 0;
    let mut follow = progress.filter(|progress| progress.finished().is_none());
    if follow.is_none() {
        timer.as_mut().reset(Instant::now() + limit);
    }
    loop {
        let finishing = async {
            match follow {
                Some(progress) => progress.finishing().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Losing the wait for the body loses nothing, it can be asked again; the timer goes on.
            output = &mut answer => return Some(output),
            () = finishing => {}
            () = &mut timer => {
                let now = follow.map_or(0, Progress::pieces);
                if now == pieces {
                    return None;
                }
                pieces = now;
                timer.as_mut().reset(Instant::now() + limit.max(limits.stall));
            }
        }
        if let Some(finished) = follow.and_then(Progress::finished) {
            follow = None;
            pieces = 0;
            timer.as_mut().reset(finished + limit);
        }
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
