//! Scan, decode, validate, swap into the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::published::Published;
use super::scan::{self, FoundFile, ScanError, Signature};
use super::settle::Missing;
use super::{WriteError, admit, write};
use crate::api::{Kind, Object, ObjectKey, meta};
use crate::home::{Home, write_atomically};
use crate::manifest::{self, Decoded, Diagnostic, DiagnosticCode, Severity};
use crate::plan::Now;
use crate::runtimes::builtin;
use crate::store::{Change, Origin, Store, Stored};
use crate::telemetry::{EventLog, EventType};

/// The built-in runtimes as objects, so that they can be listed beside the user's.
static BUILT_IN: LazyLock<Vec<Object>> = LazyLock::new(|| {
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

#[derive(Default)]
struct State {
    /// What the ConfigMap of settings says.
    published: Published,
    /// What each file said when it was last read.
    read: HashMap<Utf8PathBuf, ReadFile>,
    /// The last good objects, by key.
    good: BTreeMap<ObjectKey, (Object, Origin)>,
    missing: Missing,
    /// False until the folder was read once.
    began: bool,
}

#[derive(Clone)]
struct ReadFile {
    signature: Signature,
    read_at: SystemTime,
    decoded: Arc<Decoded>,
}

/// One line of `state/last-good.json`.
#[derive(Serialize, Deserialize)]
struct GoodObject<P, R> {
    path: P,
    line: usize,
    raw: R,
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
        let state = State { good: remembered(&home), ..State::default() };
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

    fn publish(&self, state: &mut State, good: BTreeMap<ObjectKey, (Object, Origin)>, now: Now) -> Vec<Change> {
        state.began = true;
        let mut desired: BTreeMap<ObjectKey, (Object, Origin)> = implied(good.keys(), &state.published);
        for object in BUILT_IN.iter() {
            desired.insert(object.key.clone(), (object.clone(), Origin::BuiltIn));
        }
        desired.extend(good.iter().map(|(key, found)| (key.clone(), found.clone())));
        let changes = self.store.replace(desired.into_values().collect(), now.wall);
        if !changes.is_empty() || state.good.len() != good.len() {
            self.remember(&good);
        }
        state.good = good;
        changes
    }

    /// Saves the last good objects and the identities. A failure costs only what a restart would have known.
    fn remember(&self, objects: &BTreeMap<ObjectKey, (Object, Origin)>) {
        let good: Vec<GoodObject<&Utf8Path, &Value>> = objects
            .values()
            .filter_map(|(object, origin)| match origin {
                Origin::File { path, line } => {
                    Some(GoodObject { path: path.as_path(), line: *line, raw: &*object.raw })
                }
                _ => None,
            })
            .collect();
        let saves = [
            (self.home.last_good(), serde_json::to_vec(&good)),
            (self.home.objects(), serde_json::to_vec_pretty(&self.store.ledger())),
        ];
        for (path, bytes) in saves {
            let saved = bytes.map_err(std::io::Error::other).and_then(|bytes| write_atomically(&path, &bytes, 0o600));
            if let Err(error) = saved {
                tracing::warn!(%path, %error, "could not save state");
            }
        }
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

/// One load in the making.
#[derive(Default)]
struct Pass {
    objects: BTreeMap<ObjectKey, (Object, Origin)>,
    problems: Vec<FileProblems>,
    /// Objects that a file may still mean although it says them badly.
    excused: BTreeSet<ObjectKey>,
    again_in: Option<Duration>,
}

impl Pass {
    /// Takes what one file says.
    fn take(&mut self, state: &mut State, file: &FoundFile) {
        let own = |good: &BTreeMap<ObjectKey, (Object, Origin)>| -> Vec<ObjectKey> {
            let from_here = |origin: &Origin| matches!(origin, Origin::File { path, .. } if *path == file.path);
            good.iter().filter(|(_, (_, origin))| from_here(origin)).map(|(key, _)| key.clone()).collect()
        };
        let decoded = match decoded(state, file) {
            Ok(decoded) => decoded,
            // It went after the folder was listed, and is missing like any other that went.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                let kept = own(&state.good);
                self.excused.extend(kept.iter().cloned());
                let diagnostic = file_error(&file.path, format!("could not read the file: {error}"));
                self.problems.push(FileProblems { path: file.path.clone(), diagnostics: vec![diagnostic], kept });
                return;
            }
        };
        let mut diagnostics = decoded.diagnostics.clone();
        let mut kept = Vec::new();
        for found in &decoded.objects {
            let key = found.object.key.clone();
            if let Some((_, Origin::File { path, line })) = self.objects.get(&key) {
                diagnostics.push(duplicate(&file.path, found, path, *line));
                continue;
            }
            let old = state.good.get(&key).filter(|(old, _)| *old != found.object);
            let refused = old.map(|(old, _)| admit::refused_change(&file.path, found, old)).unwrap_or_default();
            if !refused.is_empty() {
                diagnostics.extend(refused);
                kept.push(key);
                continue;
            }
            let origin = Origin::File { path: file.path.clone(), line: found.position.line.max(1) };
            self.objects.insert(key, (found.object.clone(), origin));
        }
        for failed in &decoded.failed {
            match failed {
                Some(key) if state.good.contains_key(key) => kept.push(key.clone()),
                Some(_) => {}
                None => kept.extend(own(&state.good)),
            }
        }
        self.excused.extend(kept.iter().cloned());
        kept.retain(|key| !self.objects.contains_key(key));
        if !diagnostics.is_empty() {
            self.problems.push(FileProblems { path: file.path.clone(), diagnostics, kept });
        }
    }

    /// Takes out runtimes that are new or changed and would be chosen as well as another: the last good version stays.
    fn refuse_rivals(&mut self, state: &State) {
        let is_new = |object: &Object| state.good.get(&object.key).is_none_or(|(old, _)| old != object);
        let runtimes = self.objects.values().map(|(object, _)| object);
        let mut unjudged: BTreeSet<ObjectKey> = runtimes
            .filter(|object| object.as_serving_runtime().is_some() && is_new(object))
            .map(|object| object.key.clone())
            .collect();
        while let Some(key) = unjudged.first().cloned() {
            let built_in = BUILT_IN.iter().filter(|object| !self.objects.contains_key(&object.key));
            let judged = self.objects.iter().filter(|(other, _)| !unjudged.contains(*other));
            let others = built_in.chain(judged.map(|(_, (object, _))| object));
            let refused = self.objects.get(&key).and_then(|(_, origin)| {
                let Origin::File { path, .. } = origin else { return None };
                let read = state.read.get(path)?;
                let found = read.decoded.objects.iter().find(|found| found.object.key == key)?;
                Some((path.clone(), admit::refused_beside(path, found, others)))
            });
            unjudged.remove(&key);
            if let Some((path, diagnostics)) = refused.filter(|(_, diagnostics)| !diagnostics.is_empty()) {
                self.objects.remove(&key);
                let kept: Vec<ObjectKey> = state.good.contains_key(&key).then(|| key.clone()).into_iter().collect();
                self.excused.insert(key);
                self.add_problems(path, diagnostics, kept);
            }
        }
    }

    fn add_problems(&mut self, path: Utf8PathBuf, diagnostics: Vec<Diagnostic>, kept: Vec<ObjectKey>) {
        match self.problems.iter_mut().find(|file| file.path == path) {
            Some(file) => {
                file.diagnostics.extend(diagnostics);
                file.kept.extend(kept);
            }
            None => self.problems.push(FileProblems { path, diagnostics, kept }),
        }
    }

    /// Objects that were good and are in no file now: kept when a file says them badly, given a moment when they may
    /// come back, deleted otherwise.
    fn keep_what_is_missing(&mut self, state: &mut State, gone: &BTreeSet<ObjectKey>, now: Now) {
        for key in self.objects.keys() {
            state.missing.found(key);
        }
        let absent: Vec<(ObjectKey, (Object, Origin))> = state
            .good
            .iter()
            .filter(|(key, _)| !self.objects.contains_key(*key) && !gone.contains(*key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for (key, value) in absent {
            if self.excused.contains(&key) {
                self.objects.insert(key, value);
                continue;
            }
            // Files that went while nobody watched are gone for good.
            if !state.began {
                continue;
            }
            if let Err(left) = state.missing.is_deleted(&key, now.tick) {
                self.objects.insert(key, value);
                self.again_in = Some(self.again_in.map_or(left, |known| known.min(left)));
            }
        }
    }
}

/// Returns what a file says, reading it only when it may have changed.
fn decoded(state: &mut State, file: &FoundFile) -> std::io::Result<Arc<Decoded>> {
    if let Some(known) = state.read.get(&file.path)
        && known.signature == file.signature
        && settled(known)
    {
        return Ok(Arc::clone(&known.decoded));
    }
    let read_at = wall_clock();
    let text = scan::read(&file.path)?;
    let mut decoded = manifest::decode(file.path.as_str(), &text);
    share(&mut decoded, &state.good);
    let decoded = Arc::new(decoded);
    let read = ReadFile { signature: file.signature.clone(), read_at, decoded: Arc::clone(&decoded) };
    state.read.insert(file.path.clone(), read);
    Ok(decoded)
}

/// Takes the copy that is kept already of each object that says what it said before: of two copies of everything one is
/// let go file by file, and not when the whole folder is read.
fn share(decoded: &mut Decoded, good: &BTreeMap<ObjectKey, (Object, Origin)>) {
    for found in &mut decoded.objects {
        if let Some((old, _)) = good.get(&found.object.key).filter(|(old, _)| *old == found.object) {
            found.object = old.clone();
        }
    }
}

/// Whether the file had rested long enough when it was read: clocks of file systems are coarse, and a second write in
/// the same instant would look the same.
fn settled(known: &ReadFile) -> bool {
    let modified = known.signature.modified.unwrap_or(SystemTime::UNIX_EPOCH);
    known.read_at.duration_since(modified).is_ok_and(|rested| rested > Duration::from_millis(100))
}

#[expect(clippy::disallowed_methods, reason = "compared with file times, which are wall-clock times")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

fn file_error(path: &Utf8Path, message: String) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: DiagnosticCode::Syntax,
        file: path.to_string(),
        position: None,
        field: None,
        object: None,
        message,
        help: None,
    }
}

fn duplicate(path: &Utf8Path, found: &manifest::DecodedObject, other: &Utf8Path, line: usize) -> Diagnostic {
    let key = &found.object.key;
    Diagnostic {
        code: DiagnosticCode::DuplicateField,
        position: Some(found.position),
        object: Some(key.clone()),
        help: Some("keep one of the two, or give this one another name".to_owned()),
        ..file_error(path, format!("{key} is already defined at {other}:{line}"))
    }
}

/// Returns what is there without being written: namespaces that something lives in or that Kubernetes always has, the
/// `default` ServiceAccount of each, and KServe's settings, which its SDK reads.
fn implied<'k>(
    keys: impl Iterator<Item = &'k ObjectKey>,
    published: &Published,
) -> BTreeMap<ObjectKey, (Object, Origin)> {
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

/// Reads the last good objects of an earlier daemon. A file that cannot be read is as none.
fn remembered(home: &Home) -> BTreeMap<ObjectKey, (Object, Origin)> {
    let Ok(bytes) = std::fs::read(home.last_good()) else { return BTreeMap::new() };
    let good: Vec<GoodObject<Utf8PathBuf, Value>> = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(path = %home.last_good(), %error, "the record of last good objects is damaged and not used");
        Vec::new()
    });
    let decode = |saved: GoodObject<Utf8PathBuf, Value>| {
        let found = manifest::decode_value(&saved.raw).objects.into_iter().next()?;
        let origin = Origin::File { path: saved.path, line: saved.line };
        Some((found.object.key.clone(), (found.object, origin)))
    };
    good.into_iter().filter_map(decode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_says_what_it_said_before_is_kept_once() {
        let read = |value: &str| {
            let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{a: {value}}}\n");
            manifest::decode("c.yaml", &text)
        };
        let kept = read("b").objects.remove(0).object;
        let good = BTreeMap::from([(kept.key.clone(), (kept.clone(), Origin::Implied))]);
        for (value, same) in [("b", true), ("c", false)] {
            let mut decoded = read(value);
            share(&mut decoded, &good);
            assert_eq!(Arc::ptr_eq(&decoded.objects[0].object.raw, &kept.raw), same);
            assert_eq!(decoded, read(value));
        }
    }

    #[test]
    fn a_file_that_went_after_the_folder_was_listed_is_missing_and_not_unreadable() {
        let signature = Signature { modified: None, length: 0, inode: 0 };
        let file = FoundFile { path: "/nowhere/at/all.yaml".into(), signature };
        let mut pass = Pass::default();
        pass.take(&mut State::default(), &file);
        assert_eq!(pass.problems, []);
    }
}
