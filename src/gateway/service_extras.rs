//! What the proxy does for a request besides forwarding it: on a cluster the agent's sidecar does it, in this order: log,
//! batch, model (§5.6). Services that ask for none of it never come here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;

use crate::workload::{ComponentKey, Extras, Mirroring};

use super::batch::{self, Form};
use super::batcher::{self, Asked};
use super::body::{AnswerBody, RequestBody};
use super::flight::Client;
use super::forward::{Exchange, Refused};
use super::headers;
use super::inner::{self, Call};
use super::payload::{Context, Event, Side};
use super::payload_post::is_marked;
use super::route::Target;
use super::tap::{Copy, Tap};
use super::worker::{Front, Worker, own};

/// Who gets copies of a request and of its answer.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    /// On the request's body.
    pub(crate) request: Option<Box<Tap>>,
    /// On the answer's body, if its status is 200.
    answer: Option<AnswerTap>,
}

/// Makes the tap of an answer once its head is known.
#[derive(Debug)]
struct AnswerTap {
    worker: Arc<Worker>,
    context: Arc<Context>,
}

impl Taps {
    /// Returns the tap of an answer with this head. Only 200 is logged, as upstream.
    pub(crate) fn of_answer(&mut self, status: StatusCode, headers: &HeaderMap) -> Option<Box<Tap>> {
        let AnswerTap { worker, context } = self.answer.take().filter(|_| status == StatusCode::OK)?;
        let content_type = headers.get(header::CONTENT_TYPE).cloned();
        let limit = worker.config.max_payload;
        Some(Tap::new(limit, move |copy| log(&worker, &context, Side::Response, content_type, copy)))
    }
}

/// What is to be known of a request.
pub(crate) struct Head<'a> {
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    /// As it is forwarded.
    pub(crate) path: &'a PathAndQuery,
}

/// Who watches a request, before it is known how it is answered.
struct Watch {
    context: Option<Arc<Context>>,
    mirror: Option<Mirror>,
}

impl Watch {
    fn new(worker: &Arc<Worker>, client: &Arc<Client>, target: &Target, extras: &Extras, head: &Head<'_>) -> Self {
        let component = ComponentKey { service: target.service.key.clone(), component: target.component };
        let is_event = is_marked(head.headers);
        let context =
            extras.logging.as_ref().filter(|_| !is_event).map(|logging| {
                Arc::new(Context::new(logging, component, head.method, head.headers, head.path.as_str()))
            });
        let mirroring = extras.mirroring.as_ref().filter(|mirroring| rand::random_range(0..100) < mirroring.percent);
        let mirror = mirroring.map(|mirroring| Mirror::new(worker, client, mirroring, head));
        Self { context, mirror }
    }

    fn is_idle(&self) -> bool {
        self.context.is_none() && self.mirror.is_none()
    }

    /// The request's body has been seen.
    fn asked(
        context: Option<&(Arc<Worker>, Arc<Context>)>,
        headers: Option<HeaderValue>,
        mirror: Option<Mirror>,
        copy: Copy,
    ) {
        if let Some(mirror) = mirror {
            mirror.send(&copy);
        }
        if let Some((worker, context)) = context.filter(|(_, context)| context.logging.requests) {
            log(worker, context, Side::Request, headers, copy);
        }
    }

    fn into_taps(self, worker: &Arc<Worker>, headers: &HeaderMap) -> Option<Box<Taps>> {
        if self.is_idle() {
            return None;
        }
        let content_type = headers.get(header::CONTENT_TYPE).cloned();
        let logged = self.context.clone().map(|context| (Arc::clone(worker), context));
        let mirror = self.mirror;
        let request =
            Tap::new(worker.config.max_payload, move |copy| Self::asked(logged.as_ref(), content_type, mirror, copy));
        let answer = self.context.filter(|context| context.logging.responses);
        let answer = answer.map(|context| AnswerTap { worker: Arc::clone(worker), context });
        Some(Box::new(Taps { request: Some(request), answer }))
    }
}

fn log(worker: &Worker, context: &Arc<Context>, side: Side, content_type: Option<HeaderValue>, copy: Copy) {
    worker.payload_log.send(Event::new(context, side, content_type, copy));
}

/// Returns who watches a request of our own.
pub(crate) fn taps(
    worker: &Arc<Worker>,
    client: &Arc<Client>,
    target: &Target,
    extras: &Extras,
    head: &Head<'_>,
) -> Option<Box<Taps>> {
    Watch::new(worker, client, target, extras, head).into_taps(worker, head.headers)
}

/// Answers a client's request to a service that asks for more than forwarding.
pub(crate) async fn run(
    mut exchange: Exchange<'_>,
    extras: Extras,
    client: Arc<Client>,
    request: Box<Request<Incoming>>,
    front: Front,
) -> Refused<Response<AnswerBody>> {
    let path = exchange.forwarded_path(request.uri())?;
    let head = Head { method: request.method(), headers: request.headers(), path: &path };
    let form = extras.batching.as_ref().and_then(|b| batcher::form(b, head.method, head.headers, path.path()));
    let Some(form) = form else {
        if headers::wanted_upgrade(request.headers()).is_none() {
            exchange.taps = taps(exchange.worker, &client, &exchange.target, &extras, &head);
        }
        return exchange.run(request, front).await;
    };
    let (parts, body) = request.into_parts();
    let space = exchange.worker.whole.open();
    let pace = (parts.version == Version::HTTP_2).then(|| exchange.worker.config.pace());
    let body = space.read(RequestBody::new(front, body, Arc::default(), pace)).await?;
    let head = Head { method: &parts.method, headers: &parts.headers, path: &path };
    match batched(exchange.worker, &client, (&exchange.target, &exchange.desk), &extras, form, &head, &body).await? {
        Some(response) => {
            let flight = exchange.flight.take();
            flight.map(|flight| own(response, flight)).ok_or_else(super::walk::no_flight)
        }
        None => {
            exchange.taps = taps(exchange.worker, &client, &exchange.target, &extras, &head);
            exchange.run_whole(Request::from_parts(parts, body)).await
        }
    }
}

/// Answers a request by a batch; none when it cannot be part of one and is to go alone.
///
/// # Errors
/// It is no prediction, or the batch was lost.
pub(crate) async fn batched(
    worker: &Arc<Worker>,
    client: &Arc<Client>,
    (target, desk): (&Target, &Arc<super::desk::Desk>),
    extras: &Extras,
    form: Form,
    head: &Head<'_>,
    body: &Bytes,
) -> Refused<Option<Response<Bytes>>> {
    let Some(batching) = &extras.batching else { return Ok(None) };
    let part = match batch::part(form, body) {
        Ok(part) => part,
        Err(_) if form == Form::V2 => return Ok(None),
        Err(error) => return Ok(Some(plain(StatusCode::BAD_REQUEST, &error.to_string()))),
    };
    let Watch { context, mirror } = Watch::new(worker, client, target, extras, head);
    let logged = context.map(|context| (Arc::clone(worker), context));
    let content_type = head.headers.get(header::CONTENT_TYPE).cloned();
    Watch::asked(logged.as_ref(), content_type, mirror, Copy::of(body.clone()));
    let target = Target { strip: 0, ..target.clone() };
    let asked = Asked { worker, client, target: &target, desk, form, path: head.path.clone(), part };
    let response = batcher::predict(batching, asked).await?;
    if let Some((worker, context)) = logged.filter(|(_, context)| context.logging.responses)
        && response.status() == StatusCode::OK
    {
        let content_type = response.headers().get(header::CONTENT_TYPE).cloned();
        log(&worker, &context, Side::Response, content_type, Copy::of(response.body().clone()));
    }
    Ok(Some(response))
}

/// As upstream's batcher answers what it cannot read.
fn plain(status: StatusCode, message: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{message}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A prediction goes to the model of the other service, whose name is likely another. Other paths stay as they are.
fn path_at(target: &Target, path: &str) -> Option<String> {
    let theirs = target.extras()?.predict_path.as_deref()?;
    let same = |end: &str| path.ends_with(end) && theirs.ends_with(end);
    (same(":predict") || same("/infer")).then(|| theirs.to_owned())
}

/// A copy of a request on its way to another service, whose answer nobody waits for.
struct Mirror {
    worker: Arc<Worker>,
    client: Arc<Client>,
    mirroring: Arc<Mirroring>,
    method: Method,
    headers: HeaderMap,
    path: PathAndQuery,
}

impl Mirror {
    fn new(worker: &Arc<Worker>, client: &Arc<Client>, mirroring: &Arc<Mirroring>, head: &Head<'_>) -> Self {
        let mut headers = head.headers.clone();
        headers::strip_hop_by_hop(&mut headers);
        headers.remove(header::EXPECT);
        Self {
            worker: Arc::clone(worker),
            client: client.on_behalf(),
            mirroring: Arc::clone(mirroring),
            method: head.method.clone(),
            headers,
            path: head.path.clone(),
        }
    }

    /// Sends the copy, unless there are as many under way as may be.
    fn send(self, copy: &Copy) {
        let metrics = Arc::clone(&self.worker.metrics);
        let permit = Arc::clone(&self.worker.mirrors).try_acquire_owned();
        let found = self.worker.with_desks(|desks| desks.of_service(&self.mirroring.to));
        // Without a runtime everything is being closed.
        let (Ok(permit), Some((target, desk)), false, Ok(_)) =
            (permit, found, copy.is_cut, tokio::runtime::Handle::try_current())
        else {
            metrics.mirrors_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let path = path_at(&target, self.path.path()).and_then(|path| PathAndQuery::try_from(path).ok());
        let call = Call {
            target,
            desk,
            host: None,
            method: self.method,
            path: path.unwrap_or(self.path),
            headers: self.headers,
            body: copy.concat(),
            is_plain: true,
        };
        let (worker, client) = (self.worker, self.client);
        let tasks = worker.tasks.clone();
        tasks.spawn_droppable("mirror", async move {
            let space = worker.whole.open();
            match inner::post(&worker, &client, call, &space).await {
                Ok(reply) if reply.status.is_success() => metrics.mirrors_sent.fetch_add(1, Ordering::Relaxed),
                _ => metrics.mirrors_failed.fetch_add(1, Ordering::Relaxed),
            };
            drop(permit);
        });
    }
}
