//! `TrainedModel` v1alpha1: a model in a server of several (`V1A1/trained_model.go`, §7.1).

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

/// Prefixes of what KServe's agent fetches TrainedModels from, in the order its webhook names them.
pub const AGENT_SCHEMES: [&str; 4] = ["s3://", "gs://", "https://", "http://"];

/// Which model, and in which server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrainedModelSpec {
    /// InferenceService of the same namespace that loads it.
    pub inference_service: String,
    /// The model.
    pub model: TrainedModelSource,
}

/// A model: where it is, of what framework, how large.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrainedModelSource {
    /// Where it is.
    pub storage_uri: String,
    /// What made it.
    pub framework: String,
    /// Memory it takes when loaded.
    pub memory: Quantity,
}
