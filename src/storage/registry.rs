//! Models in an OCI registry, by its v2 API: images with a folder `/models`, and artifacts made of files (§3.8).
//!
//! Everything is asked for by digest, and every answer is checked against it. Logins go to the registry, or to whoever it
//! names for tokens, and not along with redirects. Plain HTTP is for registries of this machine, or where
//! `KSERVE_OCI_INSECURE_REGISTRY` says so.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use url::Url;

use super::http;
use super::pull::PullConfig;
use super::registry_reference::Reference;
use super::web::{self, Web, Wish, below, secret_header};
use super::{DigestKind, ModelSource, Reading, RemoteFile, RemoteManifest, SourceError, StatedDigest, Unpack, digest};
use crate::workload::registry_login::{RegistryLogin, login};

/// Names a file within an artifact.
const TITLE: &str = "org.opencontainers.image.title";
/// Says that a layer is a folder, packed.
const UNPACK: &str = "io.deis.oras.content.unpack";
const KINDS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// An image or artifact of a registry.
#[derive(Debug)]
pub struct RegistrySource {
    web: Web,
    base: Url,
    reference: Reference,
    login: Option<RegistryLogin>,
    /// What goes into the `Authorization` header, once it is known.
    authorization: Mutex<Option<HeaderValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Manifest {
    manifests: Vec<Descriptor>,
    artifact_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Platform {
    os: String,
    architecture: String,
}

impl RegistrySource {
    /// Makes the source of a reference; `logins` are configurations as `docker login` writes them. Blocking.
    ///
    /// # Errors
    /// The registry's address cannot be used.
    pub fn open(
        reference: &str,
        logins: &[String],
        config: &PullConfig,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, SourceError> {
        let reference = Reference::parse(reference);
        let insecure = environment.get("KSERVE_OCI_INSECURE_REGISTRY");
        let insecure = insecure.is_some_and(|value| matches!(value.to_lowercase().as_str(), "1" | "true" | "yes"));
        let scheme = if insecure || reference.is_local() { "http" } else { "https" };
        let base = web::endpoint(&format!("{scheme}://{}", reference.host()), "registry")?;
        let own = super::registry_reference::own_logins(environment);
        let login = login(logins.iter().map(String::as_str).chain(own.iter().map(String::as_str)), &reference.registry);
        let web = Web::open("OCI", &base, Wish::default(), config, environment)?;
        Ok(Self { web, base, reference, login, authorization: Mutex::default() })
    }

    fn url(&self, last: &[&str]) -> Url {
        let name = self.reference.repository.split('/');
        below(&self.base, std::iter::once("v2").chain(name).chain(last.iter().copied()))
    }

    /// Asks the registry, and again with a login or a token when it wants one.
    async fn ask(&self, url: &Url, mut headers: HeaderMap) -> Result<Response, SourceError> {
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let had_none = known.is_none();
        known.into_iter().for_each(|value| drop(headers.insert(header::AUTHORIZATION, value)));
        let response = self.web.get(url, headers.clone()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenge = response.headers().get(header::WWW_AUTHENTICATE).and_then(|text| text.to_str().ok());
        let Some(value) = self.authorize(challenge.unwrap_or_default()).await? else { return Ok(response) };
        headers.insert(header::AUTHORIZATION, value.clone());
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        let again = self.web.get(url, headers).await?;
        if again.status() == StatusCode::UNAUTHORIZED && had_none && self.login.is_none() {
            return Err(self.denied("no login was used"));
        }
        Ok(again)
    }

    fn denied(&self, why: &str) -> SourceError {
        let (resource, registry) = (self.reference.shown(), &self.reference.registry);
        SourceError::Denied(format!(
            "OCI authentication failed. Check the credentials for '{resource}': {why} (imagePullSecrets, or `docker login {registry}`)."
        ))
    }

    /// Answers a challenge: with the login itself, or with a token for it.
    async fn authorize(&self, challenge: &str) -> Result<Option<HeaderValue>, SourceError> {
        let basic = self
            .login
            .as_ref()
            .filter(|login| !login.username.is_empty())
            .map(|login| format!("Basic {}", STANDARD.encode(format!("{}:{}", login.username, login.password))));
        let Some(parameters) = challenge.strip_prefix("Bearer ") else {
            return match basic {
                Some(basic) => Ok(Some(secret_header(&basic)?)),
                None => Err(self.denied("no login was used")),
            };
        };
        let parameter = |name: &str| {
            let (_, rest) = parameters.split_once(&format!("{name}=\""))?;
            rest.split('"').next().filter(|value| !value.is_empty())
        };
        let Some(mut realm) = parameter("realm").and_then(|realm| Url::parse(realm).ok()) else { return Ok(None) };
        let scope =
            parameter("scope").map_or_else(|| format!("repository:{}:pull", self.reference.repository), str::to_owned);
        realm.query_pairs_mut().extend_pairs(parameter("service").map(|service| ("service", service)));
        realm.query_pairs_mut().append_pair("scope", &scope);
        let mut headers = HeaderMap::new();
        if let Some(basic) = &basic {
            headers.insert(header::AUTHORIZATION, secret_header(basic)?);
        }
        // The realm is not the registry's own host: what is sent there is meant for it.
        let response = self.web.at(&realm).get(&realm, headers).await?;
        if !response.status().is_success() {
            let who = if basic.is_some() { "the login was refused" } else { "no login was used" };
            return Err(self.denied(who));
        }
        let answer: Token = self.web.json(response, &self.reference.shown()).await?;
        let token = answer.token.or(answer.access_token).ok_or_else(|| self.denied("no token was given"))?;
        Ok(Some(secret_header(&format!("Bearer {token}"))?))
    }

    /// Fetches a manifest and checks it against its digest.
    async fn fetch(&self, reference: &str) -> Result<Manifest, SourceError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(KINDS));
        let response = self.ask(&self.url(&["manifests", reference]), headers).await?;
        let shown = self.reference.shown();
        if !response.status().is_success() {
            return Err(self.web.refused(response.status(), &shown));
        }
        let body = self.web.body(response, &shown).await?;
        if let Some(stated) = reference.strip_prefix("sha256:")
            && digest::hex(&Sha256::digest(&body)) != stated.to_ascii_lowercase()
        {
            return Err(SourceError::Invalid(format!(
                "the registry gave another manifest of '{shown}' than its digest says"
            )));
        }
        serde_json::from_slice(&body)
            .map_err(|error| SourceError::Invalid(format!("the registry gave no manifest of '{shown}': {error}")))
    }

    /// Returns the manifest for this machine.
    async fn manifest_here(&self) -> Result<Manifest, SourceError> {
        let manifest = self.fetch(&self.reference.version).await?;
        if manifest.manifests.is_empty() {
            return Ok(manifest);
        }
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let fits = |entry: &&Descriptor| {
            entry
                .platform
                .as_ref()
                .is_none_or(|platform| platform.os == "linux" && platform.architecture == architecture)
        };
        let Some(entry) = manifest.manifests.iter().find(fits) else {
            let shown = self.reference.shown();
            return Err(SourceError::NotFound(format!(
                "OCI image at {shown} has no manifest for linux/{architecture}"
            )));
        };
        self.fetch(&entry.digest).await
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[async_trait]
impl ModelSource for RegistrySource {
    async fn manifest(&self) -> Result<RemoteManifest, SourceError> {
        let manifest = self.manifest_here().await?;
        let shown = self.reference.shown();
        let is_artifact = manifest.artifact_type.is_some()
            || !manifest.config.media_type.contains("image.config")
                && !manifest.config.media_type.contains("container.image");
        let titled = manifest.layers.iter().filter(|layer| layer.annotations.contains_key(TITLE)).count();
        if is_artifact && titled > 0 {
            return artifact(&manifest.layers, &shown);
        }
        let layers: Vec<&Descriptor> =
            manifest.layers.iter().filter(|layer| layer.media_type.contains("tar")).collect();
        if let Some(zstd) = layers.iter().find(|layer| layer.media_type.contains("zstd")) {
            return Err(SourceError::Invalid(format!(
                "OCI image at {shown} has a layer of type {}, which is not read",
                zstd.media_type
            )));
        }
        if layers.is_empty() {
            return Err(SourceError::NotFound(format!(
                "OCI image at {shown} has no /models/ directory: it has no layers"
            )));
        }
        let file = |(index, layer): (usize, &&Descriptor)| file(format!("layer-{index:04}"), layer, &shown);
        let files = layers.iter().enumerate().map(file).collect::<Result<_, _>>()?;
        Ok(RemoteManifest { files, unpack: Unpack::Layers })
    }

    async fn read(&self, file: &RemoteFile, offset: u64, length: Option<u64>) -> Result<Reading, SourceError> {
        let resource = self.reference.shown();
        let url = self.url(&["blobs", &file.key]);
        let mut headers = HeaderMap::new();
        if let Some(range) = http::range(offset, length) {
            headers.insert(header::RANGE, range);
        }
        let response = self.ask(&url, headers).await?;
        self.web.reading(response, &resource, offset, length)
    }

    fn supports_ranges(&self) -> bool {
        true
    }
}

/// The files of an artifact, by their titles.
fn artifact(layers: &[Descriptor], shown: &str) -> Result<RemoteManifest, SourceError> {
    let titled: Vec<(&String, &Descriptor)> =
        layers.iter().filter_map(|layer| Some((layer.annotations.get(TITLE)?, layer))).collect();
    let is_folder = |layer: &Descriptor| layer.annotations.get(UNPACK).is_some_and(|value| value == "true");
    if let [(_, layer)] = titled[..]
        && is_folder(layer)
    {
        return Ok(RemoteManifest { files: vec![file("layer-0000".to_owned(), layer, shown)?], unpack: Unpack::Tar });
    }
    if let Some((title, _)) = titled.iter().find(|(_, layer)| is_folder(layer)) {
        return Err(SourceError::Invalid(format!(
            "OCI artifact at {shown} has a packed folder `{title}` beside other files, which is not read"
        )));
    }
    // Artifacts that keep the layout of images have everything below `models/`.
    let all_below = titled.iter().all(|(title, _)| title.starts_with("models/"));
    let name = |title: &str| title.strip_prefix("models/").filter(|_| all_below).unwrap_or(title).to_owned();
    let files = titled.iter().map(|(title, layer)| file(name(title), layer, shown)).collect::<Result<_, _>>()?;
    Ok(RemoteManifest { files, unpack: Unpack::Keep })
}

fn file(path: String, layer: &Descriptor, shown: &str) -> Result<RemoteFile, SourceError> {
    let stated = layer.digest.strip_prefix("sha256:").and_then(|hex| StatedDigest::from_hex(DigestKind::Sha256, hex));
    let Some(stated) = stated else {
        return Err(SourceError::Invalid(format!("OCI image at {shown} has a layer without a SHA-256 digest")));
    };
    Ok(RemoteFile {
        path: path.into(),
        key: layer.digest.clone(),
        size: Some(layer.size),
        etag: Some(format!("\"{}\"", layer.digest)),
        version: Some(layer.digest.clone()),
        digests: vec![stated],
        nearby: None,
    })
}
