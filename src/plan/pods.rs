//! What runs, in the shape people ask for it: one pod per replica.

use std::sync::Arc;

use jiff::Timestamp;

use super::replica::{Phase, Replica};
use super::said::said;
use super::world::{ExitFact, FactReach, FactState, World};
use crate::workload::{ComponentKey, ContainerSpec};

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

/// Whether two lists of pods say the same. What they share is not looked at.
pub fn say_the_same(one: &[Arc<PodView>], other: &[Arc<PodView>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| Arc::ptr_eq(one, other) || one == other)
}

/// Builds the view of one replica.
pub(super) fn pod(world: &World, key: &ComponentKey, unit: &Replica<'_>, phase: &Phase) -> PodView {
    let said = said(phase);
    let recorded = || unit.containers.values().next().map(|fact| fact.service_name.as_str()).unwrap_or_default();
    let service_name = unit.source.map_or_else(recorded, |(workload, _)| workload.service_name.as_str());
    let specs: Vec<(String, String, bool)> = match unit.source {
        Some((workload, _)) => {
            let view = |init| move |spec: &ContainerSpec| (spec.name.clone(), spec.image.clone(), init);
            let init = workload.init_containers.iter().map(view(true));
            workload.containers.iter().map(view(false)).chain(init).collect()
        }
        None => recorded_specs(unit),
    };
    let containers: Vec<ContainerView> =
        specs.into_iter().map(|(name, image, init)| container_view(world, unit, name, image, init, phase)).collect();
    let running = containers.iter().any(|container| matches!(container.state, ContainerViewState::Running { .. }));
    let first = unit.record.containers.first().and_then(|owner| unit.containers.get(owner.name.as_str()));
    PodView {
        name: without_namespace(&unit.name, &key.service.namespace).to_owned(),
        component: key.clone(),
        service_name: service_name.to_owned(),
        revision: unit.revision,
        phase: if running { "Running" } else { "Pending" }.to_owned(),
        status: match phase {
            Phase::Leaving | Phase::Asleep => said.reason.to_owned(),
            phase if running && !phase.is_failure() => "Running".to_owned(),
            _ => said.reason.to_owned(),
        },
        ready: phase.is_ready(),
        containers,
        address: first.and_then(|_| address(unit.reach())),
        created_at: first.and_then(|fact| fact.created_at),
    }
}

/// The name of a replica within its namespace.
fn without_namespace<'n>(name: &'n str, namespace: &str) -> &'n str {
    name.strip_suffix(namespace).and_then(|name| name.strip_suffix('.')).unwrap_or(name)
}

/// Names and images of what there is of a replica that is only known by its containers, serving one first.
fn recorded_specs(unit: &Replica<'_>) -> Vec<(String, String, bool)> {
    let mains = unit.record.containers.iter().map(|container| (container.name.as_str(), false));
    let all = mains.chain(unit.record.init.iter().map(|name| (name.as_str(), true)));
    let view =
        |(name, init): (&str, bool)| unit.containers.get(name).map(|fact| (name.to_owned(), fact.image.clone(), init));
    all.filter_map(view).collect()
}

fn address(reach: &FactReach) -> Option<String> {
    match reach {
        FactReach::Address(address) => Some(address.to_string()),
        FactReach::Published(_) => Some("127.0.0.1".to_owned()),
        FactReach::None => None,
    }
}

fn container_view(
    world: &World,
    unit: &Replica<'_>,
    name: String,
    image: String,
    init: bool,
    phase: &Phase,
) -> ContainerView {
    let fact = unit.containers.get(name.as_str()).copied();
    let memory = fact.and_then(|fact| world.memory.containers.get(&fact.name));
    let waiting = || {
        let said = said(phase);
        ContainerViewState::Waiting { reason: said.reason.to_owned(), message: said.message }
    };
    let state = match fact.map(|fact| &fact.state) {
        Some(FactState::Running { started_at }) => ContainerViewState::Running { started_at: *started_at },
        Some(FactState::Exited(exit)) => match phase {
            Phase::Crashed(crash) if crash.container == name => waiting(),
            _ => terminated(&memory.map_or_else(|| exit.clone(), |memory| memory.explained(exit))),
        },
        // It did its work and was tidied away.
        None if init && unit.is_initialized() => terminated(&ExitFact::default()),
        _ => waiting(),
    };
    ContainerView {
        id: fact.map(|fact| fact.id.clone()),
        restarts: memory.map_or(0, |memory| memory.restarts),
        ready: phase.is_ready() || (init && matches!(state, ContainerViewState::Terminated { exit_code: 0, .. })),
        name,
        image,
        state,
        init,
    }
}

fn terminated(exit: &ExitFact) -> ContainerViewState {
    let reason = match exit {
        exit if exit.is_memory_death() => "OOMKilled",
        exit if exit.code == 0 => "Completed",
        _ => "Error",
    };
    ContainerViewState::Terminated { exit_code: exit.code, reason: reason.to_owned(), finished_at: exit.finished_at }
}
