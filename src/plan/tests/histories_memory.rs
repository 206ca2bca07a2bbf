//! Random histories on a machine with little memory: what runs never asks for more than there is (the machine in the box
//! checks that in every pass), whoever is asked stays, and once nothing happens any more everything is quiet.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::histories::{DOES_NOT_WAKE, Event, NAMES, Shape, Written, config, happen, histories, settle};
use super::sample::{component, key, service};
use super::sim::{Ledger, Orders, Sim};
use crate::api::ComponentKind;
use crate::plan::ledger::{Amount, Gpu, MachineMemory};

pub(super) fn play(budget: u64, holds_networks: bool, history: &[(f64, Event)]) {
    let mut sim = Sim::new();
    sim.world.holds_networks = holds_networks;
    sim.world.config.sandboxes.asleep = 1;
    sim.world.config.memory.budget = Some(Amount::Bytes(budget << 20));
    let total = (budget << 20) * 5 / 4;
    sim.world.machine.memory = Some(MachineMemory { total, available: Some(total) });
    sim.world.machine.gpus = Some(GPUS.map(gpu).into());
    let mut written = Written::default();
    // The driver tells lists that are older than what it did from newer ones; the box does not.
    for (pause, event) in history.iter().filter(|(_, event)| !matches!(event, Event::Stale(_))) {
        happen(&mut sim, &mut written, event);
        sim.run(*pause);
    }
    let last = written.last;
    settle(&mut sim);
    for (name, last) in NAMES.iter().zip(last) {
        assert_settled(&sim, name, last, budget);
    }
    if last.iter().flatten().all(|shape| shape.image != "server:crash" || shape.stopped) {
        sim.assert_still(30.0);
    }
    // What was learned of a service may have become more than there is.
    if !history.iter().any(|(_, event)| matches!(event, Event::Kill(_) | Event::Use(..))) {
        assert_takes_turns(&mut sim, &last, budget);
    }
}

/// What the machine has.
const GPUS: [&str; 2] = ["one", "two"];

fn gpus_in_use(sim: &Sim) -> usize {
    let taken = sim.containers.values().filter(|fact| fact.holds_memory()).flat_map(|fact| &fact.gpus);
    taken.collect::<BTreeSet<_>>().len()
}

fn gpu(uuid: &str) -> Gpu {
    Gpu { uuid: uuid.to_owned(), name: "box".to_owned(), total: 16 << 30, free: 16 << 30 }
}

/// What answers does, unless there is no room for it, and then that is said.
fn assert_settled(sim: &Sim, name: &str, last: Option<Shape>, budget: u64) {
    let own = sim.containers.values().filter(|fact| fact.component.service == key(name) && !fact.is_sandbox());
    let Some(shape) = last.filter(|shape| !shape.stopped) else {
        assert_eq!(own.count(), 0, "{name} is not wanted");
        return;
    };
    if shape.unresolvable || !(shape.image.contains("good") || shape.image.contains("slow")) {
        return;
    }
    if !sim.status(name).is_ready() {
        let parts = ["PredictorReady", "TransformerReady"];
        let parts = parts.into_iter().filter(|part| *part == "PredictorReady" || shape.has_transformer());
        let unready = parts.map(|part| sim.condition(name, part)).find(|(status, _, _)| status != "True");
        let (_, reason, message) = unready.expect("one of them is not ready");
        let no_room = ["InsufficientMemory", "InsufficientGPU", "WaitingForMemory", "RolledBack"];
        assert!(no_room.contains(&reason.as_str()), "{name}: {reason}: {message}");
        let is_told = message.contains("needs") || reason == "RolledBack" || shape.habits.gpu;
        assert!(is_told, "it says how much it needs: {message}");
        let is_free = message.contains("no GPU has room") && gpus_in_use(sim) < GPUS.len();
        assert!(!is_free, "{name}: there is one: {message}");
    }
    let never = shape.memory > budget;
    assert!(!never || !sim.status(name).is_ready() || shape.memory == 0, "{name} cannot fit");
}

/// Services that may sleep and fit are all answered, however little there is, as long as nobody else stays.
fn assert_takes_turns(sim: &mut Sim, last: &[Option<Shape>], budget: u64) {
    let sleeps = |shape: &Shape| {
        let fits = shape.sleeps() && shape.together() <= budget;
        fits && shape.image == "server:good1"
            && shape.canary.is_none()
            && shape.rest != DOES_NOT_WAKE
            && shape.named.is_none()
            && !shape.habits.gpu
            && !shape.stopped
            && !shape.unresolvable
    };
    if !last.iter().flatten().all(sleeps) {
        return;
    }
    let (answered, refused) = (sim.answered, sim.refused);
    let asked: Vec<&str> = NAMES.iter().zip(last).filter(|(_, last)| last.is_some()).map(|(name, _)| *name).collect();
    for name in &asked {
        sim.ask(name);
        sim.run(0.5);
    }
    sim.run(120.0);
    let count = u64::try_from(asked.len()).unwrap();
    assert_eq!((sim.answered - answered, sim.refused - refused), (count, 0), "of {asked:?}");
}

/// Services of one to three components, each of which fits alone, asked in any order: all are answered in the end.
fn take_turns(sizes: &[Vec<u64>], budget: u64, asks: &[(usize, f64)], restarts: &[usize]) {
    let mut sim = Sim::new();
    sim.world.holds_networks = true;
    sim.world.config.memory.budget = Some(Amount::Bytes(budget << 20));
    let names = &NAMES[..sizes.len()];
    for (name, sizes) in names.iter().zip(sizes) {
        let parts = ComponentKind::ALL.into_iter().zip(sizes).map(|(kind, mib)| {
            let mut part = component(name, kind, "server:good1");
            part.scaling.min = 0;
            part.containers[0].resources.memory_request = Some(mib << 20);
            part
        });
        sim.apply(service(name, parts.collect()));
        sim.run(60.0);
    }
    sim.run(300.0);
    let mut asked = 0;
    let answered = sim.answered;
    for (at, (index, pause)) in asks.iter().enumerate() {
        sim.ask(names[index % names.len()]);
        asked += 1;
        sim.run(*pause);
        if restarts.contains(&at) && sim.waiting.is_empty() {
            sim.restart_daemon(Orders::Late, Ledger::Kept);
        }
    }
    sim.run(900.0);
    assert_eq!((sim.answered - answered, sim.refused), (asked, 0), "{:#?}", sim.world.memory.queue);
}

proptest! {
    #![proptest_config(config(64))]
    #[test]
    fn services_of_several_components_never_wait_for_each_other_for_ever(
        sizes in prop::collection::vec(prop::collection::vec(100..600u64, 1..4), 2..4),
        spare in 0..700u64,
        asks in prop::collection::vec((0..3usize, prop_oneof![0.0..0.3f64, 0.3..20.0]), 1..12),
        restarts in prop::collection::vec(0..12usize, 0..3),
    ) {
        let largest = sizes.iter().map(|one| one.iter().sum::<u64>()).max().unwrap_or_default();
        take_turns(&sizes, largest + spare, &asks, &restarts);
    }
}

proptest! {
    #![proptest_config(config(48))]
    #[test]
    fn whatever_happens_no_more_runs_than_there_is_room_for(
        budget in 800..4000u64,
        sandboxes in any::<bool>(),
        history in histories(400..1600),
    ) {
        play(budget, sandboxes, &history);
    }
}

proptest! {
    #![proptest_config(config(3000))]
    #[test]
    #[ignore = "takes minutes"]
    fn whatever_happens_no_more_runs_than_there_is_room_for_however_long_one_looks(
        budget in 800..4000u64,
        sandboxes in any::<bool>(),
        history in histories(400..1600),
    ) {
        play(budget, sandboxes, &history);
    }
}
