//! Values to text.

use serde_json::{Map, Value};

use crate::manifest::scalar::kubernetes_reading;

/// Writes a value as YAML that our reader and kubectl's both read as the same value.
///
/// `serde_yaml` writes YAML 1.2, where `yes` and `1_0` are plain text; kubectl reads YAML 1.1, where they are not. Such
/// texts leave under a name that stands nowhere else, and get their quotes afterwards.
pub fn to_yaml(value: &Value) -> String {
    let mut quoted = Quoted { mark: free_mark(value), texts: Vec::new() };
    let value = quoted.take_out(value);
    let plain =
        serde_yaml::to_string(&value).expect("a JSON value has only text keys and finite numbers, which YAML can hold");
    quoted.put_back(&plain)
}

struct Quoted {
    mark: String,
    texts: Vec<String>,
}

impl Quoted {
    fn take_out(&mut self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.take_out_text(text)),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.take_out(item)).collect()),
            Value::Object(map) => {
                let entries = map.iter().map(|(key, value)| (self.take_out_text(key), self.take_out(value)));
                Value::Object(entries.collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }

    fn take_out_text(&mut self, text: &str) -> String {
        if kubernetes_reading(text).is_none() {
            return text.to_owned();
        }
        self.texts.push(text.to_owned());
        format!("{}{}q", self.mark, self.texts.len() - 1)
    }

    fn put_back(&self, plain: &str) -> String {
        let mut parts = plain.split(&self.mark);
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (index, rest) = part.split_once('q').unwrap_or((part, ""));
            let quoted = index.parse::<usize>().ok().and_then(|index| self.texts.get(index));
            // What is quoted consists of letters, digits, signs, points and underscores: nothing to escape.
            text.push_str(&format_quoted(quoted.map_or("", String::as_str)));
            text.push_str(rest);
        }
        text
    }
}

fn format_quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// Returns a word that stands nowhere in the value.
fn free_mark(value: &Value) -> String {
    let text = value.to_string();
    let mut mark = "quoted".to_owned();
    while text.contains(&mark) {
        mark.push('x');
    }
    mark
}
