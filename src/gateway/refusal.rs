//! Our own answers: an HTTP status with a JSON body, or a gRPC status, with a reason a program can match.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::api::meta;
use crate::plan::routes::{RouteState, RouteTable};

use super::hold::PHASE_HEADER;
use super::route::{Miss, MissReason};

/// Why a request is not forwarded, or has no answer to relay.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// One CamelCase word.
    pub(crate) reason: Cow<'static, str>,
    /// A sentence for a person.
    pub(crate) message: String,
    /// When trying again makes sense.
    pub(crate) retry_after: Option<Duration>,
    /// What exists, for someone who asked for what does not.
    pub(crate) exists: Option<Exists>,
    /// Where the service is that was asked for, when that is why.
    pub(crate) phase: Option<String>,
    /// Where to look how far it is, for a client that would rather not wait.
    pub(crate) location: Option<String>,
    /// Whether the connection must end after this.
    pub(crate) close: bool,
}

/// What can be asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exists {
    services: Value,
    graphs: Value,
}

impl Exists {
    fn of(table: &RouteTable) -> Self {
        Self { services: services(table), graphs: graphs(table) }
    }
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
            message: message.into(),
            retry_after: None,
            exists: None,
            phase: None,
            location: None,
            close: false,
        }
    }

    pub(crate) fn unavailable(
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
        retry: Duration,
    ) -> Self {
        Self { retry_after: Some(retry), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, message) }
    }

    /// Says where the service is, for programs: the reason once more, as a header.
    pub(crate) fn in_phase(self) -> Self {
        Self { phase: Some(self.reason.to_string()), ..self }
    }

    pub(crate) fn bad_request(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, message)
    }

    pub(crate) fn uri_too_long() -> Self {
        let message = "the request's target is too long; shorten it, or raise `gateway.maxUriBytes`";
        Self::new(StatusCode::URI_TOO_LONG, "UriTooLong", message)
    }

    pub(crate) fn headers_too_large() -> Self {
        let message = "the request's headers are too large or too many; send less, or raise `gateway.maxHeaderBytes` or \
                       `gateway.maxHeaderCount`";
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "HeadersTooLarge", message)
    }

    /// What came of a body cannot be told from a whole one; nothing more is read.
    pub(crate) fn broken_body(message: impl Into<String>) -> Self {
        Self::bad_request("BrokenBody", message).closing()
    }

    pub(crate) fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// Explains a request that goes to nobody, and lists what exists.
    pub(crate) fn miss(miss: &Miss, table: &RouteTable) -> Self {
        // A name may be as long as a request's body.
        let wanted = shortened(&miss.wanted);
        let message = match miss.reason {
            MissReason::UnknownHost => format!("no InferenceService has the host `{wanted}`; {LISTED}"),
            MissReason::UnknownService => format!("there is no InferenceService `{wanted}`; {LISTED}"),
            MissReason::UnknownModel => format!("no InferenceService serves a model `{wanted}`; {LISTED}"),
            MissReason::UnknownPath if is_of_the_api(&wanted) => format!(
                "nothing is served at `{wanted}` on this port; metrics and the Kubernetes API have a port of their own, \
                 8090 unless `apiListen` says otherwise"
            ),
            MissReason::UnknownPath => format!(
                "nothing is served at `{wanted}` on this address; use a service's host, /serving/<namespace>/<name>/ or \
                 a model's name in the path"
            ),
            MissReason::ClusterLocal => format!(
                "InferenceService `{wanted}` is cluster-local (label {}): it is called by other services, as \
                 <name>.<namespace>.svc.cluster.local, and has no public address; take the label away to give it one",
                meta::VISIBILITY
            ),
            MissReason::NoComponent => format!(
                "InferenceService `{wanted}` has no component that could answer; `kserve-local describe` says why"
            ),
            MissReason::AmbiguousHost => {
                format!("the host `{wanted}` could mean {}; write <name>.<namespace> instead", list(miss))
            }
            MissReason::AmbiguousModel => {
                format!("the model `{wanted}` is served by {}; use a service's host or /serving/ path", list(miss))
            }
        };
        let reason = match miss.reason {
            MissReason::UnknownHost => "UnknownHost",
            MissReason::UnknownService => "UnknownService",
            MissReason::UnknownModel => "UnknownModel",
            MissReason::UnknownPath => "UnknownPath",
            MissReason::NoComponent => "NoComponent",
            MissReason::ClusterLocal => "ClusterLocal",
            MissReason::AmbiguousHost | MissReason::AmbiguousModel => "Ambiguous",
        };
        Self { exists: Some(Exists::of(table)), ..Self::new(StatusCode::NOT_FOUND, reason, message) }
    }

    /// Makes the answer. A gRPC client gets a status in trailers-only form, everyone else JSON.
    pub(crate) fn into_response(self, grpc: bool) -> Response<Bytes> {
        let retry_after = self.retry_after.map(|after| HeaderValue::from(after.as_secs().max(1)));
        let close = self.close;
        let phase = self.phase.as_deref().and_then(|phase| HeaderValue::from_str(phase).ok());
        let location = self.location.as_deref().and_then(|location| HeaderValue::from_str(location).ok());
        let mut response = if grpc { self.into_grpc() } else { self.into_json() };
        if let Some(location) = location {
            response.headers_mut().insert(header::LOCATION, location);
            response.headers_mut().insert("preference-applied", HeaderValue::from_static("respond-async"));
        }
        if let Some(after) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, after);
        }
        if let Some(phase) = phase {
            response.headers_mut().insert(PHASE_HEADER, phase);
        }
        if close {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn into_json(self) -> Response<Bytes> {
        let word = if self.status.is_success() { "message" } else { "error" };
        let mut body = json!({ word: self.message, "reason": self.reason });
        if let Some(Exists { services, graphs }) = self.exists {
            body["services"] = services;
            body["graphs"] = graphs;
        }
        let mut response = json_response(&body);
        *response.status_mut() = self.status;
        response
    }

    fn into_grpc(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        // To gRPC a path is a method, and one that nobody has is not implemented.
        let status = if self.reason == "UnknownPath" { 12 } else { grpc_status(self.status) };
        headers.insert("grpc-status", HeaderValue::from(status));
        let message = percent_encode(&format!("{}: {}", self.reason, self.message));
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert("grpc-message", message);
        }
        response
    }
}

/// Makes a JSON answer with status 200.
pub(crate) fn json_response(body: &Value) -> Response<Bytes> {
    let mut text = body.to_string();
    text.push('\n');
    let mut response = Response::new(Bytes::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns whether a request or answer is gRPC, by its content type.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    content_type.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Lists every service with what is needed to address it.
pub(crate) fn services(table: &RouteTable) -> Value {
    let listed = table.services.values().filter(|service| !service.cluster_local).map(|service| {
        let ready = !service.components.is_empty()
            && service.components.values().all(|component| matches!(component.state, RouteState::Open(_)));
        json!({
            "name": service.key.name,
            "namespace": service.key.namespace,
            "models": service.model_names,
            "ready": ready,
        })
    });
    Value::Array(listed.collect())
}

/// Lists every InferenceGraph with what is needed to address it.
pub(crate) fn graphs(table: &RouteTable) -> Value {
    let listed = table
        .graphs
        .values()
        .map(|graph| json!({ "name": graph.key.name, "namespace": graph.key.namespace, "ready": graph.graph.is_ok() }));
    Value::Array(listed.collect())
}

/// Whether a path looks for what the API's port serves.
fn is_of_the_api(path: &str) -> bool {
    let first = path.trim_start_matches('/').split('/').next();
    first.is_some_and(|first| matches!(first, "metrics" | "api" | "apis" | "healthz" | "readyz" | "livez" | "version"))
}

fn list(miss: &Miss) -> String {
    let names: Vec<String> = miss.candidates.iter().map(|key| format!("`{key}`")).collect();
    names.join(" or ")
}

fn grpc_status(status: StatusCode) -> u16 {
    match status {
        StatusCode::NOT_FOUND => 5,
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => 4,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => 14,
        StatusCode::NOT_IMPLEMENTED => 12,
        StatusCode::PAYLOAD_TOO_LARGE => 8,
        status if status.is_client_error() => 3,
        _ => 13,
    }
}

/// For clients that do not get the list with the refusal.
const LISTED: &str = "GET / at localhost, without a service's host, lists what there is";
/// Longest name that is told back, in characters.
const MAX_WANTED: usize = 200;

fn shortened(wanted: &str) -> Cow<'_, str> {
    match wanted.char_indices().nth(MAX_WANTED) {
        Some((end, _)) => format!("{}…", &wanted[..end]).into(),
        None => wanted.into(),
    }
}

/// Longest `grpc-message`: clients take 8 KiB of headers, and say nothing of what is wrong when there is more.
const MAX_GRPC_MESSAGE: usize = 4 << 10;

/// As the gRPC protocol wants `grpc-message`: everything but printable ASCII, and `%` itself.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for char in text.chars() {
        if encoded.len() > MAX_GRPC_MESSAGE {
            encoded.push_str("...");
            break;
        }
        if matches!(char, ' '..='~') && char != '%' {
            encoded.push(char);
            continue;
        }
        for byte in char.encode_utf8(&mut [0; 4]).bytes() {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::ServiceKey;
    use crate::plan::routes::GraphRoute;

    #[test]
    fn a_refusal_is_json_with_a_reason_for_http_clients() {
        let refusal = Refusal::unavailable("ModelPulling", "the model is being pulled", Duration::from_millis(200));
        let response = refusal.into_response(false);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1", "never 0");
        assert_eq!(response.body(), "{\"error\":\"the model is being pulled\",\"reason\":\"ModelPulling\"}\n");
    }

    #[test]
    fn who_asks_for_what_is_not_there_is_told_of_services_and_graphs() {
        let key = ServiceKey::new("team", "both");
        let graph = GraphRoute { key: key.clone(), graph: Err(("NotReady".to_owned(), "no service".to_owned())) };
        let table = RouteTable { graphs: [(key, Arc::new(graph))].into(), ..RouteTable::default() };
        let miss = Miss { reason: MissReason::UnknownHost, wanted: "x.localhost".to_owned(), candidates: Vec::new() };
        let response = Refusal::miss(&miss, &table).into_response(false);
        assert_eq!(response.status(), 404);
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["services"], json!([]));
        assert_eq!(body["graphs"], json!([{ "name": "both", "namespace": "team", "ready": false }]));
    }

    #[test]
    fn who_asks_the_wrong_port_for_metrics_is_told_the_right_one() {
        for (path, told) in [("/metrics", true), ("/apis/serving.kserve.io/v1beta1", true), ("/apiary", false)] {
            let miss = Miss::new(MissReason::UnknownPath, path);
            let response = Refusal::miss(&miss, &RouteTable::default()).into_response(false);
            let body: Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(body["error"].as_str().unwrap().contains("`apiListen`"), told, "{path}");
        }
    }

    #[test]
    fn a_refusal_is_a_status_for_grpc_clients() {
        let refusal = Refusal::unavailable("Asleep", "100 % zzz\né", Duration::from_secs(3));
        let response = refusal.into_response(true);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "Asleep: 100 %25 zzz%0A%C3%A9");
        assert!(response.body().is_empty());
    }

    #[test]
    fn to_grpc_clients_an_unknown_method_is_not_implemented_and_no_message_is_too_long() {
        let miss = |reason, wanted: &str| Refusal::miss(&Miss::new(reason, wanted), &RouteTable::default());
        let status = |refusal: Refusal| refusal.into_response(true).headers()["grpc-status"].clone();
        assert_eq!(status(miss(MissReason::UnknownPath, "/grpc.health.v1.Health/Watch")), "12");
        assert_eq!(status(miss(MissReason::UnknownModel, "iris")), "5");
        let long = miss(MissReason::UnknownModel, &"é".repeat(100_000));
        assert!(long.message.contains("é…`"), "{}", long.message);
        let told = Refusal::bad_request("Long", "é".repeat(100_000)).into_response(true);
        let told = told.headers()["grpc-message"].to_str().unwrap();
        assert!(told.len() < 5000 && told.ends_with("%C3%A9..."), "{told}");
    }

    #[test]
    fn only_grpc_is_taken_for_grpc() {
        for (content_type, wanted) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static(content_type));
            assert_eq!(is_grpc(&headers), wanted, "{content_type}");
        }
    }
}
