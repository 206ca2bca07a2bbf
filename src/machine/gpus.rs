//! NVIDIA GPUs of this machine, as the driver's own tool tells of them.
//!
//! `nvidia-smi` comes with every driver and is NVML with a command line; asking it needs no library to be found, linked or
//! loaded into this process. Any program of that name does: tests bring one that prints what they like.

use std::collections::BTreeMap;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use tokio::process::Command;

use crate::plan::ledger::Gpu;

/// Longest wait for an answer: a driver that wakes its GPUs takes seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// One MiB, the tool's unit.
const MIB: u64 = 1 << 20;

/// Where the driver's tool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuTool(Utf8PathBuf);

impl GpuTool {
    /// Finds the tool on a `PATH`.
    pub fn find(path: &str) -> Option<Self> {
        let folders = path.split(':').filter(|folder| !folder.is_empty());
        let program = folders.map(|folder| Utf8Path::new(folder).join("nvidia-smi")).find(|file| file.is_file());
        program.map(Self)
    }

    /// Asks for a list of fields and returns the lines of the answer; none when the tool fails or is silent.
    async fn ask(&self, question: &str) -> Option<String> {
        let mut command = Command::new(self.0.as_std_path());
        command.args([question, "--format=csv,noheader,nounits"]).kill_on_drop(true);
        let answer = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
        answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
    }
}

/// What the driver tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpus {
    /// The GPUs, in the driver's order.
    pub devices: Vec<Gpu>,
    /// Bytes used by each process, by process id and GPU.
    pub processes: BTreeMap<u32, BTreeMap<String, u64>>,
}

/// Reads the GPUs of this machine; none when the driver does not answer.
pub async fn read(tool: &GpuTool) -> Option<Gpus> {
    let devices = tool.ask("--query-gpu=uuid,name,memory.total,memory.free").await?;
    let processes = tool.ask("--query-compute-apps=gpu_uuid,pid,used_memory").await.unwrap_or_default();
    Some(parse(&devices, &processes))
}

fn parse(devices: &str, processes: &str) -> Gpus {
    let fields = |line: &str| line.split(',').map(|field| field.trim().to_owned()).collect::<Vec<_>>();
    let mut gpus = Gpus::default();
    for line in devices.lines() {
        if let [uuid, name, total, free] = fields(line).as_slice()
            && let (Some(total), Some(free)) = (mebibytes(total), mebibytes(free))
        {
            gpus.devices.push(Gpu { uuid: uuid.clone(), name: name.clone(), total, free });
        }
    }
    for line in processes.lines() {
        if let [uuid, pid, used] = fields(line).as_slice()
            && let (Ok(pid), Some(used)) = (pid.parse(), mebibytes(used))
        {
            *gpus.processes.entry(pid).or_default().entry(uuid.clone()).or_default() += used;
        }
    }
    gpus
}

/// The tool writes `[N/A]` for what a driver does not tell.
fn mebibytes(text: &str) -> Option<u64> {
    text.parse::<u64>().ok()?.checked_mul(MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_processes_are_read_and_what_is_not_told_is_left_out() {
        let devices = "GPU-aaaa, NVIDIA A10, 23028, 20000\nGPU-bbbb, NVIDIA A10, [N/A], [N/A]\nnonsense\n";
        let processes = "GPU-aaaa, 4711, 1024\nGPU-aaaa, 4711, 1\nGPU-aaaa, 12, [N/A]\n";
        let gpus = parse(devices, processes);
        let want =
            Gpu { uuid: "GPU-aaaa".to_owned(), name: "NVIDIA A10".to_owned(), total: 23028 * MIB, free: 20000 * MIB };
        assert_eq!(gpus.devices, [want]);
        assert_eq!(gpus.processes, BTreeMap::from([(4711, BTreeMap::from([("GPU-aaaa".to_owned(), 1025 * MIB)]))]));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_tool_on_the_path_is_asked_and_one_that_fails_means_nothing_is_known() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        assert_eq!(GpuTool::find(path), None);
        let program = folder.path().join("nvidia-smi");
        let write = |text: &str| {
            std::fs::write(&program, text).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        write("#!/bin/sh\ncase $1 in --query-gpu*) echo 'GPU-1, Tesla T4, 15360, 15000';; *) ;; esac\n");
        let tool = GpuTool::find(&format!("/nowhere::{path}")).unwrap();
        let gpus = read(&tool).await.unwrap();
        assert_eq!((gpus.devices.len(), gpus.devices[0].free), (1, 15000 * MIB));
        write("#!/bin/sh\necho 'no devices were found'; exit 9\n");
        assert_eq!(read(&tool).await, None);
    }
}
