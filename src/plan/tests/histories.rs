//! Random histories: whatever happens, once it stops happening everything ends where it should, and stays there.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed};

use super::sample::{annotated, at_least, container, fingerprint, key, predicting, predictor, service, unresolvable};
use super::sim::{Ledger, Orders, Sim};
use crate::api::{ComponentKind, meta};
use crate::plan::rollout::replace::ROLLOUT;
use crate::plan::world::{ContainerFact, DesiredCanary, DesiredService, FactState, ResolvedWorkload};
use crate::scale::{Hooks, Metric, Target, Way};
use crate::workload::{Workload, names};

pub(super) const NAMES: [&str; 3] = ["iris", "mnist", "wine"];

#[derive(Clone, Debug)]
pub(super) enum Event {
    Apply(usize, Shape),
    Delete(usize),
    Crash(usize),
    Sicken(usize),
    Heal,
    Lease(usize, u64),
    Queue(usize, u64),
    Return(usize),
    Ask(usize),
    EngineDown,
    EngineUp,
    FailEvery(u64),
    LoseEvery(u64),
    Stale(usize),
    RestartDaemon {
        orders: Orders,
        lost: bool,
    },
    Jump(i64),
    Vanish(usize),
    /// Part of what is written of a service changes.
    Edit(usize, Edit),
    /// Somebody pauses a container.
    Pause(usize),
    /// Somebody removes a container, running or not.
    Remove(usize),
    /// The engine ends with everything it runs, and is there again.
    RestartEngine,
    /// Whether models and images can be fetched.
    Fetch(bool),
}

/// A change to what is written already.
#[derive(Clone, Copy, Debug)]
pub(super) enum Edit {
    Image(&'static str),
    Canary(Option<u32>),
    Stop(bool),
    Pin(bool),
    /// What was written before is written again.
    Undo,
}

/// What was written of each service last, and before that.
#[derive(Default)]
pub(super) struct Written {
    pub(super) last: [Option<Shape>; NAMES.len()],
    before: [Option<Shape>; NAMES.len()],
}

impl Written {
    /// Writes what an event writes.
    fn follow(&mut self, sim: &mut Sim, event: &Event) {
        let (index, shape) = match event {
            Event::Apply(index, shape) => (*index, Some(*shape)),
            Event::Delete(index) => (*index, None),
            Event::Edit(index, edit) => {
                let Some(last) = self.last[*index] else { return };
                let shape = match *edit {
                    Edit::Image(image) => Shape { image, ..last },
                    Edit::Canary(canary) => Shape { canary, ..last },
                    Edit::Stop(stopped) => Shape { stopped, ..last },
                    Edit::Pin(pinned) => Shape { pinned, ..last },
                    Edit::Undo => self.before[*index].unwrap_or(last),
                };
                (*index, Some(shape))
            }
            _ => return,
        };
        self.before[index] = std::mem::replace(&mut self.last[index], shape);
        match shape {
            Some(shape) => sim.apply(shape.service(NAMES[index])),
            None => sim.delete(NAMES[index]),
        }
    }
}

/// A way to rest whose server cannot be woken.
pub(super) const DOES_NOT_WAKE: u8 = 3;

/// What is wanted of a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) image: &'static str,
    pub(super) replicas: u32,
    /// Most replicas beyond the fewest, where load may add some.
    pub(super) more: Option<u32>,
    pub(super) canary: Option<u32>,
    pub(super) sidecar: bool,
    pub(super) init: bool,
    pub(super) liveness: bool,
    pub(super) stopped: bool,
    pub(super) unresolvable: bool,
    pub(super) rest: u8,
    /// What it asks for, in MiB; nothing when 0.
    pub(super) memory: u64,
    /// A named canary: its percent, and whether it ever answers.
    pub(super) named: Option<(u32, bool)>,
    /// Whether it never sleeps although it may have no replica.
    pub(super) pinned: bool,
    /// How a new revision takes over: what the annotation says, if it is there.
    pub(super) rollout: Option<&'static str>,
}

impl Shape {
    pub(super) fn workload(self, name: &str) -> Workload {
        let mut workload = predicting(name, self.image);
        workload.scaling.min = self.replicas;
        workload.scaling.max = self.more.map(|more| self.replicas.max(1) + more);
        workload.scaling.target = Some(Target { metric: Metric::Concurrency, per_replica: 2.0 });
        workload.scaling.resting.way = self.way();
        workload.scaling.resting.pinned = self.pinned;
        workload.annotations.extend(self.rollout.map(|way| (ROLLOUT.to_owned(), way.to_owned())));
        workload.canary_percent = self.canary;
        workload.containers[0].resources.memory_request = (self.memory > 0).then_some(self.memory << 20);
        if self.liveness {
            workload.containers[0].probes.liveness = Some(super::sample::probe("/live", 5, 2));
        }
        if self.sidecar {
            workload.containers.push(container("agent", "agent:good1"));
        }
        if self.init {
            workload.init_containers.push(container("prepare", "prepare:init"));
        }
        workload
    }

    fn way(self) -> Way {
        let hooks = |sleep: &str| Hooks { sleep: sleep.to_owned(), ..Hooks::default() };
        match self.rest {
            0 => Way::Pause,
            1 => Way::Hook(hooks("/sleep")),
            2 => Way::Hook(hooks("/absent")),
            DOES_NOT_WAKE => Way::Hook(Hooks { wake: "/broken".to_owned(), ..hooks("/sleep") }),
            _ => Way::Stop,
        }
    }

    /// Whether it may have no replica.
    pub(super) fn sleeps(self) -> bool {
        self.replicas == 0 && !self.pinned
    }

    fn service(self, name: &str) -> DesiredService {
        let service = match self.unresolvable {
            true => unresolvable(name),
            false => service(name, vec![self.workload(name)]),
        };
        let canaries = self.named.iter().map(|(percent, answers)| self.canary(name, *percent, *answers)).collect();
        let service = DesiredService { canaries, ..service };
        if self.stopped { annotated(service, meta::STOP, "true") } else { service }
    }

    /// A named canary; what never answers would keep a service awake that may sleep.
    fn canary(self, name: &str, percent: u32, answers: bool) -> DesiredCanary {
        let image = if answers || self.sleeps() { "canary:good1" } else { "canary:never" };
        let mut workload = predicting(name, image);
        workload.containers[0].resources.memory_request = (self.memory > 0).then_some(self.memory << 20);
        let workload = Workload {
            service_name: names::component_service_name(name, ComponentKind::Predictor, Some("green")),
            canary: Some("green".to_owned()),
            scaling: at_least(1),
            ..workload
        };
        let resolved = ResolvedWorkload { fingerprint: fingerprint(&workload), workload: Arc::new(workload) };
        DesiredCanary { name: "green".to_owned(), percent, resolution: Ok(resolved) }
    }
}

fn image() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        5 => Just("server:good1"),
        3 => Just("server:good2"),
        1 => Just("server:slow"),
        1 => Just("server:never"),
        1 => Just("server:crash"),
    ]
}

fn canary() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![6 => Just(None), 3 => (0..=100u32).prop_map(Some)]
}

fn shape(memory: std::ops::Range<u64>) -> impl Strategy<Value = Shape> {
    let rare = || prop::bool::weighted(0.15);
    let more = prop_oneof![1 => Just(None), 1 => (1..4u32).prop_map(Some)];
    let named = prop_oneof![3 => Just(None), 1 => (0..=100u32, prop::bool::weighted(0.7)).prop_map(Some)];
    let rollout = prop_oneof![6 => Just(None), 1 => Just(Some("replace")), 1 => Just(Some("beside"))];
    let unresolvable = prop::bool::weighted(0.1);
    let seldom = (rare(), rare(), rare(), unresolvable, rare(), rollout);
    (image(), (0..3u32, more, canary(), memory, named), (rare(), 0..7u8), seldom).prop_map(
        |(
            image,
            (replicas, more, canary, memory, named),
            (sidecar, rest),
            (init, liveness, stopped, unresolvable, pinned, rollout),
        )| Shape {
            image,
            replicas,
            more,
            canary,
            sidecar,
            init,
            liveness,
            stopped,
            unresolvable,
            memory,
            rest,
            named,
            pinned,
            rollout,
        },
    )
}

fn orders() -> impl Strategy<Value = Orders> {
    prop_oneof![Just(Orders::Dropped), Just(Orders::Done), Just(Orders::Late)]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        2 => image().prop_map(Edit::Image),
        3 => canary().prop_map(Edit::Canary),
        1 => any::<bool>().prop_map(Edit::Stop),
        1 => any::<bool>().prop_map(Edit::Pin),
        2 => Just(Edit::Undo),
    ]
}

fn event(memory: std::ops::Range<u64>) -> impl Strategy<Value = Event> {
    let one = || 0..NAMES.len();
    prop_oneof![
        6 => (one(), shape(memory)).prop_map(|(index, shape)| Event::Apply(index, shape)),
        2 => one().prop_map(Event::Delete),
        3 => (0..8usize).prop_map(Event::Crash),
        2 => (0..8usize).prop_map(Event::Sicken),
        1 => Just(Event::Heal),
        3 => (one(), 1..12u64).prop_map(|(index, count)| Event::Lease(index, count)),
        1 => (one(), 0..12u64).prop_map(|(index, count)| Event::Queue(index, count)),
        2 => (0..8usize).prop_map(Event::Return),
        3 => one().prop_map(Event::Ask),
        1 => Just(Event::EngineDown),
        2 => Just(Event::EngineUp),
        1 => (2..5u64).prop_map(Event::FailEvery),
        1 => (2..5u64).prop_map(Event::LoseEvery),
        1 => (1..4usize).prop_map(Event::Stale),
        1 => (orders(), prop::bool::weighted(0.2)).prop_map(|(orders, lost)| Event::RestartDaemon { orders, lost }),
        1 => (-90_000..90_000i64).prop_map(Event::Jump),
        1 => (0..8usize).prop_map(Event::Vanish),
        4 => (one(), edit()).prop_map(|(index, edit)| Event::Edit(index, edit)),
        1 => (0..8usize).prop_map(Event::Pause),
        2 => (0..8usize).prop_map(Event::Remove),
        1 => Just(Event::RestartEngine),
        1 => any::<bool>().prop_map(Event::Fetch),
    ]
}

pub(super) fn happen(sim: &mut Sim, written: &mut Written, event: &Event) {
    let nth = |names: Vec<String>, index: usize| {
        let count = names.len();
        names.into_iter().nth(index % count.max(1))
    };
    match event {
        Event::Apply(..) | Event::Delete(_) | Event::Edit(..) => written.follow(sim, event),
        Event::Crash(index) => nth(sim.running(), *index).into_iter().for_each(|name| sim.crash(&name)),
        Event::Sicken(index) => sim.sick.extend(nth(sim.running(), *index)),
        Event::Heal => sim.sick.clear(),
        Event::Lease(index, count) => (0..*count).for_each(|_| sim.lease(NAMES[*index])),
        Event::Queue(index, count) => drop(sim.queued.insert(NAMES[*index].to_owned(), *count)),
        Event::Return(index) => {
            let name = nth(sim.leases.keys().cloned().collect(), *index);
            if let Some(name) = name {
                sim.leases.remove(&name);
            }
        }
        Event::Ask(index) => sim.ask(NAMES[*index]),
        Event::EngineDown => sim.faults.engine_down = true,
        Event::EngineUp => sim.faults.engine_down = false,
        Event::FailEvery(n) => sim.faults.fail_every = Some(*n),
        Event::LoseEvery(n) => sim.faults.lose_every = Some(*n),
        Event::Stale(passes) => sim.faults.stale = *passes,
        Event::RestartDaemon { orders, lost } => {
            sim.restart_daemon(*orders, if *lost { Ledger::Lost } else { Ledger::Kept });
        }
        Event::Jump(seconds) => sim.jump(*seconds),
        Event::Vanish(index) => {
            let names = sim.containers.values().filter(|fact| matches!(fact.state, FactState::Exited(_)));
            let name = nth(names.map(|fact| fact.name.clone()).collect(), *index);
            name.into_iter().for_each(|name| sim.remove(&name));
        }
        Event::Pause(index) => nth(sim.running(), *index).into_iter().for_each(|name| sim.pause(&name)),
        Event::Remove(index) => {
            nth(sim.containers.keys().cloned().collect(), *index).into_iter().for_each(|name| sim.remove(&name));
        }
        Event::RestartEngine => sim.restart_engine(),
        Event::Fetch(true) => fetch(sim),
        Event::Fetch(false) => {
            sim.faults.lost_models.extend(NAMES.map(str::to_owned));
            sim.faults.lost_images.extend(["server:good2", "server:slow", "agent:good1"].map(str::to_owned));
        }
    }
}

/// Models and images can be fetched again.
fn fetch(sim: &mut Sim) {
    sim.faults.lost_models.clear();
    sim.faults.lost_images.clear();
}

/// Ends every fault and waits long enough for every back-off and drain.
pub(super) fn settle(sim: &mut Sim) {
    sim.faults.engine_down = false;
    sim.faults.fail_every = None;
    sim.faults.lose_every = None;
    sim.faults.stale = 0;
    sim.sick.clear();
    sim.leases.clear();
    sim.queued.clear();
    sim.resume_paused();
    fetch(sim);
    sim.run(1000.0);
}

/// What a service must end as.
fn assert_settled(sim: &Sim, name: &str, last: Option<Shape>) {
    let Some(shape) = last else {
        assert!(!sim.containers.values().any(|fact| fact.component.service == key(name)), "{name} was deleted");
        assert!(!sim.plan.routes.services.contains_key(&key(name)));
        return;
    };
    let own = || sim.containers.values().filter(|fact| fact.component.service == key(name));
    // What rests is looked at when it is woken.
    let needs_none = |fact: &ContainerFact| !fact.is_running() || sim.resting.contains(&fact.id);
    assert!(own().all(|fact| needs_none(fact) || sim.has_network(fact)), "{name} is cut off");
    if shape.stopped {
        assert_eq!(own().count(), 0, "{name} is stopped");
    }
    for sandbox in own().filter(|fact| fact.is_sandbox()) {
        let is_lived_in = own().any(|fact| fact.replica == sandbox.replica && !fact.is_sandbox());
        assert!(is_lived_in || shape.sleeps(), "{} holds a network for nobody", sandbox.name);
    }
    let own: Vec<_> = own().filter(|fact| !fact.is_sandbox()).collect();
    let (canaries, own): (Vec<_>, Vec<_>) = own.into_iter().partition(|fact| fact.record.canary.is_some());
    assert_canaries(sim, name, shape, &canaries);
    if shape.stopped {
        assert!(own.is_empty(), "{name} is stopped");
        return;
    }
    if shape.unresolvable {
        assert!(!sim.status(name).is_ready());
        return;
    }
    if let Some(back) = came_back(sim, name) {
        assert_eq!(sim.condition(name, "PredictorReady").1, "RolledBack");
        assert!(own.iter().all(|fact| fact.revision == back), "{name}: only {back} is there: {own:#?}");
        return;
    }
    let workload = shape.workload(name);
    let wanted = fingerprint(&workload).0;
    let answers = shape.image.contains("good") || shape.image.contains("slow");
    if answers && shape.sleeps() {
        let rests = |fact: &ContainerFact| match shape.rest {
            0 => fact.state == FactState::Paused || fact.container == "prepare",
            1 | DOES_NOT_WAKE => sim.resting.contains(&fact.id) || fact.container != "kserve-container",
            _ => false,
        };
        assert!(own.iter().all(|fact| rests(fact)), "{name} was not asked for and still runs: {own:#?}");
        assert!(sim.is_held(name) && sim.status(name).is_ready());
    } else if answers {
        let history = &sim.world.memory.revisions[&predictor(name)];
        let revision = history.target;
        let canary_answers = shape.named.is_some_and(|(_, answers)| answers);
        assert!(!canary_answers || canaries.iter().any(|fact| fact.is_running()), "{name}: {canaries:#?}");
        // What answers of a canary stands in for one of it.
        let replicas = shape.replicas.max(1);
        let replicas = if canary_answers { (replicas - 1).max(1) } else { replicas };
        // Beside it, at most the one that keeps a share.
        let stable = crate::plan::split::split(history, &workload).map(|split| split.stable);
        assert!(own.iter().all(|fact| fact.revision == revision || Some(fact.revision) == stable), "{own:#?}");
        let own: Vec<_> = own.into_iter().filter(|fact| fact.revision == revision).collect();
        let mut expected = BTreeSet::new();
        for ordinal in 0..replicas {
            let replica = names::replica_name("default", &workload.service_name, revision, ordinal);
            for spec in &workload.containers {
                expected.insert(names::container_name("test", &replica, &spec.name));
            }
        }
        let there: BTreeSet<_> =
            own.iter().filter(|fact| fact.container != "prepare").map(|fact| fact.name.clone()).collect();
        assert_eq!(there, expected);
        assert!(own.iter().all(|fact| fact.fingerprint == wanted));
        assert!(own.iter().all(|fact| fact.is_running() || fact.container == "prepare"));
        if stable.is_none() && shape.named.is_none() {
            assert_eq!(sim.backends(name).len(), usize::try_from(replicas).unwrap());
        }
        assert!(sim.status(name).is_ready());
    } else {
        // What never answers is kept trying, beside at most one older revision that does; of a canary, beside the stable
        // one and the canary before.
        let revisions: BTreeSet<_> = own.iter().map(|fact| fact.revision).collect();
        let most = if shape.canary.is_some_and(|percent| percent < 100) { 3 } else { 2 };
        assert!(revisions.len() <= most, "{revisions:?}");
        assert!(!sim.status(name).is_ready());
        for backend in sim.backends(name) {
            let mut all = own.iter().chain(&canaries);
            assert!(all.any(|fact| *fact.replica == *backend && fact.fingerprint != wanted), "{backend}");
        }
    }
}

/// The revision that is back because the one that took its place failed and was given up.
fn came_back(sim: &Sim, name: &str) -> Option<u32> {
    let history = sim.world.memory.revisions.get(&predictor(name))?;
    history.given_up.as_ref().filter(|given_up| given_up.revision == history.target)?;
    history.rolled_out
}

/// Of a canary there is what is wanted and, as long as that does not answer, the one before, which must.
fn assert_canaries(sim: &Sim, name: &str, shape: Shape, canaries: &[&ContainerFact]) {
    let wanted = shape.named.map(|(percent, answers)| shape.canary(name, percent, answers));
    let wanted = wanted.and_then(|canary| canary.resolution.ok());
    let is_wanted = |fact: &&&ContainerFact| wanted.as_ref().is_some_and(|one| one.fingerprint.0 == fact.fingerprint);
    let (new, old): (Vec<_>, Vec<_>) = canaries.iter().partition(is_wanted);
    assert!(new.len() <= 1 && old.len() <= 1, "{name} has more canaries than it should: {canaries:#?}");
    let never = wanted.is_some_and(|one| one.workload.containers[0].image == "canary:never");
    let stands_in = |fact: &&ContainerFact| never && fact.is_running() && fact.image == "canary:good1";
    assert!(old.iter().all(stands_in) && sim.sick.is_empty(), "{name} has no such canary: {old:#?}");
}

/// Whatever sleeps answers when it is asked.
fn assert_wakes(sim: &mut Sim, last: &[Option<Shape>]) {
    let awaited: Vec<&str> = NAMES.into_iter().filter(|name| sim.is_held(name)).collect();
    let sleepers = NAMES.iter().zip(last).filter(|(_, last)| {
        last.is_some_and(|shape| shape.sleeps() && !shape.stopped && !shape.unresolvable)
            && last.is_some_and(|shape| shape.image.contains("good") || shape.image.contains("slow"))
    });
    for (name, last) in sleepers {
        assert!(awaited.contains(name), "{name} is held");
        if last.is_some_and(|shape| shape.rest == DOES_NOT_WAKE) {
            // Whoever finds that out may be refused; the server is started anew for the next.
            sim.ask(name);
            sim.run(45.0);
        }
        let (answered, refused) = (sim.answered, sim.refused);
        sim.ask(name);
        sim.run(45.0);
        assert_eq!((sim.answered, sim.refused), (answered + 1, refused), "{name}: {:?}", sim.refusal(name));
    }
}

pub(super) fn play(history: &[(f64, Event)], holds_networks: bool) {
    let mut sim = Sim::new();
    sim.world.holds_networks = holds_networks;
    sim.world.config.sandboxes.asleep = 1;
    let mut written = Written::default();
    for (pause, event) in history {
        happen(&mut sim, &mut written, event);
        sim.run(*pause);
    }
    let last = written.last;
    settle(&mut sim);
    for (name, last) in NAMES.iter().zip(last) {
        assert_settled(&sim, name, last);
    }
    if last.iter().flatten().all(|shape| shape.image != "server:crash" || shape.stopped) {
        sim.assert_still(30.0);
    }
    assert_wakes(&mut sim, &last);
}

/// Histories of services that ask for so many MiB each.
pub(super) fn histories(memory: std::ops::Range<u64>) -> impl Strategy<Value = Vec<(f64, Event)>> {
    prop::collection::vec((prop_oneof![3 => 0.0..3.0f64, 1 => 3.0..60.0f64], event(memory)), 1..25)
}

pub(super) fn config(cases: u32) -> ProptestConfig {
    // The seed of a failure is printed and kept beside this file, and tried first from then on.
    let persistence = FileFailurePersistence::WithSource("regressions");
    let config = ProptestConfig::default();
    let seed = match config.rng_seed {
        RngSeed::Fixed(given) => given,
        RngSeed::Random if cases < LONG => SEED,
        RngSeed::Random => *FRESH,
    };
    println!("PROPTEST_RNG_SEED={seed} plays these histories again");
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: Some(Box::new(persistence)), ..config }
}

/// Short runs play the same histories each time, so that they tell of a change and not of luck; `PROPTEST_RNG_SEED` gives
/// them others.
const SEED: u64 = 1;
/// Histories from which on a run is long.
const LONG: u32 = 1000;
/// Long runs always look for others; a static, because it is asked for more than once and must be one.
static FRESH: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());

proptest! {
    #![proptest_config(config(48))]
    #[test]
    fn whatever_happens_it_ends_where_it_should_and_is_quiet_there(history in histories(0..1), sandboxes in any::<bool>()) {
        play(&history, sandboxes);
    }
}

proptest! {
    #![proptest_config(config(3000))]
    #[test]
    #[ignore = "takes minutes"]
    fn whatever_happens_it_ends_where_it_should_however_long_one_looks(history in histories(0..1), sandboxes in any::<bool>()) {
        play(&history, sandboxes);
    }
}
