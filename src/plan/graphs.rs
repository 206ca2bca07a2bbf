//! InferenceGraphs: what the proxy is to run, and what is to be said of it.
//!
//! Services are looked up anew for every request; here they are looked up only to tell whether a request would succeed.
//! Where this differs from KServe: a graph is Ready only when every service it calls by name is, and says which one is not;
//! KServe leaves the status empty then, or calls a graph Ready whose router is down.

use std::sync::Arc;

use super::planner::Plan;
use super::routes::GraphRoute;
use super::status;
use super::world::{DesiredGraph, World};
use crate::api::{Condition, ConditionStatus, InferenceServiceStatus, Kind, meta};
use crate::graph::Graph;

/// Adds every graph to a plan that has its services.
pub(super) fn add(plan: &mut Plan, world: &World) {
    for (key, graph) in &world.graphs {
        let stands = stand(plan, world, graph);
        plan.other_statuses.push((key.to_key_of(Kind::InferenceGraph), status_of(world, graph, &stands).into()));
        if plan.routes.services.contains_key(key) {
            continue;
        }
        // One that waits for its services is run all the same: its steps wait, or say what is wrong.
        let graph = match stands {
            Stand::Refused(reason, message) => Err((reason.to_owned(), message)),
            Stand::Open(graph) | Stand::Waiting(graph, ..) => Ok(graph),
        };
        plan.routes.graphs.insert(key.clone(), Arc::new(GraphRoute { key: key.clone(), graph }));
    }
}

/// How a graph stands. Each reason is one CamelCase word with a sentence.
enum Stand {
    Open(Graph),
    Waiting(Graph, ConditionStatus, String, String),
    Refused(&'static str, String),
}

fn stand(plan: &Plan, world: &World, desired: &DesiredGraph) -> Stand {
    if desired.meta.annotation(meta::STOP).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Stand::Refused("Stopped", format!("the graph is stopped by its annotation {}", meta::STOP));
    }
    if world.services.contains_key(&desired.key) {
        let message = format!("InferenceService `{}` has the same name and so the same address", desired.key);
        return Stand::Refused("NameTaken", message);
    }
    let graph = match &desired.graph {
        Ok(graph) => graph.clone(),
        Err(error) => return Stand::Refused("InvalidGraph", error.to_string()),
    };
    for name in graph.services() {
        let key = crate::api::ServiceKey::new(desired.key.namespace.clone(), name);
        let Some(status) = plan.status(&key) else {
            let message = format!("Failed to find graph service {name}: there is no InferenceService `{key}`");
            return Stand::Waiting(graph, ConditionStatus::False, "ServiceNotFound".to_owned(), message);
        };
        let ready = status.condition("Ready");
        match ready.map_or(ConditionStatus::Unknown, |ready| ready.status) {
            ConditionStatus::True => {}
            unready => {
                let why = ready.map(|ready| format!(" ({})", ready.reason)).filter(|why| why.len() > 3);
                let message = format!("service {name} is not ready{}", why.unwrap_or_default());
                return Stand::Waiting(graph, unready, "ServiceNotReady".to_owned(), message);
            }
        }
    }
    Stand::Open(graph)
}

fn status_of(world: &World, desired: &DesiredGraph, stand: &Stand) -> InferenceServiceStatus {
    let mode = status::deployment_mode(world, &desired.meta);
    let mut status = InferenceServiceStatus {
        observed_generation: desired.meta.generation,
        deployment_mode: mode,
        ..InferenceServiceStatus::default()
    };
    let ready = match stand {
        Stand::Open(_) => Condition::new("Ready", ConditionStatus::True, "", ""),
        Stand::Waiting(_, ready, reason, message) => Condition::new("Ready", *ready, reason, message),
        Stand::Refused(reason, message) => Condition::new("Ready", ConditionStatus::False, reason, message),
    };
    if let Stand::Refused("Stopped", message) = stand {
        status.conditions.push(Condition::new("Stopped", ConditionStatus::True, "Stopped", message));
    }
    if !matches!(stand, Stand::Refused(..)) {
        status.url = Some(status::public_address(world, &desired.key, &status.deployment_mode));
    }
    status.conditions.insert(0, ready);
    status
}
