//! One known failure: how it is recognised, what it is called, and what to do about it.

use super::{causes_crash, causes_engine, causes_image, causes_model, causes_room, causes_run, causes_spec};

/// One known failure, or one known step on the way.
#[derive(Debug)]
pub struct Cause {
    /// Its stable name, for reports and documents.
    pub id: &'static str,
    /// Reasons of the `Ready` condition it may stand under.
    pub reasons: &'static [&'static str],
    /// What tells it from others of the same reason.
    pub clue: Clue,
    /// What is wrong, as a clause: "its image does not exist".
    pub what: &'static str,
    /// One step. `{isvc}` is the name as commands take it, `{namespace}` the namespace, `{quoted}` the first text between
    /// backticks of the message, `{0}` and `{1}` what the stars of the clue stand for.
    pub step: &'static str,
}

/// What tells failures of one reason apart. Patterns are in lower case; a star stands for anything.
#[derive(Clone, Copy, Debug)]
pub enum Clue {
    /// The reason says it all.
    Reason,
    /// The message has one of these.
    Says(&'static [&'static str]),
    /// The container's last output has one of these.
    Prints(&'static [&'static str]),
    /// The container ended with one of these codes.
    Exits(&'static [i64]),
}

/// What a cause is recognised by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clues<'e> {
    pub(super) reason: &'e str,
    pub(super) message: &'e str,
    pub(super) output: &'e str,
    pub(super) exit_code: Option<i64>,
}

/// Every failure and every step on the way that is known, in the order they are looked for.
pub fn known() -> impl Iterator<Item = &'static Cause> {
    let tables = [
        causes_spec::CAUSES,
        causes_engine::CAUSES,
        causes_image::CAUSES,
        causes_model::CAUSES,
        causes_room::CAUSES,
        causes_run::CAUSES,
        causes_crash::CAUSES,
    ];
    tables.into_iter().flatten()
}

/// Finds the first cause that fits, with what the stars of its pattern stand for.
pub(super) fn find(clues: Clues<'_>) -> Option<(&'static Cause, Vec<String>)> {
    let mut fitting = known().filter(|cause| cause.reasons.contains(&clues.reason));
    fitting.find_map(|cause| Some((cause, cause.clue.fits(clues)?)))
}

impl Clue {
    fn fits(self, clues: Clues<'_>) -> Option<Vec<String>> {
        let any = |patterns: &[&str], text| patterns.iter().find_map(|pattern| captures(pattern, text));
        match self {
            Self::Reason => Some(Vec::new()),
            Self::Says(patterns) => any(patterns, clues.message),
            Self::Prints(patterns) => any(patterns, clues.output),
            Self::Exits(codes) => clues.exit_code.filter(|code| codes.contains(code)).map(|_| Vec::new()),
        }
    }
}

/// Returns what the stars of a pattern stand for, as few letters as possible each, if the text has the pattern anywhere.
pub(super) fn captures(pattern: &str, text: &str) -> Option<Vec<String>> {
    let lower = text.to_ascii_lowercase();
    let (mut at, mut found) = (0, Vec::new());
    for (index, part) in pattern.split('*').enumerate() {
        let start = at + lower[at..].find(part)?;
        if index > 0 {
            found.push(text[at..start].trim().to_owned());
        }
        at = start + part.len();
    }
    Some(found)
}
