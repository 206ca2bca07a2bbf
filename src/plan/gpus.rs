//! GPUs: which one a replica gets. `nvidia.com/gpu: N` means N GPUs of this machine, shared by the arithmetic of their
//! memory; exclusive when the service says so.
//!
//! Best fit: of the GPUs with room, the one with the least, so that big models find one whole. A GPU that is asked for and
//! not there is refused; nothing ever runs on the CPU in silence.

use std::collections::BTreeMap;

use super::ledger::{self, Gpu, Learned};
use super::said::bytes;
use super::world::World;
use crate::api::quantity;
use crate::workload::Workload;

/// Annotation: memory the service needs on each of its GPUs, as a quantity.
pub const GPU_MEMORY: &str = "kserve-local/gpu-memory";
/// Annotation: `shared` (the default) or `exclusive`.
pub const GPU_SHARING: &str = "kserve-local/gpu-sharing";
/// GPUs whose memory can be read.
const NVIDIA: &str = "nvidia.com/gpu";
/// Room for a server's own things on a GPU when only the model's files are known.
const GPU_OVERHEAD: u64 = 1 << 30;
/// Servers that take nine tenths of a GPU's memory unless told otherwise.
const GREEDY: [&str; 2] = ["vllmserver", "huggingfaceserver"];

/// What a replica needs of GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuNeed {
    /// How many.
    pub count: u64,
    /// The resource asked for, when it is not one whose devices are known here.
    pub unknown: Option<String>,
    /// Memory on each, in bytes; none means whatever there is, so all of it.
    pub memory: Option<u64>,
    /// Whether nobody else may use them.
    pub exclusive: bool,
}

/// Returns what a workload needs of GPUs.
pub(super) fn need(world: &World, workload: &Workload, learned: Learned) -> GpuNeed {
    let asked =
        |name: &str| -> u64 { workload.containers.iter().filter_map(|spec| spec.resources.gpus.get(name)).sum() };
    let others = workload.containers.iter().flat_map(|spec| &spec.resources.gpus);
    let unknown = others.filter(|(name, count)| *name != NVIDIA && **count > 0).map(|(name, _)| name.clone()).next();
    let count = asked(NVIDIA);
    let written = workload.annotations.get(GPU_MEMORY).and_then(|text| quantity::parse_whole(text).ok());
    let server = workload.runtime.as_ref().and_then(|runtime| runtime.server_type.as_deref()).unwrap_or_default();
    let estimated = match ledger::files(world, workload) {
        0 => None,
        _ if GREEDY.contains(&server) => None,
        files => Some((files + files / 5) / count.max(1) + GPU_OVERHEAD),
    };
    let measured = (learned.gpu_peak > 0).then(|| learned.gpu_peak + learned.gpu_peak / 20);
    GpuNeed {
        count,
        unknown,
        memory: written.or(measured).or(estimated),
        exclusive: workload.annotations.get(GPU_SHARING).is_some_and(|value| value == "exclusive"),
    }
}

/// What is known of one GPU while replicas are placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The GPU.
    pub gpu: Gpu,
    /// Bytes replicas hold of it.
    pub held: u64,
    /// Bytes other programs use of it.
    pub others: u64,
    /// Replicas on it.
    pub replicas: u64,
    /// Whether one of them wants it for itself.
    pub taken: bool,
}

impl Seat {
    /// Returns the bytes nobody holds or uses.
    pub fn free(&self) -> u64 {
        self.gpu.total.saturating_sub(self.others).saturating_sub(self.held)
    }

    /// Whether a replica could sit down here.
    fn has_room(&self, need: &GpuNeed) -> bool {
        let whole = need.exclusive || need.memory.is_none();
        !self.taken && (!whole || self.replicas == 0) && self.free() >= need.memory.unwrap_or_default()
    }
}

/// Chooses GPUs by best fit; none when not enough of them have room.
pub fn best_fit(seats: &BTreeMap<String, Seat>, need: &GpuNeed) -> Option<Vec<String>> {
    let mut fitting: Vec<&Seat> = seats.values().filter(|seat| seat.has_room(need)).collect();
    fitting.sort_by_key(|seat| seat.free());
    let count = usize::try_from(need.count).ok().filter(|count| *count <= fitting.len())?;
    Some(fitting[..count].iter().map(|seat| seat.gpu.uuid.clone()).collect())
}

/// Says why a need can never be met on this machine; none when it could be, with nothing else running.
pub fn impossible(gpus: &[Gpu], need: &GpuNeed) -> Option<String> {
    if need.count == 0 {
        return None;
    }
    let there = u64::try_from(gpus.len()).unwrap_or(u64::MAX);
    if there == 0 {
        return Some(format!(
            "it asks for {} and this machine has none that its driver's `nvidia-smi` tells of; it is not run on the CPU instead",
            count(need.count)
        ));
    }
    if there < need.count {
        return Some(format!("it asks for {} and this machine has {}", count(need.count), count(there)));
    }
    let memory = need.memory?;
    let fitting = gpus.iter().filter(|gpu| gpu.total >= memory).count();
    if u64::try_from(fitting).unwrap_or(u64::MAX) >= need.count {
        return None;
    }
    let biggest = gpus.iter().map(|gpu| gpu.total).max().unwrap_or_default();
    Some(format!(
        "it needs {} on {}, and the biggest of this machine has {}",
        bytes(memory),
        count(need.count),
        bytes(biggest)
    ))
}

fn count(gpus: u64) -> String {
    if gpus == 1 { "1 GPU".to_owned() } else { format!("{gpus} GPUs") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn seats(free: &[(u64, u64)]) -> BTreeMap<String, Seat> {
        let seat = |(at, (total, held)): (usize, &(u64, u64))| {
            let uuid = format!("GPU-{at}");
            let gpu = Gpu { uuid: uuid.clone(), name: "A10".to_owned(), total: total * GIB, free: total * GIB };
            let replicas = u64::from(*held > 0);
            (uuid, Seat { gpu, held: held * GIB, others: 0, replicas, taken: false })
        };
        free.iter().enumerate().map(seat).collect()
    }

    fn wants(count: u64, gib: Option<u64>) -> GpuNeed {
        GpuNeed { count, memory: gib.map(|gib| gib * GIB), ..GpuNeed::default() }
    }

    #[test]
    fn the_gpu_with_the_least_room_that_is_enough_is_taken() {
        let all = seats(&[(24, 0), (24, 10), (24, 20)]);
        assert_eq!(best_fit(&all, &wants(1, Some(3))), Some(vec!["GPU-2".to_owned()]));
        assert_eq!(best_fit(&all, &wants(1, Some(6))), Some(vec!["GPU-1".to_owned()]));
        assert_eq!(best_fit(&all, &wants(2, Some(6))), Some(vec!["GPU-1".to_owned(), "GPU-0".to_owned()]));
        assert_eq!(best_fit(&all, &wants(3, Some(6))), None);
    }

    #[test]
    fn who_wants_one_for_itself_or_does_not_know_gets_an_empty_one() {
        let all = seats(&[(24, 0), (24, 1)]);
        assert_eq!(best_fit(&all, &wants(1, None)), Some(vec!["GPU-0".to_owned()]));
        let exclusive = GpuNeed { exclusive: true, ..wants(1, Some(1)) };
        assert_eq!(best_fit(&all, &exclusive), Some(vec!["GPU-0".to_owned()]));
        let mut taken = all;
        taken.values_mut().for_each(|seat| seat.taken = true);
        assert_eq!(best_fit(&taken, &wants(1, Some(1))), None);
    }

    #[test]
    fn what_can_never_be_is_told_with_numbers() {
        let gpu = |gib: u64| Gpu { uuid: "GPU-0".into(), name: "T4".into(), total: gib * GIB, free: gib * GIB };
        let said = |gpus: &[Gpu], need| impossible(gpus, &need).unwrap_or_default();
        assert!(said(&[], wants(1, None)).contains("1 GPU and this machine has none"));
        assert!(said(&[gpu(16)], wants(2, None)).contains("2 GPUs and this machine has 1 GPU"));
        assert!(
            said(&[gpu(16)], wants(1, Some(20)))
                .contains("20.0 GiB on 1 GPU, and the biggest of this machine has 16.0 GiB")
        );
        assert_eq!(impossible(&[gpu(16)], &wants(1, Some(8))), None);
        assert_eq!(impossible(&[], &GpuNeed::default()), None);
    }
}
