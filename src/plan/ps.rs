//! Who holds what, how long, and why: the view behind `ps` and `history`, for whoever asks. No pass makes it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, Serializer};

use super::memo::Memo;
use super::memory::Revisions;
use super::planner::{Draft, decide};
use super::room_words::standing;
use super::sleep::{self, Rest};
use super::stages::Stage;
use super::world::{Now, World};
use crate::api::{ComponentKind, ServiceKey};
use crate::workload::{ComponentKey, names};

/// The machine and everything on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoomView {
    /// What there is.
    pub machine: MachineLine,
    /// One line for each replica, and for each service that sleeps.
    pub rows: Vec<Row>,
}

/// What there is, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineLine {
    /// All memory, when it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Kept free.
    pub reserve: u64,
    /// Most that models may have by the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// What other programs use.
    pub others: u64,
    /// Most that models may hold together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// What replicas hold.
    pub held: u64,
    /// GPUs.
    pub gpus: Vec<GpuLine>,
}

/// One GPU, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuLine {
    /// The driver's name of it.
    pub uuid: String,
    /// What it is.
    pub name: String,
    /// Its memory.
    pub total: u64,
    /// What replicas hold of it.
    pub held: u64,
    /// What other programs use of it.
    pub others: u64,
}

/// One replica, or one service that sleeps.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Namespace.
    pub namespace: String,
    /// Name of the service.
    pub service: String,
    /// Component.
    pub component: ComponentKind,
    /// Name of the revision.
    pub revision: String,
    /// Name of the replica; empty for a service that sleeps.
    pub replica: String,
    /// A word: `Running`, `Loading`, `Asleep`, `WaitingForMemory`, `Terminating`, ….
    pub phase: String,
    /// Bytes it holds.
    pub memory: u64,
    /// How that was found.
    pub basis: String,
    /// Bytes it uses, when that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// GPUs it was given.
    pub gpus: Vec<String>,
    /// `idle`, `busy`, `stays`, `leaving`, `waits` or `asleep`.
    pub standing: String,
    /// Which stage of its start it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// Seconds it usually takes from the beginning of that stage until it answers; for what sleeps, to wake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers_in: Option<u64>,
    /// When it goes to sleep if nobody asks, to the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// One revision of one component.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryLine {
    /// Component.
    pub component: ComponentKind,
    /// Number.
    pub revision: u32,
    /// Name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// `wanted`, `rolled out`, `given up`, or nothing.
    pub standing: Vec<&'static str>,
    /// Whether every replica of it answered once.
    pub proven: bool,
    /// The most a replica of it used, in bytes; 0 when nothing was measured.
    pub peak: u64,
    /// The service as it was written, when that is kept.
    #[serde(serialize_with = "written", skip_serializing_if = "Option::is_none")]
    pub source: Option<Arc<serde_json::Value>>,
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
fn written<S: Serializer>(source: &Option<Arc<serde_json::Value>>, serializer: S) -> Result<S::Ok, S::Error> {
    source.as_deref().serialize(serializer)
}

/// Says who holds what: what a pass would find now.
pub fn room(world: &World, now: Now, memo: &mut Memo) -> RoomView {
    let draft = decide(world, now, memo);
    RoomView { machine: machine(&draft), rows: rows(&draft) }
}

fn machine(draft: &Draft<'_>) -> MachineLine {
    let room = &draft.room;
    let mut seats = room.seats.clone().unwrap_or_default();
    room.holders.values().for_each(|holder| holder.sit(&mut seats));
    MachineLine {
        total: room.total,
        reserve: room.reserve,
        budget: room.budget,
        others: room.others,
        limit: room.limit(),
        held: room.held(&|_| false),
        gpus: seats
            .into_values()
            .map(|seat| GpuLine {
                uuid: seat.gpu.uuid.clone(),
                name: seat.gpu.name.clone(),
                total: seat.gpu.total,
                held: seat.held,
                others: seat.others,
            })
            .collect(),
    }
}

fn rows(draft: &Draft<'_>) -> Vec<Row> {
    let used = used(draft.world);
    let rests = draft.plan.rests.iter().map(|(service, rest)| (service, *rest)).collect();
    let pods = &draft.plan.pods;
    let mut rows: Vec<Row> = pods.iter().map(|pod| row(draft, pod, &rests, &used)).collect();
    let there: HashSet<&ComponentKey> = pods.iter().map(|pod| &pod.component).collect();
    for (service, _) in draft.plan.rests.iter().filter(|(_, rest)| *rest == Rest::Asleep) {
        rows.extend(sleepers(draft, service, &there));
    }
    rows.sort_by(|one, other| place(one).cmp(&place(other)));
    rows
}

fn place(row: &Row) -> (&str, &str, ComponentKind, &str) {
    (&row.namespace, &row.service, row.component, &row.replica)
}

/// Bytes that each replica uses, where that was measured.
fn used(world: &World) -> HashMap<&str, u64> {
    let mut used = HashMap::new();
    for fact in world.containers.values() {
        if let Some(measured) = world.used.get(&fact.name) {
            *used.entry(fact.replica.as_ref()).or_default() += measured.memory;
        }
    }
    used
}

fn row(
    draft: &Draft<'_>,
    pod: &super::pods::PodView,
    rests: &HashMap<&ServiceKey, Rest>,
    used: &HashMap<&str, u64>,
) -> Row {
    let world = draft.world;
    let service = &pod.component.service;
    let replica = [pod.name.as_str(), ".", &service.namespace].concat();
    let holder = draft.room.holders.get(replica.as_str());
    let rest = rests.get(service).copied();
    let idle = rest == Some(Rest::Idle);
    let due = sleep::sleeps_at(world, service).filter(|_| idle && holder.is_some_and(|holder| holder.sleeps));
    let leaves = pod.status == "Terminating";
    let stage = world.memory.stages.get(&pod.component).map(|(stage, _)| *stage).filter(|_| !pod.ready && !leaves);
    let times = world.memory.revisions.get(&pod.component).map(|history| &history.times);
    let answers_in = stage.and_then(|stage| times?.onward(stage)).map(|left| left.as_secs());
    Row {
        stage,
        answers_in,
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        component: pod.component.component,
        revision: names::revision_name(&pod.service_name, pod.revision),
        phase: if pod.ready || pod.status != "Running" { pod.status.clone() } else { "Loading".to_owned() },
        memory: holder.map_or(0, |holder| holder.memory),
        basis: holder.map(|holder| holder.basis.to_string()).unwrap_or_default(),
        used: used.get(replica.as_str()).copied(),
        gpus: holder.map(|holder| holder.gpus.clone()).unwrap_or_default(),
        standing: match holder {
            Some(_) if leaves => "leaving",
            // Its memory is kept, and it sleeps until somebody asks.
            Some(holder) if rest == Some(Rest::Asleep) && holder.sleeps && !holder.leaving => "asleep",
            Some(holder) => standing(&draft.room, holder),
            None => "waits",
        }
        .to_owned(),
        until: due.map(|due| wall(draft.now, due)),
        replica,
    }
}

/// The components of a service that sleeps and of which nothing is left.
fn sleepers(draft: &Draft<'_>, service: &ServiceKey, there: &HashSet<&ComponentKey>) -> Vec<Row> {
    let parts = draft.world.services.get(service).and_then(|service| service.resolution.as_deref().ok());
    let gone = parts.unwrap_or_default().iter().filter(|part| !there.contains(&part.workload.component));
    gone.map(|part| {
        let history = draft.world.memory.revisions.get(&part.workload.component);
        Row {
            stage: None,
            answers_in: history.and_then(|history| history.times.onward(Stage::Create)).map(|left| left.as_secs()),
            namespace: service.namespace.clone(),
            service: service.name.clone(),
            component: part.workload.component.component,
            revision: names::revision_name(&part.workload.service_name, history.map_or(0, Revisions::current)),
            replica: String::new(),
            phase: "Asleep".to_owned(),
            memory: 0,
            basis: String::new(),
            used: None,
            gpus: Vec::new(),
            standing: "asleep".to_owned(),
            until: None,
        }
    })
    .collect()
}

/// A tick as people read it, to the second.
fn wall(now: Now, due: Duration) -> Timestamp {
    let left = SignedDuration::try_from(due.saturating_sub(now.tick)).unwrap_or_default();
    let at = now.wall.checked_add(left).unwrap_or(now.wall);
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// Lists the revisions of a service, component by component, newest first.
pub fn history(world: &World, service: &ServiceKey) -> Vec<HistoryLine> {
    let components = ComponentKind::ALL.map(|component| ComponentKey { service: service.clone(), component });
    let known = components.iter().filter_map(|component| Some((component, world.memory.revisions.get(component)?)));
    let lines = known.flat_map(|(component, revisions)| {
        revisions.known.keys().rev().map(move |number| line(world, component, revisions, *number))
    });
    lines.collect()
}

fn line(world: &World, component: &ComponentKey, revisions: &Revisions, number: u32) -> HistoryLine {
    let parts = world.services.get(&component.service).and_then(|service| service.resolution.as_deref().ok());
    let wanted = parts.unwrap_or_default().iter().find(|part| part.workload.component == *component);
    let default = names::component_service_name(&component.service.name, component.component, None);
    let own = wanted.map_or(default, |part| part.workload.service_name.clone());
    let note = &revisions.known[&number];
    let canary = note.canary.as_deref();
    let of_canary = |name| names::component_service_name(&component.service.name, component.component, Some(name));
    let service_name = canary.map_or(own, of_canary);
    let marks = [
        (revisions.canaries.values().any(|canary| *canary == number), "canary"),
        (revisions.target == number, "wanted"),
        (revisions.rolled_out == Some(number), "rolled out"),
        (revisions.given_up.as_ref().is_some_and(|given_up| given_up.revision == number), "given up"),
    ];
    HistoryLine {
        component: component.component,
        revision: number,
        name: names::revision_name(&service_name, number),
        created_at: note.created_at,
        standing: marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect(),
        proven: revisions.is_proven(number),
        peak: note.learned.peak,
        source: world.memory.sources.get(component).and_then(|sources| sources.get(&number)).cloned(),
    }
}
