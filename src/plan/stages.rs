//! How long each stage of a start takes on this machine, learned from starts that went smoothly: fetching, making, starting,
//! loading.
//!
//! A component's clock runs through the stages in order; what went wrong or began before anybody looked teaches nothing.
//! Averages forget: each new time counts for half. They are kept with the component's revisions and survive the daemon.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::memory::Memory;
use super::replica::Phase;
use super::world::{Now, PullNote};
use crate::workload::ComponentKey;

/// A stage of a start, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Models and images are fetched.
    Pull,
    /// The engine makes and starts containers.
    Create,
    /// Init containers run, or what slept is woken.
    Start,
    /// It runs and does not answer yet.
    Load,
}

/// How a component stands for the clock of its stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageNote {
    /// It is in this stage.
    In(Stage),
    /// It answers.
    Over,
    /// Something is wrong, or it waits for others: what was measured is of no use.
    Void,
}

impl StageNote {
    /// Says what a phase means for the clock.
    pub(super) fn of(phase: &Phase) -> Self {
        match phase {
            Phase::PullingModel(..) | Phase::PullingImage(..) => Self::In(Stage::Pull),
            Phase::Creating => Self::In(Stage::Create),
            Phase::Initializing(_) | Phase::Waking => Self::In(Stage::Start),
            Phase::Loading { .. } => Self::In(Stage::Load),
            Phase::Ready => Self::Over,
            _ => Self::Void,
        }
    }
}

/// What each stage usually takes, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Times(BTreeMap<Stage, u64>);

impl Times {
    /// Whether nothing was learned yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes up a time. Returns true when that is worth keeping: what moves by less than a quarter is not written to disk.
    fn learn(&mut self, stage: Stage, took: Duration) -> bool {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let before = self.0.get(&stage).copied();
        let learned = before.map_or(took, |before| before.midpoint(took));
        let is_news = before.is_none_or(|before| before.abs_diff(learned) > before / 4);
        if is_news {
            self.0.insert(stage, learned);
        }
        is_news
    }

    /// Returns what it takes from the beginning of a stage until the answer, in whole seconds; none while no time of that
    /// is known.
    pub fn onward(&self, stage: Stage) -> Option<Duration> {
        let known = self.0.range(stage..).map(|(_, millis)| millis);
        let whole = known.clone().next().is_some().then(|| known.sum::<u64>());
        whole.map(|millis| Duration::from_secs(millis.div_ceil(1000)))
    }

    /// Returns what a phase usually leaves to be waited for, in whole seconds; none while no time is known. A pull that
    /// says how fast it goes is believed; all else is from history, so that nothing changes as long as nothing happens.
    pub(super) fn left(&self, phase: &Phase) -> Option<Duration> {
        match phase {
            Phase::PullingModel(_, note) | Phase::PullingImage(_, note) => {
                let after = self.onward(Stage::Create).unwrap_or_default();
                pull_left(note).map(|left| left + after).or_else(|| self.onward(Stage::Pull))
            }
            Phase::Asleep => self.onward(Stage::Create),
            phase => match StageNote::of(phase) {
                StageNote::In(stage) => self.onward(stage),
                StageNote::Over | StageNote::Void => None,
            },
        }
    }
}

fn pull_left(note: &PullNote) -> Option<Duration> {
    let left = note.total.checked_sub(note.done).filter(|_| note.total > 0 && note.rate > 0)?;
    Some(Duration::from_secs(left.div_ceil(note.rate)))
}

impl Memory {
    /// Moves the clocks of stages on. Returns true when something was learned.
    pub(super) fn note_stages(&mut self, notes: &[(ComponentKey, StageNote)], now: Now) -> bool {
        let mut news = false;
        let noted: HashSet<&ComponentKey> = notes.iter().map(|(component, _)| component).collect();
        self.stages.retain(|component, _| noted.contains(component));
        for (component, note) in notes {
            let known = self.stages.get(component).copied();
            let stays = matches!((known, note), (Some((stage, _)), StageNote::In(now)) if stage == *now);
            if stays {
                continue;
            }
            if let Some((stage, since)) = known.filter(|(stage, _)| follows(*note, *stage)) {
                let times = &mut self.revisions.entry(component.clone()).or_default().times;
                news |= times.learn(stage, now.tick.saturating_sub(since));
            }
            match note {
                // What loads without having been made before anybody's eyes may do so for long already.
                StageNote::In(Stage::Load) if known.is_none() => {}
                StageNote::In(stage) => _ = self.stages.insert(component.clone(), (*stage, now.tick)),
                StageNote::Over | StageNote::Void => _ = self.stages.remove(component),
            }
        }
        news
    }
}

/// Whether a stage ended as it should when this came next.
fn follows(note: StageNote, stage: Stage) -> bool {
    match note {
        StageNote::In(next) => next > stage,
        StageNote::Over => true,
        StageNote::Void => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ComponentKind, ServiceKey};

    fn key() -> ComponentKey {
        ComponentKey { service: ServiceKey::new("default", "iris"), component: ComponentKind::Predictor }
    }

    /// Plays stages, each with the second it begins, and returns what was learned.
    fn learned(notes: &[(f64, StageNote)]) -> Times {
        let mut memory = Memory::default();
        for (second, note) in notes {
            memory.note_stages(&[(key(), *note)], Now::at(*second));
        }
        memory.revisions.get(&key()).map(|revisions| revisions.times.clone()).unwrap_or_default()
    }

    #[test]
    fn each_stage_is_learned_by_itself_and_what_is_left_is_the_sum_of_those_to_come() {
        use StageNote::{In, Over};
        let times = learned(&[
            (0.0, In(Stage::Pull)),
            (1.0, In(Stage::Pull)),
            (30.0, In(Stage::Create)),
            (32.0, In(Stage::Load)),
            (40.0, In(Stage::Load)),
            (44.0, Over),
        ]);
        let left = |phase: &Phase| times.left(phase).map(|left| left.as_secs());
        let loading = Phase::Loading { message: String::new(), restarts: 0 };
        assert_eq!(left(&loading), Some(12));
        assert_eq!(left(&Phase::Creating), Some(14));
        assert_eq!(left(&Phase::Asleep), Some(14), "nothing is fetched for what slept");
        let pulling = |done, total, rate| {
            Phase::PullingImage("a".to_owned(), PullNote { done, total, rate, phase: String::new() })
        };
        assert_eq!(left(&pulling(0, 0, 0)), Some(44), "nothing is known of this pull but how long they take");
        assert_eq!(left(&pulling(100, 700, 6)), Some(114), "this one says itself how long it takes");
        assert_eq!(left(&Phase::Ready), None);
        assert_eq!(Times::default().left(&loading), None);
    }

    #[test]
    fn what_fails_or_began_unseen_teaches_nothing() {
        use StageNote::{In, Over, Void};
        for notes in [
            vec![(0.0, In(Stage::Create)), (5.0, Void), (6.0, In(Stage::Load)), (9.0, Over)],
            vec![(0.0, In(Stage::Load)), (9.0, Over)],
            vec![(0.0, Over), (9.0, Over)],
        ] {
            assert!(learned(&notes).is_empty(), "{notes:?}");
        }
        let again = learned(&[(0.0, In(Stage::Create)), (4.0, Over), (10.0, In(Stage::Create)), (18.0, Over)]);
        assert_eq!(again.onward(Stage::Create), Some(Duration::from_secs(6)), "each new time counts for half");
    }
}
