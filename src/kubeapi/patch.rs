//! Patches in every dialect: merge (RFC 7396), JSON patch (RFC 6902), strategic merge for the core kinds, and apply.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::apply::{self, Applier};
use super::document::Document;
use super::failure::Failure;
use super::objects::Call;
use super::resource::Resource;
use super::server::Api;
use super::strategic;
use super::validation::{Place, admit, fit};
use super::write::{Ownership, Write, check_namespace, check_preconditions, field_manager, managers_before, put};
use crate::api::ObjectKey;
use crate::store::Stored;

const MERGE: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(super) const APPLY: &str = "application/apply-patch+yaml";

/// Answers a PATCH of an object.
///
/// # Errors
/// The patch is of an unknown kind, does not fit, or what it makes is not valid.
pub async fn answer(api: &Arc<Api>, key: &ObjectKey, call: Call) -> Result<Response, Failure> {
    let _turn = api.writes.lock().await;
    let current = api.state.store.snapshot().get(key).cloned();
    if call.content_type == APPLY {
        return apply_patch(api, key, current, &call).await;
    }
    let current = current.ok_or_else(|| Failure::not_found(Resource::Object(key.kind), &key.name))?;
    let before = shown(api, key, &current);
    let body = patched(before, key, &call)?;
    check_preconditions(key, &body["metadata"], Some(&current))?;
    let managers = Ownership::Before(managers_before(api, Some(&current), &body));
    let place = Place { kind: key.kind, namespace: &key.namespace };
    let admitted = admit(fit(body.into(), place, Some(&key.name))?, place, call.query.field_validation()?)?;
    put(api, admitted, Write { call: &call, current: Some(current), code: StatusCode::OK, managers }).await
}

/// Returns what is patched: the object as callers see it.
pub(super) fn shown(api: &Arc<Api>, key: &ObjectKey, current: &Stored) -> Value {
    let found = api.feed(Resource::Object(key.kind)).get(&key.namespace, &key.name);
    found.map_or_else(|| current.to_value(), Arc::unwrap_or_clone)
}

pub(super) fn patched(mut body: Value, key: &ObjectKey, call: &Call) -> Result<Value, Failure> {
    let is_core = key.kind.group().is_empty();
    match call.content_type.as_str() {
        MERGE => merge(&mut body, &call.parse()?),
        JSON_PATCH => {
            let patch: json_patch::Patch = serde_json::from_slice(&call.body)
                .map_err(|error| Failure::bad_request(format!("the body is not a JSON patch: {error}")))?;
            json_patch::patch(&mut body, &patch)
                .map_err(|error| Failure::unprocessable(format!("the JSON patch does not fit: {error}")))?;
        }
        STRATEGIC if is_core => strategic::merge(&mut body, &call.parse()?)
            .map_err(|error| Failure::bad_request(format!("the strategic merge patch does not fit: {error}")))?,
        other => {
            let mut known = vec![JSON_PATCH, MERGE, APPLY];
            if is_core {
                known.push(STRATEGIC);
            }
            return Err(Failure::unsupported_media_type(other, &known.join(", ")));
        }
    }
    Ok(body)
}

async fn apply_patch(
    api: &Arc<Api>,
    key: &ObjectKey,
    current: Option<Arc<Stored>>,
    call: &Call,
) -> Result<Response, Failure> {
    let resource = Resource::Object(key.kind);
    if call.query.get("fieldManager").is_none() {
        return Err(Failure::unprocessable(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let config = call.parse_yaml()?;
    check_preconditions(key, &config.value["metadata"], current.as_deref())?;
    if config.value["metadata"].get("managedFields").is_some_and(|managed| !managed.is_null()) {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    let place = Place { kind: key.kind, namespace: &key.namespace };
    let config = fit(config, place, Some(&key.name))?;
    if current.is_none() {
        check_namespace(api, key.kind, &key.namespace)?;
    }
    let live = match &current {
        Some(current) => shown(api, key, current),
        None => json!({"apiVersion": key.kind.api_version(), "kind": key.kind.as_str()}),
    };
    let mut managers = managers_before(api, current.as_deref(), &Value::Null);
    let version = key.kind.api_version();
    let applier = Applier {
        name: field_manager(call),
        api_version: &version,
        force: call.query.flag("force")?,
        now: (api.state.clock)(),
    };
    let body = apply::apply(&live, &config.value, &mut managers, applier)
        .map_err(|conflicts| Failure::owned_by_others(resource, &key.name, &conflicts))?;
    let body = Document { value: body, duplicates: config.duplicates };
    let admitted = admit(body, place, call.query.field_validation()?)?;
    let code = if current.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    put(api, admitted, Write { call, current, code, managers: Ownership::After(managers) }).await
}

/// Merges `patch` into `target`: null removes, objects merge, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            map.shift_remove(key);
        } else {
            merge(map.entry(key).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc_hold() {
        let table = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut target, patch, expected) in table {
            merge(&mut target, &patch);
            assert_eq!(target, expected, "{patch}");
        }
    }
}
