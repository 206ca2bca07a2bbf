//! References of images, taken apart; and the user's own logins.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;

use crate::workload::registry_login::DOCKER_HUB;

/// `[registry/]name[:tag][@digest]`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) registry: String,
    pub(super) repository: String,
    /// Tag or digest.
    pub(super) version: String,
}

impl Reference {
    /// Takes a reference apart that the URI's parser has taken.
    pub(super) fn parse(text: &str) -> Self {
        let (registry, rest) = match text.split_once('/') {
            Some((first, rest)) if first.contains([':', '.']) || first == "localhost" => (first, rest),
            _ => (DOCKER_HUB, text),
        };
        let (name, digest) = rest.split_once('@').map_or((rest, None), |(name, digest)| (name, Some(digest)));
        let (name, tag) = name.rsplit_once(':').map_or((name, "latest"), |(name, tag)| (name, tag));
        let repository =
            if registry == DOCKER_HUB && !name.contains('/') { format!("library/{name}") } else { name.to_owned() };
        Self { registry: registry.to_owned(), repository, version: digest.unwrap_or(tag).to_owned() }
    }

    /// Returns where the registry's API is.
    pub(super) fn host(&self) -> &str {
        if self.registry == DOCKER_HUB { "registry-1.docker.io" } else { &self.registry }
    }

    /// Whether the registry is on this machine, where plain HTTP is the rule.
    pub(super) fn is_local(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(self.registry.as_str(), |(host, _)| host);
        host == "localhost" || host == "[::1]" || host.starts_with("127.")
    }

    /// Returns it for messages.
    pub(super) fn shown(&self) -> String {
        let separator = if self.version.contains(':') { '@' } else { ':' };
        format!("{}/{}{separator}{}", self.registry, self.repository, self.version)
    }
}

/// Reads the user's own logins: of KServe's variable, else of Docker's configuration. Credential helpers are not run.
/// Blocking.
pub(super) fn own_logins(environment: &BTreeMap<String, String>) -> Vec<String> {
    let get = |name: &str| environment.get(name).filter(|value| !value.is_empty()).map(Utf8PathBuf::from);
    let docker = get("DOCKER_CONFIG").or_else(|| Some(get("HOME")?.join(".docker")));
    let files = [get("KSERVE_OCI_DOCKER_CONFIG"), docker.map(|folder| folder.join("config.json"))];
    files.into_iter().flatten().filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_taken_apart() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let table = [
            ("iris", "docker.io/library/iris:latest"),
            ("team/iris:1", "docker.io/team/iris:1"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("reg.example.com/a:2", "reg.example.com/a:2"),
        ];
        for (text, shown) in table {
            assert_eq!(Reference::parse(text).shown(), shown, "{text}");
        }
        let pinned = Reference::parse(&format!("reg.example.com/a:1@{digest}"));
        assert_eq!(pinned.version, digest);
        assert!(Reference::parse("127.0.0.1:5000/a").is_local() && !pinned.is_local());
    }
}
