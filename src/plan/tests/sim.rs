//! A machine in a box: an engine, a bucket and a driver, all pure, with faults on request. The driver here is the
//! shortest one that keeps the planner's rules; time only passes when nothing else is left to do.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::sample;
use crate::api::{ComponentKind, InferenceServiceStatus};
use crate::plan::action::{ContainerPosition, CreateOrder, ProbeKind, ProbeOrder};
use crate::plan::ledger::{Amount, Used};
use crate::plan::ps::{self, RoomView};
use crate::plan::record::ReplicaRecord;
use crate::plan::routes::{Backend, RouteState};
use crate::plan::scale::{Load, MEASURE_EVERY};
use crate::plan::sleep::Rest;
use crate::plan::trained::{Held, Note, RepositoryOrder, RepositoryWork};
use crate::plan::world::{
    ContainerFact, DesiredService, EngineState, ExitFact, FactReach, FactState, ImageState, ModelState, PullNote,
    ResolvedWorkload,
};
use crate::plan::{Action, ActionKey, Memo, Memory, Now, Plan, World, plan, plan_anew};

use crate::workload::{ComponentKey, names};

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
}

struct Pending {
    at: Duration,
    action: Action,
}

#[expect(clippy::cast_precision_loss, reason = "tests have few")]
fn many(count: u64) -> f64 {
    count as f64
}

/// How a container behaves: written into the image's name.
fn loads_in(image: &str) -> Option<Duration> {
    let tag = image.rsplit(':').next().unwrap_or_default();
    match tag.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "never" => None,
        "slow" => Some(Duration::from_secs(30)),
        _ => Some(Duration::from_secs(1)),
    }
}

fn ends_after(image: &str) -> Option<(Duration, ExitFact)> {
    let exit = |code| ExitFact { code, ..ExitFact::default() };
    match image.rsplit(':').next().unwrap_or_default() {
        "crash" => Some((Duration::from_millis(200), exit(1))),
        "oom" => Some((Duration::from_millis(200), ExitFact { out_of_memory: true, ..exit(137) })),
        "killed" => Some((Duration::from_millis(200), ExitFact { killed_under_limit: Some(1 << 30), ..exit(137) })),
        "init" => Some((Duration::from_millis(300), exit(0))),
        "badinit" => Some((Duration::from_millis(300), exit(3))),
        _ => None,
    }
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
            load.revisions.entry(fact.revision).or_default().concurrency += concurrency;
        }
        for (component, load) in &mut loads {
            load.queued = self.queued.get(&component.service.name).copied().map_or(0.0, many);
        }
        let now = self.now();
        self.world.memory.note_loads(&loads, now);
    }

    fn ends_at(&self, fact: &ContainerFact) -> Option<Duration> {
        let (after, _) = ends_after(&fact.image).filter(|_| fact.is_running())?;
        Some(*self.runs.get(&fact.name)? + after)
    }

    /// Who holds what now.
    pub(super) fn room(&mut self) -> RoomView {
        ps::room(&self.world, self.now(), &mut self.memo)
    }

    /// One pass of the driver, orders included.
    pub(super) fn pass(&mut self) {
        self.passes += 1;
        self.end_what_ends();
        self.observe();
        let now = self.now();
        let next = plan_anew(&self.world, now, &mut self.memo);
        assert_eq!(next, plan(&self.world, now), "a plan is a function of the world, whatever is kept of those before");
        if self.passes.is_multiple_of(16) {
            assert_eq!(self.room(), ps::room(&self.world, now, &mut Memo::forgetful()), "and so is who holds what");
        }
        if next.actions.is_empty() {
            assert!(next.wake_at.is_none_or(|at| at > now.tick), "awake without work at {now:?}: {:?}", next.wake_at);
        }
        self.check(&next);
        self.save_if(|memory| memory.note_plan(&next, now));
        self.saved.granted.clone_from(&self.world.memory.granted);
        for action in &next.actions {
            assert!(self.world.in_flight.insert(action.key()), "ordered twice: {action}");
            self.dispatch(action.clone());
        }
        self.plan = next;
        self.answer_waiting();
    }

    fn save_if(&mut self, change: impl FnOnce(&mut Memory) -> bool) {
        if change(&mut self.world.memory) {
            self.saved.revisions.clone_from(&self.world.memory.revisions);
        }
    }

    /// What the driver learns before it plans.
    fn observe(&mut self) {
        let now = self.now();
        self.lists.push_front((now.tick, self.containers.clone()));
        self.lists.truncate(8);
        if self.faults.engine_down {
            self.world.engine = EngineState::Down { message: "the engine is away".to_owned() };
        } else {
            self.world.engine = EngineState::Up;
            let index = self.faults.stale.min(self.lists.len() - 1);
            let (at, list) = self.lists[index].clone();
            let before = std::mem::replace(&mut self.world.containers, list);
            let gone = before.into_values().filter(|fact| !self.world.containers.contains_key(&fact.name));
            // The driver tells an old list by what it did since; this one does not.
            for fact in gone.filter(|_| index == 0).collect::<Vec<_>>() {
                self.world.note_vanished(&fact, now);
            }
            self.world.listed_at = Some(at);
        }
        let facts: Vec<ContainerFact> = self.world.containers.values().cloned().collect();
        for fact in &facts {
            self.save_if(|memory| memory.adopt(fact, now));
            match &fact.state {
                FactState::Running { .. } => {
                    let up_for = self.runs.get(&fact.name).map_or(Duration::ZERO, |began| self.clock - *began);
                    self.world.memory.note_found_running(&fact.name, up_for, now);
                }
                FactState::Removing => self.world.memory.note_removing(&fact.name, now),
                FactState::Exited(exit) if self.world.memory.note_exit(&fact.name, exit, now) => {
                    let peak = self.world.used.get(&fact.name).map(|used| used.peak);
                    if self.world.memory.weigh_end(&fact.name, exit, peak) {
                        self.world.memory.note_memory_death(fact, 0);
                    }
                    let memory = self.world.memory.containers.get_mut(&fact.name).unwrap();
                    memory.last_words = vec!["loading".to_owned(), "ValueError: no model".to_owned()];
                }
                _ => {}
            }
        }
        for service in self.world.services.clone().values() {
            let component = ComponentKey { service: service.key.clone(), component: ComponentKind::Predictor };
            self.save_if(|memory| memory.release_canaries(&component, &service.canaries));
            for resolved in service.resolution.iter().flatten() {
                self.save_if(|memory| memory.want(&resolved.workload.component, &resolved.fingerprint, now));
            }
            self.save_if(|memory| memory.want_canaries(&component, &service.canaries, now));
        }
        self.revive_older();
        self.world.leases = self.leases.iter().map(|(name, count)| (name.as_str().into(), *count)).collect();
        self.world.wanted = self.world.leases.keys().cloned().collect();
        let waits = |(name, count): (&String, &u64)| (sample::predictor(name), *count);
        self.world.waiting = self.waiting.iter().map(waits).collect();
        if self.world.tidy(now) {
            self.saved.revisions.clone_from(&self.world.memory.revisions);
        }
    }

    /// Everything that was ever applied can be made again.
    fn revive_older(&mut self) {
        self.world.older.clear();
        for (component, history) in &self.world.memory.revisions {
            let kept = [history.rolled_out, history.previous].into_iter().flatten();
            for revision in kept.filter(|revision| *revision != history.target) {
                let made_from = history.known.get(&revision).and_then(|note| self.made_from.get(&note.fingerprint));
                let made_from = made_from.filter(|one| one.workload.component == *component);
                if let Some(resolved) = made_from {
                    self.world.older.entry(component.clone()).or_default().insert(revision, resolved.clone());
                }
            }
        }
    }

    /// Those who wait for a route that is open go there and are answered; those it is refused to leave.
    fn answer_waiting(&mut self) {
        let now = self.now().tick;
        let waiting = std::mem::take(&mut self.waiting);
        for (name, count) in waiting {
            if self.is_open(&name) {
                self.answered += count;
                self.world.memory.note_activity(&sample::key(&name), now);
            } else if self.is_held(&name)
                || !self.backends(&name).is_empty()
                || !self.plan.routes.services.contains_key(&sample::key(&name))
            {
                self.waiting.insert(name, count);
            } else {
                self.refused += count;
            }
        }
    }

    fn dispatch(&mut self, action: Action) {
        match &action {
            Action::Probe(order) => self.checks.push((self.now().tick, order.clone())),
            // A look is a check, too.
            Action::Repository(order) if order.work == RepositoryWork::Look => {}
            other => self.log.push(other.to_string()),
        }
        if matches!(action, Action::Stop { .. }) {
            self.stops.push(action.clone());
        }
        let takes = match &action {
            Action::Stop { .. } => self.faults.stop_takes,
            Action::PullModel { .. } | Action::PullImage { .. } => Duration::from_millis(300),
            Action::Probe(_) => Duration::from_millis(1),
            _ => Duration::from_millis(20),
        };
        match &action {
            Action::PullModel { uri } => {
                self.world.models.insert(uri.clone(), ModelState::Pulling(PullNote::default()));
            }
            Action::Start { name, .. } if self.world.memory.containers.get(name).is_some_and(|m| m.ended.is_some()) => {
                self.world.memory.note_restart(name);
            }
            Action::Stop { name, .. } => self.world.memory.note_stop(name),
            Action::Doze(order) => {
                self.world.memory.note_doze(order);
                self.saved.revisions.clone_from(&self.world.memory.revisions);
            }
            _ => {}
        }
        self.pending.push(Pending { at: self.clock + takes, action });
    }

    fn finish_due(&mut self) {
        let (due, later) = std::mem::take(&mut self.pending).into_iter().partition(|pending| pending.at <= self.clock);
        self.pending = later;
        let due: Vec<Pending> = due;
        let (landed, late): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.late).into_iter().partition(|(at, _)| *at <= self.clock);
        self.late = late;
        for (_, action) in landed {
            // Somebody else may have been there first.
            drop(self.act(&action));
        }
        for pending in due {
            self.finish(&pending.action);
        }
    }

    fn finish(&mut self, action: &Action) {
        self.world.in_flight.remove(&action.key());
        let now = self.now();
        self.world.note_ended(action, now);
        match action {
            Action::Probe(order) => {
                let result = self.answer(order);
                self.world.memory.note_check(order, result, now);
            }
            Action::PullModel { uri } => {
                let failed = self.faults.lost_models.iter().any(|path| uri.to_string().contains(path.as_str()));
                let state = if failed { self.model_failure(uri) } else { ModelState::Present { size: 1 } };
                self.world.models.insert(uri.clone(), state);
            }
            Action::CheckImage { image } | Action::PullImage { image } if self.faults.engine_down => {
                self.world.images.remove(image);
            }
            Action::CheckImage { image } if self.faults.unseen_images.contains(image) => {
                let looks = self.log.iter().filter(|line| **line == format!("look for image {image}")).count();
                let (message, failures) = ("layer is damaged".to_owned(), u32::try_from(looks).unwrap());
                let state = ImageState::Unseen { message, transient: true, failures, at: now.tick };
                self.world.images.insert(image.clone(), state);
            }
            Action::CheckImage { image } => {
                let present = self.faults.local_images.contains(image);
                let state =
                    if present { ImageState::Present { pulled_at: None } } else { ImageState::Absent { at: now.tick } };
                self.world.images.insert(image.clone(), state);
            }
            Action::PullImage { image } => {
                let state = self.pull_image(image);
                self.world.images.insert(image.clone(), state);
            }
            Action::LimitCpu { name, run, .. } => self.world.memory.note_limit(name, *run, true, now),
            Action::Repository(order) => {
                let result = self.repository(order);
                self.world.memory.note_repository(order, result, now);
            }
            _ => {
                let turn = self.made;
                self.made += 1;
                let every = |n: Option<u64>| n.is_some_and(|n| turn % n == n - 1);
                if self.faults.engine_down {
                    return;
                }
                let result = if every(self.faults.fail_every) { Err("it broke".to_owned()) } else { self.act(action) };
                let lost = every(self.faults.lose_every).then(|| "the answer was lost".to_owned());
                match (result.err().or(lost), action) {
                    (Some(message), _) => self.world.memory.note_failure(action, message, false, now),
                    (None, Action::Rouse(order)) => self.world.memory.note_roused(order),
                    (None, Action::Remove { name, .. }) => {
                        self.world.containers.remove(name);
                        self.world.memory.forget_container(name);
                    }
                    (None, _) => {}
                }
            }
        }
    }

    /// What a server of several models does: it forgets them when it ends, and fails those whose files are `bad`.
    fn repository(&mut self, order: &RepositoryOrder) -> Result<BTreeMap<String, Held>, String> {
        let begun = self.runs.get(&order.name).copied();
        let shown = self.shown.entry(order.replica.to_string()).or_default();
        let ready = self.loaded.entry(order.name.clone()).or_default();
        ready.retain(|_, since| Some(*since) == begun);
        match &order.work {
            RepositoryWork::Look => {
                let look = |(name, held): (&String, &Held)| {
                    (name.clone(), Held { ready: ready.contains_key(name), ..held.clone() })
                };
                return Ok(shown.iter().map(look).collect());
            }
            RepositoryWork::Load { uri, .. } if uri.to_string().contains("bad") => {
                return Err("HTTP 500 from load: no model there".to_owned());
            }
            RepositoryWork::Load { model, mark, memory, .. } => {
                let held = Held { mark: mark.clone(), memory: *memory, ready: false };
                shown.insert(model.clone(), held);
                ready.insert(model.clone(), begun.unwrap_or_default());
            }
            RepositoryWork::Unload { model } => {
                shown.remove(model);
                ready.remove(model);
            }
        }
        Ok(BTreeMap::new())
    }

    fn model_failure(&self, uri: &crate::api::StorageUri) -> ModelState {
        // `Pulling` replaced the failure before; ours is a small world, so the log remembers it.
        let pulls = self.log.iter().filter(|line| **line == format!("pull model {uri}")).count();
        let failures = u32::try_from(pulls).unwrap();
        ModelState::Failed { message: "no such object".to_owned(), transient: true, failures, at: self.now().tick }
    }

    fn pull_image(&mut self, image: &str) -> ImageState {
        let at = self.now().tick;
        if !self.faults.lost_images.contains(image) {
            self.faults.local_images.insert(image.to_owned());
            return ImageState::Present { pulled_at: Some(at) };
        }
        let pulls = self.log.iter().filter(|line| **line == format!("pull image {image}")).count();
        ImageState::Failed {
            message: format!("manifest for {image} not found"),
            transient: true,
            failures: u32::try_from(pulls).unwrap(),
            at,
            present: self.faults.local_images.contains(image),
        }
    }

    fn answer(&self, order: &ProbeOrder) -> Result<(), String> {
        let Some(fact) = self.containers.get(&order.name).filter(|fact| fact.is_running()) else {
            return Err("connection refused".to_owned());
        };
        if !self.has_network(fact) {
            return Err("no route to host".to_owned());
        }
        let ran = self.clock - self.runs[&order.name];
        let loaded = loads_in(&fact.image).is_some_and(|takes| ran >= takes);
        let hung = self.sick.contains(&order.name);
        match order.kind {
            ProbeKind::Liveness if hung => Err("HTTP 500".to_owned()),
            ProbeKind::Liveness => Ok(()),
            _ if loaded && !hung => Ok(()),
            _ => Err("HTTP 503".to_owned()),
        }
    }

    /// Whether the sandbox whose network it joined still holds that network.
    pub(super) fn has_network(&self, fact: &ContainerFact) -> bool {
        let Some(id) = &fact.sandbox else { return true };
        let holds = |sandbox: &&ContainerFact| {
            let lives = sandbox.is_running() || sandbox.state == FactState::Paused;
            sandbox.id == *id && lives && self.runs[&sandbox.name] <= self.runs[&fact.name]
        };
        self.containers.values().any(|other| holds(&other))
    }

    /// What the engine does.
    fn act(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Create(order) => self.create(order),
            Action::Start { id, name } => {
                let known = self.containers.get(name).filter(|fact| fact.id == *id);
                if known.ok_or("no such container")?.is_running() {
                    return Ok(());
                }
                self.begin(name);
                Ok(())
            }
            Action::Stop { id, name, .. } => {
                let lives = |fact: &ContainerFact| fact.is_running() || fact.state == FactState::Paused;
                if self.containers.get(name).is_some_and(|fact| fact.id == *id && lives(fact)) {
                    self.end(name, ExitFact { code: 143, ..ExitFact::default() });
                }
                Ok(())
            }
            Action::Doze(order) => {
                self.doze(&order.name, &order.id, order.call.as_ref().map(|call| call.path.as_str()))
            }
            Action::Rouse(order) => match order.call.as_ref().map(|call| call.path.as_str()) {
                Some("/broken") => Err("HTTP 500 from /broken".to_owned()),
                call => self.rouse(&order.name, &order.id, call),
            },
            Action::Remove { id, name, .. } => match self.containers.get(name).filter(|fact| fact.id == *id) {
                Some(fact) if fact.is_running() => Err("it is running".to_owned()),
                Some(_) => {
                    self.containers.remove(name);
                    Ok(())
                }
                None => Ok(()),
            },
            _ => unreachable!("not the engine's: {action}"),
        }
    }

    fn doze(&mut self, name: &str, id: &str, call: Option<&str>) -> Result<(), String> {
        let fact = self.containers.get_mut(name).filter(|fact| fact.id == id).ok_or("no such container")?;
        match call {
            Some("/absent") => return Err("HTTP 404 from /absent".to_owned()),
            Some(_) => drop(self.resting.insert(id.to_owned())),
            None if fact.is_running() => fact.state = FactState::Paused,
            None => {}
        }
        Ok(())
    }

    fn rouse(&mut self, name: &str, id: &str, call: Option<&str>) -> Result<(), String> {
        let started_at = Some(self.now().wall);
        let fact = self.containers.get_mut(name).filter(|fact| fact.id == id).ok_or("no such container")?;
        match call {
            Some(_) => drop(self.resting.remove(id)),
            None if fact.state == FactState::Paused => fact.state = FactState::Running { started_at },
            None => {}
        }
        Ok(())
    }

    fn create(&mut self, order: &CreateOrder) -> Result<(), String> {
        if let Some(there) = self.containers.get(&order.name) {
            if there.fingerprint != order.fingerprint {
                return Err("the name is taken".to_owned());
            }
            // An identical one is adopted, and started as the order says.
            if !there.is_running() && !matches!(there.state, FactState::Exited(_)) {
                self.begin(&order.name);
            }
            return Ok(());
        }
        if let Some(owner) = &order.join {
            let is_meant =
                |fact: &&ContainerFact| if order.sandboxed { fact.id == *owner } else { fact.name == *owner };
            let runs = self.containers.values().find(is_meant).is_some_and(ContainerFact::is_running);
            runs.then_some(()).ok_or("the network is gone")?;
        }
        let workload = &order.workload;
        let spec = match order.position {
            ContainerPosition::Init(index) => &workload.init_containers[index],
            ContainerPosition::Main(index) => &workload.containers[index],
            ContainerPosition::Sandbox => &sample::container(names::SANDBOX, "sandbox"),
        };
        self.made += 1;
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(self.made % 250).unwrap()));
        let fact = ContainerFact {
            id: format!("id{}", self.made),
            name: order.name.clone(),
            component: workload.component.clone(),
            replica: Arc::clone(&order.replica),
            service_name: workload.service_name.clone(),
            revision: order.revision,
            ordinal: order.ordinal,
            fingerprint: order.fingerprint.clone(),
            container: spec.name.clone(),
            image: spec.image.clone(),
            state: FactState::Created,
            reach: if order.join.is_none() { FactReach::Address(address) } else { FactReach::None },
            gpus: order.gpus.clone(),
            created_at: Some(self.now().wall),
            record: Arc::new(
                match ReplicaRecord::of(workload).with_sandbox(order.sandboxed).with_memory(order.memory) {
                    record if order.lift_cpu => record.lifting_cpu(workload),
                    record => record,
                },
            ),
            sandbox: order.join.clone().filter(|_| order.sandboxed),
        };
        self.containers.insert(order.name.clone(), fact);
        self.begin(&order.name);
        Ok(())
    }

    fn begin(&mut self, name: &str) {
        let started_at = Some(self.now().wall);
        self.runs.insert(name.to_owned(), self.clock);
        self.resting.remove(&self.containers[name].id);
        self.containers.get_mut(name).unwrap().state = FactState::Running { started_at };
    }

    /// Ends a container.
    pub(super) fn end(&mut self, name: &str, exit: ExitFact) {
        let finished_at = Some(self.now().wall);
        self.leases.remove(self.containers[name].replica.as_ref());
        self.containers.get_mut(name).unwrap().state = FactState::Exited(ExitFact { finished_at, ..exit });
    }

    fn end_what_ends(&mut self) {
        let ended: Vec<(String, ExitFact)> = self
            .containers
            .values()
            .filter(|fact| self.ends_at(fact).is_some_and(|at| at <= self.clock))
            .filter_map(|fact| Some((fact.name.clone(), ends_after(&fact.image)?.1)))
            .collect();
        for (name, exit) in ended {
            self.end(&name, exit);
        }
    }

    /// Kills a container from outside.
    pub(super) fn crash(&mut self, name: &str) {
        self.end(name, ExitFact { code: 139, ..ExitFact::default() });
    }

    /// Pauses a container from outside.
    pub(super) fn pause(&mut self, name: &str) {
        self.containers.get_mut(name).unwrap().state = FactState::Paused;
    }

    /// Whoever paused containers lets them go on. What the planner took for asleep is the planner's to wake.
    pub(super) fn resume_paused(&mut self) {
        let state = FactState::Running { started_at: Some(self.now().wall) };
        let memory = &self.world.memory;
        for fact in self.containers.values_mut().filter(|fact| fact.state == FactState::Paused) {
            if memory.dozing(&fact.component, &fact.name).is_none_or(|dozing| dozing.id != fact.id) {
                fact.state = state.clone();
            }
        }
    }

    /// Removes a container from outside.
    pub(super) fn remove(&mut self, name: &str) {
        let fact = self.containers.remove(name).unwrap();
        self.leases.remove(fact.replica.as_ref());
    }

    /// Ends the engine with everything it runs.
    pub(super) fn restart_engine(&mut self) {
        let lives = |fact: &&ContainerFact| fact.is_running() || fact.state == FactState::Paused;
        let names: Vec<String> = self.containers.values().filter(lives).map(|fact| fact.name.clone()).collect();
        for name in names {
            self.end(&name, ExitFact { code: 137, ..ExitFact::default() });
        }
    }

    /// Ends the daemon and starts it again. Orders under way are lost, or done by the engine all the same.
    pub(super) fn restart_daemon(&mut self, orders: Orders, ledger: Ledger) {
        let orders = if ledger == Ledger::Lost && orders == Orders::Late { Orders::Done } else { orders };
        for pending in std::mem::take(&mut self.pending) {
            let on_container = matches!(pending.action.key(), ActionKey::Container(_));
            if self.faults.engine_down || !on_container {
                continue;
            }
            match (orders, &pending.action) {
                (Orders::Dropped, _) => {}
                (Orders::Late, Action::Create(_) | Action::Start { .. }) => {
                    self.late.push((self.clock + LATE, pending.action));
                }
                (Orders::Done | Orders::Late, _) => drop(self.act(&pending.action)),
            }
        }
        if ledger == Ledger::Lost {
            self.saved = Memory::default();
        }
        self.world.memory = self.saved.clone();
        for grant in self.world.memory.granted.values_mut() {
            grant.at = LANDS_WITHIN;
        }
        self.world.in_flight.clear();
        self.world.images.clear();
        self.world.models.retain(|_, state| matches!(state, ModelState::Present { .. }));
        self.world.containers.clear();
        self.world.used.clear();
        self.world.listed_at = None;
        self.world.engine = EngineState::Unknown;
        self.lists.clear();
        self.leases.clear();
        self.queued.clear();
        self.waiting.clear();
        self.boot = self.clock;
        self.memo = Memo::default();
        // The folder and the engine have not been read yet: a pass in between must do nothing.
        self.world.desired_known = false;
        let early = plan(&self.world, self.now());
        assert_eq!(early.actions, []);
        self.world.desired_known = true;
        if ledger == Ledger::Lost {
            let now = self.now();
            for service in self.world.services.clone().values() {
                let component = ComponentKey { service: service.key.clone(), component: ComponentKind::Predictor };
                for resolved in service.resolution.iter().flatten() {
                    self.world.memory.want(&resolved.workload.component, &resolved.fingerprint, now);
                }
                self.world.memory.want_canaries(&component, &service.canaries, now);
            }
        }
        let early = plan(&self.world, self.now());
        assert!(early.actions.iter().all(|action| !action.needs_engine()), "{:#?}", early.actions);
    }

    /// Measures that everything that runs uses this.
    pub(super) fn use_memory(&mut self, used: &Used) {
        self.world.used = self.running().into_iter().map(|name| (name, used.clone())).collect();
        self.world.learn_footprints();
        self.saved.revisions.clone_from(&self.world.memory.revisions);
    }

    /// Moves the wall clock.
    pub(super) fn jump(&mut self, seconds: i64) {
        self.wall_offset += SignedDuration::from_secs(seconds);
    }

    /// Takes a lease on some replica that is routed to.
    pub(super) fn lease(&mut self, service: &str) {
        if let Some(name) = self.backends(service).first() {
            *self.leases.entry(name.clone()).or_default() += 1;
        }
    }

    /// Asks a service something: it waits until it is answered or refused.
    pub(super) fn ask(&mut self, service: &str) {
        if self.plan.routes.services.contains_key(&sample::key(service)) {
            *self.waiting.entry(service.to_owned()).or_default() += 1;
        }
    }

    /// What must hold in every pass, whatever happens.
    fn check(&self, next: &Plan) {
        let mut places = BTreeSet::new();
        for fact in self.containers.values() {
            let place = (&fact.component, fact.revision, fact.ordinal, &fact.container);
            assert!(places.insert(place), "two containers for {place:?}");
        }
        for action in &next.actions {
            self.check_stop(action);
        }
        self.check_budget();
        self.check_routes(next);
    }

    fn check_stop(&self, action: &Action) {
        let (name, why) = match action {
            Action::Stop { name, why, .. } => (name, why.as_str()),
            Action::Doze(order) => (&order.name, "nobody has asked for it lately"),
            _ => return,
        };
        let Some(fact) = self.world.containers.get(name) else { return };
        let leases = self.world.leases.get(&fact.replica).copied().unwrap_or(0);
        if leases == 0 || why.contains("probe failed") || why.starts_with("the container whose network") {
            return;
        }
        let since = self.world.memory.draining.get(fact.replica.as_ref()).copied();
        let deadline = self.world.config.drain_deadline;
        assert!(since.is_some_and(|since| since + deadline <= self.now().tick), "{action} with {leases} leases");
    }

    /// What runs in truth never asks for more than there is, whatever got lost on the way.
    fn check_budget(&self) {
        let Some(Amount::Bytes(budget)) = self.world.config.memory.budget else { return };
        // A list that is old shows as gone what is not; nobody can count right then.
        if self.faults.stale > 0 {
            return;
        }
        let request = |fact: &&ContainerFact| {
            let made_from = self.made_from.get(&fact.fingerprint)?;
            let specs = &made_from.workload.containers;
            specs.iter().find(|spec| spec.name == fact.container)?.resources.memory_request
        };
        // What is paused keeps its memory.
        let lives = |fact: &&ContainerFact| fact.is_running() || fact.state == FactState::Paused;
        let running = self.containers.values().filter(lives);
        let held: u64 = running.clone().filter_map(|fact| request(&fact)).sum();
        let names: Vec<&String> = running.map(|fact| &fact.name).collect();
        assert!(held <= budget, "{held} of {budget} are held by {names:?}");
    }

    fn check_routes(&self, next: &Plan) {
        for (key, route) in &next.routes.services {
            let Some(component) = route.components.get(&ComponentKind::Predictor) else { continue };
            let RouteState::Open(backends) = &component.state else { continue };
            assert!(!backends.is_empty());
            assert!(self.world.services.contains_key(key));
            let revisions: BTreeSet<_> = backends.iter().map(|backend| &backend.revision).collect();
            let parts = self.world.services[key].resolution.as_deref().unwrap_or_default();
            let is_canary = parts.iter().any(|part| part.workload.canary_percent.is_some_and(|percent| percent < 100));
            let most = if is_canary { 2 } else { 1 } + self.world.services[key].canaries.len();
            assert!(revisions.len() <= most, "traffic is never split by accident: {backends:?}");
            assert!(backends.iter().all(|backend| backend.weight > 0), "who gets nothing is not in the table");
            for Backend { replica, .. } in backends {
                let facts = self.world.containers.values().filter(|fact| fact.replica == *replica);
                let awake = |fact: &ContainerFact| fact.is_running() && !self.resting.contains(&fact.id);
                assert!(facts.into_iter().any(awake), "{replica} is routed to and does not run");
            }
        }
        self.check_open_routes_stay_open(next);
    }

    /// A route that was open stays open as long as what it led to answers and is wanted, in some revision.
    fn check_open_routes_stay_open(&self, next: &Plan) {
        if self.faults.stale > 0 {
            return;
        }
        for (key, route) in &next.routes.services {
            let before = self.plan.routes.services.get(key).and_then(|before| open_backends(before));
            let (Some(before), None) = (before, open_backends(route)) else { continue };
            let stopped = route.components.values().any(
                |component| matches!(&component.state, RouteState::NotReady { reason, .. } if reason == "Stopped"),
            );
            if next.replacing.iter().any(|(component, _)| component.service == *key) {
                continue;
            }
            let asleep = next.rests.iter().any(|(other, rest)| other == key && *rest == Rest::Asleep);
            if asleep {
                let asked = |name: &str| self.world.leases.get(name).is_some_and(|count| *count > 0);
                assert!(!before.iter().any(|backend| asked(&backend.replica)), "{key} falls asleep under a request");
                continue;
            }
            for backend in before {
                let facts: Vec<_> = self.world.containers.values().filter(|f| f.replica == backend.replica).collect();
                if !facts.iter().all(|fact| self.is_to_stay(fact)) {
                    continue;
                }
                let anew = |name: &String| next.repositories.contains(&(name.clone(), Note::Leaving));
                if facts.iter().any(|fact| anew(&fact.name)) {
                    continue;
                }
                let own: Vec<_> = facts.iter().filter(|f| f.container != "prepare" && !f.is_sandbox()).collect();
                let is_whole = own.first().is_some_and(|fact| fact.record.containers.len() == own.len());
                let well = is_whole && own.into_iter().all(|fact| self.is_well(fact));
                assert!(stopped || !well, "{key} lost {} although it answers: {route:#?}", backend.replica);
            }
        }
    }

    /// Whether traffic may not be taken from a container that answers. A canary that was taken out of the manifest is not
    /// wanted, whatever it answers, and one beside a first deployment that has not come up whole has no more than its share;
    /// and when the wanted revision is given up, the last one that had all traffic comes back and what answered in part
    /// between the two goes.
    fn is_to_stay(&self, fact: &ContainerFact) -> bool {
        let history = &self.world.memory.revisions[&fact.component];
        let is_dropped = |name: &String| {
            let canaries = &self.world.services[&fact.component.service].canaries;
            let is_own = [Some(history.target), history.rolled_out].contains(&Some(fact.revision));
            !is_own && !canaries.iter().any(|one| one.name == *name)
        };
        let is_canary = fact.record.canary.is_some();
        if (is_canary && history.rolled_out.is_none()) || self.is_dark(fact) {
            return false;
        }
        let goes_back = history.given_up.as_ref().is_some_and(|given_up| given_up.revision == history.target);
        let comes_back = is_canary || !goes_back || history.rolled_out == Some(fact.revision);
        comes_back && !fact.record.canary.as_ref().is_some_and(is_dropped)
    }

    /// Whether it is of a revision that is to have no traffic as long as the one before has it.
    fn is_dark(&self, fact: &ContainerFact) -> bool {
        let history = &self.world.memory.revisions[&fact.component];
        let parts = self.world.services[&fact.component.service].resolution.as_deref().unwrap_or_default();
        let is_asked_nothing = parts.iter().any(|part| part.workload.canary_percent == Some(0));
        is_asked_nothing && fact.revision == history.target && history.rolled_out != Some(fact.revision)
    }

    fn is_well(&self, fact: &ContainerFact) -> bool {
        let memory = &self.world.memory;
        let passes = memory.probe(&fact.name, ProbeKind::Model).is_some_and(|probe| probe.passing);
        let stopping = self.world.in_flight.contains(&ActionKey::Container(fact.name.clone()));
        let unhealthy = memory.containers.get(&fact.name).is_some_and(|memory| memory.unhealthy.is_some());
        let serves = fact.container == "kserve-container";
        fact.is_running() && self.has_network(fact) && (passes || !serves) && !stopping && !unhealthy
    }

    /// Returns the replicas requests to a service's predictor go to.
    pub(super) fn backends(&self, service: &str) -> Vec<String> {
        let route = self.plan.routes.services.get(&sample::key(service));
        let open = route.and_then(|route| open_backends(route)).unwrap_or_default();
        open.iter().map(|backend| backend.replica.to_string()).collect()
    }

    /// Whether requests pass every component of a service.
    fn is_open(&self, service: &str) -> bool {
        let route = self.plan.routes.services.get(&sample::key(service));
        route.is_some_and(|route| route.components.values().all(|one| matches!(one.state, RouteState::Open(_))))
    }

    /// Returns why requests to a service's predictor are refused: reason and message.
    pub(super) fn refusal(&self, service: &str) -> Option<(String, String)> {
        let route = self.plan.routes.services.get(&sample::key(service))?;
        match &route.components.get(&ComponentKind::Predictor)?.state {
            RouteState::Open(_) => None,
            RouteState::Held(hold) => Some((hold.reason.clone(), hold.message.clone())),
            RouteState::NotReady { reason, message, .. } => Some((reason.clone(), message.clone())),
        }
    }

    /// Whether requests to a service's predictor wait.
    pub(super) fn is_held(&self, service: &str) -> bool {
        let route = self.plan.routes.services.get(&sample::key(service));
        let predictor = route.and_then(|route| route.components.get(&ComponentKind::Predictor));
        predictor.is_some_and(|predictor| matches!(predictor.state, RouteState::Held(_)))
    }

    /// Returns the status of a service.
    pub(super) fn status(&self, service: &str) -> &InferenceServiceStatus {
        let key = sample::key(service);
        &self.plan.statuses.iter().find(|(other, _)| *other == key).expect("the service has a status").1
    }

    /// Returns a condition of a service: status, reason and message.
    pub(super) fn condition(&self, service: &str, kind: &str) -> (String, String, String) {
        let condition = self.status(service).condition(kind).expect("the condition is there");
        (condition.status.to_string(), condition.reason.clone(), condition.message.clone())
    }

    /// Returns names and states of the containers there are, in a word each.
    pub(super) fn running(&self) -> Vec<String> {
        self.containers.values().filter(|fact| fact.is_running()).map(|fact| fact.name.clone()).collect()
    }

    /// Runs for a while and asserts that nothing but checks is ordered.
    pub(super) fn assert_quiet(&mut self, seconds: f64) {
        let before = self.log.len();
        self.run(seconds);
        assert_eq!(self.log[before..], [] as [String; 0]);
    }

    /// Runs for a while and asserts that nothing that is shown changes.
    pub(super) fn assert_still(&mut self, seconds: f64) {
        let shown = (self.plan.statuses.clone(), self.plan.routes.clone(), self.plan.pods.clone());
        self.assert_quiet(seconds);
        assert_eq!((self.plan.statuses.clone(), self.plan.routes.clone(), self.plan.pods.clone()), shown);
    }
}

fn open_backends(route: &crate::plan::routes::ServiceRoute) -> Option<&[Backend]> {
    match &route.components.get(&ComponentKind::Predictor)?.state {
        RouteState::Open(backends) => Some(backends),
        RouteState::Held(_) | RouteState::NotReady { .. } => None,
    }
}

/// What becomes of orders under way when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Orders {
    /// The engine had not got them yet.
    Dropped,
    /// The engine does them.
    Done,
    /// The engine does them when the next daemon has looked already.
    Late,
}

/// How long the engine takes over what it does late.
const LATE: Duration = Duration::from_millis(700);
/// How long granted room holds although no list shows what became of it, after a restart.
const LANDS_WITHIN: Duration = Duration::from_secs(10);

/// What becomes of the file with the revisions when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ledger {
    /// It is there.
    Kept,
    /// It is gone.
    Lost,
}
