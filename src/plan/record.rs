//! What a replica's containers carry in a label, so that a running replica can be served, checked and stopped in order
//! without the manifest that made it: after a restart of the daemon, or as an older revision.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::workload::{ContainerSpec, EntryPoint, Hook, Probes, Readiness, Repository, Workload};

/// Label the record is kept under, as JSON.
pub const RECORD_LABEL: &str = "kserve-local/record";

/// What must be known of a replica as long as it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRecord {
    /// Where requests go.
    pub entry: EntryPoint,
    /// What proves that it answers.
    pub readiness: Readiness,
    /// Between the stop signal and the kill.
    pub grace: Duration,
    /// Most requests in flight.
    pub concurrency: Option<u32>,
    /// Longest time a request may take.
    pub timeout: Option<Duration>,
    /// Containers in order: network owner first.
    pub containers: Vec<ContainerRecord>,
    /// Containers that run to completion first, in order.
    pub init: Vec<String>,
    /// The models that are mounted, without secrets; for people.
    pub models: Vec<String>,
    /// How its server is told which models to load, when it is one that is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    /// Whether a container of its own holds the network, and all others join it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sandbox: bool,
    /// Memory it was given, in bytes; known also when nobody knows any more what it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Name of the canary it was made as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
}

/// What must be known of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Name within the replica.
    pub name: String,
    /// Its probes.
    pub probes: Probes,
    /// Run before the stop signal.
    pub pre_stop: Option<Hook>,
    /// Processor limit that is applied when the replica answers, in thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_when_ready: Option<u64>,
}

impl ReplicaRecord {
    /// Records a workload.
    pub fn of(workload: &Workload) -> Self {
        let container = |spec: &ContainerSpec| ContainerRecord {
            name: spec.name.clone(),
            probes: spec.probes.clone(),
            pre_stop: spec.pre_stop.clone(),
            cpu_when_ready: None,
        };
        Self {
            entry: workload.entry.clone(),
            readiness: workload.readiness.clone(),
            grace: workload.termination_grace,
            concurrency: workload.container_concurrency,
            timeout: workload.timeout,
            containers: workload.containers.iter().map(container).collect(),
            init: workload.init_containers.iter().map(|spec| spec.name.clone()).collect(),
            models: workload.models.iter().map(|model| model.uri.redacted()).collect(),
            repository: workload.model_server.as_ref().map(|server| server.repository.clone()),
            sandbox: false,
            memory: None,
            canary: workload.canary.clone(),
        }
    }

    /// Says that processor limits are applied only when the replica answers.
    #[must_use]
    pub fn lifting_cpu(mut self, workload: &Workload) -> Self {
        for (record, spec) in self.containers.iter_mut().zip(&workload.containers) {
            record.cpu_when_ready = spec.resources.cpu_limit_milli;
        }
        self
    }

    /// Says whether a container of its own holds the network.
    #[must_use]
    pub fn with_sandbox(self, sandbox: bool) -> Self {
        Self { sandbox, ..self }
    }

    /// Says how much memory it was given.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        Self { memory: (bytes > 0).then_some(bytes), ..self }
    }

    /// Returns the record of one container.
    pub fn container(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.name == name)
    }
}
