//! Replicas follow their load, between fewest and most, and nothing is lost on the way up or down.

use std::time::Duration;

use super::sample::{predicting, predictor, service};
use super::sim::{Ledger, Orders, Sim};
use crate::plan::world::DesiredService;
use crate::scale::{Metric, Policy, Target};
use crate::workload::Workload;

/// Two requests in flight per replica, from `min` to `max`.
fn policy(min: u32, max: u32) -> Policy {
    let target = Some(Target { metric: Metric::Concurrency, per_replica: 2.0 });
    Policy { min, max: Some(max), target, ..Policy::default() }
}

fn iris(image: &str, scaling: Policy) -> DesiredService {
    service("iris", vec![Workload { scaling, ..predicting("iris", image) }])
}

fn replica(revision: u32, ordinal: u32) -> String {
    format!("iris-predictor-{revision:05}-{ordinal}.default")
}

/// A machine that serves `iris` with one to five replicas.
fn serving() -> Sim {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1", policy(1, 5)));
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), [replica(1, 0)]);
    sim.log.clear();
    sim
}

#[test]
fn replicas_follow_their_load_up_and_down_and_no_further_than_asked() {
    let mut sim = serving();
    sim.leases.insert(replica(1, 0), 6);
    sim.run(15.0);
    assert_eq!(sim.backends("iris").len(), 3, "six in flight, two each: {:#?}", sim.log);
    sim.leases.insert(replica(1, 1), 40);
    sim.run(15.0);
    assert_eq!(sim.backends("iris").len(), 5, "the most that may be");
    sim.leases.clear();
    sim.run(50.0);
    assert_eq!(sim.backends("iris").len(), 5, "a panic keeps them for a window");
    sim.run(30.0);
    assert_eq!(sim.backends("iris"), [replica(1, 0)]);
    sim.run(5.0);
    assert_eq!(sim.containers.len(), 1);
    sim.assert_quiet(100.0);
}

#[test]
fn those_who_wait_for_a_place_are_load() {
    let mut sim = serving();
    sim.queued.insert("iris".to_owned(), 6);
    sim.run(15.0);
    assert_eq!(sim.backends("iris").len(), 3);
}

#[test]
fn a_service_is_ready_while_replicas_are_added_and_when_one_of_those_fails() {
    let mut sim = serving();
    sim.leases.insert(replica(1, 0), 6);
    while sim.running().len() < 3 {
        sim.run(0.1);
        assert!(sim.status("iris").is_ready());
    }
    assert!(sim.backends("iris").contains(&replica(1, 0)));
    sim.run(10.0);
    let third = sim.running().into_iter().find(|name| name.contains(&replica(1, 2))).unwrap();
    sim.crash(&third);
    sim.pass();
    assert_eq!(sim.backends("iris").len(), 2);
    assert!(sim.status("iris").is_ready());
    assert_eq!(sim.condition("iris", "PredictorReady").1, "");
}

#[test]
fn a_replica_that_goes_finishes_first_and_comes_back_without_a_restart_when_it_is_wanted_again() {
    let mut sim = serving();
    sim.leases.insert(replica(1, 0), 6);
    sim.run(15.0);
    sim.log.clear();
    sim.leases.clear();
    // A long answer on the last one, too little to keep it.
    sim.leases.insert(replica(1, 2), 1);
    sim.run(90.0);
    assert_eq!(sim.backends("iris"), [replica(1, 0)]);
    let kept = sim.running();
    assert!(kept.iter().any(|name| name.contains(&replica(1, 2))), "it still answers: {kept:?}");
    sim.log.clear();
    sim.leases.insert(replica(1, 0), 8);
    sim.run(15.0);
    assert!(sim.backends("iris").contains(&replica(1, 2)));
    assert!(!sim.log.iter().any(|line| line.contains(&replica(1, 2))), "{:?}", sim.log);
}

#[test]
fn while_one_of_the_wanted_does_not_answer_one_that_is_not_wanted_any_more_stands_in() {
    let mut sim = serving();
    sim.leases.insert(replica(1, 0), 4);
    sim.run(15.0);
    assert_eq!(sim.backends("iris").len(), 2);
    let first = sim.running().into_iter().next().unwrap();
    sim.sick.insert(first);
    sim.leases.clear();
    sim.run(200.0);
    assert_eq!(sim.backends("iris"), [replica(1, 1)]);
    sim.sick.clear();
    sim.run(30.0);
    assert_eq!(sim.backends("iris"), [replica(1, 0)]);
}

#[test]
fn a_new_revision_begins_with_what_the_load_wants_and_serves_when_the_fewest_answer() {
    let mut sim = serving();
    sim.leases.insert(replica(1, 0), 6);
    sim.run(15.0);
    sim.log.clear();
    sim.apply(iris("server:good2", policy(1, 5)));
    sim.run(0.5);
    let created = sim.log.iter().filter(|line| line.starts_with("create")).count();
    assert_eq!(created, 3, "{:?}", sim.log);
    sim.leases.clear();
    sim.run(5.0);
    assert_eq!(sim.backends("iris").len(), 3);
    assert!(sim.backends("iris").iter().all(|name| name.contains("00002")));
}

#[test]
fn the_initial_scale_must_be_shown_once_and_is_given_up_after() {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1", Policy { initial: 3, ..policy(1, 5) }));
    sim.run(0.8);
    assert_eq!(sim.running().len(), 3);
    assert!(!sim.status("iris").is_ready());
    sim.run(3.0);
    assert!(sim.status("iris").is_ready());
    assert_eq!(sim.backends("iris").len(), 3);
    sim.run(100.0);
    assert_eq!(sim.backends("iris").len(), 1);
}

#[test]
fn a_restart_of_the_daemon_leaves_the_replicas_until_it_knows_the_load() {
    let mut sim = serving();
    sim.leases.insert(replica(1, 0), 10);
    sim.run(15.0);
    assert_eq!(sim.backends("iris").len(), 5);
    sim.log.clear();
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.leases.insert(replica(1, 0), 10);
    sim.assert_quiet(120.0);
    sim.leases.clear();
    sim.run(150.0);
    assert_eq!(sim.backends("iris").len(), 1);
}

#[test]
fn each_share_of_a_canary_follows_its_own_load() {
    let mut sim = serving();
    let canary = Workload { scaling: policy(1, 5), canary_percent: Some(20), ..predicting("iris", "server:good2") };
    sim.apply(service("iris", vec![canary]));
    sim.run(5.0);
    assert_eq!(sim.backends("iris").len(), 2);
    sim.leases.insert(replica(1, 0), 8);
    sim.run(20.0);
    let of = |sim: &Sim, mark: &str| sim.backends("iris").iter().filter(|name| name.contains(mark)).count();
    assert_eq!((of(&sim, "00001"), of(&sim, "00002")), (4, 1));
}

#[test]
fn a_service_that_may_sleep_grows_when_it_is_awake_and_sleeps_when_nobody_asks() {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1", policy(0, 5)));
    sim.run(100.0);
    assert!(sim.containers.is_empty());
    assert!(sim.world.memory.scales.is_empty(), "nothing is measured while it sleeps");
    for _ in 0..1000 {
        sim.ask("iris");
    }
    sim.log.clear();
    sim.run(3.0);
    let created = sim.log.iter().filter(|line| line.starts_with("create")).count();
    assert_eq!((sim.answered, created), (1000, 1), "first requests start one; load does the rest");
    sim.leases.insert(replica(1, 0), 6);
    sim.run(15.0);
    assert_eq!(sim.backends("iris").len(), 3);
    sim.leases.clear();
    sim.run(200.0);
    assert!(sim.containers.is_empty());
}

#[test]
fn an_edit_of_the_bounds_is_heard_at_once() {
    let mut sim = serving();
    sim.leases.insert(replica(1, 0), 10);
    sim.run(15.0);
    sim.apply(iris("server:good1", policy(1, 2)));
    sim.run(5.0);
    assert_eq!(sim.backends("iris").len(), 2);
    sim.apply(iris("server:good1", policy(4, 5)));
    sim.run(5.0);
    assert!(sim.backends("iris").len() >= 4);
    let fixed = Policy { max: None, ..policy(1, 5) };
    sim.apply(iris("server:good1", fixed));
    sim.leases.clear();
    sim.run(5.0);
    assert_eq!(sim.backends("iris").len(), 1);
    assert!(!sim.world.memory.scales.is_empty() || sim.world.memory.scales.wanted(&predictor("iris"), 1).is_none());
}

#[test]
fn a_scale_down_delay_is_kept() {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1", Policy { scale_down_delay: Duration::from_secs(300), ..policy(1, 5) }));
    sim.run(5.0);
    sim.leases.insert(replica(1, 0), 6);
    sim.run(15.0);
    sim.leases.clear();
    sim.run(250.0);
    assert_eq!(sim.backends("iris").len(), 3);
    sim.run(150.0);
    assert_eq!(sim.backends("iris").len(), 1);
}
