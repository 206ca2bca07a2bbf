//! hyper's own tasks, spawned as ours are; and an end to answers that a client of HTTP/2 does not take.
//!
//! HTTP/1 has one answer at a time, and the guard sees when the socket takes nothing. Over HTTP/2 a client can take
//! everything but one answer, by giving its stream no window, and hyper then waits without asking for more of it. The
//! task that sends the answer is spawned here, so it can be watched from here: the [answer](super::body) leaves a word
//! about where it stands whenever hyper asks it for more.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::Sleep;

use crate::tasks::Tasks;
use crate::traffic::turn::Turn;

/// Spawns a client's HTTP/2 streams through [`Tasks`].
#[derive(Clone, Debug)]
pub(crate) struct StreamExecutor {
    pub(crate) tasks: Tasks,
    /// Longest time in which a client takes nothing of an answer.
    pub(crate) stall: Duration,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let stream = Stream { future: Box::pin(future), stall: self.stall, stalled: None };
        self.tasks.spawn_short(stream);
    }
}

/// What an answer says when it is asked for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has given something. Until it is asked again, that has not been taken.
    Given,
    /// It waits for its backend, or has ended.
    Waits,
}

thread_local! {
    /// What was said while the present task was polled.
    static SAID: Cell<Option<Standing>> = const { Cell::new(None) };
}

/// Says where the answer stands that is sent by the present task.
pub(crate) fn say(standing: Standing) {
    SAID.set(Some(standing));
}

/// One stream: dropped, which resets it, when what it was given is not taken for too long.
struct Stream<F> {
    future: Pin<Box<F>>,
    stall: Duration,
    /// Runs while something that was given has not been taken.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        SAID.set(None);
        let _turn = Turn::begin();
        if self.future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let stall = self.stall;
        match SAID.get() {
            Some(Standing::Given) => self.stalled = Some(Box::pin(tokio::time::sleep(stall))),
            Some(Standing::Waits) => self.stalled = None,
            None => {}
        }
        let Some(timer) = &mut self.stalled else { return Poll::Pending };
        ready!(timer.as_mut().poll(cx));
        tracing::debug!("a client took nothing of an answer for too long");
        Poll::Ready(())
    }
}
