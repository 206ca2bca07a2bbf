//! Keys for S3 that have to be fetched first: of a role, of single sign-on, of a program.
//!
//! Keys are kept for a few minutes and then asked for again, well before any of them ends.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt;
use object_store::CredentialProvider;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequest, HttpRequestBody, HttpService};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::SourceError;
use super::credentials::Secret;
use super::credentials_aws::{AwsKeys, AwsRole, AwsSource};
use super::object_client::Connector;
use crate::api::storage_uri::redact_all;

/// How long keys are used before they are asked for again; none lives for less than fifteen minutes.
const KEPT: Duration = Duration::from_secs(5 * 60);
/// Longest run of a program that prints keys.
const LONGEST_PROGRAM: Duration = Duration::from_secs(60);
/// Longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 1 << 20;

/// Gets keys when they are needed.
#[derive(Debug)]
pub(super) struct AwsProvider {
    pub(super) source: AwsSource,
    pub(super) connector: Connector,
    pub(super) region: String,
    /// Where roles are given, when not at AWS.
    pub(super) sts: Option<String>,
    /// Where single sign-on is, when not at AWS.
    pub(super) sign_on: Option<String>,
    /// For programs.
    pub(super) environment: BTreeMap<String, String>,
    pub(super) kept: tokio::sync::Mutex<Option<(Arc<AwsCredential>, Instant)>>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoKeys(pub(super) SourceError);

#[async_trait]
impl CredentialProvider for AwsProvider {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut kept = self.kept.lock().await;
        if let Some((credential, until)) = &*kept
            && Instant::now() < *until
        {
            return Ok(Arc::clone(credential));
        }
        let keys = self.keys(&self.source).await;
        let keys =
            keys.map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(NoKeys(error)) })?;
        let credential = Arc::new(credential(keys));
        *kept = Some((Arc::clone(&credential), Instant::now() + KEPT));
        Ok(credential)
    }
}

impl AwsProvider {
    async fn keys(&self, source: &AwsSource) -> Result<AwsKeys, SourceError> {
        match source {
            AwsSource::Keys(keys) => Ok(keys.clone()),
            AwsSource::Process { profile, command } => self.printed(profile, &command.0).await,
            AwsSource::SignOn { profile, region, account, role, token_file } => {
                let token = token(profile, token_file).await?;
                self.signed_on(profile, region, account, role, &token).await
            }
            AwsSource::WebIdentity { role, token_file, session } => {
                let read = tokio::fs::read_to_string(token_file).await;
                let token =
                    read.map_err(|error| denied(&format!("the token file {token_file} cannot be read: {error}")))?;
                let form =
                    form("AssumeRoleWithWebIdentity", role, session.as_deref(), &[("WebIdentityToken", token.trim())]);
                self.role(form, None, role).await
            }
            AwsSource::Role(role) => {
                let from = Box::pin(self.keys(&role.from)).await?;
                let AwsRole { arn, session, external_id, seconds, .. } = &**role;
                let seconds = seconds.map(|seconds| seconds.to_string());
                let external = external_id.as_ref().map(|id| ("ExternalId", id.0.as_str()));
                let more: Vec<(&str, &str)> =
                    external.into_iter().chain(seconds.as_deref().map(|text| ("DurationSeconds", text))).collect();
                self.role(form("AssumeRole", arn, session.as_deref(), &more), Some(from), arn).await
            }
        }
    }

    /// Runs a program that prints keys, as the AWS tools do: without a shell.
    async fn printed(&self, profile: &str, command: &str) -> Result<AwsKeys, SourceError> {
        let refused = |problem: &str| denied(&format!("the credential_process of profile `{profile}` {problem}"));
        let words = words(command).ok_or_else(|| refused("has a quote that does not end"))?;
        let (program, arguments) = words.split_first().ok_or_else(|| refused("names no program"))?;
        let mut run = tokio::process::Command::new(program);
        run.args(arguments).env_clear().envs(&self.environment).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(LONGEST_PROGRAM, run.output()).await;
        let output = output.map_err(|_| refused("did not end within a minute"))?;
        let output = output.map_err(|error| refused(&format!("cannot be run: {error}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            let line: String = redact_all(line).chars().take(200).collect();
            return Err(refused(&format!("failed ({}): {line}", output.status)));
        }
        let printed: Printed =
            serde_json::from_slice(&output.stdout).map_err(|_| refused("did not print keys as JSON"))?;
        match printed.version {
            1 => Ok(printed.keys()),
            other => Err(refused(&format!("printed version {other}, and only 1 is known"))),
        }
    }

    /// Asks single sign-on for the keys of a role.
    async fn signed_on(
        &self,
        profile: &str,
        region: &str,
        account: &str,
        role: &str,
        token: &Secret,
    ) -> Result<AwsKeys, SourceError> {
        let base = self.sign_on.clone().unwrap_or_else(|| format!("https://portal.sso.{region}.amazonaws.com"));
        let mut url = parse(&format!("{}/federation/credentials", base.trim_end_matches('/')))?;
        url.query_pairs_mut().append_pair("role_name", role).append_pair("account_id", account);
        let request = http::Request::get(url.as_str()).header("x-amz-sso_bearer_token", &token.0);
        let request =
            request.body(HttpRequestBody::empty()).map_err(|_| denied("the token of single sign-on is none"))?;
        let (status, body) = self.send(request, "single sign-on").await?;
        match status {
            200 => {
                let given: SignedOn =
                    serde_json::from_slice(&body).map_err(|_| denied("single sign-on gave no keys"))?;
                Ok(given.role_credentials.keys())
            }
            401 => Err(signed_off(profile)),
            status => Err(denied(&format!(
                "single sign-on gives no keys for role {role} of account {account} (status {status}); profile `{profile}` may not have it"
            ))),
        }
    }

    /// Asks for the keys of a role, signed with keys or not.
    async fn role(&self, form: String, signed: Option<AwsKeys>, role: &str) -> Result<AwsKeys, SourceError> {
        let base = self.sts.clone().unwrap_or_else(|| format!("https://sts.{}.amazonaws.com", self.region));
        let url = parse(&base)?;
        let request = http::Request::post(url.as_str())
            .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
            .body(HttpRequestBody::from(form));
        let mut request = request.map_err(|_| denied("the endpoint of roles is none"))?;
        if let Some(keys) = signed {
            let credential = credential(keys);
            let signer = AwsAuthorizer::new(&credential, "sts", &self.region);
            signer.try_authorize(&mut request, None).map_err(|_| denied("a request for a role cannot be signed"))?;
        }
        let (status, body) = self.send(request, "STS").await?;
        let text = String::from_utf8_lossy(&body);
        match (status, tag(&text, "AccessKeyId"), tag(&text, "SecretAccessKey")) {
            (200, Some(id), Some(secret)) => {
                Ok(AwsKeys { id, secret: Secret(secret), token: tag(&text, "SessionToken").map(Secret) })
            }
            _ => {
                let code = tag(&text, "Code").unwrap_or_else(|| format!("status {status}"));
                let message: String = tag(&text, "Message").unwrap_or_default().chars().take(300).collect();
                Err(denied(&format!("role {role} cannot be taken on. STS said {code}: {message}")))
            }
        }
    }

    async fn send(&self, request: HttpRequest, whom: &str) -> Result<(u16, Bytes), SourceError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let lost = |error| SourceError::transient(format!("Failed to connect to {whom} at '{host}'."), error);
        let response = self.connector.call(request).await.map_err(lost)?;
        let status = response.status().as_u16();
        let body = http_body_util::Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        let body = body.map_err(|_| SourceError::Transient { message: format!("{whom} broke off"), source: None })?;
        if status >= 500 {
            return Err(SourceError::Transient {
                message: format!("{whom} answered with status {status}"),
                source: None,
            });
        }
        Ok((status, body.to_bytes()))
    }
}

/// What a program prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

impl Printed {
    fn keys(self) -> AwsKeys {
        let token = self.session_token.filter(|token| !token.is_empty()).map(Secret);
        AwsKeys { id: self.access_key_id, secret: Secret(self.secret_access_key), token }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignedOn {
    role_credentials: SignedOnKeys,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignedOnKeys {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

impl SignedOnKeys {
    fn keys(self) -> AwsKeys {
        AwsKeys {
            id: self.access_key_id,
            secret: Secret(self.secret_access_key),
            token: self.session_token.map(Secret),
        }
    }
}

/// Reads the token that `aws sso login` left.
async fn token(profile: &str, file: &camino::Utf8Path) -> Result<Secret, SourceError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Token {
        access_token: String,
    }
    let read = tokio::fs::read(file).await.map_err(|_| signed_off(profile))?;
    let token: Token = serde_json::from_slice(&read).map_err(|_| signed_off(profile))?;
    Ok(Secret(token.access_token))
}

fn signed_off(profile: &str) -> SourceError {
    denied(&format!("profile `{profile}` is not signed on any more. Run `aws sso login --profile {profile}`"))
}

fn credential(keys: AwsKeys) -> AwsCredential {
    AwsCredential { key_id: keys.id, secret_key: keys.secret.0, token: keys.token.map(|token| token.0) }
}

fn form(action: &str, role: &str, session: Option<&str>, more: &[(&str, &str)]) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("Action", action).append_pair("Version", "2011-06-15").append_pair("RoleArn", role);
    form.append_pair("RoleSessionName", session.unwrap_or("kserve-local")).extend_pairs(more);
    form.finish()
}

fn parse(endpoint: &str) -> Result<Url, SourceError> {
    super::object::parse(endpoint)
}

fn denied(problem: &str) -> SourceError {
    SourceError::Denied(format!("Invalid AWS credentials: {problem}"))
}

/// Returns what stands between a tag and its end.
fn tag(text: &str, name: &str) -> Option<String> {
    let (_, after) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = after.split_once(&format!("</{name}>"))?;
    let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    Some(plain.iter().fold(inner.to_owned(), |text, (from, to)| text.replace(from, to)))
}

/// Splits a command at spaces that are not in quotes; none when a quote does not end.
fn words(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = command.chars();
    while let Some(c) = characters.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            quote @ ('"' | '\'') => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next()? {
                        end if end == quote => break,
                        '\\' if quote == '"' => word.push(characters.next()?),
                        inner => word.push(inner),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(characters.next()?),
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_as_a_shell_would() {
        for (command, expected) in [
            ("keys --for me", Some(vec!["keys", "--for", "me"])),
            (
                "  '/opt/my tools/keys'  \"a \\\"b\\\"\" c\\ d ''",
                Some(vec!["/opt/my tools/keys", "a \"b\"", "c d", ""]),
            ),
            ("", Some(vec![])),
            ("keys 'open", None),
        ] {
            assert_eq!(
                words(command),
                expected.map(|words| words.into_iter().map(str::to_owned).collect()),
                "{command}"
            );
        }
    }
}
