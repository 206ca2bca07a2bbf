//! The container engine as a place models come from.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::watch;

use super::execute::chain;
use crate::engine::{Blame, ContainerEngine, EngineError};
use crate::storage::SourceError;
use crate::storage::image::{ImageFolders, Tar};

/// The engine's images.
pub struct EngineImages(pub Arc<dyn ContainerEngine>);

impl std::fmt::Debug for EngineImages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EngineImages")
    }
}

#[async_trait]
impl ImageFolders for EngineImages {
    async fn ensure(&self, image: &str, logins: &[String]) -> Result<bool, SourceError> {
        if !self.0.has_images() {
            return Ok(false);
        }
        let present = self.0.image_present(image).await;
        // An engine that is away is no reason to fail: the registry can be read without one.
        let Ok(present) = present else { return Ok(false) };
        if present {
            return Ok(true);
        }
        match self.0.pull_image(image, logins, watch::Sender::default()).await {
            Ok(()) => Ok(true),
            // Artifacts that are no images, and whatever else the registry itself can say better.
            Err(EngineError::ImagePull { permanent: true, .. }) => Ok(false),
            Err(error) => Err(mapped(image, &error)),
        }
    }

    async fn folder(&self, image: &str, folder: &str) -> Result<Tar, SourceError> {
        let stream = self.0.image_folder(image, folder).await.map_err(|error| mapped(image, &error))?;
        let image = image.to_owned();
        Ok(stream.map(move |bytes| bytes.map_err(|error| mapped(&image, &error))).boxed())
    }
}

fn mapped(image: &str, error: &EngineError) -> SourceError {
    match error {
        EngineError::Refused { blame: Blame::User, verb: "read", .. } => SourceError::NotFound(format!(
            "OCI image at {image} has no /models/ directory: model files must be under /models/ in the image"
        )),
        EngineError::ImagePull { permanent: true, .. } | EngineError::Refused { blame: Blame::User, .. } => {
            SourceError::Invalid(chain(error))
        }
        _ => SourceError::Transient { message: chain(error), source: None },
    }
}
