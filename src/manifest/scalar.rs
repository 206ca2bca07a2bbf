//! What an unquoted scalar means to Kubernetes.
//!
//! kubectl and the API server read YAML 1.1 as `go-yaml` v2 does; our parser reads YAML 1.2. The few texts the two read
//! differently are settled here in Kubernetes' favour, so that a file means the same in both places: `0644` is 420,
//! `yes` and `on` are true, `1_000` is 1000.

use serde_json::{Number, Value};

/// Returns the value of an unquoted scalar when Kubernetes reads it otherwise than YAML 1.2, else nothing.
pub(super) fn kubernetes_reading(text: &str) -> Option<Value> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(Value::Bool(true)),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(Value::Bool(false)),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) => number(text),
        _ => None,
    }
}

/// Returns the value of an unquoted scalar used as a key: nothing when it is plain text.
pub(super) fn key_reading(text: &str) -> Option<&'static str> {
    let boolean = matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE");
    match kubernetes_reading(text) {
        Some(Value::Bool(_)) => Some("a boolean"),
        _ if boolean => Some("a boolean"),
        _ if matches!(text, "" | "~" | "null" | "Null" | "NULL") => Some("null"),
        Some(Value::Number(_)) => Some("a number"),
        // A whole number written the usual way becomes the same text again, on a cluster too.
        _ if text.parse::<i64>().is_ok_and(|number| number.to_string() == text) => None,
        _ if is_decimal(text) => Some("a number"),
        _ => None,
    }
}

/// Numbers with a leading zero or with underscores.
fn number(text: &str) -> Option<Value> {
    let plain = text.replace('_', "");
    let digits = plain.trim_start_matches(['+', '-']);
    let octal = digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    if octal {
        return Some(octal_or_decimal(&plain, digits));
    }
    if plain.len() == text.len() || !is_decimal(&plain) {
        return None;
    }
    match plain.parse::<i64>() {
        Ok(whole) => Some(whole.into()),
        Err(_) => plain.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number),
    }
}

fn octal_or_decimal(plain: &str, digits: &str) -> Value {
    let sign = if plain.starts_with('-') { -1 } else { 1 };
    match i64::from_str_radix(digits, 8) {
        Ok(value) => (sign * value).into(),
        // `089` is no octal number; go-yaml then takes it for a decimal one.
        Err(_) => plain.parse::<f64>().ok().and_then(Number::from_f64).map_or(Value::Null, Value::Number),
    }
}

fn is_decimal(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'+' | b'-' | b'e' | b'E'))
        && text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unquoted_scalars_mean_what_they_mean_on_a_cluster() {
        let cases = [
            ("0644", json!(420)),
            ("-010", json!(-8)),
            ("089", json!(89.0)),
            ("1_000", json!(1000)),
            ("1_0.5", json!(10.5)),
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("n", json!(false)),
        ];
        for (text, value) in cases {
            assert_eq!(kubernetes_reading(text), Some(value), "{text}");
        }
        for text in ["0", "10", "1.10", "1e3", "abc", "", "~", "2024-01-01", "12:30", "1_a", "500m", "-", "+", "0x1F"] {
            assert_eq!(kubernetes_reading(text), None, "{text}");
        }
    }

    #[test]
    fn keys_that_would_not_stay_text_are_told() {
        for text in ["on", "true", "1.10", "007", "~", "", "1e3"] {
            assert!(key_reading(text).is_some(), "{text}");
        }
        for text in ["8080", "name", "-1", "a.b/c", "1a", "e", "."] {
            assert_eq!(key_reading(text), None, "{text}");
        }
    }
}
