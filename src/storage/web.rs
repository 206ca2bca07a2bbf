//! Requests to the HTTP APIs of stores: redirects judged and followed here, credentials to the store's own host only,
//! ranges checked, and upstream's words for what goes wrong (§3.2).

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;
use url::Url;

use super::digest;
use super::http;
use super::pull::PullConfig;
use super::reach::{self, ClientWish, ReachPolicy, Unreachable};
use super::redirects::Asker;
use super::{Reading, SourceError};

/// Longest answer that is read whole, in bytes: listings of large repositories take a few megabytes.
const LONGEST_ANSWER: usize = 64 << 20;

/// How a store is reached.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    /// Sent to the store's own host and nowhere else.
    pub(super) headers: HeaderMap,
    /// Certificates are not verified.
    pub(super) unverified: bool,
    /// Certificate authorities besides the system's, PEM; else those of the environment.
    pub(super) authorities: Option<Vec<u8>>,
    /// A client certificate and its key, PEM.
    pub(super) identity: Option<Vec<u8>>,
}

/// A store with an HTTP API.
#[derive(Clone, Debug)]
pub(super) struct Web {
    /// `HuggingFace` and the like, for messages.
    pub(super) protocol: &'static str,
    base: Url,
    client: reqwest::Client,
    policy: ReachPolicy,
    headers: HeaderMap,
}

impl Web {
    /// Makes the client of the store at `base`. Blocking: reads certificates.
    pub(super) fn open(
        protocol: &'static str,
        base: &Url,
        wish: Wish,
        config: &PullConfig,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, SourceError> {
        let authorities = match wish.authorities {
            Some(pem) => Some(pem),
            None => http::authorities(environment).map_err(SourceError::Invalid)?,
        };
        let client_wish = ClientWish {
            url: base,
            follow: false,
            verify_tls: !wish.unverified,
            authorities,
            identity: wish.identity,
            stall: config.stall_timeout,
        };
        let client = reach::client(&config.reach, client_wish, environment).map_err(|error| {
            SourceError::Invalid(format!("{protocol} endpoint cannot be used: {}", error.without_url()))
        })?;
        Ok(Self { protocol, base: base.clone(), client, policy: config.reach.clone(), headers: wish.headers })
    }

    /// Returns the same client for another host, which what is sent is meant for.
    pub(super) fn at(&self, base: &Url) -> Self {
        Self { base: base.clone(), headers: HeaderMap::new(), ..self.clone() }
    }

    /// Sends a `GET`, through redirects; any status is an answer. Credentials go to the store's own host only.
    pub(super) async fn get(&self, url: &Url, headers: HeaderMap) -> Result<Response, SourceError> {
        let who = format!("{} endpoint", self.protocol);
        let asker = Asker { client: &self.client, policy: &self.policy, who: &who };
        let sent = |url: &Url| {
            let mut headers = headers.clone();
            if url.origin() == self.base.origin() {
                headers.extend(self.headers.clone());
            } else {
                headers.remove(header::AUTHORIZATION);
            }
            headers
        };
        asker.get(url, sent, |error| self.broken(error)).await
    }

    fn broken(&self, error: reqwest::Error) -> SourceError {
        let error = error.without_url();
        match reach::cause::<Unreachable>(&error) {
            Some(refused) => SourceError::Denied(refused.to_string()),
            None => {
                let place = format!("{}://{}", self.base.scheme(), self.base.authority_without_user());
                SourceError::transient(format!("Failed to connect to {} endpoint '{place}'.", self.protocol), error)
            }
        }
    }

    /// Returns what a refusal means; `resource` is for people.
    pub(super) fn refused(&self, status: StatusCode, resource: &str) -> SourceError {
        let protocol = self.protocol;
        match status.as_u16() {
            401 => SourceError::Denied(format!(
                "{protocol} authentication failed. Check the credentials for '{resource}'."
            )),
            403 => {
                SourceError::Denied(format!("Access denied to {protocol} resource '{resource}'. Verify permissions."))
            }
            404 | 410 => SourceError::NotFound(format!("{protocol} resource '{resource}' not found.")),
            412 => SourceError::Changed(resource.to_owned()),
            code => {
                let message = format!("{protocol} request for '{resource}' failed with status code {code}.");
                if status.is_server_error() || matches!(code, 408 | 425 | 429) {
                    SourceError::Transient { message, source: None }
                } else {
                    SourceError::Invalid(message)
                }
            }
        }
    }

    /// Reads an answer whole.
    pub(super) async fn body(&self, response: Response, resource: &str) -> Result<Vec<u8>, SourceError> {
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(bytes) = stream.next().await {
            body.extend_from_slice(&bytes.map_err(|error| self.broken(error))?);
            if body.len() > LONGEST_ANSWER {
                let protocol = self.protocol;
                return Err(SourceError::Invalid(format!("{protocol} says more about '{resource}' than is read")));
            }
        }
        Ok(body)
    }

    /// Reads a JSON answer. A page of something else, such as a login page, is told as what it is.
    pub(super) async fn json<T: DeserializeOwned>(&self, response: Response, resource: &str) -> Result<T, SourceError> {
        let status = response.status();
        if !status.is_success() {
            return Err(self.refused(status, resource));
        }
        let kind = http::text_of(response.headers(), header::CONTENT_TYPE).unwrap_or_default().to_owned();
        let body = self.body(response, resource).await?;
        serde_json::from_slice(&body).map_err(|error| {
            let kind: String = kind.escape_debug().take(80).collect();
            let protocol = self.protocol;
            SourceError::Invalid(format!("{protocol} endpoint answered '{kind}' that is not its API's: {error}"))
        })
    }

    /// Reads bytes of a file; `resource` is for people.
    pub(super) async fn read(
        &self,
        url: &Url,
        mut headers: HeaderMap,
        resource: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Reading, SourceError> {
        if let Some(range) = http::range(offset, length) {
            headers.insert(header::RANGE, range);
        }
        let response = self.get(url, headers).await?;
        self.reading(response, resource, offset, length)
    }

    /// Checks that an answer is the part that was asked for.
    pub(super) fn reading(
        &self,
        response: Response,
        resource: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Reading, SourceError> {
        let ranged = offset > 0 || length.is_some();
        match response.status() {
            StatusCode::PARTIAL_CONTENT if ranged => {
                if http::content_range(&response).is_none_or(|range| range.start != offset) {
                    return Err(SourceError::RangeIgnored(resource.to_owned()));
                }
            }
            StatusCode::OK if ranged => return Err(SourceError::RangeIgnored(resource.to_owned())),
            StatusCode::OK => {}
            status => return Err(self.refused(status, resource)),
        }
        let digests = digest::from_headers(response.headers());
        Ok(Reading { bytes: self.stream(response, resource), digests })
    }

    /// Returns the body as it comes.
    pub(super) fn stream(&self, response: Response, resource: &str) -> BoxStream<'static, Result<Bytes, SourceError>> {
        let (protocol, resource) = (self.protocol, resource.to_owned());
        let stream = response.bytes_stream().map(move |bytes| {
            bytes.map_err(|error| {
                let message = format!("the connection to {protocol} broke while '{resource}' was read");
                SourceError::transient(message, error.without_url())
            })
        });
        stream.boxed()
    }
}

/// Host and port of a URL.
trait Authority {
    fn authority_without_user(&self) -> String;
}

impl Authority for Url {
    fn authority_without_user(&self) -> String {
        let host = self.host_str().unwrap_or_default();
        self.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

/// Parses an endpoint's address.
pub(super) fn endpoint(text: &str, what: &str) -> Result<Url, SourceError> {
    let parsed = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    parsed.ok_or_else(|| {
        let shown = crate::api::storage_uri::redact(text);
        SourceError::Invalid(format!("`{shown}` is no {what}: http:// or https:// and a host"))
    })
}

/// Decodes the percent signs of a URL's path.
pub(super) fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digit = |index: usize| after.get(index).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| path.to_owned())
}

/// Adds path segments to a URL, each percent-encoded.
pub(super) fn below<'a>(base: &Url, segments: impl IntoIterator<Item = &'a str>) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// Makes a header that is never printed.
pub(super) fn secret_header(value: &str) -> Result<HeaderValue, SourceError> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| SourceError::Denied("a credential has characters that no header takes".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}
