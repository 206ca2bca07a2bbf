//! Memory of this machine, as the kernel counts it.

use crate::plan::ledger::MachineMemory;

/// Reads the memory of this machine; none where the kernel does not tell.
pub fn read() -> Option<MachineMemory> {
    parse(&std::fs::read_to_string("/proc/meminfo").ok()?)
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
}
