//! Request batching (§5.5): predictions that come within a moment of each other go to the model as one request.
//!
//! On a cluster the agent's sidecar does this. A batch is opened by the first request, goes off when it is full or its time
//! has come, in a task of its own, so that no client that leaves takes the others with it. How this differs from KServe's
//! batcher, and why, is in `docs/decisions/0020-the-batcher.md`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde_json::json;
use tokio::sync::oneshot;

use crate::store::random_uid;
use crate::workload::{Batching, ComponentKey};

use super::batch::{self, Form, Part};
use super::desk::Desk;
use super::flight::Client;
use super::forward::Refused;
use super::inner::{self, Call, Reply};
use super::refusal::Refusal;
use super::route::{Tag, Target};
use super::worker::Worker;

/// Batches that are being filled. Shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Batcher {
    open: Mutex<HashMap<Key, Open>>,
    count: AtomicU64,
}

/// Requests of one key go together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    component: ComponentKey,
    /// Only a revision of its own: others may not answer.
    tag: Option<Tag>,
    path: String,
    alike: String,
}

#[derive(Debug)]
struct Open {
    number: u64,
    members: Vec<Member>,
    count: usize,
    /// Takes the batch to its task when it is full.
    full: oneshot::Sender<Vec<Member>>,
}

#[derive(Debug)]
struct Member {
    part: Part,
    answer: oneshot::Sender<(StatusCode, Bytes)>,
}

/// A request for a batch.
pub(crate) struct Asked<'a> {
    pub(crate) worker: &'a Arc<Worker>,
    pub(crate) client: &'a Arc<Client>,
    pub(crate) target: &'a Target,
    pub(crate) desk: &'a Arc<Desk>,
    pub(crate) form: Form,
    pub(crate) path: PathAndQuery,
    pub(crate) part: Part,
}

/// Says in which form a request could be part of a batch, if at all.
pub(crate) fn form(batching: &Batching, method: &Method, headers: &HeaderMap, path: &str) -> Option<Form> {
    let is_infer = || path.starts_with("/v2/models/") && path.ends_with("/infer") && *method == Method::POST;
    if path.ends_with(":predict") {
        Some(Form::V1)
    } else if batching.v2 && is_infer() && !headers.contains_key("inference-header-content-length") {
        Some(Form::V2)
    } else {
        None
    }
}

/// Puts a request into a batch and waits for its part of the answer.
pub(crate) async fn predict(batching: &Arc<Batching>, asked: Asked<'_>) -> Refused<Response<Bytes>> {
    let key = Key {
        component: ComponentKey { service: asked.target.service.key.clone(), component: asked.target.component },
        tag: asked.target.tag.clone(),
        path: asked.path.to_string(),
        alike: asked.part.alike.clone(),
    };
    let (answer, answered) = oneshot::channel();
    let member = Member { part: asked.part.clone(), answer };
    if let Some((number, full)) = asked.worker.batcher.join(batching, &key, member) {
        send_off(batching, &asked, key, number, full);
    }
    let (status, body) = answered.await.map_err(|_| {
        Box::new(Refusal::new(StatusCode::BAD_GATEWAY, "BatchLost", "the batch ended before it was answered"))
    })?;
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

impl Batcher {
    /// Adds a request to the batch of its key. Whoever opens one is told its number, and how it hears that it is full.
    fn join(&self, batching: &Batching, key: &Key, member: Member) -> Option<(u64, oneshot::Receiver<Vec<Member>>)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut opened = None;
        if !open.contains_key(key) {
            let (full, fills) = oneshot::channel();
            let number = self.count.fetch_add(1, Ordering::Relaxed);
            open.insert(key.clone(), Open { number, members: Vec::new(), count: 0, full });
            opened = Some((number, fills));
        }
        let batch = open.get_mut(key)?;
        batch.count += member.part.count;
        batch.members.push(member);
        if batch.count >= batching.max_size
            && let Some(batch) = open.remove(key)
        {
            // The task is there as long as its daemon is; without it the members are told.
            let _ = batch.full.send(batch.members);
        }
        opened
    }

    /// Takes a batch whose time has come; none when it has gone off already.
    fn take(&self, key: &Key, number: u64) -> Option<Vec<Member>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(key).is_some_and(|batch| batch.number == number) {
            return open.remove(key).map(|batch| batch.members);
        }
        None
    }
}

fn send_off(batching: &Arc<Batching>, asked: &Asked<'_>, key: Key, number: u64, full: oneshot::Receiver<Vec<Member>>) {
    let (worker, client) = (Arc::clone(asked.worker), asked.client.on_behalf());
    let (target, desk) = (asked.target.clone(), Arc::clone(asked.desk));
    let (form, path, batching) = (asked.form, asked.path.clone(), Arc::clone(batching));
    let tasks = asked.worker.tasks.clone();
    tasks.spawn_droppable("batch", async move {
        let mut full = full;
        let members = tokio::select! {
            // Whichever loses: the batch is taken out once, under the lock.
            members = &mut full => members.ok(),
            () = tokio::time::sleep(batching.max_latency) => match worker.batcher.take(&key, number) {
                Some(members) => Some(members),
                None => full.await.ok(),
            },
        };
        // Who has gone is not asked for.
        let members: Vec<Member> =
            members.unwrap_or_default().into_iter().filter(|member| !member.answer.is_closed()).collect();
        if members.is_empty() {
            return;
        }
        let parts: Vec<Part> = members.iter().map(|member| member.part.clone()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = Bytes::from(batch::join(form, &parts));
        let call = Call { target, desk, host: None, method: Method::POST, path, headers, body, is_plain: true };
        let space = worker.whole.open();
        let reply = inner::post(&worker, &client, call, &space).await.map_err(|error| error.to_string());
        let answers = answers(form, &parts, reply, batching.always_ok);
        for (member, answer) in members.into_iter().zip(answers) {
            // Who has gone meanwhile misses nothing.
            let _ = member.answer.send(answer);
        }
    });
}

/// What each member of a batch is told.
fn answers(form: Form, parts: &[Part], reply: Result<Reply, String>, always_ok: bool) -> Vec<(StatusCode, Bytes)> {
    let batch = random_uid();
    let failed = |status: StatusCode, message: &str, batch: &str| {
        let body = json!({ "message": message, "batchId": batch, "predictions": null });
        let status = if always_ok { StatusCode::OK } else { status };
        vec![(status, Bytes::from(body.to_string())); parts.len()]
    };
    match reply {
        Ok(reply) if reply.status == StatusCode::OK => match batch::share(form, parts, &reply.body, &batch) {
            Ok(shares) => shares.into_iter().map(|share| (StatusCode::OK, Bytes::from(share))).collect(),
            Err(error @ batch::NoShare::WrongCount) => failed(StatusCode::BAD_GATEWAY, &error.to_string(), &batch),
            Err(error) => failed(StatusCode::BAD_GATEWAY, &error.to_string(), ""),
        },
        // A V2 client knows the server's own error.
        Ok(reply) if form == Form::V2 => vec![(reply.status, reply.body); parts.len()],
        Ok(reply) => failed(reply.status, &String::from_utf8_lossy(&reply.body), ""),
        Err(error) => failed(StatusCode::BAD_GATEWAY, &error, ""),
    }
}
