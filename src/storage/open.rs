//! From a URI to its source, with what the environment and KServe's Secrets give.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::sync::{Arc, OnceLock};

use camino::Utf8Path;
use tokio::sync::watch;

use super::azure_files::AzureFilesSource;
use super::container::{ContainerSource, StorageContainers};
use super::git::GitSource;
use super::hdfs::HdfsSource;
use super::http::HttpSource;
use super::hugging_face::HuggingFaceSource;
use super::image::{ImageFolders, ImageSource};
use super::model_scope::ModelScopeSource;
use super::object::ObjectSource;
use super::object_azure;
use super::pull::PullConfig;
use super::record::ModelKey;
use super::registry::RegistrySource;
use super::scratch::Scratch;
use super::{ModelSource, Progress, SourceError};
use crate::api::StorageUri;
use crate::api::storage_uri::OciMode;
use crate::workload::Access;

/// What a source is opened with.
pub(super) struct Opening<'a> {
    pub(super) uri: &'a StorageUri,
    pub(super) config: &'a PullConfig,
    /// The user's own environment.
    pub(super) environment: &'a BTreeMap<String, String>,
    /// What Secrets, ServiceAccounts and the `storage` block give.
    pub(super) access: &'a Access,
    /// A folder of this pull's own, for files that must exist while it runs.
    pub(super) scratch: &'a Utf8Path,
    /// An engine with images.
    pub(super) images: Option<&'a Arc<dyn ImageFolders>>,
    /// An engine that runs containers of the user's.
    pub(super) containers: Option<&'a Arc<dyn StorageContainers>>,
    /// Who is told how far a source is that does more than list.
    pub(super) progress: &'a watch::Sender<Progress>,
}

/// Opens the source of a remote URI. Blocking.
///
/// # Errors
/// The credentials, the endpoint or the URI cannot be used.
pub(super) fn open(opening: &Opening<'_>) -> Result<Box<dyn ModelSource>, SourceError> {
    let keys = opening.scratch.join("keys");
    let written = with_files(opening, &keys);
    let opened = written.map_err(unwritten).and_then(|environment| by_scheme(opening, &environment, &keys));
    // Whatever names a file has read it by now, and keeps what it needs later.
    match std::fs::remove_dir_all(&keys) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unwritten(error)),
        _ => opened,
    }
}

fn unwritten(error: io::Error) -> SourceError {
    SourceError::transient("could not keep the credentials in a file for a moment", error)
}

fn by_scheme(
    opening: &Opening<'_>,
    environment: &BTreeMap<String, String>,
    keys: &Utf8Path,
) -> Result<Box<dyn ModelSource>, SourceError> {
    let config = opening.config;
    match opening.uri.bare() {
        StorageUri::S3 { bucket, path } => Ok(Box::new(ObjectSource::s3(bucket, path, config, environment)?)),
        StorageUri::Gs { bucket, path } => {
            Ok(Box::new(ObjectSource::gcs(bucket, path, config, environment, Some(keys))?))
        }
        StorageUri::Http(url) => Ok(Box::new(HttpSource::open(url, config, environment)?)),
        StorageUri::HuggingFace { repository, revision } => {
            Ok(Box::new(HuggingFaceSource::open(repository, revision.as_deref(), config, environment)?))
        }
        StorageUri::ModelScope { repository, revision } => {
            Ok(Box::new(ModelScopeSource::open(repository, revision.as_deref(), config, environment)?))
        }
        StorageUri::AzureBlob(uri) => Ok(Box::new(object_azure::open(uri, config, environment)?)),
        StorageUri::AzureFile(uri) => Ok(Box::new(AzureFilesSource::open(uri, config, environment)?)),
        StorageUri::Hdfs(path) => Ok(Box::new(HdfsSource::open(path, config, environment)?)),
        StorageUri::Git(uri) => {
            let scratch = Scratch::beside(opening.scratch).map_err(unwritten)?;
            Ok(Box::new(GitSource::open(uri, scratch, config, environment)?))
        }
        StorageUri::Oci { reference, mode } => {
            let registry = RegistrySource::open(reference, &opening.access.registries, config, environment)?;
            match opening.images {
                Some(engine) if *mode != OciMode::Fetch => Ok(Box::new(ImageSource {
                    engine: Arc::clone(engine),
                    registry,
                    reference: reference.clone(),
                    logins: opening.access.registries.clone(),
                    by_registry: OnceLock::new(),
                })),
                _ => Ok(Box::new(registry)),
            }
        }
        uri @ StorageUri::By { container, .. } => match (opening.containers, &opening.access.downloader) {
            (Some(containers), Some(downloader)) => Ok(Box::new(ContainerSource {
                containers: Arc::clone(containers),
                downloader: Arc::clone(downloader),
                id: ModelKey::of(uri).id().to_owned(),
                logins: opening.access.registries.clone(),
                beside: opening.scratch.to_owned(),
                silence: config.container_silence,
                progress: opening.progress.clone(),
                scratch: tokio::sync::Mutex::default(),
            })),
            _ => Err(SourceError::Invalid(format!(
                "`{}` is fetched by the ClusterStorageContainer `{container}`, which only the daemon runs",
                uri.redacted()
            ))),
        },
        other => Err(SourceError::Invalid(format!("`{}` is not fetched", other.redacted()))),
    }
}

/// Variables of the user's own environment that say who someone is to S3; a Secret's keys do not mix with them.
const S3_IDENTITY: [&str; 6] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "awsAnonymousCredential",
];

/// Returns the user's environment with what was given put over it.
pub(super) fn surroundings(environment: &BTreeMap<String, String>, access: &Access) -> BTreeMap<String, String> {
    let variables = &access.variables;
    let mut environment = environment.clone();
    if S3_IDENTITY.iter().any(|name| variables.contains_key(*name)) {
        environment.retain(|name, _| !S3_IDENTITY.contains(&name.as_str()));
    }
    if variables.contains_key("AWS_ENDPOINT_URL") {
        environment.remove("AWS_ENDPOINT_URL_S3");
    }
    if variables.contains_key("GOOGLE_APPLICATION_CREDENTIALS") {
        environment.remove("STORAGE_EMULATOR_HOST");
    }
    if variables.keys().any(|name| name.starts_with("AZURE_")) {
        // Endpoints of emulators stay; who someone is does not mix.
        environment.retain(|name, _| name.ends_with("_ENDPOINT") || !name.starts_with("AZ"));
    }
    environment.extend(variables.clone());
    environment
}

/// The same, with the files that variables name written below `keys`, for this user only.
fn with_files(opening: &Opening<'_>, keys: &Utf8Path) -> io::Result<BTreeMap<String, String>> {
    let mut environment = surroundings(opening.environment, opening.access);
    for (index, (named, content)) in opening.access.files.iter().enumerate() {
        let path = keys.join(index.to_string());
        write_key(&path, content)?;
        for value in environment.values_mut().filter(|value| *value == named) {
            path.as_str().clone_into(value);
        }
    }
    Ok(environment)
}

/// Writes a new file for this user only, in a folder that is. Blocking.
pub(super) fn write_key(path: &Utf8Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, content)
}
