//! A Hadoop cluster's WebHDFS API: a name node on standby, one that answers, and a data node it redirects to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};

use super::{Files, Server, json as answer};

pub(crate) struct Cluster {
    pub(crate) standby: Server,
    pub(crate) active: Server,
    pub(crate) data: Server,
    pub(crate) time: Arc<Time>,
}

/// When files were last changed, and by how much each reading changes them.
#[derive(Default)]
pub(crate) struct Time {
    now: AtomicI64,
    pub(crate) step: AtomicI64,
}

impl Cluster {
    pub(crate) async fn start(files: Files) -> Self {
        let (files, time) = (Arc::new(files), Arc::new(Time::default()));
        let data = Router::new().route("/webhdfs/v1/{*path}", get(open)).with_state(Arc::clone(&files));
        let data = Server::start(data).await;
        let active =
            Router::new().route("/webhdfs/v1/{*path}", get(ask)).with_state((files, data.url(), Arc::clone(&time)));
        let standby = Router::new()
            .route("/webhdfs/v1/{*path}", get(|| async { refusal(StatusCode::FORBIDDEN, "StandbyException") }));
        Self { standby: Server::start(standby).await, active: Server::start(active).await, data, time }
    }
}

type Asked = Query<BTreeMap<String, String>>;

fn refusal(status: StatusCode, exception: &str) -> Response {
    answer(status, &json!({ "RemoteException": { "exception": exception, "javaClassName": "x", "message": "no" } }))
}

fn status(suffix: &str, body: Option<&Vec<u8>>, time: &Time) -> Value {
    let changed = 1_700_000_000_000 + time.now.load(Ordering::SeqCst);
    let (kind, length) = body.map_or(("DIRECTORY", 0), |body| ("FILE", body.len()));
    json!({ "pathSuffix": suffix, "type": kind, "length": length, "modificationTime": changed, "fileId": 7, "owner": "hdfs", "permission": "644" })
}

async fn ask(
    State((files, data, time)): State<(Arc<Files>, String, Arc<Time>)>,
    Path(path): Path<String>,
    Query(asked): Asked,
) -> Response {
    let below = format!("{path}/");
    let exists = files.contains_key(&path) || files.keys().any(|name| name.starts_with(&below));
    if path.starts_with("secret") && asked.get("user.name").is_none_or(|user| user != "hdfs") {
        return refusal(StatusCode::FORBIDDEN, "AccessControlException");
    }
    if !exists {
        return refusal(StatusCode::NOT_FOUND, "FileNotFoundException");
    }
    match asked["op"].as_str() {
        "GETFILESTATUS" => answer(StatusCode::OK, &json!({ "FileStatus": status("", files.get(&path), &time) })),
        "LISTSTATUS" => {
            let inside = files.iter().filter_map(|(name, body)| Some((name.strip_prefix(&below)?, body)));
            let mut seen = BTreeMap::new();
            for (name, body) in inside {
                match name.split_once('/') {
                    Some((folder, _)) => seen.insert(folder.to_owned(), status(folder, None, &time)),
                    None => seen.insert(name.to_owned(), status(name, Some(body), &time)),
                };
            }
            let listed: Vec<_> = seen.into_values().collect();
            answer(StatusCode::OK, &json!({ "FileStatuses": { "FileStatus": listed } }))
        }
        "OPEN" => {
            time.now.fetch_add(time.step.load(Ordering::SeqCst), Ordering::SeqCst);
            let query: Vec<String> = asked.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let encoded = path.replace(' ', "%20");
            let to = format!("{data}/webhdfs/v1/{encoded}?{}&namenoderpcaddress=nn:8020", query.join("&"));
            Response::builder()
                .status(StatusCode::TEMPORARY_REDIRECT)
                .header(header::LOCATION, to)
                .body(Body::empty())
                .unwrap()
        }
        _ => refusal(StatusCode::BAD_REQUEST, "UnsupportedOperationException"),
    }
}

/// A data node gives the part that was asked for, and calls it the whole.
async fn open(State(files): State<Arc<Files>>, Path(path): Path<String>, Query(asked): Asked) -> Response {
    let body = &files[&path];
    let number = |name: &str| asked.get(name).and_then(|value| value.parse::<usize>().ok());
    let start = number("offset").unwrap_or(0).min(body.len());
    let end = number("length").map_or(body.len(), |length| (start + length).min(body.len()));
    let answer = Response::builder().header(header::CONTENT_TYPE, "application/octet-stream");
    answer.body(Body::from(body[start..end].to_vec())).unwrap()
}
