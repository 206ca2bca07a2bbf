//! Back-off as arithmetic.

use std::time::Duration;

/// Kubernetes' longest wait between two restarts of a container.
const RESTART_LIMIT: Duration = Duration::from_secs(300);
/// A container that ran this long starts over with a clean sheet, as in Kubernetes.
pub const RESTART_RESET: Duration = Duration::from_secs(600);

/// What failed for good is looked at again this much later all the same: someone may have mended the other side.
pub const PERMANENT_RETRY: Duration = Duration::from_secs(300);

/// Returns how long to wait before restart number `failures` (from 1): at once, then 10 s doubling up to 5 min, the
/// kubelet's schedule.
pub fn restart_delay(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => Duration::from_secs(10).saturating_mul(1 << (n - 2).min(10)).min(RESTART_LIMIT),
    }
}

/// Returns how long to wait before trying a pull or an engine call again after `failures` failures in a row.
pub fn retry_delay(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => Duration::from_secs(1).saturating_mul(1 << (n - 1).min(9)).min(RESTART_LIMIT),
    }
}

/// Returns how long to wait before the next look at something that is not ready yet: a few milliseconds at first, at
/// most half a second, so that a fast server is not kept waiting and a slow one is not drowned.
pub fn eager_probe_delay(attempts: u32) -> Duration {
    Duration::from_millis(5).saturating_mul(1 << attempts.min(10)).min(Duration::from_millis(500))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_follow_the_kubelets_schedule() {
        let seconds: Vec<u64> = (1..=8).map(|n| restart_delay(n).as_secs()).collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(restart_delay(u32::MAX).as_secs(), 300);
        assert_eq!(retry_delay(u32::MAX).as_secs(), 300);
        assert_eq!(eager_probe_delay(u32::MAX), Duration::from_millis(500));
    }
}
