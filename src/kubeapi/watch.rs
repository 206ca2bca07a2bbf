//! Watches: what changes, one JSON document a line, until the caller or its deadline ends it.
//!
//! ```text
//! version absent or 0 ──▶ ADDED for all that is there ──▶ live
//! sendInitialEvents   ──▶ ADDED for all, BOOKMARK "initial-events-end" ──▶ live
//! version N           ──▶ changes after N ──▶ live          (410 when N is not remembered)
//! ```

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use super::failure::Failure;
use super::feed::{Feed, FeedBell, FeedChange, key_of};
use super::objects::{Call, table_options};
use super::query::Query;
use super::resource::Resource;
use super::selector::{FieldSelector, LabelSelector};
use super::server::Api;
use super::table;
use crate::store::ChangeKind;

/// Between two bookmarks.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);

/// Which objects of a resource are meant.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The resource.
    pub resource: Resource,
    /// One namespace, or all.
    pub namespace: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Scope {
    /// Reads the selectors of a query.
    ///
    /// # Errors
    /// A selector cannot be read.
    pub fn new(resource: Resource, namespace: Option<String>, query: &Query) -> Result<Self, Failure> {
        Ok(Self { resource, namespace, labels: query.labels()?, fields: query.fields(resource)? })
    }

    /// Whether an object is meant.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_fields(object) && self.labels.matches(object)
    }

    fn matches_fields(&self, object: &Value) -> bool {
        let own = self.namespace.as_deref().is_none_or(|wanted| object["metadata"]["namespace"] == wanted);
        own && self.fields.matches(object)
    }
}

/// Answers a watch.
///
/// # Errors
/// The version to start from is not remembered, or a parameter cannot be read.
pub fn answer(api: &Arc<Api>, scope: Scope, call: &Call) -> Result<Response, Failure> {
    let query = &call.query;
    let initial = query.flag("sendInitialEvents")?;
    if initial && query.get("resourceVersionMatch") != Some("NotOlderThan") {
        return Err(Failure::bad_request("sendInitialEvents requires resourceVersionMatch=NotOlderThan"));
    }
    let from = query.number("resourceVersion")?.filter(|version| *version > 0 && !initial);
    let deadline = query.number("timeoutSeconds")?.map(deadline_in);
    let feed = api.feed(scope.resource);
    let mut watcher = Watcher {
        api: Arc::clone(api),
        bell: feed.bell(),
        feed,
        scope,
        format: table::is_wanted(&call.accept).then(|| table_options(api, call)),
        version: 0,
        visible: HashMap::new(),
        queue: VecDeque::new(),
        bookmarks: query.flag("allowWatchBookmarks")?.then(bookmark_clock),
        deadline,
        ended: false,
    };
    match from {
        Some(version) => watcher.resume(version)?,
        None => watcher.begin(initial),
    }
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((Ok::<_, Infallible>(line), watcher))
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
}

fn deadline_in(seconds: u64) -> Instant {
    // A day is for ever here, and keeps the sum from overflowing.
    Instant::now() + Duration::from_secs(seconds.min(86_400))
}

fn bookmark_clock() -> tokio::time::Interval {
    let mut clock = tokio::time::interval_at(Instant::now() + BOOKMARK_PERIOD, BOOKMARK_PERIOD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}

struct Watcher {
    api: Arc<Api>,
    feed: Feed,
    bell: FeedBell,
    scope: Scope,
    format: Option<table::TableOptions>,
    /// Everything up to here was seen.
    version: u64,
    /// What the caller was told is there, by namespace and name.
    visible: HashMap<(String, String), bool>,
    queue: VecDeque<Bytes>,
    bookmarks: Option<tokio::time::Interval>,
    deadline: Option<Instant>,
    ended: bool,
}

impl Watcher {
    /// Starts with everything that is there.
    fn begin(&mut self, announce_end: bool) {
        let (version, objects) = self.feed.list();
        self.version = version;
        for object in objects.iter().filter(|object| self.scope.matches(object)) {
            self.visible.insert(key_of(object), true);
            let line = self.line("ADDED", object);
            self.queue.push_back(line);
        }
        if announce_end {
            let line = self.bookmark(json!({"k8s.io/initial-events-end": "true"}));
            self.queue.push_back(line);
        }
    }

    /// Starts after a version.
    fn resume(&mut self, version: u64) -> Result<(), Failure> {
        self.version = version;
        self.catch_up().map_err(Failure::expired)
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.queue.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            if let Some(line) = self.wait().await {
                return Some(line);
            }
        }
    }

    /// Waits for something to say; fills the queue, or returns a line, or ends the watch.
    async fn wait(&mut self) -> Option<Bytes> {
        let stop = self.api.stop.clone();
        // Every arm is safe to lose: a bell carries no data, and the clocks go on.
        tokio::select! {
            () = self.bell.rung() => {
                if let Err(message) = self.catch_up() {
                    self.ended = true;
                    return Some(event("ERROR", &Failure::expired(message).to_value()));
                }
                None
            }
            () = tick(&mut self.bookmarks) => Some(self.bookmark(json!({}))),
            () = until(self.deadline) => { self.ended = true; None }
            () = stop.cancelled() => { self.ended = true; None }
        }
    }

    fn catch_up(&mut self) -> Result<(), String> {
        let (version, changes) = self
            .feed
            .since(self.version)
            .map_err(|too_old| format!("too old resource version: {} ({})", too_old.requested, too_old.oldest))?;
        for change in changes {
            if let Some(kind) = self.judge(&change) {
                let line = self.line(kind, &change.object);
                self.queue.push_back(line);
            }
        }
        self.version = version;
        Ok(())
    }

    /// Says what a change is to this watcher: an object that stops matching is deleted to it.
    fn judge(&mut self, change: &FeedChange) -> Option<&'static str> {
        let key = key_of(&change.object);
        let known = self.visible.get(&key).copied();
        let was = match (change.kind, known) {
            (_, Some(known)) => known,
            (ChangeKind::Added, None) => false,
            // Not seen since the watch began after some version: its labels then are not known.
            (ChangeKind::Modified, None) => self.scope.matches_fields(&change.object),
            (ChangeKind::Deleted, None) => self.scope.matches(&change.object),
        };
        let is = change.kind != ChangeKind::Deleted && self.scope.matches(&change.object);
        if change.kind == ChangeKind::Deleted {
            self.visible.remove(&key);
        } else {
            self.visible.insert(key, is);
        }
        match (was, is) {
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
            (false, false) => None,
        }
    }

    fn line(&self, kind: &str, object: &Arc<Value>) -> Bytes {
        match self.format {
            None => event(kind, object),
            Some(mut options) => {
                options.now = (self.api.state.clock)();
                let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                event(kind, &table::table(self.scope.resource, std::slice::from_ref(object), version, options))
            }
        }
    }

    fn bookmark(&self, annotations: Value) -> Bytes {
        let resource = self.scope.resource;
        let version = self.version.to_string();
        if let Some(options) = self.format {
            return event("BOOKMARK", &table::table(resource, &[], &version, options));
        }
        let mut metadata = json!({"resourceVersion": version, "creationTimestamp": null});
        if annotations.as_object().is_some_and(|map| !map.is_empty()) {
            metadata["annotations"] = annotations;
        }
        let object = json!({"kind": resource.kind(), "apiVersion": resource.api_version(), "metadata": metadata});
        event("BOOKMARK", &object)
    }
}

fn event(kind: &str, object: &Value) -> Bytes {
    let mut line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}");
    line.push('\n');
    Bytes::from(line)
}

async fn tick(clock: &mut Option<tokio::time::Interval>) {
    match clock {
        Some(clock) => drop(clock.tick().await),
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
