//! Was it memory? The engine's own flag says so when it is set; when it is not, it may have come too late to be kept.
//!
//! Engines learn of an out-of-memory kill and of the exit it causes on two ways, and on a loaded machine the exit is
//! sometimes first (one time in twenty, measured): the flag then stays unset for ever, though the event is mostly in the
//! engine's history. What remains is a guess, and is told as one: a container with a memory limit was killed, and nobody
//! is known to have asked for it. Somebody may have done so past the engine, with a signal to its process.

use std::collections::HashMap;
use std::time::Duration;

use bollard::query_parameters::EventsOptions;
use futures::StreamExt;
use jiff::Timestamp;

use super::docker_connection::Connection;
use super::{Container, ContainerState};

/// Exit code of a container whose first process got SIGKILL.
const KILLED: i64 = 137;
/// How long the engine is listened to; its history comes at once, stragglers soon.
const LISTENING: Duration = Duration::from_millis(300);

/// What else is known of a container that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    /// Its memory limit in bytes, if it had one.
    pub(super) limit: Option<u64>,
    /// We told it to stop.
    pub(super) stopped_by_us: bool,
}

/// What the engine's history tells of a container's last run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Heard {
    out_of_memory: bool,
    kill: bool,
}

/// Sets the out-of-memory mark of an ended container that lacks it wrongly.
pub(super) async fn look_closer(connection: &Connection, container: &mut Container, known: Circumstances) {
    let ContainerState::Exited(exit) = &container.state else { return };
    if exit.out_of_memory || exit.code == 0 || known.limit.is_none() {
        return;
    }
    let heard = listen(connection, &container.id.0, container.started_at).await;
    if let ContainerState::Exited(exit) = &mut container.state {
        exit.out_of_memory = heard.out_of_memory;
        exit.killed_under_limit = unexplained(exit.code, known, heard);
    }
}

/// Returns the limit of a container whose kill nothing else explains.
fn unexplained(code: i64, known: Circumstances, heard: Heard) -> Option<u64> {
    let is_explained = heard.out_of_memory || heard.kill || known.stopped_by_us;
    known.limit.filter(|_| code == KILLED && !is_explained)
}

/// Listens to what the engine remembers since the start. A history that cannot be had is an empty one.
async fn listen(connection: &Connection, id: &str, since: Option<Timestamp>) -> Heard {
    let list = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
    let filters = HashMap::from([("container".to_owned(), list(&[id])), ("event".to_owned(), list(&["oom", "kill"]))]);
    let since = since.map(|time| time.as_second().to_string());
    let options = EventsOptions { since, until: None, filters: Some(filters) };
    let mut events = connection.docker.events(Some(options)).boxed();
    let mut heard = Heard::default();
    let listening = async {
        while let Some(Ok(event)) = events.next().await {
            match event.action.as_deref() {
                Some("oom") => {
                    heard.out_of_memory = true;
                    return;
                }
                Some("kill") => heard.kill = true,
                _ => {}
            }
        }
    };
    // The end of the time is the usual end: the engine goes on listening for as long as it is asked to.
    let _ = tokio::time::timeout(LISTENING, listening).await;
    heard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_the_likely_cause_of_a_kill_only_where_nothing_else_explains_it() {
        let circumstances = |limit, stopped_by_us| Circumstances { limit, stopped_by_us };
        let heard = |out_of_memory, kill| Heard { out_of_memory, kill };
        let limit = Some(64 << 20);
        for (code, known, heard, wanted) in [
            (137, circumstances(limit, false), heard(false, false), limit),
            (1, circumstances(limit, false), heard(false, false), None),
            (137, circumstances(limit, false), heard(true, false), None),
            (137, circumstances(limit, false), heard(false, true), None),
            (137, circumstances(limit, true), heard(false, false), None),
            (137, circumstances(None, false), heard(false, false), None),
        ] {
            assert_eq!(unexplained(code, known, heard), wanted, "{code} {known:?} {heard:?}");
        }
    }
}
