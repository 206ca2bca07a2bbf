//! Payload events (§5.6): what was asked and answered, as CloudEvents with the types, ids and attributes KServe's agent
//! gives them. Pure but for the time an event is made at.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

use crate::store::random_uid;
use crate::workload::{ComponentKey, Logging};

use super::tap::Copy;

/// Where the agent says its events come from.
const SOURCE: &str = "http://localhost:9081/";

/// A request or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// What a client asked.
    Request,
    /// What a model answered.
    Response,
}

impl Side {
    fn event_type(self) -> &'static str {
        match self {
            Self::Request => "org.kubeflow.serving.inference.request",
            Self::Response => "org.kubeflow.serving.inference.response",
        }
    }

    /// Returns the word used in names of objects.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
        }
    }
}

/// What the events of one request have in common.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// How its component is logged.
    pub(crate) logging: Arc<Logging>,
    component: ComponentKey,
    id: String,
    metadata: Value,
    method: String,
    path: String,
}

/// One event on its way to a sink.
#[derive(Debug)]
pub(crate) struct Event {
    /// What it has in common with the other side.
    pub(crate) context: Arc<Context>,
    /// Which side.
    pub(crate) side: Side,
    time: Timestamp,
    content_type: Option<HeaderValue>,
    /// The body.
    pub(crate) copy: Copy,
}

impl Context {
    /// Takes what is to be known of a request.
    pub(crate) fn new(
        logging: &Arc<Logging>,
        component: ComponentKey,
        method: &Method,
        headers: &HeaderMap,
        path: &str,
    ) -> Self {
        let given = headers.get("ce-id").and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
        Self {
            logging: Arc::clone(logging),
            component,
            id: given.map_or_else(random_uid, str::to_owned),
            metadata: metadata(&logging.metadata_headers, headers),
            method: method.to_string(),
            path: path.to_owned(),
        }
    }
}

/// Names and values of the headers that are asked for. Names compare without regard to case; those with credentials have
/// their values left out.
fn metadata(wanted: &[String], headers: &HeaderMap) -> Value {
    let mut found = Map::new();
    for name in wanted {
        let Ok(name) = name.trim().parse::<HeaderName>() else { continue };
        let secret = [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION].contains(&name);
        let values = headers.get_all(&name).iter();
        let values: Vec<Value> = values
            .map(|value| if secret { json!(REDACTED) } else { json!(String::from_utf8_lossy(value.as_bytes())) })
            .collect();
        if !values.is_empty() {
            found.insert(super::graph_run::canonical(&name), Value::Array(values));
        }
    }
    Value::Object(found)
}

/// Stands where something was that is nobody's business.
const REDACTED: &str = "[redacted]";

impl Event {
    /// Makes an event of now.
    pub(crate) fn new(context: &Arc<Context>, side: Side, content_type: Option<HeaderValue>, copy: Copy) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an event carries the time of day")]
        let time = Timestamp::now();
        Self { context: Arc::clone(context), side, time, content_type, copy }
    }

    /// Returns the id, which both sides share.
    pub(crate) fn id(&self) -> &str {
        &self.context.id
    }

    /// Whose event it is.
    pub(crate) fn component(&self) -> &ComponentKey {
        &self.context.component
    }

    /// Returns the body as it may be shown: what is to be redacted is, and a body of which that cannot be told is empty.
    pub(crate) fn body(&self) -> Bytes {
        let whole = self.copy.concat();
        let paths = &self.context.logging.redact;
        if paths.is_empty() {
            return whole;
        }
        let Ok(mut value) = serde_json::from_slice::<Value>(&whole) else { return Bytes::new() };
        for path in paths {
            redact(&mut value, &path.split('.').collect::<Vec<_>>());
        }
        Bytes::from(value.to_string())
    }

    fn attributes(&self, now: Timestamp) -> Vec<(&'static str, String)> {
        let key = &self.context.component;
        let mut all = vec![
            ("specversion", "1.0".to_owned()),
            ("id", self.context.id.clone()),
            ("source", SOURCE.to_owned()),
            ("type", self.side.event_type().to_owned()),
            ("time", self.time.to_string()),
            ("recordedtime", now.to_string()),
            ("inferenceservicename", key.service.name.clone()),
            ("namespace", key.service.namespace.clone()),
            ("component", key.component.to_string()),
            ("endpoint", String::new()),
            ("metadata", self.context.metadata.to_string()),
        ];
        let annotations: &BTreeMap<String, String> = &self.context.logging.annotations;
        if !annotations.is_empty() {
            all.push(("annotations", json!(annotations).to_string()));
        }
        all
    }

    /// Returns the headers of a binary-mode HTTP event.
    pub(crate) fn headers(&self, now: Timestamp) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in self.attributes(now) {
            let name = HeaderName::try_from(format!("ce-{name}"));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(ascii(&value))) {
                headers.insert(name, value);
            }
        }
        headers.extend(self.content_type.clone().map(|content_type| (header::CONTENT_TYPE, content_type)));
        headers
    }

    /// Returns the event as a CloudEvent in JSON, with what is needed to ask again.
    pub(crate) fn to_json(&self, now: Timestamp) -> Value {
        let attributes = self.attributes(now).into_iter().filter(|(_, value)| !value.is_empty());
        let mut event: Map<String, Value> =
            attributes.map(|(name, value)| (name.to_owned(), Value::String(value))).collect();
        event.insert("requestmethod".to_owned(), json!(self.context.method));
        event.insert("requestpath".to_owned(), json!(self.context.path));
        if let Some(content_type) = self.content_type.as_ref().and_then(|value| value.to_str().ok()) {
            event.insert("datacontenttype".to_owned(), json!(content_type));
        }
        if self.copy.is_cut {
            event.insert("datacut".to_owned(), json!("true"));
        }
        let body = self.body();
        match (serde_json::from_slice::<Value>(&body), std::str::from_utf8(&body)) {
            (Ok(value), _) => drop(event.insert("data".to_owned(), value)),
            (_, Ok(text)) => drop(event.insert("data".to_owned(), json!(text))),
            _ => drop(event.insert("data_base64".to_owned(), json!(ByteString(body.to_vec())))),
        }
        Value::Object(event)
    }
}

/// Replaces what a path leads to; `*` and `#` stand for every element.
fn redact(value: &mut Value, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else {
        *value = Value::String(REDACTED.to_owned());
        return;
    };
    match (value, *first) {
        (Value::Array(list), "*" | "#") => list.iter_mut().for_each(|one| redact(one, rest)),
        (Value::Object(map), "*") => map.values_mut().for_each(|one| redact(one, rest)),
        (Value::Array(list), index) => {
            if let Some(one) = index.parse::<usize>().ok().and_then(|index| list.get_mut(index)) {
                redact(one, rest);
            }
        }
        (Value::Object(map), key) => {
            if let Some(one) = map.get_mut(key) {
                redact(one, rest);
            }
        }
        _ => {}
    }
}

/// JSON text that fits a header: what is not ASCII is escaped.
fn ascii(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            escaped.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a string cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ComponentKind, ServiceKey};

    fn event(logging: Logging, body: &'static str) -> Event {
        let request = http::Request::builder()
            .method("POST")
            .header("ce-id", "given")
            .header("x-tenant", "å")
            .header("authorization", "Bearer secret");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let component = ComponentKey { service: ServiceKey::new("team", "iris"), component: ComponentKind::Predictor };
        let context =
            Context::new(&Arc::new(logging), component, &parts.method, &parts.headers, "/v1/models/iris:predict");
        let json = Some(HeaderValue::from_static("application/json"));
        Event::new(&Arc::new(context), Side::Request, json, Copy::of(Bytes::from_static(body.as_bytes())))
    }

    #[test]
    fn an_event_has_the_attributes_of_kserves_agent() {
        let logging = Logging {
            metadata_headers: vec!["X-Tenant".to_owned(), "authorization".to_owned(), "x-none".to_owned()],
            annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            ..Logging::default()
        };
        let headers = event(logging, "{}").headers(Timestamp::UNIX_EPOCH);
        let value = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!(value("ce-type"), "org.kubeflow.serving.inference.request");
        assert_eq!(
            (value("ce-id"), value("ce-source"), value("ce-specversion")),
            ("given".into(), SOURCE.into(), "1.0".into())
        );
        assert_eq!(
            (value("ce-inferenceservicename"), value("ce-namespace"), value("ce-component")),
            ("iris".into(), "team".into(), "predictor".into())
        );
        assert_eq!(value("ce-metadata"), r#"{"X-Tenant":["\u00e5"],"Authorization":["[redacted]"]}"#);
        assert_eq!((value("ce-annotations"), value("ce-endpoint")), (r#"{"a":"b"}"#.into(), String::new()));
        assert_eq!(value("ce-recordedtime"), "1970-01-01T00:00:00Z");
        assert_eq!(value("content-type"), "application/json");
    }

    #[test]
    fn what_is_to_be_redacted_never_leaves() {
        let logging = |paths: &[&str]| Logging {
            redact: paths.iter().map(|path| (*path).to_owned()).collect(),
            ..Logging::default()
        };
        let body = r#"{"instances":[{"ssn":"1","x":2},{"ssn":"3"}],"user":{"mail":"m"},"k":[5,6]}"#;
        let shown = event(logging(&["instances.*.ssn", "user.mail", "k.1", "no.such"]), body).body();
        assert_eq!(
            shown,
            r#"{"instances":[{"ssn":"[redacted]","x":2},{"ssn":"[redacted]"}],"user":{"mail":"[redacted]"},"k":[5,"[redacted]"]}"#
        );
        assert!(event(logging(&["a"]), "no json").body().is_empty());
        assert_eq!(event(logging(&[]), "no json").body(), "no json");
        let json = event(logging(&["user"]), body).to_json(Timestamp::UNIX_EPOCH);
        assert_eq!(
            (&json["data"]["user"], &json["requestpath"]),
            (&json!("[redacted]"), &json!("/v1/models/iris:predict"))
        );
    }
}
