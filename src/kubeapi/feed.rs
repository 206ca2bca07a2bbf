//! One way to list and follow everything that is served, whoever owns it.
//!
//! Desired objects have their history in the store. Pods and events have none of their own: a [`Board`] compares what
//! there is with what it last saw, whenever somebody looks, and numbers the differences.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::resource::Resource;
use super::server::Api;
use super::{events, ingress, pods, views};
use crate::api::{ConditionStatus, Kind, Typed, meta};
use crate::plan::pods::PodView;
use crate::store::{ChangeKind, Snapshot, Stored, TooOld};

/// Changes a board keeps.
const BOARD_LIMIT: usize = 4_000;
/// How often what has no bell of its own is looked at for watchers.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// One change, as a watcher sees it.
#[derive(Clone, Debug)]
pub struct FeedChange {
    /// Version after it.
    pub version: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// The object as the API shows it; its last state for a deletion.
    pub object: Arc<Value>,
}

/// Lists and follows one resource.
#[derive(Clone)]
pub struct Feed {
    api: Arc<Api>,
    resource: Resource,
}

impl Feed {
    /// Makes the feed of a resource.
    pub fn new(api: Arc<Api>, resource: Resource) -> Self {
        Self { api, resource }
    }

    /// Returns every object of the resource, and the version they are of.
    pub fn list(&self) -> (u64, Vec<Arc<Value>>) {
        let Resource::Object(kind) = self.resource else { return self.board().list() };
        let snapshot = self.api.state.store.snapshot();
        let objects = snapshot.list(kind, None).map(|stored| Arc::new(self.show(stored))).collect();
        (snapshot.version, objects)
    }

    /// Returns one object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let Resource::Object(kind) = self.resource else {
            let key = (namespace.to_owned(), name.to_owned());
            return self.board().get(&key);
        };
        let key = crate::api::ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        self.api.state.store.snapshot().get(&key).map(|stored| Arc::new(self.show(stored)))
    }

    /// Returns the changes after `version`, and the version to continue from.
    ///
    /// # Errors
    /// `version` is not within what is remembered.
    pub fn since(&self, version: u64) -> Result<(u64, Vec<FeedChange>), TooOld> {
        let Resource::Object(kind) = self.resource else { return self.board().since(version) };
        let newest = self.api.state.store.snapshot().version;
        if version > newest {
            return Err(TooOld { requested: version, oldest: newest });
        }
        let changes = self.api.state.store.changes_since(version)?;
        let next = changes.last().map_or(version, |change| change.version);
        let own = changes.into_iter().filter(|change| change.stored.object.key.kind == kind);
        let to_change = |change: crate::store::Change| FeedChange {
            version: change.version,
            kind: change.kind,
            object: Arc::new(self.show(&change.stored)),
        };
        Ok((next, own.map(to_change).collect()))
    }

    /// Returns what rings when there may be something new.
    pub fn bell(&self) -> FeedBell {
        match self.resource {
            Resource::Object(_) => FeedBell::Store(self.api.state.store.subscribe()),
            Resource::Pods => FeedBell::Pods(self.api.state.pods.clone()),
            _ => FeedBell::Clock,
        }
    }

    /// Returns a stored object as the API shows it, with who wrote which field.
    fn show(&self, stored: &Stored) -> Value {
        let mut value = to_value(stored);
        let managed = self.api.managers.get(&stored.object.meta.uid);
        if !managed.is_null() {
            value["metadata"]["managedFields"] = managed;
        }
        value
    }

    /// Brings the board of a resource without history up to date, and returns it.
    fn board(&self) -> &Board {
        let board = self.api.board(self.resource);
        let snapshot = self.api.state.store.snapshot();
        let pods = Arc::clone(&self.api.state.pods.borrow());
        board.update(match self.resource {
            Resource::Events => {
                self.api.state.events.list().iter().map(|event| events::to_value(event, &snapshot)).collect()
            }
            Resource::Deployments => views::deployments(&snapshot, &pods),
            Resource::ReplicaSets => views::replica_sets(&snapshot, &pods),
            Resource::Services => {
                let doors = ingress::services(self.api.state.gateway_address, self.api.born);
                views::services(&snapshot).into_iter().chain(doors).collect()
            }
            Resource::Nodes => vec![views::node(self.api.born)],
            Resource::Pods | Resource::Object(_) => {
                let doors = ingress::pods(self.api.state.gateway_address, self.api.born);
                pods.iter().map(|pod| pods::to_value(pod, &snapshot)).chain(doors).collect()
            }
        });
        board
    }
}

/// Rings when there may be something new in a feed.
pub enum FeedBell {
    /// The store changed.
    Store(watch::Receiver<Arc<Snapshot>>),
    /// The pods changed.
    Pods(watch::Receiver<Arc<Vec<Arc<PodView>>>>),
    /// It is time to look.
    Clock,
}

impl FeedBell {
    /// Waits for the next ring. Never returns once the owner of the feed is gone; the caller's own end ends the wait.
    pub async fn rung(&mut self) {
        let gone = match self {
            Self::Store(receiver) => receiver.changed().await.is_err(),
            Self::Pods(receiver) => receiver.changed().await.is_err(),
            Self::Clock => {
                tokio::time::sleep(LOOK_PERIOD).await;
                false
            }
        };
        if gone {
            std::future::pending::<()>().await;
        }
    }
}

/// Returns a stored object as the API shows it.
pub fn to_value(stored: &Stored) -> Value {
    let mut value = stored.to_value();
    // The core kinds have no generation in Kubernetes.
    if stored.object.key.kind.group().is_empty()
        && let Some(metadata) = value["metadata"].as_object_mut()
    {
        metadata.shift_remove("generation");
    }
    match (&stored.object.typed, stored.object.key.kind) {
        (Typed::Secret(secret), _) => {
            if let (Some(root), Ok(data)) = (value.as_object_mut(), serde_json::to_value(&secret.data)) {
                root.shift_remove("stringData");
                root.insert("data".to_owned(), data);
                root.entry("type").or_insert_with(|| json!("Opaque"));
            }
        }
        (Typed::TrainedModel(model), _) => label_trained(&mut value, &model.inference_service, stored),
        (_, Kind::Namespace) => value["status"] = json!({"phase": "Active"}),
        // A claim is bound from the start: it is a folder.
        (_, Kind::PersistentVolumeClaim) => value["status"] = json!({"phase": "Bound"}),
        _ => {}
    }
    value
}

/// Labels a TrainedModel as KServe does: with its service, and with the one whose memory it has a share of (§7.1).
fn label_trained(value: &mut Value, service: &str, stored: &Stored) {
    let available = stored.status.as_ref().and_then(|status| status.condition("MemoryResourceAvailable"));
    let allocated = available.is_some_and(|available| available.status == ConditionStatus::True);
    let labels = &mut value["metadata"]["labels"];
    labels[meta::PARENT_LABEL] = json!(service);
    match allocated {
        true => labels[meta::ALLOCATED_LABEL] = json!(service),
        false => drop(labels.as_object_mut().and_then(|labels| labels.shift_remove(meta::ALLOCATED_LABEL))),
    }
}

/// Numbers the changes of things that have no history of their own.
#[derive(Debug)]
pub struct Board(Mutex<BoardState>);

#[derive(Debug)]
struct BoardState {
    rows: BTreeMap<(String, String), Row>,
    changes: VecDeque<FeedChange>,
    version: u64,
    floor: u64,
}

/// One thing: as it came, and with its version.
#[derive(Debug)]
struct Row {
    bare: Value,
    shown: Arc<Value>,
}

impl Board {
    /// Makes an empty board whose versions begin after `version`.
    pub fn new(version: u64) -> Self {
        let (rows, changes) = (BTreeMap::new(), VecDeque::new());
        Self(Mutex::new(BoardState { rows, changes, version, floor: version }))
    }

    /// Takes note of what there is now.
    pub fn update(&self, values: Vec<Value>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut state.rows);
        let mut now = BTreeMap::new();
        for bare in values {
            let key = key_of(&bare);
            let row = match before.remove(&key) {
                Some(row) if row.bare == bare => row,
                Some(_) => state.record(ChangeKind::Modified, bare),
                None => state.record(ChangeKind::Added, bare),
            };
            now.insert(key, row);
        }
        for row in before.into_values() {
            state.record(ChangeKind::Deleted, row.bare);
        }
        state.rows = now;
    }

    fn list(&self) -> (u64, Vec<Arc<Value>>) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.version, state.rows.values().map(|row| Arc::clone(&row.shown)).collect())
    }

    fn get(&self, key: &(String, String)) -> Option<Arc<Value>> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.rows.get(key).map(|row| Arc::clone(&row.shown))
    }

    fn since(&self, version: u64) -> Result<(u64, Vec<FeedChange>), TooOld> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if version < state.floor || version > state.version {
            return Err(TooOld { requested: version, oldest: state.floor });
        }
        let start = state.changes.partition_point(|change| change.version <= version);
        Ok((state.version, state.changes.range(start..).cloned().collect()))
    }
}

impl BoardState {
    fn record(&mut self, kind: ChangeKind, bare: Value) -> Row {
        self.version += 1;
        let mut shown = bare.clone();
        shown["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let shown = Arc::new(shown);
        self.changes.push_back(FeedChange { version: self.version, kind, object: Arc::clone(&shown) });
        while self.changes.len() > BOARD_LIMIT {
            if let Some(dropped) = self.changes.pop_front() {
                self.floor = dropped.version;
            }
        }
        Row { bare, shown }
    }
}

/// Returns namespace and name of an object.
pub fn key_of(object: &Value) -> (String, String) {
    let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (field("namespace"), field("name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Condition, InferenceServiceStatus};
    use crate::store::Origin;

    #[test]
    fn trained_models_are_labelled_with_their_service_and_with_the_room_they_have() {
        let text = "apiVersion: serving.kserve.io/v1alpha1\nkind: TrainedModel\nmetadata: {name: rose, labels: {mine: x}}\nspec: {inferenceService: shelf, model: {framework: sklearn, storageUri: 's3://b/rose', memory: 1Mi}}\n";
        let object = Arc::new(crate::manifest::decode("rose.yaml", text).objects.remove(0).object);
        let labels = |available: Option<ConditionStatus>| {
            let condition = |status| Condition::new("MemoryResourceAvailable", status, "", "");
            let status = available.map(|status| InferenceServiceStatus {
                conditions: vec![condition(status)],
                ..InferenceServiceStatus::default()
            });
            let object = Arc::clone(&object);
            let stored = Stored { object, origin: Origin::Implied, resource_version: 1, status, kept: None };
            to_value(&stored)["metadata"]["labels"].clone()
        };
        let waits = json!({"mine": "x", "inferenceservice": "shelf"});
        assert_eq!(labels(None), waits);
        assert_eq!(labels(Some(ConditionStatus::False)), waits);
        let allocated = "serving.kserve.io/trainedmodel-allocated";
        let has_room = json!({"mine": "x", "inferenceservice": "shelf", allocated: "shelf"});
        assert_eq!(labels(Some(ConditionStatus::True)), has_room);
    }

    fn pod(name: &str, phase: &str) -> Value {
        json!({"metadata": {"namespace": "a", "name": name}, "status": {"phase": phase}})
    }

    #[test]
    fn a_board_numbers_differences_only() {
        let board = Board::new(100);
        board.update(vec![pod("x", "Pending"), pod("y", "Running")]);
        board.update(vec![pod("x", "Pending"), pod("y", "Running")]);
        let (version, rows) = board.list();
        assert_eq!((version, rows.len()), (102, 2));
        board.update(vec![pod("x", "Running")]);
        let (next, changes) = board.since(version).unwrap();
        let kinds: Vec<_> = changes.iter().map(|change| (change.kind, key_of(&change.object).1)).collect();
        assert_eq!(kinds, [(ChangeKind::Modified, "x".to_owned()), (ChangeKind::Deleted, "y".to_owned())]);
        assert_eq!(next, 104);
        assert!(board.since(99).is_err() && board.since(105).is_err());
    }
}
