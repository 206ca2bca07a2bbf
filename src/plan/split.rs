//! How a component's traffic is shared between its newest revision and the last that had all of it (§5.1).

use super::memory::Revisions;
use super::routes::Backend;
use crate::api::meta;
use crate::workload::Workload;

/// One share of a component's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Revision number.
    pub revision: u32,
    /// Percent.
    pub percent: u32,
    /// Whether it follows the newest revision that answers.
    pub latest: bool,
    /// `latest`, `prev` or nothing.
    pub tag: &'static str,
}

/// Two revisions that are wanted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// The last that had all traffic.
    pub(super) stable: u32,
    /// Percent of the newest.
    pub(super) percent: u32,
    /// The newest had all traffic and is taken back: from now on the one before counts as the last that had it.
    pub(super) takes_back: bool,
}

/// Returns how traffic is to be split; none when one revision is to have it all.
pub(super) fn split(history: &Revisions, workload: &Workload) -> Option<Split> {
    let percent = workload.canary_percent.filter(|percent| *percent < 100)?;
    let rolled_out = history.rolled_out?;
    if rolled_out != history.target {
        return Some(Split { stable: rolled_out, percent, takes_back: false });
    }
    // Asking less than all for a revision that has all takes it back. That it was asked all before is needed: undoing an
    // edit makes a revision wanted again that had all traffic once, and must not go further back than that.
    let had_all = history.asked == Some((history.target, 100));
    let stable = history.previous.filter(|previous| had_all && *previous != history.target)?;
    Some(Split { stable, percent, takes_back: true })
}

/// Returns the shares of a split when `latest` is the newest revision that answers.
pub(super) fn shares(split: Split, latest: u32, workload: &Workload) -> Vec<Share> {
    let Split { stable, percent, .. } = split;
    vec![
        Share { revision: latest, percent, latest: true, tag: latest_tag(Some(workload)) },
        Share { revision: stable, percent: 100 - percent, latest: false, tag: "prev" },
    ]
}

/// Returns the one share of a revision that has all traffic.
pub(super) fn all(revision: u32, workload: Option<&Workload>) -> Vec<Share> {
    vec![Share { revision, percent: 100, latest: true, tag: latest_tag(workload) }]
}

fn latest_tag(workload: Option<&Workload>) -> &'static str {
    let asked = workload.and_then(|workload| workload.annotations.get(meta::ENABLE_TAG_ROUTING));
    if asked.is_some_and(|value| value == "true") { "latest" } else { "" }
}

/// Gives the backends of each share their weights: revisions share by percent, the replicas of one equally. A share of
/// which nothing answers goes to the others. Returns those that get traffic.
pub(super) fn weigh(shares: &[Share], backends: &[(u32, Backend)]) -> Vec<Backend> {
    let percent = |revision: u32| -> u32 {
        shares.iter().filter(|share| share.revision == revision).map(|share| share.percent).sum()
    };
    let replicas = |revision: u32| backends.iter().filter(|(other, _)| *other == revision).count();
    let is_alone = backends.iter().all(|(revision, _)| Some(*revision) == backends.first().map(|(first, _)| *first));
    let only_unwanted = backends.iter().all(|(revision, _)| percent(*revision) == 0);
    let weight = |revision: u32| match u32::try_from(replicas(revision)) {
        _ if is_alone || only_unwanted => 1,
        Ok(count) if count > 0 => percent(revision) * PARTS / count,
        _ => 0,
    };
    let weighed = backends.iter().map(|(revision, one)| Backend { weight: weight(*revision), ..one.clone() });
    weighed.filter(|one| one.weight > 0).collect()
}

/// Lets canaries that answer take their percents of the traffic from the stable replicas, which share the rest as they
/// did. While nothing stable answers the canaries have it all; one with no percent never has any.
pub(super) fn mix(stable: Vec<Backend>, canaries: &[(u32, Vec<Backend>)]) -> Vec<Backend> {
    let answering = || canaries.iter().filter(|(percent, backends)| *percent > 0 && !backends.is_empty());
    if answering().next().is_none() {
        return stable;
    }
    let taken: u64 = answering().map(|(percent, _)| u64::from(*percent)).sum();
    let whole: u64 = stable.iter().map(|one| u64::from(one.weight)).sum::<u64>().max(1);
    let stable = stable.into_iter().map(|one| {
        let weight = u64::from(one.weight) * 100u64.saturating_sub(taken) * u64::from(PARTS);
        (weight, one)
    });
    let own = answering().flat_map(|(percent, backends)| {
        let count = u64::try_from(backends.len()).unwrap_or(u64::MAX);
        let weight = u64::from(*percent) * whole * u64::from(PARTS) / count;
        backends.iter().map(move |one| (weight, one.clone()))
    });
    let all: Vec<(u64, Backend)> = stable.chain(own).filter(|(weight, _)| *weight > 0).collect();
    let divisor = all.iter().map(|(weight, _)| *weight).fold(0, common_divisor).max(1);
    let fitting = |weight: u64| u32::try_from(weight / divisor).unwrap_or(u32::MAX);
    all.into_iter().map(|(weight, one)| Backend { weight: fitting(weight), ..one }).collect()
}

fn common_divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { common_divisor(other, one % other) }
}

/// Divides evenly by every number of replicas up to eight.
const PARTS: u32 = 840;
