//! What a container wrote in the run that ended. It is started again as the same container and writes on into the same
//! log, so the log must be cut where that run begins.

use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;

use crate::engine::{Container, ContainerEngine, ContainerId, ContainerState, LogOptions};
use crate::plan::world::{ContainerFact, ExitFact};

/// Lines of output kept when a container ends.
const LINES: usize = 20;
/// However long the log is, the reading ends.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a run wrote is stamped up to this much after its end: the engine reads its pipe a little later. The next run
/// cannot begin that soon.
const STRAGGLING: Duration = Duration::from_millis(5);
/// What a run writes at once is stamped up to this much before the engine notes that it has started.
const NOTED_LATE: Duration = Duration::from_secs(2);

/// The run whose last lines are wanted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EndedRun {
    /// The engine's id of the container.
    pub(super) id: String,
    /// Name of the container.
    pub(super) name: String,
    /// How it ended.
    pub(super) exit: ExitFact,
    /// When the run before it ended, if that is known.
    pub(super) ended_before: Option<Timestamp>,
}

impl EndedRun {
    /// Names the run that `fact` tells the end of.
    pub(super) fn of(fact: &ContainerFact, exit: &ExitFact, ended_before: Option<Timestamp>) -> Self {
        Self { id: fact.id.clone(), name: fact.name.clone(), exit: exit.clone(), ended_before }
    }

    /// Reads its last lines; none when they cannot be had.
    pub(super) async fn last_words(&self, engine: &dyn ContainerEngine) -> Vec<String> {
        let id = ContainerId(self.id.clone());
        let read = async {
            let since = self.begins(engine.inspect(&id).await.ok().as_ref());
            let lines = engine.logs(&id, LogOptions { tail: Some(LINES), since, follow: false }).await.ok()?;
            let lines = lines.filter_map(|line| async { line.ok() });
            Some(lines.map(|line| line.text.trim_end().to_owned()).collect::<Vec<_>>().await)
        };
        tokio::time::timeout(PATIENCE, read).await.ok().flatten().unwrap_or_default()
    }

    /// Returns the time after which all that the container wrote is of this run; none when all of its log is. The
    /// engine's own time of the start is too late for a run that ended at once: its lines are stamped before it.
    fn begins(&self, now: Option<&Container>) -> Option<Timestamp> {
        if let Some(before) = self.ended_before {
            return before.checked_add(STRAGGLING).ok();
        }
        // It may have been started anew meanwhile; that start says nothing of this run.
        let ended = now.filter(|container| matches!(container.state, ContainerState::Exited(_)))?;
        ended.started_at?.checked_sub(NOTED_LATE).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::observe::tests::listed;
    use super::*;
    use crate::engine::Exit;

    fn at(text: &str) -> Option<Timestamp> {
        Some(format!("2026-11-22T10:00:{text}Z").parse().unwrap())
    }

    fn run(ended_before: Option<Timestamp>) -> EndedRun {
        EndedRun { id: "1".to_owned(), name: "new".to_owned(), exit: ExitFact::default(), ended_before }
    }

    #[test]
    fn lines_stamped_before_the_start_was_noted_belong_to_the_run() {
        let ended = listed(ContainerState::Exited(Exit::default()));
        let noted = Container { started_at: at("26.306294257"), finished_at: at("26.305288126"), ..ended };
        assert!(run(None).begins(Some(&noted)) < at("26.303811954"), "what the engine stamped its first line with");
    }

    #[test]
    fn a_run_begins_after_the_one_before_it_whatever_became_of_the_container_since() {
        let running = Container { started_at: at("30"), ..listed(ContainerState::Running) };
        assert_eq!(run(at("25")).begins(Some(&running)), at("25.005"));
        assert_eq!(run(at("25")).begins(None), at("25.005"));
        assert_eq!(run(None).begins(Some(&running)), None, "the start is that of the next run");
    }
}
