//! From a spec to nodes by number.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::InferenceGraphSpec;
use crate::api::inference_graph::{GraphNode, GraphStep, ROOT, RouterType, StepDependency};

/// A graph that can be walked: every node it names is there, and no way leads in a circle.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Nodes; steps refer to them by place.
    pub nodes: Vec<Node>,
    /// Where a request enters.
    pub root: usize,
    /// Longest time for a whole request (`spec.timeout`, else `routerTimeouts.serverWrite`).
    pub timeout: Option<Duration>,
    /// Longest time to read a request (`routerTimeouts.serverRead`).
    pub read_timeout: Option<Duration>,
    /// Longest time for one call of a step (`routerTimeouts.serviceClient`).
    pub step_timeout: Option<Duration>,
}

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name, for messages.
    pub name: String,
    /// What it does with its steps.
    pub router: RouterType,
    /// Its steps.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its name, else its place: the key of its answer in an Ensemble.
    pub label: String,
    /// What is called.
    pub target: Target,
    /// Whether it is sent the previous answer instead of the request.
    pub takes_response: bool,
    /// Whether `predictions` become `instances`.
    pub maps_predictions: bool,
    /// Share of a Splitter's requests, in percent.
    pub weight: u32,
    /// GJSON path that must exist; empty when there is none.
    pub condition: String,
    /// Whether its failure is the node's.
    pub is_hard: bool,
}

/// What a step calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Another node, by place.
    Node(usize),
    /// An InferenceService of the graph's namespace.
    Service(String),
    /// Any URL.
    Url(String),
}

/// Why a spec makes no graph. Manifests are checked for all of this when they are read, with positions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Nothing to begin with.
    #[error("there is no node `{ROOT}`")]
    NoRoot,
    /// A node that is not there.
    #[error("step {step} of node `{node}` leads to node `{wanted}`, which is not there")]
    NoNode {
        /// Node of the step.
        node: String,
        /// Place of the step.
        step: usize,
        /// Node it names.
        wanted: String,
    },
    /// A request would never come to an end.
    #[error("the nodes call each other in a circle: {}", .0.join(" -> "))]
    Circle(Vec<String>),
    /// The step calls nothing.
    #[error("step {step} of node `{node}` does not specify an inference target")]
    NoTarget {
        /// Node of the step.
        node: String,
        /// Place of the step.
        step: usize,
    },
}

/// Compiles a graph.
///
/// # Errors
/// It cannot be walked.
pub fn compile(spec: &InferenceGraphSpec) -> Result<Graph, CompileError> {
    let places: BTreeMap<&str, usize> = spec.nodes.keys().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    let root = *places.get(ROOT).ok_or(CompileError::NoRoot)?;
    if let Some((_, _, round)) = spec.cycle() {
        return Err(CompileError::Circle(round));
    }
    let nodes = spec.nodes.iter().map(|(name, written)| node(name, written, &places)).collect::<Result<_, _>>()?;
    let times = spec.router_timeouts.clone().unwrap_or_default();
    Ok(Graph {
        nodes,
        root,
        timeout: seconds(spec.timeout).or(seconds(times.server_write)),
        read_timeout: seconds(times.server_read),
        step_timeout: seconds(times.service_client),
    })
}

/// Nothing and zero mean that there is no limit, as in Go.
fn seconds(written: Option<i64>) -> Option<Duration> {
    written.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

fn node(name: &str, written: &GraphNode, places: &BTreeMap<&str, usize>) -> Result<Node, CompileError> {
    let steps = written.steps.iter().enumerate().map(|(at, written)| step(name, at, written, places));
    Ok(Node { name: name.to_owned(), router: written.router_type, steps: steps.collect::<Result<_, _>>()? })
}

fn step(node: &str, at: usize, written: &GraphStep, places: &BTreeMap<&str, usize>) -> Result<Step, CompileError> {
    let target = match written.targets().first() {
        Some(("nodeName", wanted)) => match places.get(wanted) {
            Some(place) => Target::Node(*place),
            None => {
                return Err(CompileError::NoNode { node: node.to_owned(), step: at, wanted: (*wanted).to_owned() });
            }
        },
        Some(("serviceName", name)) => Target::Service((*name).to_owned()),
        Some((_, url)) => Target::Url(url.trim().to_owned()),
        None => return Err(CompileError::NoTarget { node: node.to_owned(), step: at }),
    };
    Ok(Step {
        label: written.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| at.to_string()),
        target,
        takes_response: written.data.as_deref() == Some("$response"),
        maps_predictions: written.map_predictions_to_instances == Some(true),
        weight: written.weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or_default(),
        condition: written.condition.clone().unwrap_or_default(),
        is_hard: written.dependency == Some(StepDependency::Hard),
    })
}

impl Graph {
    /// Returns the InferenceServices the graph calls by name, each once.
    pub fn services(&self) -> Vec<&str> {
        let steps = self.nodes.iter().flat_map(|node| &node.steps);
        let mut names: Vec<&str> = steps
            .filter_map(|step| match &step.target {
                Target::Service(name) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(nodes: &str) -> InferenceGraphSpec {
        let value: serde_json::Value = serde_json::from_str(nodes).unwrap();
        serde_json::from_value(serde_json::json!({ "nodes": value })).unwrap()
    }

    #[test]
    fn nodes_refer_to_each_other_by_place() {
        let graph = compile(&spec(
            r#"{"a": {"routerType": "Switch", "steps": [{"serviceName": "x", "condition": "c"}]},
                "root": {"routerType": "Sequence", "steps": [{"nodeName": "a"}, {"serviceName": "x", "name": "n"}]}}"#,
        ))
        .unwrap();
        assert_eq!(graph.root, 1);
        assert_eq!(graph.nodes[1].steps[0].target, Target::Node(0));
        assert_eq!((graph.nodes[1].steps[0].label.as_str(), graph.nodes[1].steps[1].label.as_str()), ("0", "n"));
        assert_eq!(graph.services(), ["x"]);
    }

    #[test]
    fn a_circle_is_no_graph_and_a_diamond_is_one() {
        let circle = r#"{"root": {"routerType": "Sequence", "steps": [{"nodeName": "a"}]},
                         "a": {"routerType": "Sequence", "steps": [{"nodeName": "root"}]}}"#;
        assert!(matches!(compile(&spec(circle)), Err(CompileError::Circle(_))));
        let diamond = r#"{"root": {"routerType": "Ensemble", "steps": [{"nodeName": "a"}, {"nodeName": "b"}]},
                          "a": {"routerType": "Sequence", "steps": [{"nodeName": "b"}]},
                          "b": {"routerType": "Sequence", "steps": [{"serviceName": "s"}]}}"#;
        assert!(compile(&spec(diamond)).is_ok());
    }
}
