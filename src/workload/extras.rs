//! What the proxy does for a component besides forwarding: on a cluster, the work of sidecars and routers. None of it is
//! part of a container, so none of it makes a revision.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::pod::Pod;
use crate::api::component::{BatcherSpec, LoggerSpec};
use crate::api::{ComponentSpec, ServiceKey};

/// Batches V2 requests, too.
pub(super) const BATCH_V2: &str = "kserve-local/batcher-v2";
/// `upstream`: a batch that fails is answered with status 200, as KServe's batcher does.
pub(super) const BATCH_STATUS: &str = "kserve-local/batcher-status";
/// Names the InferenceService, `name` or `name.namespace`, that gets a copy of each request.
pub(super) const MIRROR: &str = "kserve-local/mirror";
/// Percent of requests that are copied; 100 when it is not given.
pub(super) const MIRROR_PERCENT: &str = "kserve-local/mirror-percent";
/// Paths in JSON bodies, comma-separated, whose values are left out of payload logs: `instances.*.ssn`.
pub(super) const LOGGER_REDACT: &str = "kserve-local/logger-redact";

/// What the proxy knows of a component beyond where it is. Empty for most; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extras {
    /// Path under which a graph calls the component (§6.3); none when its protocol has none.
    pub predict_path: Option<Arc<str>>,
    /// Requests that come together go to the model together.
    pub batching: Option<Arc<Batching>>,
    /// Payloads are logged.
    pub logging: Option<Arc<Logging>>,
    /// Requests are copied to another service.
    pub mirroring: Option<Arc<Mirroring>>,
}

/// How requests are batched (§5.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Instances at which a batch is full.
    pub max_size: usize,
    /// Longest wait of the first one.
    pub max_latency: Duration,
    /// Whether V2 requests are batched.
    pub v2: bool,
    /// Whether a batch that fails is answered with 200.
    pub always_ok: bool,
}

/// How payloads are logged (§5.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// Where to.
    pub sink: LogSink,
    /// Whether requests are.
    pub requests: bool,
    /// Whether answers are.
    pub responses: bool,
    /// Names of request headers that go along.
    pub metadata_headers: Vec<String>,
    /// Annotations that go along, with their values.
    pub annotations: BTreeMap<String, String>,
    /// Paths whose values do not.
    pub redact: Vec<String>,
}

/// Where payload events go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum LogSink {
    /// A file of this machine, in the daemon's own folder.
    #[default]
    File,
    /// A URL that takes CloudEvents.
    Http(String),
    /// A bucket.
    Object {
        /// `s3://bucket/prefix` or `gs://bucket/prefix`.
        url: String,
        /// `storage.path`.
        path: String,
    },
}

impl LogSink {
    /// Names the sink, without what may be secret in its URL.
    pub fn describe(&self) -> String {
        let url = match self {
            Self::File => return "the payload file".to_owned(),
            Self::Http(url) | Self::Object { url, .. } => url,
        };
        let plain = url.split(['?', '#']).next().unwrap_or_default();
        match (plain.split_once("://"), plain.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            _ => plain.to_owned(),
        }
    }
}

/// Where requests are copied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirroring {
    /// The other service.
    pub to: ServiceKey,
    /// Percent of requests.
    pub percent: u32,
}

impl Extras {
    /// Whether requests are forwarded and that is all.
    pub fn is_plain(&self) -> bool {
        self.batching.is_none() && self.logging.is_none() && self.mirroring.is_none()
    }
}

/// Returns the extras of a component; what is written and means nothing is named in `warnings`.
pub(super) fn extras(
    pod: &Pod,
    component: &ComponentSpec,
    service: &ServiceKey,
    model: &str,
    warnings: &mut Vec<String>,
) -> Extras {
    let mut notes = Notes { path: format!("spec.{}", pod.kind), warnings };
    Extras {
        predict_path: predict_path(&pod.graph_protocol, model).map(Arc::from),
        batching: component.batcher.as_ref().map(|written| Arc::new(batching(written, &pod.annotations, &mut notes))),
        logging: component
            .logger
            .as_ref()
            .and_then(|written| logging(written, &pod.annotations, &mut notes))
            .map(Arc::new),
        mirroring: mirroring(&pod.annotations, service, &mut notes).map(Arc::new),
    }
}

struct Notes<'a> {
    path: String,
    warnings: &'a mut Vec<String>,
}

impl Notes<'_> {
    fn field(&mut self, field: &str, message: &str) {
        let path = &self.path;
        self.warnings.push(format!("{path}.{field}: {message}"));
    }

    fn annotation(&mut self, name: &str, message: &str) {
        self.warnings.push(format!("metadata.annotations[{name}]: {message}"));
    }
}

/// `PredictPath` of upstream: nothing for gRPC, and nothing for what is unheard of.
fn predict_path(protocol: &str, model: &str) -> Option<String> {
    match protocol {
        "v1" => Some(format!("/v1/models/{model}:predict")),
        "v2" => Some(format!("/v2/models/{model}/infer")),
        _ => None,
    }
}

/// The defaults are those of the agent's flags; KServe's documents say 500 ms.
fn batching(written: &BatcherSpec, annotations: &BTreeMap<String, String>, notes: &mut Notes<'_>) -> Batching {
    if written.timeout.is_some() {
        notes.field("batcher.timeout", "KServe does not read it either; the component's own timeout applies");
    }
    let positive =
        |value: Option<i64>, default: u64| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default);
    let is = |name: &str, wanted: &str| annotations.get(name).is_some_and(|value| value.eq_ignore_ascii_case(wanted));
    Batching {
        max_size: usize::try_from(positive(written.max_batch_size, 32)).unwrap_or(usize::MAX),
        max_latency: Duration::from_millis(positive(written.max_latency, 5000)),
        v2: is(BATCH_V2, "true"),
        always_ok: is(BATCH_STATUS, "upstream"),
    }
}

fn logging(written: &LoggerSpec, annotations: &BTreeMap<String, String>, notes: &mut Notes<'_>) -> Option<Logging> {
    let sink = sink(written, notes)?;
    let mode = written.mode.as_deref().unwrap_or("all");
    let mut taken = BTreeMap::new();
    for name in written.metadata_annotations.iter().flatten() {
        match annotations.get(name) {
            Some(value) => drop(taken.insert(name.clone(), value.clone())),
            None => notes.field("logger.metadataAnnotations", &format!("there is no annotation `{name}`")),
        }
    }
    for (field, is_written) in [
        ("logger.marshallerUrl", written.marshaller_url.is_some()),
        ("logger.batchSize", written.batch_size.is_some_and(|size| size > 1)),
        ("logger.batchInterval", written.batch_interval.is_some()),
    ] {
        if is_written {
            notes.field(field, "each event is an object of its own here, in JSON");
        }
    }
    let redact = annotations.get(LOGGER_REDACT).map(String::as_str).unwrap_or_default();
    Some(Logging {
        sink,
        requests: mode != "response",
        responses: mode != "request",
        metadata_headers: written.metadata_headers.clone().unwrap_or_default(),
        annotations: taken,
        redact: redact.split(',').map(str::trim).filter(|path| !path.is_empty()).map(str::to_owned).collect(),
    })
}

fn sink(written: &LoggerSpec, notes: &mut Notes<'_>) -> Option<LogSink> {
    let url = written.url.as_deref().unwrap_or_default().trim();
    let storage = written.storage.as_ref();
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    match scheme {
        _ if url.is_empty() => Some(LogSink::File),
        "http" | "https" => Some(LogSink::Http(url.to_owned())),
        "s3" | "gs" => {
            let parameters = storage.and_then(|storage| storage.parameters.as_ref());
            let format = parameters.and_then(|all| all.get("format")).map_or("json", String::as_str);
            if format != "json" {
                notes.field("logger.storage.parameters.format", &format!("`{format}` is not written here; json is"));
            }
            if storage.is_some_and(|storage| storage.key.is_some()) {
                notes.field("logger.storage.key", "the daemon's own credentials are used");
            }
            let path = storage.and_then(|storage| storage.path.clone()).unwrap_or_default();
            Some(LogSink::Object { url: url.to_owned(), path })
        }
        _ => {
            let message = format!(
                "payloads cannot go to `{url}`, so they are not logged; write an http(s), s3 or gs URL, or leave it out for \
                 a file in the daemon's own folder"
            );
            notes.field("logger.url", &message);
            None
        }
    }
}

fn mirroring(annotations: &BTreeMap<String, String>, service: &ServiceKey, notes: &mut Notes<'_>) -> Option<Mirroring> {
    let written = annotations.get(MIRROR).map(|value| value.trim()).filter(|value| !value.is_empty())?;
    let (name, namespace) = written.split_once('.').unwrap_or((written, &service.namespace));
    let to = ServiceKey::new(namespace, name);
    if to == *service {
        notes.annotation(MIRROR, "a service cannot be its own mirror; nothing is copied");
        return None;
    }
    let percent = match annotations.get(MIRROR_PERCENT).map(|value| value.trim().parse::<u32>()) {
        None => 100,
        Some(Ok(percent)) if percent <= 100 => percent,
        Some(_) => {
            notes.annotation(MIRROR_PERCENT, "it is no number from 0 to 100; nothing is copied");
            return None;
        }
    };
    Some(Mirroring { to, percent })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(work: impl FnOnce(&mut Notes<'_>)) -> Vec<String> {
        let mut warnings = Vec::new();
        work(&mut Notes { path: "spec.predictor".to_owned(), warnings: &mut warnings });
        warnings
    }

    fn annotated(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_graph_calls_what_the_protocol_has() {
        assert_eq!(predict_path("v1", "iris").as_deref(), Some("/v1/models/iris:predict"));
        assert_eq!(predict_path("v2", "iris").as_deref(), Some("/v2/models/iris/infer"));
        assert_eq!(predict_path("grpc-v2", "iris"), None);
    }

    #[test]
    fn sinks_are_told_apart_by_their_url() {
        let of = |url: &str| {
            let mut found = None;
            let said =
                notes(|notes| found = sink(&LoggerSpec { url: Some(url.to_owned()), ..LoggerSpec::default() }, notes));
            (found, said.len())
        };
        assert_eq!(of(""), (Some(LogSink::File), 0));
        assert_eq!(of("http://dumper.default/"), (Some(LogSink::Http("http://dumper.default/".to_owned())), 0));
        assert_eq!(of("s3://b/p"), (Some(LogSink::Object { url: "s3://b/p".to_owned(), path: String::new() }), 0));
        assert_eq!(of("file:///etc/passwd"), (None, 1), "a manifest chooses no file of this machine");
        let secret = LogSink::Http("https://user:word@host/path?key=1".to_owned());
        assert_eq!(secret.describe(), "https://host/path");
    }

    #[test]
    fn a_mirror_is_another_service() {
        let own = ServiceKey::new("team", "iris");
        let of = |pairs: &[(&str, &str)]| {
            let mut found = None;
            let said = notes(|notes| found = mirroring(&annotated(pairs), &own, notes));
            (found, said.len())
        };
        let to = |namespace: &str, percent| (Some(Mirroring { to: ServiceKey::new(namespace, "next"), percent }), 0);
        assert_eq!(of(&[(MIRROR, "next")]), to("team", 100));
        assert_eq!(of(&[(MIRROR, "next.lab"), (MIRROR_PERCENT, "5")]), to("lab", 5));
        assert_eq!(of(&[(MIRROR, "iris")]), (None, 1));
        assert_eq!(of(&[(MIRROR, "next"), (MIRROR_PERCENT, "many")]), (None, 1));
        assert_eq!(of(&[]), (None, 0));
    }
}
