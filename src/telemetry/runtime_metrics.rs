//! Metrics that model servers show, merged into ours: every sample gets the labels of the replica it came from (§5.7).
//!
//! Servers write the Prometheus text format, we write OpenMetrics: families are put together, suffixes and types made to
//! fit, timestamps left out. What does not parse is left out, too. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

/// One replica's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scraped {
    /// Labels that every sample gets, in order.
    pub labels: Vec<(&'static str, String)>,
    /// What the server answered.
    pub text: String,
}

/// Most families taken over; more would be someone's mistake or malice.
const MAX_FAMILIES: usize = 2000;
/// Most samples taken over from one replica.
const MAX_SAMPLES: usize = 20_000;
/// Families that begin so are ours.
const OURS: &str = "kserve_local_";

#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    samples: String,
}

/// Merges what replicas show into one text, family by family.
pub fn merge(scraped: &[Scraped]) -> String {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for one in scraped {
        add(&mut families, one);
    }
    let mut text = String::new();
    for (name, family) in families.iter().filter(|(_, family)| !family.samples.is_empty()) {
        if !family.help.is_empty() {
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(text, "# HELP {name} {}", family.help);
        }
        let _ = writeln!(text, "# TYPE {name} {}", family.kind);
        text.push_str(&family.samples);
    }
    text
}

fn add(families: &mut BTreeMap<String, Family>, scraped: &Scraped) {
    let (mut kinds, mut helps) = (BTreeMap::new(), BTreeMap::new());
    let mut left = MAX_SAMPLES;
    for line in scraped.text.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix('#') {
            let mut words = comment.trim_start().splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("TYPE"), Some(name), Some(kind)) => drop(kinds.insert(name, kind.trim())),
                (Some("HELP"), Some(name), Some(help)) => drop(helps.insert(name, help)),
                _ => {}
            }
            continue;
        }
        let Some(sample) = Sample::read(line) else { continue };
        let (written, kind) = sample.family(&kinds);
        let family = if kind == "counter" { written.strip_suffix("_total").unwrap_or(written) } else { written };
        if left == 0 || family.starts_with(OURS) {
            continue;
        }
        if !families.contains_key(family) && families.len() >= MAX_FAMILIES {
            continue;
        }
        left -= 1;
        let known = families.entry(family.to_owned()).or_default();
        if known.samples.is_empty() {
            kind.clone_into(&mut known.kind);
            (*helps.get(written).unwrap_or(&"")).clone_into(&mut known.help);
        } else if known.kind != kind {
            // Two servers mean different things by one name; a family has one type.
            continue;
        }
        sample.write(&mut known.samples, &scraped.labels);
    }
}

/// `name{labels} value`, less the timestamp.
#[derive(Clone, Copy, Debug)]
struct Sample<'a> {
    name: &'a str,
    /// Without braces.
    labels: &'a str,
    value: &'a str,
}

impl<'a> Sample<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let end = line.find(|c: char| !is_name(c))?;
        let (name, rest) = line.split_at(end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => {
                let end = end_of_labels(rest)?;
                (&rest[..end], &rest[end + 1..])
            }
            None => ("", rest),
        };
        let value = rest.split_whitespace().next()?;
        let number = value.parse::<f64>().is_ok() || matches!(value, "+Inf" | "-Inf" | "NaN");
        (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && number).then_some(Self {
            name,
            labels: labels.trim_end_matches([',', ' ']),
            value,
        })
    }

    /// Returns the name of the family as the server wrote it, and its type in OpenMetrics' words.
    fn family(&self, kinds: &BTreeMap<&str, &'a str>) -> (&'a str, &'a str) {
        let of = |name: &str| kinds.get(name).copied();
        let parts: [(&str, &[&str]); 5] = [
            ("_bucket", &["histogram"]),
            ("_sum", &["histogram", "summary"]),
            ("_count", &["histogram", "summary"]),
            ("_total", &["counter"]),
            ("_created", &["histogram", "summary", "counter"]),
        ];
        for (suffix, allowed) in parts {
            if let Some(name) = self.name.strip_suffix(suffix)
                && let Some(kind) = of(name).filter(|kind| allowed.contains(kind))
            {
                return (name, kind);
            }
        }
        match of(self.name) {
            // In OpenMetrics the samples of a counter end so.
            Some("counter") if !self.name.ends_with("_total") => (self.name, "unknown"),
            Some(kind @ ("counter" | "gauge" | "summary")) => (self.name, kind),
            _ => (self.name, "unknown"),
        }
    }

    fn write(&self, to: &mut String, labels: &[(&'static str, String)]) {
        let _ = write!(to, "{}{{", self.name);
        for (at, (name, value)) in labels.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let _ = write!(to, "{comma}{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
        }
        let mut rest = self.labels;
        while let Some((name, value, next)) = next_label(rest) {
            // As Prometheus does when it finds its own labels taken.
            let ours = if labels.iter().any(|(label, _)| *label == name) { "exported_" } else { "" };
            let _ = write!(to, ",{ours}{name}=\"{value}\"");
            rest = next;
        }
        let _ = writeln!(to, "}} {}", self.value);
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Returns where the closing brace is, outside of quotes.
fn end_of_labels(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.bytes().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return true,
            _ => {}
        }
        false
    })
}

/// Splits off the first `name="value"`; the value keeps its escapes.
fn next_label(text: &str) -> Option<(&str, &str, &str)> {
    let text = text.trim_start_matches([',', ' ']);
    let (name, rest) = text.split_once('=')?;
    let rest = rest.trim_start().strip_prefix('"')?;
    let mut escaped = false;
    let end = rest.bytes().position(|byte| match byte {
        _ if escaped => {
            escaped = false;
            false
        }
        b'\\' => {
            escaped = true;
            false
        }
        byte => byte == b'"',
    })?;
    let name = name.trim();
    name.chars().all(is_name).then_some((name, &rest[..end], &rest[end + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scraped(service: &str, text: &str) -> Scraped {
        Scraped {
            labels: vec![("namespace", "default".into()), ("inferenceservice", service.into())],
            text: text.into(),
        }
    }

    #[test]
    fn families_of_several_replicas_are_put_together_with_labels_that_tell_them_apart() {
        let python = "# HELP request_predict_seconds predict request latency\n\
                      # TYPE request_predict_seconds histogram\n\
                      request_predict_seconds_bucket{le=\"0.005\",model_name=\"a}\\\"b\"} 1.0\n\
                      request_predict_seconds_count{model_name=\"x\"} 1.0 1700000000000\n\
                      # TYPE python_gc_objects_collected_total counter\n\
                      python_gc_objects_collected_total{generation=\"0\"} 2\n\
                      # TYPE odd counter\nodd 1\nbare NaN\n";
        let triton = "# TYPE python_gc_objects_collected_total counter\n\
                      python_gc_objects_collected_total{namespace=\"inner\",} 7\n\
                      # TYPE bare gauge\nbare 4\nkserve_local_up 0\nnot a sample\n<html>\nx{ 5\n";
        let merged = merge(&[scraped("iris", python), scraped("bert", triton)]);
        insta::assert_snapshot!(merged);
    }

    proptest! {
        #[test]
        fn nothing_a_server_says_makes_it_panic(text in "[a-z_#{}\"=\\\\, \n0-9]{0,200}") {
            let merged = merge(&[scraped("x", &text)]);
            for line in merged.lines() {
                let is_sample = line.contains("namespace=\"default\"");
                prop_assert!(line.starts_with('#') || is_sample, "{}", line);
            }
        }
    }
}
