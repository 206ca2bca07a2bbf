//! Who holds how much memory: what a replica is expected to need, and what the machine has to give.
//!
//! A footprint is, in this order: what was measured of the revision, but never less than what its manifest asks for; what
//! the manifest asks for; an estimate from the model's files. What a kill for memory has taught stands above all of it.
//! Measured peaks are kept with the revision and survive the daemon.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::gpus::{self, GpuNeed};
use super::memory::RevisionNote;
use super::trained;
use super::world::{ModelState, World};
use crate::workload::Workload;

/// Memory of the machine the models run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineMemory {
    /// All of it, in bytes.
    pub total: u64,
    /// What a new program could have (`MemAvailable`), in bytes; none where the kernel does not tell.
    pub available: Option<u64>,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The driver's name of it, the same at every boot.
    pub uuid: String,
    /// What it is, for people.
    pub name: String,
    /// Its memory, in bytes.
    pub total: u64,
    /// What of it is free now, in bytes.
    pub free: u64,
}

/// The machine the models run on, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Memory; none means that nobody can tell, and then nothing is refused for it unless a budget is set.
    pub memory: Option<MachineMemory>,
    /// GPUs; none means that the engine runs elsewhere and knows better than we do.
    pub gpus: Option<Vec<Gpu>>,
    /// Whether nobody has looked yet: nothing is started before.
    pub pending: bool,
}

/// What one container uses now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Memory, in bytes.
    pub memory: u64,
    /// The most since it was started, in bytes.
    pub peak: u64,
    /// GPU memory by the GPU's UUID, in bytes.
    pub gpus: BTreeMap<String, u64>,
}

/// An amount of memory in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Bytes.
    Bytes(u64),
    /// Percent of the machine's memory.
    Percent(u64),
}

impl Amount {
    /// Returns the amount in bytes on a machine with so much memory.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => share(total, percent),
        }
    }
}

/// Settings of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Kept free for everything that is not a model.
    pub reserve: Amount,
    /// Most that models may have together; none means all that is left.
    pub budget: Option<Amount>,
    /// Added to the size of a model's files when nothing better is known.
    pub runtime_overhead: u64,
    /// Shortest stay of a model that was loaded; none means as long as its loading took, between 2 and 60 seconds.
    pub min_residency: Option<std::time::Duration>,
    /// Priorities by name of a priority class, besides Kubernetes' own two.
    pub priority_classes: BTreeMap<String, i64>,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            reserve: Amount::Percent(5),
            budget: None,
            runtime_overhead: 512 << 20,
            min_residency: None,
            priority_classes: BTreeMap::new(),
        }
    }
}

/// What is remembered of a revision's appetite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Learned {
    /// The most a replica of it used, in bytes; 0 while nothing was measured.
    #[serde(skip_serializing_if = "is_zero")]
    pub peak: u64,
    /// The most it used on one GPU, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub gpu_peak: u64,
    /// What it is given after it was killed for memory, in bytes; 0 when it never was.
    #[serde(skip_serializing_if = "is_zero")]
    pub after_kill: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// How a footprint was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Basis {
    /// The manifest asks for it.
    Declared,
    /// The most it used so far, and a tenth.
    Measured,
    /// From the size of the model's files.
    Estimated,
    /// It was killed for memory with less.
    Killed,
    /// What its runtime asks for, or nothing at all is known.
    Assumed,
}

impl std::fmt::Display for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Declared => "declared",
            Self::Measured => "measured",
            Self::Estimated => "estimated",
            Self::Killed => "killed with less",
            Self::Assumed => "assumed",
        })
    }
}

/// What one replica is expected to need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Memory, in bytes.
    pub memory: u64,
    /// How that was found.
    pub basis: Basis,
    /// GPUs.
    pub gpus: GpuNeed,
}

/// Returns what a replica of a workload is expected to need.
pub fn footprint(world: &World, workload: &Workload, learned: Learned) -> Footprint {
    let (memory, basis) = memory(world, workload, learned);
    Footprint { memory, basis, gpus: gpus::need(world, workload, learned) }
}

fn memory(world: &World, workload: &Workload, learned: Learned) -> (u64, Basis) {
    let config = &world.config.memory;
    let requests: u64 = workload.containers.iter().filter_map(|spec| spec.resources.memory_request).sum();
    let declared = if workload.memory_is_declared { requests } else { 0 };
    let declared = match trained::declared(world, workload) {
        0 => declared,
        models => declared.max(models + config.runtime_overhead),
    };
    let limits: Option<u64> = workload.containers.iter().map(|spec| spec.resources.memory_limit).sum();
    let files = files(world, workload);
    let first = match (learned.peak, declared) {
        (0, 0) if files > 0 => (files + files / 5 + config.runtime_overhead, Basis::Estimated),
        (0, 0) if requests > 0 => (requests, Basis::Assumed),
        (0, 0) => (config.runtime_overhead, Basis::Assumed),
        (peak, declared) if peak + peak / 10 > declared => (peak + peak / 10, Basis::Measured),
        (_, declared) => (declared, Basis::Declared),
    };
    let (memory, basis) = if learned.after_kill > first.0 { (learned.after_kill, Basis::Killed) } else { first };
    // The kernel gives it no more than its limit.
    (memory.min(limits.unwrap_or(u64::MAX)), basis)
}

/// Returns the size of a workload's models as far as they are here, in bytes.
pub(super) fn files(world: &World, workload: &Workload) -> u64 {
    let sizes = workload.models.iter().map(|model| match world.models.get(&model.uri) {
        Some(ModelState::Present { size }) => *size,
        _ => 0,
    });
    sizes.sum()
}

/// Returns what a replica that was killed for memory is given next time: a quarter more than it was thought to need.
pub(super) fn after_kill(had: u64) -> u64 {
    had.saturating_add(had / 4)
}

impl RevisionNote {
    /// Takes in what a replica of it uses. Returns true when that is worth keeping.
    pub(super) fn learn(&mut self, memory: u64, gpu: u64) -> bool {
        let more = |known: u64, seen: u64| seen > known.saturating_add(known / 50);
        let (is_more, is_more_gpu) = (more(self.learned.peak, memory), more(self.learned.gpu_peak, gpu));
        if is_more {
            self.learned.peak = memory;
        }
        if is_more_gpu {
            self.learned.gpu_peak = gpu;
        }
        is_more || is_more_gpu
    }
}

fn share(total: u64, percent: u64) -> u64 {
    u64::try_from(u128::from(total) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}
