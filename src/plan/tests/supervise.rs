//! What happens to containers behind our back: removed, killed from the inside, found running, not to be asked.

use std::time::Duration;

use jiff::Timestamp;

use super::sample::{predicting, probe, service};
use super::sim::{Ledger, Orders, Sim};
use crate::plan::action::{Action, ProbeKind, ProbeOrder, ProbeWhat};
use crate::plan::world::{ExitFact, FactReach};
use crate::plan::{Memory, Now};
use crate::workload::{Probe, Readiness, Workload};

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

#[test]
fn what_somebody_keeps_removing_is_made_again_later_and_later() {
    let mut sim = Sim::serving();
    let mut waits = Vec::new();
    for _ in 0..5 {
        sim.containers.clear();
        let began = sim.now().tick;
        sim.run(0.01);
        if !waits.is_empty() {
            let (status, reason, message) = sim.condition("iris", "Ready");
            assert_eq!((status.as_str(), reason.as_str()), ("False", "ContainerRemoved"));
            let times = waits.len() + 1;
            assert!(message.contains(&format!("someone removed its container {times} times")), "{message}");
        }
        while sim.containers.is_empty() {
            sim.run(0.1);
        }
        waits.push((sim.now().tick - began).as_secs());
        sim.run(3.0);
        assert!(sim.status("iris").is_ready());
    }
    assert_eq!(waits, [0, 10, 20, 40, 80]);
    // Ten minutes of peace end the row.
    sim.run(601.0);
    sim.containers.clear();
    sim.run(5.0);
    assert!(sim.status("iris").is_ready());
}

#[test]
fn what_we_remove_ourselves_is_made_again_at_once_when_it_is_wanted_again() {
    let mut sim = Sim::serving();
    for _ in 0..3 {
        sim.delete("iris");
        sim.run(5.0);
        assert!(sim.containers.is_empty());
        sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
        sim.run(3.0);
        assert!(sim.status("iris").is_ready());
    }
}

#[test]
fn a_liveness_check_with_a_time_of_its_own_ends_the_container_within_it() {
    let mut sim = serving(|workload| {
        let grace = Some(Duration::from_secs(3));
        workload.containers[0].probes.liveness = Some(Probe { termination_grace: grace, ..probe("/live", 5, 2) });
    });
    sim.sick.insert(IRIS.to_owned());
    sim.run(6.5);
    let Some(Action::Stop { grace, .. }) = sim.stops.first() else { panic!("{:?}", sim.stops) };
    assert_eq!(*grace, Duration::from_secs(3));
    sim.sick.clear();
    sim.run(5.0);
    // Stopped for any other reason it has the time of its pod.
    sim.delete("iris");
    sim.run(5.0);
    let Some(Action::Stop { grace, .. }) = sim.stops.last() else { panic!("{:?}", sim.stops) };
    assert_eq!(*grace, Duration::from_secs(30));
}

#[test]
fn a_server_that_was_there_before_the_daemon_does_not_wait_for_its_initial_delay_again() {
    let delayed = || Some(Probe { initial_delay: Duration::from_secs(60), ..probe("/ready", 10, 3) });
    let mut sim = serving(|workload| {
        workload.readiness = Readiness::Declared;
        workload.containers[0].probes.readiness = delayed();
    });
    assert!(sim.backends("iris").is_empty());
    sim.run(60.0);
    assert_eq!(sim.backends("iris").len(), 1);
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.run(0.5);
    assert_eq!(sim.backends("iris").len(), 1, "it has run for a minute already");
    // A container that was started just before waits for what is left.
    sim.crash(IRIS);
    sim.run(40.0);
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.run(15.0);
    assert!(sim.backends("iris").is_empty());
    sim.run(10.0);
    assert_eq!(sim.backends("iris").len(), 1);
}

#[test]
fn ten_minutes_count_from_the_start_of_the_container_and_not_of_the_daemon() {
    let mut memory = Memory::default();
    memory.note_found_running("c", Duration::from_secs(590), Now::at(1.0));
    assert_eq!(memory.containers["c"].lived(Now::at(12.0)), Duration::from_secs(601));
    // Seen again by a later list, nothing changes.
    memory.note_found_running("c", Duration::ZERO, Now::at(13.0));
    assert_eq!(memory.containers["c"].lived(Now::at(13.0)), Duration::from_secs(602));
}

fn order(kind: ProbeKind, probe: Probe, run: f64, at: f64) -> ProbeOrder {
    ProbeOrder {
        at: Duration::from_secs_f64(at),
        id: "1".to_owned(),
        name: "c".to_owned(),
        kind,
        what: ProbeWhat::Check(probe.check.clone()),
        reach: FactReach::None,
        timeout: probe.timeout,
        probe,
        run: Some(Duration::from_secs_f64(run)),
    }
}

#[test]
fn a_check_that_could_not_be_made_counts_neither_way() {
    let mut memory = Memory::default();
    memory.note_running("c", Now::at(0.0));
    let live = |at| order(ProbeKind::Liveness, probe("/", 1, 2), 0.0, at);
    assert!(!memory.note_check(&live(1.0), Err("HTTP 500".to_owned()), Now::at(1.0)));
    for second in 2..20 {
        let at = f64::from(second);
        assert!(!memory.note_unasked(&live(at), "the engine does not answer".to_owned(), Now::at(at)));
    }
    let known = memory.probe("c", ProbeKind::Liveness).unwrap();
    assert_eq!((known.failures, known.message.as_str()), (1, "the engine does not answer"));
    assert!(memory.containers["c"].unhealthy.is_none());
    assert!(memory.note_check(&live(21.0), Err("HTTP 500".to_owned()), Now::at(21.0)));
    assert!(memory.containers["c"].unhealthy.is_some(), "the second real failure");
}

#[test]
fn a_process_killed_for_memory_is_told_of_while_its_container_runs_on() {
    let mut sim = Sim::serving();
    let fact = sim.containers[IRIS].clone();
    let memory = &mut sim.world.memory;
    assert!(memory.note_memory_kills(&fact, 1, 500 << 20));
    assert!(!memory.note_memory_kills(&fact, 1, 500 << 20), "the same kill is told of once");
    let learned = memory.revisions[&fact.component].known[&1].learned;
    assert!(learned.after_kill > 500 << 20, "the next start asks for more: {learned:?}");
    sim.run(1.0);
    assert!(sim.status("iris").is_ready(), "what answers is ready");
    sim.sick.insert(IRIS.to_owned());
    sim.run(45.0);
    let (_, reason, message) = sim.condition("iris", "Ready");
    assert_eq!(reason, "ModelNotReady");
    assert!(message.ends_with("HTTP 503; a process in it was killed because memory ran out"), "{message}");
    sim.crash(IRIS);
    sim.run(5.0);
    assert_eq!(sim.world.memory.containers[IRIS].kills, 0, "another run, another count");
}

#[test]
fn a_startup_check_has_its_own_delay_and_a_liveness_check_is_held_back_until_it_passed() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:slow");
    let probes = &mut workload.containers[0].probes;
    probes.startup = Some(Probe { initial_delay: Duration::from_secs(10), ..probe("/started", 5, 30) });
    // It would have ended the container long before the model is there.
    probes.liveness = Some(probe("/live", 1, 1));
    sim.apply(service("iris", vec![workload]));
    while sim.running().is_empty() {
        sim.run(0.01);
    }
    let began = sim.now().tick;
    sim.run(40.0);
    let when = |kind| {
        let first = sim.checks.iter().find(|(_, order)| order.kind == kind);
        first.map(|(at, _)| (*at - began).as_secs())
    };
    assert_eq!(when(ProbeKind::Startup), Some(10));
    assert_eq!(when(ProbeKind::Liveness), Some(30), "with the check that found it started");
    assert!(sim.status("iris").is_ready());
    assert!(!sim.log.iter().any(|line| line.starts_with("stop")), "{:#?}", sim.log);
}

#[test]
fn last_words_that_come_after_the_next_end_do_not_replace_those_of_that_end() {
    let ended_at =
        |second: i64| ExitFact { code: 3, finished_at: Timestamp::from_second(second).ok(), ..ExitFact::default() };
    let (mut memory, now) = (Memory::default(), Now::at(1.0));
    memory.note_exit(IRIS, &ended_at(1), now);
    memory.note_exit(IRIS, &ended_at(2), now);
    assert_eq!(memory.last_end(IRIS), ended_at(2).finished_at);
    memory.note_last_words(IRIS, &ended_at(2), vec!["the second".to_owned()]);
    memory.note_last_words(IRIS, &ended_at(1), vec!["the first".to_owned()]);
    assert_eq!(memory.containers[IRIS].last_words, ["the second"]);
}
