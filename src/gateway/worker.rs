//! What one worker needs to answer requests, and the way of one request through it.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use tokio::sync::{Notify, Semaphore};

use crate::plan::routes::RouteTable;
use crate::tasks::Tasks;
use crate::traffic::TrafficBoard;

use super::access_log::{AccessLog, Entry};
use super::balance::Balancer;
use super::batcher::Batcher;
use super::body::AnswerBody;
use super::config::GatewayConfig;
use super::crew::Ending;
use super::desk::Desks;
use super::early;
use super::flight::{Client, Flight};
use super::forward::Exchange;
use super::graph_run::{self, Propagate};
use super::guard;
use super::hold;
use super::index::{own_answer, own_message};
use super::metrics::{Metrics, ServiceMetrics};
use super::outside::Outside;
use super::payload_log::PayloadLog;
use super::peek::{Found, GrpcName, JsonModel};
use super::refusal::{Refusal, is_grpc, json_response};
use super::route::{Head, OwnAnswer, Question, Route};
use super::service_extras;
use super::upstream::Pool;
use super::whole::Room;

/// Pieces of a body that have been read ahead.
pub(crate) type Front = VecDeque<Frame<Bytes>>;

/// Everything a request needs on its way. Shared by the connections of one worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) routes: Arc<ArcSwap<RouteTable>>,
    pub(crate) desks: ArcSwap<Desks>,
    pub(crate) board: TrafficBoard,
    pub(crate) config: GatewayConfig,
    pub(crate) metrics: Arc<Metrics>,
    /// Counters of requests that reach no service.
    pub(crate) unrouted: Arc<ServiceMetrics>,
    pub(crate) balancer: Arc<Balancer>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) tasks: Tasks,
    pub(crate) backend_refused: Arc<Notify>,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) ending: Ending,
    /// Room for bodies that are held whole.
    pub(crate) whole: Arc<Room>,
    /// Which headers graphs pass on.
    pub(crate) propagate: Arc<Propagate>,
    /// What is called that is not behind this gateway.
    pub(crate) outside: Outside,
    /// Batches that are being filled, by all workers.
    pub(crate) batcher: Arc<Batcher>,
    /// Takes payload events.
    pub(crate) payload_log: PayloadLog,
    /// Copies of requests under way.
    pub(crate) mirrors: Arc<Semaphore>,
}

impl Worker {
    /// Answers one request, whatever happens.
    pub(crate) async fn answer(
        self: Arc<Self>,
        client: Arc<Client>,
        request: Box<Request<Incoming>>,
    ) -> Response<AnswerBody> {
        client.begin();
        let grpc = is_grpc(request.headers());
        let last = ends_connection(&request);
        let walk = Walk { worker: &self, flight: None, grpc };
        let mut response = match AssertUnwindSafe(walk.run(Arc::clone(&client), request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => self.after_panic(client, grpc),
        };
        if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn after_panic(&self, client: Arc<Client>, grpc: bool) -> Response<AnswerBody> {
        self.metrics.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!("a request ended in a panic; this is a bug");
        let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "Bug", "an error of kserve-local's own");
        own(refusal.into_response(grpc), Flight::begin(client, Arc::clone(&self.unrouted)))
    }

    /// Uses the current route table, turned over for lookups; turned over again when it has been replaced.
    pub(crate) fn with_desks<T>(&self, look: impl FnOnce(&Desks) -> T) -> T {
        let table = self.routes.load();
        let desks = self.desks.load();
        if Arc::ptr_eq(desks.index.table(), &table) {
            return look(&desks);
        }
        let fresh = Arc::new(Desks::new(Arc::clone(&table), &self.metrics, self.number, &self.board));
        self.desks.store(Arc::clone(&fresh));
        look(&fresh)
    }
}

/// After an upgrade that did not happen, and after a framing error, nothing more is read from the connection.
fn ends_connection(request: &Request<Incoming>) -> bool {
    request.version() <= Version::HTTP_11
        && (request.headers().contains_key(header::UPGRADE) || request.method() == Method::CONNECT)
}

/// Makes an answer of our own.
pub(crate) fn own(response: Response<Bytes>, mut flight: Flight) -> Response<AnswerBody> {
    flight.answered(response.status());
    response.map(|body| AnswerBody::Own(Some(body), Some(flight)))
}

fn own_grpc(which: OwnAnswer, mut flight: Flight) -> Response<AnswerBody> {
    flight.answered(StatusCode::OK);
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let message = Some(Bytes::from(own_message(which)));
    let mut response = Response::new(AnswerBody::OwnGrpc { message, trailers: Some(trailers), _flight: Some(flight) });
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// One request on its way.
struct Walk<'a> {
    worker: &'a Arc<Worker>,
    flight: Option<Flight>,
    grpc: bool,
}

impl Walk<'_> {
    async fn run(mut self, client: Arc<Client>, request: Box<Request<Incoming>>) -> Response<AnswerBody> {
        let mut flight = Flight::begin(Arc::clone(&client), Arc::clone(&self.worker.unrouted));
        if let Some(log) = &self.worker.access_log {
            flight.write_down(Entry::new(log, &request));
        }
        self.flight = Some(flight);
        match self.steps(request).await {
            Ok(response) => response,
            Err(refusal) => {
                // The flight is gone only if it ended with an answer that then broke; count the refusal anew.
                let flight = self.flight.take();
                let flight = flight.unwrap_or_else(|| Flight::begin(client, Arc::clone(&self.worker.unrouted)));
                own(refusal.into_response(self.grpc), flight)
            }
        }
    }

    async fn steps(&mut self, mut request: Box<Request<Incoming>>) -> Result<Response<AnswerBody>, Box<Refusal>> {
        #[cfg(test)]
        assert!(request.method() != super::panic_tests::PANIC, "asked to panic by a test");
        if let Some(refusal) = guard::refusal_of(&request) {
            return Err(Box::new(refusal));
        }
        check(&request)?;
        let host = host_of(&request)?;
        if let Some(rest) = request.uri().path().strip_prefix(early::STATUS) {
            return self.status(rest);
        }
        let mut front = Front::new();
        let caller = self.flight.as_ref().and_then(|flight| flight.client().caller.clone());
        let look = |desks: &Desks, route: Route| (desks.of(&route), route);
        let found = {
            let path = request.uri().path();
            let head = Head { method: request.method(), host: host.as_ref().map(as_str), path, grpc: self.grpc };
            self.worker.with_desks(|desks| {
                let route = match caller.as_deref() {
                    Some(service) => desks.index.find_inside(service, head),
                    None => desks.index.find(head),
                };
                look(desks, route)
            })
        };
        if let (Some(flight), (_, Route::Graph(graph))) = (&mut self.flight, &found) {
            flight.belongs_to(self.worker.metrics.service(self.worker.number, &graph.key));
            if let Some(entry) = flight.entry() {
                entry.service = Some(graph.key.clone());
            }
        }
        let (desk, route) = match found {
            (_, Route::Ask(question)) => {
                let model = Box::pin(self.ask(question, request.body_mut(), &mut front)).await?;
                self.worker.with_desks(|desks| look(desks, desks.index.by_model(&model, request.uri().path())))
            }
            found => found,
        };
        match (route, desk) {
            (Route::To(target), Some(desk)) => {
                if let Some(flight) = &mut self.flight {
                    flight.belongs_to(Arc::clone(&desk.metrics));
                    if let Some(entry) = flight.entry() {
                        entry.service = Some(target.service.key.clone());
                    }
                }
                let grpc = self.grpc;
                let check = hold::is_check(&request, &request.uri().path()[target.strip..], grpc);
                let exchange = Exchange {
                    worker: self.worker,
                    target,
                    desk,
                    flight: &mut self.flight,
                    grpc,
                    host,
                    check,
                    rather_not_wait: !grpc && early::prefers_async(request.headers()),
                    held: OnceLock::new(),
                    taps: None,
                };
                match exchange.target.extras().filter(|extras| !extras.is_plain() && !grpc && !check).cloned() {
                    None => exchange.run(request, front).await,
                    Some(extras) => {
                        let client = exchange.flight.as_ref().map(Flight::shared_client).ok_or_else(no_flight)?;
                        Box::pin(service_extras::run(exchange, extras, client, request, front)).await
                    }
                }
            }
            (Route::Graph(graph), _) => {
                // A step whose answer breaks off is an error of the graph, not the end of the connection.
                let client = self.client()?.on_behalf();
                let (parts, body) = request.into_parts();
                let run = graph_run::run(self.worker, &client, &graph, &parts, body, self.grpc);
                let response = Box::pin(run).await?;
                self.flight.take().map(|flight| own(response, flight)).ok_or_else(no_flight)
            }
            (Route::Own(which), _) if self.grpc => {
                self.flight.take().map(|flight| own_grpc(which, flight)).ok_or_else(no_flight)
            }
            (Route::Own(which), _) => {
                let body = self.worker.with_desks(|desks| own_answer(which, desks.index.table()));
                self.flight.take().map(|flight| own(json_response(&body), flight)).ok_or_else(no_flight)
            }
            (Route::Miss(miss), _) => {
                Err(Box::new(self.worker.with_desks(|desks| Refusal::miss(&miss, desks.index.table()))))
            }
            (Route::Ask(_) | Route::To(_), _) => Err(no_flight()),
        }
    }

    fn client(&self) -> Result<Arc<Client>, Box<Refusal>> {
        self.flight.as_ref().map(Flight::shared_client).ok_or_else(no_flight)
    }

    /// Says how a service is.
    fn status(&mut self, rest: &str) -> Result<Response<AnswerBody>, Box<Refusal>> {
        let told = self.worker.with_desks(|desks| early::status(rest, desks.index.table()));
        let told = told.ok_or_else(|| {
            let message = format!("there is no InferenceService `{rest}`; write <namespace>/<name>");
            Box::new(Refusal::new(StatusCode::NOT_FOUND, "UnknownService", message))
        })?;
        self.flight.take().map(|flight| own(json_response(&told), flight)).ok_or_else(no_flight)
    }

    /// Reads ahead until the model's name is found.
    async fn ask(&self, question: Question, body: &mut Incoming, front: &mut Front) -> Result<String, Box<Refusal>> {
        let config = &self.worker.config;
        let search = read_name(question, body, front, config.peek_limit);
        tokio::time::timeout(config.stall_timeout, search).await.unwrap_or_else(|_| {
            let message = "the request's first bytes did not come in time";
            Err(Box::new(Refusal::new(StatusCode::REQUEST_TIMEOUT, "RequestTimeout", message).closing()))
        })
    }
}

pub(super) fn no_flight() -> Box<Refusal> {
    Box::new(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "Bug", "an error of kserve-local's own"))
}

async fn read_name(
    question: Question,
    body: &mut Incoming,
    front: &mut Front,
    limit: usize,
) -> Result<String, Box<Refusal>> {
    let mut search = Search::new(question);
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Box::new(Refusal::bad_request("BrokenBody", format!("the body could not be read: {error}")).closing())
        })?;
        let found = frame.data_ref().map_or(Found::More, |data| search.feed(data));
        seen += frame.data_ref().map_or(0, Bytes::len);
        front.push_back(frame);
        match found {
            Found::Name(name) => return Ok(name),
            Found::Not(why) => return Err(Box::new(Refusal::bad_request("NoModelName", why))),
            Found::More if seen > limit => {
                let message = format!("no model's name in the first {limit} bytes of the body; put it first");
                return Err(Box::new(Refusal::bad_request("NoModelName", message)));
            }
            Found::More => {}
        }
    }
    Err(Box::new(Refusal::bad_request("NoModelName", "the body ends before a model's name")))
}

enum Search {
    Json(JsonModel),
    Grpc(GrpcName, BytesMut),
}

impl Search {
    fn new(question: Question) -> Self {
        match question {
            Question::JsonModel => Self::Json(JsonModel::default()),
            Question::GrpcModel(shape) => Self::Grpc(shape, BytesMut::new()),
        }
    }

    fn feed(&mut self, piece: &[u8]) -> Found {
        match self {
            Self::Json(scan) => scan.feed(piece),
            Self::Grpc(shape, seen) => {
                seen.extend_from_slice(piece);
                shape.look(seen)
            }
        }
    }
}

/// Refuses what we do not do.
fn check(request: &Request<Incoming>) -> Result<(), Box<Refusal>> {
    // With a protocol it is WebSocket's over HTTP/2 (RFC 8441), else it asks for a proxy to anywhere.
    let connect = request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none();
    if connect || request.method() == Method::TRACE {
        let message = format!("{} is not supported", request.method());
        return Err(Box::new(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)));
    }
    let expectation = request.headers().get(header::EXPECT);
    if expectation.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        let message = "only `100-continue` can be expected";
        return Err(Box::new(Refusal::new(StatusCode::EXPECTATION_FAILED, "ExpectationFailed", message)));
    }
    Ok(())
}

/// Returns the host that is addressed: an authority in the request's target wins over `Host`, as RFC 9112 wants; over
/// HTTP/2 the two must agree.
fn host_of(request: &Request<Incoming>) -> Result<Option<HeaderValue>, Box<Refusal>> {
    let host = request.headers().get(header::HOST);
    let Some(authority) = request.uri().authority() else { return valid_host(host.cloned()) };
    if request.version() == Version::HTTP_2
        && host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
    {
        return Err(Box::new(Refusal::bad_request("HostMismatch", "`host` and `:authority` differ")));
    }
    valid_host(HeaderValue::from_str(authority.as_str()).ok())
}

fn valid_host(host: Option<HeaderValue>) -> Result<Option<HeaderValue>, Box<Refusal>> {
    let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
    match host {
        Some(host) if !host.as_bytes().iter().all(valid) => {
            Err(Box::new(Refusal::bad_request("BadHost", "the host name has characters that no host name has")))
        }
        host => Ok(host),
    }
}

/// `valid_host` has let only ASCII pass.
fn as_str(host: &HeaderValue) -> &str {
    host.to_str().unwrap_or_default()
}

/// Seconds after which a client whose request met a full queue may try again.
pub(crate) const RETRY_SOON: Duration = Duration::from_secs(1);
