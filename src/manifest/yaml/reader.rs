//! Values, from `serde_yaml`.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Chunk, MAX_DOCUMENTS, Problem, TOO_DEEP};

/// A document's value, or what stopped the parser.
pub(super) type Read = Result<Value, Problem>;

/// Reads the documents of a chunk up to the first that is broken.
pub(super) fn read_yaml(chunk: &Chunk<'_>) -> Vec<Read> {
    let mut values = Vec::new();
    for document in serde_yaml::Deserializer::from_str(chunk.text) {
        if values.len() == MAX_DOCUMENTS {
            values.push(Err(Problem::syntax(None, format!("more than {MAX_DOCUMENTS} documents in one text"))));
            break;
        }
        match Lenient::deserialize(document) {
            Ok(value) => values.push(Ok(value.0)),
            Err(error) => {
                values.push(Err(explain(chunk, &error)));
                break;
            }
        }
    }
    values
}

/// Returns what is wrong with each document when keys may not stand twice: for documents whose positions cannot be told.
pub(super) fn check_twice(chunk: &Chunk<'_>) -> Vec<Option<Problem>> {
    let problem = |document| serde_yaml::Value::deserialize(document).err().map(|error| explain(chunk, &error));
    serde_yaml::Deserializer::from_str(chunk.text).take(MAX_DOCUMENTS).map(problem).collect()
}

fn explain(chunk: &Chunk<'_>, error: &serde_yaml::Error) -> Problem {
    let position = error.location().map(|at| chunk.place(at.line(), at.column()));
    let text = error.to_string();
    let (message, context) = text.split_once(" at line ").unwrap_or((&text, ""));
    let context = context.split_once(", ").map_or("", |(_, context)| context);
    if message == "recursion limit exceeded" {
        return Problem::syntax(position, TOO_DEEP);
    }
    let message = match context {
        "" => message.to_owned(),
        context => format!("{message}, {}", shift_lines(context, chunk.lines)),
    };
    let line = error.location().and_then(|at| chunk.text.lines().nth(at.line().saturating_sub(1))).unwrap_or_default();
    let problem = Problem::syntax(position, message.clone());
    match help(&message, line) {
        Some(help) => problem.help(help),
        None => problem,
    }
}

fn help(message: &str, line: &str) -> Option<&'static str> {
    let indent = &line[..line.len() - line.trim_start().len()];
    if indent.contains('\t') {
        Some("indent with spaces: YAML does not take tabs")
    } else if line.contains("{{") {
        Some("this looks like a template; render it first")
    } else if has_placeholder(line) {
        Some("fill in the placeholder, or quote the value: `{` begins a mapping")
    } else if message.contains("mapping values are not allowed") {
        Some("check the indentation, or quote a value that contains `: `")
    } else if message.contains("cannot start any token") {
        Some("quote a value that begins with `@`, `` ` `` or `%`")
    } else if message.contains("did not find expected") {
        Some("check indentation, quotes and brackets just above")
    } else {
        None
    }
}

/// Whether a value begins with `{…}` and goes on after it.
fn has_placeholder(line: &str) -> bool {
    let value = line.split_once(": {").and_then(|(_, rest)| rest.split_once('}'));
    value.is_some_and(|(_, after)| after.starts_with(|c: char| !c.is_whitespace() && c != ','))
}

/// Moves every `line N` of a parser's message by the lines before the chunk.
fn shift_lines(text: &str, lines: usize) -> String {
    let mut shifted = String::new();
    for (index, part) in text.split("line ").enumerate() {
        if index == 0 {
            shifted.push_str(part);
            continue;
        }
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        shifted.push_str("line ");
        match part[..digits].parse::<usize>() {
            Ok(line) => shifted.push_str(&(line + lines).to_string()),
            Err(_) => shifted.push_str(&part[..digits]),
        }
        shifted.push_str(&part[digits..]);
    }
    shifted
}

/// A JSON value that takes whatever YAML can say; what JSON cannot is told by the locator.
struct Lenient(Value);

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientVisitor).map(Lenient)
    }
}

struct LenientVisitor;

impl<'de> Visitor<'de> for LenientVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number must be finite"))?;
        Ok(Value::Number(number))
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Value, E> {
        Err(E::custom("a whole number does not fit 64 bits"))
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Value, E> {
        Err(E::custom("a whole number does not fit 64 bits"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Lenient::deserialize(deserializer).map(|value| value.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Lenient(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((Lenient(key), Lenient(value))) = access.next_entry()? {
            map.insert(key_text(key), value);
        }
        Ok(Value::Object(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        let (_, variant) = access.variant::<String>()?;
        variant.newtype_variant::<Lenient>().map(|value| value.0)
    }
}

fn key_text(key: Value) -> String {
    match key {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
