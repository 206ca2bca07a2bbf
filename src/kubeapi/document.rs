//! JSON bodies, with the keys that stand twice in them: the last one counts, and whoever asks for strict reading is told.

use std::cell::RefCell;
use std::fmt::{self, Write as _};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A body as read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// What it holds.
    pub value: Value,
    /// Paths of keys that stand twice, for example `spec.predictor.minReplicas`.
    pub duplicates: Vec<String>,
}

impl Document {
    /// Reads a JSON document.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        let duplicates = RefCell::new(Vec::new());
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let value = Reader { path: "", duplicates: &duplicates }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(Self { value, duplicates: duplicates.into_inner() })
    }
}

impl From<Value> for Document {
    fn from(value: Value) -> Self {
        Self { value, duplicates: Vec::new() }
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    path: &'a str,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number that JSON has"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut found = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, found.len());
            match list.next_element_seed(Reader { path: &path, ..self })? {
                Some(value) => found.push(value),
                None => return Ok(Value::Array(found)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut found = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let mut path = self.path.to_owned();
            let dot = if path.is_empty() { "" } else { "." };
            write!(path, "{dot}{key}").map_err(A::Error::custom)?;
            let value = map.next_value_seed(Reader { path: &path, ..self })?;
            if found.insert(key, value).is_some() {
                self.duplicates.borrow_mut().push(path);
            }
        }
        Ok(Value::Object(found))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_told_and_the_last_one_counts() {
        let text = br#"{"a": 1, "b": [{"c": 1.5, "c": "x"}], "a": null, "d": {"e": true, "f": -1}}"#;
        let body = Document::parse(text).unwrap();
        assert_eq!(body.value, json!({"a": null, "b": [{"c": "x"}], "d": {"e": true, "f": -1}}));
        assert_eq!(body.duplicates, ["b[0].c", "a"]);
        assert!(Document::parse(b"{} {}").is_err() && Document::parse(b"{").is_err());
    }
}
