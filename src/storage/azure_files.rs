//! Azure file shares by their REST API.
//!
//! As upstream, files keep the path within the share: `…/share/models/iris` gives `/mnt/models/models/iris/…`. Unlike
//! upstream, which stops at five levels without a word, folders are read to the end.

use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Response;
use reqwest::header::HeaderMap;
use sha2::{Digest, Sha256};
use url::Url;

use super::credentials_azure::{AzureIdentity, AzureService, AzureSettings, azure};
use super::pull::PullConfig;
use super::web::{self, Web, Wish, below, secret_header};
use super::{ModelSource, Reading, RemoteFile, RemoteManifest, SourceError, Unpack, unpack};

/// Version of the API that is spoken.
const VERSION: &str = "2022-11-02";
const DEEPEST: usize = 64;

/// A folder or file of a share.
#[derive(Debug)]
pub struct AzureFilesSource {
    web: Web,
    endpoint: Url,
    settings: AzureSettings,
}

/// One entry of a folder.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    is_folder: bool,
    size: u64,
    etag: Option<String>,
}

impl AzureFilesSource {
    /// Makes the source of a file URI. Blocking.
    ///
    /// # Errors
    /// The URI, the credentials or the endpoint cannot be used.
    pub fn open(uri: &str, config: &PullConfig, environment: &BTreeMap<String, String>) -> Result<Self, SourceError> {
        let settings = azure(environment, uri, AzureService::File)?;
        match settings.identity {
            AzureIdentity::Anonymous | AzureIdentity::Key(_) | AzureIdentity::Signature(_) => {}
            _ => {
                return Err(SourceError::Denied(
                    "Azure authentication failed. File shares take the account's key or a shared access signature (AZURE_STORAGE_ACCESS_KEY)."
                        .to_owned(),
                ));
            }
        }
        let endpoint = web::endpoint(&settings.endpoint, "endpoint of an Azure account")?;
        let web = Web::open("Azure", &endpoint, Wish::default(), config, environment)?;
        Ok(Self { web, endpoint, settings })
    }

    fn resource(&self, path: &str) -> String {
        format!("{}/{path}", self.settings.container)
    }

    /// Sends a signed request for something of the share.
    async fn ask(&self, path: &str, query: &[(&str, &str)], range: Option<&str>) -> Result<Response, SourceError> {
        let segments = path.split('/').filter(|part| !part.is_empty());
        let mut url = below(&self.endpoint, std::iter::once(self.settings.container.as_str()).chain(segments));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-version", reqwest::header::HeaderValue::from_static(VERSION));
        #[expect(clippy::disallowed_methods, reason = "a signature has the time of its request")]
        let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        headers.insert("x-ms-date", secret_header(&date)?);
        if let Some(range) = range {
            headers.insert("x-ms-range", secret_header(range)?);
        }
        match &self.settings.identity {
            AzureIdentity::Signature(signature) => {
                let pairs: Vec<(String, String)> =
                    url::form_urlencoded::parse(signature.0.as_bytes()).into_owned().collect();
                url.query_pairs_mut().extend_pairs(pairs);
            }
            AzureIdentity::Key(key) => {
                let key = STANDARD.decode(&key.0).map_err(|_| {
                    SourceError::Denied("Azure authentication failed. The account's key is not Base64.".to_owned())
                })?;
                let text = to_sign(&self.settings.account, &url, &headers);
                let signature = STANDARD.encode(hmac(&key, text.as_bytes()));
                let value = format!("SharedKey {}:{signature}", self.settings.account);
                headers.insert(reqwest::header::AUTHORIZATION, secret_header(&value)?);
            }
            _ => {}
        }
        self.web.get(&url, headers).await
    }

    /// Lists a folder; none when it is no folder.
    async fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, SourceError> {
        let mut entries = Vec::new();
        let mut marker = String::new();
        loop {
            let mut query = vec![("restype", "directory"), ("comp", "list"), ("include", "Etag")];
            if !marker.is_empty() {
                query.push(("marker", &marker));
            }
            let response = self.ask(path, &query, None).await?;
            match response.status().as_u16() {
                200 => {}
                404 => return Ok(None),
                _ => return Err(self.web.refused(response.status(), &self.resource(path))),
            }
            let body = self.web.body(response, &self.resource(path)).await?;
            let (page, next) = entries_of(&body).ok_or_else(|| {
                SourceError::Invalid(format!("Azure endpoint answered no list of '{}'", self.resource(path)))
            })?;
            entries.extend(page);
            match next {
                Some(next) if next != marker => marker = next,
                _ => return Ok(Some(entries)),
            }
        }
    }

    async fn single(&self) -> Result<Option<RemoteFile>, SourceError> {
        let path = &self.settings.path;
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let siblings = self.list(folder).await?.unwrap_or_default();
        let found = siblings.into_iter().find(|entry| entry.name == name && !entry.is_folder);
        Ok(found.map(|entry| file(path.clone(), entry)))
    }
}

fn file(path: String, entry: Entry) -> RemoteFile {
    RemoteFile {
        path: path.clone().into(),
        key: path,
        size: Some(entry.size),
        etag: entry.etag.map(|etag| format!("\"{}\"", etag.trim_matches('"'))),
        ..RemoteFile::default()
    }
}

#[async_trait]
impl ModelSource for AzureFilesSource {
    async fn manifest(&self) -> Result<RemoteManifest, SourceError> {
        let resource = self.resource(&self.settings.path);
        let mut files = Vec::new();
        let mut folders = vec![(self.settings.path.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let Some(entries) = self.list(&folder).await? else {
                files.extend(self.single().await?);
                continue;
            };
            for entry in entries {
                let path = format!("{folder}/{}", entry.name);
                match entry.is_folder {
                    true if depth >= DEEPEST => {
                        return Err(SourceError::Invalid(format!(
                            "Azure resource '{resource}' is more than {DEEPEST} deep"
                        )));
                    }
                    true => folders.push((path, depth + 1)),
                    false => files.push(file(path, entry)),
                }
            }
        }
        let unpack = match &files[..] {
            [] => return Err(SourceError::NotFound(format!("Failed to fetch model. No model found in {resource}."))),
            [only] => unpack::kind_of(only.path.file_name().unwrap_or_default()),
            _ => Unpack::Keep,
        };
        Ok(RemoteManifest { files, unpack })
    }

    async fn read(&self, file: &RemoteFile, offset: u64, length: Option<u64>) -> Result<Reading, SourceError> {
        let range = match length {
            None if offset == 0 => None,
            None => Some(format!("bytes={offset}-")),
            Some(length) => Some(format!("bytes={offset}-{}", offset + length.max(1) - 1)),
        };
        let resource = self.resource(&file.key);
        let response = self.ask(&file.key, &[], range.as_deref()).await?;
        let now = response.headers().get("etag").and_then(|etag| etag.to_str().ok()).map(|etag| etag.trim_matches('"'));
        if let (Some(pinned), Some(now)) = (file.etag.as_deref(), now)
            && pinned.trim_matches('"') != now
        {
            return Err(SourceError::Changed(resource));
        }
        match response.status().as_u16() {
            206 if range.is_some() => {}
            200 if range.is_none() => {}
            200 => return Err(SourceError::RangeIgnored(resource)),
            _ => return Err(self.web.refused(response.status(), &resource)),
        }
        let digests = super::digest::from_headers(response.headers());
        Ok(Reading { bytes: self.web.stream(response, &resource), digests })
    }

    fn supports_ranges(&self) -> bool {
        true
    }
}

/// Makes the text that a shared key signs (Authorize with Shared Key, version 2015-02-21 and later).
fn to_sign(account: &str, url: &Url, headers: &HeaderMap) -> String {
    let mut own: Vec<(&str, &str)> = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-ms-"))
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect();
    own.sort_unstable();
    let own: String = own.iter().flat_map(|(name, value)| [*name, ":", *value, "\n"]).collect();
    let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in url.query_pairs() {
        query.entry(name.to_lowercase()).or_default().push(value.into_owned());
    }
    let query: String = query
        .into_iter()
        .map(|(name, mut values)| {
            values.sort_unstable();
            format!("\n{name}:{}", values.join(","))
        })
        .collect();
    // Eleven standard headers between the verb and ours; none of them is sent.
    format!("GET{}{own}/{account}{}{query}", "\n".repeat(12), url.path())
}

/// HMAC-SHA256 (RFC 2104).
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

/// Reads a page of a listing; the marker of the next.
fn entries_of(xml: &[u8]) -> Option<(Vec<Entry>, Option<String>)> {
    let listing: Listing = quick_xml::de::from_reader(xml).ok()?;
    let folders = listing.entries.folders.into_iter().map(|folder| Entry {
        name: folder.name,
        is_folder: true,
        size: 0,
        etag: None,
    });
    let files = listing.entries.files.into_iter().map(|file| Entry {
        name: file.name,
        is_folder: false,
        size: file.properties.content_length,
        etag: file.properties.etag,
    });
    Some((folders.chain(files).collect(), listing.next_marker.filter(|marker| !marker.is_empty())))
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listing {
    entries: Entries,
    next_marker: Option<String>,
}

#[derive(serde::Deserialize)]
struct Entries {
    #[serde(rename = "Directory", default)]
    folders: Vec<Listed>,
    #[serde(rename = "File", default)]
    files: Vec<Listed>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    name: String,
    #[serde(default)]
    properties: Properties,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Properties {
    #[serde(rename = "Content-Length")]
    content_length: u64,
    #[serde(rename = "Etag", alias = "ETag")]
    etag: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_to_sign_is_that_of_the_documentation() {
        let url = Url::parse("https://acct.file.core.windows.net/share/a%20b?restype=directory&comp=list").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-version", "2022-11-02".parse().unwrap());
        headers.insert("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT".parse().unwrap());
        let expected = "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2022-11-02\n/acct/share/a%20b\ncomp:list\nrestype:directory";
        assert_eq!(to_sign("acct", &url, &headers), expected);
    }

    #[test]
    fn the_digest_with_a_key_is_that_of_the_standard() {
        // RFC 4231, test case 2.
        let digest = hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(super::super::digest::hex(&digest)[..16], *"5bdcc146bf60754e");
    }

    #[test]
    fn a_listing_has_folders_and_files() {
        let xml = br#"<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Entries><File><Name>m &amp; n</Name><Properties><Content-Length>7</Content-Length><Etag>"0x1"</Etag></Properties></File><Directory><Name>d</Name><Properties /></Directory></Entries><NextMarker /></EnumerationResults>"#;
        let (entries, next) = entries_of(xml).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.is_folder, entry.size)).collect();
        assert_eq!((names, next), (vec![("d", true, 0), ("m & n", false, 7)], None));
        assert!(entries_of(b"<html>login</html>").is_none());
    }
}
