//! Commands inside a container, for exec probes and hooks.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures::StreamExt;

use super::docker_connection::{Connection, QUICK};
use super::docker_error::{refused, status, translate};
use super::{Blame, ContainerId, EngineError};

/// What is asked, for messages.
pub(super) const VERB: &str = "run a command in";
/// Most output that is kept; the rest is read and dropped.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// Commands that did not end in time, by container and command: the id of what runs on.
#[derive(Debug, Default)]
pub(super) struct Lingering(Mutex<HashMap<(ContainerId, Vec<String>), String>>);

impl Lingering {
    fn get(&self, key: &(ContainerId, Vec<String>)) -> Option<String> {
        self.lock().get(key).cloned()
    }

    fn note(&self, key: (ContainerId, Vec<String>), exec: String) {
        self.lock().insert(key, exec);
    }

    fn forget(&self, key: &(ContainerId, Vec<String>)) {
        self.lock().remove(key);
    }

    /// Forgets those of containers that are gone.
    pub(super) fn retain(&self, lives: impl Fn(&ContainerId) -> bool) {
        self.lock().retain(|(id, _), _| lives(id));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(ContainerId, Vec<String>), String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a command and returns its exit code and output. A command that does not end in time is a refusal; the engine has
/// no way to end it, so it is left to itself, and refused until it has ended: a probe that hangs would fill the container
/// with one process per period.
pub(super) async fn run(
    connection: &Connection,
    lingering: &Lingering,
    id: &ContainerId,
    command: &[String],
    timeout: Duration,
) -> Result<(i64, String), EngineError> {
    let key = (id.clone(), command.to_vec());
    if let Some(exec) = lingering.get(&key) {
        if runs(connection, &exec).await? {
            let message = format!("`{}` still runs from the last time", command.join(" "));
            return Err(refused(VERB, &id.0, message, Blame::User));
        }
        lingering.forget(&key);
    }
    let mut exec = None;
    let ended = tokio::time::timeout(timeout, run_to_end(connection, id, command, &mut exec)).await;
    let outcome = match ended {
        Ok(Ok(Some(ended))) => return Ok(ended),
        Ok(Ok(None)) => "it closed its output and runs on".to_owned(),
        Ok(Err(error)) => return Err(error),
        Err(_) => format!("`{}` did not end within {timeout:?}", command.join(" ")),
    };
    if let Some(exec) = exec {
        lingering.note(key, exec);
    }
    Err(refused(VERB, &id.0, outcome, Blame::User))
}

/// Whether a command runs; one the engine does not know any more has ended.
async fn runs(connection: &Connection, exec: &str) -> Result<bool, EngineError> {
    match connection.answer(QUICK, connection.docker.inspect_exec(exec)).await? {
        Ok(found) => Ok(found.running.unwrap_or(false)),
        Err(error) if status(&error) == Some(404) => Ok(false),
        Err(error) => Err(translate(&connection.endpoint, VERB, exec, &error)),
    }
}

/// Returns the exit code and the output, none when it runs on; `exec` gets the engine's id of it as soon as there is one.
async fn run_to_end(
    connection: &Connection,
    id: &ContainerId,
    command: &[String],
    exec: &mut Option<String>,
) -> Result<Option<(i64, String)>, EngineError> {
    let options = CreateExecOptions {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(command.to_vec()),
        ..CreateExecOptions::default()
    };
    let created = connection.settle(VERB, &id.0, QUICK, connection.docker.create_exec(&id.0, options)).await?;
    *exec = Some(created.id.clone());
    let started = connection.docker.start_exec(&created.id, None::<StartExecOptions>);
    let started = connection.settle(VERB, &id.0, QUICK, started).await?;
    let mut kept = Vec::new();
    if let StartExecResults::Attached { mut output, .. } = started {
        while let Some(piece) = output.next().await {
            let piece = piece.map_err(|error| refused(VERB, &id.0, error.to_string(), Blame::Machine))?.into_bytes();
            let room = OUTPUT_LIMIT.saturating_sub(kept.len());
            kept.extend_from_slice(&piece[..piece.len().min(room)]);
        }
    }
    let ended = connection.settle(VERB, &id.0, QUICK, connection.docker.inspect_exec(&created.id)).await?;
    Ok(ended.exit_code.map(|code| (code, String::from_utf8_lossy(&kept).into_owned())))
}

#[cfg(test)]
mod tests {
    use super::super::ContainerEngine;
    use super::super::docker_imitation::Imitation;
    use super::*;
    use crate::workload::names::INSTANCE_LABEL;

    #[tokio::test]
    async fn a_command_that_hangs_is_not_started_again_while_it_runs() {
        let imitation = Imitation::start(|question| match question {
            "GET /containers/c/json" => {
                let ours = format!(r#"{{"Id":"c","Config":{{"Labels":{{"{INSTANCE_LABEL}":"t"}}}}}}"#);
                Some((200, ours))
            }
            "POST /containers/c/exec" => Some((201, r#"{"Id":"e"}"#.to_owned())),
            "GET /exec/e/json" => Some((200, r#"{"ID":"e","Running":true}"#.to_owned())),
            // Started, and nothing comes of it.
            _ => None,
        });
        let (id, command) = (ContainerId("c".to_owned()), ["cat".to_owned()]);
        for wanted in ["did not end within", "still runs"] {
            let error = imitation.engine.exec(&id, &command, Duration::from_secs(1)).await.unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
        }
        assert_eq!(imitation.count("POST /containers/c/exec"), 1);
    }
}
