//! The current objects.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use camino::Utf8PathBuf;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{Change, ChangeKind, History, Identity, Ledger, TooOld};
use crate::api::{InferenceServiceStatus, Kind, LocalModelCacheStatus, Object, ObjectKey, condition};

/// Changes kept for watchers, besides two of each object. Each carries the status as it was then.
const HISTORY: usize = 500;

/// Where an object came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// With the binary.
    BuiltIn,
    /// A file of the folder, and the line its document begins at.
    File {
        /// Absolute path.
        path: Utf8PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// Implied by others: a namespace that some object lives in.
    Implied,
}

/// One object with what the store knows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The object; its metadata carries uid, generation and creation time.
    pub object: Arc<Object>,
    /// Where it came from.
    pub origin: Origin,
    /// Version of the store at the object's last change.
    pub resource_version: u64,
    /// Status, for kinds that have one.
    pub status: Option<InferenceServiceStatus>,
    /// Status of kinds that keep a model.
    pub kept: Option<LocalModelCacheStatus>,
}

impl Stored {
    /// The same without what was found out about it.
    fn without_status(&self) -> Self {
        let Self { object, origin, resource_version, status: _, kept } = self;
        Self {
            object: Arc::clone(object),
            origin: origin.clone(),
            resource_version: *resource_version,
            status: None,
            kept: kept.clone(),
        }
    }

    /// Returns the object as the API shows it: as written, plus what the store gives it, plus status.
    pub fn to_value(&self) -> Value {
        let mut root = self.object.raw.as_object().cloned().unwrap_or_default();
        let meta = &self.object.meta;
        root.insert("apiVersion".to_owned(), json!(self.object.key.kind.api_version()));
        root.insert("kind".to_owned(), json!(self.object.key.kind.as_str()));
        let mut metadata = match root.get("metadata") {
            Some(Value::Object(map)) => map.clone(),
            _ => Map::new(),
        };
        metadata.insert("name".to_owned(), json!(meta.name));
        if self.object.key.kind.is_namespaced() {
            metadata.insert("namespace".to_owned(), json!(meta.namespace));
        }
        metadata.insert("uid".to_owned(), json!(meta.uid));
        metadata.insert("resourceVersion".to_owned(), json!(self.resource_version.to_string()));
        metadata.insert("generation".to_owned(), json!(meta.generation));
        if let Some(created) = meta.creation_timestamp {
            metadata.insert("creationTimestamp".to_owned(), json!(whole_seconds(created)));
        }
        root.insert("metadata".to_owned(), Value::Object(metadata));
        root.shift_remove("status");
        if let Some(status) = &self.status {
            root.insert("status".to_owned(), serde_json::to_value(status).unwrap_or_default());
        }
        if let Some(status) = &self.kept {
            root.insert("status".to_owned(), serde_json::to_value(status).unwrap_or_default());
        }
        Value::Object(root)
    }
}

/// Returns the time as the Kubernetes API writes it: UTC, whole seconds.
fn whole_seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// Every object at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By key.
    pub objects: BTreeMap<ObjectKey, Arc<Stored>>,
    /// Version of the store.
    pub version: u64,
    /// Counts changes of desired objects only; statuses do not move it.
    pub desired_version: u64,
}

impl Snapshot {
    /// Returns an object by key.
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<Stored>> {
        self.objects.get(key)
    }

    /// Returns the objects of one kind, in one namespace or in all.
    pub fn list<'s>(&'s self, kind: Kind, namespace: Option<&'s str>) -> impl Iterator<Item = &'s Arc<Stored>> {
        self.objects
            .values()
            .filter(move |stored| stored.object.key.kind == kind)
            .filter(move |stored| namespace.is_none_or(|wanted| stored.object.key.namespace == wanted))
    }
}

/// Shared by everyone; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    state: Arc<Mutex<State>>,
    latest: watch::Sender<Arc<Snapshot>>,
}

#[derive(Debug)]
struct State {
    snapshot: Snapshot,
    history: History,
    ledger: Ledger,
    /// The status that was last set of each object that is the same since.
    set: HashMap<ObjectKey, Arc<InferenceServiceStatus>>,
}

impl Store {
    /// Makes an empty store that continues the identities of `ledger`.
    pub fn new(ledger: Ledger) -> Self {
        let snapshot = Snapshot { version: ledger.version, ..Snapshot::default() };
        let history = History::new(ledger.version);
        let latest = watch::Sender::new(Arc::new(snapshot.clone()));
        Self { state: Arc::new(Mutex::new(State { snapshot, history, ledger, set: HashMap::new() })), latest }
    }

    /// Returns every object now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.latest.borrow())
    }

    /// Returns a receiver that always holds the newest snapshot.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.latest.subscribe()
    }

    /// Returns the identities, for saving.
    pub fn ledger(&self) -> Ledger {
        let state = self.lock();
        Ledger { version: state.snapshot.version, objects: state.ledger.objects.clone() }
    }

    /// Returns the changes after `version`, oldest first.
    ///
    /// # Errors
    /// The log does not reach back that far.
    pub fn changes_since(&self, version: u64) -> Result<Vec<Change>, TooOld> {
        self.lock().history.since(version)
    }

    /// Makes `desired` the whole set of objects. Objects that do not differ keep their versions and statuses.
    pub fn replace(&self, desired: Vec<(Object, Origin)>, now: Timestamp) -> Vec<Change> {
        let mut state = self.lock();
        let mut changes = Vec::new();
        let mut next = BTreeMap::new();
        for (object, origin) in desired {
            let key = object.key.clone();
            let previous = state.snapshot.objects.get(&key).cloned();
            let (mut stored, kind) = state.admit(object, origin, previous, now);
            if let Some(kind) = kind {
                state.set.remove(&key);
                let change = state.record(kind, Arc::unwrap_or_clone(stored));
                stored = Arc::clone(&change.stored);
                changes.push(change);
            }
            next.insert(key, stored);
        }
        let gone: Vec<Arc<Stored>> = state
            .snapshot
            .objects
            .iter()
            .filter(|(key, _)| !next.contains_key(*key))
            .map(|(_, s)| Arc::clone(s))
            .collect();
        for stored in gone {
            state.ledger.objects.remove(&stored.object.key.to_string());
            state.set.remove(&stored.object.key);
            changes.push(state.record(ChangeKind::Deleted, Arc::unwrap_or_clone(stored)));
        }
        let moved = next.len() != state.snapshot.objects.len()
            || next
                .iter()
                .any(|(key, stored)| state.snapshot.objects.get(key).is_none_or(|old| !Arc::ptr_eq(old, stored)));
        if moved {
            state.snapshot.objects = next;
            state.snapshot.desired_version += 1;
            self.publish(&mut state);
        }
        changes
    }

    /// Sets the status of an InferenceService, stamping condition transitions. Says whether anything changed.
    pub fn set_status(&self, key: &ObjectKey, status: InferenceServiceStatus, now: Timestamp) -> bool {
        !self.set_statuses([(key.clone(), Arc::new(status))], now).is_empty()
    }

    /// Sets several statuses as one change of the store. Returns the objects that changed, as they were and as they are.
    /// One that is the very value that was set before costs nothing.
    pub fn set_statuses(
        &self,
        statuses: impl IntoIterator<Item = (ObjectKey, Arc<InferenceServiceStatus>)>,
        now: Timestamp,
    ) -> Vec<(Arc<Stored>, Arc<Stored>)> {
        let mut state = self.lock();
        let mut changed = Vec::new();
        for (key, status) in statuses {
            if !state.has_been_set(&key, &status) {
                changed.extend(state.set_status(&key, (*status).clone(), now));
                if state.snapshot.objects.contains_key(&key) {
                    state.set.insert(key, status);
                }
            }
        }
        if !changed.is_empty() {
            self.publish(&mut state);
        }
        changed
    }

    /// Sets the statuses of objects that keep a model, as one change of the store.
    pub fn set_kept(&self, statuses: &[(ObjectKey, LocalModelCacheStatus)]) {
        let mut state = self.lock();
        let mut changed = false;
        for (key, status) in statuses {
            changed |= state.set_kept(key, status);
        }
        if changed {
            self.publish(&mut state);
        }
    }

    fn publish(&self, state: &mut State) {
        state.history.keep(HISTORY + 2 * state.snapshot.objects.len());
        self.latest.send_replace(Arc::new(state.snapshot.clone()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives an object its identity and says what changed, if anything did.
    fn admit(
        &mut self,
        mut object: Object,
        origin: Origin,
        previous: Option<Arc<Stored>>,
        now: Timestamp,
    ) -> (Arc<Stored>, Option<ChangeKind>) {
        if let Some(old) = previous.as_ref().filter(|old| Arc::ptr_eq(&old.object.raw, &object.raw)) {
            // The very document that was read before means what it meant.
            let moved = || Arc::new(Stored { origin: origin.clone(), ..(**old).clone() });
            return (if old.origin == origin { Arc::clone(old) } else { moved() }, None);
        }
        let digest = digest(&object.raw);
        let identity = self.ledger.objects.entry(object.key.to_string()).or_insert_with(|| Identity {
            uid: random_uid(),
            creation_timestamp: now,
            generation: 0,
            digest: String::new(),
        });
        if identity.digest != digest {
            identity.generation += 1;
            identity.digest = digest;
        }
        object.meta.uid.clone_from(&identity.uid);
        object.meta.generation = identity.generation;
        object.meta.creation_timestamp = Some(identity.creation_timestamp);
        match previous {
            Some(old) if *old.object == object && old.origin == origin => (old, None),
            Some(old) if *old.object == object => {
                // Moved to another file or line: nothing a watcher would see.
                (Arc::new(Stored { origin, ..(*old).clone() }), None)
            }
            Some(old) => {
                let stored = Stored { object: Arc::new(object), origin, ..(*old).clone() };
                (Arc::new(stored), Some(ChangeKind::Modified))
            }
            None => (
                Arc::new(Stored { object: Arc::new(object), origin, resource_version: 0, status: None, kept: None }),
                Some(ChangeKind::Added),
            ),
        }
    }

    /// Whether this very status was the last that was set of an object, and the object is the same since.
    fn has_been_set(&self, key: &ObjectKey, status: &Arc<InferenceServiceStatus>) -> bool {
        self.set.get(key).is_some_and(|said| Arc::ptr_eq(said, status))
    }

    /// Sets one status. Returns the object as it was and as it is when that changed.
    fn set_status(
        &mut self,
        key: &ObjectKey,
        mut status: InferenceServiceStatus,
        now: Timestamp,
    ) -> Option<(Arc<Stored>, Arc<Stored>)> {
        let current = self.snapshot.objects.get(key)?;
        let previous = current.status.as_ref().map(|old| old.conditions.as_slice()).unwrap_or_default();
        condition::stamp(previous, &mut status.conditions, now);
        status.conditions.shrink_to_fit();
        if current.status.as_ref() == Some(&status) {
            return None;
        }
        let before = Arc::clone(current);
        let next = Stored { status: Some(status), ..before.without_status() };
        let change = self.record(ChangeKind::Modified, next);
        self.snapshot.objects.insert(key.clone(), Arc::clone(&change.stored));
        Some((before, change.stored))
    }

    /// Sets the status of an object that keeps a model. Says whether it changed.
    fn set_kept(&mut self, key: &ObjectKey, status: &LocalModelCacheStatus) -> bool {
        let Some(current) = self.snapshot.objects.get(key).cloned() else { return false };
        if current.kept.as_ref() == Some(status) {
            return false;
        }
        let next = Stored { kept: Some(status.clone()), ..(*current).clone() };
        let change = self.record(ChangeKind::Modified, next);
        self.snapshot.objects.insert(key.clone(), change.stored);
        true
    }

    /// Stamps a change with the next version and logs it.
    fn record(&mut self, kind: ChangeKind, stored: Stored) -> Change {
        self.snapshot.version += 1;
        let version = self.snapshot.version;
        let stored = Arc::new(Stored { resource_version: version, ..stored });
        let change = Change { version, kind, stored };
        self.history.push(change.clone());
        change
    }
}

/// Hashes what the generation counts: everything outside `metadata` and `status`.
fn digest(raw: &Value) -> String {
    let mut counted = raw.as_object().cloned().unwrap_or_default();
    counted.shift_remove("metadata");
    counted.shift_remove("status");
    counted.sort_keys();
    let bytes = Sha256::digest(Value::Object(counted).to_string());
    bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a random version 4 UUID.
pub fn random_uid() -> String {
    let mut bits: u128 = rand::random();
    bits = bits & !(0xf000 << 64) | (0x4000 << 64);
    bits = bits & !(0xc000 << 48) | (0x8000 << 48);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Metadata, Typed};

    fn object(name: &str, replicas: i64) -> Object {
        Object {
            key: ObjectKey { kind: Kind::Namespace, namespace: String::new(), name: name.to_owned() },
            meta: Metadata { name: name.to_owned(), ..Metadata::default() },
            typed: Typed::Namespace,
            raw: Arc::new(json!({"metadata": {"name": name}, "spec": {"replicas": replicas}})),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn only_objects_that_differ_get_a_new_version() {
        let store = Store::new(Ledger::default());
        let both = |a, b| vec![(object("a", a), Origin::Implied), (object("b", b), Origin::Implied)];
        assert_eq!(store.replace(both(1, 1), at(1)).len(), 2);
        assert!(store.replace(both(1, 1), at(2)).is_empty());
        let before = store.snapshot();
        let changes = store.replace(both(1, 2), at(3));
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].kind, changes[0].stored.object.meta.generation), (ChangeKind::Modified, 2));
        let after = store.snapshot();
        let version = |snapshot: &Snapshot, name| {
            let key = ObjectKey { kind: Kind::Namespace, namespace: String::new(), name: String::from(name) };
            snapshot.get(&key).map(|s| s.resource_version)
        };
        assert_eq!(version(&before, "a"), version(&after, "a"));
        assert!(version(&before, "b") < version(&after, "b"));
    }

    #[test]
    fn identity_survives_a_restart_and_ends_with_the_object() {
        let store = Store::new(Ledger::default());
        store.replace(vec![(object("a", 1), Origin::Implied)], at(1));
        let ledger = store.ledger();
        let again = Store::new(ledger.clone());
        let changes = again.replace(vec![(object("a", 1), Origin::Implied)], at(9));
        assert_eq!(changes[0].stored.object.meta.creation_timestamp, Some(at(1)));
        assert!(changes[0].version > ledger.version, "versions never go back");
        again.replace(vec![], at(10));
        let reborn = again.replace(vec![(object("a", 1), Origin::Implied)], at(11));
        assert_eq!(reborn[0].stored.object.meta.creation_timestamp, Some(at(11)));
    }

    #[test]
    fn history_answers_too_old_instead_of_guessing() {
        let mut history = History::new(0);
        let stored = Arc::new(Stored {
            object: Arc::new(object("a", 1)),
            origin: Origin::Implied,
            resource_version: 0,
            status: None,
            kept: None,
        });
        for version in 1..=3 {
            history.push(Change { version, kind: ChangeKind::Modified, stored: Arc::clone(&stored) });
        }
        history.keep(3);
        assert_eq!(history.since(0).map(|changes| changes.len()), Ok(3));
        history.keep(2);
        assert!(history.since(0).is_err());
        assert_eq!(history.since(1).map(|c| c.len()), Ok(2));
        assert_eq!(history.since(3).map(|c| c.len()), Ok(0));
    }
}
