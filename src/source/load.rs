//! Scan, decode, validate, swap into the store.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};

use super::pass::{Found, Pass, State};
use super::published::Published;
use super::scan::{self, ScanError};
use super::{WriteError, good, write};
use crate::api::{Kind, Object, ObjectKey, meta};
use crate::home::Home;
use crate::manifest::{self, Diagnostic, Severity};
use crate::plan::Now;
use crate::runtimes::builtin;
use crate::store::{Change, Origin, Store, Stored};
use crate::telemetry::{EventLog, EventType};

/// The built-in runtimes as objects, so that they can be listed beside the user's.
pub(super) static BUILT_IN: LazyLock<Vec<Object>> = LazyLock::new(|| {
    let decoded = builtin::FILES.iter().map(|(name, text)| manifest::decode(name, text));
    decoded.flat_map(|decoded| decoded.objects).map(|found| found.object).collect()
});

/// What there is to say about one file now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblems {
    /// Absolute path.
    pub path: Utf8PathBuf,
    /// Errors and warnings, in order of position.
    pub diagnostics: Vec<Diagnostic>,
    /// Objects whose last good version is kept although the file no longer says it well.
    pub kept: Vec<ObjectKey>,
}

/// What a load did.
#[derive(Debug, Default)]
pub struct LoadReport {
    /// Objects that changed.
    pub changes: Vec<Change>,
    /// When to look again although nothing happened: something is missing and may come back.
    pub again_in: Option<Duration>,
    /// The folder could not be read; nothing was changed.
    pub error: Option<ScanError>,
}

/// Reads the folder into the store, and writes to it. Cheap to clone.
#[derive(Clone)]
pub struct Loader {
    inner: Arc<Inner>,
}

struct Inner {
    home: Home,
    store: Store,
    events: EventLog,
    clock: Box<dyn Fn() -> Now + Send + Sync>,
    problems: ArcSwap<Vec<FileProblems>>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("home", &self.inner.home).finish_non_exhaustive()
    }
}

impl Loader {
    /// Makes a loader. Objects that were good when the last daemon ended are known at once, so that a file that was
    /// broken meanwhile takes nothing down.
    pub fn new(home: Home, store: Store, events: EventLog, clock: impl Fn() -> Now + Send + Sync + 'static) -> Self {
        let state = State { good: good::read(&home), ..State::default() };
        let inner = Inner {
            home,
            store,
            events,
            clock: Box::new(clock),
            problems: ArcSwap::default(),
            state: Mutex::new(state),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Sets what the ConfigMap `inferenceservice-config` says, from the next load on.
    pub fn publish(&self, published: Published) {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner).published = published;
    }

    /// Reads the whole folder and makes it the desired state.
    pub async fn load(&self) -> LoadReport {
        self.blocking(|inner| inner.load(&BTreeSet::new())).await.unwrap_or_default()
    }

    /// Creates or replaces an object: writes its file, reads the folder again, and returns the object as stored.
    ///
    /// # Errors
    /// The object is invalid (nothing was written), or the folder cannot be written.
    pub async fn put(&self, raw: &Value) -> Result<Arc<Stored>, WriteError> {
        let raw = raw.clone();
        self.blocking(move |inner| inner.put(&raw)).await.unwrap_or_else(|| Err(WriteError::Invalid(Vec::new())))
    }

    /// Deletes an object: removes its document (and its file when it was the only one), reads the folder again, and
    /// returns the object's last state.
    ///
    /// # Errors
    /// No such object, one that came with the binary, or the folder cannot be written.
    pub async fn delete(&self, key: &ObjectKey) -> Result<Arc<Stored>, WriteError> {
        let key = key.clone();
        let missing = WriteError::NotFound(key.clone());
        self.blocking(move |inner| inner.delete(&key)).await.unwrap_or(Err(missing))
    }

    /// Returns what there is to say about the files now, worst first.
    pub fn problems(&self) -> Arc<Vec<FileProblems>> {
        self.inner.problems.load_full()
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> T + Send + 'static) -> Option<T> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::error!(error = %error, "reading the folder failed");
                None
            }
        }
    }
}

impl Inner {
    fn put(&self, raw: &Value) -> Result<Arc<Stored>, WriteError> {
        let decoded = manifest::decode_value(raw);
        let errors: Vec<Diagnostic> =
            decoded.diagnostics.into_iter().filter(|found| found.severity == Severity::Error).collect();
        let Some(object) = decoded.objects.into_iter().next().filter(|_| errors.is_empty()) else {
            return Err(WriteError::Invalid(errors));
        };
        let object = object.object;
        let key = object.key.clone();
        let existing = self.store.snapshot().get(&key).cloned();
        if let Some(existing) = &existing {
            let broken = manifest::validate::validate_update(&existing.object, &object);
            if !broken.is_empty() {
                return Err(WriteError::Invalid(broken));
            }
        }
        let snapshot = self.store.snapshot();
        let rivals =
            manifest::validate::rivals(&object, snapshot.objects.values().map(|stored| stored.object.as_ref()));
        if !rivals.is_empty() {
            return Err(WriteError::Invalid(rivals));
        }
        let path = write::put(&self.home, &key, raw, existing.as_deref())?;
        self.load(&BTreeSet::new());
        let stored = self.store.snapshot().get(&key).cloned();
        stored.ok_or_else(|| WriteError::Io {
            path,
            source: std::io::Error::other("the file was written and does not show up in the folder"),
        })
    }

    fn delete(&self, key: &ObjectKey) -> Result<Arc<Stored>, WriteError> {
        let existing = self.store.snapshot().get(key).cloned().ok_or_else(|| WriteError::NotFound(key.clone()))?;
        write::remove(key, &existing)?;
        self.load(&BTreeSet::from([key.clone()]));
        Ok(existing)
    }

    /// Loads the folder; objects in `gone` are known to be deleted on purpose.
    fn load(&self, gone: &BTreeSet<ObjectKey>) -> LoadReport {
        let now = (self.clock)();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let files = match scan::scan(&[self.home.services(), self.home.runtimes()]) {
            Ok(files) => files,
            Err(error) => return self.keep_everything(&mut state, error, now),
        };
        let there: BTreeSet<&Utf8Path> = files.iter().map(|file| file.path.as_path()).collect();
        state.read.retain(|path, _| there.contains(path.as_path()));
        let mut pass = Pass::default();
        for file in &files {
            pass.take(&mut state, file);
        }
        pass.refuse_rivals(&state);
        pass.keep_what_is_missing(&mut state, gone, now);
        let changes = self.publish(&mut state, pass.objects, now);
        self.tell(pass.problems, now);
        LoadReport { changes, again_in: pass.again_in, error: None }
    }

    fn keep_everything(&self, state: &mut State, error: ScanError, now: Now) -> LoadReport {
        if !state.began {
            // The first look: what was good last time stays desired.
            let good = std::mem::take(&mut state.good);
            let changes = self.publish(state, good, now);
            return LoadReport { changes, error: Some(error), again_in: Some(Duration::from_secs(2)) };
        }
        LoadReport { error: Some(error), again_in: Some(Duration::from_secs(2)), ..LoadReport::default() }
    }

    fn publish(&self, state: &mut State, good: Found, now: Now) -> Vec<Change> {
        state.began = true;
        let mut desired: Found = implied(good.keys(), &state.published);
        for object in BUILT_IN.iter() {
            desired.insert(object.key.clone(), (object.clone(), Origin::BuiltIn));
        }
        desired.extend(good.iter().map(|(key, found)| (key.clone(), found.clone())));
        let changes = self.store.replace(desired.into_values().collect(), now.wall);
        if !changes.is_empty() || state.good.len() != good.len() {
            good::save(&self.home, &good, &self.store);
        }
        state.good = good;
        changes
    }

    /// Publishes the problems and says each new one once.
    fn tell(&self, problems: Vec<FileProblems>, now: Now) {
        let before = self.problems.load_full();
        let before: HashMap<&Utf8Path, &FileProblems> = before.iter().map(|old| (old.path.as_path(), old)).collect();
        for file in &problems {
            let known = before.get(file.path.as_path());
            for diagnostic in &file.diagnostics {
                if known.is_some_and(|old| old.diagnostics.contains(diagnostic)) {
                    continue;
                }
                let help = diagnostic.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
                let words = format!("{diagnostic}{help}");
                if diagnostic.severity == Severity::Error {
                    tracing::warn!("{words}");
                } else {
                    tracing::info!("{words}");
                }
                // What cannot be told apart is told of every object whose last good version is kept.
                let about = diagnostic.object.iter().chain(file.kept.iter().filter(|_| diagnostic.object.is_none()));
                for object in about {
                    let reason = match diagnostic.severity {
                        Severity::Error => "InvalidManifest",
                        Severity::Warning => "ManifestWarning",
                    };
                    self.events.record(object, EventType::Warning, reason, &words, now.wall);
                }
            }
        }
        self.problems.store(Arc::new(problems));
    }
}

/// Returns what is there without being written: namespaces that something lives in or that Kubernetes always has, the
/// `default` ServiceAccount of each, and KServe's settings, which its SDK reads.
fn implied<'k>(keys: impl Iterator<Item = &'k ObjectKey>, published: &Published) -> Found {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for key in keys {
        names.insert(if key.kind == Kind::Namespace { key.name.clone() } else { key.namespace.clone() });
    }
    names.remove("");
    names.extend([meta::DEFAULT_NAMESPACE, meta::SYSTEM_NAMESPACE, "kube-system"].map(str::to_owned));
    let mut raws = vec![published.config_map()];
    for name in names {
        raws.push(json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name},
        }));
        raws.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    }
    let objects = raws.iter().flat_map(|raw| manifest::decode_value(raw).objects);
    objects.map(|found| (found.object.key.clone(), (found.object, Origin::Implied))).collect()
}
