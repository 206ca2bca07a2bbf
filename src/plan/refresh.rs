//! When sources of models are asked for something new (`kserve-local/refresh`).
//!
//! Only models that are here are asked about. What is found becomes a version of its own, and so a revision: it is fetched
//! beside the one that serves, and has to prove itself. A source that does not answer changes nothing.

use std::time::Duration;

use jiff::Timestamp;

use super::action::Action;
use super::backoff;
use super::planner::Draft;
use super::world::{ModelState, Now, World};
use crate::api::{InferenceServiceStatus, StorageUri, meta};
use crate::workload::{Refresh, Workload};

/// What is known of a model's source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceNote {
    /// When it was last asked and answered, by this daemon or an earlier one.
    pub asked: Option<Timestamp>,
    /// Whether that was this daemon.
    pub asked_now: bool,
    /// Failures since, and the time of the last.
    pub failures: u32,
    /// When it was last tried, in ticks.
    pub tried: Duration,
    /// What the last failure was, in words for a person; empty when there was none.
    pub problem: String,
}

impl SourceNote {
    /// Returns when the source is to be asked next, in ticks; none when not at all.
    fn due(&self, refresh: Refresh, now: Now) -> Option<Duration> {
        if refresh == Refresh::Never {
            return None;
        }
        if self.failures > 0 {
            return Some(self.tried + backoff::retry_delay(self.failures));
        }
        match (refresh, self.asked) {
            (Refresh::OnStart, _) => (!self.asked_now).then_some(now.tick),
            (Refresh::Every(every), Some(asked)) => {
                let passed = Duration::try_from(now.wall.duration_since(asked)).unwrap_or_default();
                Some(now.tick + every.saturating_sub(passed))
            }
            _ => Some(now.tick),
        }
    }
}

/// Orders what is due.
pub(super) fn order(draft: &mut Draft<'_>) {
    let world = draft.world;
    for (refresh, uri) in refreshed(world) {
        if !matches!(world.models.get(uri), Some(ModelState::Present { .. })) {
            continue;
        }
        let note = world.sources.get(uri.unversioned()).cloned().unwrap_or_default();
        if let Some(at) = note.due(refresh, draft.now)
            && draft.due(at)
        {
            draft.act(Action::CheckModel { uri: uri.clone() });
        }
    }
}

/// Every model of a service that wants it refreshed.
fn refreshed(world: &World) -> impl Iterator<Item = (Refresh, &StorageUri)> {
    let services = world
        .services
        .values()
        .filter(|service| service.meta.annotation(meta::STOP).is_none_or(|value| !value.eq_ignore_ascii_case("true")));
    services.flat_map(|service| service.resolution.as_deref().unwrap_or_default()).flat_map(|resolved| {
        let refresh = of(&resolved.workload);
        let models = resolved.workload.models.iter().filter(move |_| refresh != Refresh::Never);
        models.map(move |model| (refresh, &model.uri)).filter(|(_, uri)| uri.can_be_refreshed())
    })
}

/// Whether the models of a workload are refreshed.
pub(super) fn is_wanted(workload: &Workload) -> bool {
    of(workload) != Refresh::Never
}

fn of(workload: &Workload) -> Refresh {
    // What is wrong there has been refused when the workload was made.
    Refresh::of(&workload.annotations).unwrap_or_default()
}

/// Says in a status when the sources of its models were last asked, and what is wrong with that.
pub(super) fn say(status: &mut InferenceServiceStatus, world: &World, workloads: &[&Workload]) {
    let models = workloads.iter().filter(|workload| is_wanted(workload)).flat_map(|one| &one.models);
    let notes: Vec<&SourceNote> = models.filter_map(|model| world.sources.get(model.uri.unversioned())).collect();
    if let Some(asked) = notes.iter().filter_map(|note| note.asked).min() {
        let asked = asked.round(jiff::Unit::Second).unwrap_or(asked);
        status.annotations.insert(meta::MODEL_CHECKED.to_owned(), asked.to_string());
    }
    if let Some(note) = notes.iter().find(|note| !note.problem.is_empty()) {
        status.annotations.insert(meta::MODEL_CHECK_FAILED.to_owned(), note.problem.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(seconds: i64) -> SourceNote {
        SourceNote { asked: Timestamp::from_second(seconds).ok(), ..SourceNote::default() }
    }

    #[test]
    fn a_source_is_asked_when_its_annotation_says_so_and_otherwise_never() {
        let now = Now::at(1000.0);
        let tick = Duration::from_secs;
        let hour = Refresh::Every(tick(3600));
        let this_daemon = SourceNote { asked_now: true, ..asked(900) };
        let failed = SourceNote { failures: 3, tried: tick(999), ..asked(0) };
        let table = [
            (SourceNote::default(), Refresh::Never, None),
            (failed.clone(), Refresh::Never, None),
            (SourceNote::default(), Refresh::OnStart, Some(tick(1000))),
            (asked(900), Refresh::OnStart, Some(tick(1000))),
            (this_daemon.clone(), Refresh::OnStart, None),
            (SourceNote::default(), hour, Some(tick(1000))),
            (this_daemon, hour, Some(tick(4500))),
            (asked(-9000), hour, Some(tick(1000))),
            // The clock was put back: one whole time from now.
            (asked(999_999), hour, Some(tick(4600))),
            (failed.clone(), hour, Some(tick(1003))),
            (failed, Refresh::OnStart, Some(tick(1003))),
        ];
        for (note, refresh, due) in table {
            assert_eq!(note.due(refresh, now), due, "{note:?} {refresh:?}");
        }
    }
}
