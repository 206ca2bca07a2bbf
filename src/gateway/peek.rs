//! Finding a model's name in the first bytes of a body, without parsing, buffering or changing the rest. Pure.

use serde_json::Value;

/// What has been found in a body so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The name.
    Name(String),
    /// Not yet; more bytes are needed.
    More,
    /// More than one is named; servers and proxies differ in which of them they take.
    Twice,
    /// It is not there, or the body is not what it should be; a fragment for a person.
    Not(&'static str),
}

/// Looks for the string member `model` of a JSON object, at its top level. Fed piece by piece, until the end of the piece
/// it is found in: what has arrived with it must not name another.
#[derive(Debug, Default)]
pub(crate) struct JsonModel {
    depth: usize,
    place: Place,
    in_string: bool,
    escaped: bool,
    /// The string literal being read, with quotes, when it may matter: a key or the value of `model` at the top level.
    literal: Option<Vec<u8>>,
    key_is_model: bool,
    name: Option<String>,
}

/// Where in the top-level object the next token stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Start,
    Key,
    Colon,
    Value,
    Comma,
}

const NOT_AN_OBJECT: &str = "the body is not a JSON object";
const NO_MODEL: &str = "the body has no `model`";
const NOT_A_STRING: &str = "`model` is not a string";
const MAX_LITERAL: usize = 4096;

impl JsonModel {
    /// Takes the next piece of the body.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Found {
        for &byte in piece {
            match if self.in_string { self.string_byte(byte) } else { self.token_byte(byte) } {
                Found::More => {}
                // What comes after the name is the server's business.
                Found::Not(_) if self.name.is_some() => break,
                found => return found,
            }
        }
        self.name.take().map_or(Found::More, Found::Name)
    }

    fn string_byte(&mut self, byte: u8) -> Found {
        if let Some(literal) = &mut self.literal {
            literal.push(byte);
            if literal.len() > MAX_LITERAL {
                return self.overlong();
            }
        }
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => {
                self.in_string = false;
                return self.string_end();
            }
            _ => {}
        }
        Found::More
    }

    /// A key that long is not `model`; a model's name that long is none.
    fn overlong(&mut self) -> Found {
        self.literal = None;
        if self.place == Place::Value { Found::Not("`model` is too long") } else { Found::More }
    }

    fn string_end(&mut self) -> Found {
        if self.depth != 1 {
            return Found::More;
        }
        let text = self.literal.take().and_then(|literal| serde_json::from_slice::<Value>(&literal).ok());
        let text = text.as_ref().and_then(Value::as_str);
        match self.place {
            Place::Key if text == Some("model") && self.name.is_some() => return Found::Twice,
            Place::Key => {
                self.key_is_model = text == Some("model");
                self.place = Place::Colon;
            }
            Place::Value if self.key_is_model => {
                let Some(name) = text else { return Found::Not(NOT_A_STRING) };
                self.name = Some(name.to_owned());
                (self.key_is_model, self.place) = (false, Place::Comma);
            }
            Place::Value => self.place = Place::Comma,
            Place::Start | Place::Colon | Place::Comma => return Found::Not(NOT_AN_OBJECT),
        }
        Found::More
    }

    fn token_byte(&mut self, byte: u8) -> Found {
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            return Found::More;
        }
        match (self.depth, self.place, byte) {
            (0, Place::Start, b'{') => (self.depth, self.place) = (1, Place::Key),
            (0, ..) => return Found::Not(NOT_AN_OBJECT),
            (1, Place::Key, b'"') => self.open_string(true),
            (1, Place::Value, b'"') => self.open_string(self.key_is_model),
            (1, Place::Colon, b':') => self.place = Place::Value,
            (1, Place::Value, _) if self.key_is_model => return Found::Not(NOT_A_STRING),
            (1, Place::Value | Place::Comma, b',') => self.place = Place::Key,
            (1, _, b'}') => return Found::Not(NO_MODEL),
            (1, Place::Value, b'{' | b'[') => self.depth = 2,
            (1, Place::Value, _) => {}
            (1, ..) => return Found::Not(NOT_AN_OBJECT),
            (_, _, b'"') => self.open_string(false),
            (_, _, b'{' | b'[') => self.depth += 1,
            (_, _, b'}' | b']') => {
                self.depth -= 1;
                if self.depth == 1 {
                    self.place = Place::Comma;
                }
            }
            _ => {}
        }
        Found::More
    }

    fn open_string(&mut self, keep: bool) {
        self.in_string = true;
        self.literal = keep.then(|| vec![b'"']);
    }
}

/// Which field of a method's request message names the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrpcName {
    /// A string field of this number.
    Field(u64),
    /// The string field 1 of the message in field 1, as TensorFlow's `ModelSpec`.
    Nested,
}

impl GrpcName {
    /// Returns where the model's name is for a method that has one.
    pub(crate) fn of_method(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        match (service, method) {
            ("inference.GRPCInferenceService", "RepositoryModelLoad" | "RepositoryModelUnload") => Some(Self::Field(2)),
            ("inference.GRPCInferenceService", "ModelInfer" | "ModelReady" | "ModelMetadata")
            | ("inference.GRPCInferenceService", "ModelStreamInfer" | "ModelConfig" | "ModelStatistics") => {
                Some(Self::Field(1))
            }
            ("tensorflow.serving.PredictionService", _) => Some(Self::Nested),
            _ => None,
        }
    }

    /// Looks in the first bytes of a gRPC request body, its five-byte prefix included.
    pub(crate) fn look(self, body: &[u8]) -> Found {
        let Some((prefix, message)) = body.split_first_chunk::<5>() else { return Found::More };
        if prefix[0] != 0 {
            return Found::Not("the first message is compressed; address the service by its host name");
        }
        let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let whole = message.len() >= len;
        let message = &message[..message.len().min(len)];
        let name = match self {
            Self::Field(number) => bytes_field(message, number),
            Self::Nested => match bytes_field(message, 1) {
                Field::Whole(spec) => bytes_field(spec, 1),
                other => other,
            },
        };
        match name {
            Field::Whole(name) => match std::str::from_utf8(name) {
                Ok("") | Err(_) => Found::Not("the first message names no model"),
                Ok(name) => Found::Name(name.to_owned()),
            },
            Field::Cut if !whole => Found::More,
            Field::Cut | Field::Broken => Found::Not("the first message is not valid protobuf"),
            Field::Absent if !whole => Found::More,
            Field::Absent => Found::Not("the first message names no model"),
        }
    }
}

/// A length-delimited field of a protobuf message of which we may have only the beginning.
enum Field<'a> {
    Whole(&'a [u8]),
    Cut,
    Absent,
    Broken,
}

fn bytes_field(message: &[u8], wanted: u64) -> Field<'_> {
    let mut rest = message;
    while !rest.is_empty() {
        let Some(tag) = varint(&mut rest) else { return Field::Cut };
        let skip = match tag & 7 {
            0 => match varint(&mut rest) {
                Some(_) => 0,
                None => return Field::Cut,
            },
            1 => 8,
            2 => match varint(&mut rest) {
                Some(len) if tag >> 3 == wanted => {
                    let len = usize::try_from(len).unwrap_or(usize::MAX);
                    return rest.get(..len).map_or(Field::Cut, Field::Whole);
                }
                Some(len) => usize::try_from(len).unwrap_or(usize::MAX),
                None => return Field::Cut,
            },
            5 => 4,
            _ => return Field::Broken,
        };
        rest = match rest.get(skip..) {
            Some(rest) => rest,
            None => return Field::Cut,
        };
    }
    Field::Absent
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (at, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at).min(63);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json_model(body: &str, piece: usize) -> Found {
        let mut scan = JsonModel::default();
        for part in body.as_bytes().chunks(piece) {
            match scan.feed(part) {
                Found::More => {}
                found => return found,
            }
        }
        Found::More
    }

    #[test]
    fn the_model_of_a_json_body_is_found_however_it_is_cut() {
        let name = |name: &str| Found::Name(name.to_owned());
        let table = [
            (r#"{"model":"llama"}"#, name("llama")),
            (r#" { "messages" : [{"model":"no","x":"}]"}], "n":1, "model" : "ll\u0061ma" "#, name("llama")),
            (r#"{"a":{"model":"no"},"b":null,"c":true,"d":-1.5e3,"model":"org/x"}"#, name("org/x")),
            (r#"{"mo\u0064el":"x"}"#, name("x")),
            (r#"{"s":"a \" model \\","model":"y"}"#, name("y")),
            (r#"{"model":5}"#, Found::Not(NOT_A_STRING)),
            (r#"{"model":["x"]}"#, Found::Not(NOT_A_STRING)),
            (r#"{"instances":[[1,2]]}"#, Found::Not(NO_MODEL)),
            ("{}", Found::Not(NO_MODEL)),
            (r#"["model","x"]"#, Found::Not(NOT_AN_OBJECT)),
            (r#""model""#, Found::Not(NOT_AN_OBJECT)),
            ("", Found::More),
            (r#"{"model":"lla"#, Found::More),
        ];
        for (body, wanted) in table {
            for piece in [1, 2, 3, 1000] {
                assert_eq!(json_model(body, piece), wanted, "{body} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_body_that_names_two_models_is_no_body_of_either() {
        for body in [
            r#"{"model":"aa","model":"oa"}"#,
            r#"{"model":"aa","messages":[{"model":1}],"mo\u0064el":null}"#,
            r#"{"model":"aa","model"#,
        ] {
            let wanted = if body.ends_with("model") { Found::Name("aa".to_owned()) } else { Found::Twice };
            assert_eq!(json_model(body, 1000), wanted, "{body}");
        }
        let apart = json_model(r#"{"model":"aa","model":"oa"}"#, 13);
        assert_eq!(apart, Found::Name("aa".to_owned()), "what has not arrived is not waited for");
        for rest in [r#","x":{"model":"no"}}"#, "] nonsense", r#"} {"model":"no"}"#] {
            let body = format!(r#"{{"model":"aa"{rest}"#);
            assert_eq!(json_model(&body, 1000), Found::Name("aa".to_owned()), "{body}");
        }
    }

    fn frame(message: &[u8]) -> Vec<u8> {
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message);
        body
    }

    #[test]
    fn the_model_of_a_grpc_message_is_found_from_its_first_bytes() {
        let infer = frame(b"\x0a\x04iris\x12\x011\x2a\x80\x80\x04");
        assert_eq!(GrpcName::Field(1).look(&infer[..3]), Found::More);
        assert_eq!(GrpcName::Field(1).look(&infer[..9]), Found::More);
        assert_eq!(GrpcName::Field(1).look(&infer[..11]), Found::Name("iris".into()), "the rest is not needed");
        assert_eq!(GrpcName::Field(2).look(&frame(b"\x0a\x01r\x12\x04iris")), Found::Name("iris".into()));
        assert_eq!(GrpcName::Nested.look(&frame(b"\x0a\x06\x0a\x04iris")), Found::Name("iris".into()));
        assert_eq!(
            GrpcName::Field(1).look(&frame(b"\x18\x05\x0d1234\x0a\x04iris")),
            Found::Name("iris".into()),
            "other fields may come first"
        );
        assert!(matches!(GrpcName::Field(1).look(&frame(b"")), Found::Not(_)));
        assert!(matches!(GrpcName::Field(1).look(&frame(b"\x0a\x09iris")), Found::Not(_)), "a length that lies");
        assert!(matches!(GrpcName::Field(1).look(b"\x01\0\0\0\x01x"), Found::Not(_)), "compressed");
        assert!(matches!(GrpcName::Field(1).look(&frame(b"\x0b")), Found::Not(_)), "groups are not protobuf 3");
    }

    proptest! {
        #[test]
        fn no_body_makes_the_search_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = JsonModel::default().feed(&body);
            for shape in [GrpcName::Field(1), GrpcName::Field(2), GrpcName::Nested] {
                let _ = shape.look(&body);
            }
        }

        #[test]
        fn every_json_object_gives_its_model(before in ".{0,20}", model in "[^\0]{1,20}", piece in 1usize..9) {
            let body = serde_json::json!({"before": [before, {"model": 1}], "model": model}).to_string();
            prop_assert_eq!(json_model(&body, piece), Found::Name(model));
        }
    }
}
