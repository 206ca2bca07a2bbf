//! Delete: an object, a collection, a namespace with all that is in it.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::failure::Failure;
use super::feed::to_value;
use super::objects::Call;
use super::query::Effect;
use super::resource::Resource;
use super::server::Api;
use super::watch::Scope;
use super::write::{check_preconditions, refused};
use crate::api::{Kind, ObjectKey, meta};
use crate::store::{Origin, Stored};

/// Namespaces that are always there.
const KEPT_NAMESPACES: [&str; 3] = [meta::DEFAULT_NAMESPACE, meta::SYSTEM_NAMESPACE, "kube-system"];

/// Answers a DELETE of an object.
///
/// # Errors
/// No such object, one that cannot be deleted, or a precondition does not hold.
pub async fn delete(api: &Arc<Api>, key: &ObjectKey, call: Call) -> Result<Response, Failure> {
    let resource = Resource::Object(key.kind);
    let options = if call.body.is_empty() { Value::Null } else { call.json()? };
    let effect = match options["dryRun"][0].as_str() {
        Some("All") => Effect::DryRun,
        _ => call.query.effect()?,
    };
    let _turn = api.writes.lock().await;
    let current = api.state.store.snapshot().get(key).cloned();
    let current = current.ok_or_else(|| Failure::not_found(resource, &key.name))?;
    check_preconditions(key, &options["preconditions"], Some(&current))?;
    check_deletable(&current)?;
    if effect == Effect::Real {
        if key.kind == Kind::Namespace {
            empty_namespace(api, &key.name).await?;
        }
        // What was implied by others is gone with them.
        if current.origin != Origin::Implied {
            api.state.loader.delete(key).await.map_err(|error| refused(key, &error))?;
        }
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
        check_deletable(stored)?;
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

/// Refuses what is there by itself.
fn check_deletable(current: &Stored) -> Result<(), Failure> {
    let key = &current.object.key;
    match key.kind {
        Kind::Namespace if KEPT_NAMESPACES.contains(&key.name.as_str()) => Err(Failure::forbidden(format!(
            "namespaces \"{}\" is forbidden: this namespace may not be deleted",
            key.name
        ))),
        Kind::Namespace => Ok(()),
        Kind::LocalModelCache | Kind::LocalModelNamespaceCache => check_unused(current),
        kind if current.origin == Origin::Implied => {
            let plural = Resource::Object(kind).qualified();
            Err(Failure::forbidden(format!(
                "{plural} \"{}\" is forbidden: it is always there; write one to change it",
                key.name
            )))
        }
        _ => Ok(()),
    }
}

/// Refuses to delete a kept model that services use, in KServe's words.
fn check_unused(current: &Stored) -> Result<(), Failure> {
    let Some(user) = current.kept.iter().flat_map(|status| &status.inference_services).next() else { return Ok(()) };
    let ObjectKey { kind, name, .. } = &current.object.key;
    Err(Failure::forbidden(format!("{kind} {name} is being used by InferenceService {}", user.name)))
}

/// Deletes everything in a namespace that came from files.
async fn empty_namespace(api: &Arc<Api>, namespace: &str) -> Result<(), Failure> {
    let snapshot = api.state.store.snapshot();
    let inside = snapshot.objects.values().filter(|stored| stored.object.key.namespace == namespace);
    for stored in inside.filter(|stored| matches!(stored.origin, Origin::File { .. })) {
        let key = &stored.object.key;
        api.state.loader.delete(key).await.map_err(|error| refused(key, &error))?;
    }
    Ok(())
}
