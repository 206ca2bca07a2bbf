//! `InferenceService` v1beta1.

use serde::{Deserialize, Serialize};

use super::{ComponentKind, ComponentSpec};

/// The desired state of an InferenceService.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InferenceServiceSpec {
    /// The component that holds the model. Exactly one implementation.
    #[serde(default)]
    pub predictor: ComponentSpec,
    /// Pre- and post-processing in front of the predictor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transformer: Option<Box<ComponentSpec>>,
    /// Explains predictions; calls the predictor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explainer: Option<Box<ComponentSpec>>,
    /// Named canaries of the predictor (Standard mode, KServe 0.20).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub canary: Vec<CanarySpec>,
}

/// One entry of `spec.canary`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanarySpec {
    /// Overrides merged over the stable predictor.
    #[serde(default)]
    pub predictor: ComponentSpec,
    /// Share of traffic in percent, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_percent: Option<i64>,
}

impl InferenceServiceSpec {
    /// Returns a component when the service has it.
    pub fn component(&self, kind: ComponentKind) -> Option<&ComponentSpec> {
        match kind {
            ComponentKind::Predictor => Some(&self.predictor),
            ComponentKind::Transformer => self.transformer.as_deref(),
            ComponentKind::Explainer => self.explainer.as_deref(),
        }
    }

    /// Returns the components the service has, predictor first.
    pub fn components(&self) -> impl Iterator<Item = (ComponentKind, &ComponentSpec)> {
        ComponentKind::ALL.into_iter().filter_map(|kind| self.component(kind).map(|spec| (kind, spec)))
    }
}
