//! One load in the making: what the files say now, against what was good before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};

use super::admit;
use super::load::{BUILT_IN, FileProblems};
use super::published::Published;
use super::scan::{self, FoundFile, Signature};
use super::settle::Missing;
use crate::api::{Object, ObjectKey};
use crate::manifest::{self, Decoded, Diagnostic, DiagnosticCode, Severity};
use crate::plan::Now;
use crate::store::Origin;

/// Objects that were taken, each with where it comes from.
pub(super) type Found = BTreeMap<ObjectKey, (Object, Origin)>;

/// What is known from one load to the next.
#[derive(Default)]
pub(super) struct State {
    /// What the ConfigMap of settings says.
    pub(super) published: Published,
    /// What each file said when it was last read.
    pub(super) read: HashMap<Utf8PathBuf, ReadFile>,
    /// The last good objects, by key.
    pub(super) good: Found,
    pub(super) missing: Missing,
    /// False until the folder was read once.
    pub(super) began: bool,
}

/// A file as it was read.
#[derive(Clone)]
pub(super) struct ReadFile {
    signature: Signature,
    read_at: SystemTime,
    decoded: Arc<Decoded>,
}

/// One load in the making.
#[derive(Default)]
pub(super) struct Pass {
    pub(super) objects: Found,
    pub(super) problems: Vec<FileProblems>,
    /// Objects that a file may still mean although it says them badly.
    pub(super) excused: BTreeSet<ObjectKey>,
    pub(super) again_in: Option<Duration>,
}

impl Pass {
    /// Takes what one file says.
    pub(super) fn take(&mut self, state: &mut State, file: &FoundFile) {
        let own = |good: &Found| -> Vec<ObjectKey> {
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
    pub(super) fn refuse_rivals(&mut self, state: &State) {
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
    pub(super) fn keep_what_is_missing(&mut self, state: &mut State, gone: &BTreeSet<ObjectKey>, now: Now) {
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
fn share(decoded: &mut Decoded, good: &Found) {
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
