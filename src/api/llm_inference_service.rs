//! `LLMInferenceService` and `LLMInferenceServiceConfig` v1alpha2 (`V1A2/llm_inference_service_types.go`, §7.3).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A large language model and how it is served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LlmInferenceServiceSpec {
    /// The model; a config may leave it out.
    pub model: Option<LlmModel>,
    /// Whether the model is fetched before its server starts.
    pub storage_initializer: Option<StorageInitializer>,
    /// Replicas, when their number is fixed.
    pub replicas: Option<i32>,
    /// Replicas, when they follow the load.
    pub scaling: Option<LlmScaling>,
    /// How one replica spreads over devices.
    pub parallelism: Option<Parallelism>,
    /// Pod labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Pod annotations.
    pub annotations: Option<BTreeMap<String, String>>,
    /// The pod; its container `main` serves.
    pub template: Option<Box<core::PodSpec>>,
    /// Pods of other nodes.
    pub worker: Option<Box<core::PodSpec>>,
    /// Where the key-value cache overflows to.
    pub kv_cache_offloading: Option<KvCacheOffloading>,
    /// How it is reached.
    pub router: Option<LlmRouter>,
    /// Prompts are processed elsewhere.
    pub prefill: Option<Value>,
    /// Configs it builds on; later ones win.
    pub base_refs: Option<Vec<core::LocalObjectReference>>,
    /// Where spans go.
    pub tracing: Option<Value>,
    /// How replicas are replaced.
    pub rollout_strategy: Option<Value>,
}

/// A model: where it is, and the name it is called by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LlmModel {
    /// Where it is.
    pub uri: Option<String>,
    /// Name in requests; that of the object when there is none.
    pub name: Option<String>,
    /// Adapters beside it.
    pub lora: Option<Lora>,
    /// Encrypted artifacts.
    pub confidential: Option<Value>,
    /// Importance of its requests (v1alpha1).
    pub criticality: Option<String>,
}

/// LoRA adapters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lora {
    /// The adapters.
    pub adapters: Option<Vec<LoraAdapter>>,
    /// Largest rank.
    pub max_rank: Option<i32>,
    /// Adapters in use at once.
    pub max_adapters: Option<i32>,
    /// Adapters in memory.
    pub max_cpu_adapters: Option<i32>,
}

/// One adapter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoraAdapter {
    /// Where it is.
    pub uri: String,
    /// Name in requests.
    pub name: String,
    /// Importance of its requests (v1alpha1).
    pub criticality: Option<String>,
}

/// Whether the model is fetched before its server starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageInitializer {
    /// It is, unless this is false.
    pub enabled: Option<bool>,
}

/// Replicas that follow the load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LlmScaling {
    /// Fewest.
    pub min_replicas: Option<i32>,
    /// Most.
    pub max_replicas: Option<i32>,
    /// The variant autoscaler.
    pub wva: Option<Value>,
    /// KEDA.
    pub keda: Option<Value>,
}

/// How one replica spreads over devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Parallelism {
    /// Parts of each layer.
    pub tensor: Option<i32>,
    /// Groups of layers.
    pub pipeline: Option<i32>,
    /// Copies of the model.
    pub data: Option<i32>,
    /// Copies on each node.
    pub data_local: Option<i32>,
    /// Port by which copies talk.
    #[serde(rename = "dataRPCPort")]
    pub data_rpc_port: Option<i32>,
    /// Experts on different devices.
    pub expert: Option<bool>,
}

/// Where the key-value cache overflows to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KvCacheOffloading {
    /// Memory of the machine.
    pub cpu: Option<Quantity>,
    /// Which entries go first: `lru` or `arc`.
    pub eviction_policy: Option<String>,
    /// Further tiers.
    pub secondary: Option<Vec<Value>>,
}

/// How it is reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LlmRouter {
    /// Routes.
    pub route: Option<Value>,
    /// Gateways.
    pub gateway: Option<Value>,
    /// Ingresses.
    pub ingress: Option<Value>,
    /// Picks the replica.
    pub scheduler: Option<Value>,
}
