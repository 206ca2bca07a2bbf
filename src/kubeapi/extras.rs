//! What Kubernetes has no words for: what is wrong with the files of the folder, and where services answer.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::server::Api;
use crate::manifest::Diagnostic;
use crate::source::FileProblems;

/// Answers `/apis/kserve-local/v1/problems`.
pub async fn problems(State(api): State<Arc<Api>>) -> Response {
    let items: Vec<Value> = api.state.loader.problems().iter().map(file).collect();
    Json(json!({"kind": "ProblemList", "apiVersion": "kserve-local/v1", "items": items})).into_response()
}

fn file(problems: &FileProblems) -> Value {
    json!({
        "path": problems.path,
        "diagnostics": problems.diagnostics.iter().map(Diagnostic::to_value).collect::<Vec<_>>(),
        "kept": problems.kept.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// Answers `/apis/kserve-local/v1/addresses`.
pub async fn addresses(State(api): State<Arc<Api>>) -> Response {
    let gateway = format!("http://{}", api.state.gateway_address);
    Json(json!({"kind": "Addresses", "apiVersion": "kserve-local/v1", "gateway": gateway})).into_response()
}
