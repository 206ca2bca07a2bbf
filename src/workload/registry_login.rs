//! Logins of image registries in the form `docker login` writes: `{"auths": {"registry": {"auth": "…"}}}`.
//!
//! The same form stands in Secrets of type `kubernetes.io/dockerconfigjson` and in `~/.docker/config.json`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::Value;

/// The registry of references that name none.
pub const DOCKER_HUB: &str = "docker.io";
/// Under which name `docker login` keeps that registry's login.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// A login. Never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryLogin {
    /// User name; empty when only a token is given.
    pub username: String,
    /// Password.
    pub password: String,
    /// A token that stands for both.
    pub identity_token: Option<String>,
}

impl fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistryLogin(…)")
    }
}

/// Finds the login of a registry in configurations, the first that has one.
pub fn login<'t>(configs: impl IntoIterator<Item = &'t str>, registry: &str) -> Option<RegistryLogin> {
    configs.into_iter().find_map(|text| {
        let config: Value = serde_json::from_str(text).ok()?;
        let auths = config.get("auths")?.as_object()?;
        let same = |name: &str| name == registry || host(name) == registry || is_hub(name) && is_hub(registry);
        auths.iter().filter(|(name, _)| same(name)).find_map(|(_, entry)| of_entry(entry))
    })
}

fn is_hub(name: &str) -> bool {
    matches!(
        name,
        DOCKER_HUB | DOCKER_HUB_KEY | "index.docker.io" | "registry-1.docker.io" | "https://index.docker.io/v1"
    )
}

fn of_entry(entry: &Value) -> Option<RegistryLogin> {
    let text =
        |field: &str| entry.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let identity_token = text("identitytoken");
    let pair = match text("auth") {
        Some(auth) => user_and_password(&auth),
        None => text("username").zip(text("password")),
    };
    let (username, password) = match pair {
        Some(pair) => pair,
        None if identity_token.is_some() => Default::default(),
        None => return None,
    };
    Some(RegistryLogin { username, password, identity_token })
}

fn user_and_password(auth: &str) -> Option<(String, String)> {
    let bytes = STANDARD.decode(auth).or_else(|_| STANDARD_NO_PAD.decode(auth)).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// Older entries are URLs.
fn host(name: &str) -> &str {
    let rest = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_found_by_its_registry() {
        let auth = STANDARD.encode("me:hush:hush");
        let first = format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{auth}"}}}}}}"#);
        let second = r#"{"auths":{"https://reg.example.com/v2/":{"username":"u","password":"p"},"token.example.com":{"identitytoken":"t"}}}"#;
        let find = |registry| login(["no json", first.as_str(), second], registry);
        let hub = find(DOCKER_HUB).unwrap();
        assert_eq!((hub.username.as_str(), hub.password.as_str()), ("me", "hush:hush"));
        assert_eq!(find("reg.example.com").unwrap().username, "u");
        assert_eq!(find("token.example.com").unwrap().identity_token.as_deref(), Some("t"));
        assert_eq!(find("other.example.com"), None);
        assert!(!format!("{hub:?}").contains("hush"));
    }
}
