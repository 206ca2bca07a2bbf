//! `ClusterStorageContainer`: a container of the user's in place of kserve-local's own downloads (§3.6, §3.7).
//!
//! The one that `storageContainerName` names is taken, else the first that is for the URI, by name. Volumes (`pvc://`) and
//! images (`oci://`) never come from one, as on a cluster. One that runs KServe's own storage initializer stands for
//! kserve-local itself: nothing is run, and its environment counts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;

use super::credentials::{self, CA_BUNDLE};
use super::env::{self, PodFacts};
use super::origin::Origin;
use super::resolve::Scope;
use super::{Access, ResolveError, patterns};
use crate::api::storage_kinds::{INIT_CONTAINER, StorageContainerSpec};
use crate::api::{ComponentSpec, StorageContainer};

/// Variables of a container that stands for kserve-local that count here (§3.3): none that names a file of this machine.
const READ: [&str; 26] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "awsAnonymousCredential",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_ACCESS_TOKEN",
    "HF_TOKEN",
    "HF_ENDPOINT",
    "MODELSCOPE_API_TOKEN",
    "GIT_USERNAME",
    "GIT_PASSWORD",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    patterns::ALLOW,
    patterns::IGNORE,
    CA_BUNDLE,
    "S3_ENDPOINT",
];

/// KServe's own image, in any registry.
const OWN_IMAGE: &str = "kserve/storage-initializer";
/// The container every cluster has; here it is kserve-local itself.
const DEFAULT: &str = "default";

/// Who fetches the artifacts of a component.
pub(super) enum Fetcher<'a> {
    /// kserve-local, with this environment of a container that stands for it.
    Ours { environment: Vec<(String, String)>, origin: Option<String> },
    /// A container of the user's.
    Theirs { name: &'a str, spec: &'a StorageContainerSpec },
}

/// What containers are chosen and run with.
pub(super) struct Fetching<'a> {
    pub(super) scope: &'a Scope<'a>,
    pub(super) component: &'a ComponentSpec,
    /// Path of the component.
    pub(super) path: &'a str,
    /// What they are run as.
    pub(super) workload_type: &'static str,
    /// `STORAGE_CONFIG` and the like of the `storage` block.
    pub(super) stored: &'a [(String, String)],
}

impl<'a> Fetching<'a> {
    /// For a service's own downloads.
    pub(super) fn of(scope: &'a Scope<'a>, component: &'a ComponentSpec, path: &'a str) -> Self {
        Self { scope, component, path, workload_type: INIT_CONTAINER, stored: &[] }
    }

    /// Chooses who fetches a URI.
    ///
    /// # Errors
    /// `storageContainerName` names none that is for it, or a container's formats cannot be read.
    pub(super) fn choose(&self, uri: &str) -> Result<Fetcher<'a>, ResolveError> {
        if never_by_container(uri) {
            return Ok(Fetcher::ours());
        }
        let containers = &self.scope.companions.storage_containers;
        if let Some(name) = self.component.storage_container_name.as_deref() {
            return match containers.get(name) {
                None if name == DEFAULT => Ok(Fetcher::ours()),
                found => self.by_name(name, found.copied(), uri),
            };
        }
        for (name, container) in containers {
            if !container.disabled
                && container.spec.workload_type() == self.workload_type
                && supports(name, &container.spec, uri)?
            {
                return self.taken(name, container);
            }
        }
        Ok(Fetcher::ours())
    }

    fn by_name(
        &self,
        name: &'a str,
        found: Option<&'a StorageContainer>,
        uri: &str,
    ) -> Result<Fetcher<'a>, ResolveError> {
        let refused = |message: String| ResolveError::invalid(format!("{}.storageContainerName", self.path), message);
        let Some(container) = found else {
            let known: Vec<&str> = self.scope.companions.storage_containers.keys().copied().collect();
            let help =
                if known.is_empty() { "there is none".to_owned() } else { format!("there are: {}", known.join(", ")) };
            return Err(refused(format!("ClusterStorageContainer \"{name}\" not found")).with_help(help));
        };
        if container.disabled {
            return Err(refused(format!("ClusterStorageContainer \"{name}\" is disabled")));
        }
        let kind = container.spec.workload_type();
        if kind != INIT_CONTAINER {
            return Err(refused(format!(
                "ClusterStorageContainer \"{name}\" has workloadType \"{kind}\"; explicit selection requires \"{INIT_CONTAINER}\""
            )));
        }
        if !supports(name, &container.spec, uri)? {
            let uri = crate::api::storage_uri::redact(uri);
            return Err(refused(format!("ClusterStorageContainer \"{name}\" does not support storageUri \"{uri}\"")));
        }
        self.taken(name, container)
    }

    fn taken(&self, name: &'a str, container: &'a StorageContainer) -> Result<Fetcher<'a>, ResolveError> {
        let spec = &container.spec;
        if stands_for_us(&spec.container) {
            let resources = BTreeMap::new();
            let environment =
                env::environment(&spec.container, &origin(name, &spec.container), &self.facts(&resources))?;
            // What names files is meant for the container, not for this machine.
            let environment = environment.into_iter().filter(|(name, _)| is_read(name)).collect();
            return Ok(Fetcher::Ours { environment, origin: Some(format!("ClusterStorageContainer {name}")) });
        }
        Ok(Fetcher::Theirs { name, spec })
    }

    pub(super) fn facts<'f>(&'f self, resources: &'f BTreeMap<String, super::Resources>) -> PodFacts<'f> {
        PodFacts {
            namespace: &self.scope.key.namespace,
            name: &self.scope.key.name,
            labels: &self.scope.meta.labels,
            annotations: &self.scope.meta.annotations,
            service_account: self.component.service_account(),
            resources,
            companions: self.scope.companions,
        }
    }
}

impl Fetching<'_> {
    /// Returns what an artifact that kserve-local fetches itself is fetched with.
    ///
    /// # Errors
    /// The ConfigMap with certificates that is named is not there.
    pub(super) fn access(&self, fetcher: &Fetcher<'_>, given: &Access) -> Result<Access, ResolveError> {
        let mut access = fetcher.access(given);
        let named = access.variables.remove(CA_BUNDLE);
        if let Some(map) = named.or_else(|| self.scope.config.ca_bundle.clone()) {
            credentials::add_global_ca_bundle(&mut access, &map, self.scope)?;
        }
        Ok(access)
    }
}

impl Fetcher<'_> {
    pub(super) fn ours() -> Self {
        Self::Ours { environment: Vec::new(), origin: None }
    }

    /// Returns what an artifact is fetched with: what the account or the `storage` block gives, and for the rest what the
    /// container that stands for kserve-local says.
    fn access(&self, given: &Access) -> Access {
        let mut access = given.clone();
        if let Self::Ours { environment, origin: Some(origin) } = self
            && !environment.is_empty()
        {
            for (name, value) in environment {
                access.variables.entry(name.clone()).or_insert_with(|| value.clone());
            }
            access.origins.push(origin.clone());
        }
        access
    }

    /// Refuses a container that fetches one model at a time when several are wanted.
    pub(super) fn check_several(&self, field: &str) -> Result<(), ResolveError> {
        match self {
            Self::Theirs { name, spec } if spec.supports_multi_model_download != Some(true) => {
                Err(ResolveError::invalid(field, format!(
                    "storage container \"{name}\" does not support multi-model download; use the default kserve storage initializer or a compatible storage container"
                ))
                .with_help("set `supportsMultiModelDownload: true` when it does"))
            }
            _ => Ok(()),
        }
    }
}

fn is_read(variable: &str) -> bool {
    READ.contains(&variable)
        || variable.starts_with("S3_")
        || variable.starts_with("AZ_")
        || variable.ends_with("-headers")
}

/// Volumes are mounted, and images are the engine's affair.
pub(super) fn never_by_container(uri: &str) -> bool {
    uri.starts_with("pvc://") || uri.starts_with("oci://") || uri.starts_with("oci+")
}

fn supports(name: &str, spec: &StorageContainerSpec, uri: &str) -> Result<bool, ResolveError> {
    spec.supports(uri).map_err(|error| {
        let field = format!("ClusterStorageContainer {name} spec.supportedUriFormats");
        ResolveError::invalid(field, format!("error checking storage container {name}: {error}"))
    })
}

fn stands_for_us(container: &Container) -> bool {
    let Some(image) = container.image.as_deref().filter(|image| !image.trim().is_empty()) else { return true };
    let name = image.split('@').next().unwrap_or(image);
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    name == OWN_IMAGE || name.ends_with(&format!("/{OWN_IMAGE}"))
}

pub(super) fn origin(name: &str, container: &Container) -> Origin {
    Origin::new(format!("ClusterStorageContainer {name} spec.container"), container)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kserves_own_storage_initializer_stands_for_kserve_local() {
        let image = |image: Option<&str>| Container { image: image.map(str::to_owned), ..Container::default() };
        for own in [
            None,
            Some(""),
            Some("kserve/storage-initializer"),
            Some("kserve/storage-initializer:v0.20.0"),
            Some("docker.io/kserve/storage-initializer:latest"),
            Some("localhost:5000/kserve/storage-initializer@sha256:00"),
        ] {
            assert!(stands_for_us(&image(own)), "{own:?}");
        }
        for theirs in ["my/storage-initializer:1", "notkserve/storage-initializer", "python:3"] {
            assert!(!stands_for_us(&image(Some(theirs))), "{theirs}");
        }
    }
}
