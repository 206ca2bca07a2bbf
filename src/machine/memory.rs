//! Memory of this machine, as the kernel counts it.

use std::process::{Command, Stdio};
use std::sync::LazyLock;

use crate::plan::ledger::MachineMemory;

/// What `sysctl` says; it does not change while the machine is up.
static BY_SYSCTL: LazyLock<Option<u64>> = LazyLock::new(|| {
    let said = Command::new("sysctl").args(["-n", "hw.memsize"]).stderr(Stdio::null()).output().ok()?;
    parse_sysctl(&String::from_utf8_lossy(&said.stdout))
});

/// Reads the memory of this machine; none where the kernel does not tell. A Mac tells how much there is, not how much is
/// free.
pub fn read() -> Option<MachineMemory> {
    match std::fs::read_to_string("/proc/meminfo") {
        Ok(text) => parse(&text),
        Err(_) => BY_SYSCTL.map(|total| MachineMemory { total, available: None }),
    }
}

fn parse_sysctl(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|total| *total > 0)
}

/// `MemAvailable` is the kernel's own estimate of what a new program could have without swapping: free pages, and caches
/// that come back by themselves.
fn parse(text: &str) -> Option<MachineMemory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line?.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(MachineMemory { total: field("MemTotal")?, available: field("MemAvailable") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_and_what_is_available_are_read_in_bytes() {
        let text = "MemTotal:       16384 kB\nMemFree:         1024 kB\nMemAvailable:    8192 kB\nBuffers:  1 kB\n";
        assert_eq!(parse(text), Some(MachineMemory { total: 16 << 20, available: Some(8 << 20) }));
        let old = "MemTotal:       16384 kB\nMemFree:         1024 kB\n";
        assert_eq!(parse(old), Some(MachineMemory { total: 16 << 20, available: None }));
        assert_eq!(parse("nothing"), None);
    }

    #[test]
    fn a_mac_tells_its_total_and_nothing_is_made_up() {
        assert_eq!(parse_sysctl("68719476736\n"), Some(64 << 30));
        assert_eq!(parse_sysctl("0\n"), None);
        assert_eq!(parse_sysctl("sysctl: unknown oid\n"), None);
    }
}
