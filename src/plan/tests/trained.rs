//! Histories of servers of several models, on the simulated machine.

use std::sync::Arc;

use super::sample::{self, at_least, key, model, predicting, service};
use super::sim::{Ledger, Orders, Sim};
use crate::api::{InferenceServiceStatus, Kind, Metadata};
use crate::plan::Plan;
use crate::plan::ledger::Used;
use crate::plan::routes::RouteState;
use crate::plan::trained::TrainedModel;
use crate::plan::world::DesiredService;
use crate::workload::{Layout, ModelServer, Repository, Workload, mark};

const MIB: u64 = 1 << 20;

/// A server that takes models of so many MiB together.
fn server(limit: Option<u64>) -> Workload {
    let repository = Repository { port: 8080, layout: Layout::MlServer, read_only: true };
    let frameworks = vec!["sklearn".to_owned(), "xgboost".to_owned()];
    let model_server = Some(ModelServer { repository, frameworks, memory_limit: limit.map(|mib| mib * MIB) });
    Workload { model_server, models: Vec::new(), protocol: "v2".to_owned(), ..predicting("shelf", "server:good1") }
}

fn shelf(limit: Option<u64>, replicas: u32) -> DesiredService {
    service("shelf", vec![Workload { scaling: at_least(replicas), ..server(limit) }])
}

fn trained(name: &str, path: &str, mib: u64) -> TrainedModel {
    let reference = model(path);
    TrainedModel {
        key: key(name),
        meta: Metadata { name: name.to_owned(), namespace: "default".to_owned(), generation: 1, ..Metadata::default() },
        service: key("shelf"),
        framework: "sklearn".to_owned(),
        memory: mib * MIB,
        mark: mark(&reference, "sklearn"),
        model: Ok(reference),
    }
}

fn want(sim: &mut Sim, models: Vec<TrainedModel>) {
    sim.world.trained = [(key("shelf"), models.into_iter().map(Arc::new).collect())].into();
}

fn started(limit: Option<u64>, replicas: u32, models: Vec<TrainedModel>) -> Sim {
    let mut sim = Sim::new();
    sim.apply(shelf(limit, replicas));
    want(&mut sim, models);
    sim.run(10.0);
    sim
}

fn status<'s>(plan: &'s Plan, name: &str) -> &'s InferenceServiceStatus {
    let key = key(name).to_key_of(Kind::TrainedModel);
    &plan.other_statuses.iter().find(|(other, _)| *other == key).unwrap().1
}

fn condition(sim: &Sim, name: &str, kind: &str) -> (String, String) {
    let condition = status(&sim.plan, name).condition(kind).unwrap();
    (condition.status.to_string(), condition.reason.clone())
}

fn ready(sim: &Sim, name: &str) -> (String, String) {
    condition(sim, name, "Ready")
}

fn so(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

/// Replicas a request for a model may go to; none while it may not go anywhere.
fn open(sim: &Sim, name: &str) -> Option<usize> {
    match sim.plan.routes.services.get(&key("shelf"))?.trained.get(name)? {
        RouteState::Open(backends) => Some(backends.len()),
        _ => None,
    }
}

fn done(sim: &Sim, what: &str) -> usize {
    sim.log.iter().filter(|line| line.starts_with(what)).count()
}

#[test]
fn models_are_fetched_loaded_and_called_under_their_own_names() {
    let mut sim = started(None, 1, vec![trained("rose", "rose", 100), trained("iris", "iris", 100)]);
    for name in ["rose", "iris"] {
        assert_eq!((ready(&sim, name), open(&sim, name)), (so("True", ""), Some(1)));
        let url = format!("http://shelf.default.example.com:8080/v2/models/{name}/infer");
        assert_eq!(status(&sim.plan, name).url.as_deref(), Some(url.as_str()));
        for kind in ["InferenceServiceReady", "IsMMSPredictor", "MemoryResourceAvailable", "ModelLoaded"] {
            assert_eq!(condition(&sim, name, kind), so("True", ""), "{kind}");
        }
    }
    let route = &sim.plan.routes.services[&key("shelf")];
    assert_eq!(route.model_names, ["shelf", "iris", "rose"]);
    let order: Vec<&str> = sim.log.iter().map(String::as_str).filter(|line| line.contains(" model ")).collect();
    assert_eq!(
        order,
        [
            "pull model s3://models/rose",
            "pull model s3://models/iris",
            "load model rose in kserve-local.test.shelf-predictor-00001-0.default",
            "load model iris in kserve-local.test.shelf-predictor-00001-0.default",
        ]
    );
    sim.assert_quiet(9.0);
}

#[test]
fn a_server_opens_only_when_it_has_its_models_and_does_not_wait_for_what_fails() {
    let mut sim = Sim::new();
    sim.apply(shelf(None, 1));
    want(&mut sim, vec![trained("rose", "rose", 1), trained("weed", "bad", 1)]);
    sim.run(1.01);
    assert!(sim.is_held("shelf"));
    sim.run(5.0);
    assert_eq!(sim.backends("shelf").len(), 1);
    assert_eq!((ready(&sim, "rose"), ready(&sim, "weed")), (so("True", ""), so("False", "ModelLoadFailed")));
    assert_eq!(open(&sim, "weed"), None);
    let tries = done(&sim, "load model weed");
    sim.run(120.0);
    let more = done(&sim, "load model weed") - tries;
    assert!((2..6).contains(&more), "tried again, later and later: {more}");
}

#[test]
fn a_changed_model_is_loaded_over_the_old_one_which_serves_until_then_and_when_it_fails() {
    let mut sim = started(None, 1, vec![trained("rose", "rose", 1)]);
    want(&mut sim, vec![trained("rose", "bad", 1)]);
    sim.run(3.0);
    assert_eq!((ready(&sim, "rose"), open(&sim, "rose")), (so("False", "ModelLoadFailed"), Some(1)));
    want(&mut sim, vec![trained("rose", "rose2", 1)]);
    sim.run(3.0);
    assert_eq!((ready(&sim, "rose"), open(&sim, "rose")), (so("True", ""), Some(1)));
    assert_eq!((done(&sim, "unload"), done(&sim, "stop")), (0, 0));
}

#[test]
fn a_deleted_model_is_unloaded_and_no_longer_called() {
    let mut sim = started(None, 1, vec![trained("rose", "rose", 1), trained("iris", "iris", 1)]);
    want(&mut sim, vec![trained("iris", "iris", 1)]);
    sim.run(3.0);
    assert_eq!((done(&sim, "unload model rose"), open(&sim, "rose"), open(&sim, "iris")), (1, None, Some(1)));
    want(&mut sim, Vec::new());
    sim.run(3.0);
    assert_eq!((done(&sim, "unload model iris"), sim.backends("shelf").len()), (1, 1));
}

#[test]
fn models_are_loaded_again_after_an_end_of_their_server_and_found_after_one_of_the_daemon() {
    let mut sim = started(None, 1, vec![trained("rose", "rose", 1)]);
    let container = sim.running()[0].clone();
    sim.crash(&container);
    sim.run(5.0);
    assert_eq!((done(&sim, "load model rose"), ready(&sim, "rose")), (2, so("True", "")));
    // All that a new daemon knows is what the server says.
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.run(3.0);
    assert_eq!((done(&sim, "load model rose"), ready(&sim, "rose")), (2, so("True", "")));
}

#[test]
fn every_replica_loads_every_model() {
    let mut sim = started(None, 3, vec![trained("rose", "rose", 1), trained("iris", "iris", 1)]);
    assert_eq!((open(&sim, "rose"), open(&sim, "iris"), done(&sim, "load")), (Some(3), Some(3), 6));
    sim.apply(service(
        "shelf",
        vec![Workload {
            scaling: at_least(3),
            models: Vec::new(),
            containers: vec![sample::container("kserve-container", "server:good2")],
            ..server(None)
        }],
    ));
    let mut least = usize::MAX;
    for _ in 0..200 {
        sim.run(0.1);
        least = least.min(open(&sim, "rose").unwrap_or(0));
    }
    assert_eq!((open(&sim, "rose"), least), (Some(3), 3), "a new revision has them before it takes over");
}

#[test]
fn memory_is_shared_out_by_age_and_what_does_not_fit_says_so() {
    let models = vec![trained("rose", "rose", 300), trained("iris", "iris", 300), trained("weed", "weed", 200)];
    let mut sim = started(Some(512), 1, models);
    assert_eq!(ready(&sim, "rose"), so("True", ""));
    assert_eq!(condition(&sim, "iris", "MemoryResourceAvailable"), so("False", "MemoryResourceNotAvailable"));
    assert_eq!(ready(&sim, "iris"), so("False", "MemoryResourceNotAvailable"));
    assert_eq!(ready(&sim, "weed"), so("True", ""), "a smaller one still fits");
    assert_eq!(done(&sim, "pull model s3://models/iris"), 0);
    want(&mut sim, vec![trained("iris", "iris", 300), trained("weed", "weed", 200)]);
    sim.run(5.0);
    assert_eq!(ready(&sim, "iris"), so("True", ""));
}

#[test]
fn a_model_is_unloaded_when_requests_under_way_are_answered() {
    let mut sim = started(None, 1, vec![trained("rose", "rose", 1)]);
    sim.lease("shelf");
    want(&mut sim, vec![trained("iris", "iris", 1)]);
    sim.run(60.0);
    assert_eq!((done(&sim, "unload"), open(&sim, "rose"), open(&sim, "iris")), (0, None, Some(1)), "others are loaded");
    sim.leases.clear();
    sim.run(2.0);
    assert_eq!(done(&sim, "unload model rose"), 1);
}

#[test]
fn a_server_that_is_never_idle_unloads_when_the_time_to_drain_is_over() {
    let mut sim = started(Some(512), 1, vec![trained("rose", "rose", 400)]);
    sim.lease("shelf");
    want(&mut sim, vec![trained("iris", "iris", 400)]);
    sim.run(295.0);
    assert_eq!((done(&sim, "unload"), done(&sim, "load model iris")), (0, 0), "both do not fit");
    sim.run(10.0);
    assert_eq!(done(&sim, "unload model rose"), 1);
    // One that is wanted again, and is not later on, gets its time once more.
    let mut sim = started(None, 1, vec![trained("rose", "rose", 1)]);
    sim.lease("shelf");
    for _ in 0..3 {
        want(&mut sim, Vec::new());
        sim.run(200.0);
        want(&mut sim, vec![trained("rose", "rose", 1)]);
        sim.run(5.0);
    }
    assert_eq!(done(&sim, "unload"), 0);
}

#[test]
fn what_was_unloaded_is_given_back_by_a_new_start_when_it_is_needed() {
    let mut sim = started(Some(512), 1, vec![trained("rose", "rose", 400)]);
    want(&mut sim, vec![trained("iris", "iris", 400)]);
    sim.run(0.2);
    sim.lease("shelf");
    sim.run(2.0);
    assert_eq!(done(&sim, "stop"), 0, "somebody is being answered");
    assert!(sim.is_held("shelf"), "others wait");
    sim.leases.clear();
    sim.run(5.0);
    assert_eq!((done(&sim, "stop"), ready(&sim, "iris")), (1, so("True", "")));
    assert_eq!(done(&sim, "create"), 1, "it is the same container");
    // A server that is seen to have given its memory back is left alone.
    let container = sim.running()[0].clone();
    want(&mut sim, vec![trained("weed", "weed", 400)]);
    sim.world.used.insert(container, Used { memory: 50 * MIB, ..Used::default() });
    sim.run(5.0);
    assert_eq!((done(&sim, "stop"), ready(&sim, "weed")), (1, so("True", "")));
}

#[test]
fn replicas_are_started_anew_one_after_the_other() {
    let mut sim = started(Some(512), 2, vec![trained("rose", "rose", 400)]);
    want(&mut sim, vec![trained("iris", "iris", 400)]);
    let mut least = usize::MAX;
    for _ in 0..200 {
        sim.run(0.1);
        least = least.min(sim.backends("shelf").len());
    }
    assert_eq!((done(&sim, "stop"), open(&sim, "iris"), least), (2, Some(2), 1));
}

#[test]
fn a_model_says_why_it_cannot_be_loaded() {
    let mut sim = Sim::new();
    want(&mut sim, vec![trained("rose", "rose", 1)]);
    sim.run(1.0);
    assert_eq!(ready(&sim, "rose"), so("False", "InferenceServiceNotFound"));
    sim.apply(service("shelf", vec![predicting("shelf", "server:good1")]));
    sim.run(5.0);
    assert_eq!(ready(&sim, "rose"), so("False", "IsNotMMSPredictor"));
    assert_eq!(condition(&sim, "rose", "InferenceServiceReady"), so("True", ""));
    let mut sim = Sim::new();
    sim.apply(shelf(None, 1));
    let onnx = TrainedModel { framework: "onnx".to_owned(), ..trained("rose", "rose", 1) };
    let upper = TrainedModel { framework: "SKLearn".to_owned(), ..trained("iris", "iris", 1) };
    want(&mut sim, vec![onnx, upper]);
    sim.run(5.0);
    assert_eq!(ready(&sim, "rose"), so("False", "FrameworkNotSupported"));
    let message = &status(&sim.plan, "rose").condition("Ready").unwrap().message;
    assert!(message.ends_with("framework \"onnx\"; its runtime takes sklearn, xgboost"), "{message}");
    assert_eq!(ready(&sim, "iris"), so("True", ""));
}

#[test]
fn a_model_of_a_sleeping_server_wakes_it() {
    let mut sim = started(None, 0, vec![trained("rose", "rose", 1)]);
    sim.run(200.0);
    assert_eq!((sim.running().len(), ready(&sim, "rose")), (0, so("True", "Asleep")));
    sim.ask("shelf");
    sim.run(5.0);
    assert_eq!((ready(&sim, "rose"), open(&sim, "rose")), (so("True", ""), Some(1)));
}
