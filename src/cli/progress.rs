//! How far something is, for the person who waits: a bar on a terminal, plain lines elsewhere, on stderr.

use std::io::IsTerminal;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

use super::output;

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Show {
    /// A bar on a terminal, lines elsewhere
    #[default]
    Auto,
    /// Lines
    Plain,
    /// Nothing
    Quiet,
}

/// Plain lines come this far apart, unless what is said is of another kind.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// One line of progress that is kept up to date.
pub struct Reporter {
    kind: Kind,
}

enum Kind {
    Bar(ProgressBar),
    Lines { clock: tokio::time::Instant, last: Option<(Duration, String)> },
    Quiet,
}

impl Reporter {
    /// Begins.
    pub fn new(show: Show) -> Self {
        let kind = match show {
            Show::Quiet => Kind::Quiet,
            Show::Auto if std::io::stderr().is_terminal() => {
                let bar = ProgressBar::new_spinner();
                if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                    bar.set_style(style);
                }
                bar.enable_steady_tick(Duration::from_millis(120));
                Kind::Bar(bar)
            }
            Show::Auto | Show::Plain => Kind::Lines { clock: tokio::time::Instant::now(), last: None },
        };
        Self { kind }
    }

    /// Whether there is one line for all of it, as wide as the terminal.
    pub fn is_narrow(&self) -> bool {
        matches!(self.kind, Kind::Bar(_))
    }

    /// Says how far it is. Texts with the same `topic` replace each other.
    pub fn say(&mut self, topic: &str, text: &str) {
        match &mut self.kind {
            Kind::Quiet => {}
            Kind::Bar(bar) => bar.set_message(text.to_owned()),
            Kind::Lines { clock, last } => {
                let now = clock.elapsed();
                let due = last.as_ref().is_none_or(|(then, said)| said != topic || now >= *then + LINE_EVERY);
                if due {
                    output::note(text);
                    *last = Some((now, topic.to_owned()));
                }
            }
        }
    }

    /// Takes the line away.
    pub fn end(self) {
        if let Kind::Bar(bar) = self.kind {
            bar.finish_and_clear();
        }
    }
}
