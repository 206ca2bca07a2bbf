//! A machine in a box: an engine, a bucket and a driver, all pure, with faults on request. The driver here is the
//! shortest one that keeps the planner's rules; time only passes when nothing else is left to do.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::sample;
use crate::plan::action::ProbeOrder;
use crate::plan::scale::{Load, MEASURE_EVERY};
use crate::plan::trained::Held;
use crate::plan::world::{ContainerFact, DesiredService, ResolvedWorkload};
use crate::plan::{Action, Memo, Memory, Now, Plan, World};
use crate::workload::ComponentKey;

mod checks;
mod driver;
mod engine;
mod happenings;
mod shown;
pub(super) use happenings::{Ledger, Orders};

/// The machine.
pub(super) struct Sim {
    /// What the driver knows.
    pub(super) world: World,
    /// What was planned of services of which nothing has changed since.
    pub(super) memo: Memo,
    /// The last plan.
    pub(super) plan: Plan,
    /// Every order that is not a check, in words.
    pub(super) log: Vec<String>,
    /// Every check that was ordered.
    pub(super) checks: Vec<(Duration, Box<ProbeOrder>)>,
    /// Every stop that was ordered.
    pub(super) stops: Vec<Action>,
    /// Passes so far.
    pub(super) passes: usize,
    /// What containers there are in truth, by name.
    pub(super) containers: BTreeMap<String, ContainerFact>,
    /// Faults in force.
    pub(super) faults: Faults,
    /// Containers that do not answer although they run, by name.
    pub(super) sick: BTreeSet<String>,
    /// How many requests each replica has.
    pub(super) leases: BTreeMap<String, u64>,
    /// Ids of containers whose servers were told to rest.
    pub(super) resting: BTreeSet<String>,
    /// How many requests wait at the limit of each service's replicas.
    pub(super) queued: BTreeMap<String, u64>,
    /// How many requests wait for each service.
    pub(super) waiting: BTreeMap<String, u64>,
    /// What other programs use of the machine's memory, in bytes; none when a test says itself what is available.
    pub(super) others: Option<u64>,
    /// What was applied so far, by fingerprint.
    pub(super) made_from: BTreeMap<String, ResolvedWorkload>,
    /// Requests that waited and were answered.
    pub(super) answered: u64,
    /// Requests that waited in vain.
    pub(super) refused: u64,
    clock: Duration,
    measured: Duration,
    boot: Duration,
    /// Models a replica's folder shows.
    shown: HashMap<String, BTreeMap<String, Held>>,
    /// Models a container has loaded, and in which of its runs.
    loaded: HashMap<String, BTreeMap<String, Duration>>,
    wall_offset: SignedDuration,
    runs: HashMap<String, Duration>,
    pending: Vec<Pending>,
    /// Starts ordered by a daemon that has ended, and when the engine is done with them.
    late: Vec<(Duration, Action)>,
    lists: VecDeque<(Duration, BTreeMap<String, ContainerFact>)>,
    saved: Memory,
    made: u64,
}

/// What is wrong with the machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// The engine does not answer.
    pub(super) engine_down: bool,
    /// Every nth order on a container fails without effect.
    pub(super) fail_every: Option<u64>,
    /// Every nth order on a container is done and reported as failed.
    pub(super) lose_every: Option<u64>,
    /// Lists show what was true this many passes ago.
    pub(super) stale: usize,
    /// Models that cannot be fetched.
    pub(super) lost_models: BTreeSet<String>,
    /// Images that cannot be pulled.
    pub(super) lost_images: BTreeSet<String>,
    /// Images the engine cannot say anything about.
    pub(super) unseen_images: BTreeSet<String>,
    /// Images that are on this machine from the start.
    pub(super) local_images: BTreeSet<String>,
    /// How long a stop takes.
    pub(super) stop_takes: Duration,
    /// How much longer than usual the engine takes over an order on a container.
    pub(super) slow: Duration,
}

struct Pending {
    at: Duration,
    action: Action,
}

impl Sim {
    /// Makes a machine with an engine that answers and a folder that was read, and nothing in it.
    pub(super) fn new() -> Self {
        let world = World { instance: "test".to_owned(), desired_known: true, ..World::default() };
        Self {
            world,
            memo: Memo::default(),
            plan: Plan::default(),
            log: Vec::new(),
            checks: Vec::new(),
            stops: Vec::new(),
            passes: 0,
            containers: BTreeMap::new(),
            faults: Faults { stop_takes: Duration::from_millis(500), ..Faults::default() },
            sick: BTreeSet::new(),
            leases: BTreeMap::new(),
            resting: BTreeSet::new(),
            queued: BTreeMap::new(),
            waiting: BTreeMap::new(),
            others: None,
            made_from: BTreeMap::new(),
            answered: 0,
            refused: 0,
            clock: Duration::from_secs(1),
            measured: Duration::ZERO,
            boot: Duration::ZERO,
            shown: HashMap::new(),
            loaded: HashMap::new(),
            wall_offset: SignedDuration::ZERO,
            runs: HashMap::new(),
            pending: Vec::new(),
            late: Vec::new(),
            lists: VecDeque::new(),
            saved: Memory::default(),
            made: 0,
        }
    }

    /// Makes a machine that serves `iris` from an image that answers.
    pub(super) fn serving() -> Self {
        let mut sim = Self::new();
        sim.apply(sample::service("iris", vec![sample::predicting("iris", "server:good1")]));
        sim.run(5.0);
        assert_eq!(sim.backends("iris"), ["iris-predictor-00001-0.default"]);
        sim.log.clear();
        sim
    }

    /// Returns the time.
    pub(super) fn now(&self) -> Now {
        let wall = Timestamp::UNIX_EPOCH + SignedDuration::try_from(self.clock).unwrap() + self.wall_offset;
        Now { tick: self.clock - self.boot, wall }
    }

    /// Adds or replaces a service.
    pub(super) fn apply(&mut self, mut service: DesiredService) {
        let before = self.world.services.get(&service.key).map_or(0, |before| before.meta.generation);
        service.meta.generation = before + 1;
        for resolved in service.workloads() {
            self.made_from.insert(resolved.fingerprint.0.clone(), resolved.clone());
        }
        self.world.services.insert(service.key.clone(), Arc::new(service));
    }

    /// Deletes a service.
    pub(super) fn delete(&mut self, name: &str) {
        self.world.services.remove(&sample::key(name));
    }

    /// Lets the machine run for a while.
    pub(super) fn run(&mut self, seconds: f64) {
        let end = self.clock + Duration::from_secs_f64(seconds);
        let limit = self.passes + 2_000 + 50 * usize::try_from(end.as_secs()).unwrap();
        loop {
            self.pass();
            assert!(self.passes < limit, "the loop is busy at {:?}: {:#?}", self.clock, self.plan.actions);
            let next = self.next_event();
            if next > end {
                self.clock = end;
                return;
            }
            self.clock = self.clock.max(next);
            self.measure();
            self.finish_due();
        }
    }

    fn next_event(&self) -> Duration {
        let timers = self.plan.wake_at.map(|at| at + self.boot).into_iter();
        let orders = self.pending.iter().map(|pending| pending.at);
        let ends = self.containers.values().filter_map(|fact| self.ends_at(fact));
        let late = self.late.iter().map(|(at, _)| *at);
        let measures = (!self.world.memory.scales.is_empty()).then(|| self.measured + MEASURE_EVERY);
        timers.chain(orders).chain(ends).chain(late).chain(measures).min().unwrap_or(Duration::MAX)
    }

    /// What was asked since the last second, when somebody wants to know.
    fn measure(&mut self) {
        if self.clock < self.measured + MEASURE_EVERY {
            return;
        }
        self.measured = self.clock;
        let mut loads: BTreeMap<ComponentKey, Load> = BTreeMap::new();
        for fact in self.world.containers.values().filter(|fact| fact.is_running()) {
            let concurrency = self.leases.get(fact.replica.as_ref()).copied().map_or(0.0, many);
            let load = loads.entry(fact.component.clone()).or_default();
            let usage = load.revisions.entry(fact.revision).or_default();
            // A request takes a second.
            usage.concurrency += concurrency;
            usage.rps += concurrency;
        }
        for (component, load) in &mut loads {
            load.queued = self.queued.get(&component.service.name).copied().map_or(0.0, many);
        }
        let now = self.now();
        self.world.memory.note_loads(&loads, now);
    }
}

#[expect(clippy::cast_precision_loss, reason = "tests have few")]
fn many(count: u64) -> f64 {
    count as f64
}
