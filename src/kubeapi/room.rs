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
use crate::reconcile::questions::Past;

/// Answers `/apis/kserve-local/v1/ps`.
pub(super) async fn ps(State(api): State<Arc<Api>>) -> Response {
    let Some(view) = api.state.questions.room().await else { return Failure::ending().into_response() };
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
    let key = ServiceKey::new(namespace, name);
    let past = match past(&api, &key).await {
        Ok(past) => past,
        Err(failure) => return failure.into_response(),
    };
    let body = json!({
        "kind": "Explanation",
        "apiVersion": "kserve-local/v1",
        "service": key.to_string(),
        "decision": past.decision.as_deref(),
    });
    Json(body).into_response()
}

/// Answers `/apis/kserve-local/v1/namespaces/{namespace}/services/{name}/revisions`.
pub(super) async fn revisions(
    State(api): State<Arc<Api>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    match past(&api, &ServiceKey::new(namespace, name)).await {
        Ok(Past { revisions, .. }) => {
            let body = json!({"kind": "RevisionList", "apiVersion": "kserve-local/v1", "items": revisions});
            Json(body).into_response()
        }
        Err(failure) => failure.into_response(),
    }
}

/// What became of a service that is known.
async fn past(api: &Api, key: &ServiceKey) -> Result<Past, Failure> {
    let past = api.state.questions.past(key.clone()).await.ok_or_else(Failure::ending)?;
    let is_known = !past.revisions.is_empty();
    is_known.then_some(past).ok_or_else(|| Failure::not_found(Resource::Object(Kind::InferenceService), &key.name))
}
