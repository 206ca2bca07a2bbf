//! How fast a pull is, and how long it still takes, from what was seen of it over time.

use std::time::Duration;

use super::said::bytes;

/// Looks closer together than this are one look.
const APART: Duration = Duration::from_millis(200);
/// Weight of what is new, per second.
const FORGET: f64 = 0.25;

/// The speed of one pull, smoothed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pace {
    last: Option<(Duration, u64)>,
    /// Bytes per second.
    rate: f64,
}

impl Pace {
    /// Notes how many bytes there are at a time.
    pub fn note(&mut self, done: u64, now: Duration) {
        let Some((then, before)) = self.last else {
            self.last = Some((now, done));
            return;
        };
        // Begun anew, or resumed: what is on disk already was not fetched now.
        if done < before {
            *self = Self { last: Some((now, done)), rate: 0.0 };
            return;
        }
        let passed = now.saturating_sub(then);
        if passed < APART {
            return;
        }
        let fresh = (done - before) as f64 / passed.as_secs_f64();
        let weight = if self.rate == 0.0 { 1.0 } else { 1.0 - (-FORGET * passed.as_secs_f64()).exp() };
        self.rate += (fresh - self.rate) * weight;
        self.last = Some((now, done));
    }

    /// Returns bytes per second; 0 while unknown.
    pub fn rate(&self) -> u64 {
        self.rate as u64
    }
}

/// Says how far a pull is: percent, bytes, rate and time left, as far as known.
pub fn words(done: u64, total: u64, rate: u64) -> String {
    let speed = if rate == 0 { String::new() } else { format!(", {}/s", bytes(rate)) };
    if total == 0 {
        return format!("{} so far{speed}", bytes(done));
    }
    let percent = u128::from(done) * 100 / u128::from(total);
    let left = match total.saturating_sub(done) {
        0 => String::new(),
        rest => rest.checked_div(rate).map_or_else(String::new, |seconds| format!(", {} left", span(seconds + 1))),
    };
    format!("{percent}% ({} of {}{speed}{left})", bytes(done), bytes(total))
}

/// Writes seconds as people do.
fn span(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_pull_has_its_rate_and_its_end_in_sight() {
        let mut pace = Pace::default();
        for second in 0..10 {
            pace.note(second * 1_000_000, Duration::from_secs(second));
        }
        assert_eq!(pace.rate(), 1_000_000);
        assert_eq!(words(9_000_000, 90_000_000, pace.rate()), "10% (8.5 MiB of 85.8 MiB, 976.5 KiB/s, 1m22s left)");
        pace.note(5, Duration::from_secs(11));
        assert_eq!((pace.rate(), words(5, 0, 0)), (0, "5 B so far".to_owned()), "begun anew");
    }

    #[test]
    fn a_change_of_speed_shows_within_seconds() {
        let mut pace = Pace::default();
        pace.note(0, Duration::ZERO);
        pace.note(1000, Duration::from_secs(1));
        for second in 2..=12 {
            pace.note(1000 + (second - 1) * 100, Duration::from_secs(second));
        }
        assert!((100..200).contains(&pace.rate()), "{}", pace.rate());
        assert_eq!(words(2000, 2000, 5), "100% (1.9 KiB of 1.9 KiB, 5 B/s)");
    }
}
