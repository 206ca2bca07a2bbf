//! What processes use: the resident memory of everything that carries a container's id.

use std::collections::HashMap;

use super::ContainerId;
use super::process_table::{MARK, all};
use super::usage::Usage;

/// Adds up what the processes of these containers use; nothing where the kernel does not show its processes.
pub(super) fn usage(ids: &[ContainerId]) -> HashMap<ContainerId, Usage> {
    let mut used: HashMap<ContainerId, Usage> = HashMap::new();
    for pid in all() {
        let Some(id) = container(pid).filter(|id| ids.contains(id)) else { continue };
        let usage = used.entry(id).or_default();
        usage.memory += resident(pid, "VmRSS:");
        // The peaks of several processes need not have been at once; their sum is on the safe side.
        usage.peak += resident(pid, "VmHWM:");
    }
    for usage in used.values_mut() {
        usage.peak = usage.peak.max(usage.memory);
    }
    used
}

/// The container whose id a process carries.
fn container(pid: i32) -> Option<ContainerId> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mark = format!("{MARK}=");
    let value = environ.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(mark.as_bytes()))?;
    Some(ContainerId(String::from_utf8_lossy(value).into_owned()))
}

fn resident(pid: i32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kibibytes(&status, field).saturating_mul(1024)
}

fn kibibytes(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_kibibytes() {
        let status = "Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        assert_eq!((kibibytes(status, "VmRSS:"), kibibytes(status, "VmHWM:")), (1024, 2048));
        assert_eq!(kibibytes("Name:\tkthreadd\n", "VmRSS:"), 0);
    }
}
