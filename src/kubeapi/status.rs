//! `…/{name}/status`: read as the object; written by nobody but the daemon.
//!
//! On a cluster whoever may write the status sees the controller put its own back at its next look. Here that look comes
//! first: what is sent is checked as any write, a warning says that it is not kept, and the status stands.

use std::sync::Arc;

use axum::http::{Method, StatusCode};
use axum::response::Response;

use super::failure::Failure;
use super::objects::{Call, written};
use super::patch::{self, shown};
use super::resource::Resource;
use super::server::Api;
use super::validation::{Place, fit};
use super::write::{check_preconditions, check_seen};
use crate::api::ObjectKey;

/// What a writer is told.
const NOT_KEPT: &str = "the status is written by kserve-local itself; what was sent is not kept";

/// Answers a PUT or PATCH of a status.
///
/// # Errors
/// There is no such object, or a write of the whole object would be refused for how it is sent.
pub async fn write(api: &Arc<Api>, key: &ObjectKey, call: &Call) -> Result<Response, Failure> {
    let resource = Resource::Object(key.kind);
    let current = api.state.store.snapshot().get(key).cloned();
    let current = current.ok_or_else(|| Failure::not_found(resource, &key.name))?;
    let place = Place { kind: key.kind, namespace: &key.namespace };
    let before = shown(api, key, &current);
    let sent = match call.method {
        Method::PUT => call.object()?,
        _ if call.content_type == patch::APPLY => call.parse_yaml()?,
        _ => patch::patched(before.clone(), key, call)?.into(),
    };
    let sent = fit(sent, place, Some(&key.name))?;
    if call.method == Method::PUT {
        check_seen(key, &sent.value["metadata"])?;
    }
    check_preconditions(key, &sent.value["metadata"], Some(&current))?;
    call.query.effect()?;
    Ok(written(StatusCode::OK, &before, &[NOT_KEPT.to_owned()]))
}
