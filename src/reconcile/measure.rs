//! What the machine has and what containers use of it: measured now and then, handed to the planner as facts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::engine::{ContainerEngine, ContainerId, Usage};
use crate::machine::{self, GpuTool, Gpus};
use crate::plan::ledger::{Gpu, Machine, MachineMemory, Used};
use crate::plan::said::bytes;
use crate::plan::world::ContainerFact;
use crate::plan::{Now, World};
use crate::telemetry::{EventLog, EventType};

/// Between two measurements while everything answers.
const QUIET: Duration = Duration::from_secs(10);
/// The same while something loads or waits for room.
const LIVELY: Duration = Duration::from_secs(1);
/// A container that has run for so long shows little that is new: only every so many measurements look at it.
const SETTLED: Duration = Duration::from_secs(120);
/// How many.
const SETTLED_EVERY: u64 = 6;
/// Smaller changes of what other programs use are not told: they would only change numbers in messages.
const STEP: u64 = 64 << 20;

/// Measures one machine.
#[derive(Clone)]
pub struct Meter {
    engine: Arc<dyn ContainerEngine>,
    gpus: Option<GpuTool>,
}

/// One measurement.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    machine: Machine,
    used: HashMap<String, Used>,
    /// Processes the kernel killed for memory since their container was started.
    kills: HashMap<ContainerId, u64>,
}

/// When to measure, and what was measured last.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    under_way: bool,
    last: Option<Duration>,
    count: u64,
}

impl Meter {
    /// Makes a meter; `gpus` is the driver's tool, where there is one.
    pub fn new(engine: Arc<dyn ContainerEngine>, gpus: Option<GpuTool>) -> Self {
        Self { engine, gpus }
    }

    /// Measures. `containers` are ids and names.
    pub(super) async fn measure(&self, containers: HashMap<ContainerId, String>) -> Measured {
        let ids: Vec<ContainerId> = containers.keys().cloned().collect();
        let gpus = async {
            match &self.gpus {
                Some(tool) => machine::gpus(tool).await,
                None => None,
            }
        };
        let kills = self.engine.memory_kills(&ids);
        let (info, used, gpus, kills) = tokio::join!(self.engine.info(), self.engine.usage(&ids), gpus, kills);
        let here = machine::memory();
        let told = info.ok().map(|info| (info.memory_total, info.name)).filter(|(total, _)| *total > 0);
        let is_here = is_here(here, told.as_ref());
        let memory = match told {
            Some((total, _)) if !is_here => Some(MachineMemory { total, available: None }),
            _ => here.map(|here| MachineMemory { available: here.available.map(stepped), ..here }),
        };
        // A driver that does not answer is not one without GPUs.
        let devices = match (&self.gpus, &gpus) {
            (Some(_), found) => found.as_ref().map(|gpus| gpus.devices.clone()),
            (None, _) => is_here.then(Vec::new),
        };
        let processes = gpus.unwrap_or_default();
        let mut by_name: HashMap<String, Used> = HashMap::new();
        for (id, usage) in used.unwrap_or_default() {
            if let Some(name) = containers.get(&id) {
                by_name.insert(name.clone(), read(usage, &processes, &id));
            }
        }
        Measured { machine: Machine { memory, gpus: devices.map(settled), pending: false }, used: by_name, kills }
    }
}

/// Whether the engine runs containers on this very machine: it counts the same memory.
fn is_here(here: Option<MachineMemory>, told: Option<&(u64, String)>) -> bool {
    match (here, told) {
        (Some(_), Some((_, name))) if name == "process" => true,
        (Some(here), Some((total, _))) => here.total.abs_diff(*total) <= here.total / 100,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

fn stepped(bytes: u64) -> u64 {
    bytes / STEP * STEP
}

fn settled(gpus: Vec<Gpu>) -> Vec<Gpu> {
    gpus.into_iter().map(|gpu| Gpu { free: stepped(gpu.free), ..gpu }).collect()
}

fn read(usage: Usage, gpus: &Gpus, id: &ContainerId) -> Used {
    let mut by_gpu: BTreeMap<String, u64> = BTreeMap::new();
    for (pid, used) in &gpus.processes {
        if belongs(*pid, id) {
            used.iter().for_each(|(uuid, bytes)| *by_gpu.entry(uuid.clone()).or_default() += bytes);
        }
    }
    Used { memory: usage.memory, peak: usage.peak, gpus: by_gpu }
}

/// Whether a process is one of a container's: its control group, or its environment, says so.
fn belongs(pid: u32, id: &ContainerId) -> bool {
    let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let names = |text: Vec<u8>| text.windows(id.0.len().max(1)).any(|part| part == id.0.as_bytes());
    names(read("cgroup")) || names(read("environ"))
}

impl Rounds {
    /// Returns the containers to be measured when it is time for it.
    pub(super) fn begin(&mut self, world: &World, now: Duration) -> Option<HashMap<ContainerId, String>> {
        if self.under_way || self.last.is_some_and(|last| now < last + pause(world)) {
            return None;
        }
        self.under_way = true;
        self.last = Some(now);
        self.count += 1;
        let everything = self.count.is_multiple_of(SETTLED_EVERY);
        let started = |name: &str| world.memory.containers.get(name).and_then(|memory| memory.started);
        let is_new = |name: &str| started(name).is_none_or(|started| now < started + SETTLED);
        let running = world.containers.values().filter(|fact| fact.holds_memory());
        let due = running.filter(|fact| everything || is_new(&fact.name));
        Some(due.map(|fact| (ContainerId(fact.id.clone()), fact.name.clone())).collect())
    }

    /// When the next one is due.
    pub(super) fn next(&self, world: &World) -> Duration {
        match (self.under_way, self.last) {
            (false, Some(last)) => last + pause(world),
            (false, None) => Duration::ZERO,
            (true, _) => Duration::MAX,
        }
    }

    /// Notes that nothing came of it: the next round is due as ever.
    pub(super) fn miss(&mut self) {
        self.under_way = false;
    }

    /// Takes a measurement in, and tells of processes that were killed for memory while their container runs on. Returns
    /// true when the planner should look at it now.
    pub(super) fn end(&mut self, world: &mut World, measured: Measured, events: &EventLog, now: Now) -> bool {
        self.under_way = false;
        let Measured { machine, used, kills } = measured;
        let is_news = world.machine != machine;
        world.machine = machine;
        for (name, used) in used {
            world.used.insert(name, used);
        }
        let mut has_learned = world.learn_footprints();
        for (id, count) in kills.into_iter().filter(|(_, count)| *count > 0) {
            has_learned |= tell_of_kills(world, &id, count, events, now);
        }
        is_news || has_learned
    }
}

/// Tells of processes of a container that were killed. Returns true when they were not known of.
fn tell_of_kills(world: &mut World, id: &ContainerId, count: u64, events: &EventLog, now: Now) -> bool {
    let Some(fact) = world.containers.values().find(|fact| fact.id == id.0 && fact.is_running()).cloned() else {
        return false;
    };
    let peak = world.used.get(&fact.name).map_or(0, |used| used.peak);
    if !world.memory.note_memory_kills(&fact, count, peak) {
        return false;
    }
    let used = if peak > 0 { format!(" when it used {}", bytes(peak)) } else { String::new() };
    let message = format!(
        "the kernel killed a process of container `{}` for memory{used}; the container runs on",
        fact.container
    );
    warn!(container = fact.name, "{message}");
    events.record(&fact.component.service.to_object_key(), EventType::Warning, "OOMKilling", &message, now.wall);
    true
}

fn pause(world: &World) -> Duration {
    let is_first = |fact: &&ContainerFact| fact.record.containers.first().is_some_and(|own| own.name == fact.container);
    let mut serving = world.containers.values().filter(|fact| fact.holds_memory()).filter(is_first);
    let loads = serving.any(|fact| !world.memory.has_answered(&[fact]));
    if loads || !world.memory.queue.is_empty() { LIVELY } else { QUIET }
}
