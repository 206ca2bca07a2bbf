//! `InferenceGraph` v1alpha1: several services behind one address (`V1A1/inference_graph.go`, §6.1).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use serde::{Deserialize, Serialize};

/// Name of the node a request enters by.
pub const ROOT: &str = "root";

/// What a graph is made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceGraphSpec {
    /// Nodes by name; the one named `root` takes the requests.
    pub nodes: BTreeMap<String, GraphNode>,
    /// Resources of the router.
    pub resources: Option<core::ResourceRequirements>,
    /// Scheduling affinity.
    pub affinity: Option<core::Affinity>,
    /// Longest time for one request, in seconds.
    pub timeout: Option<i64>,
    /// Timeouts of the router's own server and client.
    pub router_timeouts: Option<RouterTimeouts>,
    /// Fewest routers.
    pub min_replicas: Option<i32>,
    /// Most routers.
    pub max_replicas: Option<i32>,
    /// Load per router that scaling aims for.
    pub scale_target: Option<i32>,
    /// What load means.
    pub scale_metric: Option<GraphScaleMetric>,
    /// Scheduling tolerations.
    pub tolerations: Option<Vec<core::Toleration>>,
    /// Node labels required.
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Node by name.
    pub node_name: Option<String>,
    /// ServiceAccount of the router.
    pub service_account_name: Option<String>,
}

/// One node: steps, and how a request goes through them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GraphNode {
    /// How.
    pub router_type: RouterType,
    /// Its steps, in order.
    pub steps: Vec<GraphStep>,
}

/// How a request goes through the steps of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouterType {
    /// One after the other.
    #[default]
    Sequence,
    /// To one of them, by weight.
    Splitter,
    /// To all of them.
    Ensemble,
    /// To the first whose condition holds.
    Switch,
}

/// One step: where it goes, and when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GraphStep {
    /// Label, unique in the node; key of the answer in an ensemble.
    pub name: Option<String>,
    /// Another node.
    pub node_name: Option<String>,
    /// An InferenceService of the same namespace.
    pub service_name: Option<String>,
    /// Any address.
    pub service_url: Option<String>,
    /// `$request` or `$response`: what the step is sent.
    pub data: Option<String>,
    /// Turns `predictions` of the step before into `instances`.
    pub map_predictions_to_instances: Option<bool>,
    /// Share of the traffic, in percent.
    pub weight: Option<i64>,
    /// GJSON path that must lead somewhere.
    pub condition: Option<String>,
    /// What a failure of the step means.
    pub dependency: Option<StepDependency>,
}

impl GraphStep {
    /// Returns the targets that are written, by field. A step that can be followed has exactly one.
    pub fn targets(&self) -> Vec<(&'static str, &str)> {
        let all =
            [("nodeName", &self.node_name), ("serviceName", &self.service_name), ("serviceUrl", &self.service_url)];
        let written = all.into_iter().filter_map(|(field, value)| Some((field, value.as_deref()?)));
        written.filter(|(_, value)| !value.is_empty()).collect()
    }
}

/// What a failure of a step means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepDependency {
    /// The graph goes on.
    Soft,
    /// The graph fails with it.
    Hard,
}

/// What load of a router means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GraphScaleMetric {
    /// Share of a CPU.
    Cpu,
    /// Bytes.
    Memory,
    /// Requests at once.
    Concurrency,
    /// Requests per second.
    Rps,
}

/// Timeouts of the router, in seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouterTimeouts {
    /// For a request to arrive.
    pub server_read: Option<i64>,
    /// For an answer to be written.
    pub server_write: Option<i64>,
    /// For the next request on a connection.
    pub server_idle: Option<i64>,
    /// For one step.
    pub service_client: Option<i64>,
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
