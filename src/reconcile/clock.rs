//! The one clock: monotonic ticks for arithmetic, wall time for people.

use std::time::Instant;

use jiff::Timestamp;

use crate::plan::Now;

/// Started once, read by the driver and handed on as a value.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts the clock.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Returns the time.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now(&self) -> Now {
        Now { tick: self.origin.elapsed(), wall: Timestamp::now() }
    }

    /// Returns the moment of a tick, for timers.
    pub fn at(&self, tick: std::time::Duration) -> Instant {
        self.origin + tick
    }
}
