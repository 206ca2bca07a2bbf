//! `http://` and `https://`: one file or archive per URI (§3.2).
//!
//! One request for the first byte tells size, ETag, ranges and content type. The content type must fit the file's name as
//! upstream demands, so that a login page never becomes a model. Redirects are followed here, not by the client: each
//! place is judged, and headers from `{host}-headers` go to that host only.
//!
//! Two differences from upstream: a bare `.gz` is kept as it is (upstream stores it unpacked under a name that says `.tar`),
//! and a compressed transfer nobody asked for is refused.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::StreamExt;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};
use url::Url;

use super::names;
use super::pull::PullConfig;
use super::reach::{self, ClientWish, ReachPolicy, Unreachable};
use super::redirects::Asker;
use super::unpack;
use super::{ModelSource, Reading, RemoteFile, RemoteManifest, SourceError, Unpack, digest};
use crate::api::storage_uri::redact;

/// A file behind a URL.
#[derive(Debug)]
pub struct HttpSource {
    url: Url,
    /// The URL for messages.
    shown: String,
    client: reqwest::Client,
    policy: ReachPolicy,
    headers: BTreeMap<String, HeaderMap>,
}

impl HttpSource {
    /// Makes the source of a URL. Blocking: reads the system's certificates.
    ///
    /// # Errors
    /// The URL or the environment's headers cannot be used.
    pub fn open(url: &str, config: &PullConfig, environment: &BTreeMap<String, String>) -> Result<Self, SourceError> {
        let shown = redact(url);
        let invalid = |problem: String| SourceError::Invalid(format!("`{shown}` cannot be fetched: {problem}"));
        let url = Url::parse(url).map_err(|error| invalid(error.to_string()))?;
        let authorities = authorities(environment).map_err(SourceError::Invalid)?;
        let wish = ClientWish {
            url: &url,
            follow: false,
            verify_tls: true,
            authorities,
            identity: None,
            stall: config.stall_timeout,
        };
        let client = reach::client(&config.reach, wish, environment).map_err(|error| invalid(error.to_string()))?;
        let headers = headers_by_host(environment)?;
        Ok(Self { url, shown, client, policy: config.reach.clone(), headers })
    }

    /// Asks for (a part of) the file, through redirects.
    async fn get(&self, range: Option<HeaderValue>, condition: Option<Condition>) -> Result<Response, SourceError> {
        let asker = Asker { client: &self.client, policy: &self.policy, who: &format!("`{}`", self.shown) };
        let headers = |url: &Url| {
            let mut headers = self.headers_for(url).cloned().unwrap_or_default();
            headers.extend(range.clone().map(|range| (header::RANGE, range)));
            headers.extend(condition.clone());
            headers
        };
        asker.get(&self.url, headers, |error| self.broken(error)).await
    }

    /// Returns the headers of a host; none on the way down from TLS to plain text.
    fn headers_for(&self, url: &Url) -> Option<&HeaderMap> {
        if self.url.scheme() == "https" && url.scheme() != "https" {
            return None;
        }
        self.headers.get(url.host_str()?)
    }

    /// Asks what there is; none when the condition says that it is what is known.
    async fn manifest_if(&self, condition: Option<Condition>) -> Result<Option<RemoteManifest>, SourceError> {
        let name = self.url.path().rsplit('/').next().unwrap_or_default();
        let path = names::check(name).map_err(|_| SourceError::Invalid("No filename contained in URI".to_owned()))?;
        let unpack = match unpack::kind_of(name) {
            // A path that says nothing about its type leaves the word to the query, as upstream does.
            Unpack::Keep if !name.contains('.') => unpack::kind_of(self.url.query().unwrap_or_default()),
            kind => kind,
        };
        let response = self.get(range(0, Some(1)), condition).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let strong = text_of(response.headers(), header::ETAG).filter(|etag| etag.starts_with('"')).map(str::to_owned);
        let stated = content_range(&response).and_then(|range| range.size);
        let (size, etag) = match response.status() {
            StatusCode::PARTIAL_CONTENT => (stated, strong.filter(|_| stated.is_some())),
            // An empty file has no first byte.
            StatusCode::RANGE_NOT_SATISFIABLE if stated == Some(0) => (Some(0), strong),
            status if status.is_success() => (response.content_length(), None),
            status => return Err(self.refused(status)),
        };
        if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
            self.check_type(&response, unpack)?;
        }
        let version = [header::ETAG, header::LAST_MODIFIED]
            .into_iter()
            .find_map(|name| text_of(response.headers(), name))
            .map(str::to_owned);
        let digests = digest::from_headers(response.headers());
        let file = RemoteFile { path, key: self.url.to_string(), size, etag, digests, version, nearby: None };
        Ok(Some(RemoteManifest { files: vec![file], unpack }))
    }

    fn broken(&self, error: reqwest::Error) -> SourceError {
        let error = error.without_url();
        match reach::cause::<Unreachable>(&error) {
            Some(refused) => SourceError::Denied(refused.to_string()),
            None => SourceError::transient(format!("Failed to connect to HTTP endpoint '{}'.", self.shown), error),
        }
    }

    fn refused(&self, status: StatusCode) -> SourceError {
        let url = &self.shown;
        match status.as_u16() {
            401 => SourceError::Denied(format!("HTTP authentication failed for '{url}'. Verify credentials.")),
            403 => SourceError::Denied(format!("HTTP access denied for '{url}'. Verify permissions.")),
            404 | 410 => SourceError::NotFound(format!("HTTP resource not found at '{url}'.")),
            412 => SourceError::Changed(url.clone()),
            code => {
                let message = format!("HTTP request to '{url}' failed with status code {code}.");
                if status.is_server_error() || matches!(code, 408 | 425 | 429) {
                    SourceError::Transient { message, source: None }
                } else {
                    SourceError::Invalid(message)
                }
            }
        }
    }

    /// Refuses an answer whose type does not fit the file's name (§3.2).
    fn check_type(&self, response: &Response, kind: Unpack) -> Result<(), SourceError> {
        let allowed: &[&str] = match kind {
            Unpack::Keep | Unpack::Layers => &["application/octet-stream"],
            Unpack::Tar => &["application/x-tar", "application/x-gtar", "application/x-gzip", "application/gzip"],
            Unpack::Zip => &["application/x-zip-compressed", "application/zip", "application/zip-compressed"],
        };
        let actual = text_of(response.headers(), header::CONTENT_TYPE).unwrap_or_default();
        if !allowed.iter().any(|allowed| actual.starts_with(allowed)) {
            let allowed = allowed.iter().map(|one| format!("'{one}'")).collect::<Vec<_>>().join(" or ");
            return Err(SourceError::Invalid(format!(
                "URI: {} did not respond with 'Content-Type': {allowed} (it said '{}')",
                self.shown,
                actual.escape_debug().take(80).collect::<String>(),
            )));
        }
        match text_of(response.headers(), header::CONTENT_ENCODING) {
            None | Some("identity" | "") => Ok(()),
            // Servers call a .tar.gz a gzip-encoded .tar: the bytes are the archive either way.
            Some("gzip" | "x-gzip") if kind == Unpack::Tar => Ok(()),
            Some(_) => Err(SourceError::Invalid(format!("URI: {} sends its content compressed unasked", self.shown))),
        }
    }
}

/// A header that makes a request conditional, with its value.
type Condition = (HeaderName, HeaderValue);

/// Makes a condition. What no header can say is not asked for; what comes is compared anyway.
fn condition(name: HeaderName, value: &str) -> Option<Condition> {
    Some((name, HeaderValue::from_str(value).ok()?))
}

#[async_trait]
impl ModelSource for HttpSource {
    async fn manifest(&self) -> Result<RemoteManifest, SourceError> {
        let listed = self.manifest_if(None).await?;
        // Nobody asked for less.
        listed.ok_or_else(|| self.refused(StatusCode::NOT_MODIFIED))
    }

    async fn manifest_unless(&self, version: &str) -> Result<Option<RemoteManifest>, SourceError> {
        let is_etag = version.starts_with('"') || version.starts_with("W/\"");
        let name = if is_etag { header::IF_NONE_MATCH } else { header::IF_MODIFIED_SINCE };
        self.manifest_if(condition(name, version)).await
    }

    async fn read(&self, file: &RemoteFile, offset: u64, length: Option<u64>) -> Result<Reading, SourceError> {
        let range = range(offset, length);
        let ranged = range.is_some();
        let pinned = file.etag.as_deref().and_then(|etag| condition(header::IF_MATCH, etag));
        let response = self.get(range, pinned).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if ranged => {
                let got = content_range(&response).filter(|got| got.start == offset);
                let same_size = |got: ContentRange| file.size.is_none() || got.size == file.size || got.size.is_none();
                if !got.is_some_and(same_size) {
                    return Err(SourceError::RangeIgnored(self.shown.clone()));
                }
            }
            StatusCode::OK if ranged => return Err(SourceError::RangeIgnored(self.shown.clone())),
            StatusCode::OK => {}
            status => return Err(self.refused(status)),
        }
        let now = text_of(response.headers(), header::ETAG);
        if let (Some(etag), Some(now)) = (&file.etag, now)
            && now != etag
        {
            return Err(SourceError::Changed(self.shown.clone()));
        }
        let digests = digest::from_headers(response.headers());
        let shown = self.shown.clone();
        let stream = response.bytes_stream().map(move |bytes| {
            bytes.map_err(|error| {
                SourceError::transient(format!("the connection to '{shown}' broke"), error.without_url())
            })
        });
        Ok(Reading { bytes: stream.boxed(), digests })
    }

    fn supports_ranges(&self) -> bool {
        true
    }
}

pub(super) struct ContentRange {
    pub(super) start: u64,
    size: Option<u64>,
}

pub(super) fn content_range(response: &Response) -> Option<ContentRange> {
    let (range, size) = text_of(response.headers(), header::CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-').and_then(|(start, _)| start.trim().parse().ok()).unwrap_or(0);
    Some(ContentRange { start, size: size.trim().parse().ok() })
}

pub(super) fn text_of(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// Makes the header that asks for a part; none for the whole.
pub(super) fn range(offset: u64, length: Option<u64>) -> Option<HeaderValue> {
    let text = match length {
        None if offset == 0 => return None,
        None => format!("bytes={offset}-"),
        Some(length) => format!("bytes={offset}-{}", offset + length.max(1) - 1),
    };
    text.parse().ok()
}

/// Reads the certificate authorities that the environment adds to the system's. Blocking.
pub(super) fn authorities(environment: &BTreeMap<String, String>) -> Result<Option<Vec<u8>>, String> {
    match environment.get("SSL_CERT_FILE").or_else(|| environment.get("REQUESTS_CA_BUNDLE")) {
        Some(path) if !path.is_empty() => read_authorities(path).map(Some),
        _ => Ok(None),
    }
}

/// Reads a bundle of certificate authorities. Blocking.
pub(super) fn read_authorities(path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("Failed to find ca bundle file({path}): {error}"))
}

/// Returns the headers of every `{host}-headers` variable: JSON objects of strings.
fn headers_by_host(environment: &BTreeMap<String, String>) -> Result<BTreeMap<String, HeaderMap>, SourceError> {
    let hosts = environment.iter().filter_map(|(name, json)| Some((name.strip_suffix("-headers")?, json)));
    hosts
        .map(|(host, json)| {
            let parsed: Option<BTreeMap<String, String>> = serde_json::from_str(json).ok();
            let headers = parsed.and_then(|headers| headers.iter().map(header_of).collect());
            let wrong = || SourceError::Invalid(format!("`{host}-headers` is no JSON object of header strings"));
            Ok((host.to_ascii_lowercase(), headers.ok_or_else(wrong)?))
        })
        .collect()
}

fn header_of((name, value): (&String, &String)) -> Option<(HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
}
