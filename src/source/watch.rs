//! "Something changed", debounced; falls back to polling.
//!
//! Contents of events are not believed: any of them means that the folder is read again. What they do tell is whether a
//! write is complete (act at once) or still going on (wait until it is quiet).

use std::time::Duration;

use camino::Utf8PathBuf;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Loader;

/// How long a file that is being written must be quiet.
const QUIET: Duration = Duration::from_millis(200);
/// The folder is read this often although nothing was said.
const RELIST: Duration = Duration::from_secs(30);
/// The same where the system cannot watch.
const POLL: Duration = Duration::from_secs(2);

/// What an event means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hint {
    /// Something is being written.
    Writing,
    /// A write is complete, or a name came or went.
    Complete,
}

/// Keeps the store in step with the folder until cancelled.
pub async fn run(loader: Loader, folders: Vec<Utf8PathBuf>, cancel: CancellationToken) {
    let (sender, mut hints) = mpsc::channel(64);
    // Held for as long as hints are wanted; dropping it ends the watch.
    let mut watcher = watch(&folders, sender.clone());
    let mut again = loader.load().await.again_in.unwrap_or_default();
    loop {
        let rest = if watcher.is_some() { RELIST } else { POLL };
        let wait = if again.is_zero() { rest } else { again.min(rest) };
        let hint = tokio::select! {
            // Losing a hint to cancellation is right: nobody reads the folder any more.
            () = cancel.cancelled() => return,
            hint = hints.recv() => hint,
            // A timer that loses its race is made again with the time that is left to wait.
            () = tokio::time::sleep(wait) => None,
        };
        if hint == Some(Hint::Writing) {
            settle(&mut hints, &cancel).await;
        }
        while hints.try_recv().is_ok() {}
        let report = loader.load().await;
        again = report.again_in.unwrap_or_default();
        if let Some(error) = report.error {
            warn!(folder = %error.folder, error = %error.source, "the folder cannot be read; everything stays as it is");
            watcher = None;
        }
        if watcher.is_none() {
            watcher = watch(&folders, sender.clone());
            if watcher.is_some() {
                info!("watching the folder again");
                // Whatever happened between the last look and the new watch is seen by one more look.
                loader.load().await;
            }
        }
    }
}

/// Waits until a write is complete or nothing was written for a while.
async fn settle(hints: &mut mpsc::Receiver<Hint>, cancel: &CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            hint = hints.recv() => if hint != Some(Hint::Writing) { return },
            // Quiet for long enough; a hint that comes later starts anew.
            () = tokio::time::sleep(QUIET) => return,
        }
    }
}

fn watch(folders: &[Utf8PathBuf], sender: mpsc::Sender<Hint>) -> Option<notify::RecommendedWatcher> {
    let tell = move |event: notify::Result<notify::Event>| {
        let hint = event.map_or(Some(Hint::Complete), |event| hint(&event.kind));
        if let Some(hint) = hint {
            // A full queue already holds a hint to look.
            let _ = sender.try_send(hint);
        }
    };
    let made = notify::recommended_watcher(tell).and_then(|mut watcher| {
        for folder in folders {
            watcher.watch(folder.as_std_path(), RecursiveMode::Recursive)?;
        }
        Ok(watcher)
    });
    made.inspect_err(|error| warn!(%error, "cannot watch the folder; it is read every 2 s instead")).ok()
}

fn hint(kind: &EventKind) -> Option<Hint> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_) => Some(Hint::Complete),
        EventKind::Access(_) => None,
        EventKind::Modify(ModifyKind::Metadata(_)) | EventKind::Create(_) | EventKind::Modify(_) => Some(Hint::Writing),
        EventKind::Any | EventKind::Other => Some(Hint::Complete),
    }
}
