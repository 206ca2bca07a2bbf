//! What a check-up wants to know of an engine beyond what running models needs.

use std::collections::BTreeMap;

use bollard::query_parameters::ListImagesOptions;

use super::EngineError;
use super::docker::DockerEngine;
use super::docker_connection::QUICK;

/// An engine as a check-up sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkup {
    /// Socket or URL, and how it was found.
    pub endpoint: String,
    /// Name and version.
    pub version: String,
    /// Version of its API.
    pub api_version: String,
    /// `1` or `2`.
    pub cgroup_version: Option<String>,
    /// Folder in which it keeps images.
    pub root: Option<String>,
    /// Whether a runtime or device driver for NVIDIA GPUs is registered.
    pub nvidia: bool,
    /// `linux/amd64` and the like.
    pub platform: String,
    /// Its clock, as it writes it; RFC 3339.
    pub time: Option<String>,
    /// What it says it cannot do.
    pub warnings: Vec<String>,
    /// Platforms of the images it has, by tag.
    pub images: BTreeMap<String, String>,
}

impl DockerEngine {
    /// Asks the engine about itself and its images.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn checkup(&self) -> Result<Checkup, EngineError> {
        let connection = self.connection().await?;
        let docker = &connection.docker;
        let info = connection.settle("describe", "the engine", QUICK, docker.info()).await?;
        let version = connection.settle("describe", "the engine", QUICK, docker.version()).await?;
        let listed = docker.list_images(None::<ListImagesOptions>);
        let listed = connection.settle("list", "images", QUICK, listed).await?;
        let mut images = BTreeMap::new();
        for tag in listed.iter().flat_map(|image| &image.repo_tags).filter(|tag| !tag.starts_with("<none>")) {
            let inspected = connection.answer(QUICK, docker.inspect_image(tag)).await?;
            // One that was removed meanwhile is of no interest.
            let Ok(image) = inspected else { continue };
            let part = |part: Option<String>| part.unwrap_or_else(|| "unknown".to_owned());
            images.insert(tag.clone(), format!("{}/{}", part(image.os), part(image.architecture)));
        }
        let has_cdi = info
            .discovered_devices
            .iter()
            .flatten()
            .any(|device| device.id.as_deref().is_some_and(|id| id.starts_with("nvidia.com/")));
        Ok(Checkup {
            endpoint: connection.info.endpoint.clone(),
            version: format!("{} {}", connection.info.name, connection.info.version),
            api_version: version.api_version.unwrap_or_default(),
            cgroup_version: info.cgroup_version.map(|version| version.to_string()),
            root: info.docker_root_dir,
            nvidia: has_cdi || info.runtimes.iter().flatten().any(|(name, _)| name.contains("nvidia")),
            platform: connection.info.platform.clone(),
            time: info.system_time,
            warnings: info.warnings.unwrap_or_default(),
            images,
        })
    }
}
