//! How long a backend may take to begin its answer: a limit that begins when the request has been sent, and another for
//! requests of which nothing moves.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::deadline::Deadline;

/// How long is waited for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the request's last byte to the answer's first.
    pub(crate) answer: Option<Duration>,
    /// Longest time in which nothing of the request moves.
    pub(crate) stall: Duration,
}

/// Waits for one answer.
#[derive(Debug)]
pub(crate) struct Patience {
    limits: Limits,
    deadline: Deadline,
    moves: u64,
}

impl Patience {
    /// Begins to wait. Uses a deadline that somebody else has used before, whose timer need not be set anew.
    pub(crate) fn new(limits: Limits, mut deadline: Deadline) -> Self {
        deadline.stop();
        Self { limits, deadline, moves: 0 }
    }

    /// Ready when it was too long. `moves` grows as the request is sent, until it is `done`.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, moves: u64, done: bool) -> Poll<()> {
        let Some(limit) = self.limits.answer else { return Poll::Pending };
        if moves != self.moves {
            self.moves = moves;
            self.deadline.restart();
        }
        let limit = if done { limit } else { limit.max(self.limits.stall) };
        ready!(self.deadline.poll(cx, limit));
        Poll::Ready(())
    }

    /// Returns the deadline, for the next one who waits.
    pub(crate) fn into_deadline(self) -> Deadline {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;

    const LIMITS: Limits = Limits { answer: Some(Duration::from_secs(10)), stall: Duration::from_secs(60) };

    /// Waits while the request moves at these seconds and is done after the last of them; returns when that was too long.
    async fn waited(patience: &mut Patience, moves: &[u64]) -> u64 {
        let start = Instant::now();
        for (at, (second, number)) in moves.iter().zip(1..).enumerate() {
            let until = tokio::time::sleep_until(start + Duration::from_secs(*second));
            tokio::select! {
                () = until => {}
                () = poll_fn(|cx| patience.poll(cx, at as u64, false)) => return start.elapsed().as_secs(),
            }
            let done = at + 1 == moves.len();
            let polled = poll_fn(|cx| Poll::Ready(patience.poll(cx, number, done))).await;
            assert!(polled.is_pending());
        }
        poll_fn(|cx| patience.poll(cx, moves.len() as u64, true)).await;
        start.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_begins_with_the_last_byte_and_a_request_that_stalls_ends_too() {
        for (moves, end) in [(vec![], 10), (vec![0], 10), (vec![3, 40, 90], 100), (vec![3, 70], 63)] {
            let mut patience = Patience::new(LIMITS, Deadline::new());
            assert_eq!(waited(&mut patience, &moves).await, end, "{moves:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_used_again_counts_from_the_beginning() {
        let mut patience = Patience::new(LIMITS, Deadline::new());
        assert!(poll_fn(|cx| Poll::Ready(patience.poll(cx, 0, true))).await.is_pending());
        tokio::time::advance(Duration::from_secs(7)).await;
        let mut again = Patience::new(LIMITS, patience.into_deadline());
        assert_eq!(waited(&mut again, &[]).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_there_is_none() {
        let mut patience = Patience::new(Limits { answer: None, ..LIMITS }, Deadline::new());
        let wait = poll_fn(|cx| patience.poll(cx, 0, true));
        assert!(tokio::time::timeout(Duration::from_secs(1_000_000), wait).await.is_err());
    }
}
