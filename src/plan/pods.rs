//! What runs, in the shape people ask for it: one pod per replica.

use jiff::Timestamp;

use crate::workload::ComponentKey;

/// One replica, as `get pods` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// Name, unique in the namespace: `{service_name}-{revision}-{ordinal}`.
    pub name: String,
    /// Whose replica it is; the namespace is the service's.
    pub component: ComponentKey,
    /// KServe's name of the component's service.
    pub service_name: String,
    /// Revision number.
    pub revision: u32,
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// A word for the status column: `Running`, `CrashLoopBackOff`, `ImagePullBackOff`, `ContainerCreating`, …
    pub status: String,
    /// Whether it answers.
    pub ready: bool,
    /// Its containers, serving one first.
    pub containers: Vec<ContainerView>,
    /// Address of the replica, when it has one.
    pub address: Option<String>,
    /// When its first container was made.
    pub created_at: Option<Timestamp>,
}

/// One container of a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerView {
    /// Name within the replica, for example `kserve-container`.
    pub name: String,
    /// Image.
    pub image: String,
    /// The engine's id, once it exists.
    pub id: Option<String>,
    /// `waiting`, `running` or `terminated`, as the API names them.
    pub state: ContainerViewState,
    /// How often it was restarted.
    pub restarts: u32,
    /// Whether it passes its readiness check.
    pub ready: bool,
    /// Whether it runs to completion before the others.
    pub init: bool,
}

/// State of a container in the API's words.
#[derive(Clone, Debug, PartialEq)]
pub enum ContainerViewState {
    /// Not running, with a reason.
    Waiting {
        /// `ContainerCreating`, `CrashLoopBackOff`, `ErrImagePull`, ….
        reason: String,
        /// A sentence.
        message: String,
    },
    /// Running.
    Running {
        /// Since when.
        started_at: Option<Timestamp>,
    },
    /// Ended.
    Terminated {
        /// Exit code.
        exit_code: i64,
        /// `Error`, `Completed`, `OOMKilled`.
        reason: String,
        /// When.
        finished_at: Option<Timestamp>,
    },
}
