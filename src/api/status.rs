//! `InferenceService` status, as KServe reports it (§8.1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ComponentKind, Condition};

/// The observed state of an InferenceService.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceServiceStatus {
    /// Generation this status speaks of.
    pub observed_generation: i64,
    /// Sorted by type.
    pub conditions: Vec<Condition>,
    /// More that is known of it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Address from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Cluster-internal address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// Every address, of an LLMInferenceService.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<ModelAddress>,
    /// Per component.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<ComponentKind, Box<ComponentStatus>>,
    /// State of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_status: Option<ModelStatus>,
    /// Named canaries, in the order they are written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub canary_statuses: Vec<CanaryStatus>,
    /// `Standard` or `Knative`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deployment_mode: String,
    /// Resolved namespaced runtime.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serving_runtime_name: String,
    /// Resolved cluster runtime.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster_serving_runtime_name: String,
}

/// State of one named canary (§5.2).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CanaryStatus {
    /// Its name.
    pub name: String,
    /// Whether a replica of it answers; only then it has its share of the traffic.
    pub ready: bool,
    /// Percent of the traffic that is asked for it.
    pub traffic_percent: i64,
    /// State of its model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_status: Option<ModelStatus>,
}

/// An address with a URL.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Address {
    /// The URL.
    pub url: String,
}

/// An address, and the models that answer there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelAddress {
    /// The URL.
    pub url: String,
    /// Names of models.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
}

/// Status of one component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ComponentStatus {
    /// Newest revision that is ready.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub latest_ready_revision: String,
    /// Newest revision.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub latest_created_revision: String,
    /// Revision before the last that had all traffic.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub previous_rolledout_revision: String,
    /// Last revision that had all traffic.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub latest_rolledout_revision: String,
    /// Split of traffic.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficTarget>,
    /// Address of the component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Cluster-internal address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
}

/// One share of traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficTarget {
    /// Revision that gets it.
    pub revision_name: String,
    /// Whether this is the newest ready revision.
    pub latest_revision: bool,
    /// Percent.
    pub percent: i64,
    /// `latest` or `prev`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tag: String,
    /// Address of the tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// State of the model (§8.3).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelStatus {
    /// `InProgress`, `UpToDate`, `BlockedByFailedLoad` or `InvalidSpec`.
    pub transition_status: String,
    /// Active and target state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub states: Option<ModelStates>,
    /// The last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure_info: Option<FailureInfo>,
    /// Copies that are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<ModelCopies>,
}

/// Active and target model state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelStates {
    /// State of the model that answers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub active_model_state: String,
    /// State of the model that shall answer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target_model_state: String,
}

/// Why a model did not load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureInfo {
    /// `ModelLoadFailed`, `RuntimeUnhealthy`, `RuntimeDisabled`, `NoSupportingRuntime`, `RuntimeNotRecognized` or
    /// `InvalidPredictorSpec`.
    pub reason: String,
    /// What happened.
    pub message: String,
    /// Exit code of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
}

/// Copies of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelCopies {
    /// Copies that failed.
    pub failed_copies: i32,
    /// Copies that are ready.
    pub total_copies: i32,
}

impl InferenceServiceStatus {
    /// Returns a condition by type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether the `Ready` condition is True.
    pub fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|condition| condition.status == super::ConditionStatus::True)
    }
}
