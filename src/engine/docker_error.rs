//! The engine's refusals in our words: what was asked, of whom, and whose problem it is.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use bollard::errors::Error;

use super::docker_find::FindError;
use super::{Blame, EngineError};

/// Makes the error for an engine that does not answer.
pub(super) fn unreachable(endpoint: &str, cause: FindError) -> EngineError {
    EngineError::Unreachable { endpoint: endpoint.to_owned(), source: Arc::new(cause) }
}

/// Returns the status of an engine's refusal.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Returns the engine's own words.
pub(super) fn words(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        Error::DockerStreamError { error } => error.trim().to_owned(),
        other => chain(other),
    }
}

/// Translates an error of a call about the container or image `name`.
pub(super) fn translate(endpoint: &str, verb: &'static str, name: &str, error: &Error) -> EngineError {
    match status(error) {
        Some(404) if words(error).contains("No such container") || words(error).contains("no such container") => {
            EngineError::NoSuchContainer(name.to_owned())
        }
        Some(code) => refused(verb, name, with_next_step(words(error)), blame(code)),
        None => lost(endpoint, verb, name, error),
    }
}

/// Makes a refusal.
pub(super) fn refused(verb: &'static str, name: &str, message: impl Into<String>, blame: Blame) -> EngineError {
    EngineError::Refused { verb, name: name.to_owned(), message: message.into(), blame }
}

/// Adds what to do to the engine's words, where they are known to leave people puzzled.
fn with_next_step(words: String) -> String {
    let step = if words.contains("could not select device driver") {
        "install the NVIDIA Container Toolkit for this engine, or ask for no GPU"
    } else if words.contains("no space left on device") {
        "free space on the engine's disk (`docker system df` shows what takes it)"
    } else if words.contains("docker-init") {
        "install the engine's init program (`tini`)"
    } else {
        return words;
    };
    format!("{words}; {step}")
}

/// A bad request is the manifest's doing; anything else happened here.
fn blame(code: u16) -> Blame {
    match code {
        400 => Blame::User,
        _ => Blame::Machine,
    }
}

/// No answer, or one that cannot be read.
fn lost(endpoint: &str, verb: &'static str, name: &str, error: &Error) -> EngineError {
    match error {
        Error::RequestTimeoutError => unreachable(endpoint, FindError::Silent),
        Error::SocketNotFoundError(_) => unreachable(endpoint, FindError::Missing),
        Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } | Error::IOError { .. } => {
            unreachable(endpoint, io_cause(error).unwrap_or_else(|| FindError::Io(io::Error::other(chain(error)))))
        }
        other => refused(verb, name, format!("its answer could not be read ({})", chain(other)), Blame::Machine),
    }
}

fn io_cause(error: &Error) -> Option<FindError> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(cause) = current.downcast_ref::<io::Error>() {
            return Some(io::Error::new(cause.kind(), cause.to_string()).into());
        }
        next = current.source();
    }
    None
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
