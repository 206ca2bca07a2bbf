//! Talks to the daemon of a home: finds it, sends requests with the token, and turns what goes wrong into words.

use std::time::Duration;

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures::Stream;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::home::{flag_for, shown};
use super::report::Exit;
use crate::daemon;
use crate::home::Home;

/// Longest time to connect; everything is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for an answer that is not a stream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// `state/addresses.json`, written by the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Addresses {
    /// Process id of the daemon.
    pub pid: Option<u32>,
    /// Where prediction requests are answered.
    pub data: String,
    /// Where the API is.
    pub api: String,
    /// Name of the instance.
    pub instance: String,
}

/// Why the daemon did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon has left its addresses.
    #[error("no daemon runs on {}", shown(home))]
    NotRunning {
        /// The home.
        home: Utf8PathBuf,
    },
    /// A daemon left its addresses and does not answer.
    #[error("the daemon of {} does not answer at {address}", shown(home))]
    NoAnswer {
        /// The home.
        home: Utf8PathBuf,
        /// Where it should be.
        address: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The files the daemon left cannot be read.
    #[error("could not read `{path}`")]
    State {
        /// Which file.
        path: Utf8PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The token was refused.
    #[error("the daemon refused the token in `{token}`")]
    Unauthorized {
        /// File of the token.
        token: Utf8PathBuf,
    },
    /// The daemon answered with an error.
    #[error("{message}")]
    Status {
        /// HTTP status.
        code: u16,
        /// Kubernetes' reason.
        reason: String,
        /// What is wrong.
        message: String,
        /// Each violation, when there are several.
        causes: Vec<String>,
    },
    /// The answer ended early or is not what it should be.
    #[error("the daemon's answer could not be read")]
    Answer(#[from] reqwest::Error),
    /// The answer is not JSON.
    #[error("the daemon's answer is not JSON")]
    NotJson(#[from] serde_json::Error),
}

impl ClientError {
    /// Returns the next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotRunning { home } => Some(format!(
                "start one with `kserve-local serve{}`, or name another folder with --home",
                flag_for(home)
            )),
            Self::NoAnswer { home, .. } => Some(format!(
                "it was probably killed; start it again with `kserve-local serve{}` (running models are taken over)",
                flag_for(home)
            )),
            Self::Unauthorized { .. } => Some(
                "the token changes when `state/token` is removed; restart the daemon, or copy the file it uses"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// Returns whose problem it is.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Status { code: 400 | 422, .. } => Exit::Usage,
            Self::Status { code: 500, .. } | Self::NotJson(_) => Exit::Bug,
            Self::Status { code, .. } if *code < 500 => Exit::NotSo,
            _ => Exit::Machine,
        }
    }

    /// Whether there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    /// Whether nothing answers: a write may go to the folder instead.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NotRunning { .. } | Self::NoAnswer { .. })
    }
}

/// An answer of the daemon.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub code: StatusCode,
    /// The body.
    pub value: Value,
    /// What it wants said.
    pub warnings: Vec<String>,
}

/// Accepts a Table where there is one.
pub const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const AS_JSON: &str = "application/json";

/// Answers to the token alone, so that whoever does has this home's; `/version` answers everybody.
const OWN: &str = "/apis/kserve-local/v1/addresses";

/// A connection to the daemon of one home.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    home: Utf8PathBuf,
    token: String,
    /// Where the daemon is.
    pub addresses: Addresses,
}

impl Client {
    /// Finds the daemon of a home.
    ///
    /// # Errors
    /// None has left its addresses, or they cannot be read.
    pub fn find(home: &Utf8Path) -> Result<Self, ClientError> {
        let read = |path: Utf8PathBuf| match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(ClientError::NotRunning { home: home.to_owned() })
            }
            Err(source) => Err(ClientError::State { path, source }),
        };
        let path = home.join("state/addresses.json");
        let addresses: Addresses = serde_json::from_str(&read(path.clone())?)
            .map_err(|error| ClientError::State { path, source: std::io::Error::other(error) })?;
        let token = read(home.join("state/token"))?.trim().to_owned();
        let http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).build()?;
        Ok(Self { http, home: home.to_owned(), token, addresses })
    }

    /// Finds the daemon of a home and makes sure that it answers. The addresses may be left over, and the port another
    /// home's or another program's by now: what does not know our token is not our daemon, unless someone serves the home.
    ///
    /// # Errors
    /// No daemon of this home answers, or it refuses.
    pub async fn answering(home: &Utf8Path) -> Result<Self, ClientError> {
        let client = Self::find(home)?;
        let Err(error) = client.get(OWN).await else { return Ok(client) };
        let served = daemon::holder(&Home::new(home)).is_ok_and(|holder| holder.is_some());
        Err(if served || error.is_absent() { error } else { ClientError::NotRunning { home: home.to_owned() } })
    }

    /// Returns the HTTP client, for requests to the gateway.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Returns the token of the API.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Gets a JSON document.
    ///
    /// # Errors
    /// The daemon is not there, or answers with an error.
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        Ok(self.call(Method::GET, path, None).await?.value)
    }

    /// Gets a Table.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_table(&self, path: &str) -> Result<Value, ClientError> {
        let request = self.request(Method::GET, path, AS_TABLE).timeout(ANSWER_TIMEOUT);
        Ok(self.answer(self.send(request).await?).await?.value)
    }

    /// Sends a request, with a JSON body or none.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, ClientError> {
        let mut request = self.request(method, path, AS_JSON).timeout(ANSWER_TIMEOUT);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = self.send(request).await?;
        self.answer(response).await
    }

    /// Applies a manifest: the fields it sets are this command line's from now on, whoever set them before.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn apply(&self, path: &str, manifest: &Value) -> Result<Answer, ClientError> {
        let join = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{join}fieldManager=kserve-local&force=true");
        let request = self.request(Method::PATCH, &path, AS_JSON).timeout(ANSWER_TIMEOUT);
        let request = request.header("content-type", "application/apply-patch+yaml").body(manifest.to_string());
        let response = self.send(request).await?;
        self.answer(response).await
    }

    /// Changes an object by a JSON merge patch (RFC 7386).
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn patch(&self, path: &str, patch: &Value) -> Result<Answer, ClientError> {
        let request = self.request(Method::PATCH, path, AS_JSON).timeout(ANSWER_TIMEOUT);
        let request = request.header("content-type", "application/merge-patch+json").body(patch.to_string());
        let response = self.send(request).await?;
        self.answer(response).await
    }

    /// Gets a stream of bytes: logs, or a watch.
    ///
    /// # Errors
    /// As [`Client::get`]; a stream that breaks later yields its error.
    pub async fn stream(
        &self,
        path: &str,
        accept: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, ClientError>> + use<>, ClientError> {
        let response = self.send(self.request(Method::GET, path, accept)).await?;
        if !response.status().is_success() {
            return Err(self.failure(response).await);
        }
        Ok(futures::TryStreamExt::map_err(response.bytes_stream(), ClientError::Answer))
    }

    fn request(&self, method: Method, path: &str, accept: &str) -> RequestBuilder {
        let url = format!("http://{}{path}", self.addresses.api);
        self.http.request(method, url).bearer_auth(&self.token).header("accept", accept)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        request.send().await.map_err(|source| ClientError::NoAnswer {
            home: self.home.clone(),
            address: self.addresses.api.clone(),
            source: source.without_url(),
        })
    }

    async fn answer(&self, response: Response) -> Result<Answer, ClientError> {
        let code = response.status();
        if !code.is_success() {
            return Err(self.failure(response).await);
        }
        let headers = response.headers().get_all("warning").iter();
        let warnings = headers.filter_map(|value| warning(value.to_str().ok()?)).collect();
        Ok(Answer { code, value: serde_json::from_slice(&response.bytes().await?)?, warnings })
    }

    async fn failure(&self, response: Response) -> ClientError {
        let code = response.status();
        if code == StatusCode::UNAUTHORIZED {
            return ClientError::Unauthorized { token: self.home.join("state/token") };
        }
        let status: Value = match response.bytes().await {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) => return ClientError::Answer(error),
        };
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        let message = match text("message") {
            message if message.is_empty() => format!("the daemon answered with {code}"),
            message => message,
        };
        let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
        let causes = causes.iter().map(cause).collect();
        ClientError::Status { code: code.as_u16(), reason: text("reason"), message, causes }
    }
}

fn cause(cause: &Value) -> String {
    let text = |field: &str| cause[field].as_str().unwrap_or_default();
    match text("field") {
        "" => text("message").to_owned(),
        field => format!("{field}: {}", text("message")),
    }
}

/// Returns the text of a `Warning: 299 - "…"` header.
fn warning(header: &str) -> Option<String> {
    let quoted = header.split_once('"')?.1.strip_suffix('"')?;
    Some(quoted.replace("\\\"", "\"").replace("\\\\", "\\"))
}

#[cfg(test)]
mod tests {
    use super::super::imitation::{Answers, Imitation};
    use super::*;

    #[test]
    fn a_home_without_a_daemon_says_how_to_start_one() {
        let folder = tempfile::tempdir().unwrap();
        let home = Utf8Path::from_path(folder.path()).unwrap();
        let error = Client::find(home).unwrap_err();
        assert!(matches!(error, ClientError::NotRunning { .. }));
        assert_eq!(error.exit(), Exit::Machine);
        assert!(error.hint().is_some_and(|hint| hint.contains(&format!("kserve-local serve --home {home}"))));
    }

    fn open_to_all(question: &str) -> Option<(u16, String)> {
        question.starts_with("GET /version").then(|| (200, "{}".to_owned()))
    }

    #[tokio::test]
    async fn what_answers_without_our_token_is_not_our_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let home = Utf8Path::from_path(folder.path()).unwrap();
        let others: [Answers; 2] = [
            |question| open_to_all(question).unwrap_or((401, "{}".to_owned())),
            |question| open_to_all(question).unwrap_or((404, "a page".to_owned())),
        ];
        for other in others {
            Imitation::start(home, other).await;
            assert!(Client::find(home).unwrap().get("/version").await.is_ok(), "somebody answers");
            let error = Client::answering(home).await.unwrap_err();
            assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
        }
        Imitation::start(home, |_| (200, "{}".to_owned())).await;
        assert!(Client::answering(home).await.is_ok());
    }

    #[test]
    fn warnings_are_unquoted() {
        assert_eq!(warning(r#"299 - "unknown field \"spec.x\"""#).as_deref(), Some("unknown field \"spec.x\""));
    }
}
