//! Create, replace, patch and delete: every one ends as a file of the folder.
//!
//! Writes take turns, so that what a write was checked against is what it replaces. A hand edit of the folder may still
//! come in between; then the newer of the two wins, as with two people saving one file.

use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::failure::Failure;
use super::feed::to_value;
use super::objects::{Call, written};
use super::patch;
use super::query::Effect;
use super::resource::Resource;
use super::server::Api;
use super::validation::{Admitted, Place, admit, fit, strip_store_owned};
use super::watch::Scope;
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
    let mut body = json_body(&call)?;
    let namespace = match (kind.is_namespaced(), namespace) {
        (true, Some(namespace)) => namespace,
        (true, None) => body["metadata"]["namespace"].as_str().unwrap_or(meta::DEFAULT_NAMESPACE).to_owned(),
        (false, _) => String::new(),
    };
    generate_name(&mut body)?;
    let place = Place { kind, namespace: &namespace };
    let admitted = admit(fit(body, place, None)?, place, call.query.field_validation()?)?;
    let _turn = api.writes.lock().await;
    let key = admitted.object.key.clone();
    if api.state.store.snapshot().get(&key).is_some_and(|stored| stored.origin != Origin::Implied) {
        return Err(Failure::already_exists(Resource::Object(kind), &key.name));
    }
    put(api, admitted, None, &call, StatusCode::CREATED).await
}

/// Answers a PUT to an object; one that does not exist is created.
///
/// # Errors
/// The body is no valid object of this name, or was made from an older version.
pub async fn replace(api: &Arc<Api>, key: &ObjectKey, call: Call) -> Result<Response, Failure> {
    let body = json_body(&call)?;
    let _turn = api.writes.lock().await;
    let current = api.state.store.snapshot().get(key).cloned();
    check_preconditions(key, &body["metadata"], current.as_deref())?;
    let place = Place { kind: key.kind, namespace: &key.namespace };
    let admitted = admit(fit(body, place, Some(&key.name))?, place, call.query.field_validation()?)?;
    let code = if current.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    put(api, admitted, current, &call, code).await
}

/// Answers a PATCH of an object.
///
/// # Errors
/// The patch is of an unknown kind, or what it makes is not valid.
pub async fn patch(api: &Arc<Api>, key: &ObjectKey, call: Call) -> Result<Response, Failure> {
    if call.content_type != "application/merge-patch+json" {
        return Err(Failure::unsupported_media_type(&call.content_type, "application/merge-patch+json"));
    }
    let change = parse(&call)?;
    let _turn = api.writes.lock().await;
    let resource = Resource::Object(key.kind);
    let current = api.state.store.snapshot().get(key).cloned();
    let current = current.ok_or_else(|| Failure::not_found(resource, &key.name))?;
    check_preconditions(key, &change["metadata"], Some(&current))?;
    let mut body = to_value(&current);
    patch::merge(&mut body, &change);
    let place = Place { kind: key.kind, namespace: &key.namespace };
    let admitted = admit(fit(body, place, Some(&key.name))?, place, call.query.field_validation()?)?;
    put(api, admitted, Some(current), &call, StatusCode::OK).await
}

/// Answers a DELETE of an object.
///
/// # Errors
/// No such object, one that cannot be deleted, or a precondition does not hold.
pub async fn delete(api: &Arc<Api>, key: &ObjectKey, call: Call) -> Result<Response, Failure> {
    let resource = Resource::Object(key.kind);
    let options = if call.body.is_empty() { Value::Null } else { parse(&call)? };
    let effect = match options["dryRun"][0].as_str() {
        Some("All") => Effect::DryRun,
        _ => call.query.effect()?,
    };
    let _turn = api.writes.lock().await;
    let current = api.state.store.snapshot().get(key).cloned();
    let current = current.ok_or_else(|| Failure::not_found(resource, &key.name))?;
    check_preconditions(key, &options["preconditions"], Some(&current))?;
    if effect == Effect::Real {
        api.state.loader.delete(key).await.map_err(|error| refused(key, &error))?;
    }
    Ok(Json(json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {
            "name": key.name, "group": resource.group(), "kind": resource.plural(),
            "uid": current.object.meta.uid,
        },
    }))
    .into_response())
}

/// Answers a DELETE of a collection: everything the selectors mean that can be deleted.
///
/// # Errors
/// The folder cannot be written.
pub async fn delete_collection(api: &Arc<Api>, kind: Kind, scope: &Scope, call: &Call) -> Result<Response, Failure> {
    let effect = call.query.effect()?;
    let _turn = api.writes.lock().await;
    let snapshot = api.state.store.snapshot();
    let meant = snapshot
        .list(kind, scope.namespace.as_deref())
        .filter(|stored| matches!(stored.origin, Origin::File { .. }) && scope.matches(&to_value(stored)));
    let mut items = Vec::new();
    for stored in meant {
        if effect == Effect::Real {
            let key = &stored.object.key;
            api.state.loader.delete(key).await.map_err(|error| refused(key, &error))?;
        }
        items.push(to_value(stored));
    }
    let version = api.state.store.snapshot().version.to_string();
    Ok(Json(json!({
        "kind": format!("{kind}List"), "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": version}, "items": items,
    }))
    .into_response())
}

/// Writes what was admitted, or shows what would be there.
async fn put(
    api: &Arc<Api>,
    admitted: Admitted,
    current: Option<Arc<Stored>>,
    call: &Call,
    code: StatusCode,
) -> Result<Response, Failure> {
    let key = admitted.object.key.clone();
    let stored = match call.query.effect()? {
        Effect::DryRun => Arc::new(imagined(admitted.object, current.as_deref(), (api.state.clock)())),
        // A write that changes nothing is none: the file is not touched.
        Effect::Real => match current.filter(|current| same_document(&current.object.raw, &admitted.raw)) {
            Some(current) => current,
            None => api.state.loader.put(&admitted.raw).await.map_err(|error| refused(&key, &error))?,
        },
    };
    let mut shown = to_value(&stored);
    if stored.resource_version == 0
        && let Some(metadata) = shown["metadata"].as_object_mut()
    {
        // Imagined only: it has no identity yet.
        metadata.shift_remove("uid");
        metadata.shift_remove("resourceVersion");
    }
    Ok(written(code, &shown, &admitted.warnings))
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
        return Stored { object: object.into(), origin: Origin::Implied, resource_version: 0, status: None };
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
fn check_preconditions(key: &ObjectKey, expected: &Value, current: Option<&Stored>) -> Result<(), Failure> {
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

fn refused(key: &ObjectKey, error: &WriteError) -> Failure {
    let resource = Resource::Object(key.kind);
    match error {
        WriteError::Invalid(diagnostics) => {
            let errors: Vec<&Diagnostic> = diagnostics.iter().filter(|d| d.is_error()).collect();
            Failure::invalid(resource, &key.name, &errors)
        }
        WriteError::NotFound(_) => Failure::not_found(resource, &key.name),
        WriteError::BuiltIn(_) | WriteError::InsideList { .. } => Failure::forbidden(error.to_string()),
        WriteError::Io { source, .. } => Failure::internal(format!("{error}: {source}")),
    }
}

/// Reads a JSON body.
fn json_body(call: &Call) -> Result<Value, Failure> {
    match call.content_type.as_str() {
        "" | "application/json" | "*/*" => parse(call),
        other => Err(Failure::unsupported_media_type(other, "application/json")),
    }
}

fn parse(call: &Call) -> Result<Value, Failure> {
    serde_json::from_slice(&call.body).map_err(|error| Failure::bad_request(format!("the body is not JSON: {error}")))
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
