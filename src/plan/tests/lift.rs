//! Processor limits: lifted until the replica answers, applied then and after every restart.

use super::sample::{predicting, service};
use super::sim::{Ledger, Orders, Sim};
use crate::plan::ActionKey;
use crate::workload::Workload;

const SERVER: &str = "kserve-local.test.iris-predictor-00001-0.default";

fn limited(lift: bool) -> Workload {
    let mut workload = predicting("iris", "server:good1");
    workload.containers[0].resources.cpu_limit_milli = Some(500);
    if !lift {
        workload.annotations.insert(crate::plan::lift::LIFT_CPU.to_owned(), "false".to_owned());
    }
    workload
}

fn machine() -> Sim {
    let mut sim = Sim::new();
    sim.world.limits_later = true;
    sim
}

#[test]
fn a_limit_is_applied_once_the_replica_answers_and_again_when_it_was_restarted() {
    let mut sim = machine();
    sim.apply(service("iris", vec![limited(true)]));
    sim.run(5.0);
    let limit = format!("limit {SERVER} to 500m of processor");
    assert_eq!(sim.log.iter().filter(|line| **line == limit).count(), 1, "{:#?}", sim.log);
    let created = sim.log.iter().position(|line| line.starts_with("create")).unwrap();
    assert!(sim.log.iter().position(|line| *line == limit).unwrap() > created);
    sim.assert_still(600.0);
    sim.crash(SERVER);
    sim.run(5.0);
    assert_eq!(sim.log.iter().filter(|line| **line == limit).count(), 2);
    // Nobody knows any more whether it was done; doing it twice is harmless.
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.run(5.0);
    assert_eq!(sim.log.iter().filter(|line| **line == limit).count(), 3);
    sim.assert_still(60.0);
}

#[test]
fn a_container_that_is_seen_running_before_its_start_is_done_has_not_answered_yet() {
    let mut sim = machine();
    sim.apply(service("iris", vec![limited(true)]));
    while sim.containers.get(SERVER).is_none_or(|fact| !fact.is_running()) {
        sim.run(0.05);
    }
    // The list was quicker than the answer to the order.
    let seen = sim.containers[SERVER].clone();
    sim.world.in_flight.insert(ActionKey::Container(SERVER.to_owned()));
    sim.world.containers.insert(SERVER.to_owned(), seen);
    sim.pass();
    assert!(!sim.log.iter().any(|line| line.starts_with("limit")), "{:#?}", sim.log);
}

#[test]
fn a_limit_that_is_not_lifted_is_left_to_the_engine() {
    let mut sim = machine();
    sim.apply(service("iris", vec![limited(false)]));
    sim.run(5.0);
    assert!(!sim.log.iter().any(|line| line.starts_with("limit")), "{:#?}", sim.log);
}
