//! A limit on how long something may take.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::traffic::turn;

/// A time limit that costs a timer only while someone waits, and re-arms it only when it fires.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whom the timer wakes. It need not be asked again by the same task before its time.
    woken: Option<Waker>,
}

impl Deadline {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn start(&mut self) {
        self.since.get_or_insert_with(turn::now);
    }

    pub(crate) fn restart(&mut self) {
        self.since = Some(turn::now());
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
        let deadline = *self.since.get_or_insert_with(turn::now) + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
            self.woken = None;
        }
        let armed = self.woken.as_ref().is_some_and(|woken| woken.will_wake(cx.waker()));
        if armed && turn::now() < timer.deadline() {
            return Poll::Pending;
        }
        loop {
            if timer.as_mut().poll(cx).is_pending() {
                self.woken = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if timer.deadline() >= deadline {
                self.woken = None;
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}
