//! An Azure file share that checks signatures.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Files, Server};

/// The account's key.
pub(crate) const KEY: &[u8] = b"hush-hush-hush";

/// Starts the account `acct` with one share; a signature in the query is believed when it is `sig=good`.
pub(crate) async fn start(files: Files) -> Server {
    Server::start(Router::new().fallback(share).with_state(Arc::new(files))).await
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |byte: u8| block.map(|own| own ^ byte);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

/// Signs a text with a key in Base64.
pub(crate) fn signature(key: &str, text: &str) -> String {
    STANDARD.encode(hmac(&STANDARD.decode(key).unwrap(), text.as_bytes()))
}

fn is_signed(request: &Request, query: &BTreeMap<String, String>) -> bool {
    if query.get("sig").map(String::as_str) == Some("good") {
        return true;
    }
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut own: Vec<String> = request
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-ms-"))
        .map(|(name, value)| format!("{name}:{}", value.to_str().unwrap()))
        .collect();
    own.sort();
    let query: String = query.iter().map(|(name, value)| format!("\n{name}:{value}")).collect();
    let signed = format!("GET\n\n\n\n\n\n\n\n\n\n\n\n{}\n/acct{}{query}", own.join("\n"), request.uri().path());
    text("authorization") == format!("SharedKey acct:{}", STANDARD.encode(hmac(KEY, signed.as_bytes())))
}

async fn share(State(files): State<Arc<Files>>, request: Request) -> Response {
    let raw = request.uri().query().unwrap_or_default();
    let query: BTreeMap<String, String> = url::form_urlencoded::parse(raw.as_bytes()).into_owned().collect();
    let answer = |status: StatusCode| Response::builder().status(status);
    if !is_signed(&request, &query) {
        return answer(StatusCode::FORBIDDEN)
            .body(Body::from("<Error><Code>AuthenticationFailed</Code></Error>"))
            .unwrap();
    }
    let path = request.uri().path().trim_start_matches("/box").trim_matches('/').replace("%20", " ");
    if query.get("comp").map(String::as_str) != Some("list") {
        let Some(body) = files.get(&path) else { return answer(StatusCode::NOT_FOUND).body(Body::empty()).unwrap() };
        let mut headers = request.headers().clone();
        if let Some(range) = headers.get("x-ms-range").cloned() {
            headers.insert(header::RANGE, range);
        }
        return super::bytes(&headers, body);
    }
    let below = if path.is_empty() { String::new() } else { format!("{path}/") };
    let inside: Vec<_> = files.iter().filter_map(|(name, body)| Some((name.strip_prefix(&below)?, body))).collect();
    if inside.is_empty() {
        return answer(StatusCode::NOT_FOUND).body(Body::empty()).unwrap();
    }
    let folders: BTreeSet<&str> = inside.iter().filter_map(|(name, _)| Some(name.split_once('/')?.0)).collect();
    let own: String = inside
        .iter()
        .filter(|(name, _)| !name.contains('/'))
        .map(|(name, body)| {
            format!(
                "<File><Name>{name}</Name><Properties><Content-Length>{}</Content-Length></Properties></File>",
                body.len()
            )
        })
        .collect();
    let folders: String = folders.iter().map(|name| format!("<Directory><Name>{name}</Name></Directory>")).collect();
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Entries>{own}{folders}</Entries><NextMarker /></EnumerationResults>"
    );
    answer(StatusCode::OK).header(header::CONTENT_TYPE, "application/xml").body(Body::from(xml)).unwrap()
}
