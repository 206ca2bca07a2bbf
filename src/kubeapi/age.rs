//! Ages as Kubernetes prints them: short, and coarser the older.

use jiff::Timestamp;

/// Returns for example `5s`, `2m30s`, `3h12m`, `4d3h`, `2y10d`.
pub fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second() - since.as_second();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let (years, days_of_year) = (days / 365, days % 365);
    if seconds < -1 {
        "<invalid>".to_owned()
    } else if seconds < 120 {
        format!("{}s", seconds.max(0))
    } else if minutes < 10 {
        with_rest(minutes, "m", seconds % 60, "s")
    } else if hours < 3 {
        format!("{minutes}m")
    } else if hours < 8 {
        with_rest(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        with_rest(days, "d", hours % 24, "h")
    } else if years < 2 {
        format!("{days}d")
    } else if years < 8 {
        with_rest(years, "y", days_of_year, "d")
    } else {
        format!("{years}y")
    }
}

fn with_rest(amount: i64, unit: &str, rest: i64, smaller: &str) -> String {
    match rest {
        0 => format!("{amount}{unit}"),
        rest => format!("{amount}{unit}{rest}{smaller}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_get_coarser() {
        let table = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_520, "3h12m"),
            (86_400, "24h"),
            (86_400 * 4 + 10_800, "4d3h"),
            (86_400 * 30, "30d"),
            (86_400 * 740, "2y10d"),
            (86_400 * 365 * 9, "9y"),
        ];
        let since = Timestamp::UNIX_EPOCH;
        for (seconds, expected) in table {
            assert_eq!(age(since, Timestamp::from_second(seconds).unwrap()), expected);
        }
    }
}
