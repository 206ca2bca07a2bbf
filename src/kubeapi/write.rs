//! Create and replace, and what every write goes through: it ends as a file of the folder.
//!
//! Writes take turns, so that what a write was checked against is what it replaces. A hand edit of the folder may still
//! come in between: the object is looked for in the file as it is then, its own document is replaced, and the others stay.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::failure::Failure;
use super::feed::to_value;
use super::managers::{self, Manager};
use super::objects::{Call, written};
use super::query::Effect;
use super::resource::Resource;
use super::server::Api;
use super::validation::{Admitted, Place, admit, fit, strip_store_owned};
use crate::api::{Kind, ObjectKey, meta};
use crate::manifest::Diagnostic;
use crate::source::WriteError;
use crate::store::{Origin, Stored};

/// Length of the random end of a generated name.
const SUFFIX_LENGTH: usize = 5;
/// Letters of it; those that cannot be misread or spell words.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Answers a POST to a collection.
///
/// # Errors
/// The body is no valid object of this kind, or one of its name exists.
pub async fn create(api: &Arc<Api>, kind: Kind, namespace: Option<String>, call: Call) -> Result<Response, Failure> {
    let mut body = call.object()?;
    let namespace = match (kind.is_namespaced(), namespace) {
        (true, Some(namespace)) => namespace,
        (true, None) => body.value["metadata"]["namespace"].as_str().unwrap_or(meta::DEFAULT_NAMESPACE).to_owned(),
        (false, _) => String::new(),
    };
    generate_name(&mut body.value)?;
    let place = Place { kind, namespace: &namespace };
    let managers = Ownership::Before(managers_before(api, None, &body.value));
    let admitted = admit(fit(body, place, None)?, place, call.query.field_validation()?)?;
    let _turn = api.writes.lock().await;
    let key = admitted.object.key.clone();
    check_namespace(api, kind, &namespace)?;
    if api.state.store.snapshot().get(&key).is_some_and(|stored| stored.origin != Origin::Implied) {
        return Err(Failure::already_exists(Resource::Object(kind), &key.name));
    }
    put(api, admitted, Write { call: &call, current: None, code: StatusCode::CREATED, managers }).await
}

/// Refuses to create in a namespace that is not there.
pub(super) fn check_namespace(api: &Api, kind: Kind, namespace: &str) -> Result<(), Failure> {
    let key = ObjectKey { kind: Kind::Namespace, namespace: String::new(), name: namespace.to_owned() };
    if kind.is_namespaced() && api.state.store.snapshot().get(&key).is_none() {
        return Err(Failure::not_found(Resource::Object(Kind::Namespace), namespace));
    }
    Ok(())
}

/// Answers a PUT to an object. KServe's kinds are replaced only by who has seen what is there.
///
/// # Errors
/// There is no such object, the body is no valid object of this name, or was made from an older version.
pub async fn replace(api: &Arc<Api>, key: &ObjectKey, call: Call) -> Result<Response, Failure> {
    let body = call.object()?;
    let place = Place { kind: key.kind, namespace: &key.namespace };
    let body = fit(body, place, Some(&key.name))?;
    let _turn = api.writes.lock().await;
    let current = api.state.store.snapshot().get(key).cloned();
    let current = current.ok_or_else(|| Failure::not_found(Resource::Object(key.kind), &key.name))?;
    let metadata = &body.value["metadata"];
    check_seen(key, metadata)?;
    check_preconditions(key, metadata, Some(&current))?;
    let managers = Ownership::Before(managers_before(api, Some(&current), &body.value));
    let admitted = admit(body, place, call.query.field_validation()?)?;
    put(api, admitted, Write { call: &call, current: Some(current), code: StatusCode::OK, managers }).await
}

/// Refuses to replace an object of KServe's by one that does not say which version it was made from.
pub(super) fn check_seen(key: &ObjectKey, metadata: &Value) -> Result<(), Failure> {
    if !key.kind.group().is_empty() && metadata["resourceVersion"].as_str().is_none_or(str::is_empty) {
        return Err(Failure::unconditional(Resource::Object(key.kind), &key.name));
    }
    Ok(())
}

/// What there is to know of a write beside the object.
pub(super) struct Write<'c> {
    /// The request.
    pub(super) call: &'c Call,
    /// What it replaces.
    pub(super) current: Option<Arc<Stored>>,
    /// Status code when it succeeds.
    pub(super) code: StatusCode,
    /// Who wrote what before, or already with this write.
    pub(super) managers: Ownership,
}

/// Who wrote what.
pub(super) enum Ownership {
    /// Known before the write; what it changes belongs to its writer.
    Before(Vec<Manager>),
    /// Worked out already.
    After(Vec<Manager>),
}

/// Writes what was admitted, or shows what would be there.
pub(super) async fn put(api: &Arc<Api>, admitted: Admitted, write: Write<'_>) -> Result<Response, Failure> {
    let Write { call, current, code, managers } = write;
    let key = admitted.object.key.clone();
    let before = current.as_ref().map(|current| Arc::clone(&current.object.raw)).unwrap_or_default();
    let managed = settle(managers, call, &before, &admitted, (api.state.clock)());
    let effect = call.query.effect()?;
    let stored = match effect {
        Effect::DryRun => Arc::new(imagined(admitted.object, current.as_deref(), (api.state.clock)())),
        // A write that changes nothing is none: the file is not touched.
        Effect::Real => match current.filter(|current| same_document(&current.object.raw, &admitted.raw)) {
            Some(current) => current,
            None => api.state.loader.put(&admitted.raw).await.map_err(|error| refused(&key, &error))?,
        },
    };
    if effect == Effect::Real {
        remember(api, &stored.object.meta.uid, managed.clone()).await?;
    }
    let mut shown = to_value(&stored);
    if let Some(metadata) = shown["metadata"].as_object_mut() {
        if stored.resource_version == 0 {
            // Imagined only: it has no identity yet.
            metadata.shift_remove("uid");
            metadata.shift_remove("resourceVersion");
        }
        metadata.insert("managedFields".to_owned(), managed);
    }
    Ok(written(code, &shown, &admitted.warnings))
}

/// Keeps who wrote what, on the disk too; not on a thread that must not wait for it.
async fn remember(api: &Arc<Api>, uid: &str, managed: Value) -> Result<(), Failure> {
    let (api, uid) = (Arc::clone(api), uid.to_owned());
    let keep = tokio::task::spawn_blocking(move || {
        let snapshot = api.state.store.snapshot();
        let lives = |uid: &str| snapshot.objects.values().any(|stored| stored.object.meta.uid == uid);
        api.managers.set(&uid, managed, lives);
    });
    keep.await.map_err(|error| Failure::internal(format!("the fields' owners were not kept: {error}")))
}

/// Returns `managedFields` after a write.
fn settle(managers: Ownership, call: &Call, before: &Value, admitted: &Admitted, now: jiff::Timestamp) -> Value {
    let managers = match managers {
        Ownership::After(managers) => managers,
        Ownership::Before(mut managers) => {
            let version = admitted.object.key.kind.api_version();
            managers::update(&mut managers, before, &admitted.raw, field_manager(call), &version, now);
            managers
        }
    };
    managers::write(&managers)
}

/// Returns in whose name a request writes.
pub(super) fn field_manager(call: &Call) -> &str {
    call.query.get("fieldManager").unwrap_or(&call.agent)
}

/// Returns who wrote what before a write: what the body says when it changes that, else what is known.
pub(super) fn managers_before(api: &Api, current: Option<&Stored>, body: &Value) -> Vec<Manager> {
    let known = current.map(|current| api.managers.get(&current.object.meta.uid)).unwrap_or_default();
    let given = &body["metadata"]["managedFields"];
    // One empty entry is how a client says that all is forgotten.
    if *given == json!([{}]) {
        return Vec::new();
    }
    match managers::read(given) {
        given if given.is_empty() => managers::read(&known),
        given => given,
    }
}

/// Whether two documents ask for the same; that one leaves out its namespace is no difference.
fn same_document(old: &Value, new: &Value) -> bool {
    let bare = |document: &Value| {
        let mut document = document.clone();
        strip_store_owned(&mut document);
        if let Some(metadata) = document["metadata"].as_object_mut() {
            metadata.shift_remove("namespace");
        }
        document
    };
    bare(old) == bare(new)
}

/// Returns the object as it would be stored.
fn imagined(mut object: crate::api::Object, current: Option<&Stored>, now: jiff::Timestamp) -> Stored {
    let Some(current) = current else {
        object.meta.generation = 1;
        object.meta.creation_timestamp = Some(now);
        return Stored {
            object: object.into(),
            origin: Origin::Implied,
            resource_version: 0,
            status: None,
            kept: None,
        };
    };
    let spec = |raw: &Value| {
        let mut raw = raw.clone();
        raw.as_object_mut().map(|root| root.shift_remove("metadata"));
        raw
    };
    let changed = spec(&object.raw) != spec(&current.object.raw);
    object.meta.uid.clone_from(&current.object.meta.uid);
    object.meta.creation_timestamp = current.object.meta.creation_timestamp;
    object.meta.generation = current.object.meta.generation + i64::from(changed);
    Stored { object: object.into(), ..current.clone() }
}

/// Checks the uid and version that the caller expects, when it says any.
pub(super) fn check_preconditions(key: &ObjectKey, expected: &Value, current: Option<&Stored>) -> Result<(), Failure> {
    let resource = Resource::Object(key.kind);
    let text = |field: &str| expected[field].as_str().filter(|text| !text.is_empty());
    if let Some(version) = text("resourceVersion") {
        let current = current.ok_or_else(|| Failure::not_found(resource, &key.name))?;
        if version != current.resource_version.to_string() {
            let why = "the object has been modified; please apply your changes to the latest version and try again";
            return Err(Failure::conflict(resource, &key.name, why));
        }
    }
    if let (Some(uid), Some(current)) = (text("uid"), current)
        && uid != current.object.meta.uid
    {
        let why =
            format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", current.object.meta.uid);
        return Err(Failure::conflict(resource, &key.name, &why));
    }
    Ok(())
}

pub(super) fn refused(key: &ObjectKey, error: &WriteError) -> Failure {
    let resource = Resource::Object(key.kind);
    match error {
        WriteError::Invalid(diagnostics) => {
            let errors: Vec<&Diagnostic> = diagnostics.iter().filter(|d| d.is_error()).collect();
            Failure::refused(resource, &key.name, &errors)
        }
        WriteError::NotFound(_) => Failure::not_found(resource, &key.name),
        WriteError::BuiltIn(_) | WriteError::InsideList { .. } => Failure::forbidden(error.to_string()),
        WriteError::Moved { .. } => Failure::conflict(resource, &key.name, &error.to_string()),
        WriteError::Io { source, .. } => Failure::internal(format!("{error}: {source}")),
    }
}

/// Gives a name to a body that asks for one.
fn generate_name(body: &mut Value) -> Result<(), Failure> {
    let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) else { return Ok(()) };
    if metadata.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty()) {
        return Ok(());
    }
    let Some(prefix) = metadata.get("generateName").and_then(Value::as_str).filter(|prefix| !prefix.is_empty()) else {
        return Err(Failure::bad_request("metadata.name: Required value: name or generateName is required"));
    };
    let letter = |byte: u8| char::from(SUFFIX_LETTERS[usize::from(byte) % SUFFIX_LETTERS.len()]);
    let suffix: String = rand::random::<[u8; SUFFIX_LENGTH]>().into_iter().map(letter).collect();
    let name = format!("{prefix}{suffix}");
    metadata.insert("name".to_owned(), json!(name));
    metadata.shift_remove("generateName");
    Ok(())
}
