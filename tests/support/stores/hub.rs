//! A Hugging Face hub: repositories with revisions, large files on another host, gated and private ones.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use serde_json::json;

use super::{Files, Server, bytes, git_blob, json as answer, sha256};

/// What the hub has: `owner/model`, its commit by revision, its files by commit.
#[derive(Clone, Default)]
pub(crate) struct Repositories {
    pub(crate) revisions: Vec<(&'static str, &'static str, &'static str)>,
    pub(crate) commits: Vec<(&'static str, Files)>,
    /// The token that private and gated repositories want.
    pub(crate) token: &'static str,
}

pub(crate) struct Hub {
    pub(crate) server: Server,
    pub(crate) far: Server,
}

impl Hub {
    pub(crate) async fn start(repositories: Repositories) -> Self {
        let blobs = Arc::new(repositories.clone());
        let far = Router::new().route("/blob/{sha}", get(blob)).with_state(blobs);
        let far = Server::start(far).await;
        let state = (Arc::new(repositories), far.url());
        let router = Router::new()
            .route("/api/models/{owner}/{model}/revision/{revision}", get(info))
            .route("/{owner}/{model}/resolve/{commit}/{*path}", get(resolve))
            .with_state(state);
        Self { server: Server::start(router).await, far }
    }
}

type Shared = (Arc<Repositories>, String);

fn refusal(status: StatusCode, code: &str) -> Response {
    let mut response = answer(status, &json!({ "error": "no" }));
    response.headers_mut().insert("x-error-code", code.parse().unwrap());
    response
}

/// Small files are in git, others are not.
fn is_large(body: &[u8]) -> bool {
    body.len() > 100
}

async fn info(
    State((repositories, _)): State<Shared>,
    Path((owner, model, revision)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let name = format!("{owner}/{model}");
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let known = token == Some(&format!("Bearer {}", repositories.token));
    let of_repository: Vec<_> = repositories.revisions.iter().filter(|(repository, ..)| *repository == name).collect();
    if of_repository.is_empty() || (owner == "private" && !known) {
        return refusal(StatusCode::UNAUTHORIZED, "RepoNotFound");
    }
    if owner == "gated" && !known {
        return refusal(StatusCode::FORBIDDEN, "GatedRepo");
    }
    let Some((_, _, commit)) = of_repository.iter().find(|(_, name, commit)| *name == revision || *commit == revision)
    else {
        return refusal(StatusCode::NOT_FOUND, "RevisionNotFound");
    };
    let files = &repositories.commits.iter().find(|(id, _)| id == commit).unwrap().1;
    let siblings: Vec<_> = files
        .iter()
        .map(|(path, body)| {
            let sha = sha256(body);
            let mut sibling = json!({ "rfilename": path, "size": body.len(), "blobId": git_blob(body) });
            if is_large(body) {
                sibling["lfs"] = json!({ "sha256": sha, "size": body.len(), "pointerSize": 130 });
            }
            sibling
        })
        .collect();
    answer(StatusCode::OK, &json!({ "id": name, "sha": commit, "siblings": siblings }))
}

async fn resolve(
    State((repositories, far)): State<Shared>,
    Path((_, _, commit, path)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let files = repositories.commits.iter().find(|(id, _)| *id == commit).map(|(_, files)| files);
    match files.and_then(|files| files.get(&path)) {
        None => refusal(StatusCode::NOT_FOUND, "EntryNotFound"),
        Some(body) if is_large(body) => Response::builder()
            .status(StatusCode::FOUND)
            .header(header::LOCATION, format!("{far}/blob/{}?signature=hush-hush", sha256(body)))
            .body(Body::empty())
            .unwrap(),
        Some(body) => bytes(&headers, body),
    }
}

/// The place of large files knows its own signatures and refuses anybody's token.
async fn blob(State(repositories): State<Arc<Repositories>>, Path(sha): Path<String>, headers: HeaderMap) -> Response {
    if headers.contains_key(header::AUTHORIZATION) {
        return refusal(StatusCode::BAD_REQUEST, "");
    }
    let mut all = repositories.commits.iter().flat_map(|(_, files)| files.values());
    match all.find(|body| sha256(body) == sha) {
        Some(body) => bytes(&headers, body),
        None => refusal(StatusCode::NOT_FOUND, ""),
    }
}
