//! An InferenceService plus the catalogue of runtimes, resolved into workloads (§1.8, §2.5 to §2.7).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};

use super::Workload;
use crate::api::{Object, Typed};
use crate::runtimes::{Catalog, NoRuntime};

/// Objects an InferenceService may refer to, by `(namespace, name)`.
#[derive(Clone, Debug, Default)]
pub struct Companions<'o> {
    /// Secrets.
    pub secrets: BTreeMap<(&'o str, &'o str), &'o Secret>,
    /// ConfigMaps.
    pub config_maps: BTreeMap<(&'o str, &'o str), &'o ConfigMap>,
    /// ServiceAccounts.
    pub service_accounts: BTreeMap<(&'o str, &'o str), &'o ServiceAccount>,
}

impl<'o> Companions<'o> {
    /// Gathers the companions from all objects.
    pub fn new(objects: impl IntoIterator<Item = &'o Object>) -> Self {
        let mut companions = Self::default();
        for object in objects {
            let key = (object.key.namespace.as_str(), object.key.name.as_str());
            match &object.typed {
                Typed::Secret(secret) => drop(companions.secrets.insert(key, secret)),
                Typed::ConfigMap(map) => drop(companions.config_maps.insert(key, map)),
                Typed::ServiceAccount(account) => drop(companions.service_accounts.insert(key, account)),
                _ => {}
            }
        }
        companions
    }
}

/// What the operator decided for every workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadConfig {
    /// Folders of this machine that manifests may mount with `hostPath`; none by default.
    pub allowed_host_paths: Vec<String>,
}

/// Why an InferenceService cannot be turned into workloads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No runtime serves the model.
    #[error(transparent)]
    Runtime(#[from] Box<NoRuntime>),
    /// Something in the spec cannot be done.
    #[error("{message}")]
    Invalid {
        /// Field path, for example `spec.predictor.containers[0].volumeMounts[1]`.
        field: String,
        /// What is wrong.
        message: String,
        /// The next step.
        help: Option<String>,
    },
}

/// Resolves every component of an InferenceService, predictor first.
///
/// # Errors
/// The first component that cannot be resolved, with the reason.
pub fn resolve(
    object: &Object,
    catalog: &Catalog,
    companions: &Companions<'_>,
    config: &WorkloadConfig,
) -> Result<Vec<Workload>, ResolveError> {
    let _ = (object, catalog, companions, config);
    todo!()
}
