//! Pausing and going on. Both may be repeated without harm.

use super::docker_connection::{Connection, QUICK};
use super::{ContainerId, EngineError};

/// Pauses a container; one that is paused is left alone.
pub(super) async fn pause(connection: &Connection, id: &ContainerId) -> Result<(), EngineError> {
    let paused = connection.settle("pause", &id.0, QUICK, connection.docker.pause_container(&id.0)).await;
    done_already(paused, "already paused")
}

/// Lets a paused container go on; one that runs is left alone.
pub(super) async fn unpause(connection: &Connection, id: &ContainerId) -> Result<(), EngineError> {
    let went_on = connection.settle("unpause", &id.0, QUICK, connection.docker.unpause_container(&id.0)).await;
    done_already(went_on, "is not paused")
}

fn done_already(result: Result<(), EngineError>, words: &str) -> Result<(), EngineError> {
    match result {
        Err(EngineError::Refused { message, .. }) if message.contains(words) => Ok(()),
        other => other,
    }
}
