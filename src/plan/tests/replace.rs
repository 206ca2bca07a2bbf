//! A new revision without room beside the old one; a failed one that gives way; containers that do not go.

use super::sample::{at_least, predicting, predictor, service};
use super::sim::{Ledger, Orders, Sim};
use crate::plan::ledger::Amount;
use crate::plan::rollout::replace::ROLLOUT;
use crate::plan::world::{DesiredService, FactState};
use crate::workload::Workload;

const MIB: u64 = 1 << 20;
const FIRST: &str = "iris-predictor-00001-0.default";
const SECOND: &str = "iris-predictor-00002-0.default";

fn needing(image: &str, mib: u64) -> Workload {
    let mut workload = predicting("iris", image);
    workload.containers[0].resources.memory_request = Some(mib * MIB);
    workload
}

fn iris(image: &str) -> DesiredService {
    service("iris", vec![needing(image, 1000)])
}

fn told(image: &str, strategy: &str) -> DesiredService {
    let mut workload = needing(image, 1000);
    workload.annotations.insert(ROLLOUT.to_owned(), strategy.to_owned());
    service("iris", vec![workload])
}

/// A machine with so much room, and a service that answers.
fn serving(budget: u64) -> Sim {
    let mut sim = Sim::new();
    sim.world.config.memory.budget = Some(Amount::Bytes(budget * MIB));
    sim.apply(iris("server:good1"));
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
    sim.log.clear();
    sim
}

#[test]
fn a_revision_that_has_room_beside_the_old_one_takes_over_without_a_gap() {
    let mut sim = serving(2500);
    sim.apply(iris("server:good2"));
    for _ in 0..100 {
        sim.run(0.1);
        assert_eq!(sim.backends("iris").len(), 1, "somebody always answers");
    }
    assert_eq!(sim.backends("iris"), [SECOND]);
}

#[test]
fn a_revision_without_room_beside_the_old_one_replaces_it() {
    let mut sim = serving(1500);
    sim.apply(iris("server:good2"));
    sim.run(0.5);
    assert!(sim.is_held("iris"), "requests wait meanwhile: {:?}", sim.refusal("iris"));
    sim.ask("iris");
    sim.run(10.0);
    assert_eq!((sim.answered, sim.refused), (1, 0));
    assert_eq!(sim.backends("iris"), [SECOND]);
    let history = &sim.world.memory.revisions[&predictor("iris")];
    assert_eq!((history.rolled_out, history.previous), (Some(2), Some(1)));
    sim.assert_still(60.0);
}

#[test]
fn when_the_replacement_fails_the_old_revision_is_back_by_itself_and_stays() {
    for image in ["server:crash", "server:oom"] {
        let mut sim = serving(1500);
        sim.apply(iris(image));
        sim.run(20.0);
        assert_eq!(sim.backends("iris"), [FIRST], "{image}");
        let (status, reason, message) = sim.condition("iris", "PredictorReady");
        assert_eq!((status.as_str(), reason.as_str()), ("False", "RolledBack"), "{image}: {message}");
        assert!(message.contains("never got ready, and the revision before is back: container"), "{message}");
        sim.assert_still(300.0);
        sim.restart_daemon(Orders::Dropped, Ledger::Kept);
        sim.run(5.0);
        assert_eq!(sim.backends("iris"), [FIRST], "{image}: and that is not forgotten");
        sim.apply(iris("server:good2"));
        sim.run(20.0);
        assert_eq!(sim.backends("iris"), [SECOND.replace("00002", "00003")], "{image}: the next edit is tried");
    }
}

#[test]
fn a_replacement_that_never_answers_gives_way_after_its_deadline() {
    let mut sim = serving(1500);
    let mut workload = needing("server:never", 1000);
    workload.annotations.insert("serving.knative.dev/progress-deadline".to_owned(), "60s".to_owned());
    sim.apply(service("iris", vec![workload]));
    sim.run(50.0);
    assert_eq!(sim.backends("iris"), [] as [&str; 0]);
    sim.run(30.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
    assert!(sim.condition("iris", "PredictorReady").2.contains("did not answer within 60 s"));
}

#[test]
fn the_annotation_forces_either_way() {
    let mut sim = serving(2500);
    sim.apply(told("server:good2", "replace"));
    sim.run(10.0);
    assert_eq!(sim.backends("iris"), [SECOND]);
    let stop = sim.log.iter().position(|line| line.starts_with("stop")).unwrap();
    let create = sim.log.iter().position(|line| line.starts_with("create")).unwrap();
    assert!(stop < create, "although there was room for both: {:#?}", sim.log);
    let mut sim = serving(1500);
    sim.apply(told("server:good2", "beside"));
    sim.run(60.0);
    assert_eq!(sim.backends("iris"), [FIRST], "the old one keeps serving");
    let (_, reason, _) = sim.condition("iris", "PredictorReady");
    assert_eq!(reason, "InsufficientMemory");
}

#[test]
fn idle_services_make_room_before_an_older_revision_has_to_go() {
    let mut sim = serving(2500);
    let mut workload = Workload { scaling: at_least(0), ..predicting("wine", "server:good1") };
    workload.containers[0].resources.memory_request = Some(1000 * MIB);
    sim.apply(service("wine", vec![workload]));
    sim.run(10.0);
    sim.apply(iris("server:good2"));
    for _ in 0..50 {
        sim.run(0.1);
        assert_eq!(sim.backends("iris").len(), 1);
    }
    assert_eq!(sim.backends("iris"), [SECOND]);
}

#[test]
fn a_service_that_slept_when_it_was_edited_badly_is_served_by_the_revision_before() {
    let mut sim = Sim::new();
    let sleepy = |image: &str| service("iris", vec![Workload { scaling: at_least(0), ..predicting("iris", image) }]);
    sim.apply(sleepy("server:good1"));
    sim.run(120.0);
    assert!(sim.containers.is_empty());
    sim.apply(sleepy("server:crash"));
    sim.run(10.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
    assert!(!sim.status("iris").is_ready(), "what is wanted does not work");
    sim.run(200.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
}

#[test]
fn a_lost_ledger_does_not_give_a_canary_all_traffic() {
    let mut sim = Sim::new();
    let canary =
        |image: &str, percent| service("iris", vec![Workload { canary_percent: percent, ..predicting("iris", image) }]);
    sim.apply(canary("server:good1", None));
    sim.run(5.0);
    sim.apply(canary("server:good2", Some(10)));
    sim.run(5.0);
    let shares = |sim: &Sim| {
        let traffic = &sim.status("iris").components[&crate::api::ComponentKind::Predictor].traffic;
        traffic.iter().map(|target| (target.revision_name.clone(), target.percent)).collect::<Vec<_>>()
    };
    let before = shares(&sim);
    assert_eq!(before.len(), 2);
    sim.restart_daemon(Orders::Dropped, Ledger::Lost);
    sim.run(10.0);
    assert_eq!(shares(&sim), before);
}

#[test]
fn a_container_the_engine_does_not_get_rid_of_is_removed_again_and_said_so() {
    let mut sim = Sim::serving();
    let name = format!("kserve-local.test.{FIRST}");
    sim.containers.get_mut(&name).unwrap().state = FactState::Removing;
    sim.run(29.0);
    assert_eq!(sim.log, [] as [String; 0]);
    sim.run(5.0);
    assert_eq!(sim.log, [format!("remove {name}"), format!("create {name}")]);
    assert_eq!(sim.backends("iris"), [FIRST]);
}

#[test]
fn a_canary_has_its_place_beside_the_revision_before_whatever_the_annotation_says() {
    for (budget, strategy) in [(None, "replace"), (Some(1500), "auto")] {
        let mut sim = serving(10_000);
        sim.world.config.memory.budget = budget.map(|budget| Amount::Bytes(budget * MIB));
        let mut workload = needing("server:good2", 1000);
        workload.annotations.insert(ROLLOUT.to_owned(), strategy.to_owned());
        workload.canary_percent = Some(10);
        sim.apply(service("iris", vec![workload]));
        sim.run(60.0);
        let (_, reason, message) = sim.condition("iris", "PredictorReady");
        match budget {
            None => assert_eq!(sim.backends("iris").len(), 2, "{reason}: {message}"),
            Some(_) => assert_eq!(reason, "InsufficientMemory", "nothing makes room for it: {message}"),
        }
        sim.assert_still(60.0);
    }
}

#[test]
fn one_order_that_fails_is_not_the_end_of_a_revision_and_two_are() {
    for (refusals, expected) in [(1, SECOND), (2, FIRST)] {
        let mut sim = serving(1500);
        sim.apply(iris("server:good2"));
        while !sim.containers.is_empty() {
            sim.run(0.001);
        }
        sim.faults.fail_every = Some(1);
        while sim.world.memory.refusals.values().all(|refusal| refusal.failures < refusals) {
            sim.run(0.1);
        }
        sim.faults.fail_every = None;
        sim.run(30.0);
        assert_eq!(sim.backends("iris"), [expected], "{refusals}: {:#?}", sim.log);
    }
}

#[test]
fn a_service_that_falls_asleep_after_its_new_revision_was_given_up_still_says_so_and_wakes() {
    let sleeping = |image: &str| {
        let mut workload = needing(image, 1000);
        workload.scaling = at_least(0);
        service("iris", vec![workload])
    };
    let mut sim = Sim::new();
    sim.world.config.memory.budget = Some(Amount::Bytes(1500 * MIB));
    sim.apply(sleeping("server:good1"));
    sim.run(5.0);
    sim.apply(sleeping("server:crash"));
    sim.run(300.0);
    assert!(sim.running().is_empty() && sim.is_held("iris"), "{:?}", sim.running());
    let (status, reason, message) = sim.condition("iris", "PredictorReady");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "RolledBack"), "{message}");
    sim.ask("iris");
    sim.run(5.0);
    assert_eq!((sim.answered, sim.refused), (1, 0));
    assert_eq!(sim.backends("iris"), [FIRST]);
}
