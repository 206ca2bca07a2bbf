//! `InferenceGraph` v1alpha1 (`V1A1/inference_graph.go`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use serde::{Deserialize, Serialize};

/// Name of the node a request enters by.
pub const ROOT: &str = "root";

/// Services wired together: nodes by name, `root` first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceGraphSpec {
    /// Nodes by name.
    pub nodes: BTreeMap<String, GraphNode>,
    /// Of the router's pod; there is none here.
    pub resources: Option<core::ResourceRequirements>,
    /// Of the router's pod.
    pub affinity: Option<core::Affinity>,
    /// Of the router's pod.
    pub tolerations: Option<Vec<core::Toleration>>,
    /// Of the router's pod.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Of the router's pod.
    pub node_name: Option<String>,
    /// Of the router's pod.
    pub service_account_name: Option<String>,
    /// Longest time for a request, in seconds.
    pub timeout: Option<i64>,
    /// Times of the router's server and of its calls, in seconds.
    pub router_timeouts: Option<RouterTimeouts>,
    /// Fewest routers.
    pub min_replicas: Option<i32>,
    /// Most routers.
    pub max_replicas: Option<i32>,
    /// Target value of the scale metric.
    pub scale_target: Option<i32>,
    /// `cpu`, `memory`, `concurrency` or `rps`.
    pub scale_metric: Option<String>,
}

/// Times of a router, in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouterTimeouts {
    /// Until the request has been read.
    pub server_read: Option<i64>,
    /// Until the answer has been written.
    pub server_write: Option<i64>,
    /// Of an idle connection.
    pub server_idle: Option<i64>,
    /// Of each call of a step.
    pub service_client: Option<i64>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GraphNode {
    /// `Sequence`, `Splitter`, `Ensemble` or `Switch`.
    pub router_type: String,
    /// What it calls.
    pub steps: Vec<GraphStep>,
}

/// One step of a node. Exactly one of `nodeName`, `serviceName` and `serviceUrl` is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GraphStep {
    /// Label; the key of its answer in an Ensemble.
    pub name: Option<String>,
    /// Another node of this graph.
    pub node_name: Option<String>,
    /// An InferenceService of the same namespace.
    pub service_name: Option<String>,
    /// Any URL.
    pub service_url: Option<String>,
    /// `$request` or `$response`.
    pub data: Option<String>,
    /// Makes the previous `predictions` the next `instances`.
    pub map_predictions_to_instances: Option<bool>,
    /// Share of a Splitter's requests, in percent.
    pub weight: Option<i64>,
    /// GJSON path that must exist.
    pub condition: Option<String>,
    /// `Soft` (default) or `Hard`.
    pub dependency: Option<String>,
}

impl GraphStep {
    /// Returns the targets that are written, by field.
    pub fn targets(&self) -> Vec<(&'static str, &str)> {
        let all =
            [("nodeName", &self.node_name), ("serviceName", &self.service_name), ("serviceUrl", &self.service_url)];
        let written = all.into_iter().filter_map(|(field, value)| Some((field, value.as_deref()?)));
        written.filter(|(_, value)| !value.is_empty()).collect()
    }
}

impl InferenceGraphSpec {
    /// Returns a step that leads back to a node it came from (its node, its place there, and the way), if there is one.
    pub fn cycle(&self) -> Option<(String, usize, Vec<String>)> {
        let mut done = BTreeSet::new();
        self.nodes.keys().find_map(|start| self.walk(start, &mut Vec::new(), &mut done))
    }

    fn walk<'s>(
        &'s self,
        node: &'s str,
        way: &mut Vec<&'s str>,
        done: &mut BTreeSet<&'s str>,
    ) -> Option<(String, usize, Vec<String>)> {
        if done.contains(node) {
            return None;
        }
        way.push(node);
        for (index, step) in self.nodes.get(node).into_iter().flat_map(|node| node.steps.iter().enumerate()) {
            let Some(next) = step.node_name.as_deref() else { continue };
            if let Some(at) = way.iter().position(|name| *name == next) {
                let round = way[at..].iter().copied().chain([next]).map(str::to_owned).collect();
                return Some((node.to_owned(), index, round));
            }
            if let found @ Some(_) = self.walk(next, way, done) {
                return found;
            }
        }
        way.pop();
        done.insert(node);
        None
    }
}
