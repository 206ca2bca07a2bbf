//! Memory, revisions and the reasons behind both: `/apis/kserve-local/v1/…`, which Kubernetes has no words for.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::failure::Failure;
use super::resource::Resource;
use super::server::Api;
use crate::api::{Kind, ServiceKey};

/// Answers `/apis/kserve-local/v1/ps`.
pub(super) async fn ps(State(api): State<Arc<Api>>) -> Response {
    let view = Arc::clone(&api.state.room.borrow());
    let body = json!({
        "kind": "ReplicaList",
        "apiVersion": "kserve-local/v1",
        "machine": view.machine,
        "items": view.rows,
    });
    Json(body).into_response()
}

/// Answers `/apis/kserve-local/v1/namespaces/{namespace}/services/{name}/explanation`.
pub(super) async fn explanation(
    State(api): State<Arc<Api>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let view = Arc::clone(&api.state.room.borrow());
    let key = ServiceKey::new(namespace, name);
    if !view.histories.contains_key(&key) {
        return Failure::not_found(Resource::Object(Kind::InferenceService), &key.name).into_response();
    }
    let body = json!({
        "kind": "Explanation",
        "apiVersion": "kserve-local/v1",
        "service": key.to_string(),
        "decision": view.explanations.get(&key).map(|decision| &**decision),
    });
    Json(body).into_response()
}

/// Answers `/apis/kserve-local/v1/namespaces/{namespace}/services/{name}/revisions`.
pub(super) async fn revisions(
    State(api): State<Arc<Api>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let view = Arc::clone(&api.state.room.borrow());
    let key = ServiceKey::new(namespace, name);
    let Some(items) = view.histories.get(&key) else {
        return Failure::not_found(Resource::Object(Kind::InferenceService), &key.name).into_response();
    };
    let body = json!({"kind": "RevisionList", "apiVersion": "kserve-local/v1", "items": items});
    Json(body).into_response()
}
