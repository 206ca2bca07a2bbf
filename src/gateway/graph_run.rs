//! One request through an InferenceGraph: on a cluster the work of a router container (§6.4).
//!
//! What a step is sent and what its answer means is decided by [`crate::graph`]; here the calls are made. A service is
//! looked up when it is called, and one that sleeps is waited for. What the gateway itself says about a service (asleep for
//! too long, overloaded) is an answer of the step like any other. **Invariant:** when the client goes away, so does every
//! call that is under way.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode, Version};
use hyper::body::Incoming;
use regex::Regex;
use url::Url;

use crate::api::ServiceKey;
use crate::api::inference_graph::RouterType;
use crate::graph::step::{self, Next};
use crate::graph::{Answer, Failure, Graph, Target, condition, merge};
use crate::plan::routes::GraphRoute;

use super::body::RequestBody;
use super::desk::Desk;
use super::flight::Client;
use super::forward::{Refused, chain};
use super::inner::{self, Call, Reply};
use super::refusal::{Refusal, json_response};
use super::route::{Route, Target as ServiceTarget};
use super::whole::Space;
use super::worker::{Front, Worker};

/// Graphs that call each other by URL, one within the other.
const MOST_GRAPHS_DEEP: usize = 8;

/// Which headers of a request its steps get.
#[derive(Debug)]
pub(crate) struct Propagate(Vec<Regex>);

impl Propagate {
    /// Reads patterns as `PROPAGATE_HEADERS` has them. One that means nothing is left out with a warning, as upstream does.
    pub(crate) fn new(patterns: &[String]) -> Self {
        let read = |pattern: &String| {
            Regex::new(pattern)
                .inspect_err(|error| tracing::warn!(pattern, %error, "a pattern of propagateHeaders is left out"))
                .ok()
        };
        Self(patterns.iter().filter_map(read).collect())
    }

    /// Returns the headers a step gets. The request's id goes along in any case: it is the same request.
    fn of(&self, headers: &HeaderMap) -> HeaderMap {
        let mut taken = HeaderMap::new();
        for (name, value) in headers {
            let canonical = canonical(name);
            let wanted = name == "x-request-id" || self.0.iter().any(|pattern| pattern.is_match(&canonical));
            // What belongs to one connection or one body is never passed on.
            if wanted && !is_of_one_hop(name) {
                taken.append(name.clone(), value.clone());
            }
        }
        taken.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        taken
    }
}

/// A header's name as Go writes it: `X-Request-Id`.
pub(crate) fn canonical(name: &HeaderName) -> String {
    let parts = name.as_str().split('-').map(|part| {
        let (first, rest) = part.split_at(part.len().min(1));
        format!("{}{rest}", first.to_ascii_uppercase())
    });
    parts.collect::<Vec<_>>().join("-")
}

fn is_of_one_hop(name: &HeaderName) -> bool {
    let names = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::EXPECT,
    ];
    names.contains(name)
}

/// Runs a graph for a client.
///
/// # Errors
/// The request cannot be run at all: its body is too large, the graph is stopped, it is gRPC.
pub(crate) async fn run(
    worker: &Arc<Worker>,
    client: &Arc<Client>,
    route: &GraphRoute,
    parts: &Parts,
    body: Incoming,
    grpc: bool,
) -> Refused<Response<Bytes>> {
    if grpc {
        let message = format!("InferenceGraph `{}` speaks HTTP only", route.key);
        return Err(Box::new(Refusal::new(StatusCode::NOT_IMPLEMENTED, "NoGrpc", message)));
    }
    let graph = graph_of(route)?;
    let space = worker.whole.open();
    // A client over HTTP/2 must keep pace; over HTTP/1 the guard sees to it.
    let pace = (parts.version == Version::HTTP_2).then(|| worker.config.pace());
    let body = RequestBody::new(Front::new(), body, Arc::default(), pace);
    let body = in_time(graph.read_timeout, space.read(body)).await.unwrap_or_else(|limit| {
        let message = format!("the request was not read within {} s", limit.as_secs());
        Err(super::whole::TooMuch::Broken(message))
    })?;
    let run = Run { worker, client, route, graph, headers: worker.propagate.of(&parts.headers), space, deep: 0 };
    let limit = graph.timeout.or(worker.config.default_request_timeout);
    match in_time(limit, run.node(graph.root, body)).await {
        Ok(done) => Ok(response(done)),
        Err(limit) => {
            let message = format!("InferenceGraph `{}` did not answer within {} s", route.key, limit.as_secs());
            Err(Box::new(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)))
        }
    }
}

fn graph_of(route: &GraphRoute) -> Refused<&Graph> {
    route.graph.as_ref().map_err(|(reason, message)| {
        Box::new(Refusal::unavailable(reason.clone(), message.clone(), Duration::from_secs(30)))
    })
}

/// Waits for something, for a limited time if there is a limit. The error is the limit.
async fn in_time<F: Future>(limit: Option<Duration>, work: F) -> Result<F::Output, Duration> {
    match limit {
        None => Ok(work.await),
        Some(limit) => tokio::time::timeout(limit, work).await.map_err(|_| limit),
    }
}

fn response(done: Result<Answer, Failure>) -> Response<Bytes> {
    match done {
        Ok(answer) => {
            let is_json = condition::is_json(&answer.body);
            let mut response = Response::new(answer.body);
            *response.status_mut() = answer.status;
            if is_json {
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            response
        }
        Err(failure) => {
            let mut response = json_response(&failure.to_body());
            *response.status_mut() = failure.status;
            response
        }
    }
}

/// One request in one graph.
struct Run<'a> {
    worker: &'a Arc<Worker>,
    client: &'a Arc<Client>,
    route: &'a GraphRoute,
    graph: &'a Graph,
    headers: HeaderMap,
    space: Space,
    deep: usize,
}

type Done = Result<Answer, Failure>;

impl Run<'_> {
    /// Runs a node. Boxed: nodes call nodes.
    fn node(&self, at: usize, input: Bytes) -> futures::future::BoxFuture<'_, Done> {
        Box::pin(async move {
            let node = &self.graph.nodes[at];
            match node.router {
                RouterType::Sequence => self.sequence(at, input).await,
                RouterType::Ensemble => {
                    let calls = (0..node.steps.len()).map(|step| self.step(at, step, input.clone()));
                    merge::merge(&node.steps, try_join_all(calls).await?)
                }
                RouterType::Splitter | RouterType::Switch => {
                    let chosen = step::one_of(node, &input, rand::random_range(0..100))?;
                    self.step(at, chosen, input).await
                }
            }
        })
    }

    async fn sequence(&self, at: usize, request: Bytes) -> Done {
        let mut previous: Option<Answer> = None;
        for (place, step) in self.graph.nodes[at].steps.iter().enumerate() {
            let sent = match step::next(step, &request, previous.as_ref())? {
                Next::Send(body) => body,
                Next::End => return Ok(Answer::ok(previous.unwrap_or_else(|| Answer::ok("")).body)),
            };
            let answer = self.step(at, place, sent).await?;
            if step::stops(step, &answer) {
                return Ok(answer);
            }
            previous = Some(answer);
        }
        Ok(previous.unwrap_or_else(|| Answer::ok("")))
    }

    async fn step(&self, node: usize, step: usize, body: Bytes) -> Done {
        let failed = |cause: String| Failure::internal(format!("{}: {cause}", step::name_step(self.graph, node, step)));
        let call = async {
            match &self.graph.nodes[node].steps[step].target {
                Target::Node(next) => return self.node(*next, body).await.map_err(Failure::nested),
                Target::Service(name) => self.service(name, body).await,
                Target::Url(url) => self.url(url, body).await,
            }
            .map(|reply| Answer { status: reply.status, body: reply.body })
            .map_err(failed)
        };
        let limit = match self.graph.nodes[node].steps[step].target {
            Target::Node(_) => None,
            _ => self.graph.step_timeout,
        };
        in_time(limit, call)
            .await
            .unwrap_or_else(|limit| Err(failed(format!("no answer within {} s", limit.as_secs()))))
    }

    async fn service(&self, name: &str, body: Bytes) -> Result<Reply, String> {
        let key = ServiceKey::new(self.route.key.namespace.clone(), name);
        let found = self.worker.with_desks(|desks| desks.of_service(&key));
        let (target, desk) = found.ok_or_else(|| format!("Failed to find graph service {name}"))?;
        let route = target.service.components.get(&target.component);
        let path = route.and_then(|route| route.extras.predict_path.clone()).ok_or_else(|| {
            format!("service {name}: the runtime does not support a protocol compatible with Inference Graphs")
        })?;
        let path =
            PathAndQuery::try_from(&*path).map_err(|_| format!("service {name} has no path that can be called"))?;
        let host = HeaderValue::try_from(format!("{name}.{}.svc.cluster.local", key.namespace)).ok();
        let call = self.call(target, desk, host, path, body);
        inner::post(self.worker, self.client, call, &self.space).await.map_err(|error| error.to_string())
    }

    async fn url(&self, written: &str, body: Bytes) -> Result<Reply, String> {
        let url = Url::parse(written).map_err(|error| format!("`{written}` is no URL: {error}"))?;
        let host = url.host_str().unwrap_or_default();
        let is_own = self.worker.outside.is_own(&url);
        let found = self.worker.with_desks(|desks| {
            let route = desks.index.by_url(host, is_own, url.path());
            route.map(|route| (desks.of(&route), route))
        });
        match found {
            None => {
                let sent = self.worker.outside.post(&url, self.headers.clone(), body, &self.space).await;
                sent.map_err(|error| chain(&error))
            }
            Some((Some(desk), Route::To(target))) => {
                let whole = url[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
                let path = PathAndQuery::try_from(whole).map_err(|_| format!("`{written}` cannot be called"))?;
                let host = HeaderValue::from_str(host).ok();
                let call = self.call(target, desk, host, path, body);
                inner::post(self.worker, self.client, call, &self.space).await.map_err(|error| error.to_string())
            }
            Some((_, Route::Graph(route))) => self.graph(&route, body).await,
            Some((_, Route::Miss(miss))) => {
                let refusal = self.worker.with_desks(|desks| Refusal::miss(&miss, desks.index.table()));
                Ok(Reply::refused(refusal))
            }
            Some(_) => {
                Err(format!("`{written}` names no service; write a service's host or /serving/<namespace>/<name>/"))
            }
        }
    }

    fn call(
        &self,
        target: ServiceTarget,
        desk: Arc<Desk>,
        host: Option<HeaderValue>,
        path: PathAndQuery,
        body: Bytes,
    ) -> Call {
        let headers = self.headers.clone();
        Call { target, desk, host, method: Method::POST, path, headers, body, is_plain: false }
    }

    /// Another graph, by its URL.
    async fn graph(&self, route: &GraphRoute, body: Bytes) -> Result<Reply, String> {
        if self.deep + 1 >= MOST_GRAPHS_DEEP {
            return Err(format!("{MOST_GRAPHS_DEEP} graphs call each other, which looks like a circle"));
        }
        let graph = match graph_of(route) {
            Ok(graph) => graph,
            Err(refusal) => return Ok(Reply::refused(*refusal)),
        };
        let run = Run {
            worker: self.worker,
            client: self.client,
            route,
            graph,
            headers: self.headers.clone(),
            space: self.worker.whole.open(),
            deep: self.deep + 1,
        };
        let limit = graph.timeout;
        let done = in_time(limit, run.node(graph.root, body)).await;
        let done =
            done.map_err(|limit| format!("graph `{}` did not answer within {} s", route.key, limit.as_secs()))?;
        let (parts, body) = response(done).into_parts();
        Ok(Reply { status: parts.status, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_passed_on_as_upstreams_patterns_say() {
        let patterns = ["Authorization", "Test-Header-*", "*Trace-Id*", "^Exact$", "x-lower"].map(str::to_owned);
        let propagate = Propagate::new(&patterns);
        let mut headers = HeaderMap::new();
        for name in ["authorization", "test-header-7", "my-trace-id", "exact", "inexact", "x-lower", "x-request-id"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("9"));
        let mut names: Vec<_> = propagate.of(&headers).keys().map(|name| name.as_str().to_owned()).collect();
        names.sort_unstable();
        // Names are matched in canonical form and case matters, so that `x-lower` matches nothing; `*Trace-Id*` is no
        // expression.
        assert_eq!(names, ["authorization", "content-type", "exact", "test-header-7", "x-request-id"]);
    }
}
