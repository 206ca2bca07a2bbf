//! Finding a model's name at the beginning of a JSON body, without parsing, buffering or changing the rest. Pure.
//!
//! Of two members `model` some servers take the first and most the last, so a body with two is refused. That is known
//! only when the object has ended: until then there may always be another. What is looked at is therefore everything up
//! to the end of the object, or up to the caller's limit.

use serde_json::Value;

/// What has been found in a body so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The only name there is: what could hold another has ended.
    Name(String),
    /// Not yet known; more bytes are needed.
    More,
    /// More than one is named; servers and proxies differ in which of them they take.
    Twice,
    /// It is not there, or the body is not what it should be; a fragment for a person.
    Not(&'static str),
}

/// Looks for the string member `model` of a JSON object, at its top level. Fed piece by piece.
#[derive(Debug, Default)]
pub(crate) struct JsonModel {
    depth: usize,
    place: Place,
    in_string: bool,
    escaped: bool,
    /// The string literal being read, with quotes, when it may matter: a key or the value of `model` at the top level.
    literal: Option<Vec<u8>>,
    key_is_model: bool,
    /// There was a key that is `model`, or that some servers take for it.
    named: bool,
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
                // The object has ended, or is broken: that is the server's business.
                Found::Not(why) => return self.name.take().map_or(Found::Not(why), Found::Name),
                found => return found,
            }
        }
        Found::More
    }

    /// Returns what has been found when no more is looked at.
    pub(crate) fn so_far(self) -> Option<String> {
        self.name
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
            Place::Key => {
                // Some servers, those in Go among them, do not mind the case of a key.
                let names = text.is_some_and(|key| key.eq_ignore_ascii_case("model"));
                if names && self.named {
                    return Found::Twice;
                }
                self.named |= names;
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json_model(body: &str, piece: usize) -> Found {
        let mut scan = JsonModel::default();
        let found = body.as_bytes().chunks(piece).map(|part| scan.feed(part)).find(|found| *found != Found::More);
        found.unwrap_or(Found::More)
    }

    #[test]
    fn the_model_of_a_json_body_is_found_however_it_is_cut() {
        let name = |name: &str| Found::Name(name.to_owned());
        let table = [
            (r#"{"model":"llama"}"#, name("llama")),
            (r#" { "messages" : [{"model":"no","x":"}]"}], "n":1, "model" : "ll\u0061ma" }"#, name("llama")),
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
            r#"{"model":"aa","Model":"oa"}"#,
            r#"{"Model":"oa","model":"aa"}"#,
            r#"{"MODEL":5,"n":1,"model":"aa"}"#,
        ] {
            for piece in [1, 13, 1000] {
                assert_eq!(json_model(body, piece), Found::Twice, "{body} in pieces of {piece}");
            }
        }
        for rest in [r#","x":{"model":"no"}}"#, "] nonsense", r#"} {"model":"no"}"#] {
            let body = format!(r#"{{"model":"aa"{rest}"#);
            assert_eq!(json_model(&body, 1), Found::Name("aa".to_owned()), "{body}");
        }
    }

    #[test]
    fn a_name_is_sure_only_when_the_object_has_ended() {
        let mut scan = JsonModel::default();
        assert_eq!(scan.feed(br#"{"model":"aa","x":"#), Found::More);
        assert_eq!(scan.so_far().as_deref(), Some("aa"));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_search_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = JsonModel::default().feed(&body);
        }

        #[test]
        fn every_json_object_gives_its_model(before in ".{0,20}", model in "[^\0]{1,20}", piece in 1usize..9) {
            let body = serde_json::json!({"before": [before, {"model": 1}], "model": model}).to_string();
            prop_assert_eq!(json_model(&body, piece), Found::Name(model));
        }
    }
}
