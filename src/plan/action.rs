//! The actions: what the executor does, each with its key and a one-line description.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::doze::DozeOrder;
use super::trained::RepositoryOrder;
use super::world::FactReach;
use crate::api::StorageUri;
use crate::workload::{Check, Hook, Probe, Readiness, Workload};

/// What an action works on. Two actions with equal keys never run at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ActionKey {
    /// A container, by name.
    Container(String),
    /// A check of a container, by name and kind.
    Probe(String, ProbeKind),
    /// The processor limit of a container, by name.
    Limit(String),
    /// The models a server has loaded, by the name of its container.
    Repository(String),
    /// A model.
    Model(StorageUri),
    /// The source of a model.
    Source(StorageUri),
    /// An image.
    Image(String),
}

/// Which of a container's checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Until it passes, the others wait.
    Startup,
    /// Its failure restarts the container.
    Liveness,
    /// Its failure takes the replica out of routing.
    Readiness,
    /// As readiness, but of the model itself: the check that is made although nobody declared it.
    Model,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Fetch a model into the cache.
    PullModel {
        /// The model.
        uri: StorageUri,
    },
    /// Ask a model's source whether it has something new.
    CheckModel {
        /// The model as it is used.
        uri: StorageUri,
    },
    /// Find out whether an image is on this machine.
    CheckImage {
        /// The image.
        image: String,
    },
    /// Pull an image.
    PullImage {
        /// The image.
        image: String,
    },
    /// Make and start a container.
    Create(Box<CreateOrder>),
    /// Start a container that is made or has ended.
    Start {
        /// The engine's id.
        id: String,
        /// Its name.
        name: String,
    },
    /// Run the pre-stop hook, then stop: signal, grace, kill.
    Stop {
        /// The engine's id.
        id: String,
        /// Its name.
        name: String,
        /// Between signal and kill.
        grace: Duration,
        /// Run first.
        pre_stop: Option<Hook>,
        /// How the replica's ports are reached, for an HTTP hook.
        reach: FactReach,
        /// In words for a person.
        why: String,
    },
    /// Put a container to sleep with its memory kept.
    Doze(Box<DozeOrder>),
    /// Wake one that sleeps so.
    Rouse(Box<DozeOrder>),
    /// Remove a container that does not run.
    Remove {
        /// The engine's id.
        id: String,
        /// Its name.
        name: String,
        /// Name of the replica; its scratch folders go with its last container.
        replica: Arc<str>,
    },
    /// Hold a running container to its processor limit.
    LimitCpu {
        /// The engine's id.
        id: String,
        /// Its name.
        name: String,
        /// Thousandths of a core.
        milli: u64,
        /// Which run of the container this is: when it was noted to begin.
        run: Option<Duration>,
    },
    /// Check a container once.
    Probe(Box<ProbeOrder>),
    /// Look at, load or unload a model of a running server.
    Repository(Box<RepositoryOrder>),
}

/// Everything the executor needs to make a container.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateOrder {
    /// The engine's name of it.
    pub name: String,
    /// The replica it belongs to.
    pub replica: Arc<str>,
    /// Revision number.
    pub revision: u32,
    /// Ordinal of the replica.
    pub ordinal: u32,
    /// Fingerprint of the workload.
    pub fingerprint: String,
    /// The workload it is part of.
    pub workload: Arc<Workload>,
    /// Which container of it.
    pub position: ContainerPosition,
    /// Container whose network is joined; its own when none.
    pub join: Option<String>,
    /// Whether its processor limit is applied only when its replica answers.
    pub lift_cpu: bool,
    /// Whether its replica has a sandbox: what is joined then is that, by id.
    pub sandboxed: bool,
    /// Memory its replica was given, in bytes; 0 for what holds none.
    pub memory: u64,
    /// GPUs its replica was given, by UUID; none also when the engine is to choose.
    pub gpus: Vec<String>,
}

/// Which container of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerPosition {
    /// Of the init containers.
    Init(usize),
    /// Of the containers.
    Main(usize),
    /// The container that holds the network.
    Sandbox,
}

/// One check of one container.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeOrder {
    /// When it was ordered.
    pub at: Duration,
    /// The engine's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Which check.
    pub kind: ProbeKind,
    /// What is asked.
    pub what: ProbeWhat,
    /// How the replica's ports are reached: that of the container whose network is shared.
    pub reach: FactReach,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Its schedule and thresholds, to judge the result by.
    pub probe: Probe,
    /// Which run of the container this is: when it was noted to begin.
    pub run: Option<Duration>,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeWhat {
    /// A probe as written.
    Check(Check),
    /// The readiness of the replica, on its entry port.
    Readiness(Readiness, u16),
}

impl Action {
    /// Returns what the action works on.
    pub fn key(&self) -> ActionKey {
        match self {
            Self::PullModel { uri } => ActionKey::Model(uri.clone()),
            Self::CheckModel { uri } => ActionKey::Source(uri.unversioned().clone()),
            Self::CheckImage { image } | Self::PullImage { image } => ActionKey::Image(image.clone()),
            Self::Create(order) => ActionKey::Container(order.name.clone()),
            Self::Start { name, .. } | Self::Stop { name, .. } | Self::Remove { name, .. } => {
                ActionKey::Container(name.clone())
            }
            Self::LimitCpu { name, .. } => ActionKey::Limit(name.clone()),
            Self::Doze(order) | Self::Rouse(order) => ActionKey::Container(order.name.clone()),
            Self::Probe(order) => ActionKey::Probe(order.name.clone(), order.kind),
            Self::Repository(order) => ActionKey::Repository(order.name.clone()),
        }
    }

    /// Whether the action can only be done by the engine.
    pub fn needs_engine(&self) -> bool {
        match self {
            Self::PullModel { .. } | Self::CheckModel { .. } | Self::Repository(_) => false,
            Self::Probe(order) => matches!(order.what, ProbeWhat::Check(Check::Exec { .. })),
            _ => true,
        }
    }

    /// Whether the action starts a container; engines do few of these at once.
    pub fn is_start(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Start { .. })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PullModel { uri } => write!(f, "pull model {}", uri.redacted()),
            Self::CheckModel { uri } => write!(f, "ask the source of model {}", uri.redacted()),
            Self::CheckImage { image } => write!(f, "look for image {image}"),
            Self::PullImage { image } => write!(f, "pull image {image}"),
            Self::Create(order) => write!(f, "create {}", order.name),
            Self::Start { name, .. } => write!(f, "start {name}"),
            Self::Stop { name, why, .. } => write!(f, "stop {name}: {why}"),
            Self::Doze(order) => write!(f, "put {} to sleep", order.name),
            Self::Rouse(order) => write!(f, "wake {}", order.name),
            Self::Remove { name, .. } => write!(f, "remove {name}"),
            Self::LimitCpu { name, milli, .. } => write!(f, "limit {name} to {milli}m of processor"),
            Self::Probe(order) => write!(f, "check {} of {}", order.kind, order.name),
            Self::Repository(order) => write!(f, "{} in {}", order.work, order.name),
        }
    }
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Model => "model",
        })
    }
}
