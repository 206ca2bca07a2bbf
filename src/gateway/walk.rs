//! The way of one request: what it is, where it goes, and who answers it.

use std::pin::pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use crate::api::ServiceKey;

use super::access_log::Entry;
use super::body::AnswerBody;
use super::check::{self, as_str};
use super::desk::Desks;
use super::early;
use super::flight::{Client, Flight};
use super::forward::Exchange;
use super::graph_run;
use super::guard;
use super::headers::Said;
use super::hold;
use super::index::{own_answer, own_message};
use super::name_ahead::{Limits, Search, read_name};
use super::refusal::{Refusal, json_response};
use super::route::{Head, OwnAnswer, Question, Route};
use super::service_extras;
use super::worker::{BUG, Front, Worker, own};

/// One request on its way.
pub(super) struct Walk<'a> {
    pub(super) worker: &'a Arc<Worker>,
    pub(super) flight: Option<Flight>,
    pub(super) grpc: bool,
}

impl Walk<'_> {
    pub(super) async fn run(mut self, client: Arc<Client>, request: Box<Request<Incoming>>) -> Response<AnswerBody> {
        let mut flight = Flight::begin(Arc::clone(&client), Arc::clone(&self.worker.unrouted));
        if let Some(log) = &self.worker.access_log {
            flight.write_down(Entry::new(log, &request));
        }
        self.flight = Some(flight);
        let answered = pin!(self.steps(request)).await;
        match answered {
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
        check::check(&request, &self.worker.config)?;
        let host = check::host_of(&request)?;
        let caller = self.flight.as_ref().and_then(|flight| flight.client().caller.clone());
        if let Some(rest) = request.uri().path().strip_prefix(early::STATUS) {
            return self.status(rest, caller.as_deref());
        }
        let mut front = Front::new();
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
                let named = if question == Question::JsonModel { named_by_header(request.headers())? } else { None };
                let model = match named {
                    Some(model) => model.to_owned(),
                    None => Box::pin(self.ask(question, &mut request, &mut front)).await?,
                };
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
                let mut exchange = Exchange {
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
                    said: Said::default(),
                };
                match exchange.target.extras().filter(|extras| !extras.is_plain() && !grpc && !check).cloned() {
                    None => pin!(exchange.run(request, front)).await,
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
    /// Tells how a service stands; to a replica only how its own does.
    fn status(&mut self, rest: &str, caller: Option<&ServiceKey>) -> Result<Response<AnswerBody>, Box<Refusal>> {
        let told = self.worker.with_desks(|desks| early::status(rest, caller, desks.index.table()));
        let told = told.ok_or_else(|| {
            let message = format!("there is no InferenceService `{rest}`; write <namespace>/<name>");
            Box::new(Refusal::new(StatusCode::NOT_FOUND, "UnknownService", message))
        })?;
        self.flight.take().map(|flight| own(json_response(&told), flight)).ok_or_else(no_flight)
    }

    /// Reads ahead until the model's name is found.
    async fn ask(
        &self,
        question: Question,
        request: &mut Request<Incoming>,
        front: &mut Front,
    ) -> Result<String, Box<Refusal>> {
        let config = &self.worker.config;
        let search = Search::new(question, request.headers())?;
        let limits = Limits { bytes: config.peek_limit, pace: config.pace() };
        read_name(search, request.body_mut(), front, limits).await
    }
}

/// Names the model for KServe's gateways, which do not look into bodies (§7.3).
const MODEL_HEADER: &str = "x-gateway-model-name";

fn named_by_header(headers: &HeaderMap) -> Result<Option<&str>, Box<Refusal>> {
    let mut named = headers.get_all(MODEL_HEADER).iter().map(as_str).filter(|model| !model.is_empty());
    let model = named.next();
    if named.any(|other| Some(other) != model) {
        let message = "the header X-Gateway-Model-Name names two models; send it once";
        return Err(Box::new(Refusal::bad_request("DuplicateModel", message)));
    }
    Ok(model)
}

pub(super) fn no_flight() -> Box<Refusal> {
    Box::new(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "Bug", BUG))
}

fn own_grpc(which: OwnAnswer, mut flight: Flight) -> Response<AnswerBody> {
    flight.answered(StatusCode::OK);
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let message = Some(Bytes::from(own_message(which)));
    let mut response = Response::new(AnswerBody::OwnGrpc { message, trailers: Some(trailers), _flight: Some(flight) });
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
