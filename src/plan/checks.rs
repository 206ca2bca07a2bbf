//! Checks: which are due, what they ask, and what those that were made say of a replica.

use std::time::Duration;

use super::action::{Action, ProbeKind, ProbeOrder, ProbeWhat};
use super::backoff;
use super::memory::ProbeMemory;
use super::planner::Draft;
use super::replica::{Phase, Replica, unhealthy};
use super::retire::owner_reach;
use super::world::ContainerFact;
use crate::workload::{Check, Probe, Readiness};

/// Orders the checks that are due and gives the verdict of those that were made.
pub(super) fn checks(draft: &mut Draft<'_>, replica: &Replica<'_>) -> Phase {
    let mut verdict = Verdict { ready: true, ever: true, message: String::new(), restarts: 0 };
    let mut killed = false;
    for (index, container) in replica.record.containers.iter().enumerate() {
        let Some(fact) = replica.containers.get(container.name.as_str()) else { continue };
        if !fact.is_running() || draft.is_busy(&fact.name) || unhealthy(draft, fact).is_some() {
            continue;
        }
        let memory = draft.world.memory.containers.get(&fact.name);
        killed |= memory.is_some_and(|memory| memory.kills > 0);
        verdict.restarts = verdict.restarts.max(memory.map_or(0, |memory| memory.restarts));
        check_container(draft, replica, index, fact, &mut verdict);
    }
    let Verdict { mut message, restarts, .. } = verdict;
    if killed {
        message.push_str("; a process in it was killed because memory ran out");
    }
    match (verdict.ready, verdict.ever) {
        (true, _) => Phase::Ready,
        (false, false) => Phase::Loading { message, restarts },
        (false, true) => Phase::NotReady { message },
    }
}

struct Verdict {
    ready: bool,
    ever: bool,
    message: String,
    restarts: u32,
}

fn check_container(
    draft: &mut Draft<'_>,
    replica: &Replica<'_>,
    index: usize,
    fact: &ContainerFact,
    verdict: &mut Verdict,
) {
    let container = &replica.record.containers[index];
    let as_written = |probe: &Probe| ProbeWhat::Check(probe.check.clone());
    if let Some(probe) = &container.probes.startup
        && let Err(words) = check(draft, fact, ProbeKind::Startup, probe, as_written(probe))
    {
        (verdict.ready, verdict.ever, verdict.message) = (false, false, words);
        return;
    }
    if let Some(probe) = &container.probes.liveness {
        // Its verdict reaches us as `unhealthy`; here it is only kept going.
        drop(check(draft, fact, ProbeKind::Liveness, probe, as_written(probe)));
    }
    let declared = container.probes.readiness.as_ref();
    let declared = declared.map(|probe| (ProbeKind::Readiness, probe.clone(), as_written(probe)));
    let own = own_check(replica, index).map(|(probe, what)| (ProbeKind::Model, probe, what));
    for (kind, probe, what) in declared.into_iter().chain(own) {
        if let Err(words) = check(draft, fact, kind, &probe, what) {
            (verdict.ready, verdict.message) = (false, words);
            verdict.ever &= draft.world.memory.probe(&fact.name, kind).is_some_and(|memory| memory.ever_passed);
        }
    }
}

/// Returns the check of the model itself, which is made although nobody declared it.
fn own_check(replica: &Replica<'_>, index: usize) -> Option<(Probe, ProbeWhat)> {
    if index != 0 || replica.record.readiness == Readiness::Declared {
        return None;
    }
    let what = ProbeWhat::Readiness(replica.record.readiness.clone(), replica.record.entry.port);
    Some((derived_probe(replica.record.entry.port), what))
}

/// Returns the schedule of a check that nobody declared: every 10 s once ready, three failures to lose it.
fn derived_probe(port: u16) -> Probe {
    Probe {
        check: Check::Tcp { port },
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        success_threshold: 1,
        failure_threshold: 3,
        termination_grace: None,
    }
}

fn check(
    draft: &mut Draft<'_>,
    fact: &ContainerFact,
    kind: ProbeKind,
    probe: &Probe,
    what: ProbeWhat,
) -> Result<(), String> {
    let memory = draft.world.memory.containers.get(&fact.name);
    let run = memory.and_then(|memory| memory.started);
    let known = memory.and_then(|memory| memory.probes.get(&kind)).cloned().unwrap_or_default();
    if kind == ProbeKind::Startup && known.ever_passed {
        // It has said what it is for.
        return Ok(());
    }
    let eager = is_eager(&known, kind, &what);
    let started = run.unwrap_or(draft.now.tick);
    let ran_before = memory.map_or(Duration::ZERO, |memory| memory.ran_before);
    let first = started + probe.initial_delay.saturating_sub(ran_before);
    if draft.due(next_check(&known, first, probe, eager)) {
        draft.act(Action::Probe(Box::new(ProbeOrder {
            id: fact.id.clone(),
            name: fact.name.clone(),
            kind,
            what,
            reach: owner_reach(draft, fact),
            timeout: probe.timeout,
            probe: probe.clone(),
            run,
            at: draft.now.tick,
        })));
    }
    if known.passing { Ok(()) } else { Err(known.message) }
}

/// Whether somebody may wait for it to pass for the first time.
fn is_eager(known: &ProbeMemory, kind: ProbeKind, what: &ProbeWhat) -> bool {
    matches!(kind, ProbeKind::Readiness | ProbeKind::Model)
        && !matches!(what, ProbeWhat::Check(Check::Exec { .. }))
        && !known.passing
        && known.successes == 0
}

/// Checks that pass are bundled: their times are rounded up to this, so that hundreds of services wake the loop a few
/// times a second and not hundreds of times.
const BUNDLE: Duration = Duration::from_millis(250);

/// Says when the next check is due. As in Kubernetes a period is from beginning to beginning, and one that takes longer is
/// followed by the next at once.
fn next_check(memory: &ProbeMemory, first: Duration, probe: &Probe, eager: bool) -> Duration {
    let Some(last) = memory.last else { return first };
    let regular = last.max(memory.begun.unwrap_or(last) + probe.period);
    match eager {
        true => last + backoff::eager_probe_delay(memory.attempts).min(probe.period),
        false if memory.passing => round_up(regular, BUNDLE),
        false => regular,
    }
}

/// Says when a check that was just made is due again; none when what is known is not of the run it was made of.
pub fn due_again(known: &ProbeMemory, order: &ProbeOrder) -> Option<Duration> {
    let eager = is_eager(known, order.kind, &order.what);
    (known.begun == Some(order.at)).then(|| next_check(known, order.at, &order.probe, eager))
}

fn round_up(time: Duration, step: Duration) -> Duration {
    let (time, step) = (time.as_nanos(), step.as_nanos());
    Duration::from_nanos(u64::try_from(time.div_ceil(step) * step).unwrap_or(u64::MAX))
}

/// Whether the serving container of a replica runs.
pub(super) fn runs(containers: &[&ContainerFact]) -> bool {
    let serves = |fact: &&&ContainerFact| {
        fact.record.containers.first().is_some_and(|container| container.name == fact.container)
    };
    containers.iter().find(serves).is_some_and(|fact| fact.is_running())
}

/// What is known of a replica's checks without making any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answered {
    /// It failed one, does not run or is being worked on.
    No,
    /// Some were not made yet: the daemon or the replica was just started.
    Perhaps,
    /// It passed them all.
    Yes,
}

/// Says whether a replica passed its checks when they were last made.
pub(super) fn answered(draft: &Draft<'_>, containers: &[&ContainerFact]) -> Answered {
    let check = |fact: &ContainerFact, kind| match draft.world.memory.probe(&fact.name, kind) {
        Some(known) if known.passing => Answered::Yes,
        Some(known) if known.failures > 0 || known.successes > 0 => Answered::No,
        _ => Answered::Perhaps,
    };
    let of = |fact: &&ContainerFact| {
        let container = fact.record.container(&fact.container)?;
        if !fact.is_running() || draft.is_busy(&fact.name) || unhealthy(draft, fact).is_some() {
            return Some(Answered::No);
        }
        let is_first = fact.record.containers.first().is_some_and(|first| first.name == fact.container);
        let has_own = is_first && fact.record.readiness != Readiness::Declared;
        let declared = container.probes.readiness.as_ref().map(|_| check(fact, ProbeKind::Readiness));
        let own = has_own.then(|| check(fact, ProbeKind::Model));
        declared.into_iter().chain(own).min().or(Some(Answered::Yes))
    };
    if runs(containers) { containers.iter().filter_map(of).min().unwrap_or(Answered::No) } else { Answered::No }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_from_beginning_to_beginning_and_a_check_that_takes_longer_is_followed_by_the_next() {
        let seconds = Duration::from_secs;
        let probe = derived_probe(8080);
        let known = |begun, last| ProbeMemory { begun: Some(begun), last: Some(last), ..ProbeMemory::default() };
        let next = |begun, last| next_check(&known(seconds(begun), seconds(last)), Duration::ZERO, &probe, false);
        assert_eq!(next(100, 100), seconds(110));
        assert_eq!(next(100, 102), seconds(110), "it timed out after two seconds");
        assert_eq!(next(100, 130), seconds(130));
        assert_eq!(next_check(&ProbeMemory::default(), seconds(7), &probe, false), seconds(7));
    }
}
