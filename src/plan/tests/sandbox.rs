//! Sandboxes: they save the network over sleep, and nothing is left behind in one that is gone.

use super::sample::{at_least, container, predicting, service};
use super::sim::{Ledger, Orders, Sim};
use crate::plan::world::{DesiredService, ExitFact};
use crate::workload::Workload;

const SERVER: &str = "kserve-local.test.iris-predictor-00001-0.default";
const SANDBOX: &str = "kserve-local.test.iris-predictor-00001-0.default._sandbox";
/// The window and the grace of Knative's defaults, and a moment.
const IDLE: f64 = 92.0;

fn sleepy(name: &str) -> DesiredService {
    service(name, vec![Workload { scaling: at_least(0), ..predicting(name, "server:good1") }])
}

fn machine() -> Sim {
    let mut sim = Sim::new();
    sim.world.holds_networks = true;
    sim
}

fn asleep() -> Sim {
    let mut sim = machine();
    sim.apply(sleepy("iris"));
    sim.run(5.0);
    assert_eq!(sim.running(), [SERVER, SANDBOX]);
    sim.run(IDLE);
    assert_eq!(sim.running(), [SANDBOX], "its network stays");
    sim.log.clear();
    sim
}

#[test]
fn a_service_that_wakes_finds_its_network_there() {
    let mut sim = asleep();
    sim.assert_still(3600.0);
    sim.ask("iris");
    sim.run(3.0);
    assert_eq!(sim.log, [format!("create {SERVER}")]);
    assert_eq!((sim.answered, sim.refused), (1, 0));
    assert_eq!(sim.containers[SERVER].sandbox.as_ref(), Some(&sim.containers[SANDBOX].id));
}

#[test]
fn what_never_sleeps_and_is_alone_needs_no_sandbox() {
    let mut sim = machine();
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    sim.run(5.0);
    assert_eq!(sim.running(), [SERVER]);
}

#[test]
fn containers_of_one_replica_share_a_network_that_survives_each_of_them() {
    let mut sim = machine();
    let mut workload = predicting("iris", "server:good1");
    workload.containers.push(container("agent", "agent:good1"));
    sim.apply(service("iris", vec![workload]));
    sim.run(5.0);
    let agent = format!("{SERVER}.agent");
    assert_eq!(sim.running(), [SERVER, SANDBOX, &agent]);
    sim.log.clear();
    sim.crash(SERVER);
    sim.run(5.0);
    assert_eq!(sim.log, [format!("start {SERVER}")], "its companion goes on");
}

#[test]
fn a_sandbox_that_ends_is_started_again_and_so_is_what_shares_its_network() {
    let mut sim = machine();
    sim.apply(sleepy("iris"));
    sim.run(5.0);
    sim.log.clear();
    sim.end(SANDBOX, ExitFact::default());
    sim.run(0.2);
    assert_eq!(sim.log[0], format!("stop {SERVER}: the container whose network it shares ended"));
    sim.run(5.0);
    assert_eq!(sim.log[1..], [format!("start {SANDBOX}"), format!("start {SERVER}")]);
    assert!(sim.has_network(&sim.containers[SERVER]));
    assert_eq!(sim.backends("iris").len(), 1);
}

#[test]
fn a_sandbox_that_vanishes_is_made_anew_and_so_is_what_shared_its_network() {
    let mut sim = machine();
    sim.apply(sleepy("iris"));
    sim.run(5.0);
    sim.log.clear();
    sim.containers.remove(SANDBOX);
    sim.run(10.0);
    let gone = "the container whose network it shares is gone";
    let orders = [format!("stop {SERVER}: {gone}"), format!("remove {SERVER}")];
    assert_eq!(sim.log[..2], orders);
    assert_eq!(sim.log[2..], [format!("create {SANDBOX}"), format!("create {SERVER}")]);
    assert_eq!(sim.backends("iris").len(), 1);
}

#[test]
fn a_new_daemon_finds_the_networks_of_what_sleeps_and_serves() {
    let mut sim = asleep();
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.assert_quiet(60.0);
    sim.ask("iris");
    sim.run(3.0);
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.log.clear();
    sim.run(3.0);
    assert_eq!(sim.log, [] as [String; 0]);
    assert_eq!(sim.backends("iris").len(), 1);
}

#[test]
fn a_deleted_service_and_an_old_revision_leave_no_sandbox() {
    let mut sim = asleep();
    sim.delete("iris");
    sim.run(2.0);
    assert!(sim.containers.is_empty());
    sim.apply(sleepy("iris"));
    sim.run(5.0 + IDLE);
    sim.apply(service("iris", vec![Workload { scaling: at_least(0), ..predicting("iris", "server:good2") }]));
    sim.run(5.0 + IDLE);
    assert_eq!(sim.running().len(), 1, "{:?}", sim.running());
    assert!(sim.running()[0].ends_with("00002-0.default._sandbox"), "{:?}", sim.running());
}

#[test]
fn of_many_that_sleep_those_asked_for_last_keep_their_networks() {
    let mut sim = machine();
    sim.world.config.sandboxes.asleep = 2;
    for name in ["iris", "mnist", "wine"] {
        sim.apply(sleepy(name));
        sim.run(5.0);
    }
    sim.ask("iris");
    sim.run(5.0 + IDLE);
    let kept: Vec<String> = sim.running();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept[0].contains("iris") && kept[1].contains("wine"), "{kept:?}");
    sim.assert_still(100.0);
}
