//! What containers use of the machine, as far as the engine can tell.

/// What one container uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory in bytes that would not come back by itself: the kernel's count without file pages nobody has read lately,
    /// as the kubelet counts a working set.
    pub memory: u64,
    /// The most it used since it was started, counted the same way, when the kernel keeps a record; never less than
    /// `memory`.
    pub peak: u64,
    /// CPU time since it was started, in nanoseconds, when the engine counts it.
    pub cpu_nanos: Option<u64>,
}

/// What a kernel counts of a control group, all in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Everything, file pages included.
    pub(super) usage: u64,
    /// The most of that since the start; 0 when it is not recorded.
    pub(super) most: u64,
    /// File pages, those in memory for good (`shmem`) left out.
    pub(super) files: u64,
    /// Of those, the ones nobody has read lately.
    pub(super) idle_files: u64,
}

impl Counted {
    /// Returns memory in use and its peak. The record of the peak has file pages in it that were read once: those there
    /// are now are taken out.
    pub(super) fn usage(self) -> Usage {
        let memory = self.usage.saturating_sub(self.idle_files);
        Usage { memory, peak: memory.max(self.most.saturating_sub(self.files)), cpu_nanos: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_pages_that_come_back_by_themselves_are_not_in_use() {
        let counted = Counted { usage: 900, most: 0, files: 700, idle_files: 500 };
        assert_eq!(counted.usage(), Usage { memory: 400, peak: 400, cpu_nanos: None });
        let spiked = Counted { most: 1500, ..counted };
        assert_eq!(spiked.usage().peak, 800, "the peak without what was read");
        assert_eq!(Counted { usage: 1, idle_files: 2, ..Counted::default() }.usage().memory, 0);
    }
}
