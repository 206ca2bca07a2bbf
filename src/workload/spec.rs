//! What should run, in no engine's words.
//!
//! A [`Workload`] is one component of one InferenceService, fully resolved: nothing in it needs the manifest, the
//! catalogue of runtimes or KServe's rules any more. An engine turns a [`ContainerSpec`] into a container; the planner
//! compares workloads by [`Fingerprint`](super::Fingerprint).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::api::{ComponentKind, ServiceKey, StorageUri};
use crate::scale::Policy;

use super::{Access, Extras, ModelServer};

/// Names one component of one service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComponentKey {
    /// The InferenceService.
    pub service: ServiceKey,
    /// The component.
    pub component: ComponentKind,
}

impl std::fmt::Display for ComponentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.service, self.component)
    }
}

/// One component, ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Whose it is.
    pub component: ComponentKey,
    /// KServe's name of the component's service and workload: `{isvc}-predictor`, `{isvc}-{name}-predictor`, … (§0.1).
    pub service_name: String,
    /// Run to completion, in order, before the containers start.
    pub init_containers: Vec<ContainerSpec>,
    /// Run together, sharing one network namespace. Never empty; [`Workload::entry`] tells which one is called.
    pub containers: Vec<ContainerSpec>,
    /// Models to be present before anything starts; mounts refer to them by position.
    pub models: Vec<ModelRef>,
    /// Pod labels.
    pub labels: BTreeMap<String, String>,
    /// Pod annotations.
    pub annotations: BTreeMap<String, String>,
    /// Where requests go.
    pub entry: EntryPoint,
    /// Protocol the component speaks, for the readiness check and graphs; `""` when the runtime lists none.
    pub protocol: String,
    /// Name under which the server knows the model; the service's name unless arguments or environment say otherwise.
    pub model_name: String,
    /// Other names its models are called by.
    pub aliases: Vec<String>,
    /// What the proxy does for it besides forwarding.
    pub extras: Extras,
    /// What proves that the component answers.
    pub readiness: Readiness,
    /// Between the stop signal and the kill.
    pub termination_grace: Duration,
    /// Longest time a request may take; none means no limit was asked for and the proxy's default applies.
    pub timeout: Option<Duration>,
    /// Hard limit of requests in flight per replica.
    pub container_concurrency: Option<u32>,
    /// Percent of traffic for the newest revision (`canaryTrafficPercent`), at most 100; none means all once it answers.
    pub canary_percent: Option<u32>,
    /// Name of the canary it is (`spec.canary[].predictor.name`); none for components of their own.
    pub canary: Option<String>,
    /// How many replicas are wanted.
    pub scaling: Policy,
    /// Size of `/dev/shm` when an in-memory volume is mounted there and states one.
    pub shm_size: Option<u64>,
    /// Extra hosts entries, address to names.
    pub host_aliases: Vec<(String, Vec<String>)>,
    /// Names under which its containers find the components of their own service, at port 80: of transformers and
    /// explainers. Empty when they call nobody.
    pub callees: Vec<String>,
    /// Names of Secrets with registry credentials.
    pub image_pull_secrets: Vec<String>,
    /// What those Secrets hold.
    pub image_access: Access,
    /// Account whose Secrets hold the storage credentials.
    pub service_account: String,
    /// The runtime that was chosen, for a model predictor.
    pub runtime: Option<RuntimeRef>,
    /// How it loads models while it runs, when it is a server that does.
    pub model_server: Option<ModelServer>,
    /// Whether somebody wrote down what memory it needs: the manifest, or a runtime that did not come with this program.
    pub memory_is_declared: bool,
    /// Name of its priority class.
    pub priority_class: Option<String>,
    /// Things in the manifest that mean nothing on one machine, with their field paths.
    pub warnings: Vec<String>,
}

/// The runtime that serves a model predictor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuntimeRef {
    /// Name of the runtime.
    pub name: String,
    /// Whether it is a ClusterServingRuntime.
    pub cluster: bool,
    /// Which server it is, by annotation or known name.
    pub server_type: Option<String>,
}

/// A model to be present before the containers start.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelRef {
    /// Where it is.
    pub uri: StorageUri,
    /// The URI as the user wrote it, for messages.
    pub written: String,
    /// What it is fetched with, besides the user's own environment.
    pub access: Access,
}

/// Where requests to a component go.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EntryPoint {
    /// Port within the shared network namespace (§4.4: first declared port of `transformer-container`, else of the first
    /// container, else 8080).
    pub port: u16,
    /// How the port is spoken to.
    pub protocol: UpstreamProtocol,
    /// Another declared port that speaks gRPC (its name says `grpc` or `h2c`), when the first one does not.
    pub grpc_port: Option<u16>,
}

/// How a container port is spoken to (§4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    H2c,
}

/// What proves that a component answers (§4.5; never an open port alone when the server is known).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Readiness {
    /// The probe of the serving container, as written in the manifest or runtime.
    Declared,
    /// The model's own endpoint: `GET` this path must answer 200 (and, for V1, `"ready": true`).
    ModelEndpoint {
        /// Path, for example `/v1/models/iris` or `/v2/models/iris/ready`.
        path: String,
    },
    /// Any of the paths must answer 200: for servers known to speak HTTP but not by which protocol.
    AnyOf {
        /// Tried in order.
        paths: Vec<String>,
    },
    /// gRPC health of the open inference protocol (`ModelReady`) on an h2c port.
    GrpcModelReady {
        /// Model to ask for.
        model: String,
    },
    /// The port accepts a connection: for custom containers that declare nothing.
    PortOpen,
}

/// One container, in no engine's words.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ContainerSpec {
    /// `kserve-container`, `transformer-container`, or a sidecar's own.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// When to pull.
    pub pull_policy: PullPolicy,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's command when not empty.
    pub args: Vec<String>,
    /// Environment in order; names are unique.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// Declared ports.
    pub ports: Vec<Port>,
    /// Mounts, unique by path.
    pub mounts: Vec<Mount>,
    /// Limits and requests.
    pub resources: Resources,
    /// Security settings.
    pub security: Security,
    /// Kubernetes' three probes, defaults filled in.
    pub probes: Probes,
    /// Run before the stop signal.
    pub pre_stop: Option<Hook>,
    /// Keep stdin open.
    pub stdin: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// Whether this container uses its server's own process count, and so on, is the image's business; this is the
    /// signal that stops it when the image names none.
    pub stop_signal: Option<String>,
    /// How it runs without a container; only set when the engine runs processes, and `image` then names the recipe.
    pub process: Option<ProcessSpec>,
}

/// How a container of the spec runs as a process of this machine. Command, arguments and environment of the spec are
/// already the recipe's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// The runtime whose recipe this is, for messages.
    pub recipe: String,
    /// What it runs in or needs.
    pub program: Program,
    /// Every port the server listens on, with what sets it.
    pub ports: Vec<PortSetting>,
}

/// What a process needs on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Program {
    /// A Python environment.
    Python(PythonEnvironment),
    /// A program on the PATH.
    Executable {
        /// Its name.
        name: String,
        /// How to get it.
        hint: String,
    },
}

impl Default for Program {
    fn default() -> Self {
        Self::Executable { name: String::new(), hint: String::new() }
    }
}

/// A Python environment: which Pythons will do, and what is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PythonEnvironment {
    /// Range of versions, for example `>=3.11,<3.14`.
    pub python: String,
    /// A shipped list of packages: its name and the digest of its text.
    pub lock: Option<(String, String)>,
    /// Packages of the recipe's own, each with version and hashes.
    pub packages: Vec<String>,
    /// A shipped module: its name and the digest of its files.
    pub module: Option<(String, String)>,
}

/// A port a process listens on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortSetting {
    /// The port when nothing sets it.
    pub port: u16,
    /// The argument that sets it.
    pub arg: Option<String>,
    /// The variable that sets it.
    pub env: Option<String>,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// When it is not here.
    #[default]
    IfNotPresent,
    /// Never.
    Never,
}

/// A declared port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Port {
    /// Name, may be empty.
    pub name: String,
    /// Number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub path: String,
    /// What is there.
    pub source: MountSource,
    /// Path within the source.
    pub sub_path: Option<String>,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum MountSource {
    /// The model at this position of [`Workload::models`].
    Model(usize),
    /// Several models in one folder, later ones over earlier ones.
    Together {
        /// The models, in order.
        layers: Vec<Layer>,
        /// Folders to be made besides, for mounts within.
        folders: Vec<String>,
    },
    /// A folder that lives as long as the replica, shared by name within it.
    EmptyDir {
        /// Volume name.
        volume: String,
        /// In memory (tmpfs).
        memory: bool,
        /// Size limit in bytes.
        size_limit: Option<u64>,
    },
    /// Files with these contents (ConfigMap, Secret), by relative path. Contents are never logged.
    Files {
        /// Volume name.
        volume: String,
        /// Path to contents.
        files: BTreeMap<String, Vec<u8>>,
        /// Mode of the files.
        mode: u32,
    },
    /// `volumes/<namespace>/<claim>` of the home.
    Claim {
        /// Namespace.
        namespace: String,
        /// Claim name.
        claim: String,
    },
    /// A folder of this machine; refused unless the operator's configuration allows it.
    HostPath {
        /// Absolute path.
        path: String,
    },
}

/// One of several models in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Layer {
    /// Position in [`Workload::models`].
    pub model: usize,
    /// Where below the folder it is; empty for the folder itself.
    pub path: String,
}

/// Limits and requests of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Resources {
    /// CPU limit in thousandths of a core.
    pub cpu_limit_milli: Option<u64>,
    /// CPU request in thousandths of a core.
    pub cpu_request_milli: Option<u64>,
    /// Memory limit in bytes.
    pub memory_limit: Option<u64>,
    /// Memory request in bytes.
    pub memory_request: Option<u64>,
    /// GPUs asked for (limits), by resource name.
    pub gpus: BTreeMap<String, u64>,
}

/// Security settings of one container; what is not listed cannot be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Security {
    /// User id.
    pub run_as_user: Option<i64>,
    /// Group id.
    pub run_as_group: Option<i64>,
    /// Refuse to start as root.
    pub run_as_non_root: bool,
    /// Root file system read-only.
    pub read_only_root_filesystem: bool,
    /// Additional groups (fsGroup and supplementalGroups).
    pub supplemental_groups: Vec<i64>,
    /// Sharing of IPC between the containers of a replica, when asked for.
    pub share_ipc: bool,
}

/// The three probes of Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Probes {
    /// Until it passes, the others wait.
    pub startup: Option<Probe>,
    /// Its failure restarts the container.
    pub liveness: Option<Probe>,
    /// Its failure takes the container out of routing.
    pub readiness: Option<Probe>,
}

/// One probe with Kubernetes' defaults filled in (period 10 s, timeout 1 s, success 1, failure 3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Probe {
    /// What is asked.
    pub check: Check,
    /// Before the first.
    pub initial_delay: Duration,
    /// Between two.
    pub period: Duration,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Successes in a row that mean success.
    pub success_threshold: u32,
    /// Failures in a row that mean failure.
    pub failure_threshold: u32,
    /// Between the stop signal and the kill when its failure ends the container; none for the container's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace: Option<Duration>,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Check {
    /// `GET`, success is 200 to 399.
    Http {
        /// `http` or `https`, lower case.
        scheme: String,
        /// Path and query.
        path: String,
        /// Port number.
        port: u16,
        /// Extra headers.
        headers: Vec<(String, String)>,
    },
    /// The port accepts a connection.
    Tcp {
        /// Port number.
        port: u16,
    },
    /// The standard gRPC health service says SERVING.
    Grpc {
        /// Port number.
        port: u16,
        /// Service to ask for, may be empty.
        service: String,
    },
    /// The command exits with 0 inside the container.
    Exec {
        /// Command and arguments.
        command: Vec<String>,
    },
}

/// What runs before the stop signal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Hook {
    /// A command inside the container.
    Exec {
        /// Command and arguments.
        command: Vec<String>,
    },
    /// A `GET` to the container.
    Http {
        /// Path.
        path: String,
        /// Port.
        port: u16,
    },
    /// A pause.
    Sleep(Duration),
}

impl Workload {
    /// Returns the container requests are sent to.
    pub fn serving_container(&self) -> &ContainerSpec {
        &self.containers[0]
    }
}
