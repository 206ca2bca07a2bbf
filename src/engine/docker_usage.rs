//! What containers use, as Docker counts it. On Linux with control groups of version 2 Docker leaves the peak out, and the
//! kernel's own file is read where this process can see it.

use std::collections::HashMap;

use bollard::models::{ContainerMemoryStats, ContainerStatsResponse};
use bollard::query_parameters::StatsOptions;
use futures::StreamExt;

use super::ContainerId;
use super::docker_connection::{Connection, QUICK};
use super::usage::{Counted, Usage};

/// Questions at once.
const AT_ONCE: usize = 8;

/// Asks what these containers use; those that do not run or are gone are left out.
pub(super) async fn usage(connection: &Connection, ids: &[ContainerId]) -> HashMap<ContainerId, Usage> {
    let ask = |id: &ContainerId| {
        let id = id.clone();
        async move { Some((id.clone(), one(connection, &id).await?)) }
    };
    let answers: Vec<_> = ids.iter().map(ask).collect();
    futures::stream::iter(answers).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

async fn one(connection: &Connection, id: &ContainerId) -> Option<Usage> {
    let options = StatsOptions { stream: false, one_shot: true };
    let mut stats = connection.docker.stats(&id.0, Some(options)).boxed();
    // A container that ended in between has nothing to tell, and is asked again only when it runs.
    let stats = tokio::time::timeout(QUICK, stats.next()).await.ok()??.ok()?;
    read(&stats, recorded_peak(&id.0).await)
}

fn read(stats: &ContainerStatsResponse, recorded_peak: Option<u64>) -> Option<Usage> {
    let memory = counted(stats.memory_stats.as_ref()?, recorded_peak)?;
    let cpu = stats.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage);
    Some(Usage { cpu_nanos: cpu, ..memory.usage() })
}

fn counted(memory: &ContainerMemoryStats, recorded_peak: Option<u64>) -> Option<Counted> {
    let detail = |names: [&str; 2]| {
        let detail = memory.stats.as_ref();
        names.iter().find_map(|name| detail?.get(*name).copied()).unwrap_or_default()
    };
    let shared = detail(["shmem", "total_shmem"]);
    Some(Counted {
        usage: memory.usage?,
        most: memory.max_usage.or(recorded_peak).unwrap_or_default(),
        files: detail(["file", "total_cache"]).saturating_sub(shared),
        idle_files: detail(["total_inactive_file", "inactive_file"]),
    })
}

/// Counts the processes the kernel killed for memory in these containers, where their groups are this machine's.
pub(super) async fn memory_kills(ids: &[ContainerId]) -> HashMap<ContainerId, u64> {
    let ids = ids.to_vec();
    let count = |id: ContainerId| {
        let text = kill_records(&id.0).iter().find_map(|file| std::fs::read_to_string(file).ok())?;
        Some((id, counted_kills(&text)?))
    };
    let counted = tokio::task::spawn_blocking(move || ids.into_iter().filter_map(count).collect());
    counted.await.unwrap_or_default()
}

/// Where the kernel counts what it killed for memory: control groups of version 2 and of version 1, each by Docker's two
/// ways to name a group.
fn kill_records(id: &str) -> [String; 4] {
    let root = "/sys/fs/cgroup";
    [
        format!("{root}/system.slice/docker-{id}.scope/memory.events"),
        format!("{root}/docker/{id}/memory.events"),
        format!("{root}/memory/docker/{id}/memory.oom_control"),
        format!("{root}/memory/system.slice/docker-{id}.scope/memory.oom_control"),
    ]
}

fn counted_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// Reads the kernel's record, where Docker's two ways to name a group lead to one of this machine.
async fn recorded_peak(id: &str) -> Option<u64> {
    for path in [
        format!("/sys/fs/cgroup/system.slice/docker-{id}.scope/memory.peak"),
        format!("/sys/fs/cgroup/docker/{id}/memory.peak"),
    ] {
        if let Ok(text) = tokio::fs::read_to_string(&path).await {
            return text.trim().parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(detail: &[(&str, u64)], usage: u64, max_usage: Option<u64>) -> ContainerMemoryStats {
        let stats = detail.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        ContainerMemoryStats { usage: Some(usage), max_usage, stats: Some(stats), ..ContainerMemoryStats::default() }
    }

    #[test]
    fn kills_are_counted_in_both_versions_of_control_groups() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let v2 = "low 0\nhigh 0\nmax 12\noom 2\noom_kill 2\noom_group_kill 0\n";
        assert_eq!((counted_kills(v1), counted_kills(v2), counted_kills("")), (Some(3), Some(2), None));
    }

    #[test]
    fn both_versions_of_control_groups_are_read() {
        let v1 = memory(&[("total_inactive_file", 300), ("total_cache", 500), ("total_shmem", 100)], 1000, Some(2000));
        let wanted = Counted { usage: 1000, most: 2000, files: 400, idle_files: 300 };
        assert_eq!(counted(&v1, None), Some(wanted));
        let v2 = memory(&[("inactive_file", 300), ("file", 500), ("shmem", 100)], 1000, None);
        assert_eq!(counted(&v2, Some(2000)), Some(wanted));
        assert_eq!(counted(&v2, None), Some(Counted { most: 0, ..wanted }));
        assert_eq!(counted(&ContainerMemoryStats::default(), None), None);
    }
}
