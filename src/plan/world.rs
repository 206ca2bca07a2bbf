//! The snapshot everything is decided from.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::admission::Grant;
use super::ledger::{Machine, MemoryConfig, Used};
use super::memory::Memory;
use super::presence::{self, Presence};
use super::record::ReplicaRecord;
use super::refresh::SourceNote;
use super::trained::TrainedModel;
use super::{Action, ActionKey, routes::ReplicaName};
use crate::api::{Kind, Metadata, ObjectKey, ServiceKey, StorageUri};
use crate::graph::{CompileError, Graph};
use crate::workload::{ComponentKey, Fingerprint, ModelRef, ResolveError, Workload, names};

/// The time of a pass: monotonic for arithmetic, wall for people.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Now {
    /// Since the daemon started; never goes back, whatever the clock does.
    pub tick: Duration,
    /// The wall clock.
    pub wall: Timestamp,
}

impl Now {
    /// Returns the time `seconds` after a fixed origin, for tests.
    pub fn at(seconds: f64) -> Self {
        let tick = Duration::from_secs_f64(seconds);
        Self { tick, wall: Timestamp::UNIX_EPOCH + jiff::SignedDuration::try_from(tick).unwrap_or_default() }
    }
}

/// Everything that is known.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Name of this instance; in container names and labels.
    pub instance: String,
    /// What is wanted.
    pub services: BTreeMap<ServiceKey, Arc<DesiredService>>,
    /// Graphs that are wanted.
    pub graphs: BTreeMap<ServiceKey, Arc<DesiredGraph>>,
    /// LLMInferenceServices whose name an InferenceService has, too: they are not served.
    pub shadowed: Vec<(ServiceKey, i64)>,
    /// Models that servers are to load, by the InferenceService they name; the oldest first.
    pub trained: BTreeMap<ServiceKey, Vec<Arc<TrainedModel>>>,
    /// False until the folder was read once: nothing is removed before.
    pub desired_known: bool,
    /// What earlier revisions were made from, as far as that is still known: those that keep a share of traffic are made
    /// again from it.
    pub older: BTreeMap<ComponentKey, BTreeMap<u32, ResolvedWorkload>>,
    /// Containers that are ours, by name.
    pub containers: BTreeMap<String, ContainerFact>,
    /// False until the engine listed its containers once, and while it does not answer.
    pub engine: EngineState,
    /// Models that were asked for.
    pub models: HashMap<StorageUri, ModelState>,
    /// Sources of models that are refreshed, without versions.
    pub sources: HashMap<StorageUri, SourceNote>,
    /// Models that are fetched before anyone needs them.
    pub kept: Vec<KeptModel>,
    /// Images that were asked for.
    pub images: HashMap<String, ImageState>,
    /// Whether the engine can limit the processor of a container that runs.
    pub limits_later: bool,
    /// Whether the engine can hold a network for others, as sandboxes do.
    pub holds_networks: bool,
    /// Requests in flight per replica, health checks included: none of these is stopped.
    pub leases: HashMap<ReplicaName, u64>,
    /// Replicas that answer somebody who is no health check: these keep their service awake.
    pub wanted: HashSet<ReplicaName>,
    /// Requests that wait for a component to answer.
    pub waiting: BTreeMap<ComponentKey, u64>,
    /// The machine the models run on.
    pub machine: Machine,
    /// What containers use, by name, as last measured.
    pub used: HashMap<String, Used>,
    /// When the last list of containers was asked for, in ticks.
    pub listed_at: Option<Duration>,
    /// Actions under way.
    pub in_flight: HashSet<ActionKey>,
    /// What passes remember.
    pub memory: Memory,
    /// Settings.
    pub config: PlanConfig,
}

impl World {
    /// Forgets what is remembered of containers, services and attempts that are gone, so that memory does not grow for
    /// ever. Does nothing while the folder or the engine has not been read. Returns true when revisions changed and the
    /// ledger is to be saved.
    pub fn tidy(&mut self, now: Now) -> bool {
        if !self.desired_known || self.engine != EngineState::Up {
            return false;
        }
        self.tidy_grants(now);
        let Self { containers, services, in_flight, memory, used, .. } = self;
        used.retain(|name, _| containers.get(name).is_some_and(ContainerFact::holds_memory));
        if memory.explanations.keys().any(|key| !services.contains_key(key)) {
            Arc::make_mut(&mut memory.explanations).retain(|key, _| services.contains_key(key));
        }
        let exists = |name: &String| containers.contains_key(name);
        memory.containers.retain(|name, _| exists(name) || in_flight.contains(&ActionKey::Container(name.clone())));
        memory.stuck.retain(|name, _| exists(name));
        memory.repositories.retain(|name, _| exists(name));
        memory.tidy_vanished(exists, now);
        memory.removing.retain(|name, _| exists(name));
        memory.refusals.retain(|name, refusal| exists(name) || now.tick <= refusal.at + REFUSAL_KEPT);
        memory.tidy_dozing(containers);
        memory.preloaded.retain(|key| services.contains_key(key));
        let inhabited: HashSet<&ComponentKey> = containers.values().map(|fact| &fact.component).collect();
        let before = memory.revisions.len();
        memory.revisions.retain(|key, _| services.contains_key(&key.service) || inhabited.contains(key));
        memory.activity.retain(|key, _| services.contains_key(key));
        memory.sources.retain(|key, _| services.contains_key(&key.service) || inhabited.contains(key));
        memory.begun.retain(|key, _| services.contains_key(&key.service));
        memory.revisions.len() != before
    }
}

impl World {
    /// Notes when the engine was asked for the list that has just come. Returns true when it is the first that tells what
    /// became of room that was granted: who waits for that room need not wait for anything else to change.
    pub fn note_listed(&mut self, asked_at: Duration) -> bool {
        let before = self.listed_at.replace(asked_at);
        let is_told = |grant: &Grant| grant.at < asked_at && before.is_none_or(|before| before <= grant.at);
        self.memory.granted.values().any(is_told)
    }

    /// Forgets room that was granted to what is not there and not on its way. Returns true when there was any.
    pub fn tidy_grants(&mut self, now: Now) -> bool {
        let mut granted = std::mem::take(&mut self.memory.granted);
        let before = granted.len();
        let presence = Presence::of(self);
        granted.retain(|replica, grant| {
            // What was ordered before a restart has landed: from now on its container tells the rest.
            if presence.is_there(replica) {
                grant.at = grant.at.min(now.tick);
            }
            presence.is_pending(replica, grant)
        });
        self.memory.granted = granted;
        self.memory.granted.len() != before
    }

    /// Notes that an action has ended, well or not: if it was a start, only a list that is asked for from now on shows
    /// whether the container is there.
    pub fn note_ended(&mut self, action: &Action, now: Now) {
        let ActionKey::Container(name) = action.key() else { return };
        if !action.is_start() {
            return;
        }
        let Self { memory, instance, .. } = self;
        for (replica, grant) in &mut memory.granted {
            if presence::is_of(instance, replica, &name) {
                grant.at = grant.at.max(now.tick);
            }
        }
    }
}

/// Longer than the longest wait between two attempts.
const REFUSAL_KEPT: Duration = Duration::from_secs(600);

/// Settings of the planner.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanConfig {
    /// Domains of public hosts; the first is used in `status.url`.
    pub domains: Vec<String>,
    /// Port of the data plane, for URLs; left out when 80.
    pub data_port: u16,
    /// Containers started at once.
    pub starts_at_once: usize,
    /// Longest wait for requests in flight before a replica is stopped all the same.
    pub drain_deadline: Duration,
    /// Deployment mode of services that name none.
    pub default_mode: String,
    /// Besides the window, the time nobody must have asked before a service that may sleep does
    /// (`scale-to-zero-grace-period`).
    pub scale_to_zero_grace: Duration,
    /// Revisions kept per component, to go back to.
    pub history_limit: usize,
    /// Of the hours in which services are kept warm: the machine's own.
    pub time_zone: TimeZone,
    /// Containers that hold the network of a replica.
    pub sandboxes: SandboxConfig,
    /// Of memory.
    pub memory: MemoryConfig,
}

/// Settings of the containers that hold the network of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxConfig {
    /// Whether there are any where they only save time.
    pub enabled: bool,
    /// How many services keep theirs while they sleep; of more, those that were asked for last.
    pub asleep: usize,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self { enabled: true, asleep: 20 }
    }
}

impl Default for PlanConfig {
    fn default() -> Self {
        Self {
            domains: vec!["example.com".to_owned(), "localhost".to_owned()],
            data_port: 8080,
            starts_at_once: 4,
            drain_deadline: Duration::from_secs(300),
            default_mode: "Knative".to_owned(),
            scale_to_zero_grace: Duration::from_secs(30),
            history_limit: 10,
            time_zone: TimeZone::UTC,
            sandboxes: SandboxConfig::default(),
            memory: MemoryConfig::default(),
        }
    }
}

/// A model that an object wants fetched and kept.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptModel {
    /// The object.
    pub key: ObjectKey,
    /// What it names.
    pub model: ModelRef,
}

/// One InferenceService or LLMInferenceService as wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredService {
    /// Its name.
    pub key: ServiceKey,
    /// Which of the two it is.
    pub kind: Kind,
    /// Its metadata.
    pub meta: Metadata,
    /// Its components, or why they cannot be.
    pub resolution: Result<Vec<ResolvedWorkload>, ResolveError>,
    /// Named canaries of its predictor.
    pub canaries: Vec<DesiredCanary>,
}

impl DesiredService {
    /// Returns everything of it that can run: its components, then its canaries.
    pub fn workloads(&self) -> impl Iterator<Item = &ResolvedWorkload> {
        let components = self.resolution.as_deref().unwrap_or_default().iter();
        components.chain(self.canaries.iter().filter_map(|canary| canary.resolution.as_ref().ok()))
    }

    /// Returns the same as they are written, without fingerprints.
    pub fn parts(&self) -> impl Iterator<Item = &Workload> {
        self.workloads().map(|resolved| resolved.workload.as_ref())
    }
}

/// One named canary as wanted (`spec.canary[]`).
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredCanary {
    /// Its name.
    pub name: String,
    /// Percent of the traffic that is to be its.
    pub percent: u32,
    /// What it runs, or why it cannot.
    pub resolution: Result<ResolvedWorkload, ResolveError>,
}

impl DesiredService {
    /// Returns the key of the object it is of.
    pub fn object_key(&self) -> ObjectKey {
        self.key.to_key_of(self.kind)
    }
}

/// One InferenceGraph as wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredGraph {
    /// Its name.
    pub key: ServiceKey,
    /// Its metadata.
    pub meta: Metadata,
    /// What it does, or why it cannot.
    pub graph: Result<Graph, CompileError>,
}

/// A component with its fingerprint.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedWorkload {
    /// The component.
    pub workload: Arc<Workload>,
    /// What its containers would be.
    pub fingerprint: Fingerprint,
}

/// Whether the engine answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EngineState {
    /// Not asked yet.
    #[default]
    Unknown,
    /// It answered the last question.
    Up,
    /// It does not; what was known stays known.
    Down {
        /// In words for a person.
        message: String,
    },
}

/// One container of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerFact {
    /// The engine's id.
    pub id: String,
    /// The engine's name.
    pub name: String,
    /// Component it serves.
    pub component: ComponentKey,
    /// Name of the replica.
    pub replica: ReplicaName,
    /// KServe's name of the component's service.
    pub service_name: String,
    /// Revision number.
    pub revision: u32,
    /// Ordinal of the replica.
    pub ordinal: u32,
    /// Fingerprint of its workload.
    pub fingerprint: String,
    /// Name within the replica.
    pub container: String,
    /// Image.
    pub image: String,
    /// What it is doing.
    pub state: FactState,
    /// How its ports are reached.
    pub reach: FactReach,
    /// GPUs its replica was given, by UUID.
    pub gpus: Vec<String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// What must be known of its replica.
    pub record: Arc<ReplicaRecord>,
    /// Id of the sandbox whose network it shares.
    pub sandbox: Option<String>,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum FactState {
    /// Made, not started.
    Created,
    /// Running.
    Running {
        /// Since when, if the engine told.
        started_at: Option<Timestamp>,
    },
    /// Paused by someone.
    Paused,
    /// Ended.
    Exited(ExitFact),
    /// On its way out.
    Removing,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExitFact {
    /// Exit code; 128 + signal when killed.
    pub code: i64,
    /// Whether it, or a child of it, was killed for memory.
    pub out_of_memory: bool,
    /// Its memory limit in bytes, when it was killed and memory is the most likely cause, though nobody says so.
    pub killed_under_limit: Option<u64>,
    /// The engine's words when it could not be started.
    pub error: String,
    /// When.
    pub finished_at: Option<Timestamp>,
}

impl ExitFact {
    /// Whether it was killed for memory, for certain or most likely.
    pub fn is_memory_death(&self) -> bool {
        self.out_of_memory || self.killed_under_limit.is_some()
    }

    /// Whether what it used at most speaks against memory as the cause of a kill that nobody explains.
    pub fn is_refuted_by(&self, peak: Option<u64>) -> bool {
        let far_below = |limit| peak.is_some_and(|peak| peak > 0 && peak < limit / 2);
        !self.out_of_memory && self.killed_under_limit.is_some_and(far_below)
    }
}

/// How a container's ports are reached from here.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum FactReach {
    /// Not at all.
    #[default]
    None,
    /// At its own address.
    Address(IpAddr),
    /// At loopback ports: container port to host port.
    Published(BTreeMap<u16, u16>),
}

impl FactReach {
    /// Returns the socket address that leads to a container port.
    pub fn to(&self, port: u16) -> Option<SocketAddr> {
        match self {
            Self::None => None,
            Self::Address(address) => Some(SocketAddr::new(*address, port)),
            Self::Published(ports) => ports.get(&port).map(|host| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *host)),
        }
    }
}

impl ContainerFact {
    /// Whether it runs, or is paused.
    pub fn holds_memory(&self) -> bool {
        matches!(self.state, FactState::Running { .. } | FactState::Paused)
    }

    /// Whether it holds the network of its replica and does nothing else.
    pub fn is_sandbox(&self) -> bool {
        self.container == names::SANDBOX
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self.state, FactState::Running { .. })
    }
}

/// What is known of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelState {
    /// Not in the cache.
    Absent,
    /// Being fetched; how far is for people.
    Pulling(PullNote),
    /// Whole.
    Present {
        /// Bytes.
        size: u64,
    },
    /// The last pull failed.
    Failed {
        /// In words for a person, cause included.
        message: String,
        /// Whether trying again is any use.
        transient: bool,
        /// Failures in a row.
        failures: u32,
        /// Time of the last.
        at: Duration,
    },
}

/// How far a pull is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullNote {
    /// Bytes so far.
    pub done: u64,
    /// Bytes in all; 0 while unknown.
    pub total: u64,
    /// Bytes per second; 0 while unknown.
    pub rate: u64,
    /// A word, for example `downloading`.
    pub phase: String,
}

/// What is known of an image.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageState {
    /// On this machine.
    Present {
        /// When it was last pulled by us, for policy `Always`.
        pulled_at: Option<Duration>,
    },
    /// Not on this machine.
    Absent {
        /// When that was found out.
        at: Duration,
    },
    /// Whether it is on this machine could not be found out.
    Unseen {
        /// In words for a person.
        message: String,
        /// Whether looking again is any use soon.
        transient: bool,
        /// Failures in a row.
        failures: u32,
        /// Time of the last.
        at: Duration,
    },
    /// Being pulled.
    Pulling(PullNote),
    /// The last pull failed.
    Failed {
        /// In words for a person.
        message: String,
        /// Whether trying again is any use soon.
        transient: bool,
        /// Failures in a row.
        failures: u32,
        /// Time of the last.
        at: Duration,
        /// Whether an older copy is on this machine.
        present: bool,
    },
}
