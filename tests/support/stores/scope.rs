//! A ModelScope hub: its file list and its downloads.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use serde_json::json;

use super::{Files, Server, bytes, json as answer, sha256};

/// Revisions of `owner/model`, by name; those of `private/model` want the token `hush-hush`.
pub(crate) async fn start(revisions: BTreeMap<&'static str, Files>) -> Server {
    let router = Router::new()
        .route("/api/v1/models/{owner}/{model}/repo/files", get(list))
        .route("/api/v1/models/{owner}/{model}/repo", get(read))
        .with_state(Arc::new(revisions));
    Server::start(router).await
}

type Shared = Arc<BTreeMap<&'static str, Files>>;
type Asked = Query<BTreeMap<String, String>>;

fn refusal(code: u16, message: &str) -> Response {
    let body = json!({ "Code": code, "Success": false, "Message": message, "RequestId": "1" });
    answer(StatusCode::OK, &body)
}

fn may(owner: &str, headers: &HeaderMap) -> bool {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    owner != "private" || token == Some("Bearer hush-hush")
}

async fn list(
    State(revisions): State<Shared>,
    Path((owner, model)): Path<(String, String)>,
    Query(asked): Asked,
    headers: HeaderMap,
) -> Response {
    if model != "model" {
        return refusal(404, "model not exists");
    }
    if !may(&owner, &headers) {
        return refusal(403, "no permission");
    }
    let Some(files) = revisions.get(asked["Revision"].as_str()) else {
        return refusal(404, "revision not exists");
    };
    let mut listed: Vec<_> = files
        .iter()
        .map(|(path, body)| json!({ "Path": path, "Name": path, "Type": "blob", "Size": body.len(), "Sha256": sha256(body), "Revision": "c" }))
        .collect();
    listed.push(json!({ "Path": "onnx", "Name": "onnx", "Type": "tree", "Size": 0, "Sha256": "", "Revision": "c" }));
    answer(StatusCode::OK, &json!({ "Code": 200, "Success": true, "Message": "success", "Data": { "Files": listed } }))
}

async fn read(
    State(revisions): State<Shared>,
    Path((owner, _)): Path<(String, String)>,
    Query(asked): Asked,
    headers: HeaderMap,
) -> Response {
    let body = revisions.get(asked["Revision"].as_str()).and_then(|files| files.get(&asked["FilePath"]));
    match body {
        Some(body) if may(&owner, &headers) => bytes(&headers, body),
        _ => answer(StatusCode::NOT_FOUND, &json!({ "Code": 404, "Success": false, "Message": "no such file" })),
    }
}
