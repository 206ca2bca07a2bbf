//! The driver: select, observe, plan, publish, dispatch.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, info, warn};

use super::Clock;
use super::access;
use super::claims::ModelClaims;
use super::desired::Resolver;
use super::execute::{Executor, Failure, Lesson};
use super::load::LoadMeter;
use super::measure::{Measured, Meter, Rounds};
use super::pulls::{self, Pulls};
use super::resources::ResourceMeter;
use super::revisions::Ledger;
use super::{graphs, notice, observe, renames, said, trained};
use crate::api::{ServiceKey, StorageUri};
use crate::engine::{Container, ContainerId, EngineError, Usage};
use crate::home::Home;
use crate::home::write_atomically;
use crate::plan::action::{ProbeKind, ProbeOrder};
use crate::plan::ledger::Machine;
use crate::plan::memory::{Memory, Revisions};
use crate::plan::pods::PodView;
use crate::plan::ps::{self, RoomView};
use crate::plan::routes::RouteTable;
use crate::plan::trained::{Held, RepositoryOrder};
use crate::plan::world::{ContainerFact, EngineState, FactState, ImageState, ModelState, PlanConfig, ResolvedWorkload};
use crate::plan::{Action, ActionKey, Plan, World, plan};
use crate::storage::{Cache, CachedModel};
use crate::store::Store;
use crate::tasks::Tasks;
use crate::telemetry::metrics::PullSample;
use crate::telemetry::{EventLog, EventType};
use crate::traffic::TrafficBoard;
use crate::workload::{ComponentKey, WorkloadConfig};

/// The engine is asked for its containers this often although nothing was said.
const RELIST: Duration = Duration::from_secs(10);
/// The same while it does not answer.
const RELIST_DOWN: Duration = Duration::from_secs(1);
/// A refused connection makes every check due at most this often.
const CHECK_AGAIN: Duration = Duration::from_millis(250);
/// Facts that change nothing a person would see wait this long for company.
const GATHER: Duration = Duration::from_millis(50);
/// That a service's idle clock runs is seen within this time.
const SOME_TIME: Duration = Duration::from_secs(1);
/// Facts of what is still loading wait this long for company.
const SOON: Duration = Duration::from_millis(5);
/// Containers may still read a model this long after the time requests have to drain.
const LINGER: Duration = Duration::from_secs(60);
/// Statuses show the progress of pulls this often.
const PROGRESS: Duration = Duration::from_millis(500);

/// Settings of the driver.
#[derive(Clone, Debug, Default)]
pub struct DriverConfig {
    /// Of the planner.
    pub plan: PlanConfig,
    /// Of resolution.
    pub workload: WorkloadConfig,
}

/// Everything the driver is wired to.
pub struct DriverParts {
    /// Desired objects in, statuses out.
    pub store: Store,
    /// Effects.
    pub executor: Executor,
    /// Memory and GPUs.
    pub meter: Meter,
    /// Models that are here.
    pub cache: Cache,
    /// Requests in flight.
    pub board: TrafficBoard,
    /// What the proxy may do.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// What runs, for people.
    pub pods: watch::Sender<Arc<Vec<PodView>>>,
    /// Who holds what, for people.
    pub room: watch::Sender<Arc<RoomView>>,
    /// What is being fetched, for metrics.
    pub pulls: watch::Sender<Vec<PullSample>>,
    /// Events.
    pub events: EventLog,
    /// Rung by the gateway when a backend refused a connection.
    pub refused: Arc<Notify>,
    /// Tasks of this daemon.
    pub tasks: Tasks,
    /// The clock.
    pub clock: Clock,
    /// Where revisions are kept.
    pub home: Home,
    /// Settings that changed while the daemon runs.
    pub reloads: watch::Receiver<DriverConfig>,
}

/// What comes back from an effect.
enum Fact {
    Listed { asked: u64, result: Result<Vec<Container>, EngineError> },
    Model { uri: StorageUri, result: Result<CachedModel, Failure> },
    ImageChecked { image: String, result: Result<bool, Failure> },
    ImagePulled { image: String, result: Result<(), (Failure, bool)> },
    Container { action: Box<Action>, result: Result<Option<Container>, Failure> },
    Probed { order: Box<ProbeOrder>, result: Result<(), String> },
    LastWords { name: String, lines: Vec<String> },
    Used(Option<HashMap<ContainerId, Usage>>),
    Limited { name: String, run: Option<Duration>, result: Result<(), EngineError> },
    Measured(Measured),
    Repository { order: Box<RepositoryOrder>, result: Result<BTreeMap<String, Held>, Failure> },
}

/// Owns the world.
pub struct Driver {
    parts: DriverParts,
    world: World,
    resolver: Resolver,
    sender: mpsc::Sender<Fact>,
    facts: mpsc::Receiver<Fact>,
    desired_version: Option<u64>,
    /// Counts what we did to containers, so that an older list does not undo what we know.
    serial: u64,
    touched: HashMap<String, u64>,
    load: LoadMeter,
    resources: ResourceMeter,
    listing: bool,
    list_again: bool,
    last_list: Duration,
    /// When the list was asked for that is under way or was the last.
    asked_at: Duration,
    last_check_again: Duration,
    pulls: Pulls,
    image_failures: HashMap<String, u32>,
    model_failures: HashMap<StorageUri, u32>,
    claims: ModelClaims,
    saved_revisions: BTreeMap<ComponentKey, Revisions>,
    rounds: Rounds,
    /// Whether what revisions are made from is to be saved.
    sources_changed: bool,
}

/// How soon a pass must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// With the next one.
    Never,
    /// Some time: nobody waits for it.
    Some,
    /// Before long, with others.
    Gather,
    /// Soon, with others.
    Soon,
    /// Now.
    Now,
}

impl Driver {
    /// Makes a driver; what earlier daemons knew of revisions is taken up.
    pub fn new(parts: DriverParts, config: DriverConfig, ledger: Ledger) -> Self {
        let (sender, facts) = mpsc::channel(4096);
        let Ledger { revisions, sources } = ledger;
        let history_limit = Some(config.plan.history_limit);
        let memory = Memory { revisions: revisions.clone(), sources, history_limit, ..Memory::default() };
        let instance = parts.executor.instance.clone();
        let machine = Machine { pending: true, ..Machine::default() };
        let world = World { instance, memory, machine, config: config.plan, ..World::default() };
        Self {
            resolver: Resolver::new(config.workload),
            parts,
            world,
            sender,
            facts,
            desired_version: None,
            serial: 0,
            touched: HashMap::new(),
            load: LoadMeter::default(),
            resources: ResourceMeter::default(),
            listing: false,
            list_again: true,
            last_list: Duration::ZERO,
            asked_at: Duration::ZERO,
            last_check_again: Duration::ZERO,
            pulls: Pulls::default(),
            image_failures: HashMap::new(),
            model_failures: HashMap::new(),
            claims: ModelClaims::default(),
            saved_revisions: revisions,
            rounds: Rounds::default(),
            sources_changed: false,
        }
    }

    /// Runs until cancelled. Containers are left as they are.
    pub async fn run(mut self, cancel: tokio_util::sync::CancellationToken) {
        let mut store = self.parts.store.subscribe();
        store.mark_changed();
        let mut changes = self.parts.executor.engine.changes();
        let board = self.parts.board.clone();
        let refused = Arc::clone(&self.parts.refused);
        let mut reloads = self.parts.reloads.clone();
        let mut wake = Duration::ZERO;
        loop {
            self.ask_for_list();
            self.ask_for_measure();
            let timer = tokio::time::Instant::from_std(self.parts.clock.at(wake));
            let tick = self.parts.clock.now().tick;
            let measure = self.load.due(&self.world, tick).map(|at| self.parts.clock.at(at).into());
            let urgency = tokio::select! {
                // The loop ends; effects under way are ended by their own tokens.
                () = cancel.cancelled() => break,
                // A tick of the store that loses its race is still marked and wins the next one.
                changed = store.changed() => {
                    if changed.is_err() { break }
                    self.take_desired(&store.borrow_and_update().clone())
                }
                // A fact stays in its queue until it is taken.
                Some(fact) = self.facts.recv() => self.take_facts(fact),
                // A hint that is lost costs time, not truth: the list is asked for regularly.
                hint = changes.next() => {
                    self.list_again = true;
                    if hint.is_none() { changes = futures::stream::pending().boxed() }
                    Urgency::Never
                }
                // The board is read as a whole in every pass.
                () = board.became_idle() => notice::urgency(&self.world),
                // The same: who waits is found there.
                () = board.bell() => Urgency::Now,
                // A permit that is not taken stays.
                () = refused.notified() => {
                    self.check_again()
                }
                // Settings that lose their race are still marked and win the next one; whoever held them may be gone.
                Ok(()) = reloads.changed() => {
                    let config = reloads.borrow_and_update().clone();
                    self.reconfigure(config, &store.borrow().clone())
                }
                // A timer that loses its race is made again.
                () = tokio::time::sleep_until(timer) => Urgency::Now,
                // The same.
                () = until(measure) => self.measure_load(),
            };
            let tick = self.parts.clock.now().tick;
            match urgency {
                Urgency::Now => wake = self.pass(),
                Urgency::Soon => wake = wake.min(tick + SOON),
                Urgency::Gather => wake = wake.min(tick + GATHER),
                Urgency::Some => wake = wake.min(tick + SOME_TIME),
                Urgency::Never => {}
            }
        }
        debug!("driver ended");
    }

    /// Works by other settings from now on: everything is resolved again.
    fn reconfigure(&mut self, config: DriverConfig, snapshot: &crate::store::Snapshot) -> Urgency {
        self.world.config = config.plan;
        self.resolver.reconfigure(config.workload);
        self.desired_version = None;
        self.take_desired(snapshot);
        Urgency::Now
    }

    /// Takes up what was asked in the last second, where replicas follow it.
    fn measure_load(&mut self) -> Urgency {
        let now = self.parts.clock.now();
        self.ask_for_usage(now.tick);
        let loads = self.load.measure(&self.parts.board, &self.world, now.tick);
        let Some(mut loads) = loads else { return Urgency::Never };
        self.resources.add_to(&mut loads);
        if self.world.memory.note_loads(&loads, now) { Urgency::Now } else { Urgency::Never }
    }

    /// Asks the engine what containers use, where replicas follow that; once at a time.
    fn ask_for_usage(&mut self, tick: Duration) {
        let Some(ids) = self.resources.due(&self.world, tick) else { return };
        let (engine, sender) = (Arc::clone(&self.parts.executor.engine), self.sender.clone());
        self.parts.tasks.spawn_droppable("usage", async move {
            // What could not be counted is counted the next time; the driver is gone: nobody needs it.
            let _ = sender.send(Fact::Used(engine.usage(&ids).await.ok())).await;
        });
    }

    /// Resolves what is desired when it changed.
    fn take_desired(&mut self, snapshot: &crate::store::Snapshot) -> Urgency {
        if self.desired_version == Some(snapshot.desired_version) || snapshot.desired_version == 0 {
            return Urgency::Never;
        }
        self.desired_version = Some(snapshot.desired_version);
        let now = self.parts.clock.now();
        let (services, anew) = self.resolver.resolve(snapshot);
        self.world.services = services;
        self.world.graphs = graphs::desired(snapshot, &self.world.graphs);
        self.take_trained(snapshot);
        self.world.desired_known = true;
        for key in &anew {
            self.forgive(key);
            self.warn_about(key, now);
        }
        for service in self.world.services.values() {
            let written = snapshot.objects.get(&service.key.to_object_key()).map(|stored| &stored.object.raw);
            for resolved in service.resolution.as_deref().unwrap_or_default() {
                let component = &resolved.workload.component;
                self.world.memory.want(component, &resolved.fingerprint, now);
                if let Some(written) = written {
                    self.sources_changed |= self.world.memory.note_source(component, written);
                }
                resolved.workload.containers.iter().for_each(|spec| self.parts.executor.engine.learn(spec));
            }
        }
        let (kept, wrong) = self.resolver.kept();
        self.world.kept = kept;
        for (key, problem) in wrong {
            self.parts.events.record(&key, EventType::Warning, "ModelNotFetched", &problem, now.wall);
        }
        self.revive_older();
        self.look_up_models();
        Urgency::Now
    }

    /// Resolves the revisions again that had all traffic once and may have to be made again.
    fn revive_older(&mut self) {
        let Self { world, resolver, .. } = self;
        let mut older: BTreeMap<ComponentKey, BTreeMap<u32, ResolvedWorkload>> = BTreeMap::new();
        for (component, history) in &world.memory.revisions {
            let Some(sources) = world.memory.sources.get(component) else { continue };
            let kept = [history.rolled_out, history.previous].into_iter().flatten();
            for revision in kept.filter(|revision| *revision != history.target) {
                let wanted = history.known.get(&revision).map(|note| note.fingerprint.as_str());
                let revived = sources.get(&revision).and_then(|source| resolver.revive(component, revision, source));
                // What it would be now must be what it was: a runtime or a Secret may have changed since.
                if let Some(revived) = revived.filter(|revived| Some(revived.fingerprint.0.as_str()) == wanted) {
                    older.entry(component.clone()).or_default().insert(revision, revived);
                }
            }
        }
        world.older = older;
    }

    /// Says what in a changed service means nothing here, or something else than its author may think.
    fn warn_about(&self, key: &ServiceKey, now: crate::plan::Now) {
        let Some(service) = self.world.services.get(key) else { return };
        for resolved in service.resolution.as_deref().unwrap_or_default() {
            for warning in &resolved.workload.warnings {
                let object = key.to_object_key();
                if self.parts.events.record(&object, EventType::Warning, "ManifestWarning", warning, now.wall) {
                    info!(service = %key, "{warning}");
                }
            }
        }
    }

    /// A changed service gets a fresh try at once.
    fn forgive(&mut self, key: &ServiceKey) {
        let Some(service) = self.world.services.get(key) else { return };
        for resolved in service.resolution.as_deref().unwrap_or_default() {
            for model in &resolved.workload.models {
                if let Some(state @ ModelState::Failed { .. }) = self.world.models.get_mut(&model.uri) {
                    *state = ModelState::Absent;
                }
                self.model_failures.remove(&model.uri);
            }
            for spec in resolved.workload.containers.iter().chain(&resolved.workload.init_containers) {
                if matches!(
                    self.world.images.get(&spec.image),
                    Some(ImageState::Failed { .. } | ImageState::Absent { .. })
                ) {
                    self.world.images.remove(&spec.image);
                }
                self.image_failures.remove(&spec.image);
            }
        }
        let own: Vec<String> = self
            .world
            .memory
            .refusals
            .keys()
            .filter(|name| name.contains(&format!(".{}-", key.name)) && name.contains(&format!(".{}", key.namespace)))
            .cloned()
            .collect();
        for name in own {
            self.world.memory.refusals.remove(&name);
        }
    }

    /// Looks up the models that are wanted, and forgets those that are not.
    fn look_up_models(&mut self) {
        let mut wanted = std::collections::BTreeSet::new();
        for service in self.world.services.values() {
            for resolved in service.resolution.as_deref().unwrap_or_default() {
                wanted.extend(resolved.workload.models.iter().map(|model| model.uri.clone()));
            }
        }
        let older = self.world.older.values().flat_map(BTreeMap::values);
        wanted.extend(older.flat_map(|resolved| resolved.workload.models.iter().map(|model| model.uri.clone())));
        wanted.extend(self.world.kept.iter().map(|model| model.uri.clone()));
        wanted.extend(trained::references(&self.world).map(|model| model.uri.clone()));
        self.world.models.retain(|uri, _| wanted.contains(uri));
        let owner = (self.parts.executor.instance.as_str(), &self.parts.home);
        let (tick, linger) = (self.parts.clock.now().tick, self.world.config.drain_deadline + LINGER);
        self.claims.want(&self.parts.cache, owner, wanted.clone(), tick, linger);
        for uri in wanted {
            if matches!(self.world.models.get(&uri), None | Some(ModelState::Absent)) {
                let state = match self.parts.cache.lookup(&uri) {
                    Some(model) => ModelState::Present { size: model.size },
                    None => ModelState::Absent,
                };
                self.world.models.insert(uri, state);
            }
        }
    }

    fn take_facts(&mut self, first: Fact) -> Urgency {
        let mut urgency = self.take(first);
        while let Ok(fact) = self.facts.try_recv() {
            urgency = urgency.max(self.take(fact));
        }
        urgency
    }

    fn take(&mut self, fact: Fact) -> Urgency {
        match fact {
            Fact::Listed { asked, result } => self.take_list(asked, result),
            Fact::Model { uri, result } => self.take_model(uri, result),
            Fact::ImageChecked { image, result } => self.take_image_check(image, result),
            Fact::ImagePulled { image, result } => self.take_image_pull(image, result),
            Fact::Container { action, result } => self.take_container(&action, result),
            Fact::Probed { order, result } => self.take_probe(&order, result),
            Fact::Measured(measured) => match self.rounds.end(&mut self.world, measured) {
                true => Urgency::Now,
                false => Urgency::Never,
            },
            Fact::Used(usage) => {
                let tick = self.parts.clock.now().tick;
                self.resources.take(&self.world, usage, tick);
                Urgency::Never
            }
            Fact::Limited { name, run, result } => {
                self.world.in_flight.remove(&ActionKey::Limit(name.clone()));
                if let Err(error) = &result {
                    warn!(container = name, error = super::execute::chain(error), "could not limit its processor");
                }
                self.world.memory.note_limit(&name, run, result.is_ok(), self.parts.clock.now());
                Urgency::Gather
            }
            Fact::Repository { order, result } => self.take_repository(&order, result),
            Fact::LastWords { name, lines } => {
                if let Some(memory) = self.world.memory.containers.get_mut(&name) {
                    memory.last_words = lines;
                }
                Urgency::Now
            }
        }
    }

    fn take_list(&mut self, asked: u64, result: Result<Vec<Container>, EngineError>) -> Urgency {
        self.listing = false;
        self.last_list = self.parts.clock.now().tick;
        let containers = match result {
            Ok(containers) => containers,
            Err(error) => {
                let message = super::execute::chain(&error);
                if self.world.engine != (EngineState::Down { message: message.clone() }) {
                    warn!(error = message, "the container engine does not answer; what runs keeps serving");
                    self.world.engine = EngineState::Down { message };
                    return Urgency::Now;
                }
                return Urgency::Never;
            }
        };
        if matches!(self.world.engine, EngineState::Down { .. }) {
            info!("the container engine answers again");
            // Refusals while it was away say nothing about now.
            self.world.memory.refusals.clear();
        }
        let mut urgency = if self.world.engine == EngineState::Up { Urgency::Never } else { Urgency::Now };
        self.world.engine = EngineState::Up;
        self.world.limits_later = self.parts.executor.engine.limits_later();
        self.world.holds_networks = self.parts.executor.engine.holds_networks();
        renames::follow(&mut self.world, &containers);
        self.world.listed_at = Some(self.asked_at);
        let newer = |name: &str| self.touched.get(name).is_some_and(|serial| *serial > asked);
        let mut listed = std::collections::HashSet::new();
        let mut fresh = Vec::new();
        for container in &containers {
            listed.insert(container.name.clone());
            if newer(&container.name) {
                self.list_again = true;
                continue;
            }
            match observe::fact(container) {
                Some(fact) => fresh.push(fact),
                None => debug!(container = container.name, "a container of ours has labels of another version"),
            }
        }
        let gone: Vec<String> =
            self.world.containers.keys().filter(|name| !listed.contains(*name) && !newer(name)).cloned().collect();
        self.touched.retain(|_, serial| *serial > asked);
        for name in gone {
            self.world.containers.remove(&name);
            self.world.memory.forget_container(&name);
            urgency = Urgency::Now;
        }
        for fact in fresh {
            urgency = urgency.max(self.take_fact(fact));
        }
        urgency
    }

    /// Takes over what is known of one container now.
    fn take_fact(&mut self, mut fact: ContainerFact) -> Urgency {
        let now = self.parts.clock.now();
        let known = self.world.containers.get(&fact.name);
        // A list tells less than a look: what it leaves out is kept.
        if let (Some(old), FactState::Running { started_at: started @ None }) = (known, &mut fact.state)
            && let FactState::Running { started_at } = &old.state
        {
            *started = *started_at;
        }
        if known == Some(&fact) {
            return Urgency::Never;
        }
        self.world.memory.adopt(&fact.component, fact.revision, &fact.fingerprint, now);
        match &fact.state {
            FactState::Running { .. } if known.is_none_or(|old| !old.is_running()) => {
                self.world.memory.note_running(&fact.name, now);
            }
            FactState::Removing => self.world.memory.note_removing(&fact.name, now),
            FactState::Exited(exit) if self.world.memory.note_exit(&fact.name, exit, now) => {
                if exit.out_of_memory {
                    let used = self.world.used.get(&fact.name).map_or(0, |used| used.peak);
                    self.world.memory.note_memory_death(&fact, used);
                }
                self.fetch_last_words(&fact);
            }
            _ => {}
        }
        self.world.containers.insert(fact.name.clone(), fact);
        Urgency::Now
    }

    fn fetch_last_words(&self, fact: &ContainerFact) {
        let (executor, sender) = (self.parts.executor.clone(), self.sender.clone());
        let (id, name) = (fact.id.clone(), fact.name.clone());
        self.parts.tasks.spawn_droppable("last-words", async move {
            let lines = executor.last_words(&id).await;
            // The driver is gone: nobody needs the words.
            let _ = sender.send(Fact::LastWords { name, lines }).await;
        });
    }

    fn take_model(&mut self, uri: StorageUri, result: Result<CachedModel, Failure>) -> Urgency {
        self.world.in_flight.remove(&ActionKey::Model(uri.clone()));
        self.pulls.model_ended(&uri);
        let state = match result {
            Ok(model) => {
                info!(model = uri.redacted(), bytes = model.size, files = model.files, "model is here");
                self.model_failures.remove(&uri);
                ModelState::Present { size: model.size }
            }
            Err(failure) => {
                let failures = self.model_failures.entry(uri.clone()).or_default();
                *failures += 1;
                ModelState::Failed {
                    message: failure.message,
                    transient: !failure.permanent,
                    failures: *failures,
                    at: self.parts.clock.now().tick,
                }
            }
        };
        self.world.models.insert(uri, state);
        Urgency::Now
    }

    fn take_image_check(&mut self, image: String, result: Result<bool, Failure>) -> Urgency {
        self.world.in_flight.remove(&ActionKey::Image(image.clone()));
        match result {
            Ok(true) => self.world.images.insert(image, ImageState::Present { pulled_at: None }),
            Ok(false) => self.world.images.insert(image, ImageState::Absent { at: self.parts.clock.now().tick }),
            Err(failure) => {
                self.learn(&failure);
                self.world.images.remove(&image)
            }
        };
        Urgency::Now
    }

    fn take_image_pull(&mut self, image: String, result: Result<(), (Failure, bool)>) -> Urgency {
        self.world.in_flight.remove(&ActionKey::Image(image.clone()));
        self.pulls.image_ended(&image);
        let tick = self.parts.clock.now().tick;
        let state = match result {
            Ok(()) => {
                info!(image, "image is here");
                self.image_failures.remove(&image);
                ImageState::Present { pulled_at: Some(tick) }
            }
            Err((failure, present)) => {
                self.learn(&failure);
                if present {
                    warn!(
                        image,
                        error = failure.message,
                        "the image could not be pulled; the copy on this machine is used"
                    );
                }
                let failures = self.image_failures.entry(image.clone()).or_default();
                *failures += 1;
                ImageState::Failed {
                    message: failure.message,
                    transient: !failure.permanent,
                    failures: *failures,
                    at: tick,
                    present,
                }
            }
        };
        self.world.images.insert(image, state);
        Urgency::Now
    }

    fn take_container(&mut self, action: &Action, result: Result<Option<Container>, Failure>) -> Urgency {
        let key = action.key();
        self.world.in_flight.remove(&key);
        self.world.note_ended(action, self.parts.clock.now());
        let ActionKey::Container(name) = key else { return Urgency::Never };
        self.serial += 1;
        self.touched.insert(name.clone(), self.serial);
        match result {
            Ok(Some(container)) => {
                if let Action::Rouse(order) = action {
                    self.world.memory.note_roused(order);
                }
                // An action ended well: whatever the engine refused before is over.
                self.world.memory.refusals.remove(&name);
                if let Some(fact) = observe::fact(&container) {
                    self.take_fact(fact);
                }
            }
            Ok(None) => {
                self.world.containers.remove(&name);
                self.world.memory.forget_container(&name);
            }
            Err(failure) => {
                self.learn(&failure);
                self.list_again = true;
                let known = self.world.memory.refusals.get(&name).or(self.world.memory.stuck.get(&name));
                if known.is_none_or(|known| known.message != failure.message) {
                    warn!(container = name, error = failure.message, "the engine did not do it");
                }
                let now = self.parts.clock.now();
                if failure.lesson == Lesson::None {
                    self.world.memory.note_failure(action, failure.message, failure.permanent, now);
                }
            }
        }
        Urgency::Now
    }

    fn learn(&mut self, failure: &Failure) {
        match &failure.lesson {
            Lesson::None => {}
            Lesson::EngineDown => self.list_again = true,
            Lesson::ImageGone(image) => {
                self.world.images.remove(image);
            }
            Lesson::ModelGone => {
                self.world.models.retain(|_, state| !matches!(state, ModelState::Present { .. }));
                self.look_up_models();
            }
        }
    }

    fn take_probe(&mut self, order: &ProbeOrder, result: Result<(), String>) -> Urgency {
        self.world.in_flight.remove(&ActionKey::Probe(order.name.clone(), order.kind));
        let failed = result.is_err();
        let now = self.parts.clock.now();
        let changed = self.world.memory.note_check(order, result, now);
        match (changed, failed) {
            (true, _) => Urgency::Now,
            // Still loading: the next look is due in milliseconds, and so are those at others.
            (false, true) => Urgency::Soon,
            (false, false) => Urgency::Gather,
        }
    }

    fn take_repository(&mut self, order: &RepositoryOrder, result: Result<BTreeMap<String, Held>, Failure>) -> Urgency {
        self.world.in_flight.remove(&ActionKey::Repository(order.name.clone()));
        let result = result.map_err(|failure| {
            self.learn(&failure);
            failure.message
        });
        let now = self.parts.clock.now();
        trained::say(&self.parts.events, &self.world, order, &result, now);
        self.world.memory.note_repository(order, result, now);
        Urgency::Now
    }

    /// Takes up the TrainedModels that are desired. One that was changed gets a fresh try at once.
    fn take_trained(&mut self, snapshot: &crate::store::Snapshot) {
        let next = self.resolver.trained(snapshot);
        for uri in trained::changed(&self.world.trained, &next) {
            if let Some(state @ ModelState::Failed { .. }) = self.world.models.get_mut(&uri) {
                *state = ModelState::Absent;
            }
            self.model_failures.remove(&uri);
        }
        self.world.trained = next;
    }

    /// A backend refused a connection: every readiness check is due. Not more often than makes sense: whoever calls a
    /// dead backend again and again rings each time.
    fn check_again(&mut self) -> Urgency {
        let tick = self.parts.clock.now().tick;
        if tick < self.last_check_again + CHECK_AGAIN {
            return Urgency::Never;
        }
        self.last_check_again = tick;
        self.list_again = true;
        for memory in self.world.memory.containers.values_mut() {
            for kind in [ProbeKind::Readiness, ProbeKind::Model] {
                if let Some(probe) = memory.probes.get_mut(&kind) {
                    probe.last = None;
                }
            }
        }
        Urgency::Now
    }

    /// Asks the engine for its containers, once at a time.
    fn ask_for_list(&mut self) {
        let tick = self.parts.clock.now().tick;
        let rest = if self.world.engine == EngineState::Up { RELIST } else { RELIST_DOWN };
        let due = match self.world.engine {
            EngineState::Down { .. } => tick >= self.last_list + RELIST_DOWN,
            _ => self.list_again || tick >= self.last_list + rest,
        };
        if self.listing || !due {
            return;
        }
        self.listing = true;
        self.asked_at = tick;
        self.list_again = false;
        let (engine, sender, asked) = (Arc::clone(&self.parts.executor.engine), self.sender.clone(), self.serial);
        self.parts.tasks.spawn_droppable("list", async move {
            let result = engine.list().await;
            // The driver is gone: nobody needs the list.
            let _ = sender.send(Fact::Listed { asked, result }).await;
        });
    }

    /// Measures the machine, once at a time.
    fn ask_for_measure(&mut self) {
        let Some(containers) = self.rounds.begin(&self.world, self.parts.clock.now().tick) else { return };
        let (meter, sender) = (self.parts.meter.clone(), self.sender.clone());
        self.parts.tasks.spawn_droppable("measure", async move {
            let measured = meter.measure(containers).await;
            // The driver is gone: nobody needs the numbers.
            let _ = sender.send(Fact::Measured(measured)).await;
        });
    }

    /// One pass: observe, plan, publish, dispatch. Returns when to plan again.
    fn pass(&mut self) -> Duration {
        let now = self.parts.clock.now();
        notice::read(&self.parts.board, &mut self.world, now.tick);
        self.pulls.note(&mut self.world, now.tick);
        let plan = plan(&self.world, now);
        self.publish(&plan, now);
        let wake = plan.wake_at;
        self.remember(&plan, now);
        for action in plan.actions {
            debug!(%action, "doing");
            self.dispatch(action);
        }
        let owner = (self.parts.executor.instance.as_str(), &self.parts.home);
        let over = self.claims.let_go(&self.parts.cache, owner, now.tick);
        let wake = wake.into_iter().chain(over).min();
        let pulls = !self.pulls.is_empty();
        let rest = match (self.world.engine == EngineState::Up, pulls) {
            (_, true) => PROGRESS,
            (true, false) => RELIST,
            (false, false) => RELIST_DOWN,
        };
        let measure = self.rounds.next(&self.world);
        wake.unwrap_or(Duration::MAX).min(now.tick + rest).min(measure)
    }

    fn publish(&self, plan: &Plan, now: crate::plan::Now) {
        if self.world.desired_known && *self.parts.routes.load_full() != plan.routes {
            self.parts.routes.store(Arc::new(plan.routes.clone()));
            self.parts.board.announce_table();
        }
        said::publish(&self.parts.store, &self.parts.events, plan, now.wall);
        self.parts.pulls.send_replace(pulls::samples(&self.world));
        let pods = Arc::new(plan.pods.clone());
        self.parts.pods.send_if_modified(|current| {
            let differs = *current != pods;
            *current = pods;
            differs
        });
    }

    /// Shows who holds what, and why.
    fn show_room(&self, plan: &Plan) {
        let view = RoomView {
            machine: plan.machine.clone(),
            rows: plan.rows.clone(),
            explanations: self.world.memory.explanations.clone(),
            histories: ps::histories(&self.world),
        };
        self.parts.room.send_replace(Arc::new(view));
    }

    fn remember(&mut self, plan: &Plan, now: crate::plan::Now) {
        self.world.memory.note_plan(plan, now);
        self.show_room(plan);
        self.world.tidy(now);
        self.parts.board.retain(|name| self.world.containers.values().any(|fact| fact.replica.as_ref() == name));
        if self.world.memory.revisions != self.saved_revisions || std::mem::take(&mut self.sources_changed) {
            self.save_revisions();
        }
    }

    fn save_revisions(&mut self) {
        self.saved_revisions.clone_from(&self.world.memory.revisions);
        let bytes = super::revisions::to_bytes(&self.world.memory);
        let path = self.parts.home.revisions();
        if let Err(error) = write_atomically(&path, &bytes, 0o600) {
            warn!(%path, %error, "could not save the revisions");
        }
    }

    fn dispatch(&mut self, action: Action) {
        let key = action.key();
        self.world.in_flight.insert(key.clone());
        self.serial += 1;
        if let ActionKey::Container(name) = &key {
            self.touched.insert(name.clone(), self.serial);
        }
        let (executor, sender, tasks) = (self.parts.executor.clone(), self.sender.clone(), self.parts.tasks.clone());
        let done = async move |fact: Fact| {
            // The driver is gone: its successor finds out by looking.
            let _ = sender.send(fact).await;
        };
        match action {
            Action::PullModel { uri } => {
                let progress = self.pulls.model(&uri);
                let cancel = tasks.token();
                let access = access::of_model(&self.world, &uri);
                tasks.spawn("pull-model", async move {
                    let result = executor.pull_model(&uri, &access, progress, cancel).await;
                    done(Fact::Model { uri, result }).await;
                });
            }
            Action::CheckImage { image } => {
                tasks.spawn_droppable("check-image", async move {
                    let result = executor.engine.image_present(&image).await.map_err(Failure::from);
                    done(Fact::ImageChecked { image, result }).await;
                });
            }
            Action::PullImage { image } => {
                let progress = self.pulls.image(&image);
                let logins = access::of_image(&self.world, &image);
                tasks.spawn_droppable("pull-image", async move {
                    let result = executor.pull_image(&image, &logins, progress).await;
                    done(Fact::ImagePulled { image, result }).await;
                });
            }
            Action::LimitCpu { id, name, milli, run } => {
                tasks.spawn_droppable("limit", async move {
                    let result = executor.engine.limit_cpu(&ContainerId(id), milli).await;
                    done(Fact::Limited { name, run, result }).await;
                });
            }
            Action::Repository(order) => {
                // What it was doing is found half done, and is done anew.
                tasks.spawn_droppable("repository", async move {
                    let result = executor.repository(&order).await;
                    done(Fact::Repository { order, result }).await;
                });
            }
            Action::Probe(order) => {
                tasks.spawn_droppable("probe", async move {
                    let result = executor.probe(&order).await;
                    done(Fact::Probed { order, result }).await;
                });
            }
            action => {
                let last = self.note_container_action(&action);
                tasks.spawn_droppable("container", async move {
                    let result = executor.container(&action, last).await;
                    done(Fact::Container { action: Box::new(action), result }).await;
                });
            }
        }
    }

    /// Notes what is about to be done to a container. Says whether it is the last of its replica to be removed.
    fn note_container_action(&mut self, action: &Action) -> bool {
        match action {
            Action::Start { name, .. } => {
                if matches!(self.world.containers.get(name).map(|fact| &fact.state), Some(FactState::Exited(_))) {
                    self.world.memory.note_restart(name);
                }
                false
            }
            Action::Stop { name, .. } => {
                self.world.memory.note_stop(name);
                false
            }
            Action::Doze(order) => {
                self.world.memory.note_doze(order);
                false
            }
            Action::Remove { name, replica, .. } => !self
                .world
                .containers
                .values()
                .any(|fact| fact.replica == *replica && fact.name != *name && !fact.is_sandbox()),
            _ => false,
        }
    }
}

/// Waits until then, or for ever.
async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
