//! Room: nothing starts that does not fit, the cheapest idle ones make room, nobody who is asked ever does.

use std::time::Duration;

use super::sample::{annotated, at_least, component, predicting, predictor, service};
use super::sim::{Ledger, Orders, Sim};
use crate::api::ComponentKind;
use crate::plan::admission::{NAMED, Verdict};
use crate::plan::gpus::GPU_SHARING;
use crate::plan::ledger::{Amount, Gpu, Machine, MachineMemory, Used};
use crate::plan::world::{DesiredService, ModelState};
use crate::workload::Workload;

const MIB: u64 = 1 << 20;

/// A predictor that asks for so much memory.
fn needing(name: &str, mib: u64, replicas: u32) -> Workload {
    let mut workload = Workload { scaling: at_least(replicas), ..predicting(name, "server:good1") };
    workload.containers[0].resources.memory_request = Some(mib * MIB);
    workload
}

fn sleeper(name: &str, mib: u64) -> DesiredService {
    service(name, vec![needing(name, mib, 0)])
}

/// A machine on which models may have so much.
fn with_budget(mib: u64) -> Sim {
    let mut sim = Sim::new();
    sim.world.config.memory.budget = Some(Amount::Bytes(mib * MIB));
    sim
}

/// Starts services one after another, so that each showed that it works, and lets the last stay.
fn with_sleepers(budget: u64, names: &[&str]) -> Sim {
    let mut sim = with_budget(budget);
    for name in names {
        sim.apply(sleeper(name, 1000));
        sim.run(10.0);
    }
    sim.log.clear();
    sim
}

fn awake(sim: &Sim) -> Vec<String> {
    let names = sim.running().into_iter();
    names.map(|name| name.trim_start_matches("kserve-local.test.").split('-').next().unwrap().to_owned()).collect()
}

fn explained(sim: &Sim, name: &str) -> (Verdict, String) {
    let explanation = &sim.world.memory.explanations[&super::sample::key(name)];
    (explanation.verdict, explanation.summary.clone())
}

#[test]
fn an_idle_service_makes_room_for_one_that_is_asked_and_wakes_again_when_it_is() {
    let mut sim = with_sleepers(2500, &["iris", "mnist", "wine"]);
    assert_eq!(awake(&sim), ["mnist", "wine"], "the third one put the first to sleep");
    sim.ask("iris");
    sim.run(5.0);
    assert_eq!((sim.answered, sim.refused), (1, 0));
    assert_eq!(awake(&sim), ["iris", "wine"], "who was idle longest went");
    assert!(sim.status("mnist").is_ready() && sim.is_held("mnist"), "asleep, and ready for it");
    let (verdict, why) = explained(&sim, "mnist");
    assert_eq!(verdict, Verdict::Evicted);
    assert!(why.contains("make room for default/iris, which needs 1000.0 MiB (declared)"), "{why}");
    let (verdict, why) = explained(&sim, "iris");
    assert_eq!(verdict, Verdict::Admitted);
    assert!(why.contains("1.4 GiB of 2.4 GiB is free"), "{why}");
}

#[test]
fn a_decision_names_those_who_hold_most_and_sums_up_the_others() {
    let mut sim = with_budget(100_000);
    for number in 0..60u64 {
        sim.apply(service(&format!("s{number}"), vec![needing(&format!("s{number}"), 100 + number, 1)]));
    }
    sim.run(200.0);
    sim.apply(service("last", vec![needing("last", 10, 1)]));
    sim.run(10.0);
    let explanation = &sim.world.memory.explanations[&super::sample::key("last")];
    assert_eq!(explanation.held.len(), NAMED);
    let (least, others) = (explanation.held.iter().map(|line| line.memory).min(), explanation.held_by_others);
    assert_eq!((least, others.replicas), (Some(135 * MIB), 35));
    let named: u64 = explanation.held.iter().map(|line| line.memory).sum();
    assert_eq!(named + others.memory, (0..60).map(|number| 100 + number).sum::<u64>() * MIB);
}

#[test]
fn whoever_is_asked_is_never_put_to_sleep_and_the_other_waits_until_it_is_idle() {
    let mut sim = with_sleepers(1500, &["iris"]);
    sim.apply(sleeper("wine", 1000));
    sim.lease("iris");
    sim.run(100.0);
    assert_eq!(awake(&sim), ["iris"]);
    let (status, reason, message) = sim.condition("wine", "PredictorReady");
    assert_eq!((status.as_str(), reason.as_str()), ("Unknown", "WaitingForMemory"));
    assert!(message.contains("needs 1000.0 MiB (declared); 500.0 MiB of 1.4 GiB is free"), "{message}");
    assert!(message.contains("it waits until default/iris is idle"), "{message}");
    sim.assert_still(30.0);
    sim.leases.clear();
    sim.run(5.0);
    assert_eq!(awake(&sim), ["wine"]);
}

#[test]
fn what_can_never_fit_is_refused_at_once_with_the_numbers_and_disturbs_nobody() {
    let mut sim = with_sleepers(2500, &["iris", "mnist"]);
    sim.apply(sleeper("wine", 9000));
    sim.run(1.0);
    sim.ask("wine");
    sim.run(0.5);
    assert_eq!((sim.answered, sim.refused), (0, 1), "who waits is told at once");
    let (status, reason, message) = sim.condition("wine", "PredictorReady");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "InsufficientMemory"));
    assert_eq!(
        message,
        "it needs 8.7 GiB (declared) and models may have 2.4 GiB together (memory.budget): it can never run here"
    );
    assert_eq!(awake(&sim), ["iris", "mnist"]);
    sim.assert_still(5.0);
}

#[test]
fn what_was_promised_and_given_is_not_made_free_a_second_time() {
    let mut sim = with_sleepers(3500, &["iris", "mnist", "x", "y", "z"]);
    assert_eq!(awake(&sim), ["x", "y", "z"]);
    sim.ask("iris");
    sim.ask("mnist");
    sim.run(10.0);
    assert_eq!(sim.answered, 2);
    assert_eq!(awake(&sim), ["iris", "mnist", "z"], "two came, two went");
}

#[test]
fn room_that_is_free_and_promised_is_told_as_such() {
    let mut sim = with_sleepers(2500, &["iris", "mnist", "wine", "zinc"]);
    sim.lease("zinc");
    sim.ask("iris");
    sim.run(0.2);
    sim.ask("mnist");
    sim.run(0.05);
    let (_, _, message) = sim.condition("mnist", "PredictorReady");
    assert!(
        message.contains("500.0 MiB of 2.4 GiB is free, 1000.0 MiB of it promised to those who came first"),
        "{message}"
    );
}

#[test]
fn a_refusal_names_what_lacks_gpus_before_memory() {
    let gpus = |mib: u64| {
        let mut workload = needing("iris", mib, 0);
        workload.containers[0].resources.gpus.insert("nvidia.com/gpu".to_owned(), 2);
        workload
    };
    let mut sim = with_budget(1500);
    sim.world.machine = Machine { gpus: Some(Vec::new()), ..sim.world.machine.clone() };
    sim.apply(service("iris", vec![gpus(2000)]));
    sim.run(1.0);
    let (_, reason, message) = sim.condition("iris", "PredictorReady");
    assert_eq!(reason, "InsufficientGPU");
    assert!(message.contains("it asks for 2 GPUs and this machine has none"), "{message}");
    // Where the engine knows its GPUs and we do not, memory is what can be counted.
    sim.world.machine.gpus = None;
    sim.apply(service("iris", vec![gpus(2001)]));
    sim.run(1.0);
    assert_eq!(sim.condition("iris", "PredictorReady").1, "InsufficientMemory");
}

#[test]
fn services_that_may_not_sleep_stay_and_are_named_as_the_reason() {
    let mut sim = with_budget(1500);
    sim.apply(service("iris", vec![needing("iris", 1000, 1)]));
    sim.run(5.0);
    sim.apply(sleeper("wine", 1000));
    sim.run(5.0);
    assert_eq!(awake(&sim), ["iris"]);
    let (status, reason, message) = sim.condition("wine", "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "InsufficientMemory"));
    assert!(message.contains("default/iris holds it and may not sleep"), "{message}");
    sim.assert_still(60.0);
    sim.delete("iris");
    sim.run(5.0);
    assert_eq!(awake(&sim), ["wine"], "it is tried again when something changes");
}

#[test]
fn requests_for_several_models_do_not_chase_each_other_out() {
    let mut sim = with_budget(1500);
    sim.world.config.memory.min_residency = Some(Duration::from_secs(10));
    for name in ["iris", "mnist", "wine"] {
        sim.apply(sleeper(name, 1000));
        sim.run(30.0);
    }
    sim.run(200.0);
    assert_eq!(awake(&sim), [] as [&str; 0]);
    sim.log.clear();
    for name in ["iris", "mnist", "iris", "iris", "wine", "iris"] {
        sim.ask(name);
        sim.run(2.0);
    }
    sim.run(60.0);
    assert_eq!((sim.answered, sim.refused), (6, 0));
    let loads = sim.log.iter().filter(|line| line.starts_with("create")).count();
    assert_eq!(loads, 3, "one load for each, although iris was asked four times: {:#?}", sim.log);
}

#[test]
fn who_came_first_is_served_first_although_a_smaller_one_would_fit_sooner() {
    let mut sim = with_budget(2500);
    for (name, mib) in [("iris", 1000), ("mnist", 1000), ("wine", 2000), ("zoo", 400)] {
        sim.apply(sleeper(name, mib));
        sim.run(10.0);
    }
    sim.run(200.0);
    sim.lease("iris");
    sim.ask("iris");
    sim.ask("mnist");
    sim.run(4.0);
    sim.ask("wine");
    sim.run(0.01);
    sim.ask("zoo");
    sim.run(40.0);
    assert_eq!(sim.refused, 0);
    assert_eq!(sim.answered, 4);
}

#[test]
fn priority_decides_who_goes() {
    let mut sim = with_budget(2500);
    sim.apply(annotated(sleeper("iris", 1000), "kserve-local/priority", "10"));
    sim.run(10.0);
    sim.apply(sleeper("mnist", 1000));
    sim.run(10.0);
    sim.apply(sleeper("wine", 1000));
    sim.run(10.0);
    assert_eq!(awake(&sim), ["iris", "wine"], "iris was idle longer, and is worth more");
}

#[test]
fn what_other_programs_use_counts_and_when_they_grow_the_idle_make_room() {
    let mut sim = Sim::new();
    let memory = |available| MachineMemory { total: 4000 * MIB, available: Some(available * MIB) };
    sim.world.config.memory.reserve = Amount::Bytes(500 * MIB);
    sim.world.machine = Machine { memory: Some(memory(4000)), ..Machine::default() };
    sim.apply(sleeper("iris", 1000));
    sim.run(10.0);
    sim.apply(sleeper("wine", 1000));
    sim.run(10.0);
    assert_eq!(awake(&sim), ["iris", "wine"]);
    // Somebody opens a browser: 2200 MiB are used that are not ours.
    sim.world.machine.memory = Some(memory(1800));
    sim.run(2.0);
    assert_eq!(awake(&sim), ["wine"]);
    let (verdict, why) = explained(&sim, "iris");
    assert_eq!(verdict, Verdict::Evicted);
    assert!(why.contains("models hold 1.9 GiB and may hold 1.2 GiB"), "{why}");
    sim.ask("iris");
    sim.run(20.0);
    assert_eq!((sim.answered, awake(&sim)), (1, vec!["iris".to_owned()]), "and it takes turns");
}

#[test]
fn footprints_are_estimated_from_the_files_then_measured_and_remembered() {
    let mut sim = with_budget(3000);
    let plain = |name: &str| service(name, vec![Workload { scaling: at_least(0), ..predicting(name, "server:good1") }]);
    for name in ["iris", "wine"] {
        let model = super::sample::model(name);
        sim.world.models.insert(model.uri, ModelState::Present { size: 1000 * MIB });
    }
    sim.apply(plain("iris"));
    sim.run(5.0);
    assert_eq!(
        sim.world.memory.explanations[&super::sample::key("iris")].needs,
        (1200 + 512) * MIB,
        "1.2 × files + 512 MiB"
    );
    sim.apply(plain("wine"));
    sim.run(5.0);
    assert_eq!(awake(&sim), ["wine"], "two estimates do not fit together");
    let used = Used { memory: 300 * MIB, peak: 400 * MIB, ..Used::default() };
    sim.use_memory(&used);
    sim.ask("iris");
    sim.run(10.0);
    assert_eq!(awake(&sim), ["iris", "wine"], "wine was measured and takes less than was thought");
    sim.use_memory(&used);
    sim.restart_daemon(Orders::Dropped, Ledger::Kept);
    let notes = &sim.world.memory.revisions[&predictor("iris")].known;
    assert_eq!(notes[&1].learned.peak, 400 * MIB, "and that is not forgotten");
}

#[test]
fn a_kill_for_memory_is_remembered_and_the_next_start_is_given_more() {
    let mut sim = with_budget(1300);
    let mut workload = needing("iris", 1000, 1);
    workload.containers[0].image = "server:oom".to_owned();
    sim.apply(service("iris", vec![workload]));
    sim.run(1.0);
    let learned = |sim: &Sim| sim.world.memory.revisions[&predictor("iris")].known[&1].learned.after_kill;
    assert_eq!(learned(&sim), 1250 * MIB);
    sim.run(60.0);
    let (_, reason, message) = sim.condition("iris", "PredictorReady");
    assert_eq!(reason, "InsufficientMemory");
    assert!(message.contains("needs 1.5 GiB (killed with less) and models may have 1.2 GiB"), "{message}");
}

#[test]
fn nothing_starts_before_the_machine_was_looked_at() {
    let mut sim = Sim::new();
    sim.world.machine.pending = true;
    sim.apply(sleeper("iris", 1000));
    sim.run(5.0);
    assert_eq!(awake(&sim), [] as [&str; 0]);
    sim.world.machine.pending = false;
    sim.run(5.0);
    assert_eq!(awake(&sim), ["iris"]);
}

/// A service of a predictor and a transformer that ask for so much each.
fn pair(name: &str, mib: [u64; 2], replicas: u32) -> DesiredService {
    let mut transformer = component(name, ComponentKind::Transformer, "transformer:good1");
    transformer.scaling = at_least(replicas);
    transformer.containers[0].resources.memory_request = Some(mib[1] * MIB);
    service(name, vec![needing(name, mib[0], replicas), transformer])
}

#[test]
fn a_service_is_begun_only_when_all_of_it_fits_so_that_two_do_not_wait_for_each_other() {
    let mut sim = with_budget(2000);
    for name in ["iris", "wine"] {
        sim.apply(pair(name, [600, 600], 0));
        sim.run(10.0);
    }
    // Both are asked at once; there is room for one and a half.
    for _ in 0..4 {
        let (answered, refused) = (sim.answered, sim.refused);
        sim.run(200.0);
        sim.ask("iris");
        sim.ask("wine");
        sim.run(120.0);
        assert_eq!((sim.answered - answered, sim.refused - refused), (2, 0), "{:#?}", sim.world.memory.queue);
    }
}

#[test]
fn a_service_whose_components_do_not_fit_together_is_refused_with_both_numbers() {
    let mut sim = with_budget(1000);
    sim.world.holds_networks = true;
    sim.apply(pair("iris", [600, 600], 1));
    sim.run(30.0);
    assert_eq!(sim.containers.len(), 0, "nothing is placed by halves, no network either: {:#?}", sim.log);
    let (_, reason, message) = sim.condition("iris", "PredictorReady");
    assert_eq!(reason, "InsufficientMemory");
    assert!(
        message.starts_with("it needs 600.0 MiB (declared) and, with the other components of its service, 1.1 GiB"),
        "{message}"
    );
    sim.assert_still(60.0);
}

#[test]
fn what_is_refused_for_room_has_no_network_held_for_it() {
    let mut sim = with_budget(1000);
    sim.world.holds_networks = true;
    sim.apply(service("iris", vec![needing("iris", 900, 1)]));
    sim.run(5.0);
    sim.apply(sleeper("wine", 500));
    sim.apply(sleeper("huge", 5000));
    sim.run(30.0);
    assert_eq!(sim.condition("wine", "PredictorReady").1, "InsufficientMemory");
    assert_eq!(sim.condition("huge", "PredictorReady").1, "InsufficientMemory");
    let sandboxes: Vec<_> = sim.containers.values().filter(|fact| fact.is_sandbox()).collect();
    assert_eq!(sandboxes.len(), 0, "{sandboxes:#?}");
    sim.assert_still(60.0);
    sim.delete("iris");
    sim.run(5.0);
    assert_eq!(awake(&sim), ["wine", "wine"], "with a network of its own");
}

#[test]
fn room_that_was_granted_stays_granted_when_the_daemon_ends_before_it_is_used() {
    let mut sim = with_budget(1000);
    sim.apply(service("iris", vec![needing("iris", 600, 1)]));
    // Until it is ordered and not yet done.
    while !sim.log.iter().any(|line| line.starts_with("create")) {
        sim.run(0.01);
    }
    sim.apply(service("also", vec![needing("also", 600, 1)]));
    sim.restart_daemon(Orders::Late, Ledger::Kept);
    // The machine in the box checks the budget in every pass.
    sim.run(30.0);
    assert_eq!(awake(&sim), ["iris"]);
    assert_eq!(sim.condition("also", "PredictorReady").1, "InsufficientMemory");
}

#[test]
fn what_an_unknown_revision_holds_is_on_its_label() {
    let mut sim = with_budget(1000);
    sim.apply(service("iris", vec![needing("iris", 600, 1)]));
    sim.run(5.0);
    let mut broken = needing("iris", 300, 1);
    broken.containers[0].image = "server:never".to_owned();
    sim.made_from.clear();
    sim.apply(service("iris", vec![broken]));
    sim.restart_daemon(Orders::Dropped, Ledger::Lost);
    sim.run(5.0);
    let rows = sim.room().rows;
    let row = rows.iter().find(|row| row.revision.ends_with("00001")).unwrap();
    assert_eq!(row.memory, 600 * MIB);
}

/// A service that wants a GPU for itself.
fn on_a_gpu(name: &str, mib: u64) -> DesiredService {
    let mut workload = needing(name, mib, 1);
    workload.containers[0].resources.gpus.insert("nvidia.com/gpu".to_owned(), 1);
    workload.annotations.insert(GPU_SHARING.to_owned(), "exclusive".to_owned());
    service(name, vec![workload])
}

fn with_gpus(uuids: &[&str]) -> Sim {
    let mut sim = with_budget(4000);
    let gpu = |uuid: &&str| Gpu { uuid: (*uuid).to_owned(), name: "A10".to_owned(), total: 24 << 30, free: 24 << 30 };
    sim.world.machine.gpus = Some(uuids.iter().map(gpu).collect());
    sim
}

#[test]
fn what_lost_its_gpu_while_it_was_down_is_made_anew_with_another() {
    let mut sim = with_gpus(&["one", "two"]);
    for name in ["wine", "mnist", "iris"] {
        sim.apply(on_a_gpu(name, 100));
        sim.run(10.0);
    }
    assert_eq!(awake(&sim), ["mnist", "wine"]);
    sim.kill_for_memory("kserve-local.test.wine-predictor-00001-0.default");
    sim.run(10.0);
    assert_eq!(awake(&sim), ["iris", "mnist"], "what is killed for memory gives its room back");
    sim.delete("mnist");
    sim.run(60.0);
    assert_eq!(awake(&sim), ["iris", "wine"]);
}

#[test]
fn a_service_on_a_gpu_that_lacks_memory_says_that_it_lacks_memory() {
    let mut sim = with_gpus(&["one"]);
    sim.apply(on_a_gpu("iris", 5000));
    sim.run(10.0);
    assert_eq!(sim.condition("iris", "PredictorReady").1, "InsufficientMemory");
    sim.apply(on_a_gpu("iris", 1000));
    sim.apply(on_a_gpu("mnist", 1000));
    sim.run(60.0);
    assert_eq!(sim.condition("mnist", "PredictorReady").1, "InsufficientGPU");
}
