//! `modelscope://owner/model[:revision]` (and `ms://`): a repository of ModelScope.
//!
//! Its API lists a revision's files with their SHA-256, which is checked: what changes in between is noticed by that.

use std::collections::BTreeMap;

use async_trait::async_trait;
use reqwest::header::{self, HeaderMap};
use serde::Deserialize;
use url::Url;

use super::pull::PullConfig;
use super::web::{self, Web, Wish, below, secret_header};
use super::{DigestKind, ModelSource, Reading, RemoteFile, RemoteManifest, SourceError, StatedDigest, Unpack};

/// A repository of ModelScope.
#[derive(Debug)]
pub struct ModelScopeSource {
    web: Web,
    endpoint: Url,
    repository: String,
    revision: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Answer {
    code: i64,
    success: bool,
    message: String,
    data: Option<Data>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    #[serde(default)]
    files: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    path: String,
    #[serde(default)]
    r#type: String,
    size: Option<u64>,
    sha256: Option<String>,
}

impl ModelScopeSource {
    /// Makes the source of a repository as the environment says. Blocking.
    ///
    /// # Errors
    /// The endpoint or the token cannot be used.
    pub fn open(
        repository: &str,
        revision: Option<&str>,
        config: &PullConfig,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, SourceError> {
        let get = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let named = get("MODELSCOPE_ENDPOINT").map(str::to_owned);
        let domain = get("MODELSCOPE_DOMAIN").map(|domain| match domain.contains("://") {
            true => domain.to_owned(),
            false => format!("https://{domain}"),
        });
        let endpoint = named.or(domain).unwrap_or_else(|| "https://www.modelscope.cn".to_owned());
        let endpoint = web::endpoint(endpoint.trim_end_matches('/'), "endpoint of ModelScope")?;
        let mut wish = Wish::default();
        if let Some(token) = get("MODELSCOPE_API_TOKEN").or_else(|| get("MODELSCOPE_SDK_TOKEN")) {
            wish.headers.insert(header::AUTHORIZATION, secret_header(&format!("Bearer {token}"))?);
            // What its older API reads.
            wish.headers.insert(header::COOKIE, secret_header(&format!("m_session_id={token}"))?);
        }
        Ok(Self {
            web: Web::open("ModelScope", &endpoint, wish, config, environment)?,
            endpoint,
            repository: repository.to_owned(),
            revision: revision.unwrap_or("master").to_owned(),
        })
    }

    fn resource(&self) -> String {
        format!("{}:{}", self.repository, self.revision)
    }

    fn api(&self, last: &[&str]) -> Url {
        let segments = ["api", "v1", "models"].into_iter().chain(self.repository.split('/'));
        below(&self.endpoint, segments.chain(last.iter().copied()))
    }
}

#[async_trait]
impl ModelSource for ModelScopeSource {
    async fn manifest(&self) -> Result<RemoteManifest, SourceError> {
        let mut url = self.api(&["repo", "files"]);
        url.query_pairs_mut().append_pair("Revision", &self.revision).append_pair("Recursive", "true");
        let response = self.web.get(&url, HeaderMap::new()).await?;
        let answer: Answer = self.web.json(response, &self.resource()).await?;
        let resource = self.resource();
        if !answer.success {
            let said: String = answer.message.escape_debug().take(200).collect();
            return Err(match answer.code {
                401 | 403 => SourceError::Denied(format!(
                    "Access denied to ModelScope resource '{resource}'. Verify permissions (MODELSCOPE_API_TOKEN): {said}"
                )),
                code if code >= 500 => {
                    SourceError::Transient { message: format!("ModelScope said: {said}"), source: None }
                }
                _ => SourceError::NotFound(format!("ModelScope resource '{resource}' not found: {said}")),
            });
        }
        let listed = answer.data.map(|data| data.files).unwrap_or_default();
        let files: Vec<RemoteFile> = listed.into_iter().filter(|file| file.r#type != "tree").map(file).collect();
        if files.is_empty() {
            return Err(SourceError::NotFound(format!(
                "Failed to fetch model. No model found in modelscope://{resource}."
            )));
        }
        Ok(RemoteManifest { files, unpack: Unpack::Keep })
    }

    async fn read(&self, file: &RemoteFile, offset: u64, length: Option<u64>) -> Result<Reading, SourceError> {
        let mut url = self.api(&["repo"]);
        url.query_pairs_mut().append_pair("Revision", &self.revision).append_pair("FilePath", &file.key);
        let resource = format!("{}/{}", self.repository, file.path);
        self.web.read(&url, HeaderMap::new(), &resource, offset, length).await
    }

    fn supports_ranges(&self) -> bool {
        true
    }
}

fn file(listed: Listed) -> RemoteFile {
    let sha256 = listed.sha256.and_then(|hex| StatedDigest::from_hex(DigestKind::Sha256, &hex));
    RemoteFile {
        path: listed.path.clone().into(),
        key: listed.path,
        size: listed.size,
        etag: sha256.as_ref().map(|digest| format!("\"{}\"", digest.hex)),
        digests: sha256.into_iter().collect(),
        ..RemoteFile::default()
    }
}
