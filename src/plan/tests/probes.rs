//! Checks mean what they mean in Kubernetes, and a server that is ready is found to be at once.

use std::time::Duration;

use super::sample::{predicting, probe, service};
use super::sim::Sim;
use crate::plan::action::ProbeKind;
use crate::plan::{Memory, Now, plan};
use crate::workload::{Check, Probe, Readiness, Workload};

const IRIS: &str = "kserve-local.test.iris-predictor-00001-0.default";

fn serving(change: impl FnOnce(&mut Workload)) -> Sim {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:good1");
    change(&mut workload);
    sim.apply(service("iris", vec![workload]));
    sim.run(5.0);
    sim.log.clear();
    sim
}

/// Runs and returns when checks of a kind were ordered.
fn times(sim: &mut Sim, kind: ProbeKind, seconds: f64) -> Vec<f64> {
    sim.checks.clear();
    sim.run(seconds);
    sim.checks.iter().filter(|(_, order)| order.kind == kind).map(|(at, _)| at.as_secs_f64()).collect()
}

#[test]
fn a_server_that_starts_is_looked_at_within_milliseconds_and_then_ever_more_rarely() {
    let mut sim = Sim::new();
    sim.apply(service("iris", vec![predicting("iris", "server:slow")]));
    while sim.running().is_empty() {
        sim.run(0.001);
    }
    let times = times(&mut sim, ProbeKind::Model, 3.0);
    let gaps: Vec<u64> = times.windows(2).map(|pair| ((pair[1] - pair[0]) * 1000.0).round() as u64).collect();
    assert!(gaps[0] <= 21 && gaps[1] <= 41, "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 501), "{gaps:?}");
    assert!(gaps.windows(2).all(|pair| pair[0] <= pair[1] + 1), "{gaps:?}");
}

#[test]
fn a_replica_is_routed_to_as_soon_as_it_answers() {
    let mut sim = Sim::new();
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    while sim.running().is_empty() {
        sim.run(0.01);
    }
    let began = sim.now().tick;
    while sim.backends("iris").is_empty() {
        sim.run(0.01);
    }
    let took = sim.now().tick - began;
    assert!(took < Duration::from_millis(1600), "it loads in 1 s and was seen after {took:?}");
}

#[test]
fn what_answers_is_checked_every_ten_seconds_in_bundles() {
    let mut sim = Sim::serving();
    let times = times(&mut sim, ProbeKind::Model, 45.0);
    assert!(times.len() >= 4);
    for pair in times.windows(2) {
        assert!((10.0..10.3).contains(&(pair[1] - pair[0])), "{times:?}");
    }
    assert!(times.iter().all(|time| (time * 4.0).fract() < 0.02), "{times:?}");
}

#[test]
fn a_failing_readiness_check_takes_a_replica_out_after_three_failures_and_does_not_restart_it() {
    let mut sim = Sim::serving();
    sim.run(12.0);
    sim.sick.insert(IRIS.to_owned());
    sim.run(15.0);
    assert_eq!(sim.backends("iris").len(), 1, "one or two failures are nothing");
    sim.run(20.0);
    assert_eq!(sim.backends("iris").len(), 0);
    let (status, reason, message) = sim.condition("iris", "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ModelNotReady"));
    assert_eq!(message, "it answered before and does not now: HTTP 503");
    sim.sick.clear();
    sim.run(1.0);
    assert_eq!(sim.backends("iris").len(), 1, "it is back within a second");
    assert!(sim.log.is_empty());
}

#[test]
fn a_failing_liveness_check_restarts_the_container_and_says_so() {
    let mut sim = serving(|workload| workload.containers[0].probes.liveness = Some(probe("/live", 5, 2)));
    sim.sick.insert(IRIS.to_owned());
    while sim.log.is_empty() {
        sim.run(0.1);
    }
    sim.sick.clear();
    assert_eq!(sim.log[0], format!("stop {IRIS}: liveness probe failed 2 times: HTTP 500"));
    sim.run(5.0);
    assert_eq!(sim.log[1..], [format!("start {IRIS}")]);
    assert_eq!(sim.backends("iris").len(), 1);
    assert_eq!(sim.plan.pods[0].containers[0].restarts, 1);
}

#[test]
fn a_container_that_keeps_failing_its_liveness_check_backs_off_and_the_check_is_named() {
    let mut sim = serving(|workload| workload.containers[0].probes.liveness = Some(probe("/live", 1, 2)));
    sim.sick.insert(IRIS.to_owned());
    sim.run(8.0);
    let (_, reason, message) = sim.condition("iris", "Ready");
    assert_eq!(reason, "CrashLoopBackOff");
    let expected = "container `kserve-container` was ended because its liveness probe failed 2 times: HTTP 500";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn nothing_else_is_checked_until_the_startup_check_passed_and_that_one_never_again() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:slow");
    let probes = &mut workload.containers[0].probes;
    probes.startup = Some(probe("/started", 2, 60));
    probes.liveness = Some(probe("/live", 5, 1));
    probes.readiness = Some(probe("/ready", 5, 1));
    sim.apply(service("iris", vec![workload]));
    sim.run(90.0);
    let kinds: Vec<ProbeKind> = sim.checks.iter().map(|(_, order)| order.kind).collect();
    let others = kinds.iter().position(|kind| *kind != ProbeKind::Startup).unwrap();
    assert!(others > 10, "it loads for 30 s: {kinds:?}");
    assert!(!kinds[others..].contains(&ProbeKind::Startup), "{kinds:?}");
    assert!(kinds.contains(&ProbeKind::Liveness) && kinds.contains(&ProbeKind::Readiness));
    assert!(sim.status("iris").is_ready());
}

#[test]
fn a_startup_check_that_fails_too_often_restarts_the_container() {
    let sim = {
        let mut sim = Sim::new();
        let mut workload = predicting("iris", "server:never");
        workload.containers[0].probes.startup = Some(probe("/started", 1, 3));
        sim.apply(service("iris", vec![workload]));
        sim.run(6.0);
        sim
    };
    assert!(sim.log.contains(&format!("stop {IRIS}: startup probe failed 3 times: HTTP 503")), "{:#?}", sim.log);
}

#[test]
fn a_declared_readiness_check_and_the_models_own_must_both_pass() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:good1");
    workload.containers[0].probes.readiness = Some(probe("/ready", 10, 3));
    sim.apply(service("iris", vec![workload]));
    sim.run(5.0);
    let memory = &sim.world.memory;
    assert!(memory.probe(IRIS, ProbeKind::Readiness).unwrap().passing);
    assert!(memory.probe(IRIS, ProbeKind::Model).unwrap().passing);
    for kind in [ProbeKind::Readiness, ProbeKind::Model] {
        let mut world = sim.world.clone();
        world.memory.containers.get_mut(IRIS).unwrap().probes.get_mut(&kind).unwrap().passing = false;
        assert!(!plan(&world, sim.now()).statuses[0].1.is_ready());
    }
}

#[test]
fn the_first_check_waits_for_its_initial_delay() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:good1");
    workload.readiness = Readiness::Declared;
    workload.containers[0].probes.readiness =
        Some(Probe { initial_delay: Duration::from_secs(20), ..probe("/ready", 10, 3) });
    sim.apply(service("iris", vec![workload]));
    sim.run(15.0);
    assert!(sim.backends("iris").is_empty());
    sim.run(7.0);
    assert_eq!(sim.backends("iris").len(), 1);
}

#[test]
fn a_container_without_any_check_is_ready_when_it_runs() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:never");
    workload.readiness = Readiness::Declared;
    sim.apply(service("iris", vec![workload]));
    sim.run(3.0);
    assert_eq!(sim.backends("iris").len(), 1);
}

#[test]
fn a_sidecars_checks_go_to_the_address_of_the_network_it_shares() {
    let mut sim = serving(|workload| {
        let mut agent = super::sample::container("agent", "agent:good1");
        agent.probes.readiness = Some(probe("/ready", 10, 3));
        workload.containers.push(agent);
    });
    assert!(sim.status("iris").is_ready());
    let owner = sim.containers[IRIS].reach.clone();
    sim.run(15.0);
    let (_, order) = sim.checks.iter().find(|(_, order)| order.name.ends_with(".agent")).unwrap();
    assert_eq!(order.reach, owner);
}

#[test]
fn commands_are_not_run_in_containers_while_the_engine_is_away() {
    let mut sim = serving(|workload| {
        let exec = Check::Exec { command: vec!["true".to_owned()] };
        workload.containers[0].probes.liveness = Some(Probe { check: exec, ..probe("/", 1, 1) });
    });
    sim.faults.engine_down = true;
    sim.run(30.0);
    assert_eq!(sim.backends("iris").len(), 1, "not to be able to ask is not a failure");
}

#[test]
fn thresholds_are_counted_in_a_row() {
    let probe = Probe { success_threshold: 2, ..probe("/", 10, 3) };
    let mut memory = Memory::default();
    memory.note_running("c", Now::at(0.0));
    // Result, verdict after it.
    let table = [
        (true, false),
        (false, false),
        (true, false),
        (true, true),
        (false, true),
        (false, true),
        (true, true),
        (false, true),
        (false, true),
        (false, false),
        (true, false),
        (true, true),
    ];
    for (step, (success, verdict)) in table.into_iter().enumerate() {
        let result = if success { Ok(()) } else { Err("no".to_owned()) };
        memory.note_probe("c", ProbeKind::Readiness, &probe, result, Now::at(step as f64));
        assert_eq!(memory.probe("c", ProbeKind::Readiness).unwrap().passing, verdict, "after step {step}");
    }
    assert!(memory.containers["c"].unhealthy.is_none(), "readiness never restarts");
}
