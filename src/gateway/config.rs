//! What of the data path can be set, with safe defaults.

use std::time::Duration;

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::access_log::AccessLogFormat;
use super::upload::Pace;

/// Limits and deadlines of the data path: `gateway` in `config.yaml`. Every wait and every queue in this room ends by one
/// of these. Times are written `500ms`, `15s`, `1m30s` or `1h`, sizes `65536` or `64Ki`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Threads that serve connections. Default: as many as the machine has cores, at most 8.
    pub workers: usize,
    /// From the first byte of a request's head to its last. Then 408 and a close. Default 15 s.
    #[serde(with = "span")]
    pub header_timeout: Duration,
    /// A connection with no request in flight is closed after this long. Default 75 s, above the 65 s of KServe's
    /// own clients and servers.
    #[serde(with = "span")]
    pub idle_timeout: Duration,
    /// An HTTP/1 connection with no request in flight gives its buffers back after this long; the next request makes new
    /// ones. Default 1 s.
    #[serde(with = "span")]
    pub rest_after: Duration,
    /// A client that has bytes to send or to take and moves none for this long is cut off. Default 60 s.
    #[serde(with = "span")]
    pub stall_timeout: Duration,
    /// Slowest upload, in bytes a second, measured over `stall_timeout` of waiting for the client. Streams
    /// of gRPC may be silent. Default 50;
    /// 0 means that any byte will do.
    #[serde(with = "size")]
    pub min_upload_rate: usize,
    /// Largest request head in bytes, request line included. Then 431. Default 64 KiB.
    #[serde(with = "size")]
    pub max_header_bytes: usize,
    /// Most header lines of a request. Then 431. Default 100, as in Envoy and Apache.
    pub max_header_count: usize,
    /// Longest request target in bytes. Then 414. Default 16 KiB.
    #[serde(with = "size")]
    pub max_uri_bytes: usize,
    /// Most client connections at once; further ones wait in the kernel's backlog. Default 10,000.
    pub max_connections: usize,
    /// Most HTTP/2 streams a client may have open on one connection. Default 256.
    pub max_streams: u32,
    /// Time to connect to a backend. Default 2 s; backends are on this machine.
    #[serde(with = "span")]
    pub connect_timeout: Duration,
    /// From a request's last byte to the first of its answer, for components that set no `timeout`. Default 300 s, as
    /// Knative's; `none` means no limit.
    #[serde(with = "optional_span")]
    pub default_request_timeout: Option<Duration>,
    /// Longest silence within an answer that has begun. Default 600 s.
    #[serde(with = "span")]
    pub body_idle_timeout: Duration,
    /// Longest silence in both directions of an upgraded connection (WebSocket). Default 1 h.
    #[serde(with = "span")]
    pub tunnel_idle_timeout: Duration,
    /// Most idle HTTP/1.1 connections kept per backend. Default 64.
    pub max_idle_upstream: usize,
    /// An idle HTTP/1.1 connection to a backend is closed after this long. Default 4 s: below the 5 s after which
    /// uvicorn and Node close theirs, so that a request never meets a connection that is just being closed.
    #[serde(with = "span")]
    pub upstream_idle_timeout: Duration,
    /// Most bytes of a body read ahead to find its `model`. Default 1 MiB.
    #[serde(with = "size")]
    pub peek_limit: usize,
    /// Largest body that is held whole, for graphs. Then 413. Default 64 MiB.
    #[serde(with = "size")]
    pub max_whole_body: usize,
    /// Most bytes of bodies held whole at once, of all requests. Then 503. Default 1 GiB.
    #[serde(with = "size")]
    pub max_whole_bodies: usize,
    /// Largest body of which a copy is taken, for payload logs and mirrors. A larger one is logged without its body, and not
    /// mirrored. Default 4 MiB.
    #[serde(with = "size")]
    pub max_payload: usize,
    /// Most bytes of payloads on their way to their logs. More are dropped and counted. Default 64 MiB.
    #[serde(with = "size")]
    pub max_payloads: usize,
    /// Headers of a request that a graph passes on to its steps: regular expressions over canonical names
    /// (`X-Request-Id`), as `router.headers.propagate` of KServe's `inferenceservice-config`. Default none.
    pub propagate_headers: Vec<String>,
    /// Most bytes of a body read while its request waits for a replica, so that a client that leaves is noticed.
    /// Default 64 KiB.
    #[serde(with = "size")]
    pub read_ahead: usize,
    /// Most requests waiting for a free replica of one component when all are at their concurrency limit. Default 100.
    pub max_waiting: usize,
    /// Most requests waiting for one component to wake or load. Default 2048.
    pub max_held: u64,
    /// Longest wait for a free replica. Default 30 s.
    #[serde(with = "span")]
    pub queue_timeout: Duration,
    /// Failures in a row (no connection, no whole answer, none in time, a 5xx) after which a replica gets no requests
    /// while another one of its revision can take them. Default 5; 0 means never.
    pub failures_to_eject: u32,
    /// After that long one request shows whether it works again; each further pause is twice as long. Default 1 s.
    #[serde(with = "span")]
    pub eject_pause: Duration,
    /// The longest such pause. Default 30 s.
    #[serde(with = "span")]
    pub max_eject_pause: Duration,
    /// After cancellation, time for requests in flight to finish. Default 30 s.
    #[serde(with = "span")]
    pub drain_deadline: Duration,
    /// Whether, and how, each request is written down. Default `none`.
    pub access_log: AccessLogFormat,
    /// File that the access log is appended to. Default: standard output.
    pub access_log_file: Option<Utf8PathBuf>,
    /// Whether `X-Forwarded-*` headers of clients are believed and added to. Default no: they are replaced.
    pub trust_forwarded: bool,
}

/// More workers than this only take memory from the models.
const MOST_WORKERS: usize = 8;

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS),
            header_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(75),
            rest_after: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(60),
            min_upload_rate: 50,
            max_header_bytes: 64 << 10,
            max_header_count: 100,
            max_uri_bytes: 16 << 10,
            max_connections: 10_000,
            max_streams: 256,
            connect_timeout: Duration::from_secs(2),
            default_request_timeout: Some(Duration::from_secs(300)),
            body_idle_timeout: Duration::from_secs(600),
            tunnel_idle_timeout: Duration::from_secs(3600),
            max_idle_upstream: 64,
            upstream_idle_timeout: Duration::from_secs(4),
            peek_limit: 1 << 20,
            max_whole_body: 64 << 20,
            max_whole_bodies: 1 << 30,
            max_payload: 4 << 20,
            max_payloads: 64 << 20,
            propagate_headers: Vec::new(),
            read_ahead: 64 << 10,
            max_waiting: 100,
            max_held: 2048,
            queue_timeout: Duration::from_secs(30),
            failures_to_eject: 5,
            eject_pause: Duration::from_secs(1),
            max_eject_pause: Duration::from_secs(30),
            drain_deadline: Duration::from_secs(30),
            access_log: AccessLogFormat::None,
            access_log_file: None,
            trust_forwarded: false,
        }
    }
}

impl GatewayConfig {
    /// Returns how fast a request's body must come.
    pub(crate) fn pace(&self) -> Pace {
        let bytes = self.min_upload_rate as u128 * self.stall_timeout.as_millis() / 1000;
        Pace { bytes: usize::try_from(bytes).unwrap_or(usize::MAX).max(1), within: self.stall_timeout }
    }

    /// Finds values with which nothing could be served.
    ///
    /// # Errors
    ///
    /// What is wrong, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        let spans = [
            ("headerTimeout", self.header_timeout),
            ("idleTimeout", self.idle_timeout),
            ("restAfter", self.rest_after),
            ("stallTimeout", self.stall_timeout),
            ("connectTimeout", self.connect_timeout),
            ("bodyIdleTimeout", self.body_idle_timeout),
            ("tunnelIdleTimeout", self.tunnel_idle_timeout),
            ("upstreamIdleTimeout", self.upstream_idle_timeout),
            ("ejectPause", self.eject_pause),
        ];
        let numbers = [
            ("workers", self.workers, 1, 256),
            ("maxHeaderBytes", self.max_header_bytes, 1024, 1 << 20),
            ("maxHeaderCount", self.max_header_count, 16, 10_000),
            ("maxUriBytes", self.max_uri_bytes, 256, 64 << 10),
            ("maxConnections", self.max_connections, 1, 1 << 20),
            ("maxStreams", self.max_streams as usize, 1, 10_000),
            ("peekLimit", self.peek_limit, 64, 64 << 20),
        ];
        if let Some((name, _)) = spans.iter().find(|(_, span)| span.is_zero()) {
            return Err(format!("{name}: no time at all would end every request; write for example 30s"));
        }
        let optional = [
            ("drainDeadline", Some(self.drain_deadline)),
            ("queueTimeout", Some(self.queue_timeout)),
            ("maxEjectPause", Some(self.max_eject_pause)),
            ("defaultRequestTimeout", self.default_request_timeout),
        ];
        let mut all = spans.map(|(name, span)| (name, Some(span))).into_iter().chain(optional);
        if let Some((name, _)) = all.find(|(_, span)| span.is_some_and(|span| span > LONGEST)) {
            return Err(format!("{name}: longer than a year; write for example 30s"));
        }
        match numbers.iter().find(|(_, value, least, most)| value < least || value > most) {
            Some((name, value, least, most)) => Err(format!("{name}: {value} is not between {least} and {most}")),
            None => Ok(()),
        }
    }
}

/// Longest time a setting may have: any can be added to any point in time.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Times as people write them.
mod span {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    #[derive(Deserialize)]
    #[serde(untagged)]
    pub(super) enum Written {
        Number(f64),
        Text(String),
    }

    pub(super) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&show(*span))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        match Written::deserialize(from)? {
            Written::Number(seconds) => Duration::try_from_secs_f64(seconds).map_err(de::Error::custom),
            Written::Text(text) => read(&text).ok_or_else(|| {
                de::Error::custom(format!("`{text}` is not a time; write for example 500ms, 15s or 1m30s"))
            }),
        }
    }

    pub(super) fn show(span: Duration) -> String {
        if span.subsec_nanos() == 0 { format!("{}s", span.as_secs()) } else { format!("{}ms", span.as_millis()) }
    }

    /// Numbers with units, one after the other, as Go writes durations.
    pub(super) fn read(text: &str) -> Option<Duration> {
        let mut rest = text.trim();
        let mut sum = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let letters = rest[digits..].find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len() - digits);
            let number: f64 = rest[..digits].parse().ok()?;
            let unit = match &rest[digits..digits + letters] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
            sum = sum.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
            rest = &rest[digits + letters..];
        }
        (!text.trim().is_empty()).then_some(sum)
    }
}

/// A time, or `none`.
mod optional_span {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::span::{Written, read, show};

    #[expect(clippy::ref_option, reason = "serde gives a reference to the field")]
    pub(super) fn serialize<S: Serializer>(span: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&span.map_or_else(|| "none".to_owned(), show))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let span = match Option::<Written>::deserialize(from)? {
            None => return Ok(None),
            Some(Written::Text(text)) if text == "none" => return Ok(None),
            Some(Written::Number(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
            Some(Written::Text(text)) => read(&text),
        };
        span.map(Some).ok_or_else(|| de::Error::custom("not a time; write for example 300s, or none"))
    }
}

/// Sizes in bytes, as Kubernetes writes quantities.
mod size {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::api::quantity;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(usize),
        Text(String),
    }

    pub(super) fn serialize<S: Serializer>(size: &usize, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(*size as u64)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        match Written::deserialize(from)? {
            Written::Number(size) => Ok(size),
            Written::Text(text) => {
                let size = quantity::parse_whole(&text).map_err(de::Error::custom)?;
                usize::try_from(size).map_err(de::Error::custom)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::yaml::from_yaml;

    #[test]
    fn times_that_no_clock_can_add_are_refused() {
        for name in ["idleTimeout", "queueTimeout", "defaultRequestTimeout"] {
            let read: GatewayConfig = from_yaml(&format!("{name}: 1e19")).unwrap();
            assert!(read.check().is_err_and(|error| error.starts_with(&format!("{name}: longer"))), "{name}");
        }
    }

    #[test]
    fn settings_are_written_as_people_write_them() {
        let text = "headerTimeout: 1m30s\nidleTimeout: 500ms\nstallTimeout: 20\ndefaultRequestTimeout: none\n\
                    maxHeaderBytes: 32Ki\npeekLimit: 4096\naccessLog: json\nworkers: 3\n";
        let read: GatewayConfig = from_yaml(text).unwrap();
        let wanted = GatewayConfig {
            header_timeout: Duration::from_secs(90),
            idle_timeout: Duration::from_millis(500),
            stall_timeout: Duration::from_secs(20),
            default_request_timeout: None,
            max_header_bytes: 32 << 10,
            peek_limit: 4096,
            access_log: AccessLogFormat::Json,
            workers: 3,
            ..GatewayConfig::default()
        };
        assert_eq!(read, wanted);
        let written = serde_json::to_string(&wanted).unwrap();
        assert_eq!(serde_json::from_str::<GatewayConfig>(&written).unwrap(), wanted);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in ["headerTimeout: soon\n", "headerTimeot: 5s\n", "maxUriBytes: lots\n", "idleTimeout: 5\u{a0}s\n"] {
            assert!(from_yaml::<GatewayConfig>(text).is_err(), "{text}");
        }
        let zero = GatewayConfig { header_timeout: Duration::ZERO, ..GatewayConfig::default() };
        assert!(zero.check().unwrap_err().starts_with("headerTimeout"));
        let none = GatewayConfig { workers: 0, ..GatewayConfig::default() };
        assert_eq!(none.check().unwrap_err(), "workers: 0 is not between 1 and 256");
        assert_eq!(GatewayConfig::default().check(), Ok(()));
    }

    /// Every setting has a row in the documentation with the default it has, and every row is a setting.
    #[test]
    fn the_documentation_lists_every_setting_with_its_default() {
        let page = include_str!("../../docs/data-plane.md");
        let table = page.split("## Settings").nth(1).and_then(|rest| rest.split("\nFixed").next()).unwrap();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect())
            .collect();
        let written: Vec<&str> = rows.iter().map(|row| row[0]).collect();
        let known = serde_json::to_value(GatewayConfig::default()).unwrap();
        for key in known.as_object().unwrap().keys() {
            assert!(written.contains(&key.as_str()), "`{key}` is not in docs/data-plane.md");
        }
        for row in &rows {
            assert!(known.get(row[0]).is_some(), "`{}` in docs/data-plane.md is no setting", row[0]);
            if ["workers", "accessLogFile"].contains(&row[0]) {
                continue;
            }
            let read: GatewayConfig = from_yaml(&format!("{}: {}\n", row[0], row[1])).unwrap();
            assert_eq!(read, GatewayConfig::default(), "{row:?}");
        }
    }
}
