//! `hf://owner/model[:revision]`: a repository of the Hugging Face hub, or of a mirror (`HF_ENDPOINT`).
//!
//! The hub is asked once which commit the revision is and which files it has; everything is then read from that commit, so
//! that versions never mix. The hub states a digest of every file (SHA-256 of large ones, git's own of others), which is checked. Files that the user's
//! own Hugging Face cache has already are linked from there, not fetched. With `HF_HUB_OFFLINE=1` the hub is not asked at
//! all: the model is what the cache has.

use std::collections::BTreeMap;

use async_trait::async_trait;
use camino::Utf8PathBuf;
use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap};
use serde::Deserialize;
use url::Url;

use super::hugging_face_cache::HubCache;
use super::pull::PullConfig;
use super::web::{self, Web, Wish, below, secret_header};
use super::{DigestKind, ModelSource, Nearby, Reading, RemoteFile, RemoteManifest, SourceError, StatedDigest, Unpack};

type Environment = BTreeMap<String, String>;

/// A repository of the hub.
#[derive(Debug)]
pub struct HuggingFaceSource {
    web: Web,
    endpoint: Url,
    repository: String,
    revision: String,
    cache: Option<HubCache>,
    offline: bool,
    has_token: bool,
}

/// What the hub says of a revision.
#[derive(Debug, Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl HuggingFaceSource {
    /// Makes the source of a repository as the environment says. Blocking.
    ///
    /// # Errors
    /// The endpoint or the token cannot be used.
    pub fn open(
        repository: &str,
        revision: Option<&str>,
        config: &PullConfig,
        environment: &Environment,
    ) -> Result<Self, SourceError> {
        let get = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let endpoint = get("HF_ENDPOINT").map_or("https://huggingface.co", String::as_str);
        let endpoint = web::endpoint(endpoint.trim_end_matches('/'), "endpoint of Hugging Face (HF_ENDPOINT)")?;
        let token = token(environment);
        let mut wish = Wish::default();
        if let Some(token) = &token {
            wish.headers.insert(header::AUTHORIZATION, secret_header(&format!("Bearer {token}"))?);
        }
        Ok(Self {
            web: Web::open("HuggingFace", &endpoint, wish, config, environment)?,
            endpoint,
            repository: repository.to_owned(),
            revision: revision.unwrap_or("main").to_owned(),
            cache: HubCache::find(environment, repository),
            offline: get("HF_HUB_OFFLINE").is_some_and(|value| is_yes(value)),
            has_token: token.is_some(),
        })
    }

    fn resource(&self) -> String {
        format!("{}:{}", self.repository, self.revision)
    }

    /// The hub says more in a header than by its status: without a token, what is not there is `401` too.
    fn refused(&self, status: StatusCode, headers: &HeaderMap) -> SourceError {
        let code = headers.get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
        let resource = self.resource();
        let who = if self.has_token { "the token that was used has no access to it" } else { "no token was used" };
        match (code, status.as_u16()) {
            ("GatedRepo", _) => SourceError::Denied(format!(
                "Access denied to HuggingFace resource '{resource}'. It is gated, and {who}: ask for access on the model's page and set HF_TOKEN."
            )),
            ("RevisionNotFound", _) => SourceError::NotFound(format!(
                "HuggingFace resource '{resource}' not found. The repository has no revision '{}'.",
                self.revision
            )),
            ("RepoNotFound", _) | ("", 401) => SourceError::NotFound(format!(
                "HuggingFace resource '{resource}' not found. There is no such repository, or it is private and {who} (HF_TOKEN)."
            )),
            _ => self.web.refused(status, &resource),
        }
    }

    async fn info(&self) -> Result<Info, SourceError> {
        let (owner, model) = self.repository.split_once('/').unwrap_or((&self.repository, ""));
        let mut url = below(&self.endpoint, ["api", "models", owner, model, "revision", &self.revision]);
        url.set_query(Some("blobs=true"));
        let response = self.web.get(&url, HeaderMap::new()).await?;
        if !response.status().is_success() {
            return Err(self.refused(response.status(), response.headers()));
        }
        self.web.json(response, &self.resource()).await
    }

    fn file(&self, commit: &str, sibling: Sibling) -> RemoteFile {
        let (size, kind, identity) = match sibling.lfs {
            Some(lfs) => (Some(lfs.size), DigestKind::Sha256, Some(lfs.sha256)),
            None => (sibling.size, DigestKind::GitBlob, sibling.blob_id),
        };
        let digest = identity.as_deref().and_then(|hex| StatedDigest::from_hex(kind, hex));
        let nearby = identity.as_deref().and_then(|id| self.cache.as_ref()?.blob(id, size)).map(Nearby::Theirs);
        RemoteFile {
            path: sibling.rfilename.clone().into(),
            key: format!("{commit}/{}", sibling.rfilename),
            size,
            // A file of a commit is what it is; what it is called there tells versions apart.
            etag: identity.map(|id| format!("\"{id}\"")),
            digests: digest.into_iter().collect(),
            version: Some(commit.to_owned()),
            nearby,
        }
    }

    /// Returns the snapshot that the user's own cache has of the revision.
    fn cached(&self) -> Result<RemoteManifest, SourceError> {
        let resource = self.resource();
        let missing = || {
            SourceError::NotFound(format!(
                "HuggingFace resource '{resource}' not found. The Hugging Face cache does not have it and HF_HUB_OFFLINE is set."
            ))
        };
        let cache = self.cache.as_ref().ok_or_else(missing)?;
        let files = cache.snapshot(&self.revision).filter(|files| !files.is_empty()).ok_or_else(missing)?;
        let file = |(path, size): (Utf8PathBuf, u64)| {
            let nearby = Some(Nearby::Theirs(cache.snapshot_file(&self.revision, &path)?));
            Some(RemoteFile { key: path.to_string(), path, size: Some(size), nearby, ..RemoteFile::default() })
        };
        Ok(RemoteManifest { files: files.into_iter().filter_map(file).collect(), unpack: Unpack::Keep })
    }
}

#[async_trait]
impl ModelSource for HuggingFaceSource {
    async fn manifest(&self) -> Result<RemoteManifest, SourceError> {
        if self.offline {
            return self.cached();
        }
        let Info { sha, siblings } = self.info().await?;
        if sha.is_empty() || !sha.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(SourceError::Invalid("HuggingFace endpoint names no commit".to_owned()));
        }
        if siblings.is_empty() {
            let resource = self.resource();
            return Err(SourceError::NotFound(format!("Failed to fetch model. No model found in hf://{resource}.")));
        }
        let files = siblings.into_iter().map(|sibling| self.file(&sha, sibling)).collect();
        Ok(RemoteManifest { files, unpack: Unpack::Keep })
    }

    async fn read(&self, file: &RemoteFile, offset: u64, length: Option<u64>) -> Result<Reading, SourceError> {
        if self.offline {
            let message = format!("`{}` is not in the Hugging Face cache any more", file.path);
            return Err(SourceError::NotFound(message));
        }
        let (commit, path) = file.key.split_once('/').unwrap_or(("", &file.key));
        let segments = self.repository.split('/').chain(["resolve", commit]).chain(path.split('/'));
        let url = below(&self.endpoint, segments);
        let resource = format!("{}/{}", self.repository, file.path);
        self.web.read(&url, HeaderMap::new(), &resource, offset, length).await
    }

    fn supports_ranges(&self) -> bool {
        true
    }
}

/// Returns the token as Hugging Face's tools find it: `HF_TOKEN`, its old name, or the file `hf auth login` writes.
pub(super) fn token(environment: &Environment) -> Option<String> {
    let get = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    if let Some(token) = get("HF_TOKEN").or_else(|| get("HUGGING_FACE_HUB_TOKEN")) {
        return Some(token.to_owned());
    }
    if get("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(is_yes) {
        return None;
    }
    let path = match get("HF_TOKEN_PATH") {
        Some(path) => path.into(),
        None => super::hugging_face_cache::home(environment)?.join("token"),
    };
    let token = std::fs::read_to_string(path).ok()?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// What Hugging Face's tools take for yes.
fn is_yes(value: &str) -> bool {
    matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_where_the_tools_of_hugging_face_keep_it() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "from-file\n").unwrap();
        let home = home.path().to_str().unwrap();
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
        let table: [Row<'_>; 5] = [
            (&[("HF_TOKEN", " own ")], Some("own")),
            (&[("HUGGING_FACE_HUB_TOKEN", "old")], Some("old")),
            (&[("HF_HOME", home)], Some("from-file")),
            (&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None),
            (&[("HF_HOME", "/nonexistent")], None),
        ];
        for (pairs, expected) in table {
            let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(token(&environment).as_deref(), expected, "{pairs:?}");
        }
    }
}
