//! What is said of graphs, and when they are run.

use std::sync::Arc;

use super::sample::{key, predicting, service};
use super::sim::Sim;
use crate::api::{InferenceServiceStatus, Kind, Metadata, meta};
use crate::graph::compile;
use crate::plan::plan;
use crate::plan::world::DesiredGraph;

fn graph(name: &str, steps: &str) -> DesiredGraph {
    let spec = format!(r#"{{"nodes": {{"root": {{"routerType": "Sequence", "steps": {steps}}}}}}}"#);
    let meta =
        Metadata { name: name.to_owned(), namespace: "default".to_owned(), generation: 3, ..Metadata::default() };
    DesiredGraph { key: key(name), meta, graph: compile(&serde_json::from_str(&spec).unwrap()) }
}

/// The graph's status and whether it is run.
fn planned(sim: &Sim, graph: DesiredGraph) -> (InferenceServiceStatus, bool) {
    let mut world = sim.world.clone();
    let key = graph.key.clone();
    world.graphs.insert(key.clone(), Arc::new(graph));
    let plan = plan(&world, sim.now());
    let (_, status) =
        plan.other_statuses.into_iter().find(|(other, _)| *other == key.to_key_of(Kind::InferenceGraph)).unwrap();
    (Arc::unwrap_or_clone(status), plan.routes.graphs.get(&key).is_some_and(|route| route.graph.is_ok()))
}

fn ready(status: &InferenceServiceStatus) -> (String, String, String) {
    let ready = status.condition("Ready").unwrap();
    (ready.status.to_string(), ready.reason.clone(), ready.message.clone())
}

fn said(status: &str, reason: &str, message: &str) -> (String, String, String) {
    (status.to_owned(), reason.to_owned(), message.to_owned())
}

#[test]
fn a_graph_is_ready_when_every_service_it_calls_is() {
    let mut sim = Sim::new();
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    let chain = || graph("chain", r#"[{"serviceName": "iris"}, {"serviceUrl": "http://elsewhere/"}]"#);
    let (status, runs) = planned(&sim, chain());
    assert_ne!(ready(&status).0, "True");
    assert!(ready(&status).2.starts_with("service iris is not ready"), "{:?}", ready(&status));
    assert!(runs, "its steps wait themselves");
    sim.run(60.0);
    let (status, runs) = planned(&sim, chain());
    assert_eq!((ready(&status), runs), (said("True", "", ""), true));
    assert_eq!(status.url.as_deref(), Some("http://chain.default.example.com:8080"));
    assert_eq!(status.observed_generation, 3);
    let (status, _) = planned(&sim, graph("other", r#"[{"serviceName": "iris"}, {"serviceName": "gone"}]"#));
    let message = "Failed to find graph service gone: there is no InferenceService `default/gone`";
    assert_eq!(ready(&status), said("False", "ServiceNotFound", message));
}

#[test]
fn a_graph_that_is_stopped_or_shares_its_name_is_not_run() {
    let mut sim = Sim::new();
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    let (status, runs) = planned(&sim, graph("iris", r#"[{"serviceName": "iris"}]"#));
    assert_eq!((ready(&status).1.as_str(), runs, status.url), ("NameTaken", false, None));
    let mut stopped = graph("chain", r#"[{"serviceName": "iris"}]"#);
    Arc::make_mut(&mut stopped.meta.annotations).insert(meta::STOP.to_owned(), "True".to_owned());
    let (status, runs) = planned(&sim, stopped);
    assert_eq!((ready(&status).1.as_str(), runs), ("Stopped", false));
    assert!(status.condition("Stopped").is_some());
}
