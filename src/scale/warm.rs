//! Hours in which a service stays awake although nobody asks: `mon-fri 08:00-18:00; sat 10:00-12:00`.

use jiff::civil::{DateTime, Weekday};
use std::time::Duration;

/// Hours of the week. They are of the machine's own time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warm(Vec<Span>);

/// On some days, from one minute of the day to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    /// One bit per day, Monday first.
    days: u8,
    from: u16,
    to: u16,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const EVERY_DAY: u8 = 0b111_1111;
const DAY: u16 = 24 * 60;
const MINUTE: Duration = Duration::from_secs(60);

impl Warm {
    /// Reads hours. Spans are parted by `;`; days may be left out, and stand before their hours: `mon-fri`, `sat,sun`.
    /// A span that ends before it begins goes on past midnight.
    pub fn parse(text: &str) -> Option<Self> {
        let spans = text.split(';').map(str::trim).filter(|span| !span.is_empty());
        let spans: Option<Vec<Span>> = spans.map(|span| Span::parse(&span.to_ascii_lowercase())).collect();
        spans.filter(|spans| !spans.is_empty()).map(Self)
    }

    /// Whether it is one of the hours.
    pub fn holds(&self, now: DateTime) -> bool {
        let (day, minute) = place(now);
        self.0.iter().any(|span| span.holds(day, minute))
    }

    /// Returns the time from `now` until that changes, at most a day.
    pub fn changes_in(&self, now: DateTime) -> Duration {
        let (_, minute) = place(now);
        let into = Duration::from_secs(now.second().unsigned_abs().into());
        let edges = self.0.iter().flat_map(|span| [span.from, span.to % DAY]).chain([0]);
        let next = edges.map(|edge| if edge > minute { edge - minute } else { edge + DAY - minute }).min();
        (MINUTE * u32::from(next.unwrap_or(DAY))).saturating_sub(into)
    }
}

impl Span {
    fn parse(text: &str) -> Option<Self> {
        let (days, hours) = match text.rsplit_once(char::is_whitespace) {
            Some((days, hours)) => (days_of(days.trim())?, hours),
            None => (EVERY_DAY, text),
        };
        let (from, to) = hours.split_once('-')?;
        let (from, to) = (minute_of(from)?, minute_of(to)?);
        (from < DAY && from != to).then_some(Self { days, from, to })
    }

    fn holds(self, day: u8, minute: u16) -> bool {
        let on = |day: u8| self.days & (1 << day) != 0;
        if self.from < self.to {
            return on(day) && (self.from..self.to).contains(&minute);
        }
        (on(day) && minute >= self.from) || (on((day + 6) % 7) && minute < self.to)
    }
}

/// The day of the week, Monday being 0, and the minute of the day.
fn place(now: DateTime) -> (u8, u16) {
    let day = now.weekday().since(Weekday::Monday).unsigned_abs();
    (day, u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs()))
}

fn days_of(text: &str) -> Option<u8> {
    let day = |name: &str| DAYS.iter().position(|day| *day == name);
    text.split(',').try_fold(0, |days, part| {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let (first, last) = (day(first)?, day(last)?);
        let length = (last + 7 - first) % 7;
        Some((0..=length).fold(days, |days, step| days | 1 << ((first + step) % 7)))
    })
}

fn minute_of(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let two = |text: &str| Some(text).filter(|text| text.len() == 2)?.parse::<u16>().ok();
    let (hour, minute) = (two(hour)?, two(minute)?);
    (minute < 60 && hour * 60 + minute <= DAY).then_some(hour * 60 + minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime {
        text.parse().unwrap()
    }

    #[test]
    fn hours_hold_on_their_days_and_past_midnight() {
        // 2026-01-02 is a Friday.
        for (hours, now, holds) in [
            ("08:00-18:00", "2026-01-02T08:00:00", true),
            ("08:00-18:00", "2026-01-02T18:00:00", false),
            ("mon-fri 08:00-18:00", "2026-01-03T09:00:00", false),
            ("mon-fri 08:00-18:00; sat,sun 10:00-12:00", "2026-01-03T10:30:00", true),
            ("Fri 22:00-02:00", "2026-01-03T01:59:59", true),
            ("fri 22:00-02:00", "2026-01-02T01:00:00", false),
            ("sat-mon 00:00-24:00", "2026-01-05T23:59:00", true),
            ("sat-mon 00:00-24:00", "2026-01-06T00:00:00", false),
        ] {
            assert_eq!(Warm::parse(hours).unwrap().holds(at(now)), holds, "{hours} {now}");
        }
    }

    #[test]
    fn it_is_known_when_that_changes() {
        let warm = Warm::parse("mon-fri 08:00-18:00").unwrap();
        let seconds = |now| warm.changes_in(at(now)).as_secs();
        assert_eq!(seconds("2026-01-02T07:59:30"), 30);
        assert_eq!(seconds("2026-01-02T08:00:00"), 10 * 3600);
        assert_eq!(seconds("2026-01-02T18:00:00"), 6 * 3600, "days begin at midnight");
    }

    #[test]
    fn what_is_no_hours_is_refused() {
        for text in
            ["", "8-18", "08:00", "08:00-08:00", "mo 08:00-18:00", "25:00-26:00", "08:60-09:00", "08:00-18:00 mon"]
        {
            assert_eq!(Warm::parse(text), None, "{text}");
        }
    }
}
