//! JSON values into types, strictly and all at once.
//!
//! A serde `Deserializer` over a JSON tree. Every struct tells it its field names, ours and `k8s-openapi`'s alike, so a key
//! that is none of them is noticed however deep it stands. A value of the wrong type is noted, left out, and the rest
//! is read again, so that one pass of the user over the messages is enough.
//!
//! As on an API server: `null` is the same as absent, a `Quantity` may be written as a number, nothing else is converted.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
    value::{StrDeserializer, StringDeserializer},
};
use serde_json::{Map, Value};

use super::known;
use super::path::{FieldPath, Step};

/// Most wrong values of one document that are told.
const MAX_WRONG: usize = 50;
/// Most unknown and missing fields of one document that are told.
const MAX_NOTES: usize = 100;

/// Something in a value that does not fit its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) path: FieldPath,
    pub(super) kind: MisfitKind,
}

/// How it does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MisfitKind {
    /// The struct has no such field; the fields it has here, and its name.
    Unknown { fields: Vec<&'static str>, owner: &'static str },
    /// The field must be there.
    Missing,
    /// Another type is wanted.
    Wrong { wanted: &'static str, found: Value },
    /// The type is right, the value is not.
    Unfit { message: String },
}

/// Reads a value into a type; what does not fit is left out and told.
pub(super) fn read<T: DeserializeOwned>(value: &Value, root: &FieldPath) -> (Option<T>, Vec<Misfit>) {
    let mut wrong: Vec<Misfit> = Vec::new();
    let mut left_out = BTreeSet::new();
    loop {
        let pass = Pass::new(root, &left_out);
        let result = T::deserialize(Reader { value, pass: &pass });
        let Notes { misfits, offender, .. } = pass.notes.into_inner();
        match (result, offender) {
            (Err(error), offender) if wrong.len() < MAX_WRONG => {
                let misfit = offender.unwrap_or_else(|| Misfit { path: root.clone(), kind: error.to_kind(value) });
                let again = left_out.insert(misfit.path.clone());
                wrong.push(misfit);
                if !again || wrong.last().is_some_and(|misfit| misfit.path == *root) {
                    wrong.extend(misfits);
                    return (None, wrong);
                }
            }
            (result, _) => {
                wrong.extend(misfits);
                return (result.ok(), wrong);
            }
        }
    }
}

/// Returns the names of a struct's fields, as the struct itself tells its deserializer.
pub(super) fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut told: &'static [&'static str] = &[];
    // Nothing can be read from here; what counts is what the struct asked for.
    drop(T::deserialize(Listener { told: &mut told }));
    told
}

/// One reading of a document.
struct Pass<'a> {
    left_out: &'a BTreeSet<FieldPath>,
    notes: RefCell<Notes>,
}

struct Notes {
    path: FieldPath,
    misfits: Vec<Misfit>,
    offender: Option<Misfit>,
}

impl<'a> Pass<'a> {
    fn new(root: &FieldPath, left_out: &'a BTreeSet<FieldPath>) -> Self {
        let notes = Notes { path: root.clone(), misfits: Vec::new(), offender: None };
        Self { left_out, notes: RefCell::new(notes) }
    }

    fn note(&self, path: FieldPath, kind: MisfitKind) {
        let mut notes = self.notes.borrow_mut();
        if notes.misfits.len() < MAX_NOTES {
            notes.misfits.push(Misfit { path, kind });
        }
    }

    fn path(&self) -> FieldPath {
        self.notes.borrow().path.clone()
    }

    fn is_left_out(&self, step: Step) -> bool {
        if self.left_out.is_empty() {
            return false;
        }
        let mut path = self.path();
        path.push(step);
        self.left_out.contains(&path)
    }

    /// Goes one step down, reads, and remembers where the first error came from.
    fn below<'de, S: DeserializeSeed<'de>>(&self, step: Step, value: &Value, seed: S) -> Result<S::Value, ReadError> {
        self.notes.borrow_mut().path.push(step);
        let result = seed.deserialize(Reader { value, pass: self });
        if let Err(error) = &result {
            self.blame(error, value);
        }
        self.notes.borrow_mut().path.pop();
        result
    }

    fn blame(&self, error: &ReadError, found: &Value) {
        let mut notes = self.notes.borrow_mut();
        if notes.offender.is_none() {
            notes.offender = Some(Misfit { path: notes.path.clone(), kind: error.to_kind(found) });
        }
    }
}

#[derive(Debug)]
enum ReadError {
    Wrong(&'static str),
    Other(String),
}

impl ReadError {
    fn to_kind(&self, found: &Value) -> MisfitKind {
        match self {
            Self::Wrong(wanted) => MisfitKind::Wrong { wanted, found: found.clone() },
            Self::Other(message) => MisfitKind::Unfit { message: message.clone() },
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(wanted) => write!(f, "expected {wanted}"),
            Self::Other(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Other(message.to_string())
    }

    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        match expected.to_string().as_str() {
            "IntOrString" => Self::Wrong("a whole number or text"),
            other => Self::Other(format!("expected {other}")),
        }
    }
}

/// Reads one value.
#[derive(Clone, Copy)]
struct Reader<'a> {
    value: &'a Value,
    pass: &'a Pass<'a>,
}

impl<'a> Reader<'a> {
    fn object(self, wanted: &'static str) -> Result<&'a Map<String, Value>, ReadError> {
        self.value.as_object().ok_or(ReadError::Wrong(wanted))
    }

    fn whole(self) -> Result<i64, ReadError> {
        let wrong = ReadError::Wrong("a whole number");
        match self.value {
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => Ok(whole),
                // `3.0` is a whole number to an API server too. The bounds are those of exact doubles.
                (None, Some(float)) if float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0 => {
                    format!("{float:.0}").parse().map_err(|_| wrong)
                }
                _ => Err(wrong),
            },
            _ => Err(wrong),
        }
    }

    fn text(self) -> Result<&'a str, ReadError> {
        self.value.as_str().ok_or(ReadError::Wrong("text"))
    }

    /// Notes keys the struct does not have and fields it must have; returns the entries to read.
    fn check_fields(
        self,
        owner: &'static str,
        fields: &'static [&'static str],
    ) -> Result<Vec<(&'a String, &'a Value)>, ReadError> {
        let map = self.object("a mapping")?;
        let path = self.pass.path();
        let allowed = known::fields_here(owner, fields, &path);
        for key in map.keys().filter(|key| !allowed.contains(&key.as_str())) {
            self.pass.note(path.key(key), MisfitKind::Unknown { fields: allowed.clone(), owner });
        }
        for field in known::required(owner, &path).filter(|field| map.get(*field).is_none_or(Value::is_null)) {
            self.pass.note(path.key(field), MisfitKind::Missing);
        }
        let known = |(key, value): &(&String, &Value)| {
            !value.is_null() && allowed.contains(&key.as_str()) && !self.pass.is_left_out(Step::Key((*key).clone()))
        };
        Ok(map.iter().filter(known).collect())
    }

    fn quantity(self) -> Result<String, ReadError> {
        let text = match self.value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return Err(ReadError::Wrong("a quantity such as 500m or 2Gi")),
        };
        crate::api::quantity::parse_milli(&text).map_err(|error| ReadError::Other(error.to_string()))?;
        Ok(text)
    }
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            let whole = self.whole()?;
            let fitting = <$type>::try_from(whole);
            visitor.$visit(fitting.map_err(|_| ReadError::Other(format!("the number {whole} is out of range")))?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(whole), ..) => visitor.visit_i64(whole),
                (_, Some(whole), _) => visitor.visit_u64(whole),
                (.., float) => visitor.visit_f64(float.unwrap_or_default()),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_bool(self.value.as_bool().ok_or(ReadError::Wrong("true or false"))?)
    }

    whole_numbers! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_f64(self.value.as_f64().ok_or(ReadError::Wrong("a number"))?)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        if self.value.is_null() { visitor.visit_unit() } else { Err(ReadError::Wrong("nothing")) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match name {
            "Quantity" => {
                let text: StringDeserializer<ReadError> = self.quantity()?.into_deserializer();
                visitor.visit_newtype_struct(text)
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let items = self.value.as_array().ok_or(ReadError::Wrong("a list"))?;
        visitor.visit_seq(Elements { items, next: 0, pass: self.pass })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let map = self.object("a mapping")?;
        let kept =
            |(key, value): &(&String, &Value)| !value.is_null() && !self.pass.is_left_out(Step::Key((*key).clone()));
        let entries = map.iter().filter(kept).collect();
        visitor.visit_map(Entries { entries, next: 0, pass: self.pass })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let entries = self.check_fields(name, fields)?;
        visitor.visit_map(Entries { entries, next: 0, pass: self.pass })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let text: StrDeserializer<'_, ReadError> = self.text()?.into_deserializer();
        visitor.visit_enum(text)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_unit()
    }
}

struct Elements<'a> {
    items: &'a [Value],
    next: usize,
    pass: &'a Pass<'a>,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        while self.pass.is_left_out(Step::Index(self.next)) {
            self.next += 1;
        }
        let Some(value) = self.items.get(self.next) else { return Ok(None) };
        let step = Step::Index(self.next);
        self.next += 1;
        self.pass.below(step, value, seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        // Lists are then made no larger than they get.
        self.items.len().checked_sub(self.next)
    }
}

struct Entries<'a> {
    entries: Vec<(&'a String, &'a Value)>,
    next: usize,
    pass: &'a Pass<'a>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        let Some((key, _)) = self.entries.get(self.next) else { return Ok(None) };
        let key: StrDeserializer<'_, ReadError> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let (key, value) = self.entries[self.next];
        self.next += 1;
        self.pass.below(Step::Key(key.clone()), value, seed)
    }
}

/// Listens for the names of a struct's fields, and gives nothing.
struct Listener<'a> {
    told: &'a mut &'static [&'static str],
}

impl<'de> Deserializer<'de> for Listener<'_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ReadError> {
        Err(ReadError::Other("not a struct".to_owned()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        *self.told = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}
