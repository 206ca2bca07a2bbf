//! Sandboxes: a container that holds a replica's network while the others come and go.
//!
//! Half of what an engine needs to start a container is its network. A sandbox keeps one, so that waking from sleep does
//! not pay for it; it is also what several containers of a replica share, and where a transformer finds its predictor.
//!
//! ```text
//! absent ──create──▶ running ──its replica sleeps──▶ running, for the services asked for last
//!            ▲          │ ends                            │ many sleep, or the revision is wanted no more
//!            └─back-off─┘                                 ▼
//!                                                      stop ──▶ remove
//! ```
//!
//! **Invariant:** a container that shares the network of a sandbox that is gone is never left running: it is stopped, and
//! made anew in the next one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::action::ContainerPosition;
use super::admission;
use super::planner::Draft;
use super::replica::{Kept, Phase, Replica, create, keep_running, reunite};
use super::retire::{remove, stop};
use super::routes::ReplicaName;
use super::world::{ContainerFact, FactState, ResolvedWorkload, World};
use crate::workload::{Workload, names};

/// The sandboxes there are, and what becomes of them.
#[derive(Debug, Default)]
pub(super) struct Sandboxes<'w> {
    there: HashMap<&'w str, &'w ContainerFact>,
    /// Replicas that have or want one.
    wanted: HashSet<ReplicaName>,
    /// Replicas that sleep, and when somebody last asked for their service.
    resting: Vec<(Duration, ReplicaName)>,
}

impl<'w> Sandboxes<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        let mut sandboxes = Self::default();
        for fact in world.containers.values().filter(|fact| fact.is_sandbox()) {
            let known = sandboxes.there.entry(fact.replica.as_ref()).or_insert(fact);
            if !known.is_running() && fact.is_running() {
                *known = fact;
            }
        }
        sandboxes
    }

    /// The replica gets no room: nobody needs its network.
    pub(super) fn give_up(&mut self, replica: &ReplicaName) {
        self.wanted.remove(replica);
    }

    /// The replica has a sandbox and keeps it, or wants one.
    pub(super) fn want(&mut self, replica: &ReplicaName) {
        self.wanted.insert(Arc::clone(replica));
    }

    /// Whether a replica does.
    pub(super) fn wants(&self, replica: &ReplicaName) -> bool {
        self.wanted.contains(replica)
    }

    /// Counts those of replicas that sleep.
    pub(super) fn resting(&self) -> usize {
        self.resting.len()
    }

    /// Returns the sandbox of a replica.
    pub(super) fn of(&self, replica: &str) -> Option<&'w ContainerFact> {
        self.there.get(replica).copied()
    }
}

/// Whether a new replica of a workload gets a sandbox.
pub(super) fn pays(draft: &Draft<'_>, workload: &Workload) -> bool {
    let world = draft.world;
    let saves_time = workload.scaling.sleeps() || workload.containers.len() > 1;
    // Without one a transformer finds no predictor, so this is not up to the settings.
    let calls = !workload.callees.is_empty();
    world.holds_networks && (calls || (world.config.sandboxes.enabled && saves_time))
}

/// Makes sure that a replica's sandbox runs and that nothing is left behind in another. Says why not yet.
pub(super) fn hold(draft: &mut Draft<'_>, replica: &Replica<'_>) -> Option<Phase> {
    if !replica.record.sandbox {
        return None;
    }
    draft.sandboxes.want(&replica.name);
    if let Some(phase) = reunite(draft, replica) {
        return Some(phase);
    }
    match replica.sandbox {
        None => Some(create(draft, replica, names::SANDBOX, ContainerPosition::Sandbox, None)),
        Some(sandbox) if is_of_another(sandbox, replica) => {
            end(draft, sandbox, "it was made for something else");
            Some(Phase::Creating)
        }
        // A network is kept by who holds it, paused or not.
        Some(sandbox) if sandbox.state == FactState::Paused => None,
        Some(sandbox) => match keep_running(draft, replica, sandbox, ContainerPosition::Sandbox) {
            Kept::Running | Kept::Done => None,
            Kept::Not(phase) => Some(phase),
        },
    }
}

fn is_of_another(sandbox: &ContainerFact, replica: &Replica<'_>) -> bool {
    let differs = |(_, fingerprint)| sandbox.fingerprint != fingerprint;
    replica.containers.is_empty() && replica.source.is_some_and(differs)
}

/// Uses the time in which a model or an image is fetched, if there is room for the replica as far as is known by then.
pub(super) fn make_ahead(draft: &mut Draft<'_>, replica: &Replica<'_>, phase: &Phase) {
    let is_fetched = matches!(phase, Phase::PullingModel(..) | Phase::PullingImage(..));
    if is_fetched && replica.record.sandbox && admission::would_fit(draft, replica) {
        // What it says of the sandbox is of no interest while something else is waited for.
        drop(hold(draft, replica));
    }
}

/// Notes that the replicas of a revision sleep.
pub(super) fn rest(draft: &mut Draft<'_>, wanted: &ResolvedWorkload, revision: u32) {
    let workload = &wanted.workload;
    let service = &workload.component.service;
    let last = draft.world.memory.activity.get(service).and_then(|activity| activity.last).unwrap_or_default();
    for name in places(wanted, revision) {
        let ours = |sandbox: &&ContainerFact| sandbox.is_running() && sandbox.fingerprint == wanted.fingerprint.0;
        if draft.sandboxes.of(&name).filter(ours).is_some() {
            draft.sandboxes.resting.push((last, name));
        }
    }
}

/// Returns the names of the replicas of a revision that sleeps.
pub(super) fn places(wanted: &ResolvedWorkload, revision: u32) -> impl Iterator<Item = ReplicaName> {
    let workload = &wanted.workload;
    let namespace = &workload.component.service.namespace;
    let name = move |ordinal| names::replica_name(namespace, &workload.service_name, revision, ordinal).into();
    (0..workload.scaling.min.max(1)).map(name)
}

/// Ends the sandboxes nobody needs: those of replicas that are gone, and of all but some of those that sleep.
pub(super) fn collect(draft: &mut Draft<'_>) {
    if draft.sandboxes.there.is_empty() {
        return;
    }
    let config = draft.world.config.sandboxes;
    let mut resting = std::mem::take(&mut draft.sandboxes.resting);
    resting.sort_by(|one, other| other.cmp(one));
    resting.truncate(if config.enabled { config.asleep } else { 0 });
    let mut wanted = std::mem::take(&mut draft.sandboxes.wanted);
    wanted.extend(resting.into_iter().map(|(_, name)| name));
    let world = draft.world;
    let inhabited = world.containers.values().filter(|fact| !fact.is_sandbox()).map(|fact| &fact.replica);
    let inhabited: HashSet<&ReplicaName> = inhabited.collect();
    for fact in world.containers.values().filter(|fact| fact.is_sandbox()) {
        let is_the_one = draft.sandboxes.of(&fact.replica).is_some_and(|one| one.id == fact.id);
        if !is_the_one || !(wanted.contains(&fact.replica) || inhabited.contains(&fact.replica)) {
            end(draft, fact, "no replica needs its network");
        }
    }
}

fn end(draft: &mut Draft<'_>, sandbox: &ContainerFact, why: &str) {
    match sandbox.state {
        FactState::Running { .. } | FactState::Paused => stop(draft, sandbox, why.to_owned()),
        FactState::Created | FactState::Exited(_) => remove(draft, sandbox),
        FactState::Removing => {}
    }
}
