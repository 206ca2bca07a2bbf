//! The forms of `/metrics`: OpenMetrics for those who ask for it, as Prometheus does, and Prometheus' older text format for
//! all others, curl included. Pure.
//!
//! Formats: <https://prometheus.io/docs/specs/om/open_metrics_spec/> and
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write;

/// How the text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0, as everything here is written first.
    OpenMetrics,
    /// Prometheus' text format, version 0.0.4.
    Text,
}

impl Exposition {
    /// What a client takes, by the lines of its `Accept`: OpenMetrics only where it is named and not refused by `q=0`.
    pub fn accepted<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let named = lines.flat_map(|line| line.split(',')).any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            named && weight.is_none_or(|weight| weight.parse() != Ok(0.0))
        });
        if named { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of the answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Writes an OpenMetrics text in this form.
    pub fn write(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Text => text(&open_metrics),
        }
    }
}

/// The older format knows no families apart from their samples' names, no types but four, and no times of creation.
fn text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let (mut help, mut kind) = (None, "");
    for line in open_metrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            if !(matches!(kind, "counter" | "histogram" | "summary") && is_creation(line)) {
                text.push_str(line);
                text.push('\n');
            }
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("HELP"), Some(name), Some(words)) => help = Some((name, words)),
            (Some("TYPE"), Some(name), Some(of)) => {
                kind = of;
                let (suffix, of) = match of {
                    "counter" => ("_total", of),
                    "info" => ("_info", "gauge"),
                    "stateset" => ("", "gauge"),
                    "gauge" | "histogram" | "summary" => ("", of),
                    _ => ("", "untyped"),
                };
                // Writing to a string cannot fail.
                if let Some((_, words)) = help.take().filter(|(named, _)| *named == name) {
                    let _ = writeln!(text, "# HELP {name}{suffix} {words}");
                }
                let _ = writeln!(text, "# TYPE {name}{suffix} {of}");
            }
            _ => {}
        }
    }
    text
}

fn is_creation(sample: &str) -> bool {
    sample.split(['{', ' ']).next().is_some_and(|name| name.ends_with("_created"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_name_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for (accept, expected) in [
            (&[prometheus][..], Exposition::OpenMetrics),
            (&["text/plain", "Application/OpenMetrics-Text"], Exposition::OpenMetrics),
            (&["application/openmetrics-text;q=0, text/plain"], Exposition::Text),
            (&["*/*"], Exposition::Text),
            (&[], Exposition::Text),
        ] {
            assert_eq!(Exposition::accepted(accept.iter().copied()), expected, "{accept:?}");
        }
    }

    #[test]
    fn families_are_renamed_as_their_samples_are_called() {
        let open_metrics = "# HELP build Version.\n# TYPE build info\nbuild_info{version=\"1\"} 1\n\
            # HELP asked Requests.\n# TYPE asked counter\n# UNIT asked requests\nasked_total{code=\"2xx\"} 3\nasked_created 1.7e9\n\
            # TYPE took histogram\ntook_bucket{le=\"+Inf\"} 1\ntook_sum 2\ntook_count 1\ntook_created{a=\"b\"} 1.7e9\n\
            # TYPE odd unknown\nodd 1\n# TYPE made_created gauge\nmade_created 5\n# EOF\n";
        let text = "# HELP build_info Version.\n# TYPE build_info gauge\nbuild_info{version=\"1\"} 1\n\
            # HELP asked_total Requests.\n# TYPE asked_total counter\nasked_total{code=\"2xx\"} 3\n\
            # TYPE took histogram\ntook_bucket{le=\"+Inf\"} 1\ntook_sum 2\ntook_count 1\n\
            # TYPE odd untyped\nodd 1\n# TYPE made_created gauge\nmade_created 5\n";
        assert_eq!(Exposition::Text.write(open_metrics.into()), text);
        assert_eq!(Exposition::OpenMetrics.write(open_metrics.into()), open_metrics);
    }
}
