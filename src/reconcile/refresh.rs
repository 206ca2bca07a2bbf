//! Which version of each refreshed model is in use, kept across restarts; and what its source said last.
//!
//! A version is chosen here once and stays until the source has another one, so that a restart of the daemon, or a source
//! that is away, changes nothing that runs. Services without the annotation are not touched: they stay with what they
//! have, which is what was fetched first, or what they had when the annotation was taken away.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::desk::Desk;
use super::execute::Failure;
use crate::api::{Object, StorageUri, meta};
use crate::home::{Home, write_atomically};
use crate::plan::refresh::SourceNote;
use crate::plan::{Now, World};
use crate::storage::Checked;
use crate::workload::{Refresh, Workload};

/// What is kept of one model, by its URI without a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Kept {
    /// None: what was found first.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<Timestamp>,
    /// Versions by service.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    given: BTreeMap<String, String>,
}

/// Versions in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Versions {
    kept: BTreeMap<String, Kept>,
}

impl Versions {
    /// Reads what an earlier daemon kept. A damaged file is as none: models are what was found first, then.
    pub(super) fn load(home: &Home) -> Self {
        let path = home.model_versions();
        let Ok(bytes) = std::fs::read(&path) else { return Self::default() };
        let kept = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            warn!(%path, %error, "the record of model versions is damaged and not used");
            BTreeMap::new()
        });
        Self { kept }
    }

    /// Orders that what is kept be saved.
    pub(super) fn save(&self, desk: &Desk, home: &Home) {
        let (path, kept) = (home.model_versions(), self.kept.clone());
        desk.order("versions", move || {
            let bytes = serde_json::to_vec(&kept).unwrap_or_default();
            if let Err(error) = write_atomically(&path, &bytes, 0o600) {
                warn!(%path, %error, "could not save the versions of models");
            }
        });
    }

    /// Returns the object with the versions of its models written into it; none when there are none, or when they are
    /// written there already, as in a revision that somebody went back to.
    pub(super) fn written_into(&mut self, object: &Object, workloads: &[Workload]) -> Option<Object> {
        if object.meta.annotations.contains_key(meta::MODEL_VERSIONS) {
            return None;
        }
        let service = format!("{}/{}", object.key.namespace, object.key.name);
        let mut versions: BTreeMap<String, String> = BTreeMap::new();
        for workload in workloads {
            let refreshed = !matches!(Refresh::of(&workload.annotations), Ok(Refresh::Never) | Err(_));
            for model in &workload.models {
                let uri = model.uri.unversioned().to_string();
                let Some(kept) = self.kept.get_mut(&uri) else { continue };
                if let Some(version) = kept.version.clone().filter(|_| refreshed) {
                    kept.given.insert(service.clone(), version);
                }
                versions.extend(kept.given.get(&service).map(|version| (uri, version.clone())));
            }
        }
        if versions.is_empty() {
            return None;
        }
        let text = serde_json::to_string(&versions).unwrap_or_default();
        let mut object = object.clone();
        let metadata = Arc::make_mut(&mut object.raw).as_object_mut()?.entry("metadata").or_insert_with(|| json!({}));
        let annotations = metadata.as_object_mut()?.entry("annotations").or_insert_with(|| json!({}));
        annotations.as_object_mut()?.insert(meta::MODEL_VERSIONS.to_owned(), Value::String(text.clone()));
        Arc::make_mut(&mut object.meta.annotations).insert(meta::MODEL_VERSIONS.to_owned(), text);
        Some(object)
    }

    /// Puts what is kept of the models that are wanted into the world, and forgets the others there.
    pub(super) fn note_wanted<'u>(&mut self, world: &mut World, wanted: impl Iterator<Item = &'u StorageUri>) {
        let mut sources: HashMap<StorageUri, SourceNote> = HashMap::new();
        for uri in wanted.map(StorageUri::unversioned).filter(|uri| uri.can_be_refreshed()) {
            let known = world.sources.remove(uri);
            let kept = || SourceNote {
                asked: self.kept.get(&uri.to_string()).and_then(|kept| kept.asked),
                ..SourceNote::default()
            };
            sources.entry(uri.clone()).or_insert_with(|| known.unwrap_or_else(kept));
        }
        world.sources = sources;
        self.forget(world);
    }

    /// Forgets services that are gone, and models of which nothing is known but when they were asked for. A version that
    /// is in use stays: whoever wants the model again gets no older one.
    fn forget(&mut self, world: &World) {
        let services: HashSet<String> = world.services.keys().map(ToString::to_string).collect();
        let sources: HashSet<String> = world.sources.keys().map(ToString::to_string).collect();
        self.kept.retain(|uri, kept| {
            kept.given.retain(|service, _| services.contains(service));
            kept.version.is_some() || !kept.given.is_empty() || sources.contains(uri)
        });
    }

    /// Notes what came of asking. Returns whether another version is in use from now on.
    pub(super) fn take(
        &mut self,
        world: &mut World,
        uri: &StorageUri,
        result: Result<Checked, Failure>,
        now: Now,
    ) -> bool {
        let plain = uri.unversioned();
        let note = world.sources.entry(plain.clone()).or_default();
        note.tried = now.tick;
        let checked = match result {
            Ok(checked) => checked,
            Err(failure) => {
                note.failures = note.failures.saturating_add(1);
                if note.problem != failure.message {
                    warn!(model = uri.redacted(), error = failure.message, "could not ask for something new; it stays");
                }
                note.problem = failure.message;
                return false;
            }
        };
        asked(note, now);
        let kept = self.kept.entry(plain.to_string()).or_default();
        kept.asked = Some(now.wall);
        match checked {
            Checked::Changed(version) if kept.version.as_deref() != Some(version.as_str()) => {
                info!(model = plain.redacted(), version, "the source has something new");
                kept.version = Some(version);
                true
            }
            _ => false,
        }
    }

    /// Notes that a model was fetched: there is nothing newer right now.
    pub(super) fn fetched(&mut self, world: &mut World, uri: &StorageUri, now: Now) {
        let Some(note) = world.sources.get_mut(uri.unversioned()) else { return };
        asked(note, now);
        note.tried = now.tick;
        self.kept.entry(uri.unversioned().to_string()).or_default().asked = Some(now.wall);
    }
}

fn asked(note: &mut SourceNote, now: Now) {
    *note = SourceNote { asked: Some(now.wall), asked_now: true, tried: Duration::ZERO, ..SourceNote::default() };
}
