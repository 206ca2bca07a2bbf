//! Tokens for GCS from the user's own `gcloud`: for credentials that stand for someone else (impersonation, workload identity
//! federation), which the library does not exchange.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use object_store::CredentialProvider;
use object_store::gcp::GcpCredential;
use serde_json::Value;
use tokio::time::Instant;
use url::Url;

use super::SourceError;
use super::credentials::Secret;
use super::object_aws::NoKeys;
use super::open::write_key;
use super::piece::blocking;
use crate::api::storage_uri::redact_all;

/// How long a token is used before another is asked for; none lives for less than an hour unless someone asked for that.
const KEPT: Duration = Duration::from_secs(10 * 60);
/// Longest run of the program.
const LONGEST: Duration = Duration::from_secs(60);

/// Gets tokens when they are needed.
#[derive(Debug)]
pub(super) struct GcloudProvider {
    /// The credentials that are exchanged.
    file: Utf8PathBuf,
    /// What is in the file, when a Secret gave it: then it is there only while the program runs.
    given: Option<Secret>,
    /// Their `type`.
    kind: String,
    /// For the program.
    environment: BTreeMap<String, String>,
    kept: tokio::sync::Mutex<Option<(Arc<GcpCredential>, Instant)>>,
}

/// A folder with a credentials file; gone when it is dropped.
struct Lent(Utf8PathBuf);

impl Drop for Lent {
    fn drop(&mut self) {
        // What is left is below the folder of the pull, for this user only, and goes with it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
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
    /// Makes the provider for a file; those below `keys` are a Secret's. Blocking.
    ///
    /// # Errors
    /// A Secret's credentials name files, programs or addresses that a manifest has no say in.
    pub(super) fn open(
        file: Utf8PathBuf,
        kind: String,
        environment: &BTreeMap<String, String>,
        keys: Option<&Utf8Path>,
    ) -> Result<Self, SourceError> {
        let given = match keys.filter(|keys| file.starts_with(keys)) {
            Some(_) => {
                let text = std::fs::read_to_string(&file);
                let text = text.map_err(|error| SourceError::transient("could not read the credentials", error))?;
                check_given(&text, &kind)?;
                Some(Secret(text))
            }
            None => None,
        };
        Ok(Self { file, given, kind, environment: environment.clone(), kept: tokio::sync::Mutex::default() })
    }

    /// Puts a Secret's file where the program finds it.
    async fn lend(&self) -> Result<Option<Lent>, SourceError> {
        let (Some(Secret(text)), Some(folder)) = (self.given.clone(), self.file.parent()) else { return Ok(None) };
        let (lent, file) = (Lent(folder.to_owned()), self.file.clone());
        let written = blocking(move || write_key(&file, text.as_bytes()).map(|()| lent)).await;
        written.map(Some).map_err(|error| SourceError::transient("could not keep the credentials in a file", error))
    }

    async fn printed(&self) -> Result<String, SourceError> {
        let (file, kind) = (&self.file, &self.kind);
        let refused = |problem: String| {
            SourceError::Denied(format!(
                "GCS authentication failed. {file} holds credentials of type `{kind}`, which gcloud exchanges: {problem}"
            ))
        };
        let _lent = self.lend().await?;
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

/// Checks credentials of a Secret before a program of the user's works by them: it reads the files, runs the programs and
/// asks the addresses that they name, and a manifest has no say in those (promise D13).
fn check_given(text: &str, kind: &str) -> Result<(), SourceError> {
    let refused = |problem: &str| {
        SourceError::Denied(format!(
            "GCS authentication failed. The Secret holds credentials of type `{kind}` {problem}; let GOOGLE_APPLICATION_CREDENTIALS of the daemon name a file with them instead."
        ))
    };
    let credentials: Value = serde_json::from_str(text).map_err(|_| refused("that are no JSON text"))?;
    let mut values = vec![&credentials];
    while let Some(value) = values.pop() {
        match value {
            Value::Object(map) if map.contains_key("credential_source") => {
                return Err(refused("that are read from elsewhere on this machine (`credential_source`)"));
            }
            Value::Object(map) => values.extend(map.values()),
            Value::Array(items) => values.extend(items),
            Value::String(text) if text.contains("://") && !is_google(text) => {
                return Err(refused("that name an address which is not Google's"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_google(address: &str) -> bool {
    let parsed = Url::parse(address).ok().filter(|url| url.scheme() == "https" && url.port().is_none());
    let host = parsed.as_ref().and_then(Url::host_str);
    host.is_some_and(|host| host == "accounts.google.com" || host.ends_with(".googleapis.com"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const IMPERSONATED: &str = r#"{
        "type": "impersonated_service_account",
        "service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a:generateAccessToken",
        "source_credentials": {"type": "authorized_user", "client_id": "i", "client_secret": "s", "refresh_token": "r"}
    }"#;

    #[tokio::test]
    async fn a_secrets_file_is_there_while_gcloud_runs_and_then_gone() {
        let root = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(root.path()).unwrap();
        let gcloud = root.join("gcloud");
        std::fs::write(&gcloud, "#!/bin/sh\nexec /bin/cat \"$GOOGLE_APPLICATION_CREDENTIALS\"\n").unwrap();
        std::fs::set_permissions(&gcloud, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (keys, environment) = (root.join("keys"), BTreeMap::from([("PATH".to_owned(), root.to_string())]));
        write_key(&keys.join("0"), IMPERSONATED.as_bytes()).unwrap();
        let kind = "impersonated_service_account".to_owned();
        let provider = GcloudProvider::open(keys.join("0"), kind, &environment, Some(&keys)).unwrap();
        // Whoever opened the source removes the folder.
        std::fs::remove_dir_all(&keys).unwrap();
        for _ in 0..2 {
            assert_eq!(provider.printed().await.unwrap(), IMPERSONATED.trim());
            assert!(!keys.exists());
        }
        assert!(!format!("{provider:?}").contains("refresh_token"));
    }

    #[test]
    fn credentials_of_a_secret_reach_nothing_but_google() {
        check_given(IMPERSONATED, "impersonated_service_account").unwrap();
        for (from, to) in [
            ("https://iamcredentials.googleapis.com", "http://169.254.169.254"),
            ("https://iamcredentials.googleapis.com", "https://evil.example"),
            ("https://iamcredentials.googleapis.com", "https://googleapis.com.evil.example"),
            (r#""client_id": "i""#, r#""credential_source": {"file": "/etc/shadow"}"#),
        ] {
            let changed = IMPERSONATED.replace(from, to);
            assert!(matches!(check_given(&changed, "external_account"), Err(SourceError::Denied(_))), "{to}");
        }
    }
}
