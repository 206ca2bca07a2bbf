//! `explain`: the arithmetic behind the last decision about a service's room.

use std::fmt::Write;

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;

use super::one_service::OneService;
use super::output::{self, Grid};
use super::report::Exit;
use crate::plan::admission::{Explanation, Verdict};
use crate::plan::said::bytes;

/// Explain the last decision about a service's memory: why it runs, waits, sleeps or is refused.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Which one.
    #[command(flatten)]
    pub of: OneService,
}

/// Runs the verb.
///
/// # Errors
/// The daemon is not there, or there is no such service.
pub async fn run(home: &Utf8Path, args: ExplainArgs) -> Result<Exit> {
    let Some(answer) = args.of.ask(home, "explanation").await? else { return Ok(Exit::Done) };
    match serde_json::from_value::<Option<Explanation>>(answer["decision"].clone())? {
        Some(explanation) => {
            output::print(&text(&explanation))?;
            Ok(if explanation.verdict == Verdict::Refused { Exit::DoesNotFit } else { Exit::Done })
        }
        None => {
            output::note("nothing was decided about its memory since the daemon started: what runs was found running");
            Ok(Exit::Done)
        }
    }
}

fn text(explanation: &Explanation) -> String {
    let verdict = match explanation.verdict {
        Verdict::Admitted => "Admitted",
        Verdict::Waits => "Waits",
        Verdict::Refused => "Refused",
        Verdict::Evicted => "Put to sleep",
    };
    let mut text =
        format!("{verdict} at {}: {}\n\n", explanation.at.strftime("%Y-%m-%dT%H:%M:%SZ"), explanation.summary);
    let mut sums = Grid::new(["", ""]);
    sums.hide_heads();
    let mut sum = |what: &str, amount: Option<u64>| {
        if let Some(amount) = amount {
            sums.row([what.to_owned(), bytes(amount)]);
        }
    };
    sum("machine", explanation.total);
    sum("- reserve (memory.reserve)", explanation.total.map(|_| explanation.reserve));
    sum("- other programs", explanation.total.map(|_| explanation.others));
    sum("at most (memory.budget)", explanation.budget);
    sum("= limit for models", explanation.limit);
    let others = explanation.held_by_others;
    let held = explanation.held.iter().map(|line| line.memory).sum::<u64>() + others.memory;
    sum("- held by others", Some(held));
    sum("= free", explanation.limit.map(|limit| limit.saturating_sub(held)));
    sum("of it promised to those before", Some(explanation.promised).filter(|promised| *promised > 0));
    sum("needed", Some(explanation.needs));
    text.push_str(&sums.take_text());
    if !explanation.held.is_empty() {
        let mut held = Grid::new(["Held by", "Memory", "Basis", "Standing"]);
        for line in &explanation.held {
            held.row([line.service.clone(), bytes(line.memory), line.basis.clone(), line.standing.clone()]);
        }
        if others.replicas > 0 {
            held.row([format!("{} more", others.replicas), bytes(others.memory), String::new(), String::new()]);
        }
        text.push('\n');
        text.push_str(&held.take_text());
    }
    if !explanation.evicts.is_empty() {
        let _ = write!(text, "\nPut to sleep for it: {}\n", explanation.evicts.join(", "));
    }
    if !explanation.gpus.is_empty() {
        let _ = write!(text, "\nGPUs: {}\n", explanation.gpus.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::admission::HeldByOthers;

    #[test]
    fn a_decision_that_puts_nobody_to_sleep_is_read_as_the_daemon_writes_it() {
        let explanation = Explanation {
            at: "2026-01-01T00:00:00Z".parse().unwrap(),
            verdict: Verdict::Admitted,
            summary: "it fits".to_owned(),
            replica: "iris-predictor-00001-0".to_owned(),
            needs: 1 << 30,
            basis: "assumed".to_owned(),
            total: None,
            reserve: 0,
            budget: None,
            others: 0,
            limit: None,
            held: Vec::new(),
            held_by_others: HeldByOthers::default(),
            promised: 0,
            evicts: Vec::new(),
            gpus: Vec::new(),
        };
        let written = serde_json::to_value(&explanation).unwrap();
        assert_eq!(serde_json::from_value::<Explanation>(written).unwrap(), explanation);
        assert!(text(&explanation).starts_with("Admitted at 2026-01-01T00:00:00Z: it fits"));
    }
}
