//! Sleep and wake: nothing that is asked for stops, nothing that nobody asks for stays, and no request is lost between.

use std::time::Duration;

use super::sample::{annotated, at_least, component, key, predicting, predictor, service};
use super::sim::{Ledger, Orders, Sim};
use crate::api::{ComponentKind, meta};
use crate::plan::world::DesiredService;
use crate::workload::Workload;

const FIRST: &str = "iris-predictor-00001-0.default";
/// The window and the grace of Knative's defaults.
const IDLE: f64 = 90.0;

fn sleepy(image: &str) -> Workload {
    Workload { scaling: at_least(0), ..predicting("iris", image) }
}

fn iris(image: &str) -> DesiredService {
    service("iris", vec![sleepy(image)])
}

/// A machine on which `iris` was served and has gone to sleep.
fn asleep() -> Sim {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1"));
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), [FIRST], "a new revision shows first that it works");
    sim.run(IDLE + 2.0);
    assert!(sim.containers.is_empty());
    sim.log.clear();
    sim
}

#[test]
fn a_service_nobody_asks_falls_asleep_after_window_and_grace_and_is_ready_all_the_same() {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1"));
    sim.run(1.0 + IDLE);
    assert_eq!(sim.running().len(), 1, "the clock starts when it answers");
    sim.run(3.0);
    assert!(sim.containers.is_empty());
    assert!(sim.is_held("iris"));
    let (status, reason, message) = sim.condition("iris", "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("True", ""));
    let (status, reason, _) = sim.condition("iris", "PredictorReady");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Asleep"), "{message}");
    let status = sim.status("iris");
    let predictor = &status.components[&ComponentKind::Predictor];
    assert_eq!(predictor.latest_ready_revision, "iris-predictor-00001");
    assert_eq!((predictor.traffic.len(), predictor.traffic[0].percent), (1, 100));
    assert!(status.url.is_some());
    let model = status.model_status.clone().unwrap();
    assert_eq!((model.transition_status.as_str(), model.copies.unwrap().total_copies), ("UpToDate", 0));
    assert_eq!(model.states.unwrap().active_model_state, "Standby");
    sim.assert_still(3600.0);
}

#[test]
fn the_idle_clock_starts_at_the_end_of_the_last_answer_however_long_it_streams() {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1"));
    sim.run(5.0);
    sim.lease("iris");
    sim.run(500.0);
    assert_eq!(sim.backends("iris"), [FIRST], "it is streaming");
    sim.leases.clear();
    sim.run(IDLE - 11.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
    sim.run(12.0);
    assert!(sim.containers.is_empty());
}

#[test]
fn a_thousand_first_requests_start_one_container_and_are_answered() {
    let mut sim = asleep();
    for _ in 0..1000 {
        sim.ask("iris");
    }
    sim.run(3.0);
    assert_eq!(sim.log, [format!("create kserve-local.test.{FIRST}")]);
    assert_eq!((sim.answered, sim.refused), (1000, 0));
    assert_eq!(sim.backends("iris"), [FIRST]);
    sim.run(IDLE + 2.0);
    assert!(sim.containers.is_empty(), "and it sleeps again");
}

#[test]
fn a_request_that_meets_the_scale_down_is_answered_without_a_restart() {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1"));
    sim.run(5.0);
    sim.log.clear();
    while !sim.is_held("iris") {
        sim.run(0.02);
    }
    assert_eq!(sim.running().len(), 1, "the route is closed before anything stops");
    sim.ask("iris");
    sim.run(1.0);
    assert_eq!((sim.answered, sim.refused), (1, 0));
    assert_eq!(sim.log, [] as [String; 0], "nothing was stopped or started");
    assert_eq!(sim.backends("iris"), [FIRST]);
}

#[test]
fn a_request_that_slipped_through_to_a_replica_falling_asleep_keeps_it() {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1"));
    sim.run(5.0);
    while !sim.is_held("iris") {
        sim.run(0.02);
    }
    sim.leases.insert(FIRST.to_owned(), 1);
    sim.run(200.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
}

#[test]
fn a_request_that_comes_while_the_replica_stops_waits_for_the_next_start() {
    for stop_takes in [0.2, 5.0] {
        let mut sim = Sim::new();
        sim.faults.stop_takes = Duration::from_secs_f64(stop_takes);
        sim.apply(iris("server:good1"));
        sim.run(5.0);
        while sim.stops.is_empty() {
            sim.run(0.02);
        }
        sim.ask("iris");
        // A pass may come at any moment, also while the start is under way.
        let until = sim.now().tick + Duration::from_secs_f64(stop_takes + 3.0);
        while sim.now().tick < until {
            sim.run(0.01);
        }
        assert_eq!((sim.answered, sim.refused), (1, 0), "a stop in order is no crash");
        assert_eq!(sim.plan.pods[0].containers[0].restarts, 0);
        assert_eq!(sim.backends("iris"), [FIRST]);
    }
}

#[test]
fn a_start_that_fails_is_told_to_all_who_wait_and_tried_again() {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1"));
    sim.run(5.0);
    sim.run(IDLE + 2.0);
    // The image has gone bad since.
    sim.faults.fail_every = Some(1);
    for _ in 0..100 {
        sim.ask("iris");
    }
    sim.run(0.5);
    assert_eq!((sim.answered, sim.refused), (0, 100), "told at once");
    assert_eq!(sim.refusal("iris").unwrap(), ("ContainerCannotRun".to_owned(), "it broke".to_owned()));
    let (status, reason, _) = sim.condition("iris", "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ContainerCannotRun"), "it is not called asleep");
    sim.faults.fail_every = None;
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
}

#[test]
fn the_whole_service_wakes_and_sleeps_together() {
    let mut sim = Sim::new();
    let transformer =
        Workload { scaling: at_least(0), ..component("iris", ComponentKind::Transformer, "transformer:good1") };
    sim.apply(service("iris", vec![sleepy("server:good1"), transformer]));
    sim.run(5.0 + IDLE + 2.0);
    assert!(sim.containers.is_empty());
    sim.world.waiting.clear();
    sim.ask("iris");
    sim.run(3.0);
    assert_eq!(sim.running().len(), 2);
    // Only the one in front is asked; the other is needed all the same.
    sim.leases.insert("iris-transformer-00001-0.default".to_owned(), 1);
    sim.run(300.0);
    assert_eq!(sim.running().len(), 2);
}

#[test]
fn a_component_that_may_not_sleep_stays() {
    let mut sim = Sim::new();
    let transformer = component("iris", ComponentKind::Transformer, "transformer:good1");
    sim.apply(service("iris", vec![sleepy("server:good1"), transformer]));
    sim.run(5.0 + IDLE + 2.0);
    assert_eq!(sim.running(), ["kserve-local.test.iris-transformer-00001-0.default"]);
}

#[test]
fn a_service_that_never_answered_is_not_put_to_sleep() {
    let mut sim = Sim::new();
    sim.apply(iris("server:never"));
    sim.run(500.0);
    assert_eq!(sim.running().len(), 1);
    assert!(sim.is_held("iris"), "requests wait while it loads");
    sim.run(500.0);
    assert_eq!(sim.running().len(), 1);
    assert_eq!(sim.refusal("iris").unwrap().0, "ProgressDeadlineExceeded", "but not for ever");
    sim.apply(iris("server:crash"));
    sim.run(30.0);
    assert!(!sim.is_held("iris"), "and are refused when it fails");
}

#[test]
fn what_sleeps_sleeps_on_after_a_restart_of_the_daemon_and_what_runs_gets_its_time() {
    let mut sim = asleep();
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.assert_quiet(10.0);
    assert!(sim.is_held("iris"));
    sim.ask("iris");
    sim.run(3.0);
    assert_eq!(sim.answered, 1);
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.run(IDLE - 5.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
    sim.run(10.0);
    assert!(sim.containers.is_empty());
}

#[test]
fn annotations_and_minimum_are_heard_while_it_runs_and_while_it_sleeps() {
    let mut sim = asleep();
    let mut awake = sleepy("server:good1");
    awake.scaling.min = 2;
    sim.apply(service("iris", vec![awake.clone()]));
    sim.run(5.0);
    assert_eq!(sim.backends("iris").len(), 2);
    awake.scaling.min = 0;
    awake.scaling.window = Duration::from_secs(6);
    awake.scaling.retention = Duration::from_secs(100);
    sim.apply(service("iris", vec![awake]));
    sim.run(104.0);
    assert_eq!(sim.backends("iris").len(), 1, "the surplus goes at once, the last one is retained");
    sim.run(4.0);
    assert!(sim.containers.is_empty());
    sim.apply(annotated(iris("server:good1"), meta::STOP, "true"));
    sim.run(1.0);
    sim.ask("iris");
    sim.run(1.0);
    assert_eq!((sim.refused, sim.containers.len()), (1, 0), "stopped is not asleep");
}

#[test]
fn an_edit_of_a_sleeping_service_starts_the_new_revision_once() {
    let mut sim = asleep();
    sim.apply(iris("server:good2"));
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), ["iris-predictor-00002-0.default"]);
    sim.run(IDLE + 2.0);
    assert!(sim.containers.is_empty());
}

#[test]
fn clients_are_told_how_long_it_takes_once_that_is_known() {
    let mut sim = Sim::new();
    sim.apply(iris("server:slow"));
    sim.run(40.0);
    let learned = sim.world.memory.revisions[&predictor("iris")].load_time();
    assert_eq!(learned, Some(Duration::from_secs(31)));
    sim.run(IDLE + 2.0);
    let route = &sim.plan.routes.services[&key("iris")].components[&ComponentKind::Predictor];
    let crate::plan::routes::RouteState::Held(hold) = &route.state else { panic!("{route:?}") };
    assert_eq!(hold.retry_after, Duration::from_secs(31));
    // A crash loop says nothing about the time a load takes.
    sim.apply(iris("server:crash"));
    sim.run(400.0);
    sim.apply(iris("server:good2"));
    sim.run(5.0);
    assert!(sim.world.memory.revisions[&predictor("iris")].load_time() < Some(Duration::from_secs(20)));
}
