//! Documents to objects.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::identify::{Identity, identify};
use super::locate::Located;
use super::manifests::{
    InferenceGraphManifest, InferenceServiceManifest, LlmInferenceServiceManifest, LocalModelCacheManifest,
    LocalModelNodeGroupManifest, ServingRuntimeManifest, StorageContainerManifest, TrainedModelManifest,
};
use super::path::FieldPath;
use super::report::Report;
use super::{Diagnostic, DiagnosticCode, Position, defaults, schema, strict, validate, yaml};
use crate::api::{Kind, Metadata, Object, ObjectKey, StorageContainer, Typed, meta};

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// Documents that are valid, defaults applied. Their warnings are among the diagnostics.
    pub objects: Vec<DecodedObject>,
    /// Everything there is to say, in order of position.
    pub diagnostics: Vec<Diagnostic>,
    /// Documents that are not valid: the object each was meant to be, as far as it can be told. `None` means that any
    /// object of the file may have been meant (for example a syntax error), so none of the previous ones may be dropped.
    /// A document of a kind that is not ours is not among them: no object of ours was meant.
    pub failed: Vec<Option<ObjectKey>>,
}

/// One valid document.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedObject {
    /// The object.
    pub object: Object,
    /// Where its document begins.
    pub position: Position,
}

/// Decodes a manifest file: YAML or JSON, any number of documents, `List` kinds expanded.
pub fn decode(file: &str, text: &str) -> Decoded {
    let mut decoding = Decoding { file, ..Decoding::default() };
    for document in yaml::parse(text) {
        decoding.document(&document);
    }
    decoding.finish()
}

/// Returns where a field of a document stands, or the nearest one above it that is written. For findings that only show
/// once the object is resolved.
pub fn locate(text: &str, document: Position, field: &str) -> Option<Position> {
    let found = yaml::parse(text).into_iter().find(|found| found.start == document)?;
    let located = found.located?;
    let node = located.nearest(&FieldPath::parse(field));
    Some(node.key.unwrap_or(node.value))
}

/// Names every object that a text means, valid or not; `None` for one that is not ours or cannot be told. A list counts as
/// one that cannot be told, before its items.
pub fn keys(text: &str) -> Vec<Option<ObjectKey>> {
    let mut keys = Vec::new();
    for document in yaml::parse(text) {
        match document.value.as_ref().map(|value| (value, list_items(value))) {
            None => keys.push(None),
            Some((list, Some(items))) => {
                keys.push(None);
                keys.extend(items.iter().map(|item| meant(&with_list_type(list, item))));
            }
            Some((value, None)) => keys.push(meant(value)),
        }
    }
    keys
}

/// Names the object a value is meant to be, when it is one of ours.
fn meant(value: &Value) -> Option<ObjectKey> {
    match identify(value, &FieldPath::default(), &mut Report::new("", None, None)) {
        Identity::Ours(kind) | Identity::Meant(kind) => key_of(kind, value),
        Identity::Foreign | Identity::Unknown => None,
    }
}

/// Decodes one document that came as a JSON value (an API body); diagnostics carry field paths but no positions.
pub fn decode_value(value: &Value) -> Decoded {
    let mut decoding = Decoding::default();
    decoding.part(&Part { value, ..Part::default() });
    decoding.finish()
}

/// An object's text: a document, or an item of a list in one.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    value: &'a Value,
    located: Option<&'a Located>,
    start: Option<Position>,
    problems: &'a [yaml::Problem],
}

impl Default for Part<'_> {
    fn default() -> Self {
        Self { value: &Value::Null, located: None, start: None, problems: &[] }
    }
}

#[derive(Debug, Default)]
struct Decoding<'a> {
    file: &'a str,
    decoded: Decoded,
    seen: HashMap<ObjectKey, Option<Position>>,
}

impl Decoding<'_> {
    fn document(&mut self, document: &yaml::Document) {
        let start = Some(document.start);
        let Some(value) = &document.value else {
            let mut report = Report::new(self.file, None, start);
            document.problems.iter().for_each(|problem| report.problem(problem));
            return self.fail(report, Some(None));
        };
        let located = document.located.as_ref();
        self.part(&Part { value, located, start, problems: &document.problems });
    }

    fn part(&mut self, part: &Part<'_>) {
        match list_items(part.value) {
            Some(items) => self.list(part, items),
            None => self.object(part),
        }
    }

    fn list(&mut self, part: &Part<'_>, items: &[Value]) {
        if !part.problems.is_empty() {
            let mut report = Report::new(self.file, part.located, part.start);
            part.problems.iter().for_each(|problem| report.problem(problem));
            return self.fail(report, Some(None));
        }
        for (index, item) in items.iter().enumerate() {
            let located = part.located.and_then(|node| node.find(&FieldPath::of(&["items"]).index(index)));
            let start = located.map(|node| node.value).or(part.start);
            let value = with_list_type(part.value, item);
            self.object(&Part { value: &value, located, start, problems: &[] });
        }
    }

    fn object(&mut self, part: &Part<'_>) {
        let mut report = Report::new(self.file, part.located, part.start);
        let root = FieldPath::default();
        if !part.value.is_object() {
            report.error(
                &root,
                DiagnosticCode::Syntax,
                "a document must be a mapping with apiVersion, kind and metadata",
            );
            part.problems.iter().for_each(|problem| report.problem(problem));
            return self.fail(report, Some(None));
        }
        let identity = identify(part.value, &root, &mut report);
        let kind = match identity {
            Identity::Ours(kind) | Identity::Meant(kind) => kind,
            Identity::Foreign => return self.fail(report, None),
            Identity::Unknown => {
                part.problems.iter().for_each(|problem| report.problem(problem));
                return self.fail(report, Some(None));
            }
        };
        let key = key_of(kind, part.value);
        report.about(key.clone().or_else(|| Some(nameless(kind))));
        part.problems.iter().for_each(|problem| report.problem(problem));
        if let Identity::Meant(_) = identity {
            return self.fail(report, Some(key));
        }
        let object = read_object(kind, part.value, &mut report);
        self.check_twice(key.as_ref(), part.start, &mut report);
        match (object, report.has_errors()) {
            (Some(object), false) => {
                self.decoded.diagnostics.extend(report.into_diagnostics());
                self.decoded.objects.push(DecodedObject { object, position: part.start.unwrap_or_default() });
            }
            _ => self.fail(report, Some(key)),
        }
    }

    fn check_twice(&mut self, key: Option<&ObjectKey>, start: Option<Position>, report: &mut Report<'_>) {
        let Some(key) = key else { return };
        match self.seen.get(key) {
            None => {
                self.seen.insert(key.clone(), start);
            }
            Some(first) => {
                let place = first.map(|first| format!("; first at line {}", first.line)).unwrap_or_default();
                let path = FieldPath::of(&["metadata", "name"]);
                report.error(&path, DiagnosticCode::Invalid, format!("{key} stands twice in this file{place}"));
                report.help("rename or remove one of the two");
            }
        }
    }

    fn fail(&mut self, report: Report<'_>, failed: Option<Option<ObjectKey>>) {
        self.decoded.diagnostics.extend(report.into_diagnostics());
        self.decoded.failed.extend(failed);
    }

    fn finish(mut self) -> Decoded {
        self.decoded.diagnostics.sort_by_key(|diagnostic| diagnostic.position);
        self.decoded.objects.shrink_to_fit();
        self.decoded
    }
}

/// Returns the items when a document is a list: `v1` List, or one of our kinds' own lists.
fn list_items(value: &Value) -> Option<&[Value]> {
    let kind = value.get("kind")?.as_str()?;
    let element = kind.strip_suffix("List")?;
    let known = element.is_empty() || Kind::ALL.iter().any(|kind| kind.as_str() == element);
    value.get("items").filter(|_| known)?.as_array().map(Vec::as_slice)
}

/// Items of a typed list may leave their type to the list.
fn with_list_type(list: &Value, item: &Value) -> Value {
    let mut item = item.clone();
    let kind = list.get("kind").and_then(Value::as_str).and_then(|kind| kind.strip_suffix("List"));
    let api_version = list.get("apiVersion").and_then(Value::as_str);
    if let (Some(map), Some(kind), Some(api_version)) = (item.as_object_mut(), kind, api_version)
        && !kind.is_empty()
    {
        map.entry("apiVersion").or_insert_with(|| api_version.into());
        map.entry("kind").or_insert_with(|| kind.into());
    }
    item
}

/// Names the object a document is meant to be.
fn key_of(kind: Kind, value: &Value) -> Option<ObjectKey> {
    let metadata = value.get("metadata")?;
    let name = metadata.get("name")?.as_str().filter(|name| !name.is_empty())?;
    let namespace = metadata.get("namespace").and_then(Value::as_str).filter(|namespace| !namespace.is_empty());
    Some(ObjectKey { kind, namespace: namespace_of(kind, namespace), name: name.to_owned() })
}

fn nameless(kind: Kind) -> ObjectKey {
    ObjectKey { kind, namespace: namespace_of(kind, None), name: String::new() }
}

fn namespace_of(kind: Kind, written: Option<&str>) -> String {
    match written {
        _ if !kind.is_namespaced() => String::new(),
        Some(namespace) => namespace.to_owned(),
        None => meta::DEFAULT_NAMESPACE.to_owned(),
    }
}

fn read_object(kind: Kind, value: &Value, report: &mut Report<'_>) -> Option<Object> {
    let (written, mut typed) = read_typed(kind, value, report)?;
    let mut metadata = to_metadata(kind, &written, value, report);
    defaults::normalise_mode(&mut metadata);
    validate::check(kind, &metadata, &typed, value, report);
    if report.has_errors() {
        return None;
    }
    defaults::apply(&mut metadata, &mut typed);
    let key = ObjectKey { kind, namespace: metadata.namespace.clone(), name: metadata.name.clone() };
    Some(Object { key, meta: metadata, typed, raw: Arc::new(compact(value)) })
}

/// Copies a value into no more room than it takes: documents are kept for as long as they are in the folder, and a map that
/// is cloned has room for more.
fn compact(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut copy = Map::with_capacity(map.len());
            copy.extend(map.iter().map(|(key, value)| (key.clone(), compact(value))));
            Value::Object(copy)
        }
        Value::Array(items) => Value::Array(items.iter().map(compact).collect()),
        other => other.clone(),
    }
}

fn read_typed(kind: Kind, value: &Value, report: &mut Report<'_>) -> Option<(ObjectMeta, Typed)> {
    Some(match kind {
        Kind::InferenceService => {
            let manifest: InferenceServiceManifest = read(value, report)?;
            (manifest.metadata, Typed::InferenceService(Arc::new(manifest.spec)))
        }
        Kind::ServingRuntime | Kind::ClusterServingRuntime => {
            let manifest: ServingRuntimeManifest = read(value, report)?;
            (manifest.metadata, Typed::ServingRuntime(Arc::new(manifest.spec)))
        }
        Kind::Secret => {
            let secret: core::Secret = read(value, report)?;
            (secret.metadata.clone(), Typed::Secret(Arc::new(secret)))
        }
        Kind::ServiceAccount => {
            let account: core::ServiceAccount = read(value, report)?;
            (account.metadata.clone(), Typed::ServiceAccount(Arc::new(account)))
        }
        Kind::ConfigMap => {
            let map: core::ConfigMap = read(value, report)?;
            (map.metadata.clone(), Typed::ConfigMap(Arc::new(map)))
        }
        Kind::Namespace => (read::<core::Namespace>(value, report)?.metadata, Typed::Namespace),
        Kind::InferenceGraph => {
            let manifest: InferenceGraphManifest = read(value, report)?;
            (manifest.metadata, Typed::InferenceGraph(Arc::new(manifest.spec)))
        }
        Kind::TrainedModel => {
            let manifest: TrainedModelManifest = read(value, report)?;
            (manifest.metadata, Typed::TrainedModel(Arc::new(manifest.spec)))
        }
        Kind::ClusterStorageContainer => {
            let manifest: StorageContainerManifest = read(value, report)?;
            let container = StorageContainer { disabled: manifest.disabled.unwrap_or(false), spec: manifest.spec };
            (manifest.metadata, Typed::StorageContainer(Arc::new(container)))
        }
        Kind::LocalModelCache | Kind::LocalModelNamespaceCache => {
            let manifest: LocalModelCacheManifest = read(value, report)?;
            (manifest.metadata, Typed::LocalModelCache(Arc::new(manifest.spec)))
        }
        Kind::LocalModelNodeGroup => {
            let manifest: LocalModelNodeGroupManifest = read(value, report)?;
            (manifest.metadata, Typed::LocalModelNodeGroup(Arc::new(manifest.spec)))
        }
        Kind::LlmInferenceService | Kind::LlmInferenceServiceConfig => {
            let manifest: LlmInferenceServiceManifest = read(value, report)?;
            (manifest.metadata, Typed::LlmInferenceService(Arc::new(manifest.spec)))
        }
        Kind::PersistentVolumeClaim => {
            let claim: core::PersistentVolumeClaim = read(value, report)?;
            (claim.metadata.clone(), Typed::PersistentVolumeClaim(Arc::new(claim)))
        }
    })
}

/// Returns the name of a kind's schema, and adds it and all it refers to: exactly what [`decode`] accepts.
pub fn schema(kind: Kind, definitions: &mut schema::Definitions) -> Option<String> {
    let name = match kind {
        Kind::InferenceService => schema::define::<InferenceServiceManifest>(definitions)?,
        Kind::ServingRuntime | Kind::ClusterServingRuntime => schema::define::<ServingRuntimeManifest>(definitions)?,
        Kind::Secret => schema::define::<core::Secret>(definitions)?,
        Kind::ServiceAccount => schema::define::<core::ServiceAccount>(definitions)?,
        Kind::ConfigMap => schema::define::<core::ConfigMap>(definitions)?,
        Kind::Namespace => schema::define::<core::Namespace>(definitions)?,
        Kind::InferenceGraph => schema::define::<InferenceGraphManifest>(definitions)?,
        Kind::TrainedModel => schema::define::<TrainedModelManifest>(definitions)?,
        Kind::ClusterStorageContainer => schema::define::<StorageContainerManifest>(definitions)?,
        Kind::LocalModelCache | Kind::LocalModelNamespaceCache => {
            schema::define::<LocalModelCacheManifest>(definitions)?
        }
        Kind::LocalModelNodeGroup => schema::define::<LocalModelNodeGroupManifest>(definitions)?,
        Kind::LlmInferenceService | Kind::LlmInferenceServiceConfig => {
            schema::define::<LlmInferenceServiceManifest>(definitions)?
        }
        Kind::PersistentVolumeClaim => schema::define::<core::PersistentVolumeClaim>(definitions)?,
    };
    if name == kind.as_str() {
        return Some(name);
    }
    // Two kinds share one type, and are two schemas.
    let shared = definitions.get(&name)?.clone();
    definitions.insert(kind.as_str().to_owned(), shared);
    Some(kind.as_str().to_owned())
}

fn read<T: DeserializeOwned>(value: &Value, report: &mut Report<'_>) -> Option<T> {
    let (read, misfits) = strict::read(value, &FieldPath::default());
    misfits.iter().for_each(|misfit| report.misfit(misfit));
    read
}

/// Takes the metadata that decisions are made from; reports a missing name and leaves it empty.
fn to_metadata(kind: Kind, written: &ObjectMeta, value: &Value, report: &mut Report<'_>) -> Metadata {
    let path = FieldPath::of(&["metadata"]);
    let namespace = written.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    if namespace.is_some() && !kind.is_namespaced() {
        let message = format!("a {kind} belongs to no namespace; this one is ignored");
        report.warning(&path.key("namespace"), DiagnosticCode::Ignored, message);
    }
    let name = written.name.clone().unwrap_or_default();
    // A name of the wrong type has been told already.
    let told = path.key("name").find(value).is_some_and(|name| !name.is_null() && name != "");
    if name.is_empty() && !told {
        report.error(&path.key("name"), DiagnosticCode::Required, "field `metadata.name` is required");
        if written.generate_name.is_some() {
            report.help("`generateName` is for the API; an object in a file needs a name that stays");
        }
    }
    Metadata {
        name,
        namespace: namespace_of(kind, namespace),
        labels: Arc::new(written.labels.clone().unwrap_or_default()),
        annotations: Arc::new(written.annotations.clone().unwrap_or_default()),
        ..Metadata::default()
    }
}
