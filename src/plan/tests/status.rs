//! What `get`, `describe` and `wait` see.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::sample::{annotated, component, key, predicting, service, unresolvable};
use super::sim::{Faults, Sim};
use crate::api::{ComponentKind, ConditionStatus, meta};
use crate::plan::plan;
use crate::plan::world::{DesiredService, ImageState, ModelState, PullNote};
use crate::runtimes::{NoRuntime, NoRuntimeReason};
use crate::workload::{ResolveError, Workload};

fn iris(image: &str) -> DesiredService {
    service("iris", vec![predicting("iris", image)])
}

/// Shows a service's status as the API does.
fn shown(sim: &Sim) -> serde_json::Value {
    serde_json::to_value(sim.status("iris")).unwrap()
}

fn no_runtime() -> DesiredService {
    let error = NoRuntime {
        reason: NoRuntimeReason::UnsupportedFormat,
        message: "No runtime found to support specified framework/version".to_owned(),
        error: "no runtime found to support predictor with model type: {sklearnn <nil>}".to_owned(),
        verdicts: Vec::new(),
        help: "did you mean `sklearn`?".to_owned(),
    };
    DesiredService { resolution: Err(ResolveError::Runtime(Box::new(error))), ..iris("server:good1") }
}

fn standard(service: DesiredService) -> DesiredService {
    annotated(service, meta::DEPLOYMENT_MODE, "RawDeployment")
}

#[test]
fn what_is_cluster_local_shows_the_address_others_use_in_either_mode() {
    for (label, mode, name) in
        [(meta::KNATIVE_VISIBILITY, "Serverless", "iris"), (meta::VISIBILITY, "RawDeployment", "iris-predictor")]
    {
        let mut sim = Sim::new();
        let mut hidden = annotated(iris("server:good1"), meta::DEPLOYMENT_MODE, mode);
        Arc::make_mut(&mut hidden.meta.labels).insert(label.to_owned(), "cluster-local".to_owned());
        sim.apply(hidden);
        sim.run(10.0);
        let status = shown(&sim);
        assert_eq!(status["url"], format!("http://{name}.default.svc.cluster.local"));
        assert_eq!(status["address"]["url"], status["url"]);
        assert_eq!(status["components"]["predictor"]["url"], "http://iris-predictor.default.svc.cluster.local");
        assert!(sim.plan.routes.services[&key("iris")].cluster_local);
    }
}

#[test]
fn status_while_the_model_is_fetched() {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1"));
    sim.pass();
    let note = PullNote { done: 300 << 20, total: 1 << 30, rate: 50 << 20, phase: "downloading".to_owned() };
    for state in sim.world.models.values_mut() {
        *state = ModelState::Pulling(note.clone());
    }
    sim.pass();
    insta::assert_json_snapshot!(shown(&sim));
}

#[test]
fn status_while_the_model_loads() {
    let mut sim = Sim::new();
    sim.apply(iris("server:slow"));
    sim.run(5.0);
    insta::assert_json_snapshot!(shown(&sim));
}

#[test]
fn status_when_ready() {
    insta::assert_json_snapshot!(shown(&Sim::serving()));
}

#[test]
fn status_when_ready_in_standard_mode() {
    let mut sim = Sim::new();
    let parts = vec![predicting("iris", "server:good1"), component("iris", ComponentKind::Transformer, "t:good1")];
    sim.apply(standard(service("iris", parts)));
    sim.run(5.0);
    insta::assert_json_snapshot!(shown(&sim));
}

#[test]
fn status_after_a_rollout() {
    let mut sim = Sim::serving();
    sim.apply(iris("server:good2"));
    sim.run(10.0);
    insta::assert_json_snapshot!(shown(&sim));
}

#[test]
fn status_of_a_rollout_that_fails() {
    let mut sim = Sim::serving();
    sim.apply(iris("server:crash"));
    sim.run(10.0);
    insta::assert_json_snapshot!(shown(&sim));
}

#[test]
fn status_of_a_transformer_that_does_not_answer() {
    let mut sim = Sim::new();
    let parts = vec![predicting("iris", "server:good1"), component("iris", ComponentKind::Transformer, "t:crash")];
    sim.apply(service("iris", parts));
    sim.run(10.0);
    insta::assert_json_snapshot!(shown(&sim));
}

#[test]
fn status_without_a_runtime() {
    let mut sim = Sim::new();
    sim.apply(no_runtime());
    sim.run(1.0);
    insta::assert_json_snapshot!(shown(&sim));
}

#[test]
fn status_of_an_edit_that_cannot_be_resolved() {
    let mut sim = Sim::serving();
    sim.apply(unresolvable("iris"));
    sim.run(1.0);
    insta::assert_json_snapshot!(shown(&sim));
}

#[test]
fn status_when_stopped() {
    let mut sim = Sim::serving();
    sim.apply(annotated(iris("server:good1"), meta::STOP, "true"));
    sim.run(10.0);
    insta::assert_json_snapshot!(shown(&sim));
}

#[test]
fn every_situation_has_its_reason_and_model_state() {
    /// Makes a situation: what it is, reason of `PredictorReady`, transition status, target state, failure reason.
    type Case = (&'static str, fn() -> Sim, &'static str, &'static str, &'static str, &'static str);
    fn after(image: &str, seconds: f64) -> Sim {
        let mut sim = Sim::new();
        sim.apply(iris(image));
        sim.run(seconds);
        sim
    }
    fn without(change: fn(&mut Faults)) -> Sim {
        let mut sim = Sim::new();
        change(&mut sim.faults);
        sim.apply(iris("server:good1"));
        sim.run(5.0);
        sim
    }
    let cases: [Case; 9] = [
        ("ready", Sim::serving, "", "UpToDate", "Loaded", ""),
        ("pulling a model", || after("server:good1", 0.1), "ModelPulling", "InProgress", "Loading", ""),
        ("pulling an image", || after("server:good1", 0.4), "ImagePulling", "InProgress", "Pending", ""),
        ("creating", || after("server:good1", 0.63), "ContainerCreating", "InProgress", "Pending", ""),
        ("loading", || after("server:slow", 5.0), "ModelLoading", "InProgress", "Loading", ""),
        (
            "crashing",
            || after("server:crash", 5.0),
            "CrashLoopBackOff",
            "BlockedByFailedLoad",
            "FailedToLoad",
            "ModelLoadFailed",
        ),
        (
            "out of memory",
            || after("server:oom", 5.0),
            "OOMKilled",
            "BlockedByFailedLoad",
            "FailedToLoad",
            "ModelLoadFailed",
        ),
        (
            "no model",
            || without(|faults| faults.lost_models = BTreeSet::from(["iris".to_owned()])),
            "ModelPullFailed",
            "BlockedByFailedLoad",
            "FailedToLoad",
            "ModelLoadFailed",
        ),
        (
            "no image",
            || without(|faults| faults.lost_images = BTreeSet::from(["server:good1".to_owned()])),
            "ImagePullFailed",
            "BlockedByFailedLoad",
            "FailedToLoad",
            "RuntimeUnhealthy",
        ),
    ];
    for (what, make, reason, transition, target, failure) in cases {
        let sim = make();
        let status = sim.status("iris");
        assert_eq!(status.condition("PredictorReady").unwrap().reason, reason, "{what}");
        let model = status.model_status.clone().unwrap();
        assert_eq!(model.transition_status, transition, "{what}");
        assert_eq!(model.states.unwrap().target_model_state, target, "{what}");
        assert_eq!(model.last_failure_info.map(|info| info.reason).unwrap_or_default(), failure, "{what}");
    }
}

#[test]
fn what_the_route_says_is_what_the_condition_says() {
    for image in ["server:slow", "server:crash", "server:never"] {
        let mut sim = Sim::new();
        sim.apply(iris(image));
        for _ in 0..20 {
            sim.run(0.5);
            let (status, reason, message) = sim.condition("iris", "PredictorReady");
            assert_ne!(status, "True");
            let (route_reason, route_message) = sim.refusal("iris").unwrap();
            assert_eq!(route_reason, reason);
            assert!(message.starts_with(&route_message), "{message}");
        }
    }
}

#[test]
fn ready_means_that_a_request_would_succeed_now() {
    let mut sim = Sim::serving();
    for step in 0..400 {
        match step {
            50 => sim.apply(iris("server:good2")),
            120 => sim.crash("kserve-local.test.iris-predictor-00002-0.default"),
            200 => sim.faults.engine_down = true,
            220 => sim.faults.engine_down = false,
            260 => sim.apply(unresolvable("iris")),
            300 => sim.delete("iris"),
            320 => sim.apply(iris("server:good2")),
            _ => {}
        }
        sim.run(0.1);
        let ready = sim.plan.statuses.first().is_some_and(|(_, status)| status.is_ready());
        assert!(!ready || !sim.backends("iris").is_empty(), "at step {step}");
    }
}

#[test]
fn the_generation_shown_is_the_one_that_was_looked_at() {
    let mut sim = Sim::serving();
    assert_eq!(sim.status("iris").observed_generation, 1);
    sim.apply(iris("server:good2"));
    sim.pass();
    assert_eq!(sim.status("iris").observed_generation, 2);
    assert!(!sim.status("iris").is_ready(), "not of the new generation");
}

#[test]
fn a_crash_does_not_take_the_address_and_its_route_away() {
    let mut sim = Sim::serving();
    let url = sim.status("iris").url.clone();
    sim.crash("kserve-local.test.iris-predictor-00001-0.default");
    sim.run(0.01);
    assert!(!sim.status("iris").is_ready());
    assert_eq!(sim.status("iris").url, url);
    for route in ["IngressReady", "PredictorRouteReady"] {
        assert_eq!(sim.condition("iris", route).0, "True", "{route}");
    }
    assert_eq!(url.as_deref(), Some("http://iris.default.example.com:8080"));
}

#[test]
fn conditions_are_sorted_and_unique() {
    let mut sim = Sim::new();
    let kinds = [ComponentKind::Predictor, ComponentKind::Transformer, ComponentKind::Explainer];
    sim.apply(service("iris", kinds.map(|kind| component("iris", kind, "server:good1")).to_vec()));
    sim.run(5.0);
    let names: Vec<&str> = sim.status("iris").conditions.iter().map(|condition| condition.kind.as_str()).collect();
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
    assert!(names.contains(&"ExplainerRoutesReady"));
    assert!(
        sim.status("iris")
            .conditions
            .iter()
            .all(|condition| { condition.kind == "Stopped" || condition.status == ConditionStatus::True })
    );
}

#[test]
fn the_bare_service_goes_by_its_name_and_its_models() {
    let mut sim = Sim::new();
    sim.apply(service(
        "iris",
        vec![Workload { model_name: "flowers".to_owned(), ..predicting("iris", "server:good1") }],
    ));
    sim.run(5.0);
    assert_eq!(sim.plan.routes.services[&key("iris")].model_names, ["iris", "flowers"]);
}

#[test]
fn pods_tell_what_each_container_does() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:good1");
    workload.init_containers.push(super::sample::container("prepare", "prepare:init"));
    workload.containers.push(super::sample::container("agent", "agent:crash"));
    sim.apply(service("iris", vec![workload]));
    sim.run(8.0);
    let mut pods = sim.plan.pods.clone();
    for pod in &mut pods {
        std::sync::Arc::make_mut(pod).created_at = None;
    }
    insta::assert_debug_snapshot!(pods);
}

#[test]
fn words_of_progress_are_for_people() {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1"));
    sim.run(0.4);
    let note = PullNote { done: 1536, total: 0, rate: 0, phase: String::new() };
    sim.world.images.insert("server:good1".to_owned(), ImageState::Pulling(note));
    let status = plan(&sim.world, sim.now()).statuses.remove(0).1;
    assert_eq!(status.condition("Ready").unwrap().message, "pulling server:good1: 1.5 KiB so far");
}
