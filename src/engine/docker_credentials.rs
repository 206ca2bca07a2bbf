//! Registry credentials of pull Secrets, and as `docker login` left them: in `config.json`, or with a credential helper.
//!
//! They go to the engine for the registry they belong to, and nowhere else; never into a message or a log.

use std::process::Stdio;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use camino::Utf8Path;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

pub(super) use crate::workload::registry_login::DOCKER_HUB;
use crate::workload::registry_login::{RegistryLogin, login};

/// Under which name `docker login` keeps that registry's credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the credentials for a registry, if there are any: of pull Secrets first, then the user's own. A helper that
/// fails is reported and passed over, because most images are public.
pub(super) async fn find(
    docker_config: Option<&Utf8Path>,
    logins: &[String],
    registry: &str,
) -> Option<DockerCredentials> {
    if let Some(found) = stored(logins.iter().map(String::as_str), registry) {
        return Some(found);
    }
    let text = std::fs::read_to_string(docker_config?.join("config.json")).ok()?;
    let config: Value = serde_json::from_str(&text).ok()?;
    let key = key_of(registry);
    match helper(&config, key) {
        Some(helper) => match ask(helper, key).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(helper, registry, %error, "a docker credential helper failed; pulling without credentials");
                None
            }
        },
        None => stored([text.as_str()], registry),
    }
}

fn helper<'c>(config: &'c Value, key: &str) -> Option<&'c str> {
    let special = config.get("credHelpers").and_then(|helpers| helpers.get(key));
    let name = special.or_else(|| config.get("credsStore"))?.as_str()?;
    // The name becomes part of a program's name.
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    plain.then_some(name)
}

fn stored<'t>(configs: impl IntoIterator<Item = &'t str>, registry: &str) -> Option<DockerCredentials> {
    let RegistryLogin { username, password, identity_token } = login(configs, registry)?;
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Some(DockerCredentials {
        username: given(username),
        password: given(password),
        identitytoken: identity_token,
        serveraddress: Some(key_of(registry).to_owned()),
        ..DockerCredentials::default()
    })
}

fn key_of(registry: &str) -> &str {
    if registry == DOCKER_HUB { DOCKER_HUB_KEY } else { registry }
}

async fn ask(helper: &str, key: &str) -> std::io::Result<Option<DockerCredentials>> {
    let mut child = tokio::process::Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(key.as_bytes()).await?;
    }
    let output = tokio::time::timeout(HELPER_TIMEOUT, child.wait_with_output()).await??;
    if !output.status.success() {
        // Also how a helper says that it knows nothing of this registry.
        return Ok(None);
    }
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let text = |field: &str| answer.get(field).and_then(Value::as_str).map(str::to_owned);
    let (username, secret) = (text("Username"), text("Secret"));
    let serveraddress = Some(key.to_owned());
    Ok(Some(match username.as_deref() {
        Some("<token>") => DockerCredentials { identitytoken: secret, serveraddress, ..DockerCredentials::default() },
        _ => DockerCredentials { username, password: secret, serveraddress, ..DockerCredentials::default() },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(config: Value, registry: &str) -> Option<(String, String)> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let credentials = find(Utf8Path::from_path(folder.path()), &[], registry).await?;
        Some((credentials.username?, credentials.password?))
    }

    #[tokio::test]
    async fn a_login_is_used_for_its_own_registry_only() {
        // "me:pass:word" and "you:secret"
        let config = serde_json::json!({"auths": {
            "registry.example.com": {"auth": "bWU6cGFzczp3b3Jk"},
            "https://old.example.com/v1/": {"auth": "eW91OnNlY3JldA=="},
            DOCKER_HUB_KEY: {"username": "hub", "password": "p"},
        }});
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(found(config.clone(), "registry.example.com").await, pair("me", "pass:word"));
        assert_eq!(found(config.clone(), "old.example.com").await, pair("you", "secret"));
        assert_eq!(found(config.clone(), DOCKER_HUB).await, pair("hub", "p"));
        assert_eq!(found(config, "other.example.com").await, None);
    }

    #[tokio::test]
    async fn a_missing_helper_does_not_stop_a_public_pull() {
        let config = serde_json::json!({"credsStore": "not-installed-anywhere"});
        assert_eq!(found(config, "registry.example.com").await, None);
        let config = serde_json::json!({"credsStore": "../../bin/sh"});
        assert_eq!(found(config, "registry.example.com").await, None);
    }
}
