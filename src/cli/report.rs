//! Error to text, hint and exit code.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use super::client::ClientError;
use super::output;

/// What the caller's shell is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// It is not so: not ready, not found, differs.
    NotSo = 1,
    /// Wrong usage, or an invalid manifest.
    Usage = 2,
    /// This machine: no daemon, no engine, no disk, port taken.
    Machine = 3,
    /// Something remote.
    Remote = 4,
    /// It does not fit in memory.
    DoesNotFit = 5,
    /// A bug of ours.
    Bug = 70,
    /// Interrupted.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error of the command line itself: what is wrong, whose problem it is, and the next step.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// Whose problem it is.
    pub exit: Exit,
    /// What is wrong.
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
    /// Why.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl Problem {
    /// Makes a problem without a hint.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, source: None }
    }

    /// Wrong usage.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// It is not so.
    pub fn not_so(message: impl Into<String>) -> Self {
        Self::new(Exit::NotSo, message)
    }

    /// This machine.
    pub fn machine(message: impl Into<String>) -> Self {
        Self::new(Exit::Machine, message)
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// Prints an error, its causes and its hint, and returns the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return Exit::Done.into();
    }
    output::note(&format!("error: {}", chain(error.as_ref())));
    if let Some(hint) = hint(error) {
        output::note(&format!("hint: {hint}"));
    }
    exit_of(error).into()
}

/// Returns an error and its causes in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.truncate(text.trim_end_matches('.').len());
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<output::StdoutError>().is_some_and(|stdout| broken(&stdout.0)))
}

fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let own = cause.downcast_ref::<Problem>().and_then(|problem| problem.hint.clone());
        own.or_else(|| cause.downcast_ref::<ClientError>().and_then(ClientError::hint))
    })
}

/// Returns the exit code of an error: that of the first cause which knows.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    let known = error.chain().find_map(|cause| {
        let own = cause.downcast_ref::<Problem>().map(|problem| problem.exit);
        let client = || cause.downcast_ref::<ClientError>().map(ClientError::exit);
        let machine = || cause.downcast_ref::<io::Error>().map(|_| Exit::Machine);
        let stdout = || cause.downcast_ref::<output::StdoutError>().map(|_| Exit::Machine);
        own.or_else(client).or_else(machine).or_else(stdout)
    });
    known.unwrap_or(Exit::Bug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_the_first_cause_that_knows() {
        let problem = anyhow::Error::new(Problem::usage("wrong")).context("while trying");
        assert_eq!(exit_of(&problem), Exit::Usage);
        assert_eq!(exit_of(&anyhow::Error::new(io::Error::other("x"))), Exit::Machine);
        assert_eq!(exit_of(&anyhow::anyhow!("surprise")), Exit::Bug);
    }

    #[test]
    fn causes_are_said_once() {
        let problem = Problem::machine("could not read `x`").because(io::Error::other("no such file"));
        assert_eq!(chain(&problem), "could not read `x`: no such file");
    }
}
