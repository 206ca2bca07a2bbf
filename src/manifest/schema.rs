//! What may be written, as schemas: read off the very types that manifests are decoded into.
//!
//! A type is deserialized from nothing, by a deserializer that answers every question with an empty value and notes what
//! was asked. So a schema cannot disagree with what [`decode`](fn@super::decode) accepts. A field whose type refuses the empty
//! value is noted, left out, and the rest is read again.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde::de::value::{StrDeserializer, U32Deserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value, json};

use super::known;
use super::path::{FieldPath, Step};

/// Prefix of a reference to a definition.
pub const REFERENCE: &str = "#/components/schemas/";

/// Schemas of structs by name. A field that is a struct refers to them.
pub type Definitions = BTreeMap<String, Value>;

/// Returns the name of a type's schema, and adds it and everything it refers to.
pub(super) fn define<T: DeserializeOwned>(definitions: &mut Definitions) -> Option<String> {
    let trace = Trace::default();
    let mut schema = Value::Null;
    loop {
        let refused = trace.0.borrow().refused.len();
        trace.0.borrow_mut().finished.clear();
        let done = T::deserialize(Tracer { trace: &trace, schema: &mut schema }).is_ok();
        if done || trace.0.borrow().refused.len() == refused {
            break;
        }
    }
    // What is there may know more already, for example which kind it is of.
    for (name, definition) in trace.0.into_inner().definitions {
        definitions.entry(name).or_insert(definition);
    }
    let reference = schema["allOf"][0]["$ref"].as_str()?;
    Some(reference.strip_prefix(REFERENCE)?.to_owned())
}

/// Fields that say what an object is.
const TYPE_WORDS: [&str; 2] = ["apiVersion", "kind"];

/// What was learnt so far.
#[derive(Default)]
struct Trace(RefCell<Notes>);

#[derive(Default)]
struct Notes {
    path: FieldPath,
    definitions: Definitions,
    /// Structs that need not be looked into again in this reading.
    finished: BTreeSet<String>,
    /// Fields that take no empty value: struct and field.
    refused: BTreeSet<(String, &'static str)>,
}

#[derive(Debug)]
struct Refusal;

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("takes no empty value")
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Notes the schema of one value.
struct Tracer<'a> {
    trace: &'a Trace,
    schema: &'a mut Value,
}

/// Returns the name a struct's schema has at a place: some structs of ours stand for several upstream types.
fn name_of(owner: &'static str, path: &FieldPath) -> String {
    match (owner, path.last_key()) {
        ("ComponentSpec", Some("transformer")) => "TransformerSpec".to_owned(),
        ("ComponentSpec", Some("explainer")) => "ExplainerSpec".to_owned(),
        ("ComponentSpec", _) => "PredictorSpec".to_owned(),
        ("ModelSpec", Some("model")) => owner.to_owned(),
        ("ModelSpec", _) => "PredictorExtensionSpec".to_owned(),
        _ => owner.strip_suffix("Manifest").unwrap_or(owner).to_owned(),
    }
}

macro_rules! plain {
    ($($method:ident $visit:ident $empty:expr, $schema:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            *self.schema = $schema;
            visitor.$visit($empty)
        }
    )*};
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Refusal;

    plain! {
        deserialize_bool visit_bool false, json!({"type": "boolean"});
        deserialize_i8 visit_i8 0, json!({"type": "integer", "format": "int32"});
        deserialize_i16 visit_i16 0, json!({"type": "integer", "format": "int32"});
        deserialize_i32 visit_i32 0, json!({"type": "integer", "format": "int32"});
        deserialize_i64 visit_i64 0, json!({"type": "integer", "format": "int64"});
        deserialize_u8 visit_u8 0, json!({"type": "integer", "format": "int32"});
        deserialize_u16 visit_u16 0, json!({"type": "integer", "format": "int32"});
        deserialize_u32 visit_u32 0, json!({"type": "integer", "format": "int64"});
        deserialize_u64 visit_u64 0, json!({"type": "integer", "format": "int64"});
        deserialize_f32 visit_f32 0.0, json!({"type": "number", "format": "float"});
        deserialize_f64 visit_f64 0.0, json!({"type": "number", "format": "double"});
        deserialize_char visit_str "", json!({"type": "string"});
        deserialize_str visit_str "", json!({"type": "string"});
        deserialize_string visit_str "", json!({"type": "string"});
        deserialize_bytes visit_str "", json!({"type": "string", "format": "byte"});
        deserialize_byte_buf visit_str "", json!({"type": "string", "format": "byte"});
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        if (&visitor as &dyn Expected).to_string() == "IntOrString" {
            *self.schema = json!({"x-kubernetes-int-or-string": true});
            return visitor.visit_i64(0);
        }
        *self.schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_any(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        match name {
            "Quantity" => {
                *self.schema = json!({"type": "string"});
                visitor.visit_newtype_struct::<StrDeserializer<'_, Refusal>>("0".into_deserializer())
            }
            "Time" | "MicroTime" => {
                *self.schema = json!({"type": "string", "format": "date-time"});
                visitor.visit_newtype_struct::<StrDeserializer<'_, Refusal>>("1970-01-01T00:00:00Z".into_deserializer())
            }
            "ByteString" => {
                *self.schema = json!({"type": "string", "format": "byte"});
                visitor.visit_newtype_struct::<StrDeserializer<'_, Refusal>>("".into_deserializer())
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let mut items = Value::Null;
        let read = visitor.visit_seq(One { trace: self.trace, inner: Some(&mut items) });
        *self.schema = json!({"type": "array", "items": items});
        read
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let mut values = Value::Null;
        let read = visitor.visit_map(One { trace: self.trace, inner: Some(&mut values) });
        *self.schema = json!({"type": "object", "additionalProperties": values});
        read
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        owner: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let mut notes = self.trace.0.borrow_mut();
        let name = name_of(owner, &notes.path);
        *self.schema = json!({"allOf": [{"$ref": format!("{REFERENCE}{name}")}]});
        let mut left: Vec<&'static str> = Vec::new();
        if notes.finished.insert(name.clone()) {
            left = known::fields_here(owner, fields, &notes.path);
            let required: Vec<&str> = known::required(owner, &notes.path).collect();
            let definition = notes.definitions.entry(name.clone()).or_insert_with(|| json!({"type": "object"}));
            if !required.is_empty() {
                definition["required"] = json!(required);
            }
            left.retain(|field| !notes.refused.contains(&(name.clone(), field)));
            // Kubernetes' types take only their own words here, and an empty one ends the reading.
            for field in TYPE_WORDS {
                if let Some(place) = left.iter().position(|left| *left == field) {
                    left.remove(place);
                    add_property(&mut notes.definitions, &name, field, json!({"type": "string"}));
                }
            }
        }
        drop(notes);
        left.reverse();
        visitor.visit_map(Fields { trace: self.trace, name, left })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        *self.schema = json!({"type": "string", "enum": variants});
        let first: U32Deserializer<Refusal> = 0_u32.into_deserializer();
        visitor.visit_enum(first)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_any(visitor)
    }
}

fn add_property(definitions: &mut Definitions, name: &str, field: &str, schema: Value) {
    if let Some(definition) = definitions.get_mut(name).and_then(Value::as_object_mut) {
        let properties = definition.entry("properties").or_insert_with(|| Value::Object(Map::new()));
        properties[field] = schema;
    }
}

/// A list or a map of one.
struct One<'a> {
    trace: &'a Trace,
    inner: Option<&'a mut Value>,
}

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        let Some(schema) = self.inner.take() else { return Ok(None) };
        seed.deserialize(Tracer { trace: self.trace, schema }).map(Some)
    }
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        if self.inner.is_none() {
            return Ok(None);
        }
        let key: StrDeserializer<'_, Refusal> = "".into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        let schema = self.inner.take().ok_or(Refusal)?;
        seed.deserialize(Tracer { trace: self.trace, schema })
    }
}

/// The fields of a struct, the next one last.
struct Fields<'a> {
    trace: &'a Trace,
    name: String,
    left: Vec<&'static str>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        let Some(field) = self.left.last() else { return Ok(None) };
        let key: StrDeserializer<'_, Refusal> = (*field).into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        let field = self.left.pop().ok_or(Refusal)?;
        self.trace.0.borrow_mut().path.push(Step::Key(field.to_owned()));
        let mut schema = Value::Null;
        let read = seed.deserialize(Tracer { trace: self.trace, schema: &mut schema });
        let mut notes = self.trace.0.borrow_mut();
        notes.path.pop();
        if read.is_err() {
            notes.refused.insert((self.name.clone(), field));
        }
        add_property(&mut notes.definitions, &self.name, field, schema);
        read
    }
}
