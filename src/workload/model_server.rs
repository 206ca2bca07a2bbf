//! Servers that load and unload models while they run, and the models that are theirs (TrainedModel, §7.1, §7.2).
//!
//! A predictor is such a server when it has no model of its own (and is none of Hugging Face's), or when its container
//! says `MULTI_MODEL_SERVER: "true"`. The models are shown to it in one folder, each under its name; the folder lives as
//! long as the replica.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::fingerprint::hex;
use super::pod::literal_env;
use super::resolve::Scope;
use super::{Access, Companions, ModelRef, Mount, MountSource, ResolveError, WorkloadConfig};
use super::{credentials, model_source, server_defaults};
use crate::api::{ComponentSpec, InferenceServiceSpec, ModelSpec, Object, ServiceKey, TrainedModelSpec, meta};
use crate::runtimes::{Catalog, Runtime};

/// Volume the models of such a server are in.
pub const VOLUME: &str = "trained-models";
/// Variable by which a predictor of the user's own containers says that it is such a server.
const MULTI_MODEL_SERVER: &str = "MULTI_MODEL_SERVER";
/// Format whose servers find their model themselves.
const FINDS_ITS_MODEL: &str = "huggingface";

/// A server that loads and unloads models while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelServer {
    /// How it is told to.
    pub repository: Repository,
    /// Frameworks whose models it takes; empty when nobody knows.
    pub frameworks: Vec<String>,
    /// Memory its models may declare together, in bytes; none means that nobody has limited it.
    pub memory_limit: Option<u64>,
}

/// How such a server is spoken to: kept with its containers, so that one that runs can be looked after without the
/// manifest that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Port of `/v2/repository/models/…`.
    pub port: u16,
    /// What it wants to find beside a model's files.
    pub layout: Layout,
    /// Whether it sees its models read-only; then they share their files with the cache.
    pub read_only: bool,
}

/// What a server wants to find beside a model's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// `model-settings.json` with the model's name and implementation.
    MlServer,
    /// Nothing.
    Plain,
}

/// Whether a model predictor waits for TrainedModels.
pub(super) fn is_multi_model(model: &ModelSpec, component: &ComponentSpec) -> bool {
    let own = server_defaults::has_storage(model) || component.storage_uris.is_some();
    !own && model.model_format.name != FINDS_ITS_MODEL
}

/// Whether a predictor of the user's own containers does.
pub(super) fn says_so(serving: &k8s_openapi::api::core::v1::Container) -> bool {
    literal_env(serving, MULTI_MODEL_SERVER) == Some("true")
}

/// The frameworks a runtime takes models of, each once.
pub(super) fn frameworks(runtime: &Runtime) -> Vec<String> {
    let mut names: Vec<String> =
        runtime.spec.supported_model_formats.iter().map(|format| format.name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The layout a known server wants.
pub(super) fn layout(server_type: Option<&str>) -> Layout {
    if server_type == Some("mlserver") { Layout::MlServer } else { Layout::Plain }
}

/// The folder of its models.
pub(super) fn mount(read_only: bool) -> Mount {
    let source = MountSource::EmptyDir { volume: VOLUME.to_owned(), memory: false, size_limit: None };
    Mount { path: meta::MODEL_MOUNT_PATH.to_owned(), source, sub_path: None, read_only }
}

/// Resolves where a TrainedModel's files are and what they are fetched with: as its server's own model would be, by the
/// server's ServiceAccount. `server` is the InferenceService it names, when there is one.
///
/// # Errors
/// The URI is none that can be fetched, or a Secret is wrong.
pub fn trained_model(
    object: &Object,
    spec: &TrainedModelSpec,
    server: Option<&InferenceServiceSpec>,
    companions: &Companions<'_>,
    config: &WorkloadConfig,
) -> Result<ModelRef, ResolveError> {
    const FIELD: &str = "spec.model.storageUri";
    let (nothing, catalog) = (InferenceServiceSpec::default(), Catalog::with_builtin(&[], []));
    let key = ServiceKey::new(&object.key.namespace, &object.key.name);
    let server = server.unwrap_or(&nothing);
    let scope = Scope { key, meta: &object.meta, spec: server, catalog: &catalog, companions, config };
    // What is to be said of the account is said of its service.
    let mut said = Vec::new();
    let access = credentials::of_account(&scope, &server.predictor, &mut said)?;
    let names = credentials::pull_secrets(&[], &server.predictor, &scope);
    let access = Access { registries: credentials::registries(&names, &scope, &mut said), ..access };
    let wanted =
        model_source::Wanted { namespace: &object.key.namespace, read_only: true, access: &access, fetching: None };
    let found = model_source::single(&spec.model.storage_uri, FIELD, &wanted)?;
    found.models.into_iter().next().ok_or_else(|| {
        ResolveError::invalid(
            FIELD,
            "a claim is no place for a TrainedModel: it is mounted when a server starts, not later",
        )
        .with_help("write file:// and the path, or give the model an InferenceService of its own")
    })
}

/// Names what a server loads for a TrainedModel: another name means that it loads anew.
pub fn mark(model: &ModelRef, framework: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(format!("{}\n{framework}", model.uri));
    hex(&hasher.finalize()[..8])
}
