//! Tokens for GCS from the user's own `gcloud`: for credentials that stand for someone else (impersonation, workload identity
//! federation), which the library does not exchange.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use camino::Utf8PathBuf;
use object_store::CredentialProvider;
use object_store::gcp::GcpCredential;
use tokio::time::Instant;

use super::SourceError;
use super::object_aws::NoKeys;
use crate::api::storage_uri::redact_all;

/// How long a token is used before another is asked for; none lives for less than an hour unless someone asked for that.
const KEPT: Duration = Duration::from_secs(10 * 60);
/// Longest run of the program.
const LONGEST: Duration = Duration::from_secs(60);

/// Gets tokens when they are needed.
#[derive(Debug)]
pub(super) struct GcloudProvider {
    /// The credentials that are exchanged.
    pub(super) file: Utf8PathBuf,
    /// Their `type`.
    pub(super) kind: String,
    /// For the program.
    pub(super) environment: BTreeMap<String, String>,
    pub(super) kept: tokio::sync::Mutex<Option<(Arc<GcpCredential>, Instant)>>,
}

#[async_trait]
impl CredentialProvider for GcloudProvider {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
        let mut kept = self.kept.lock().await;
        if let Some((credential, until)) = &*kept
            && Instant::now() < *until
        {
            return Ok(Arc::clone(credential));
        }
        let printed = self.printed().await;
        let bearer =
            printed.map_err(|error| object_store::Error::Generic { store: "GCS", source: Box::new(NoKeys(error)) })?;
        let credential = Arc::new(GcpCredential { bearer });
        *kept = Some((Arc::clone(&credential), Instant::now() + KEPT));
        Ok(credential)
    }
}

impl GcloudProvider {
    async fn printed(&self) -> Result<String, SourceError> {
        let (file, kind) = (&self.file, &self.kind);
        let refused = |problem: String| {
            SourceError::Denied(format!(
                "GCS authentication failed. {file} holds credentials of type `{kind}`, which gcloud exchanges: {problem}"
            ))
        };
        let mut run = tokio::process::Command::new("gcloud");
        run.args(["auth", "application-default", "print-access-token", "--quiet"]);
        run.env_clear().envs(&self.environment).env("GOOGLE_APPLICATION_CREDENTIALS", file);
        run.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(LONGEST, run.output()).await;
        let output = output.map_err(|_| refused("it did not end within a minute".to_owned()))?;
        let output = output.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => refused(
                "it is not on this machine. Install the Google Cloud CLI, or use a service account's key".to_owned(),
            ),
            _ => refused(format!("it cannot be run: {error}")),
        })?;
        let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() && !token.is_empty() {
            return Ok(token);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        Err(refused(redact_all(line).chars().take(200).collect()))
    }
}
