//! Stopping is orderly: out of routing, last lease, stop, remove.

use std::time::Duration;

use super::sample::{annotated, component, container, key, predicting, predictor, service};
use super::sim::{Ledger, Orders, Sim};
use crate::api::{ComponentKind, meta};
use crate::plan::Action;
use crate::workload::Hook;

const IRIS: &str = "kserve-local.test.iris-predictor-00001-0.default";
const DELETED: &str = "its InferenceService was deleted";

#[test]
fn a_deleted_service_loses_its_route_at_once_and_its_containers_after_a_moment() {
    let mut sim = Sim::serving();
    sim.delete("iris");
    sim.pass();
    assert!(!sim.plan.routes.services.contains_key(&key("iris")));
    assert_eq!(sim.log, [] as [String; 0], "a request that read the old table may still come");
    sim.run(5.0);
    assert_eq!(sim.log, [format!("stop {IRIS}: {DELETED}"), format!("remove {IRIS}")]);
    assert!(sim.containers.is_empty());
    assert_eq!(sim.plan.wake_at, None);
    assert!(sim.world.memory.draining.is_empty());
    assert!(sim.world.memory.revisions.is_empty());
    assert!(sim.world.memory.containers.is_empty());
}

#[test]
fn a_replica_with_requests_under_way_is_not_stopped() {
    let mut sim = Sim::serving();
    sim.lease("iris");
    sim.delete("iris");
    sim.assert_quiet(250.0);
    sim.leases.clear();
    sim.run(2.0);
    assert!(sim.containers.is_empty());
}

#[test]
fn a_replica_whose_requests_do_not_end_is_stopped_after_the_drain_deadline() {
    let mut sim = Sim::serving();
    sim.world.config.drain_deadline = Duration::from_secs(20);
    sim.lease("iris");
    sim.delete("iris");
    sim.assert_quiet(19.0);
    sim.run(3.0);
    assert!(sim.containers.is_empty());
}

#[test]
fn the_stop_runs_the_pre_stop_hook_and_keeps_the_grace_of_the_revision_that_was_started() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:good1");
    workload.termination_grace = Duration::from_secs(7);
    workload.containers[0].pre_stop = Some(Hook::Http { path: "/bye".to_owned(), port: 8080 });
    sim.apply(service("iris", vec![workload]));
    sim.run(5.0);
    // Nothing of the manifest is left when the containers go, and the daemon was restarted in between.
    sim.delete("iris");
    sim.restart_daemon(Orders::Dropped, Ledger::Lost);
    let reach = sim.containers[IRIS].reach.clone();
    loop {
        sim.pass();
        sim.run(0.01);
        if let Some(Action::Stop { grace, pre_stop, reach: to, .. }) = sim.stops.first() {
            assert_eq!(*grace, Duration::from_secs(7));
            assert_eq!(*pre_stop, Some(Hook::Http { path: "/bye".to_owned(), port: 8080 }));
            assert_eq!(*to, reach);
            return;
        }
    }
}

#[test]
fn a_stopped_service_keeps_its_object_and_nothing_else() {
    let mut sim = Sim::serving();
    let iris = || service("iris", vec![predicting("iris", "server:good1")]);
    sim.apply(annotated(iris(), meta::STOP, "True"));
    sim.run(5.0);
    assert!(sim.containers.is_empty());
    let (reason, message) = sim.refusal("iris").unwrap();
    assert_eq!(reason, "Stopped");
    assert_eq!(message, "the service is stopped by its annotation serving.kserve.io/stop");
    sim.assert_still(60.0);
    sim.apply(annotated(iris(), meta::STOP, "false"));
    sim.run(5.0);
    assert!(sim.status("iris").is_ready());
    assert_eq!(sim.running(), [IRIS], "it is the same revision again");
}

#[test]
fn a_removed_transformer_goes_and_the_predictor_stays() {
    let mut sim = Sim::new();
    let parts = || vec![predicting("iris", "server:good1"), component("iris", ComponentKind::Transformer, "t:good1")];
    sim.apply(service("iris", parts()));
    sim.run(5.0);
    assert_eq!(sim.running().len(), 2);
    assert!(sim.status("iris").condition("TransformerReady").is_some());
    sim.log.clear();
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    sim.run(5.0);
    let gone = "kserve-local.test.iris-transformer-00001-0.default";
    assert_eq!(sim.log, [format!("stop {gone}: the component was removed"), format!("remove {gone}")]);
    assert!(sim.status("iris").condition("TransformerReady").is_none());
    assert_eq!(sim.plan.routes.services[&key("iris")].components.len(), 1);
}

#[test]
fn a_service_deleted_and_added_again_while_it_drains_takes_its_containers_up_again() {
    let mut sim = Sim::serving();
    sim.lease("iris");
    sim.delete("iris");
    sim.run(5.0);
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    sim.assert_quiet(60.0);
    assert!(sim.status("iris").is_ready());
    assert_eq!(sim.world.memory.revisions[&predictor("iris")].target, 1);
}

#[test]
fn a_drain_that_was_called_off_starts_over_the_next_time() {
    let mut sim = Sim::serving();
    sim.world.config.drain_deadline = Duration::from_secs(60);
    sim.lease("iris");
    sim.delete("iris");
    sim.run(50.0);
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    sim.run(50.0);
    sim.delete("iris");
    sim.assert_quiet(55.0);
    sim.run(10.0);
    assert!(sim.containers.is_empty());
}

#[test]
fn containers_of_services_nobody_wants_are_removed_when_the_daemon_starts() {
    let mut sim = Sim::serving();
    sim.delete("iris");
    sim.restart_daemon(Orders::Dropped, Ledger::Lost);
    sim.run(5.0);
    assert!(sim.containers.is_empty());
}

#[test]
fn a_replica_that_is_only_half_made_is_removed_whole() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:good1");
    workload.init_containers.push(container("prepare", "prepare:badinit"));
    workload.containers.push(container("agent", "agent:good1"));
    sim.apply(service("iris", vec![workload]));
    sim.run(2.0);
    assert_eq!(sim.containers.len(), 1);
    sim.delete("iris");
    sim.run(2.0);
    assert!(sim.containers.is_empty());
}

#[test]
fn while_the_engine_is_away_nothing_is_stopped_and_afterwards_it_is() {
    let mut sim = Sim::serving();
    sim.faults.engine_down = true;
    sim.delete("iris");
    sim.assert_quiet(30.0);
    assert!(!sim.plan.routes.services.contains_key(&key("iris")));
    sim.faults.engine_down = false;
    sim.run(5.0);
    assert!(sim.containers.is_empty());
}

#[test]
fn replicas_on_their_way_out_are_shown_as_such() {
    let mut sim = Sim::serving();
    sim.lease("iris");
    sim.delete("iris");
    sim.run(1.0);
    let pod = &sim.plan.pods[0];
    assert_eq!((pod.name.as_str(), pod.status.as_str(), pod.ready), ("iris-predictor-00001-0", "Terminating", false));
}

#[test]
fn what_leaves_while_the_next_one_loads_is_not_said_to_answer_soon() {
    let mut sim = Sim::serving();
    sim.lease("iris");
    sim.apply(service("iris", vec![predicting("iris", "server:good2")]));
    sim.run(5.0);
    sim.apply(service("iris", vec![predicting("iris", "server:slow1")]));
    sim.run(2.0);
    let rows = sim.room().rows;
    let row = |revision: &str| rows.iter().find(|row| row.revision.ends_with(revision)).unwrap();
    let old = row("00001");
    assert_eq!((old.phase.as_str(), old.standing.as_str(), old.stage), ("Terminating", "leaving", None));
    assert!(row("00003").stage.is_some());
}
