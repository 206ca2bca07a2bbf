//! Sleep with the memory kept, hours that are kept warm, pins, and what is woken at the start.

use std::time::Duration;

use super::sample::{at_least, key, predicting, service};
use super::sim::{Ledger, Orders, Sim};
use crate::plan::world::{DesiredService, FactState};
use crate::scale::{Hooks, Policy, Resting, Warm, Way};
use crate::workload::Workload;

const FIRST: &str = "iris-predictor-00001-0.default";
const CONTAINER: &str = "kserve-local.test.iris-predictor-00001-0.default";
/// The window and the grace of Knative's defaults.
const IDLE: f64 = 90.0;

fn sleeper(name: &str, image: &str, resting: Resting) -> DesiredService {
    service(name, vec![Workload { scaling: Policy { resting, ..at_least(0) }, ..predicting(name, image) }])
}

fn by(way: Way) -> DesiredService {
    sleeper("iris", "server:slow", Resting { way, ..Resting::default() })
}

fn hooks(sleep: &str, wake: &str) -> Way {
    Way::Hook(Hooks { sleep: sleep.to_owned(), wake: wake.to_owned(), port: None })
}

/// A machine on which `iris`, which takes half a minute to load, was served and has gone to sleep.
fn asleep(way: Way) -> Sim {
    let mut sim = Sim::new();
    sim.apply(by(way));
    sim.run(35.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
    sim.run(IDLE + 2.0);
    assert!(sim.is_held("iris"), "{:?}", sim.log);
    sim.log.clear();
    sim
}

fn is_paused(sim: &Sim) -> bool {
    sim.containers.get(CONTAINER).is_some_and(|fact| fact.state == FactState::Paused)
}

#[test]
fn a_paused_service_is_asleep_keeps_its_container_and_wakes_in_milliseconds() {
    let mut sim = asleep(Way::Pause);
    assert!(is_paused(&sim));
    assert_eq!(sim.condition("iris", "PredictorReady").1, "Asleep");
    assert_eq!(sim.plan.pods[0].status, "Asleep");
    sim.assert_still(3600.0);
    let rows = sim.room().rows;
    let row = &rows[0];
    assert_eq!((row.standing.as_str(), row.memory > 0, row.until), ("asleep", true, None), "it keeps its memory");
    sim.ask("iris");
    sim.run(0.1);
    assert_eq!((sim.answered, sim.backends("iris").as_slice()), (1, &[FIRST.to_owned()][..]));
    assert_eq!(sim.log, [format!("wake {CONTAINER}")]);
    sim.run(IDLE + 2.0);
    assert!(is_paused(&sim), "and sleeps again");
    assert_eq!(sim.containers.len(), 1);
}

#[test]
fn a_request_that_comes_while_it_is_being_paused_is_answered() {
    let mut sim = Sim::new();
    sim.apply(by(Way::Pause));
    sim.run(35.0);
    while !sim.log.iter().any(|line| line.starts_with("put")) {
        sim.run(0.01);
    }
    sim.ask("iris");
    sim.run(1.0);
    assert_eq!((sim.answered, sim.refused), (1, 0), "{:?}", sim.log);
    assert_eq!(sim.backends("iris"), [FIRST]);
}

#[test]
fn what_is_found_paused_after_a_restart_is_asleep_with_or_without_the_ledger() {
    for ledger in [Ledger::Kept, Ledger::Lost] {
        let mut sim = asleep(Way::Pause);
        sim.restart_daemon(Orders::Dropped, ledger);
        if ledger == Ledger::Lost {
            // What was proven is forgotten, too: it shows again that it works.
            sim.run(5.0);
            continue;
        }
        sim.assert_quiet(20.0);
        assert!(sim.is_held("iris") && is_paused(&sim));
        sim.ask("iris");
        sim.run(1.0);
        assert_eq!(sim.answered, 1, "{:?}", sim.refusal("iris"));
        assert_eq!(sim.log, [format!("wake {CONTAINER}")]);
    }
}

#[test]
fn a_container_that_somebody_else_paused_is_reported_as_before() {
    for way in [Way::Pause, Way::Stop] {
        let mut sim = Sim::new();
        sim.apply(by(way));
        sim.run(35.0);
        sim.containers.get_mut(CONTAINER).unwrap().state = FactState::Paused;
        sim.run(5.0);
        assert_eq!(sim.condition("iris", "PredictorReady").1, "ContainerPaused");
        assert!(!sim.log.iter().any(|line| line.starts_with("wake")), "{:?}", sim.log);
    }
}

#[test]
fn what_is_paused_and_changed_is_made_anew_and_what_dies_asleep_is_started_anew() {
    let mut sim = asleep(Way::Pause);
    sim.apply(sleeper("iris", "server:good2", Resting { way: Way::Pause, ..Resting::default() }));
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), ["iris-predictor-00002-0.default"]);
    assert_eq!(sim.containers.len(), 1, "the paused one is gone");
    sim.run(IDLE + 2.0);
    let name = sim.containers.keys().next().unwrap().clone();
    sim.crash(&name);
    sim.run(5.0);
    assert!(sim.is_held("iris") && sim.containers.is_empty(), "asleep, and nothing of it is left");
    sim.ask("iris");
    sim.run(5.0);
    assert_eq!(sim.answered, 1);
}

#[test]
fn another_way_to_sleep_is_heard_while_it_sleeps() {
    let mut sim = asleep(Way::Pause);
    sim.apply(by(Way::Stop));
    sim.run(5.0);
    assert!(sim.containers.is_empty());
    assert!(sim.is_held("iris"));
}

#[test]
fn a_server_is_told_to_rest_and_to_wake() {
    let mut sim = asleep(hooks("/sleep?level=1", "/wake_up"));
    assert_eq!((sim.running().len(), sim.resting.len()), (1, 1));
    let checks = sim.checks.len();
    sim.assert_still(3600.0);
    assert_eq!(sim.checks.len(), checks, "nobody disturbs it");
    let rows = sim.room().rows;
    let (pod, row) = (&sim.plan.pods[0], &rows[0]);
    assert_eq!((pod.status.as_str(), row.phase.as_str(), row.standing.as_str()), ("Asleep", "Asleep", "asleep"));
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.assert_quiet(20.0);
    assert!(sim.is_held("iris"), "it is known to rest after a restart of the daemon");
    sim.ask("iris");
    sim.run(1.0);
    assert_eq!((sim.answered, sim.resting.len()), (1, 0));
    assert_eq!(sim.log, [format!("wake {CONTAINER}")]);
}

#[test]
fn a_server_that_cannot_rest_is_stopped_and_one_that_does_not_wake_is_started_anew() {
    let mut sim = Sim::new();
    sim.apply(by(hooks("/absent", "/wake_up")));
    sim.run(35.0 + IDLE + 2.0);
    assert!(sim.containers.is_empty() && sim.is_held("iris"));
    let mut sim = asleep(hooks("/sleep", "/broken"));
    sim.ask("iris");
    sim.run(0.5);
    assert_eq!(sim.answered, 0);
    sim.run(45.0);
    sim.ask("iris");
    sim.run(1.0);
    assert!(sim.answered >= 1, "{:?} {:?}", sim.log, sim.refusal("iris"));
    assert_eq!(sim.resting.len(), 0, "only the old run of it rested");
}

#[test]
fn an_order_to_wake_whose_answer_is_lost_is_given_again() {
    let mut sim = asleep(Way::Pause);
    sim.faults.lose_every = Some(1);
    sim.ask("iris");
    sim.run(0.2);
    sim.faults.lose_every = None;
    sim.run(3.0);
    assert_eq!((sim.answered, sim.refused), (1, 0), "{:?}", sim.log);
}

fn warm(hours: &str) -> Resting {
    Resting { warm: Warm::parse(hours), ..Resting::default() }
}

#[test]
fn in_its_hours_a_service_is_woken_and_kept_awake() {
    let mut sim = Sim::new();
    // The machine starts on a Thursday at midnight.
    sim.apply(sleeper("iris", "server:good1", warm("thu 01:00-02:00")));
    sim.run(5.0 + IDLE + 2.0);
    assert!(sim.containers.is_empty());
    sim.run(3700.0 - 98.0);
    assert_eq!(sim.backends("iris"), [FIRST], "nobody asked");
    sim.run(3500.0 - IDLE);
    assert_eq!(sim.backends("iris"), [FIRST]);
    sim.run(2.0 * IDLE + 10.0);
    assert!(sim.containers.is_empty(), "its clock starts at the end of the hour");
}

#[test]
fn a_jump_of_the_clock_is_noticed() {
    let mut sim = Sim::new();
    sim.apply(sleeper("iris", "server:good1", warm("01:00-02:00")));
    sim.run(100.0);
    assert!(sim.containers.is_empty());
    sim.jump(3600);
    sim.pass();
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
}

#[test]
fn what_is_pinned_does_not_sleep() {
    let mut sim = Sim::new();
    sim.apply(sleeper("iris", "server:good1", Resting { pinned: true, ..Resting::default() }));
    sim.run(5000.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
}

#[test]
fn services_are_woken_in_order_when_the_daemon_starts_and_one_that_fails_holds_nobody_up() {
    let mut sim = Sim::new();
    let preload = |number| Resting { preload: Some(number), ..Resting::default() };
    sim.apply(sleeper("wine", "server:slow", preload(1)));
    sim.apply(sleeper("mnist", "server:good1", preload(2)));
    sim.apply(sleeper("iris", "server:good2", preload(3)));
    sim.apply(sleeper("other", "server:good3", Resting::default()));
    sim.run(40.0 + IDLE + 30.0);
    assert!(sim.containers.is_empty(), "{:?}", sim.running());
    sim.log.clear();
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.run(10.0);
    assert_eq!(sim.running().len(), 1, "the first takes its time");
    sim.run(30.0);
    let created: Vec<&String> = sim.log.iter().filter(|line| line.starts_with("create")).collect();
    assert_eq!(created.len(), 3, "{created:?}");
    assert!(["wine", "mnist", "iris"].iter().zip(&created).all(|(name, line)| line.contains(name)), "{created:?}");
    assert!(sim.world.services.contains_key(&key("other")));
    sim.run(IDLE + 10.0);
    assert!(sim.containers.is_empty(), "and they sleep again when nobody asks");
    // The first one fails.
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.faults.fail_every = Some(1);
    sim.run(1.0);
    sim.faults.fail_every = None;
    sim.run(Duration::from_secs(10).as_secs_f64());
    assert!(sim.running().len() >= 2, "{:?}", sim.running());
}

#[test]
fn what_sleeps_with_its_memory_kept_gives_it_up_for_one_that_is_asked() {
    for way in [Way::Pause, hooks("/sleep", "/wake_up")] {
        let mut sim = Sim::new();
        sim.world.config.memory.budget = Some(crate::plan::ledger::Amount::Bytes(1500 << 20));
        let needing = |name: &str| {
            let resting = Resting { way: way.clone(), ..Resting::default() };
            let scaling = Policy { resting, ..at_least(0) };
            let mut workload = Workload { scaling, ..predicting(name, "server:good1") };
            workload.containers[0].resources.memory_request = Some(1000 << 20);
            service(name, vec![workload])
        };
        sim.apply(needing("iris"));
        sim.run(5.0 + IDLE + 2.0);
        assert_eq!((sim.is_held("iris"), sim.containers.len()), (true, 1));
        sim.restart_daemon(Orders::Dropped, Ledger::Kept);
        sim.run(70.0);
        sim.apply(needing("wine"));
        sim.run(10.0);
        assert_eq!(sim.backends("wine").len(), 1, "{way:?} {:?} {:?}", sim.log, sim.refusal("wine"));
        assert!(sim.is_held("iris") && sim.containers.len() == 1, "{:?}", sim.log);
        // An idle one that is awake gives it up too, and does not only pause.
        sim.ask("iris");
        sim.run(70.0);
        assert_eq!((sim.answered, sim.containers.len()), (1, 1), "{way:?} {:?}", sim.log);
        sim.run(IDLE);
        assert!(sim.is_held("iris") && sim.containers.len() == 1, "the next time it sleeps in its way");
    }
}
