//! `oci://`: the folder `/models` of an image that the container engine has, or pulls (§3.8).
//!
//! The engine is asked first, because it knows images that were built here and in no registry. Where there is no engine
//! with images, or the reference names an artifact that engines do not take, the registry is asked itself.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::registry::RegistrySource;
use super::{ModelSource, Reading, RemoteFile, RemoteManifest, SourceError, Unpack};

/// The folder that models are in.
const FOLDER: &str = "/models";

/// A stream of a tar.
pub type Tar = BoxStream<'static, Result<Bytes, SourceError>>;

/// Folders of images, from a container engine.
#[async_trait]
pub trait ImageFolders: Send + Sync + std::fmt::Debug {
    /// Makes sure that an image is here; `logins` are of pull Secrets. False when the engine has no images, or takes none
    /// like this.
    async fn ensure(&self, image: &str, logins: &[String]) -> Result<bool, SourceError>;
    /// Streams a folder of an image that is here, as a tar with names relative to it.
    async fn folder(&self, image: &str, folder: &str) -> Result<Tar, SourceError>;
}

/// The model of an image.
#[derive(Debug)]
pub struct ImageSource {
    pub(super) engine: Arc<dyn ImageFolders>,
    pub(super) registry: RegistrySource,
    pub(super) reference: String,
    pub(super) logins: Vec<String>,
    /// Whether the registry is read itself.
    pub(super) by_registry: OnceLock<()>,
}

#[async_trait]
impl ModelSource for ImageSource {
    async fn manifest(&self) -> Result<RemoteManifest, SourceError> {
        if self.by_registry.get().is_none() && self.engine.ensure(&self.reference, &self.logins).await? {
            let file = RemoteFile { path: "models.tar".into(), key: self.reference.clone(), ..RemoteFile::default() };
            return Ok(RemoteManifest { files: vec![file], unpack: Unpack::Tar });
        }
        let _already_so = self.by_registry.set(());
        self.registry.manifest().await
    }

    async fn read(&self, file: &RemoteFile, offset: u64, length: Option<u64>) -> Result<Reading, SourceError> {
        if self.by_registry.get().is_some() {
            return self.registry.read(file, offset, length).await;
        }
        Ok(Reading::new(self.engine.folder(&self.reference, FOLDER).await?))
    }

    fn supports_ranges(&self) -> bool {
        self.by_registry.get().is_some()
    }
}
