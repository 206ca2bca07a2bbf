//! Phases in words: status, one CamelCase reason, and a message that tells a person what happened and what comes next.

use std::time::Duration;

use super::replica::{Crash, Phase};
use super::world::{ExitFact, PullNote};
use crate::api::{ConditionStatus, StorageUri};
use crate::workload::names::{is_image_name, process_recipe};

/// Reason of what waits for the first answer of the engine. Every start begins with it, so it is no news.
pub const ENGINE_NOT_ASKED: &str = "EngineNotAsked";

/// A phase in the words of a condition.
pub(super) struct Said {
    pub(super) status: ConditionStatus,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Says where a replica is.
pub(super) fn said(phase: &Phase) -> Said {
    use ConditionStatus::{False, True, Unknown};
    let (status, reason, message) = match phase {
        Phase::Ready => (True, "", String::new()),
        Phase::Asleep => (True, "Asleep", "asleep; the next request starts it".to_owned()),
        Phase::Waking => (Unknown, "Waking", "it is being woken; its memory was kept".to_owned()),
        Phase::EngineUnknown => (Unknown, ENGINE_NOT_ASKED, "the container engine has not answered yet".to_owned()),
        Phase::EngineDown(message) => (False, "EngineUnavailable", message.clone()),
        Phase::PullingModel(uri, note) => {
            let doing = if matches!(uri, StorageUri::Local(_)) { "looking for" } else { "fetching" };
            (Unknown, "ModelPulling", format!("{doing} {}{}", uri.redacted(), progress(note)))
        }
        Phase::ModelFailed { message, transient } => (False, "ModelPullFailed", retried(message, *transient)),
        Phase::PullingImage(image, note) => match process_recipe(image) {
            Some(recipe) => {
                (Unknown, "EnvironmentPreparing", format!("preparing what {recipe} runs in{}", progress(note)))
            }
            None => (Unknown, "ImagePulling", format!("pulling {image}{}", progress(note))),
        },
        Phase::ImageFailed { image, message, transient } => {
            let reason = match process_recipe(image) {
                Some(_) => "EnvironmentFailed",
                None if !is_image_name(image) => "InvalidImageName",
                None => "ImagePullFailed",
            };
            (False, reason, retried(message, *transient))
        }
        Phase::WaitingForRoom { message } => (Unknown, "WaitingForMemory", message.clone()),
        Phase::NoRoom { message, gpu: false } => (False, "InsufficientMemory", message.clone()),
        Phase::NoRoom { message, gpu: true } => (False, "InsufficientGPU", message.clone()),
        Phase::GivenUp { message } => {
            let message = format!("it never got ready, and the revision before is back: {message}");
            (False, "RolledBack", message)
        }
        Phase::Overdue(phase, deadline) => {
            let message = format!("it came no further within {} s: {}", deadline.as_secs(), said(phase).message);
            (False, "ProgressDeadlineExceeded", message)
        }
        Phase::Creating => (Unknown, "ContainerCreating", "the container is being created".to_owned()),
        Phase::Refused { message } => (False, "ContainerCannotRun", message.clone()),
        Phase::Initializing(name) => (Unknown, "PodInitializing", format!("init container `{name}` is running")),
        Phase::Loading { message, restarts } => (Unknown, "ModelLoading", loading(message, *restarts)),
        Phase::NotReady { message } => {
            (False, "ModelNotReady", format!("it answered before and does not now: {message}"))
        }
        Phase::Crashed(crash) => (False, crash_reason(&crash.exit), crash_message(crash)),
        Phase::Paused => (False, "ContainerPaused", "someone paused the container; unpause it to serve".to_owned()),
        Phase::Removed { times, delay } => {
            let words = format!(
                "someone removed its container {times} times; it is made again {} s after the last time",
                delay.as_secs()
            );
            (False, "ContainerRemoved", words)
        }
        Phase::Leaving => (Unknown, "Terminating", "it is not wanted any more".to_owned()),
        Phase::Gone => (False, "ContainerGone", "a container of this revision was removed".to_owned()),
    };
    Said { status, reason, message }
}

fn loading(message: &str, restarts: u32) -> String {
    let again = match restarts {
        0 => String::new(),
        1 => " again after it ended once".to_owned(),
        times => format!(" again after it ended {times} times"),
    };
    match message {
        "" => format!("the container runs{again}; the model does not answer yet"),
        words => format!("the container runs{again}; the model does not answer yet ({words})"),
    }
}

fn retried(message: &str, transient: bool) -> String {
    if transient { format!("{message}; it is tried again") } else { message.to_owned() }
}

fn progress(note: &PullNote) -> String {
    match (note.done, note.total) {
        (0, 0) if note.phase.is_empty() => String::new(),
        (0, 0) => format!(": {}", note.phase),
        (done, total) => format!(": {}", super::pace::words(done, total, note.rate)),
    }
}

/// Returns a size in a person's words.
pub fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| count >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", count / unit, count % unit * 10 / unit),
        None => format!("{count} B"),
    }
}

fn crash_reason(exit: &ExitFact) -> &'static str {
    match exit {
        exit if exit.is_memory_death() => "OOMKilled",
        exit if !exit.error.is_empty() => "ContainerCannotRun",
        _ => "CrashLoopBackOff",
    }
}

fn crash_message(crash: &Crash) -> String {
    let Crash { container, exit, .. } = crash;
    let mut text = match exit {
        exit if exit.out_of_memory => {
            format!("container `{container}` was killed because it ran out of memory (exit code {})", exit.code)
        }
        exit if let Some(limit) = exit.killed_under_limit => format!(
            "container `{container}` was killed (exit code {}), most likely for memory: it has a limit of {}, and nobody \
             else is known to have done it",
            exit.code,
            bytes(limit)
        ),
        exit if !exit.error.is_empty() => format!("container `{container}` could not run: {}", exit.error),
        exit if let Some(why) = &crash.stopped_for => {
            format!("container `{container}` was ended because its {why} (exit code {})", exit.code)
        }
        exit => format!("container `{container}` ended with exit code {}{}", exit.code, signal(exit.code)),
    };
    if crash.delay > Duration::ZERO {
        let times = if crash.restarts == 1 { "once".to_owned() } else { format!("{} times", crash.restarts) };
        let delay = crash.delay.as_secs();
        text = format!("{text}; restarted {times}, next time {delay} s after it ended");
    }
    if !crash.last_words.is_empty() {
        text.push_str("; last output:\n");
        text.push_str(&crash.last_words.join("\n"));
    }
    text
}

fn signal(code: i64) -> &'static str {
    match code {
        134 => " (abort)",
        137 => " (killed)",
        139 => " (segmentation fault)",
        143 => " (terminated)",
        _ => "",
    }
}
