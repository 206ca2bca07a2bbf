//! Named canaries: who gets how much, what promotion and removal do to what runs, and what is told of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::sample::{annotated, at_least, component, fingerprint, key, predicting, predictor, service, unresolvable};
use super::sim::{Ledger, Orders, Sim};
use crate::api::{ComponentKind, meta};
use crate::plan::ledger::Amount;
use crate::plan::routes::{ComponentRoute, RouteState};
use crate::plan::world::{DesiredCanary, DesiredService, ResolvedWorkload};
use crate::workload::{ResolveError, Workload, names};

const GREEN: &str = "iris-green-predictor";

fn standard(service: DesiredService) -> DesiredService {
    annotated(service, meta::DEPLOYMENT_MODE, "Standard")
}

/// A canary of `iris`.
fn canary(name: &str, percent: u32, image: &str, replicas: u32) -> DesiredCanary {
    let service_name = names::component_service_name("iris", ComponentKind::Predictor, Some(name));
    let workload = Workload {
        service_name,
        canary: Some(name.to_owned()),
        scaling: at_least(replicas),
        ..predicting("iris", image)
    };
    let resolved = ResolvedWorkload { fingerprint: fingerprint(&workload), workload: Arc::new(workload) };
    DesiredCanary { name: name.to_owned(), percent, resolution: Ok(resolved) }
}

fn iris(image: &str, replicas: u32, canaries: Vec<DesiredCanary>) -> DesiredService {
    let workload = Workload { scaling: at_least(replicas), ..predicting("iris", image) };
    DesiredService { canaries, ..standard(service("iris", vec![workload])) }
}

/// The stable predictor with a name of its own, as after a promotion.
fn named(name: &str, image: &str) -> DesiredService {
    let service_name = names::component_service_name("iris", ComponentKind::Predictor, Some(name));
    standard(service("iris", vec![Workload { service_name, ..predicting("iris", image) }]))
}

fn route(sim: &Sim) -> &ComponentRoute {
    &sim.plan.routes.services[&key("iris")].components[&ComponentKind::Predictor]
}

/// Returns who gets requests, by the name of the service, in thousandths.
fn split(sim: &Sim) -> Vec<(String, u32)> {
    let RouteState::Open(backends) = &route(sim).state else { panic!("{:?}", route(sim).state) };
    let total: u32 = backends.iter().map(|one| one.weight).sum();
    let mut shares = BTreeMap::new();
    for one in backends {
        let (service, _) = one.revision.rsplit_once('-').unwrap();
        *shares.entry(service.to_owned()).or_insert(0) += one.weight;
    }
    shares
        .into_iter()
        .map(|(service, weight)| (service, u32::try_from(u64::from(weight) * 1000 / u64::from(total)).unwrap()))
        .collect()
}

fn shares(sim: &Sim, wanted: &[(&str, u32)]) {
    let wanted: Vec<(String, u32)> = wanted.iter().map(|(name, share)| ((*name).to_owned(), share * 10)).collect();
    assert_eq!(split(sim), wanted);
}

fn told(sim: &Sim) -> Vec<(String, bool, i64)> {
    let lines = sim.status("iris").canary_statuses.iter();
    lines.map(|line| (line.name.clone(), line.ready, line.traffic_percent)).collect()
}

/// A machine that serves revision 1, with 20 % for the canary `green`.
fn serving() -> Sim {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1", 1, vec![canary("green", 20, "server:good2", 1)]));
    sim.run(5.0);
    sim
}

#[test]
fn a_canary_that_answers_gets_its_share_and_the_status_says_so() {
    let sim = serving();
    shares(&sim, &[(GREEN, 20), ("iris-predictor", 80)]);
    assert_eq!(told(&sim), [("green".to_owned(), true, 20)]);
    let (status, reason, _) = sim.condition("iris", "CanaryPredictorReady");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "AllCanariesReady"));
    assert!(sim.status("iris").is_ready());
    let green: Vec<_> = route(&sim).tags[GREEN].iter().map(|one| one.replica.to_string()).collect();
    assert_eq!(green, ["iris-green-predictor-00002-0.default"], "it has a host of its own");
    assert!(route(&sim).closed.is_empty());
    let states = sim.status("iris").canary_statuses[0].model_status.clone().unwrap().states.unwrap();
    assert_eq!(states.active_model_state, "Loaded");
}

#[test]
fn canaries_share_beside_each_other_and_nought_percent_gets_nothing_but_runs() {
    let mut sim = Sim::new();
    let three = [("a", 25), ("b", 30), ("dark", 0)];
    let canaries = three.iter().enumerate().map(|(at, (name, percent))| {
        canary(name, *percent, &format!("server:good{}", at + 2), if *name == "a" { 2 } else { 1 })
    });
    sim.apply(iris("server:good1", 4, canaries.collect()));
    sim.run(8.0);
    shares(&sim, &[("iris-a-predictor", 25), ("iris-b-predictor", 30), ("iris-predictor", 45)]);
    assert_eq!(route(&sim).tags["iris-dark-predictor"].len(), 1, "it is reached by its own host");
    assert_eq!(told(&sim).len(), 3);
    assert!(told(&sim).iter().all(|(_, ready, _)| *ready));
    // Four canaries answer: of the stable four, one is needed.
    assert_eq!(sim.running().len(), 5);
    sim.assert_still(60.0);
}

#[test]
fn canaries_with_all_percents_leave_nothing_to_the_stable_one_which_stays() {
    let mut sim = Sim::new();
    let canaries = vec![canary("a", 60, "server:good2", 1), canary("b", 40, "server:good3", 1)];
    sim.apply(iris("server:good1", 1, canaries));
    sim.run(5.0);
    shares(&sim, &[("iris-a-predictor", 60), ("iris-b-predictor", 40)]);
    assert!(sim.status("iris").is_ready());
    sim.crash("kserve-local.test.iris-a-predictor-00002-0.default");
    sim.pass();
    sim.pass();
    shares(&sim, &[("iris-b-predictor", 40), ("iris-predictor", 60)]);
}

#[test]
fn a_canary_that_never_answers_gets_nothing_and_disturbs_nobody() {
    for image in ["server:never", "server:crash"] {
        let mut sim = Sim::serving();
        sim.apply(iris("server:good1", 1, vec![canary("green", 50, image, 1)]));
        sim.run(20.0);
        shares(&sim, &[("iris-predictor", 100)]);
        assert_eq!(told(&sim), [("green".to_owned(), false, 50)]);
        let (status, reason, message) = sim.condition("iris", "CanaryPredictorReady");
        assert_eq!((status.as_str(), reason.as_str()), ("False", "CanariesNotReady"));
        assert!(message.starts_with("canary `green` gets no traffic: "), "{message}");
        assert!(sim.status("iris").is_ready(), "{image}");
        assert_eq!(route(&sim).tags[GREEN], []);
        // Who asks it by its own host waits while it loads, and is told when it fails.
        let waits = matches!(&route(&sim).closed[GREEN], RouteState::Held(hold) if hold.reason == "ModelLoading");
        let told =
            matches!(&route(&sim).closed[GREEN], RouteState::NotReady { reason, .. } if reason == "CrashLoopBackOff");
        assert_eq!((waits, told), if image == "server:never" { (true, false) } else { (false, true) });
    }
}

#[test]
fn a_canary_that_cannot_be_resolved_is_told_with_its_cause() {
    let error = ResolveError::Invalid {
        field: "spec.canary[0].predictor.model.storageUri".to_owned(),
        message: "nowhere".to_owned(),
        help: None,
    };
    let mut sim = Sim::serving();
    let broken = DesiredCanary { name: "green".to_owned(), percent: 10, resolution: Err(error) };
    sim.apply(iris("server:good1", 1, vec![broken]));
    sim.run(5.0);
    shares(&sim, &[("iris-predictor", 100)]);
    let (_, _, message) = sim.condition("iris", "CanaryPredictorReady");
    assert_eq!(message, "canary `green`: spec.canary[0].predictor.model.storageUri: nowhere");
    assert!(sim.status("iris").is_ready());
}

#[test]
fn a_predictor_that_cannot_be_resolved_keeps_its_own_hosts_beside_its_canary() {
    let mut sim = serving();
    let canaries = || vec![canary("green", 20, "server:good2", 1)];
    sim.apply(DesiredService { canaries: canaries(), ..standard(unresolvable("iris")) });
    sim.run(5.0);
    assert_eq!(route(&sim).service_name, "iris-predictor");
    shares(&sim, &[(GREEN, 20), ("iris-predictor", 80)]);
    // Neither is it called like its canary when that alone answers.
    sim.crash("kserve-local.test.iris-predictor-00001-0.default");
    sim.run(0.5);
    assert_eq!(route(&sim).service_name, "iris-predictor");
    sim.apply(standard(unresolvable("iris")));
    sim.run(5.0);
    assert_eq!(route(&sim).service_name, "iris-predictor");
    assert!(!route(&sim).tags.contains_key(GREEN));
}

#[test]
fn promotion_keeps_the_canarys_replica_and_stops_the_old_one() {
    for ledger in [Ledger::Kept, Ledger::Lost] {
        let mut sim = serving();
        sim.log.clear();
        sim.apply(named("green", "server:good2"));
        sim.run(5.0);
        shares(&sim, &[(GREEN, 100)]);
        assert_eq!(sim.running(), ["kserve-local.test.iris-green-predictor-00002-0.default"]);
        assert!(!sim.log.iter().any(|line| line.starts_with("create")), "{:#?}", sim.log);
        assert_eq!(told(&sim), []);
        assert!(sim.status("iris").condition("CanaryPredictorReady").is_none());
        sim.restart_daemon(Orders::Dropped, ledger);
        sim.run(5.0);
        shares(&sim, &[(GREEN, 100)]);
        assert_eq!(sim.running().len(), 1);
        assert!(!sim.log.iter().any(|line| line.starts_with("create")), "{ledger:?}: {:#?}", sim.log);
    }
}

#[test]
fn what_becomes_the_stable_spec_without_a_name_is_taken_over_as_it_runs() {
    let mut sim = serving();
    sim.log.clear();
    sim.apply(iris("server:good2", 1, Vec::new()));
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), ["iris-green-predictor-00002-0.default"]);
    assert!(!sim.log.iter().any(|line| line.starts_with("create")), "{:#?}", sim.log);
    sim.lease("iris");
    sim.run(1.0);
    sim.crash("kserve-local.test.iris-green-predictor-00002-0.default");
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), ["iris-green-predictor-00002-0.default"], "it is started again where it is");
    sim.assert_quiet(60.0);
}

#[test]
fn a_canary_that_is_removed_drains_and_the_stable_one_is_not_touched() {
    let mut sim = serving();
    sim.log.clear();
    let green = "iris-green-predictor-00002-0.default";
    sim.leases.insert(green.to_owned(), 1);
    sim.apply(iris("server:good1", 1, Vec::new()));
    sim.run(5.0);
    shares(&sim, &[("iris-predictor", 100)]);
    assert_eq!(sim.running().len(), 2, "it still answers somebody");
    sim.leases.clear();
    sim.run(5.0);
    assert_eq!(sim.running(), ["kserve-local.test.iris-predictor-00001-0.default"]);
    assert_eq!(told(&sim), []);
    sim.apply(iris("server:good1", 1, vec![canary("green", 20, "server:good2", 1)]));
    sim.run(5.0);
    shares(&sim, &[(GREEN, 20), ("iris-predictor", 80)]);
}

#[test]
fn the_canary_before_keeps_the_share_until_the_next_one_answers() {
    let mut sim = serving();
    sim.apply(iris("server:good1", 1, vec![canary("green", 20, "server:slow", 1)]));
    for _ in 0..50 {
        sim.run(0.5);
        shares(&sim, &[(GREEN, 20), ("iris-predictor", 80)]);
    }
    sim.run(20.0);
    shares(&sim, &[(GREEN, 20), ("iris-predictor", 80)]);
    let green = &route(&sim).tags[GREEN];
    assert_eq!(green[0].replica.as_ref(), "iris-green-predictor-00003-0.default");
    assert_eq!(sim.running().len(), 2, "the canary before is gone");
}

#[test]
fn a_change_of_percents_restarts_nothing() {
    let mut sim = serving();
    sim.log.clear();
    for percent in [0, 5, 50, 100] {
        sim.apply(iris("server:good1", 1, vec![canary("green", percent, "server:good2", 1)]));
        sim.run(2.0);
        assert_eq!(sim.log, [""; 0], "{percent}");
    }
    shares(&sim, &[(GREEN, 100)]);
}

#[test]
fn the_stable_revision_is_replaced_under_its_canary_without_losing_either() {
    let mut sim = serving();
    sim.apply(iris("server:good3", 1, vec![canary("green", 20, "server:good2", 1)]));
    for _ in 0..100 {
        sim.run(0.05);
        shares(&sim, &[(GREEN, 20), ("iris-predictor", 80)]);
    }
    let names = ["iris-green-predictor-00002-0.default", "iris-predictor-00003-0.default"];
    let mut backends = sim.backends("iris");
    backends.sort();
    assert_eq!(backends, names);
    // A bad one gets nothing, and the canary no more than its share.
    sim.apply(iris("server:never", 1, vec![canary("green", 20, "server:good2", 1)]));
    sim.run(20.0);
    shares(&sim, &[(GREEN, 20), ("iris-predictor", 80)]);
}

#[test]
fn canary_traffic_percent_splits_what_named_canaries_leave() {
    let mut sim = serving();
    let both = |percent| {
        let workload = Workload { canary_percent: percent, ..predicting("iris", "server:good3") };
        let canaries = vec![canary("green", 20, "server:good2", 1)];
        DesiredService { canaries, ..standard(service("iris", vec![workload])) }
    };
    sim.apply(both(Some(25)));
    sim.run(5.0);
    let RouteState::Open(backends) = &route(&sim).state else { panic!() };
    let total: u32 = backends.iter().map(|one| one.weight).sum();
    let mut got: Vec<_> = backends.iter().map(|one| (one.revision.to_string(), one.weight * 100 / total)).collect();
    got.sort();
    let wanted = [("iris-green-predictor-00002", 20), ("iris-predictor-00001", 60), ("iris-predictor-00003", 20)];
    assert_eq!(got, wanted.map(|(name, share)| (name.to_owned(), share)));
    sim.apply(both(None));
    sim.run(5.0);
    shares(&sim, &[(GREEN, 20), ("iris-predictor", 80)]);
}

#[test]
fn before_the_first_deployment_has_answered_requests_wait_for_it_and_later_the_canary_stands_in() {
    let mut sim = Sim::new();
    sim.apply(iris("server:slow", 1, vec![canary("green", 10, "server:good2", 1)]));
    sim.run(5.0);
    assert!(sim.is_held("iris"), "{:?}", route(&sim).state);
    sim.run(40.0);
    shares(&sim, &[(GREEN, 10), ("iris-predictor", 90)]);
    sim.crash("kserve-local.test.iris-predictor-00001-0.default");
    sim.pass();
    sim.pass();
    shares(&sim, &[(GREEN, 100)]);
    sim.run(60.0);
    shares(&sim, &[(GREEN, 10), ("iris-predictor", 90)]);
}

#[test]
fn a_service_sleeps_and_wakes_with_its_canary() {
    let mut sim = Sim::new();
    sim.apply(iris("server:good1", 0, vec![canary("green", 50, "server:good2", 1)]));
    sim.run(5.0);
    shares(&sim, &[(GREEN, 50), ("iris-predictor", 50)]);
    sim.run(120.0);
    assert_eq!(sim.running(), [""; 0]);
    assert!(sim.status("iris").is_ready() && sim.is_held("iris"));
    assert_eq!(told(&sim), [("green".to_owned(), true, 50)], "it is known to wake");
    sim.ask("iris");
    sim.run(5.0);
    assert_eq!(sim.answered, 1);
    shares(&sim, &[(GREEN, 50), ("iris-predictor", 50)]);
}

#[test]
fn requests_that_wake_a_service_wait_for_the_stable_revision_unless_that_fails() {
    let asleep = |image: &str| {
        let mut sim = Sim::new();
        sim.apply(iris(image, 0, vec![canary("green", 50, "server:good2", 1)]));
        sim.run(300.0);
        assert_eq!(sim.running(), [""; 0]);
        sim
    };
    let mut sim = asleep("server:slow");
    sim.ask("iris");
    sim.run(10.0);
    assert_eq!(sim.running().len(), 2);
    assert!(
        sim.is_held("iris") && sim.answered == 0,
        "the canary answers, and is to have half: {:?}",
        route(&sim).state
    );
    assert_eq!(route(&sim).tags[GREEN].len(), 1, "its own host is open");
    sim.run(30.0);
    assert_eq!((sim.answered, sim.refused), (1, 0));
    shares(&sim, &[(GREEN, 50), ("iris-predictor", 50)]);
    // What answered once and ends is stood in for, and so is what fails on its way up.
    sim.crash("kserve-local.test.iris-predictor-00001-0.default");
    sim.run(1.0);
    shares(&sim, &[(GREEN, 100)]);
    let mut sim = asleep("server:slow");
    sim.ask("iris");
    sim.run(10.0);
    sim.crash("kserve-local.test.iris-predictor-00001-0.default");
    sim.run(1.0);
    shares(&sim, &[(GREEN, 100)]);
    assert_eq!((sim.answered, sim.refused), (1, 0));
}

#[test]
fn a_stopped_service_stops_its_canaries() {
    let mut sim = serving();
    let stopped = iris("server:good1", 1, vec![canary("green", 20, "server:good2", 1)]);
    sim.apply(annotated(stopped, meta::STOP, "true"));
    sim.run(5.0);
    assert_eq!(sim.containers.len(), 0);
    assert_eq!(told(&sim), [("green".to_owned(), false, 20)]);
    let (status, reason, _) = sim.condition("iris", "CanaryPredictorReady");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Stopped"));
    sim.apply(iris("server:good1", 1, vec![canary("green", 20, "server:good2", 1)]));
    sim.run(5.0);
    shares(&sim, &[(GREEN, 20), ("iris-predictor", 80)]);
}

#[test]
fn going_back_leaves_the_canary_and_canaries_are_no_revisions_to_go_back_to() {
    let mut sim = serving();
    sim.apply(iris("server:good3", 1, vec![canary("green", 20, "server:good2", 1)]));
    sim.run(5.0);
    sim.apply(iris("server:good1", 1, vec![canary("green", 20, "server:good2", 1)]));
    sim.run(5.0);
    let history = &sim.world.memory.revisions[&predictor("iris")];
    assert_eq!((history.target, history.rolled_out, history.canaries["green"]), (1, Some(1), 2));
    shares(&sim, &[(GREEN, 20), ("iris-predictor", 80)]);
    let lines = crate::plan::ps::history(&sim.world, &key("iris"));
    let green = lines.iter().find(|line| line.revision == 2).unwrap();
    assert_eq!((green.name.as_str(), green.standing.as_slice()), ("iris-green-predictor-00002", &["canary"][..]));
}

#[test]
fn a_canary_without_room_waits_and_takes_nobodys_place() {
    let mut sim = Sim::new();
    sim.world.config.memory.budget = Some(Amount::Bytes(1000 << 20));
    let sized = |mut service: DesiredService| {
        for resolved in service.resolution.iter_mut().flatten() {
            let mut workload = resolved.workload.as_ref().clone();
            workload.containers[0].resources.memory_request = Some(600 << 20);
            *resolved = ResolvedWorkload { fingerprint: fingerprint(&workload), workload: Arc::new(workload) };
        }
        for resolved in service.canaries.iter_mut().filter_map(|canary| canary.resolution.as_mut().ok()) {
            let mut workload = resolved.workload.as_ref().clone();
            workload.containers[0].resources.memory_request = Some(600 << 20);
            *resolved = ResolvedWorkload { fingerprint: fingerprint(&workload), workload: Arc::new(workload) };
        }
        service
    };
    sim.apply(sized(iris("server:good1", 1, Vec::new())));
    sim.run(5.0);
    sim.apply(sized(iris("server:good1", 1, vec![canary("green", 20, "server:good2", 1)])));
    sim.run(60.0);
    shares(&sim, &[("iris-predictor", 100)]);
    let (_, _, message) = sim.condition("iris", "CanaryPredictorReady");
    assert!(message.contains("needs"), "{message}");
    assert!(sim.status("iris").is_ready());
    // A new stable revision still replaces the old one when both do not fit.
    sim.apply(sized(iris("server:good3", 1, vec![canary("green", 20, "server:good2", 1)])));
    sim.run(90.0);
    shares(&sim, &[("iris-predictor", 100)]);
    assert_eq!(sim.backends("iris"), ["iris-predictor-00003-0.default"]);
}

#[test]
fn canaries_survive_restarts_of_the_daemon_and_the_loss_of_its_ledger() {
    for ledger in [Ledger::Kept, Ledger::Lost] {
        let mut sim = serving();
        sim.log.clear();
        sim.restart_daemon(Orders::Dropped, ledger);
        sim.run(5.0);
        shares(&sim, &[(GREEN, 20), ("iris-predictor", 80)]);
        assert_eq!(sim.log.iter().filter(|line| line.starts_with("create")).count(), 0, "{ledger:?}: {:#?}", sim.log);
        assert_eq!(sim.running().len(), 2);
    }
}

#[test]
fn a_transformer_is_not_passed_by() {
    let mut sim = Sim::new();
    let workloads =
        vec![predicting("iris", "server:good1"), component("iris", ComponentKind::Transformer, "transformer:good1")];
    let canaries = vec![canary("green", 50, "server:good2", 1)];
    sim.apply(DesiredService { canaries, ..standard(service("iris", workloads)) });
    sim.run(5.0);
    shares(&sim, &[(GREEN, 50), ("iris-predictor", 50)]);
    let transformer = &sim.plan.routes.services[&key("iris")].components[&ComponentKind::Transformer];
    let RouteState::Open(backends) = &transformer.state else { panic!() };
    let replicas: Vec<_> = backends.iter().map(|one| one.replica.as_ref()).collect();
    assert_eq!(replicas, ["iris-transformer-00001-0.default"], "all requests go through it");
}
