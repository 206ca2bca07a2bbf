//! Small servers that speak the APIs of model stores as the real ones do, as far as downloads see it.

pub(crate) mod git;
pub(crate) mod hdfs;
pub(crate) mod hub;
pub(crate) mod scope;
pub(crate) mod share;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use kserve_local::tasks::Tasks;

/// A request as it came: path with query, and headers.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A server on a port of its own; it stops when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: Tasks,
}

impl Server {
    pub(crate) async fn start(router: Router) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, router)
    }

    pub(crate) fn on(listener: tokio::net::TcpListener, router: Router) -> Self {
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let router = router.layer(from_fn(move |request: Request, next: Next| {
            let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
            noted.lock().unwrap().push(Seen { target, headers: request.headers().clone() });
            next.run(request)
        }));
        let tasks = Tasks::new();
        tasks.spawn("store", async move {
            let _ended = axum::serve(listener, router).await;
        });
        Self { address, seen, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }
}

/// Files by path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn files(entries: &[(&str, &[u8])]) -> Files {
    entries.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect()
}

/// Answers with a body, or the range of it that was asked for.
pub(crate) fn bytes(headers: &HeaderMap, body: &[u8]) -> Response {
    let size = body.len();
    let range = headers.get(header::RANGE).and_then(|range| {
        let (start, end) = range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
        let end = end.parse::<usize>().map_or(size, |end| (end + 1).min(size));
        Some((start.parse::<usize>().ok()?, end))
    });
    let answer = Response::builder().header(header::CONTENT_TYPE, "application/octet-stream");
    match range {
        None => answer.body(Body::from(body.to_vec())).unwrap(),
        Some((start, end)) if start < end => answer
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", end - 1))
            .body(Body::from(body[start..end].to_vec()))
            .unwrap(),
        Some(_) => answer.status(StatusCode::RANGE_NOT_SATISFIABLE).body(Body::empty()).unwrap(),
    }
}

pub(crate) fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json; charset=utf-8");
    answer.body(Body::from(value.to_string())).unwrap()
}

pub(crate) fn sha256(body: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Git's name of a file.
pub(crate) fn git_blob(body: &[u8]) -> String {
    use sha1::{Digest, Sha1};
    let digest = Sha1::new_with_prefix(format!("blob {}\0", body.len())).chain_update(body).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
