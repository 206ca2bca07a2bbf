//! Colours: when, and which. Words carry the meaning; colours only help to find them.

use clap::ValueEnum;

use crate::config::Environment;
use crate::diagnosis::Standing;

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal, unless NO_COLOR or CLICOLOR=0 is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl When {
    /// Says whether colours are used: the flag, then `NO_COLOR`, `CLICOLOR_FORCE`, `CLICOLOR` and `TERM`, then whether it
    /// is a terminal (no-color.org, bixense.com/clicolors).
    pub fn applies(self, environment: &Environment, is_terminal: bool) -> bool {
        let set = |name: &str| environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if set("NO_COLOR").is_some() => false,
            Self::Auto if set("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
            Self::Auto => is_terminal && set("CLICOLOR") != Some("0") && set("TERM") != Some("dumb"),
        }
    }
}

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// On the way, or at rest.
    Quiet,
    /// Under way.
    Busy,
    /// Wrong.
    Bad,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Quiet => "36",
            Self::Busy => "33",
            Self::Bad => "31",
        }
    }

    /// Returns a text in the colour.
    pub fn paint(self, text: &str) -> String {
        format!("\u{1b}[{}m{text}\u{1b}[0m", self.code())
    }
}

/// Returns what the cell of a column says, if its column is one that says something.
pub fn of_cell(head: &str, cell: &str) -> Option<Tone> {
    let word = cell.split([' ', ',']).next().unwrap_or_default();
    match head {
        "READY" | "STATUS" | "PHASE" | "STATE" | "TYPE" => {}
        _ => return None,
    }
    Some(match word {
        "" | "<none>" => return None,
        // Kinds of conditions and of Secrets stand under TYPE too.
        "Normal" | "Warning" if head == "TYPE" => {
            if word == "Warning" {
                Tone::Busy
            } else {
                return None;
            }
        }
        _ if head == "TYPE" => return None,
        "True" | "Running" | "Ready" | "Active" | "Completed" | "Bound" => Tone::Good,
        "Asleep" | "Stopped" | "Terminating" => Tone::Quiet,
        "False" | "OOMKilled" | "Error" | "RolledBack" | "ProgressDeadlineExceeded" => Tone::Bad,
        word if of_numbers(word).is_some() => return of_numbers(word),
        word if ["Failed", "BackOff", "CannotRun", "Unavailable", "Gone", "NotReady"]
            .iter()
            .any(|end| word.ends_with(end)) =>
        {
            Tone::Bad
        }
        word if word.starts_with("Insufficient") || word.starts_with("Err") => Tone::Bad,
        _ => Tone::Busy,
    })
}

/// `1/2`: all, some or none.
fn of_numbers(word: &str) -> Option<Tone> {
    let (ready, all) = word.split_once('/')?;
    let (ready, all): (u32, u32) = (ready.parse().ok()?, all.parse().ok()?);
    Some(if ready >= all { Tone::Good } else { Tone::Busy })
}

/// Returns the colour of how something stands.
pub fn of_standing(standing: Standing) -> Tone {
    match standing {
        Standing::Ready => Tone::Good,
        Standing::Waits => Tone::Busy,
        Standing::Stopped => Tone::Quiet,
        Standing::Fails | Standing::Absent => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_and_then_the_conventions_of_the_environment() {
        let env = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        type Variables = &'static [(&'static str, &'static str)];
        let table: [(When, Variables, bool, bool); 9] = [
            (When::Auto, &[], true, true),
            (When::Auto, &[], false, false),
            (When::Auto, &[("NO_COLOR", "1")], true, false),
            (When::Auto, &[("NO_COLOR", "")], true, true),
            (When::Auto, &[("CLICOLOR", "0")], true, false),
            (When::Auto, &[("CLICOLOR_FORCE", "1")], false, true),
            (When::Auto, &[("TERM", "dumb")], true, false),
            (When::Always, &[("NO_COLOR", "1")], false, true),
            (When::Never, &[("CLICOLOR_FORCE", "1")], true, false),
        ];
        for (when, variables, is_terminal, wanted) in table {
            assert_eq!(when.applies(&env(variables), is_terminal), wanted, "{when:?} {variables:?} {is_terminal}");
        }
    }

    #[test]
    fn phases_have_the_colour_of_what_they_mean() {
        for (head, cell, tone) in [
            ("READY", "True", Some(Tone::Good)),
            ("READY", "False", Some(Tone::Bad)),
            ("READY", "Unknown", Some(Tone::Busy)),
            ("READY", "1/2", Some(Tone::Busy)),
            ("READY", "2/2", Some(Tone::Good)),
            ("STATUS", "CrashLoopBackOff", Some(Tone::Bad)),
            ("PHASE", "InsufficientMemory", Some(Tone::Bad)),
            ("PHASE", "ModelPulling", Some(Tone::Busy)),
            ("PHASE", "Asleep", Some(Tone::Quiet)),
            ("STATE", "Running, ready", Some(Tone::Good)),
            ("TYPE", "Warning", Some(Tone::Busy)),
            ("TYPE", "Opaque", None),
            ("NAME", "True", None),
            ("READY", "", None),
        ] {
            assert_eq!(of_cell(head, cell), tone, "{head} {cell}");
        }
    }
}
