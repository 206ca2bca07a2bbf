//! `hdfs://path` and `webhdfs://path`: files of a Hadoop cluster, by its WebHDFS API.
//!
//! The name node, users, certificates and headers come from KServe's Secret, else from the folder `HDFS_SECRET_DIR`, else
//! from `HDFS_NAMENODE` and `HADOOP_USER_NAME`; without any, a path that begins with `host:port` names it. Several name
//! nodes, separated by `;`, are tried in turn. Kerberos is refused: it takes a library of the system's.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use camino::Utf8Path;
use futures::{StreamExt, stream};
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use url::Url;

use super::fetch::pause;
use super::pull::PullConfig;
use super::web::{self, Web, Wish, below, secret_header};
use super::{ModelSource, Reading, RemoteFile, RemoteManifest, SourceError, Unpack, http, unpack};
use crate::workload::access::HDFS_PREFIX;

type Environment = BTreeMap<String, String>;

/// Deepest folder that is listed.
const DEEPEST: usize = 32;
/// How often more a name node that does not answer is asked whether a file is still the same.
const CHECKS: u32 = 3;

/// A path of a Hadoop cluster.
#[derive(Clone, Debug)]
pub struct HdfsSource {
    nodes: Vec<(Url, Web)>,
    path: String,
    query: Vec<(&'static str, String)>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneStatus {
    file_status: FileStatus,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Statuses {
    file_statuses: Inner,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inner {
    file_status: Vec<FileStatus>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileStatus {
    path_suffix: String,
    r#type: String,
    #[serde(default)]
    length: u64,
    #[serde(default)]
    modification_time: i64,
    #[serde(default)]
    file_id: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    remote_exception: Exception,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Exception {
    exception: String,
    message: String,
}

impl HdfsSource {
    /// Makes the source of a path as the environment says. Blocking.
    ///
    /// # Errors
    /// No name node is known, or what is said of it cannot be used.
    pub fn open(path: &str, config: &PullConfig, environment: &Environment) -> Result<Self, SourceError> {
        let folder = environment.get("HDFS_SECRET_DIR").filter(|folder| !folder.is_empty());
        let get = |name: &str| {
            let given = environment.get(&format!("{HDFS_PREFIX}{name}")).cloned();
            let read = || std::fs::read_to_string(Utf8Path::new(folder?).join(name)).ok();
            given.or_else(read).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        if get("KERBEROS_PRINCIPAL").is_some() || get("KERBEROS_KEYTAB").is_some() {
            return Err(SourceError::Denied(
                "HDFS authentication failed. Kerberos is not spoken here: use a WebHDFS gateway such as Knox with HEADERS, or mount the model with pvc://."
                    .to_owned(),
            ));
        }
        let (nodes, path) = match get("HDFS_NAMENODE").or_else(|| environment.get("HDFS_NAMENODE").cloned()) {
            Some(nodes) => (nodes, path),
            None => match path.split_once('/') {
                Some((node, rest)) if node.contains(':') => (format!("http://{node}"), rest),
                _ => {
                    return Err(SourceError::Invalid(
                        "HDFS endpoint is not known: HDFS_NAMENODE is neither in a Secret nor in the environment"
                            .to_owned(),
                    ));
                }
            },
        };
        let wish = wish(&get)?;
        let nodes = nodes.split(';').map(str::trim).filter(|node| !node.is_empty()).map(|node| {
            let node = if node.contains("://") { node.to_owned() } else { format!("http://{node}") };
            let base = web::endpoint(node.trim_end_matches('/'), "name node (HDFS_NAMENODE)")?;
            let web = Web::open("HDFS", &base, wish.clone(), config, environment)?;
            Ok((base, web))
        });
        let nodes = nodes.collect::<Result<Vec<_>, SourceError>>()?;
        let root = get("HDFS_ROOTPATH").unwrap_or_default();
        let path = [root.trim_matches('/'), path.trim_matches('/')].join("/").trim_matches('/').to_owned();
        let mut query = Vec::new();
        query.extend(environment.get("HADOOP_USER_NAME").map(|user| ("user.name", user.clone())));
        query.extend(get("USER_PROXY").map(|user| ("doas", user)));
        Ok(Self { nodes, path, query })
    }

    fn url(&self, base: &Url, path: &str, operation: &str, more: &[(&'static str, String)]) -> Url {
        let segments = ["webhdfs", "v1"].into_iter().chain(path.split('/').filter(|part| !part.is_empty()));
        let mut url = below(base, segments);
        let mut pairs = url.query_pairs_mut();
        pairs.append_pair("op", operation);
        for (name, value) in self.query.iter().chain(more) {
            pairs.append_pair(name, value);
        }
        drop(pairs);
        url
    }

    /// Asks the name nodes in turn; one that is on standby, or does not answer, gives way to the next.
    async fn ask(
        &self,
        path: &str,
        operation: &str,
        more: &[(&'static str, String)],
    ) -> Result<(&Web, Response), SourceError> {
        let mut last = SourceError::Invalid("HDFS endpoint is not known".to_owned());
        for (base, web) in &self.nodes {
            let response = match web.get(&self.url(base, path, operation, more), HeaderMap::new()).await {
                Ok(response) if response.status().is_success() => return Ok((web, response)),
                Ok(response) => response,
                Err(error @ SourceError::Transient { .. }) => {
                    last = error;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let status = response.status();
            let body = web.body(response, path).await.unwrap_or_default();
            let said = serde_json::from_slice::<Refusal>(&body).map(|refusal| refusal.remote_exception);
            let said = said.unwrap_or_default();
            if said.exception != "StandbyException" {
                return Err(refused(web, status, path, &said));
            }
            last = SourceError::Transient { message: "every HDFS name node is on standby".to_owned(), source: None };
        }
        Err(last)
    }

    async fn list(&self, path: &str) -> Result<Vec<FileStatus>, SourceError> {
        let (web, response) = self.ask(path, "LISTSTATUS", &[]).await?;
        Ok(web.json::<Statuses>(response, path).await?.file_statuses.file_status)
    }

    /// Asks whether a file is still what was listed, after it was read: what comes before is of that version, then.
    async fn check_unchanged(&self, file: &RemoteFile) -> Result<(), SourceError> {
        let mut failures = 0;
        let status = loop {
            let asked = async {
                let (web, response) = self.ask(&file.key, "GETFILESTATUS", &[]).await?;
                Ok(web.json::<OneStatus>(response, &file.key).await?.file_status)
            };
            match asked.await {
                Err(SourceError::Transient { .. }) if failures < CHECKS => {
                    failures += 1;
                    tokio::time::sleep(pause(Duration::from_millis(500), failures)).await;
                }
                Err(SourceError::NotFound(_)) => return Err(SourceError::Changed(file.key.clone())),
                answered => break answered?,
            }
        };
        let is_same = file.version.as_ref() == Some(&version(&status));
        if is_same { Ok(()) } else { Err(SourceError::Changed(file.key.clone())) }
    }

    fn file(&self, relative: String, status: &FileStatus) -> RemoteFile {
        let key = if relative.is_empty() { self.path.clone() } else { format!("{}/{relative}", self.path) };
        let name = if relative.is_empty() { key.rsplit('/').next().unwrap_or_default().to_owned() } else { relative };
        let version = version(status);
        RemoteFile {
            path: name.into(),
            key,
            size: Some(status.length),
            // Files of HDFS are written once: another one has another id, time or length.
            etag: Some(format!("\"{version}\"")),
            version: Some(version),
            ..RemoteFile::default()
        }
    }
}

/// Returns what tells one content of a file from another.
fn version(status: &FileStatus) -> String {
    format!("{}-{}-{}", status.file_id, status.modification_time, status.length)
}

/// Reads certificates and headers.
fn wish(get: &dyn Fn(&str) -> Option<String>) -> Result<Wish, SourceError> {
    let mut wish = Wish {
        unverified: get("TLS_SKIP_VERIFY").is_some_and(|value| matches!(value.to_lowercase().as_str(), "1" | "true")),
        ..Wish::default()
    };
    let pem = |name: &str| match get(name) {
        Some(text) if text.contains("-----BEGIN") => Ok(Some(text.into_bytes())),
        Some(path) if path.starts_with('/') => http::read_authorities(&path).map(Some).map_err(SourceError::Invalid),
        // In `storage-config` they are Base64.
        Some(text) => {
            use base64::Engine;
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            decoded.map(Some).map_err(|_| SourceError::Invalid(format!("HDFS setting {name} is no PEM text")))
        }
        None => Ok(None),
    };
    wish.authorities = pem("TLS_CA")?;
    if let (Some(mut certificate), Some(key)) = (pem("TLS_CERT")?, pem("TLS_KEY")?) {
        certificate.push(b'\n');
        certificate.extend(key);
        wish.identity = Some(certificate);
    }
    if let Some(json) = get("HEADERS") {
        let wrong = || SourceError::Invalid("HDFS setting HEADERS is no JSON object of header strings".to_owned());
        let headers: BTreeMap<String, String> = serde_json::from_str(&json).map_err(|_| wrong())?;
        for (name, value) in headers {
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            wish.headers.insert(name, secret_header(&value)?);
        }
    }
    Ok(wish)
}

fn refused(web: &Web, status: StatusCode, path: &str, said: &Exception) -> SourceError {
    let message: String = said.message.lines().next().unwrap_or_default().chars().take(200).collect();
    match said.exception.as_str() {
        "FileNotFoundException" => SourceError::NotFound(format!("HDFS resource '/{path}' not found.")),
        "AccessControlException" | "SecurityException" => {
            SourceError::Denied(format!("Access denied to HDFS resource '/{path}'. Verify permissions: {message}"))
        }
        _ => web.refused(status, &format!("/{path}")),
    }
}

#[async_trait]
impl ModelSource for HdfsSource {
    async fn manifest(&self) -> Result<RemoteManifest, SourceError> {
        let (web, response) = self.ask(&self.path, "GETFILESTATUS", &[]).await?;
        let root = web.json::<OneStatus>(response, &self.path).await?.file_status;
        if root.r#type == "FILE" {
            let file = self.file(String::new(), &root);
            let unpack = unpack::kind_of(file.path.as_str());
            return Ok(RemoteManifest { files: vec![file], unpack });
        }
        let mut files = Vec::new();
        let mut folders = vec![(String::new(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let at = if folder.is_empty() { self.path.clone() } else { format!("{}/{folder}", self.path) };
            for status in self.list(&at).await? {
                let below = format!("{folder}/{}", status.path_suffix).trim_start_matches('/').to_owned();
                match status.r#type.as_str() {
                    "DIRECTORY" if depth < DEEPEST => folders.push((below, depth + 1)),
                    "DIRECTORY" => {
                        return Err(SourceError::Invalid(format!("HDFS folder '/{at}' is more than {DEEPEST} deep")));
                    }
                    _ => files.push(self.file(below, &status)),
                }
            }
        }
        let unpack = match &files[..] {
            [] => {
                let path = &self.path;
                return Err(SourceError::NotFound(format!("Failed to fetch model. No model found in hdfs:///{path}.")));
            }
            [only] => unpack::kind_of(only.path.file_name().unwrap_or_default()),
            _ => Unpack::Keep,
        };
        Ok(RemoteManifest { files, unpack })
    }

    async fn read(&self, file: &RemoteFile, offset: u64, length: Option<u64>) -> Result<Reading, SourceError> {
        let mut more = Vec::new();
        if offset > 0 || length.is_some() {
            more.push(("offset", offset.to_string()));
        }
        more.extend(length.map(|length| ("length", length.to_string())));
        let (web, response) = self.ask(&file.key, "OPEN", &more).await?;
        // Bytes of a file that was replaced meanwhile may be of either; the name node knows.
        let (source, file) = (self.clone(), file.clone());
        let bytes = web.stream(response, &file.key);
        let end = stream::once(async move { source.check_unchanged(&file).await });
        Ok(Reading::new(bytes.chain(end.filter_map(async |checked| checked.err().map(Err))).boxed()))
    }

    fn supports_ranges(&self) -> bool {
        true
    }
}
