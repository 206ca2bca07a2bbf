//! A limit on how long something may take.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A time limit that costs a timer only while someone waits, and re-arms it only when it fires.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn start(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn restart(&mut self) {
        self.since = Some(Instant::now());
    }

    pub(crate) fn since(&mut self, start: Instant) {
        self.since = Some(start);
    }

    /// Returns whether someone waits.
    pub(crate) fn runs(&self) -> bool {
        self.since.is_some()
    }

    pub(crate) fn stop(&mut self) {
        self.since = None;
    }

    /// Ready when `limit` has passed since the start.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let deadline = *self.since.get_or_insert_with(Instant::now) + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}
