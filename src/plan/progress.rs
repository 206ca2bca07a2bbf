//! A revision that makes no progress: as Deployments of Kubernetes and revisions of Knative do, it says
//! `ProgressDeadlineExceeded` when it has not come any further for ten minutes, or for as long as
//! `serving.knative.dev/progress-deadline` says. It is tried on all the same.
//!
//! Progress is a stage of its start that was not reached before, bytes that arrive, or one more replica that answers; a
//! container that is started again is none. The clock stands while the engine is away or room is waited for, starts anew
//! with the daemon, and is over once every replica has answered: what fails later is no rollout.

use std::collections::BTreeMap;
use std::time::Duration;

use super::memory::Memory;
use super::replica::Phase;
use super::stages::{Stage, StageNote};
use super::world::{Now, PullNote};
use crate::workload::{ComponentKey, Workload};

/// Annotation: how long a new revision may take to come further (`600s`, `10m`).
const PROGRESS_DEADLINE: &str = "serving.knative.dev/progress-deadline";
/// The same when it says nothing, as Knative's and Kubernetes'.
const DEADLINE: Duration = Duration::from_secs(600);

/// Returns how long a new revision may take to come further.
pub(super) fn deadline(workload: &Workload) -> Duration {
    let written = workload.annotations.get(PROGRESS_DEADLINE).and_then(|text| {
        let text = text.trim();
        let (number, unit) = match text.strip_suffix('m') {
            Some(minutes) => (minutes, 60),
            None => (text.strip_suffix('s')?, 1),
        };
        Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(unit)?))
    });
    written.unwrap_or(DEADLINE)
}

/// How far a revision has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    revision: u32,
    stage: Option<Stage>,
    pulled: Option<(u64, String)>,
    ready: u32,
}

impl Mark {
    /// Says how far a revision is; none when it waits for something that is not its own.
    pub(super) fn of(revision: u32, ready: u32, phase: &Phase) -> Option<Self> {
        let pulled = |note: &PullNote| Some((note.done, note.phase.clone()));
        let (stage, pulled) = match (phase, StageNote::of(phase)) {
            (Phase::PullingModel(_, note) | Phase::PullingImage(_, note), _) => (Some(Stage::Pull), pulled(note)),
            (_, StageNote::In(stage)) => (Some(stage), None),
            (Phase::EngineUnknown | Phase::EngineDown(_), _) => return None,
            (Phase::WaitingForRoom { .. } | Phase::NoRoom { .. }, _) => return None,
            _ => (None, None),
        };
        Some(Self { revision, stage, pulled, ready })
    }

    /// Takes up a later mark. Returns true when that is further.
    fn reach(&mut self, later: &Self) -> bool {
        let is_further = later.revision != self.revision
            || later.stage > self.stage
            || later.ready > self.ready
            || (later.pulled.is_some() && later.pulled != self.pulled);
        let (stage, ready) = (self.stage.max(later.stage), self.ready.max(later.ready));
        let is_same = later.revision == self.revision;
        *self = if is_same { Self { stage, ready, ..later.clone() } } else { later.clone() };
        is_further
    }
}

/// How far revisions have come, and since when they have not come any further.
pub type Progress = BTreeMap<ComponentKey, (Mark, Duration)>;

impl Memory {
    /// Since when a revision has not come any further than this; none when it just has.
    pub(super) fn stands_since(&self, component: &ComponentKey, mark: &Mark) -> Option<Duration> {
        let (known, since) = self.progress.get(component)?;
        (!known.clone().reach(mark)).then_some(*since)
    }

    /// Moves the clocks on. Components that are not told of have none.
    pub(super) fn note_progress(&mut self, marks: &[(ComponentKey, Mark)], now: Now) {
        self.progress.retain(|component, _| marks.iter().any(|(marked, _)| marked == component));
        for (component, mark) in marks {
            let (known, since) = self.progress.entry(component.clone()).or_insert_with(|| (mark.clone(), now.tick));
            if known.reach(mark) {
                *since = now.tick;
            }
        }
    }
}
