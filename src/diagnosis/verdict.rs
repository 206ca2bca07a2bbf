//! From evidence to a verdict: whether it is ready, what is wrong, why, and one step.

use super::cause::{self, Cause, Clues};
use super::evidence::{Evidence, Happened};
use crate::api::{Condition, ConditionStatus, InferenceServiceStatus};

/// Longest `why`; the whole message is in the conditions.
const LONGEST_WHY: usize = 300;
/// Most lines of output that are shown.
const MOST_OUTPUT: usize = 10;
/// What stands between a message and the output it carries.
const OUTPUT: &str = "last output:\n";

/// How an object stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers, or would: asleep is ready.
    Ready,
    /// It is on the way.
    Waits,
    /// Something is wrong.
    Fails,
    /// It is stopped on purpose.
    Stopped,
    /// It is not there: its file cannot be taken.
    Absent,
}

/// What is wrong, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// How it stands.
    pub standing: Standing,
    /// Stable name of the known failure; empty when it is not a known one.
    pub cause: &'static str,
    /// The first line: the object, how it stands, and what is wrong.
    pub headline: String,
    /// What is wrong, as a clause.
    pub what: String,
    /// Why, in one line: reason and message.
    pub why: String,
    /// One step to take.
    pub step: String,
    /// What else must be known, in one line.
    pub note: Option<String>,
    /// The last lines of the container that fails.
    pub output: Vec<String>,
}

/// Returns why an object is not ready, and what to do.
pub fn diagnose(evidence: &Evidence<'_>) -> Diagnosis {
    let ready = evidence.status.and_then(|status| status.condition("Ready"));
    let mut diagnosis = match (ready, evidence.file) {
        _ if is_older(evidence) => not_looked_at(evidence, "its last change was not looked at yet"),
        (None, Some(file)) => absent(file),
        (None, None) => not_looked_at(evidence, "it was not looked at yet"),
        (Some(ready), _) if ready.status == ConditionStatus::True => is_ready(evidence, ready),
        (Some(ready), _) => is_not_ready(evidence, ready),
    };
    if diagnosis.standing != Standing::Absent {
        let kept =
            |file: &str| format!("its file was changed and cannot be taken; the last good version is kept: {file}");
        diagnosis.note = evidence.file.map(kept);
    }
    diagnosis.step = filled(&diagnosis.step, evidence, "", &[]);
    diagnosis.headline = headline(evidence, &diagnosis);
    diagnosis
}

/// Whether the status speaks of an older generation.
fn is_older(evidence: &Evidence<'_>) -> bool {
    let observed = evidence.status.map_or(0, |status| status.observed_generation);
    observed > 0 && evidence.subject.generation > observed
}

fn plain(standing: Standing, cause: &'static str, what: &str, why: String, step: &str) -> Diagnosis {
    Diagnosis {
        standing,
        cause,
        what: what.to_owned(),
        why,
        step: step.to_owned(),
        headline: String::new(),
        note: None,
        output: Vec::new(),
    }
}

fn absent(file: &str) -> Diagnosis {
    let step = "correct the file and save it; `kserve-local validate` shows every error with its line";
    plain(Standing::Absent, "manifest-invalid", "its manifest has an error", file.to_owned(), step)
}

fn not_looked_at(evidence: &Evidence<'_>, what: &str) -> Diagnosis {
    let why = "the daemon has it, and gets to it at its next pass".to_owned();
    let step = format!("wait; kserve-local events -w --for {}/{{isvc}}", evidence.subject.kind.to_lowercase());
    plain(Standing::Waits, "not-looked-at", what, why, &step)
}

fn is_ready(evidence: &Evidence<'_>, ready: &Condition) -> Diagnosis {
    let url = evidence.status.and_then(|status| status.url.as_deref()).unwrap_or_default();
    let is_service = evidence.subject.kind == "InferenceService";
    let step = if is_service { "kserve-local predict {isvc} -d @request.json" } else { "send it a request" };
    let own = evidence.status.and_then(|status| status.condition("PredictorReady")).unwrap_or(ready);
    if own.reason == "Asleep" {
        let why = format!("nobody asked for it lately; a request to {url} wakes it");
        return plain(Standing::Ready, "asleep", "asleep", why, step);
    }
    plain(Standing::Ready, "", "", format!("it answers at {url}"), step)
}

fn is_not_ready(evidence: &Evidence<'_>, ready: &Condition) -> Diagnosis {
    let (component, message) = split_component(&ready.message);
    let mut reason = ready.reason.as_str();
    let mut told = told(message, evidence);
    let mut exit_code = exit_code(evidence.status, told.first);
    // On the way up again after a crash: the crash is what to speak of.
    if let Some(crash) = last_crash(evidence).filter(|_| reason == "ModelLoading" && message.contains("again after")) {
        let (_, before) = split_component(crash.message);
        told = self::told(before, evidence);
        reason = crash.reason;
        exit_code = code_in(told.first);
    }
    let output = told.output.join("\n");
    let clues = Clues { reason, message: told.first, output: &output, exit_code };
    let (cause, captured) = cause::find(clues).map_or((None, Vec::new()), |(cause, found)| (Some(cause), found));
    let standing = match ready.status {
        _ if reason == "Stopped" => Standing::Stopped,
        ConditionStatus::False => Standing::Fails,
        _ if reason != ready.reason => Standing::Fails,
        _ => Standing::Waits,
    };
    let what = cause.map_or_else(|| unknown(ready, evidence), |cause| cause.what.to_owned());
    let what = match evidence.init {
        Some(init) => what.replace("its server", &format!("its init container `{init}`")),
        None => what,
    };
    let step = cause.map_or_else(
        || "kserve-local events --for isvc/{isvc}".to_owned(),
        |cause: &Cause| filled(cause.step, evidence, told.first, &captured),
    );
    Diagnosis {
        cause: cause.map_or("", |cause| cause.id),
        what: match component {
            "" => filled(&what, evidence, told.first, &captured),
            component => format!("{component}: {}", filled(&what, evidence, told.first, &captured)),
        },
        why: why(&ready.reason, &ready.message, told.first, component),
        output: told.output,
        ..plain(standing, "", "", String::new(), &step)
    }
}

/// What no row of the table knows.
fn unknown(ready: &Condition, evidence: &Evidence<'_>) -> String {
    let culprit = evidence.status.into_iter().flat_map(|status| &status.conditions).find(|condition| {
        condition.status == ready.status && condition.severity.is_empty() && condition.kind != "Ready"
    });
    let name = culprit.map_or("Ready", |culprit| culprit.kind.as_str());
    format!("{name} is {}", ready.status)
}

/// Splits `transformer: …` from the message of a component that is not the predictor.
fn split_component(message: &str) -> (&str, &str) {
    for component in ["transformer", "explainer"] {
        if let Some(rest) = message.strip_prefix(component).and_then(|rest| rest.strip_prefix(": ")) {
            return (component, rest);
        }
    }
    ("", message)
}

struct Told<'e> {
    first: &'e str,
    output: Vec<String>,
}

/// A message without the output it carries, and that output; without any, the output that was found elsewhere.
fn told<'e>(message: &'e str, evidence: &Evidence<'_>) -> Told<'e> {
    let (first, carried) = match message.split_once(OUTPUT) {
        Some((first, carried)) => {
            (first.trim_end().trim_end_matches(';'), carried.lines().map(str::to_owned).collect())
        }
        None => (message, evidence.output.to_vec()),
    };
    let printed: Vec<String> = carried.into_iter().filter(|line| !line.trim().is_empty()).collect();
    let from = printed.len().saturating_sub(MOST_OUTPUT);
    Told { first, output: printed[from..].to_vec() }
}

/// The last warning that tells of an ended container.
fn last_crash<'e>(evidence: &Evidence<'e>) -> Option<&'e Happened<'e>> {
    let crash = |event: &&Happened<'_>| event.warning && matches!(event.reason, "CrashLoopBackOff" | "OOMKilled");
    evidence.events.iter().rev().find(crash)
}

fn exit_code(status: Option<&InferenceServiceStatus>, message: &str) -> Option<i64> {
    let failure = status.and_then(|status| status.model_status.as_ref()?.last_failure_info.as_ref());
    failure.and_then(|failure| failure.exit_code).or_else(|| code_in(message))
}

/// The exit code a message names.
fn code_in(message: &str) -> Option<i64> {
    let rest = message.split_once("exit code ")?.1;
    let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '-')).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

fn why(reason: &str, whole: &str, first: &str, component: &str) -> String {
    let now = || one_line(whole.split(OUTPUT).next().unwrap_or_default());
    let own = if whole.contains(first) { String::new() } else { format!("{}; before: ", now()) };
    let text = format!("{own}{}", one_line(first));
    let text = if component.is_empty() { text } else { format!("{component}: {text}") };
    let text = if reason.is_empty() { text } else { format!("{reason}: {text}") };
    shortened(text.trim_end_matches([':', ' ']))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_WHY) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

/// Puts names and what was captured into a step.
fn filled(step: &str, evidence: &Evidence<'_>, message: &str, captured: &[String]) -> String {
    let subject = evidence.subject;
    let scope = if subject.namespace == "default" { String::new() } else { format!(" -n {}", subject.namespace) };
    // The logs of an init container have to be asked for by name.
    let init = evidence.init.filter(|_| !step.contains(" -c "));
    let container = init.map(|init| format!(" -c {init}")).unwrap_or_default();
    let quoted = message.split('`').nth(1).unwrap_or_default();
    let mut text = of_kind(step, subject.kind)
        .replace("logs {isvc}", &format!("logs {{isvc}}{container}"))
        .replace("{isvc}", &format!("{}{scope}", subject.name))
        .replace("{namespace}", subject.namespace)
        .replace("{scope}", &scope)
        .replace("{quoted}", quoted);
    for (index, found) in captured.iter().enumerate() {
        text = text.replace(&format!("{{{index}}}"), found);
    }
    match evidence.program {
        "kserve-local" => text,
        // Only where it is the program that is called, and once: a step is filled twice.
        program if !text.contains(program) => text.replace("kserve-local ", &format!("{program} ")),
        _ => text,
    }
}

/// Steps are written for InferenceServices; commands that take a kind are given that of the subject.
fn of_kind(step: &str, kind: &str) -> String {
    match kind {
        "InferenceService" => step.to_owned(),
        kind => {
            let word = kind.to_lowercase();
            step.replace("isvc/{isvc}", &format!("{word}/{{isvc}}")).replace("isvc {isvc}", &format!("{word} {{isvc}}"))
        }
    }
}

fn headline(evidence: &Evidence<'_>, diagnosis: &Diagnosis) -> String {
    let subject = evidence.subject;
    let state = match diagnosis.standing {
        Standing::Ready if diagnosis.cause == "asleep" => "ready (asleep)",
        Standing::Ready => "ready",
        Standing::Waits => "not ready yet",
        Standing::Fails => "not ready",
        Standing::Stopped => "stopped",
        Standing::Absent => "not there",
    };
    let since = evidence.since.map(|since| format!(" for {}", age(since))).unwrap_or_default();
    let serving = evidence.status.is_some_and(serves) && diagnosis.standing != Standing::Ready;
    let serving = if serving { "; the revision before keeps serving" } else { "" };
    let name = match subject.namespace {
        "" => subject.name.to_owned(),
        namespace => format!("{namespace}/{}", subject.name),
    };
    let what = match diagnosis.what.as_str() {
        "" | "asleep" => String::new(),
        what => format!(": {what}"),
    };
    format!("{} {name} is {state}{since}{what}{serving}", subject.kind)
}

/// Whether an older revision answers while the wanted one does not.
fn serves(status: &InferenceServiceStatus) -> bool {
    let states = status.model_status.as_ref().and_then(|model| model.states.as_ref());
    states.is_some_and(|states| states.active_model_state == "Loaded" && states.target_model_state != "Loaded")
}

/// A length of time as kubectl writes ages.
fn age(since: std::time::Duration) -> String {
    match since.as_secs() {
        seconds @ 0..=119 => format!("{seconds}s"),
        seconds @ 120..=7199 => format!("{}m", seconds / 60),
        seconds @ 7200..=172_799 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

impl Diagnosis {
    /// Returns the three lines, and the note when there is one.
    pub fn lines(&self) -> String {
        let note = self.note.as_ref().map(|note| format!("  note:    {note}\n")).unwrap_or_default();
        format!("{}\n  because: {}\n  next:    {}\n{note}", self.headline, self.why, self.step)
    }

    /// Returns what is wrong and why in one line, for a table or a report.
    pub fn summary(&self) -> String {
        match (self.what.as_str(), self.why.as_str()) {
            ("", why) => why.to_owned(),
            (what, "") => what.to_owned(),
            (what, why) => format!("{what} ({why})"),
        }
    }
}
