//! "Something changed", from the engine's event stream. Lossy by nature; the list is the truth.

use std::collections::HashMap;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};

use super::docker::DockerEngine;
use super::docker_error::translate;

/// Waits between attempts to connect.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A subscription that failed has said so by then.
const SETTLING: Duration = Duration::from_millis(250);
/// A stream silent for so long may be dead (a machine that slept, an engine that was replaced): it is opened anew.
const LONGEST_SILENCE: Duration = Duration::from_secs(600);
/// Events that change what is listed. Others, above all those of exec probes, would only be noise.
const TELLING: [&str; 9] = ["create", "start", "die", "stop", "oom", "pause", "unpause", "destroy", "rename"];

enum Ear {
    Deaf {
        wait: Duration,
    },
    /// `echoes` of the last event were given so far.
    Listening {
        events: BoxStream<'static, Result<EventMessage, Error>>,
        echoes: usize,
    },
}

/// Docker tells of a container's end before its list does, which still calls it running while its network is taken down.
/// So every event is given again after these times, counted from the one before.
const ECHOES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(400), Duration::from_millis(1500)];

/// Yields at every event of a container of ours, some time after it, and whenever events may have been missed. Never ends.
pub(super) fn changes(engine: DockerEngine) -> BoxStream<'static, ()> {
    let start = (engine, Ear::Deaf { wait: Duration::ZERO });
    stream::unfold(start, |(engine, ear)| async move {
        let ear = match ear {
            Ear::Deaf { wait } => listen(&engine, wait).await,
            Ear::Listening { events, echoes } => hear(&engine, events, echoes).await,
        };
        Some(((), (engine, ear)))
    })
    .boxed()
}

/// Connects, however long it takes, and returns once events arrive from now on.
async fn listen(engine: &DockerEngine, mut wait: Duration) -> Ear {
    loop {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
        let Ok(connection) = engine.connection().await else { continue };
        let filter = |name: &str, values: &[&str]| (name.to_owned(), values.iter().map(|v| (*v).to_owned()).collect());
        let label = engine.label_filter();
        let filters = HashMap::from([
            filter("type", &["container"]),
            filter("label", &[label.as_str()]),
            filter("event", &TELLING),
        ]);
        let options = EventsOptions { since: None, until: None, filters: Some(filters) };
        let mut events = connection.docker.events(Some(options)).boxed();
        // The request goes out at the first poll.
        match tokio::time::timeout(SETTLING, events.next()).await {
            Err(_) => return Ear::Listening { events, echoes: ECHOES.len() },
            Ok(Some(Ok(event))) => {
                understand(engine, event);
                return Ear::Listening { events, echoes: 0 };
            }
            Ok(lost) => note(engine, &connection.endpoint, lost),
        }
    }
}

/// Waits for the next event; a stream that ends, fails or stays silent is a hint too.
async fn hear(
    engine: &DockerEngine,
    mut events: BoxStream<'static, Result<EventMessage, Error>>,
    echoes: usize,
) -> Ear {
    let echo = ECHOES.get(echoes).copied();
    match tokio::time::timeout(echo.unwrap_or(LONGEST_SILENCE), events.next()).await {
        Ok(Some(Ok(event))) => {
            understand(engine, event);
            drain(engine, &mut events);
            Ear::Listening { events, echoes: 0 }
        }
        Err(_) if echo.is_some() => Ear::Listening { events, echoes: echoes + 1 },
        Ok(lost) => {
            note(engine, "the engine", lost);
            Ear::Deaf { wait: FIRST_WAIT }
        }
        Err(_) => Ear::Deaf { wait: Duration::ZERO },
    }
}

/// One hint is as good as many: takes what has already arrived.
fn drain(engine: &DockerEngine, events: &mut (impl Stream<Item = Result<EventMessage, Error>> + Unpin)) {
    use futures::FutureExt;
    while let Some(Some(Ok(event))) = events.next().now_or_never() {
        understand(engine, event);
    }
}

/// Of all events, only a kill for memory says something the list will not.
fn understand(engine: &DockerEngine, event: EventMessage) {
    if event.action.as_deref() == Some("oom")
        && let Some(id) = event.actor.and_then(|actor| actor.id)
    {
        engine.note_starved(id);
    }
}

/// Lets the next call connect anew when the engine is what failed.
fn note(engine: &DockerEngine, endpoint: &str, lost: Option<Result<EventMessage, Error>>) {
    let reason = match lost {
        Some(Err(error)) => Err(translate(endpoint, "listen to", "events", &error)),
        _ => Ok(()),
    };
    if let Err(error) = engine.noting(reason) {
        tracing::debug!(%error, "the engine's event stream failed");
    }
}
