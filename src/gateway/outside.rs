//! Requests of our own to URLs that are not behind this gateway.

use std::net::SocketAddr;
use std::sync::OnceLock;

use bytes::Bytes;
use futures::TryStreamExt;
use http::{HeaderMap, StatusCode};
use http_body_util::StreamBody;
use reqwest::Client;
use url::Url;

use crate::storage::reach::{self, ReachPolicy, Unreachable};

use super::inner::Reply;
use super::whole::{Space, TooMuch};

/// Calls what is outside, within what manifests may reach (promise D13). One per worker.
#[derive(Debug)]
pub(crate) struct Outside {
    policy: ReachPolicy,
    own: SocketAddr,
    client: OnceLock<Option<Client>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutsideError {
    /// It may not be called.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// Nothing outside can be called.
    #[error("HTTP could not be set up on this machine")]
    NoClient,
    /// It does not answer.
    #[error("could not call `{url}`")]
    Send {
        /// The URL, without what may be secret in it.
        url: String,
        /// Cause.
        source: reqwest::Error,
    },
    /// Its answer could not be held.
    #[error("could not take the answer of `{url}`: {cause}")]
    Answer {
        /// The URL, without what may be secret in it.
        url: String,
        /// Why.
        cause: TooMuch,
    },
}

impl Outside {
    /// Makes a caller for the gateway that listens on `own`.
    pub(crate) fn new(own: SocketAddr) -> Self {
        Self {
            policy: ReachPolicy { own_listeners: vec![own], ..ReachPolicy::default() },
            own,
            client: OnceLock::new(),
        }
    }

    /// Whether a URL leads to this gateway's own listener.
    pub(crate) fn is_own(&self, url: &Url) -> bool {
        let here = match url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
            None => false,
        };
        here && url.port_or_known_default() == Some(self.own.port())
    }

    fn client(&self) -> Result<&Client, OutsideError> {
        self.client.get_or_init(|| reach::caller(&self.policy).ok()).as_ref().ok_or(OutsideError::NoClient)
    }

    /// Posts a body and looks at the status of the answer only.
    ///
    /// # Errors
    /// The URL may not be called, or does not answer.
    pub(crate) async fn send(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<StatusCode, OutsideError> {
        self.policy.check(url)?;
        self.send_here(url, headers, body).await
    }

    /// The same to a URL of our own.
    pub(crate) async fn send_here(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<StatusCode, OutsideError> {
        let sent = self.client()?.post(url.clone()).headers(headers).body(body).send().await;
        let answer = sent.map_err(|source| OutsideError::Send { url: redacted(url), source: source.without_url() })?;
        Ok(answer.status())
    }

    /// Posts a body and takes the whole answer.
    ///
    /// # Errors
    /// The URL may not be called, or does not answer.
    pub(crate) async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
        space: &Space,
    ) -> Result<Reply, OutsideError> {
        self.policy.check(url)?;
        let client = self.client()?;
        let shown = || redacted(url);
        let sent = client.post(url.clone()).headers(headers).body(body).send().await;
        let answer = sent.map_err(|source| OutsideError::Send { url: shown(), source: source.without_url() })?;
        let status = answer.status();
        let pieces = answer.bytes_stream().map_ok(http_body::Frame::data);
        let body = space.read(StreamBody::new(pieces)).await;
        let body = body.map_err(|cause| OutsideError::Answer { url: shown(), cause })?;
        Ok(Reply { status, body })
    }
}

/// Scheme, host and path: neither user nor query.
fn redacted(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}
