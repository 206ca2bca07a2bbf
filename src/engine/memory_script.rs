//! What the in-memory engine is told to do: how containers of an image behave, what registries hold, what goes wrong.

use std::collections::HashMap;
use std::time::Duration;

use super::{EngineError, Exit};

/// How containers of one image behave. The default runs until it is stopped, and listens on nothing.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// Serves the V1 and V2 protocols on its ports.
    pub serves: Option<Serves>,
    /// Ends by itself so long after each start.
    pub ends: Option<(Duration, Exit)>,
    /// The engine refuses to start it, in these words.
    pub start_error: Option<String>,
    /// How long it takes to stop after the signal; longer than the grace period means it is killed.
    pub stop_takes: Duration,
    /// Lines it writes at each start.
    pub says: Vec<String>,
    /// Answers of commands run inside; others exit with 0 and say nothing.
    pub commands: HashMap<Vec<String>, Command>,
    /// `USER` of the image.
    pub user: String,
    /// Bytes it uses while it runs; nothing is told when 0.
    pub memory: u64,
}

/// What a command run inside does.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// Exit code.
    pub code: i64,
    /// What it writes.
    pub output: String,
    /// How long it runs.
    pub takes: Duration,
}

/// A model server: any model name is served, predictions echo what was sent.
#[derive(Clone, Debug, Default)]
pub struct Serves {
    /// Between the start and the model's readiness; before it answers 503.
    pub ready_after: Duration,
    /// How long a prediction takes.
    pub predict_takes: Duration,
}

impl Behaviour {
    /// A model server that is ready so long after each start.
    pub fn server(ready_after: Duration) -> Self {
        Self { serves: Some(Serves { ready_after, ..Serves::default() }), ..Self::default() }
    }

    /// A program that ends by itself with this code.
    pub fn exits(after: Duration, code: i64) -> Self {
        Self { ends: Some((after, Exit { code, ..Exit::default() })), ..Self::default() }
    }

    /// A program that outgrows its memory.
    pub fn runs_out_of_memory(after: Duration) -> Self {
        Self { ends: Some((after, Exit { code: 137, out_of_memory: true, ..Exit::default() })), ..Self::default() }
    }
}

/// An image in a registry.
#[derive(Clone, Debug, Default)]
pub struct Remote {
    /// Its size in bytes, for progress.
    pub bytes: u64,
    /// How long a pull takes.
    pub takes: Duration,
    /// Why a pull fails at its end, and whether for good.
    pub error: Option<(String, bool)>,
}

/// The engine's verbs, for counting and faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// `info`.
    Info,
    /// `list`.
    List,
    /// `create`.
    Create,
    /// `start`.
    Start,
    /// `stop`.
    Stop,
    /// `pause`.
    Pause,
    /// `unpause`.
    Unpause,
    /// `remove`.
    Remove,
    /// `image_present`.
    ImagePresent,
    /// `pull_image`.
    PullImage,
    /// `inspect`.
    Inspect,
    /// `exec`.
    Exec,
    /// `logs`.
    Logs,
}

/// What goes wrong at one call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is not done, and this is the answer.
    Fail(EngineError),
    /// It is done, and the answer is lost.
    LoseReply,
    /// It is done so much later.
    Delay(Duration),
    /// It is never answered and never done.
    Hang,
    /// The code that asks panics.
    Panic,
    /// A list answers what the previous one did.
    Stale,
}

/// Faults on order and calls so far.
#[derive(Debug, Default)]
pub(super) struct Script {
    calls: HashMap<Verb, u64>,
    faults: Vec<(Verb, u64, Fault)>,
}

impl Script {
    /// Orders a fault for the `nth` call from now, the next being 1.
    pub(super) fn order(&mut self, verb: Verb, nth: u64, fault: Fault) {
        self.faults.push((verb, self.calls(verb) + nth, fault));
    }

    pub(super) fn calls(&self, verb: Verb) -> u64 {
        self.calls.get(&verb).copied().unwrap_or_default()
    }

    /// Counts a call and takes the faults ordered for it.
    pub(super) fn count(&mut self, verb: Verb) -> Vec<Fault> {
        let count = self.calls.entry(verb).or_default();
        *count += 1;
        let now = *count;
        let (due, later) =
            std::mem::take(&mut self.faults).into_iter().partition(|(of, nth, _)| *of == verb && *nth == now);
        self.faults = later;
        let due: Vec<(Verb, u64, Fault)> = due;
        due.into_iter().map(|(_, _, fault)| fault).collect()
    }
}
