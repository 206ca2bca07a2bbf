//! `pull`: models into the cache, with or without a daemon.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use camino::Utf8Path;
use clap::Args;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cache::open;
use super::output;
use super::progress::{Reporter, Show};
use super::report::{Exit, Problem};
use super::serve::environment;
use crate::api::StorageUri;
use crate::plan::pace::{Pace, words};
use crate::storage::{CachedModel, Progress, PullConfig, PullError, Puller};

/// Fetch models into the cache, so that services find them there.
///
/// Uses the credentials of this shell's environment. What is there already is not asked for again; what was cut goes on
/// where it stopped.
#[derive(Clone, Debug, Args)]
pub struct PullArgs {
    /// URIs, as storageUri writes them
    #[arg(value_name = "URI", required = true)]
    pub uris: Vec<String>,
    /// How progress is shown, on stderr
    #[arg(long, value_enum, default_value_t)]
    pub progress: Show,
}

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Runs the verb.
///
/// # Errors
/// A model cannot be fetched.
pub async fn run(home: &Utf8Path, args: PullArgs) -> Result<Exit> {
    let uris: Result<Vec<StorageUri>, _> = args.uris.iter().map(|uri| StorageUri::parse(uri)).collect();
    let uris = uris.map_err(|error| Problem::usage("that is no storage URI").because(error))?;
    let (cache, settings) = open(home)?;
    let config = PullConfig { room: settings.room, offline: settings.offline, ..PullConfig::default() };
    let puller = Puller::new(cache, config, Arc::new(environment()));
    for uri in &uris {
        let Some(model) = pull(&puller, uri, args.progress).await? else { return Ok(Exit::Interrupted) };
        output::line(model.path.as_str())?;
    }
    Ok(Exit::Done)
}

/// Fetches one model; none when Ctrl-C came first.
async fn pull(puller: &Puller, uri: &StorageUri, show: Show) -> Result<Option<CachedModel>> {
    let (sender, progress) = watch::channel(Progress::default());
    let cancel = CancellationToken::new();
    let mut reporter = Reporter::new(show);
    let mut pace = Pace::default();
    let begun = tokio::time::Instant::now();
    let work = puller.pull(uri, sender, cancel.clone());
    tokio::pin!(work);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            // Dropping the work keeps what was fetched.
            _ = tokio::signal::ctrl_c() => break Err(PullError::Cancelled),
            // A look that is lost is made again.
            () = tokio::time::sleep(LOOK) => {
                let progress = progress.borrow().clone();
                pace.note(progress.done, begun.elapsed());
                let name = if reporter.is_narrow() { brief(&uri.redacted()) } else { uri.redacted() };
                reporter.say(progress.phase, &text(&name, &progress, &pace));
            }
        }
    };
    reporter.end();
    match outcome {
        Ok(model) => Ok(Some(model)),
        Err(PullError::Cancelled) => Ok(None),
        Err(error) => Err(problem(error).into()),
    }
}

/// Most characters of a name beside which the numbers still find room.
const BRIEF: usize = 24;

/// Returns the end of a long name.
fn brief(name: &str) -> String {
    match name.char_indices().rev().nth(BRIEF - 1) {
        Some((at, _)) if at > 0 => format!("…{}", &name[at..]),
        _ => name.to_owned(),
    }
}

fn text(uri: &str, progress: &Progress, pace: &Pace) -> String {
    match progress.phase {
        "downloading" => {
            let files = match progress.files {
                (_, 0 | 1) => String::new(),
                (done, all) => format!(", {done} of {all} files"),
            };
            format!("{uri}: {}{files}", words(progress.done, progress.total, pace.rate()))
        }
        "" => uri.to_owned(),
        phase => format!("{uri}: {phase}"),
    }
}

fn problem(error: PullError) -> Problem {
    let (exit, hint) = match &error {
        PullError::DiskFull { .. } | PullError::InodesFull { .. } | PullError::CacheFull { .. } => (
            Exit::Machine,
            Some(
                "`kserve-local cache df` shows what takes the room; `kserve-local cache prune` removes what nobody needs",
            ),
        ),
        PullError::Disk { .. } => (Exit::Machine, None),
        PullError::Offline { .. } => {
            (Exit::NotSo, Some("go online, or bring the model with `kserve-local cache import`"))
        }
        PullError::UnsupportedScheme { .. } => (Exit::Usage, None),
        _ => (Exit::Remote, None),
    };
    let problem = Problem::new(exit, "the model could not be fetched").because(error);
    match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_leaves_room_for_the_numbers() {
        assert_eq!(brief("s3://bucket/m"), "s3://bucket/m");
        assert_eq!(brief("https://host.example/models/large.bin"), "…example/models/large.bin");
        let progress = Progress { done: 5, total: 10, files: (0, 3), phase: "downloading" };
        assert_eq!(text("m", &progress, &Pace::default()), "m: 50% (5 B of 10 B), 0 of 3 files");
    }
}
