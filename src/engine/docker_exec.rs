//! Commands inside a container, for exec probes and hooks.

use std::time::Duration;

use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures::StreamExt;

use super::docker_connection::Connection;
use super::docker_error::refused;
use super::{Blame, ContainerId, EngineError};

/// What is asked, for messages.
pub(super) const VERB: &str = "run a command in";
/// Most output that is kept; the rest is read and dropped.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// Runs a command and returns its exit code and output. A command that does not end in time is a refusal; the engine has
/// no way to end it, so it is left to itself.
pub(super) async fn run(
    connection: &Connection,
    id: &ContainerId,
    command: &[String],
    timeout: Duration,
) -> Result<(i64, String), EngineError> {
    let ended = tokio::time::timeout(timeout, run_to_end(connection, id, command));
    ended.await.unwrap_or_else(|_| {
        let message = format!("`{}` did not end within {timeout:?}", command.join(" "));
        Err(refused(VERB, &id.0, message, Blame::User))
    })
}

async fn run_to_end(
    connection: &Connection,
    id: &ContainerId,
    command: &[String],
) -> Result<(i64, String), EngineError> {
    let options = CreateExecOptions {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(command.to_vec()),
        ..CreateExecOptions::default()
    };
    let limit = super::docker_connection::QUICK;
    let created = connection.settle(VERB, &id.0, limit, connection.docker.create_exec(&id.0, options)).await?;
    let started = connection.docker.start_exec(&created.id, None::<StartExecOptions>);
    let started = connection.settle(VERB, &id.0, limit, started).await?;
    let mut kept = Vec::new();
    if let StartExecResults::Attached { mut output, .. } = started {
        while let Some(piece) = output.next().await {
            let piece = piece.map_err(|error| refused(VERB, &id.0, error.to_string(), Blame::Machine))?.into_bytes();
            let room = OUTPUT_LIMIT.saturating_sub(kept.len());
            kept.extend_from_slice(&piece[..piece.len().min(room)]);
        }
    }
    let ended = connection.settle(VERB, &id.0, limit, connection.docker.inspect_exec(&created.id)).await?;
    let code = ended.exit_code.ok_or_else(|| refused(VERB, &id.0, "it closed its output and runs on", Blame::User))?;
    Ok((code, String::from_utf8_lossy(&kept).into_owned()))
}
