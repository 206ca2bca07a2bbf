//! How a request's body comes in, and whether that is fast enough.

use std::time::Duration;

use tokio::time::Instant;

use crate::traffic::turn;

/// The slowest that a body may come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// So many bytes must come within [`Pace::within`].
    pub(crate) bytes: usize,
    /// Of waiting for them.
    pub(crate) within: Duration,
}

/// How a body comes in. Only time spent waiting for the client counts, not that in which we do not read.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    waited: Duration,
    waiting_since: Option<Instant>,
    moved: usize,
}

impl Upload {
    /// Bytes have come. Enough of them begin a new count.
    pub(crate) fn came(&mut self, bytes: usize, pace: Pace) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += turn::now().duration_since(since);
        }
        self.moved += bytes;
        if self.moved >= pace.bytes {
            (self.waited, self.moved) = (Duration::ZERO, 0);
        }
    }

    /// Nothing has come. Returns since when time may be counted towards the limit.
    pub(crate) fn waits(&mut self) -> Instant {
        let since = *self.waiting_since.get_or_insert_with(turn::now);
        since.checked_sub(self.waited).unwrap_or(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_waiting_for_the_client_counts_and_enough_bytes_begin_anew() {
        let pace = Pace { bytes: 10, within: Duration::from_secs(1) };
        let (start, mut upload) = (Instant::now(), Upload::default());
        assert_eq!(upload.waits(), start);
        tokio::time::advance(Duration::from_secs(3)).await;
        upload.came(4, pace);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(upload.waits().elapsed(), Duration::from_secs(3), "what we did in between does not count");
        upload.came(6, pace);
        assert_eq!(upload.waits().elapsed(), Duration::ZERO);
    }
}
