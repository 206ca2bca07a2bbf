//! From nothing to serving, and what goes wrong on the way.

use std::time::Duration;

use super::sample::{container, key, model, predicting, probe, service};
use super::sim::{Ledger, Orders, Sim};
use crate::api::ConditionStatus;
use crate::plan::action::ProbeKind;
use crate::plan::ledger::Used;
use crate::plan::world::{EngineState, ExitFact, FactState};
use crate::plan::{Memo, Now, Plan, World, plan, plan_anew};

const IRIS: &str = "kserve-local.test.iris-predictor-00001-0.default";

#[test]
fn a_new_service_gets_its_model_then_its_image_then_its_container_then_its_route() {
    let mut sim = Sim::new();
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    sim.run(5.0);
    assert_eq!(
        sim.log,
        [
            "pull model s3://models/iris",
            "look for image server:good1",
            "pull image server:good1",
            "create kserve-local.test.iris-predictor-00001-0.default",
        ]
    );
    assert_eq!(sim.backends("iris"), ["iris-predictor-00001-0.default"]);
    assert!(sim.status("iris").is_ready());
    sim.assert_quiet(3600.0);
}

#[test]
fn nothing_is_done_and_nothing_shown_before_the_folder_was_read() {
    let mut sim = Sim::serving();
    sim.world.services.clear();
    sim.world.desired_known = false;
    assert_eq!(
        plan(&sim.world, sim.now()),
        Plan { routes: sim.plan.routes.clone(), ..Plan::default() }.without_services()
    );
}

#[test]
fn before_the_engine_was_asked_only_models_are_fetched() {
    let mut sim = Sim::new();
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    sim.world.engine = EngineState::Unknown;
    let plan = plan(&sim.world, sim.now());
    assert_eq!(words(&plan), ["pull model s3://models/iris"]);
}

#[test]
fn an_engine_that_was_not_asked_yet_is_not_called_unavailable() {
    let mut sim = Sim::serving();
    sim.world.containers.clear();
    sim.world.engine = EngineState::Unknown;
    let plan = plan(&sim.world, sim.now());
    let ready = plan.statuses.first().and_then(|(_, status)| status.condition("Ready")).expect("a condition");
    assert_eq!((ready.status, ready.reason.as_str()), (ConditionStatus::Unknown, "EngineNotAsked"));
}

#[test]
fn an_engine_that_is_away_closes_no_route_and_is_asked_for_nothing() {
    let mut sim = Sim::serving();
    sim.faults.engine_down = true;
    sim.assert_quiet(120.0);
    assert_eq!(sim.backends("iris").len(), 1);
    assert!(sim.status("iris").is_ready());
    sim.apply(service("mnist", vec![predicting("mnist", "server:good1")]));
    sim.run(5.0);
    assert_eq!(sim.log, ["pull model s3://models/mnist"]);
    let (status, reason, message) = sim.condition("mnist", "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "EngineUnavailable"));
    assert_eq!(message, "the engine is away");
    sim.faults.engine_down = false;
    sim.run(5.0);
    assert!(sim.status("mnist").is_ready());
}

#[test]
fn a_replica_that_died_while_the_engine_was_away_is_started_when_it_is_back() {
    let mut sim = Sim::serving();
    sim.faults.engine_down = true;
    sim.crash(IRIS);
    sim.run(60.0);
    assert_eq!(sim.backends("iris").len(), 0, "its checks fail");
    sim.faults.engine_down = false;
    sim.run(3.0);
    assert_eq!(sim.log, [format!("start {IRIS}")]);
    assert_eq!(sim.backends("iris").len(), 1);
}

#[test]
fn two_passes_over_the_same_world_order_nothing_twice() {
    let mut sim = Sim::new();
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    sim.pass();
    assert_eq!(sim.log, ["pull model s3://models/iris"]);
    sim.pass();
    sim.pass();
    assert_eq!(sim.log.len(), 1);
}

#[test]
fn two_services_with_one_model_and_one_image_fetch_them_once() {
    let mut sim = Sim::new();
    for name in ["iris", "wine"] {
        let mut workload = predicting(name, "server:good1");
        workload.models = vec![model("shared")];
        sim.apply(service(name, vec![workload]));
    }
    sim.run(5.0);
    let count = |what: &str| sim.log.iter().filter(|line| line.starts_with(what)).count();
    assert_eq!([count("pull model"), count("pull image"), count("create")], [1, 1, 2]);
}

#[test]
fn all_models_of_a_component_are_fetched_at_once() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:good1");
    workload.models = vec![model("a"), model("b")];
    sim.apply(service("iris", vec![workload]));
    sim.pass();
    assert_eq!(sim.log, ["pull model s3://models/a", "pull model s3://models/b"]);
}

#[test]
fn a_model_that_cannot_be_fetched_is_tried_again_later_and_later() {
    let mut sim = Sim::new();
    sim.faults.lost_models.insert("iris".to_owned());
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    sim.run(20.0);
    // At 0, 1.3, 3.6, 7.9 and 16.2 seconds: 1, 2, 4 and 8 seconds after each failure.
    assert_eq!(sim.log.len(), 5);
    let (status, reason, message) = sim.condition("iris", "PredictorReady");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ModelPullFailed"));
    assert_eq!(message, "no such object; it is tried again");
    sim.faults.lost_models.clear();
    sim.run(60.0);
    assert!(sim.status("iris").is_ready());
}

#[test]
fn init_containers_run_one_after_the_other_before_the_server() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:good1");
    workload.init_containers = vec![container("first", "first:init"), container("second", "second:init")];
    sim.apply(service("iris", vec![workload]));
    sim.run(5.0);
    let made: Vec<&String> = sim.log.iter().filter(|line| line.starts_with("create")).collect();
    assert_eq!(made, [&format!("create {IRIS}.first"), &format!("create {IRIS}.second"), &format!("create {IRIS}")]);
    assert!(sim.status("iris").is_ready());
    // Someone tidies up: nothing is done again.
    sim.containers.retain(|_, fact| fact.is_running());
    sim.assert_quiet(60.0);
    // Nor when the server ends and is started again.
    sim.crash(IRIS);
    sim.run(5.0);
    assert_eq!(*sim.log.last().unwrap(), format!("start {IRIS}"));
    assert!(sim.status("iris").is_ready());
}

#[test]
fn an_init_container_that_fails_is_run_again_with_back_off_and_holds_the_rest() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:good1");
    workload.init_containers = vec![container("first", "first:badinit")];
    sim.apply(service("iris", vec![workload]));
    sim.run(25.0);
    let starts = sim.log.iter().filter(|line| line.starts_with("start")).count();
    assert_eq!(starts, 2, "at once, then after 10 s: {:#?}", sim.log);
    assert!(!sim.containers.contains_key(IRIS));
    let (_, reason, message) = sim.condition("iris", "PredictorReady");
    assert_eq!(reason, "CrashLoopBackOff");
    assert!(message.starts_with("container `first` ended with exit code 3"), "{message}");
}

#[test]
fn a_container_that_keeps_ending_is_restarted_on_the_kubelets_schedule() {
    let mut sim = Sim::new();
    sim.apply(service("iris", vec![predicting("iris", "server:crash")]));
    let mut waits = Vec::new();
    let mut before = None;
    for _ in 0..8000 {
        let starts = sim.log.iter().filter(|line| line.starts_with("start")).count();
        if starts > waits.len() {
            let now = sim.now().tick.as_secs_f64();
            waits.push(before.map_or(0, |before: f64| (now - before).round() as u64));
            before = Some(now);
        }
        sim.run(0.1);
    }
    assert_eq!(waits[..6], [0, 10, 20, 40, 80, 160]);
}

#[test]
fn a_crash_is_explained_with_exit_code_restarts_next_try_and_last_lines() {
    let mut sim = Sim::new();
    sim.apply(service("iris", vec![predicting("iris", "server:crash")]));
    sim.run(15.0);
    let (status, reason, message) = sim.condition("iris", "PredictorReady");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "CrashLoopBackOff"));
    assert_eq!(
        message,
        "container `kserve-container` ended with exit code 1; restarted 2 times, next time 20 s after it ended; last output:\n\
         loading\nValueError: no model"
    );
    let (reason, message) = sim.refusal("iris").unwrap();
    assert_eq!(reason, "CrashLoopBackOff");
    assert_eq!(
        message,
        "container `kserve-container` ended with exit code 1; restarted 2 times, next time 20 s after it ended"
    );
    let failure = sim.status("iris").model_status.clone().unwrap();
    assert_eq!(failure.transition_status, "BlockedByFailedLoad");
    assert_eq!(failure.last_failure_info.unwrap().exit_code, Some(1));
    assert_eq!(sim.plan.pods[0].status, "CrashLoopBackOff");
    assert_eq!(sim.plan.pods[0].containers[0].restarts, 2);
}

#[test]
fn running_out_of_memory_is_named() {
    let mut sim = Sim::new();
    sim.apply(service("iris", vec![predicting("iris", "server:oom")]));
    sim.run(15.0);
    let (_, reason, message) = sim.condition("iris", "PredictorReady");
    assert_eq!(reason, "OOMKilled");
    assert!(
        message.starts_with("container `kserve-container` was killed because it ran out of memory (exit code 137)"),
        "{message}"
    );
}

#[test]
fn a_kill_that_nobody_explains_is_told_as_a_guess_unless_little_memory_was_used() {
    let told = |peak: Option<u64>| {
        let mut sim = Sim::new();
        sim.apply(service("iris", vec![predicting("iris", "server:killed")]));
        for _ in 0..150 {
            sim.run(0.1);
            let used = peak.map(|peak| (IRIS.to_owned(), Used { peak, ..Used::default() }));
            sim.world.used.extend(used);
        }
        let (_, reason, message) = sim.condition("iris", "PredictorReady");
        (reason, message)
    };
    for peak in [None, Some(900 << 20)] {
        let (reason, message) = told(peak);
        assert_eq!(reason, "OOMKilled", "{message}");
        let wanted = "container `kserve-container` was killed (exit code 137), most likely for memory: it has a limit of 1.0 GiB";
        assert!(message.starts_with(wanted), "{message}");
    }
    let (reason, message) = told(Some(100 << 20));
    assert_eq!(reason, "CrashLoopBackOff", "{message}");
    assert!(message.starts_with("container `kserve-container` ended with exit code 137 (killed)"), "{message}");
}

#[test]
fn a_container_that_ran_ten_minutes_starts_with_a_clean_sheet() {
    let mut sim = Sim::serving();
    for _ in 0..4 {
        sim.crash(IRIS);
        sim.run(100.0);
    }
    assert_eq!(sim.world.memory.containers[IRIS].failures, 4);
    sim.run(600.0);
    sim.crash(IRIS);
    sim.run(3.0);
    assert_eq!(sim.world.memory.containers[IRIS].failures, 1);
    assert_eq!(sim.world.memory.containers[IRIS].restarts, 5);
    assert_eq!(sim.backends("iris").len(), 1, "it was started at once");
}

#[test]
fn containers_of_one_network_restart_after_the_one_that_owns_it() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:good1");
    workload.containers.push(container("agent", "agent:good1"));
    sim.apply(service("iris", vec![workload]));
    sim.run(5.0);
    sim.log.clear();
    sim.crash(IRIS);
    sim.run(5.0);
    let why = "the container whose network it shares ended";
    assert_eq!(sim.log, [format!("stop {IRIS}.agent: {why}"), format!("start {IRIS}"), format!("start {IRIS}.agent")]);
    assert!(sim.status("iris").is_ready());
}

#[test]
fn a_container_left_in_a_network_that_is_gone_is_made_to_join_the_new_one() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:good1");
    workload.containers.push(container("agent", "agent:good1"));
    sim.apply(service("iris", vec![workload]));
    sim.run(5.0);
    sim.log.clear();
    // Someone removes the owner behind our back.
    sim.containers.remove(IRIS);
    sim.run(5.0);
    let why = "the container whose network it shares is gone";
    assert_eq!(
        sim.log,
        [
            format!("stop {IRIS}.agent: {why}"),
            format!("remove {IRIS}.agent"),
            format!("create {IRIS}"),
            format!("create {IRIS}.agent"),
        ]
    );
    assert!(sim.status("iris").is_ready());
}

#[test]
fn a_sidecar_in_back_off_does_not_stop_the_servers_checks() {
    let mut sim = Sim::new();
    let mut workload = predicting("iris", "server:good1");
    workload.containers[0].probes.liveness = Some(probe("/live", 5, 2));
    workload.containers.push(container("agent", "agent:crash"));
    sim.apply(service("iris", vec![workload]));
    sim.run(60.0);
    sim.sick.insert(IRIS.to_owned());
    sim.run(10.0);
    assert!(sim.log.contains(&format!("stop {IRIS}: liveness probe failed 2 times: HTTP 500")), "{:#?}", sim.log);
}

#[test]
fn an_order_that_fails_is_tried_again_later_and_says_why() {
    let mut sim = Sim::new();
    sim.faults.fail_every = Some(1);
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    sim.run(20.0);
    let creates = sim.log.iter().filter(|line| line.starts_with("create")).count();
    assert_eq!(creates, 5, "after 1, 2, 4 and 8 seconds");
    let (status, reason, message) = sim.condition("iris", "PredictorReady");
    assert_eq!((status.as_str(), reason.as_str(), message.as_str()), ("False", "ContainerCannotRun", "it broke"));
    sim.faults.fail_every = None;
    sim.run(20.0);
    assert!(sim.status("iris").is_ready());
}

#[test]
fn an_order_that_was_done_although_the_answer_was_lost_is_not_done_again() {
    let mut sim = Sim::new();
    sim.faults.lose_every = Some(1);
    sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
    sim.run(60.0);
    assert_eq!(sim.log.iter().filter(|line| line.starts_with("create")).count(), 1);
    assert!(sim.status("iris").is_ready());
}

#[test]
fn a_removal_that_fails_does_not_keep_the_loop_busy() {
    let mut sim = Sim::serving();
    sim.delete("iris");
    sim.faults.fail_every = Some(1);
    sim.run(300.0);
    assert!(sim.log.len() < 12, "{:#?}", sim.log);
    sim.faults.fail_every = None;
    sim.run(400.0);
    assert!(sim.containers.is_empty());
}

#[test]
fn a_restart_of_the_daemon_is_invisible_to_models() {
    let mut sim = Sim::serving();
    for ledger in [Ledger::Kept, Ledger::Lost] {
        sim.restart_daemon(Orders::Dropped, ledger);
        sim.assert_quiet(1.0);
        assert_eq!(sim.backends("iris").len(), 1, "serving again within a second");
    }
    sim.assert_quiet(600.0);
}

#[test]
fn a_daemon_that_ends_while_it_creates_goes_on_where_it_was() {
    for orders in [Orders::Dropped, Orders::Done] {
        let mut sim = Sim::new();
        sim.apply(service("iris", vec![predicting("iris", "server:good1")]));
        while !sim.log.iter().any(|line| line.starts_with("create")) {
            sim.run(0.01);
        }
        sim.restart_daemon(orders, Ledger::Kept);
        sim.run(5.0);
        assert_eq!(sim.running(), [IRIS]);
        assert!(sim.status("iris").is_ready());
    }
}

#[test]
fn only_so_many_containers_are_started_at_once_and_stops_do_not_count() {
    let mut sim = Sim::new();
    sim.world.config.starts_at_once = 2;
    for index in 0..6 {
        let name = format!("s{index}");
        sim.apply(service(&name, vec![predicting(&name, "server:good1")]));
    }
    let starting = |world: &World| {
        let is_container = |key: &&crate::plan::ActionKey| matches!(key, crate::plan::ActionKey::Container(_));
        world.in_flight.iter().filter(is_container).count()
    };
    for _ in 0..200 {
        sim.run(0.01);
        assert!(starting(&sim.world) <= 2);
    }
    sim.run(5.0);
    assert_eq!(sim.running().len(), 6);
    // Four stops that take long, and a new service beside them.
    sim.faults.stop_takes = Duration::from_secs(30);
    for index in 0..4 {
        sim.delete(&format!("s{index}"));
    }
    sim.run(1.0);
    sim.apply(service("late", vec![predicting("late", "server:good1")]));
    sim.run(5.0);
    assert!(sim.status("late").is_ready());
}

#[test]
fn a_paused_container_is_left_alone_and_explained() {
    let mut sim = Sim::serving();
    sim.containers.get_mut(IRIS).unwrap().state = FactState::Paused;
    sim.assert_quiet(60.0);
    let (_, reason, message) = sim.condition("iris", "Ready");
    assert_eq!(reason, "ContainerPaused");
    assert_eq!(message, "someone paused the container; unpause it to serve");
}

#[test]
fn a_container_someone_removed_is_made_again() {
    let mut sim = Sim::serving();
    sim.containers.clear();
    sim.run(5.0);
    assert_eq!(sim.log, [format!("create {IRIS}")]);
    assert!(sim.status("iris").is_ready());
}

#[test]
fn a_container_on_its_way_out_is_waited_for() {
    let mut sim = Sim::serving();
    sim.containers.get_mut(IRIS).unwrap().state = FactState::Removing;
    sim.assert_quiet(5.0);
    assert_eq!(sim.backends("iris").len(), 0);
    sim.containers.remove(IRIS);
    sim.run(5.0);
    assert_eq!(sim.log, [format!("create {IRIS}")]);
}

#[test]
fn a_container_of_another_make_under_the_wanted_name_gives_way_first() {
    let mut sim = Sim::serving();
    sim.containers.get_mut(IRIS).unwrap().fingerprint = "of something else".to_owned();
    sim.world.containers.clone_from(&sim.containers);
    let order = plan(&sim.world, sim.now());
    assert!(order.actions.is_empty(), "{:#?}", order.actions);
    assert_eq!(order.draining.len(), 1);
    assert!(
        order.routes.services[&key("iris")]
            .components
            .values()
            .all(|component| { matches!(component.state, crate::plan::routes::RouteState::Held(_)) })
    );
}

#[test]
fn a_container_that_cannot_be_reached_is_not_ready() {
    let mut sim = Sim::serving();
    sim.world.containers.get_mut(IRIS).unwrap().reach = crate::plan::world::FactReach::None;
    let plan = plan(&sim.world, sim.now());
    let status = &plan.statuses[0].1;
    assert!(!status.is_ready());
    let message = &status.condition("PredictorReady").unwrap().message;
    assert!(message.ends_with("port 8080 of the container cannot be reached from here"), "{message}");
}

#[test]
fn the_same_end_seen_twice_counts_once_even_after_a_stale_list() {
    let mut memory = crate::plan::Memory::default();
    let exit = |second| ExitFact {
        code: 1,
        finished_at: Some(jiff::Timestamp::from_second(second).unwrap()),
        ..ExitFact::default()
    };
    memory.note_running("c", Now::at(0.0));
    assert!(memory.note_exit("c", &exit(5), Now::at(5.0)));
    assert!(!memory.note_exit("c", &exit(5), Now::at(5.1)));
    memory.note_restart("c");
    memory.note_running("c", Now::at(6.0));
    assert!(!memory.note_exit("c", &exit(5), Now::at(6.1)), "a list from before the restart");
    assert!(memory.containers["c"].started.is_some());
    assert!(memory.note_exit("c", &exit(7), Now::at(7.0)));
    let after = &memory.containers["c"];
    assert_eq!((after.failures, after.restarts), (2, 1));
}

#[test]
fn ends_without_a_time_are_told_apart_by_the_start_between_them() {
    let mut memory = crate::plan::Memory::default();
    let exit = ExitFact { code: 1, ..ExitFact::default() };
    assert!(memory.note_exit("c", &exit, Now::at(1.0)));
    assert!(!memory.note_exit("c", &exit, Now::at(2.0)));
    memory.note_restart("c");
    assert!(memory.note_exit("c", &exit, Now::at(3.0)), "it ended before anyone saw it run");
    assert!(!memory.note_exit("c", &exit, Now::at(4.0)));
    assert_eq!(memory.containers["c"].failures, 2);
    assert_eq!(memory.containers["c"].restarts, 1);
}

#[test]
fn a_check_of_the_run_before_says_nothing_of_this_one() {
    let mut sim = Sim::serving();
    sim.run(20.0);
    let (_, order) = sim.checks.last().unwrap().clone();
    sim.crash(IRIS);
    sim.run(0.5);
    let memory = &mut sim.world.memory;
    let now = Now::at(60.0);
    assert!(!memory.note_check(&order, Ok(()), now), "it was asked of the container before it crashed");
    assert!(!memory.probe(IRIS, ProbeKind::Model).is_some_and(|probe| probe.passing));
}

fn words(plan: &Plan) -> Vec<String> {
    plan.actions.iter().map(ToString::to_string).collect()
}

impl Plan {
    fn without_services(mut self) -> Self {
        self.routes.services.clear();
        self
    }
}

#[test]
#[ignore = "measures"]
fn how_long_a_pass_over_five_hundred_services_takes() {
    let mut sim = Sim::new();
    sim.world.config.starts_at_once = 500;
    for index in 0..500 {
        let name = format!("s{index}");
        sim.apply(service(&name, vec![predicting(&name, "server:good1")]));
    }
    sim.run(5.0);
    assert_eq!(sim.running().len(), 500);
    sim.passes = 0;
    sim.run(60.0);
    println!("{} passes a minute at rest", sim.passes);
    #[expect(clippy::disallowed_methods, reason = "it measures")]
    let began = std::time::Instant::now();
    for _ in 0..50 {
        assert_eq!(plan(&sim.world, sim.now()).statuses.len(), 500);
    }
    println!("{:?} a pass", began.elapsed() / 50);
    let mut memo = Memo::default();
    plan_anew(&sim.world, sim.now(), &mut memo);
    #[expect(clippy::disallowed_methods, reason = "it measures")]
    let began = std::time::Instant::now();
    for _ in 0..50 {
        assert_eq!(plan_anew(&sim.world, sim.now(), &mut memo).statuses.len(), 500);
    }
    println!("{:?} a pass in which nothing changed, {} planned anew", began.elapsed() / 50, memo.planned_anew());
}

#[test]
fn services_of_which_nothing_changed_are_not_planned_again() {
    let mut sim = Sim::new();
    for name in ["a", "b", "c", "d"] {
        sim.apply(service(name, vec![predicting(name, "server:good1")]));
    }
    sim.run(5.0);
    let anew = |sim: &mut Sim| {
        // What the last pass found out is news for one more.
        sim.pass();
        drop(plan_anew(&sim.world, sim.now(), &mut sim.memo));
        sim.memo.planned_anew()
    };
    assert_eq!(anew(&mut sim), 0, "everything answers");
    sim.apply(service("b", vec![predicting("b", "server:good2")]));
    sim.pass();
    assert_eq!(sim.memo.planned_anew(), 1, "one is edited");
    sim.run(3.0);
    assert_eq!(anew(&mut sim), 0, "it is as wanted again");
    sim.crash(IRIS.replace("iris", "c").as_str());
    sim.pass();
    assert_eq!(sim.memo.planned_anew(), 1, "one ends");
}
