//! One reading of the clock for each turn of a task.
//!
//! A request is looked at by many who want to know the time: its deadlines, its lease, its counters. Between two of them
//! no time passes that matters, and reading the clock costs more than what most of them do. So a task that serves
//! requests takes a [`Turn`] whenever it is polled, and within it [`now`] reads the clock once, when it is first asked.

use std::cell::Cell;

use tokio::time::Instant;

#[derive(Clone, Copy)]
enum Reading {
    /// Nobody has taken a turn: the clock is read each time.
    None,
    /// Nobody has asked in this turn.
    Due,
    At(Instant),
}

thread_local! {
    static READING: Cell<Reading> = const { Cell::new(Reading::None) };
}

/// A turn of the present task. Ends when it is dropped; take it anew at each poll.
#[derive(Debug)]
#[must_use]
pub struct Turn(());

impl Turn {
    /// Begins a turn.
    pub fn begin() -> Self {
        READING.set(Reading::Due);
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        READING.set(Reading::None);
    }
}

/// Returns the time: as it was when it was first asked for in this turn, else as it is.
pub fn now() -> Instant {
    match READING.get() {
        Reading::At(then) => then,
        Reading::Due => {
            let now = Instant::now();
            READING.set(Reading::At(now));
            now
        }
        Reading::None => Instant::now(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_stands_still_within_a_turn_and_nowhere_else() {
        let second = Duration::from_secs(1);
        let start = now();
        tokio::time::advance(second).await;
        assert_eq!(now() - start, second);
        let turn = Turn::begin();
        tokio::time::advance(second).await;
        assert_eq!(now() - start, 2 * second, "the turn has not asked before");
        tokio::time::advance(second).await;
        assert_eq!(now() - start, 2 * second);
        drop(turn);
        assert_eq!(now() - start, 3 * second);
        drop(Turn::begin());
        assert_eq!(now() - start, 3 * second);
    }
}
