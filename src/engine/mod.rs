//! Containers: one trait, and the engines behind it.
//!
//! The engine makes no decisions. It lists what is ours (by the instance label), and does eleven things, each harmless to
//! repeat. Docker ([`docker`]), supervised processes ([`process`]) and an in-memory engine ([`memory`]) pass one conformance
//! suite (`tests/engine_conformance.rs`).
//!
//! **Invariant:** an engine touches only containers that carry this instance's label.

pub mod docker;
pub mod docker_checkup;
mod docker_connection;
mod docker_credentials;
mod docker_endings;
mod docker_error;
mod docker_events;
mod docker_exec;
mod docker_export;
pub mod docker_find;
mod docker_image;
#[cfg(test)]
mod docker_imitation;
mod docker_list;
mod docker_logs;
mod docker_memory_death;
mod docker_network;
mod docker_pause;
mod docker_sandbox;
pub mod docker_spec;
mod docker_usage;
pub mod memory;
mod memory_machine;
pub mod memory_script;
mod memory_server;
pub mod process;
mod process_changes;
mod process_folder;
mod process_limits;
mod process_logs;
mod process_ports;
mod process_prepare;
mod process_rewrite;
mod process_start;
pub mod process_supervise;
mod process_table;
#[cfg(test)]
mod process_tests;
mod process_usage;
mod usage;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use camino::Utf8PathBuf;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::workload::ContainerSpec;

pub use docker_connection::{OLDEST_API, newest_api};
pub use usage::Usage;

/// An engine's own id of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub String);

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Paused: memory kept, no CPU.
    Paused,
    /// Ended.
    Exited(Exit),
    /// Being removed, or dead to the engine.
    Removing,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + signal when killed.
    pub code: i64,
    /// Whether the kernel killed it, or a child of it, for memory.
    pub out_of_memory: bool,
    /// Its memory limit in bytes, when it was killed, nobody is known to have asked for that, and the engine does not say
    /// either that it was for memory: most likely it was.
    pub killed_under_limit: Option<u64>,
    /// The engine's own words when it could not be started.
    pub error: String,
}

/// A container as listed.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// The engine's id.
    pub id: ContainerId,
    /// Name, unique in the engine.
    pub name: String,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// Image reference it was made from.
    pub image: String,
    /// What it is doing.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// How long it runs at least, for engines whose list tells that and not since when.
    pub up_for: Option<Duration>,
    /// When it last started; engines that list without it leave it empty.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How the proxy reaches its ports.
    pub reach: Reach,
}

/// How this process reaches a container's ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Not reachable now (not running, or shares another container's network).
    #[default]
    None,
    /// At the container's own address, any port.
    Address(IpAddr),
    /// At published loopback ports: container port to host port.
    Published(BTreeMap<u16, u16>),
}

impl Reach {
    /// Returns the socket address that leads to a container port.
    pub fn socket_address(&self, port: u16) -> Option<std::net::SocketAddr> {
        match self {
            Self::None => None,
            Self::Address(address) => Some((*address, port).into()),
            Self::Published(ports) => {
                ports.get(&port).map(|host_port| (std::net::Ipv4Addr::LOCALHOST, *host_port).into())
            }
        }
    }
}

/// Everything needed to make a container.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateContainer {
    /// Deterministic name; when it is taken by a container with the same labels, that one is adopted.
    pub name: String,
    /// Labels, the instance's among them.
    pub labels: BTreeMap<String, String>,
    /// What runs.
    pub spec: ContainerSpec,
    /// Real folders and files for the spec's mounts, by position of `spec.mounts`.
    pub binds: Vec<Bind>,
    /// Whose network namespace it lives in.
    pub network: Network,
    /// Ports to publish on loopback where addresses do not reach.
    pub publish: Vec<u16>,
    /// Size of `/dev/shm`.
    pub shm_size: Option<u64>,
    /// Extra hosts entries, address to names.
    pub host_aliases: Vec<(String, Vec<String>)>,
    /// GPUs for a container that asks for some, by UUID; when empty, the engine chooses as many as it asks for.
    pub gpus: Vec<String>,
    /// Host name inside.
    pub hostname: String,
    /// Grace between stop signal and kill.
    pub stop_timeout: Duration,
}

/// A mount with its real source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// A path of this machine.
    Path {
        /// Absolute path on the host.
        source: Utf8PathBuf,
        /// Absolute path inside.
        target: String,
        /// Whether writes are refused.
        read_only: bool,
    },
    /// Memory.
    Tmpfs {
        /// Absolute path inside.
        target: String,
        /// Size in bytes.
        size: Option<u64>,
    },
}

/// Whose network namespace a container lives in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// Its own, on this instance's bridge network.
    Own,
    /// That of another container of ours, by id or name.
    Join(String),
    /// Its own, which it does nothing with but hold it for others. What runs in it is the engine's affair: of the spec only
    /// the name counts.
    Hold,
}

/// Whose problem an engine error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The manifest asks for something impossible (bad image reference, refused option).
    User,
    /// This machine: no engine, no disk, no permission.
    Machine,
    /// A registry.
    Remote,
}

/// Why the engine did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine does not answer.
    #[error("could not reach the container engine at `{endpoint}`")]
    Unreachable {
        /// Socket or URL, and how it was found.
        endpoint: String,
        /// What went wrong.
        source: std::sync::Arc<dyn std::error::Error + Send + Sync>,
    },
    /// No such container.
    #[error("container `{0}` does not exist")]
    NoSuchContainer(String),
    /// The image is neither here nor allowed to be pulled.
    #[error("image `{0}` is not on this machine")]
    ImageAbsent(String),
    /// The image could not be pulled.
    #[error("could not pull image `{image}`: {message}")]
    ImagePull {
        /// Image reference.
        image: String,
        /// The registry's or engine's words.
        message: String,
        /// True when trying again is no use (unknown image, refused credentials).
        permanent: bool,
    },
    /// What a process needs is not here and cannot be had.
    #[error("could not prepare what `{recipe}` runs in: {message}")]
    Environment {
        /// The runtime.
        recipe: String,
        /// What is wrong, and what to do.
        message: String,
        /// True when trying again is no use.
        permanent: bool,
    },
    /// The name is taken by a container that is not ours.
    #[error("the container name `{0}` is taken by a container of someone else")]
    NameTaken(String),
    /// The engine refused.
    #[error("the container engine refused to {verb} `{name}`: {message}")]
    Refused {
        /// What was asked.
        verb: &'static str,
        /// Of which container or image.
        name: String,
        /// The engine's words.
        message: String,
        /// Whose problem it is.
        blame: Blame,
    },
}

/// Progress of an image pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes so far.
    pub done: u64,
    /// Bytes in all, as far as known.
    pub total: u64,
    /// A few words, for example `extracting`.
    pub phase: String,
}

/// Which log lines are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Keep going until the container ends.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Only lines not older than this.
    pub since: Option<Timestamp>,
}

/// One line of a container's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written, when the engine knows.
    pub at: Option<Timestamp>,
    /// Whether it came from standard error.
    pub stderr: bool,
    /// The line without its end.
    pub text: String,
}

/// What the engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// `docker`, `podman`, `process`, `memory`.
    pub name: String,
    /// Version of the engine.
    pub version: String,
    /// Socket or URL, and how it was found.
    pub endpoint: String,
    /// Memory of the machine the containers run on, in bytes; 0 when the engine does not tell.
    pub memory_total: u64,
    /// Logical CPUs of that machine.
    pub cpus: u32,
    /// `linux/amd64` and the like.
    pub platform: String,
}

/// Runs containers. Every verb may be repeated without harm.
#[async_trait]
pub trait ContainerEngine: Send + Sync + 'static {
    /// Describes the engine; fails when it does not answer.
    async fn info(&self) -> Result<EngineInfo, EngineError>;
    /// Lists this instance's containers, running or not.
    async fn list(&self) -> Result<Vec<Container>, EngineError>;
    /// Makes a container and returns its id; an identical one already there is adopted.
    async fn create(&self, request: &CreateContainer) -> Result<ContainerId, EngineError>;
    /// Starts a container; one that runs is left alone.
    async fn start(&self, id: &ContainerId) -> Result<(), EngineError>;
    /// Stops a container: signal, grace, kill. One that is stopped or gone is a success.
    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError>;
    /// Pauses a container: its memory stays, it gets no CPU. One that is paused is left alone.
    async fn pause(&self, id: &ContainerId) -> Result<(), EngineError>;
    /// Lets a paused container go on; one that runs is left alone.
    async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError>;
    /// Removes a container with its anonymous volumes. One that is gone is a success.
    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError>;
    /// Whether it makes containers that hold a network for others ([`Network::Hold`]). May say no as long as it was never
    /// reached.
    fn holds_networks(&self) -> bool {
        false
    }
    /// Whether it can limit the processor of a container that runs.
    fn limits_later(&self) -> bool {
        false
    }
    /// Holds a running container to a share of the processor, in thousandths of a core. One that is gone is a success.
    async fn limit_cpu(&self, _id: &ContainerId, _milli: u64) -> Result<(), EngineError> {
        Ok(())
    }
    /// Hears what may be asked for. Engines that make by themselves what stands in for an image learn how; others need not.
    fn learn(&self, _spec: &ContainerSpec) {}
    /// Whether the image is on this machine.
    async fn image_present(&self, image: &str) -> Result<bool, EngineError>;
    /// Pulls an image, telling progress. `logins` are configurations as `docker login` writes them, from pull Secrets; they
    /// go before the user's own.
    async fn pull_image(
        &self,
        image: &str,
        logins: &[String],
        progress: watch::Sender<PullProgress>,
    ) -> Result<(), EngineError>;
    /// Whether it has images that models can be read from.
    fn has_images(&self) -> bool {
        false
    }
    /// Streams a folder of an image that is on this machine, as a tar with names relative to the folder.
    async fn image_folder(
        &self,
        image: &str,
        folder: &str,
    ) -> Result<BoxStream<'static, Result<bytes::Bytes, EngineError>>, EngineError> {
        let message = format!("this engine has no images to read {folder} of");
        Err(EngineError::Refused { verb: "open", name: image.to_owned(), message, blame: Blame::User })
    }
    /// Inspects one container: exact state, start and finish times, exit, out-of-memory.
    async fn inspect(&self, id: &ContainerId) -> Result<Container, EngineError>;
    /// Measures what running containers use; those it cannot tell anything of are left out.
    async fn usage(&self, _ids: &[ContainerId]) -> Result<HashMap<ContainerId, Usage>, EngineError> {
        Ok(HashMap::new())
    }
    /// Counts the processes the kernel killed for memory in each of these containers since it was started; those it
    /// cannot tell anything of are left out.
    async fn memory_kills(&self, _ids: &[ContainerId]) -> HashMap<ContainerId, u64> {
        HashMap::new()
    }
    /// Runs a command inside a container and returns its exit code and output (for exec probes and hooks).
    async fn exec(&self, id: &ContainerId, command: &[String], timeout: Duration)
    -> Result<(i64, String), EngineError>;
    /// Streams a container's output, oldest first.
    async fn logs(
        &self,
        id: &ContainerId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine, EngineError>>, EngineError>;
    /// Says "something changed", for ever, reconnecting by itself; a hint, never the truth. The first comes when changes
    /// begin to be heard.
    fn changes(&self) -> BoxStream<'static, ()>;
}
