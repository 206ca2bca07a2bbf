//! An edit loses no request: the new revision takes over when it answers, and never before.

use std::sync::Arc;

use super::sample::{self, container, predicting, predictor, service, unresolvable};
use super::sim::{Ledger, Orders, Sim};
use crate::plan::Now;
use crate::plan::memory::Memory;
use crate::workload::{Fingerprint, Workload};

const FIRST: &str = "iris-predictor-00001-0.default";
const SECOND: &str = "iris-predictor-00002-0.default";

fn name(replica: &str) -> String {
    format!("kserve-local.test.{replica}")
}

fn iris(image: &str) -> Workload {
    predicting("iris", image)
}

fn edit(sim: &mut Sim, image: &str) {
    sim.apply(service("iris", vec![iris(image)]));
}

#[test]
fn a_new_revision_gets_the_traffic_when_it_answers_and_then_the_old_one_goes() {
    let mut sim = Sim::serving();
    edit(&mut sim, "server:good2");
    let mut seen = Vec::new();
    for _ in 0..500 {
        sim.run(0.01);
        let backends = sim.backends("iris");
        assert_eq!(backends.len(), 1, "requests always have one place to go");
        if seen.last() != Some(&backends) {
            seen.push(backends);
        }
    }
    assert_eq!(seen, [[FIRST], [SECOND]]);
    assert_eq!(sim.running(), [name(SECOND)]);
    let why = "another revision took over";
    let expected = [
        "look for image server:good2".to_owned(),
        "pull image server:good2".to_owned(),
        format!("create {}", name(SECOND)),
        format!("stop {}: {why}", name(FIRST)),
        format!("remove {}", name(FIRST)),
    ];
    assert_eq!(sim.log, expected);
    sim.assert_still(60.0);
}

#[test]
fn a_revision_that_never_answers_never_gets_a_request() {
    for bad in ["server:never", "server:crash", "server:oom"] {
        let mut sim = Sim::serving();
        edit(&mut sim, bad);
        for _ in 0..300 {
            sim.run(1.0);
            assert_eq!(sim.backends("iris"), [FIRST], "{bad}");
        }
        assert!(!sim.status("iris").is_ready());
        let (_, _, message) = sim.condition("iris", "PredictorReady");
        assert!(message.contains("; revision iris-predictor-00001 keeps serving"), "{message}");
    }
}

#[test]
fn the_old_revision_is_restarted_when_it_crashes_while_the_new_one_does_not_answer() {
    let mut sim = Sim::serving();
    edit(&mut sim, "server:never");
    sim.run(10.0);
    sim.crash(&name(FIRST));
    sim.run(3.0);
    assert_eq!(*sim.log.last().unwrap(), format!("start {}", name(FIRST)));
    assert_eq!(sim.backends("iris"), [FIRST]);
}

#[test]
fn undoing_an_edit_takes_up_the_old_revision_without_a_new_container() {
    let mut sim = Sim::serving();
    edit(&mut sim, "server:never");
    sim.run(10.0);
    sim.log.clear();
    edit(&mut sim, "server:good1");
    sim.run(5.0);
    let why = "another revision took over";
    assert_eq!(sim.log, [format!("stop {}: {why}", name(SECOND)), format!("remove {}", name(SECOND))]);
    assert!(sim.status("iris").is_ready());
    assert_eq!(sim.backends("iris"), [FIRST]);
}

#[test]
fn undoing_an_edit_while_the_old_revision_drains_keeps_it() {
    let mut sim = Sim::serving();
    sim.lease("iris");
    edit(&mut sim, "server:good2");
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), [SECOND]);
    assert_eq!(sim.running().len(), 2, "a request is still under way");
    sim.log.clear();
    edit(&mut sim, "server:good1");
    sim.run(0.01);
    assert_eq!(sim.backends("iris"), [FIRST], "at once");
    sim.run(5.0);
    assert_eq!(sim.running(), [name(FIRST)]);
    assert!(!sim.log.iter().any(|line| line.contains(FIRST)), "{:#?}", sim.log);
}

#[test]
fn an_edit_undone_after_the_old_revision_was_told_to_stop_waits_for_it_and_starts_it_again() {
    let mut sim = Sim::serving();
    sim.faults.stop_takes = std::time::Duration::from_secs(10);
    edit(&mut sim, "server:good2");
    sim.run(5.0);
    edit(&mut sim, "server:good1");
    sim.run(1.0);
    assert_eq!(sim.backends("iris"), [SECOND], "what is being stopped gets no request");
    sim.run(20.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
}

#[test]
fn an_edit_on_top_of_a_bad_one_leaves_the_good_revision_serving_and_the_bad_one_goes() {
    let mut sim = Sim::serving();
    edit(&mut sim, "server:never");
    sim.run(5.0);
    edit(&mut sim, "server:slow");
    sim.run(10.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
    assert_eq!(sim.running(), [name(FIRST), name("iris-predictor-00003-0.default")]);
    sim.run(40.0);
    assert_eq!(sim.running(), [name("iris-predictor-00003-0.default")]);
}

#[test]
fn a_first_deployment_that_never_answered_is_given_up_for_the_next_one() {
    let mut sim = Sim::new();
    edit(&mut sim, "server:crash");
    sim.run(30.0);
    edit(&mut sim, "server:good1");
    sim.run(5.0);
    assert_eq!(sim.running(), [name(SECOND)]);
    assert_eq!(sim.containers.len(), 1);
}

#[test]
fn all_replicas_of_the_new_revision_answer_before_any_of_the_old_goes() {
    let mut sim = Sim::new();
    let three = |image: &str| service("iris", vec![Workload { scaling: sample::at_least(3), ..iris(image) }]);
    sim.apply(three("server:good1"));
    sim.run(10.0);
    assert_eq!(sim.backends("iris").len(), 3);
    sim.apply(three("server:good2"));
    for _ in 0..1000 {
        sim.run(0.01);
        let backends = sim.backends("iris");
        assert_eq!(backends.len(), 3, "{backends:?}");
    }
    assert_eq!(sim.running().len(), 3);
    assert!(sim.running().iter().all(|name| name.contains("-00002-")));
}

#[test]
fn some_replicas_are_better_than_none() {
    let mut sim = Sim::new();
    sim.apply(service("iris", vec![Workload { scaling: sample::at_least(2), ..iris("server:good1") }]));
    sim.run(5.0);
    sim.sick.insert(name("iris-predictor-00001-1.default"));
    sim.run(60.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
    let (status, _, message) = sim.condition("iris", "PredictorReady");
    assert_eq!(status, "False");
    assert_eq!(message, "it answered before and does not now: HTTP 503; 1 of 2 replicas answer");
}

#[test]
fn surplus_replicas_go_when_those_that_stay_answer() {
    let mut sim = Sim::new();
    let with =
        |replicas| service("iris", vec![Workload { scaling: sample::at_least(replicas), ..iris("server:good1") }]);
    sim.apply(with(3));
    sim.run(5.0);
    // The one that is to stay is ill when the number goes down.
    sim.sick.insert(name(FIRST));
    sim.run(60.0);
    sim.apply(with(1));
    sim.run(30.0);
    assert_eq!(sim.backends("iris"), ["iris-predictor-00001-1.default"], "as many as are missing stand in");
    sim.sick.clear();
    sim.run(5.0);
    assert_eq!(sim.running(), [name(FIRST)]);
    assert!(sim.log.contains(&format!("stop {}: fewer replicas are wanted", name("iris-predictor-00001-2.default"))));
    assert_eq!(sim.status("iris").components.values().next().unwrap().latest_created_revision, "iris-predictor-00001");
}

#[test]
fn a_surplus_replica_that_alone_answers_keeps_the_route_of_a_first_deployment() {
    let mut sim = Sim::new();
    let with =
        |replicas| service("iris", vec![Workload { scaling: sample::at_least(replicas), ..iris("server:good1") }]);
    sim.apply(with(2));
    while !sim.containers.contains_key(&name(FIRST)) {
        sim.run(0.01);
    }
    sim.sick.insert(name(FIRST));
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), ["iris-predictor-00001-1.default"]);
    sim.apply(with(1));
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), ["iris-predictor-00001-1.default"]);
    sim.sick.clear();
    sim.run(5.0);
    assert_eq!(sim.running(), [name(FIRST)]);
}

#[test]
fn an_edit_that_cannot_be_resolved_keeps_the_old_revision_serving() {
    let mut sim = Sim::serving();
    sim.apply(unresolvable("iris"));
    sim.assert_quiet(60.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
    let model = sim.status("iris").model_status.clone().unwrap();
    assert_eq!(model.transition_status, "InvalidSpec");
    let (status, reason, message) = sim.condition("iris", "PredictorReady");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "InvalidPredictorSpec"));
    assert_eq!(
        message,
        "spec.predictor.containers[0].image: the image has no name; write one, for example `example/server:1.0`; \
         revision iris-predictor-00001 keeps serving"
    );
    // It is looked after as well: restarted when it crashes, known after a restart of the daemon.
    sim.crash(&name(FIRST));
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    sim.run(1.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
    edit(&mut sim, "server:good1");
    sim.run(1.0);
    assert!(sim.status("iris").is_ready());
}

#[test]
fn a_new_revision_in_the_making_is_dropped_when_the_next_edit_cannot_be_resolved() {
    let mut sim = Sim::serving();
    edit(&mut sim, "server:never");
    sim.run(5.0);
    sim.apply(unresolvable("iris"));
    sim.run(5.0);
    assert_eq!(sim.running(), [name(FIRST)]);
    assert_eq!(sim.backends("iris"), [FIRST]);
}

#[test]
fn a_daemon_restarted_in_the_middle_of_a_rollout_goes_on_with_it() {
    for ledger in [Ledger::Kept, Ledger::Lost] {
        let mut sim = Sim::serving();
        edit(&mut sim, "server:slow");
        sim.run(10.0);
        sim.restart_daemon(Orders::Done, ledger);
        sim.run(1.0);
        assert_eq!(sim.backends("iris"), [FIRST], "{ledger:?}");
        sim.run(40.0);
        assert_eq!(sim.backends("iris").len(), 1);
        assert_eq!(sim.running(), [name(SECOND)], "{ledger:?}");
    }
}

#[test]
fn a_change_of_sidecars_is_a_new_revision_as_a_whole() {
    let mut sim = Sim::serving();
    let mut workload = iris("server:good1");
    workload.containers.push(container("agent", "agent:good1"));
    sim.apply(service("iris", vec![workload]));
    sim.run(5.0);
    assert_eq!(sim.running(), [name(SECOND), format!("{}.agent", name(SECOND))]);
}

#[test]
fn revisions_are_counted_and_remembered() {
    let mut memory = Memory::default();
    let key = predictor("iris");
    let mut want = |text: &str| memory.want(&key, &Fingerprint(text.to_owned()), Now::at(0.0));
    assert!(want("a"));
    assert!(!want("a"), "nothing changed");
    assert!(want("b"));
    assert!(want("a"), "taken up again");
    let known = &memory.revisions[&key];
    assert_eq!((known.target, known.highest), (1, 2));
    assert!(memory.rolled_out(&key, 1));
    assert!(!memory.rolled_out(&key, 1));
    assert!(memory.rolled_out(&key, 2));
    let known = &memory.revisions[&key];
    assert_eq!((known.rolled_out, known.previous), (Some(2), Some(1)));
}

#[test]
fn the_document_in_the_folder_takes_the_place_of_the_same_one_from_the_ledger() {
    let mut memory = Memory::default();
    let key = predictor("iris");
    memory.want(&key, &Fingerprint("a".to_owned()), Now::at(0.0));
    let document = |image: &str| Arc::new(serde_json::json!({"image": image}));
    let (ledger, folder, other) = (document("one"), document("one"), document("two"));
    assert!(memory.note_source(&key, &ledger));
    assert!(!memory.note_source(&key, &folder), "it says the same");
    assert!(Arc::ptr_eq(&memory.sources[&key][&1], &folder), "one of the two is kept");
    assert!(!memory.note_source(&key, &other), "a revision stays what it was made from");
    assert!(Arc::ptr_eq(&memory.sources[&key][&1], &folder));
}

#[test]
fn old_revisions_are_forgotten_and_those_in_use_are_not() {
    let mut memory = Memory::default();
    let key = predictor("iris");
    memory.want(&key, &Fingerprint("0".to_owned()), Now::at(0.0));
    memory.rolled_out(&key, 1);
    for edit in 1..40 {
        memory.want(&key, &Fingerprint(edit.to_string()), Now::at(0.0));
    }
    let known = &memory.revisions[&key].known;
    assert_eq!(known.len(), 10);
    assert!(known.contains_key(&1), "it still has the traffic");
    assert!(known.contains_key(&40));
}

#[test]
fn labels_win_over_a_ledger_that_was_lost() {
    let key = predictor("iris");
    let fingerprint = |text: &str| Fingerprint(text.to_owned());
    // The daemon came up before the engine did, and gave the number of another workload's containers.
    let mut memory = Memory::default();
    memory.want(&key, &fingerprint("new"), Now::at(0.0));
    assert!(memory.adopt_revision(&key, 1, ("old", None), Now::at(1.0)));
    let revisions = &memory.revisions[&key];
    assert_eq!(revisions.known[&1].fingerprint, "old");
    assert_eq!((revisions.target, revisions.highest), (2, 2));
    // It gave a number to what runs under another.
    let mut memory = Memory::default();
    memory.want(&key, &fingerprint("same"), Now::at(0.0));
    assert!(memory.adopt_revision(&key, 7, ("same", None), Now::at(1.0)));
    assert_eq!(memory.revisions[&key].target, 7);
    assert!(!memory.adopt_revision(&key, 7, ("same", None), Now::at(2.0)));
    memory.want(&key, &fingerprint("next"), Now::at(3.0));
    assert_eq!(memory.revisions[&key].target, 8);
}

/// A service of two containers that answers, edited to what never does.
fn failing_beside_two_containers(image: &str) -> Sim {
    let mut sim = Sim::new();
    let workload = |image: &str| {
        let mut workload = iris(image);
        workload.containers.push(container("agent", "agent:good1"));
        workload
    };
    sim.apply(service("iris", vec![workload("server:good1")]));
    sim.run(5.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
    sim.apply(service("iris", vec![workload(image)]));
    sim.run(30.0);
    assert_eq!(sim.backends("iris"), [FIRST], "what fails gets nothing");
    sim
}

#[test]
fn what_an_older_revision_that_serves_has_lost_is_made_again() {
    // One whose first container is lost goes with it, and comes back only when the newer one is known to fail.
    let agent = format!("{FIRST}.agent");
    for (image, lost) in [("server:never", agent.as_str()), ("server:crash", FIRST), ("server:crash", &agent)] {
        let (mut sim, lost) = (failing_beside_two_containers(image), name(lost));
        sim.containers.remove(&lost);
        sim.run(120.0);
        assert_eq!(sim.backends("iris"), [FIRST], "{image}: {lost} {:#?}", sim.log);
        assert!(sim.containers[&lost].is_running());
    }
}

#[test]
fn what_an_older_revision_has_lost_is_made_once_and_not_in_every_pass() {
    let mut sim = failing_beside_two_containers("server:never");
    sim.containers.remove(&name(&format!("{FIRST}.agent")));
    sim.crash(&name(FIRST));
    sim.run(120.0);
    assert_eq!(sim.backends("iris"), [FIRST]);
    sim.assert_quiet(30.0);
}

#[test]
fn a_replica_that_cannot_be_made_whole_is_not_left_behind() {
    let mut sim = failing_beside_two_containers("server:never");
    sim.made_from.clear();
    sim.containers.remove(&name(FIRST));
    sim.run(30.0);
    assert!(!sim.running().iter().any(|running| running.contains(FIRST)), "{:#?}", sim.running());
    sim.assert_quiet(30.0);
}
