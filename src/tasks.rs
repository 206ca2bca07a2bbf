//! Tracked tasks: spawned by name, cancelled as a tree, waited for at the end.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, debug_span, warn};

/// Runs something to its end; when it panics, what it said comes back as an error, so that whoever waits for it hears of it.
///
/// # Errors
/// The words of the panic, as an error of the program's own.
pub async fn caught<F: Future>(work: F) -> Result<F::Output, String> {
    // Nothing of it is used after a panic: what it worked on is looked at anew.
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        format!("an error of kserve-local's own: {}", said.unwrap_or("it did not say which"))
    })
}

/// A group of tasks that ends together.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Tasks {
    /// Makes an empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a token that is cancelled when the group shuts down.
    pub fn token(&self) -> CancellationToken {
        self.cancel.child_token()
    }

    /// Spawns a named task. It must end when its token is cancelled.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    pub fn spawn<F>(&self, name: &'static str, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let traced = async move {
            let output = task.await;
            debug!("task ended");
            output
        };
        tokio::spawn(self.tracker.track_future(traced.instrument(debug_span!("task", name))))
    }

    /// Spawns a named task that may be dropped anywhere: it ends when the group shuts down, without a word from it.
    pub fn spawn_droppable<F>(&self, name: &'static str, task: F) -> tokio::task::JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let cancelled = self.token().cancelled_owned();
        self.spawn(name, async move {
            tokio::select! {
                // The task says that it may be dropped at any of its waits.
                () = cancelled => {}
                () = task => {}
            }
        })
    }

    /// Spawns a task of which there are many and which live short: tracked, without a name of its own. It must end when
    /// the group's token is cancelled, or with whatever it serves.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    pub fn spawn_short<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        drop(tokio::spawn(self.tracker.track_future(task)));
    }

    /// Cancels every task and waits for them, up to `deadline`.
    pub async fn shut_down(&self, deadline: Duration) {
        self.cancel.cancel();
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait()).await.is_err() {
            warn!(remaining = self.tracker.len(), "tasks did not end in time");
        }
    }
}
