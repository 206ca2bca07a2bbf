//! Was it memory? The engine's own flag says so when it is set; when it is not, it may have come too late to be kept.
//!
//! Engines learn of an out-of-memory kill and of the exit it causes on two ways, and on a loaded machine the exit is
//! sometimes first (one time in twenty, measured): the flag then stays unset for ever, though the event is mostly in the
//! engine's history. The last resort is what remains when a container with a memory limit was killed and nobody asked.

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
    /// It had a memory limit.
    pub(super) limited: bool,
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
    if exit.out_of_memory || exit.code == 0 || !known.limited {
        return;
    }
    let heard = listen(connection, &container.id.0, container.started_at).await;
    if let ContainerState::Exited(exit) = &mut container.state {
        exit.out_of_memory = was_memory(exit.code, known, heard);
    }
}

fn was_memory(code: i64, known: Circumstances, heard: Heard) -> bool {
    heard.out_of_memory || (code == KILLED && known.limited && !known.stopped_by_us && !heard.kill)
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
    fn it_was_memory_when_the_engine_says_so_or_when_nobody_else_can_have_killed_it() {
        let circumstances = |limited, stopped_by_us| Circumstances { limited, stopped_by_us };
        let heard = |out_of_memory, kill| Heard { out_of_memory, kill };
        for (code, known, heard, wanted) in [
            (1, circumstances(true, false), heard(true, false), true),
            (1, circumstances(true, false), heard(false, false), false),
            (137, circumstances(true, false), heard(false, false), true),
            (137, circumstances(true, false), heard(false, true), false),
            (137, circumstances(true, true), heard(false, false), false),
            (137, circumstances(false, false), heard(false, false), false),
            (137, circumstances(true, true), heard(true, true), true),
        ] {
            assert_eq!(was_memory(code, known, heard), wanted, "{code} {known:?} {heard:?}");
        }
    }
}
