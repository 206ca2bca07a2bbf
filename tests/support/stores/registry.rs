//! An OCI registry: images and artifacts by digest, for those who fetch a token with the right login.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use serde_json::json;

use super::{Server, bytes, json as answer, sha256};

/// A manifest and its blobs.
pub(crate) struct Stored {
    manifest: Vec<u8>,
    blobs: Vec<Vec<u8>>,
}

/// An image of layers, lowest first.
pub(crate) fn image(layers: &[Vec<u8>]) -> Stored {
    stored("application/vnd.oci.image.config.v1+json", None, layers.iter().map(|layer| (None, layer.clone())))
}

/// An artifact of titled files.
pub(crate) fn artifact(files: &[(&str, &[u8])]) -> Stored {
    let files = files.iter().map(|(title, body)| (Some(*title), body.to_vec()));
    stored("application/vnd.oci.empty.v1+json", Some("application/vnd.example.model"), files)
}

fn stored<'t>(
    config: &str,
    artifact: Option<&str>,
    layers: impl Iterator<Item = (Option<&'t str>, Vec<u8>)>,
) -> Stored {
    let mut blobs = vec![b"{}".to_vec()];
    let mut descriptors = Vec::new();
    for (title, body) in layers {
        let kind = if title.is_some() { "application/octet-stream" } else { "application/vnd.oci.image.layer.v1.tar" };
        let mut descriptor =
            json!({ "mediaType": kind, "digest": format!("sha256:{}", sha256(&body)), "size": body.len() });
        if let Some(title) = title {
            descriptor["annotations"] = json!({ "org.opencontainers.image.title": title });
        }
        descriptors.push(descriptor);
        blobs.push(body);
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": artifact,
        "config": { "mediaType": config, "digest": format!("sha256:{}", sha256(b"{}")), "size": 2 }, "layers": descriptors
    });
    Stored { manifest: manifest.to_string().into_bytes(), blobs }
}

#[derive(Default)]
struct Inner {
    by_name: BTreeMap<&'static str, Vec<u8>>,
    blobs: BTreeMap<String, Vec<u8>>,
    corrupt: AtomicBool,
}

pub(crate) struct Registry {
    pub(crate) server: Server,
    inner: Arc<Inner>,
}

impl Registry {
    /// Starts a registry; every image has the tag `v1`, behind an index.
    pub(crate) async fn start(images: Vec<(&'static str, Stored)>) -> Self {
        let mut inner = Inner::default();
        for (name, stored) in images {
            for body in stored.blobs {
                inner.blobs.insert(format!("sha256:{}", sha256(&body)), body);
            }
            inner.by_name.insert(name, stored.manifest);
        }
        let inner = Arc::new(inner);
        let router = Router::new()
            .route("/token", get(token))
            .route("/v2/{team}/{name}/manifests/{reference}", get(manifest))
            .route("/v2/{team}/{name}/blobs/{digest}", get(blob))
            .with_state(Arc::clone(&inner));
        Self { server: Server::start(router).await, inner }
    }

    pub(crate) fn login(&self) -> String {
        json!({ "auths": { self.server.address.to_string(): { "auth": "bWU6aHVzaC1odXNo" } } }).to_string()
    }

    pub(crate) fn digest(&self, name: &str) -> String {
        format!("sha256:{}", sha256(&self.inner.by_name[name]))
    }

    pub(crate) fn corrupt(&self) {
        self.inner.corrupt.store(true, Ordering::Relaxed);
    }
}

async fn token(headers: HeaderMap) -> Response {
    let login = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match login {
        Some("Basic bWU6aHVzaC1odXNo") => answer(StatusCode::OK, &json!({ "token": "t0ken" })),
        _ => answer(StatusCode::UNAUTHORIZED, &json!({ "errors": [] })),
    }
}

fn challenge(headers: &HeaderMap) -> Option<Response> {
    if headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) == Some("Bearer t0ken") {
        return None;
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let text = format!("Bearer realm=\"http://{host}/token\",service=\"registry\",scope=\"repository:x:pull\"");
    let mut refused = answer(StatusCode::UNAUTHORIZED, &json!({ "errors": [{ "code": "UNAUTHORIZED" }] }));
    refused.headers_mut().insert(header::WWW_AUTHENTICATE, text.parse().unwrap());
    Some(refused)
}

async fn manifest(
    State(inner): State<Arc<Inner>>,
    Path((team, name, reference)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = challenge(&headers) {
        return refused;
    }
    let Some(body) = inner.by_name.get(format!("{team}/{name}").as_str()) else {
        return answer(StatusCode::NOT_FOUND, &json!({ "errors": [{ "code": "MANIFEST_UNKNOWN" }] }));
    };
    let digest = format!("sha256:{}", sha256(body));
    let reply = |body: Vec<u8>, kind: &str| {
        Response::builder().header(header::CONTENT_TYPE, kind).body(Body::from(body)).unwrap()
    };
    if reference == digest {
        return reply(body.clone(), "application/vnd.oci.image.manifest.v1+json");
    }
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        { "digest": format!("sha256:{}", "0".repeat(64)), "size": 1, "platform": { "os": "windows", "architecture": "amd64" } },
        { "digest": digest, "size": body.len(), "platform": { "os": "linux", "architecture": architecture } }
    ]});
    reply(index.to_string().into_bytes(), "application/vnd.oci.image.index.v1+json")
}

async fn blob(
    State(inner): State<Arc<Inner>>,
    Path((_, _, digest)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = challenge(&headers) {
        return refused;
    }
    let Some(body) = inner.blobs.get(&digest) else {
        return answer(StatusCode::NOT_FOUND, &json!({ "errors": [{ "code": "BLOB_UNKNOWN" }] }));
    };
    let mut body = body.clone();
    if inner.corrupt.load(Ordering::Relaxed)
        && let Some(last) = body.last_mut()
    {
        *last ^= 1;
    }
    bytes(&headers, &body)
}
