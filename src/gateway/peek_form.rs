//! Finding a model's name in a form of several parts (`multipart/form-data`), as OpenAI's routes for audio and files take
//! them, without changing it. Pure.
//!
//! Of two fields of one name some servers take the first and others the last, so a form with two `model`s is refused. What
//! is looked at is all of it, or as much as the caller shows; only the name is kept.

use memchr::memmem::{self, Finder};

use super::peek::Found;

/// Looks for the field `model` of a form. Fed piece by piece.
#[derive(Debug)]
pub(crate) struct FormModel {
    /// What stands before each part: a line end, two dashes and the boundary.
    delimiter: Finder<'static>,
    place: Place,
    /// Read, not yet understood.
    pending: Vec<u8>,
    name: Option<String>,
}

/// What comes next in the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The content of a part that is of no interest, or what stands before the first part.
    Skipped,
    /// The rest of the line with a boundary.
    BoundaryEnd,
    /// The lines before a part's content.
    PartHead,
    /// The content of `model`.
    Value,
}

const NO_MODEL: &str = "the form has no `model`";
const BROKEN: &str = "the form's parts are malformed";
const TOO_LONG: &str = "`model` is too long";
const NOT_TEXT: &str = "`model` is not text";
/// Longest line end behind a boundary, lines before a part's content, and model's name.
const MAX_BOUNDARY_END: usize = 64;
const MAX_PART_HEAD: usize = 8 << 10;
const MAX_NAME: usize = 4096;
/// RFC 2046, section 5.1.1.
const MAX_BOUNDARY: usize = 70;

impl FormModel {
    /// Begins with the `Content-Type` of a body. None when that is no form of several parts, or does not say what stands
    /// between them.
    pub(crate) fn of_type(content_type: &str) -> Option<Self> {
        let (kind, parameters) = content_type.split_once(';')?;
        if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
            return None;
        }
        let boundary = parameter(parameters, "boundary")?;
        if boundary.is_empty() || boundary.len() > MAX_BOUNDARY {
            return None;
        }
        let delimiter = Finder::new(&format!("\r\n--{boundary}")).into_owned();
        // As if a line had ended before the body.
        Some(Self { delimiter, place: Place::Skipped, pending: b"\r\n".to_vec(), name: None })
    }

    /// Takes the next piece of the body.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Found {
        self.pending.extend_from_slice(piece);
        loop {
            let step = match self.place {
                Place::Skipped => self.skip(),
                Place::BoundaryEnd => self.boundary_end(),
                Place::PartHead => self.part_head(),
                Place::Value => self.value(),
            };
            match step {
                Ok(true) => {}
                Ok(false) => return Found::More,
                Err(found) => return found,
            }
        }
    }

    /// Returns what has been found when no more is looked at.
    pub(crate) fn so_far(self) -> Option<String> {
        self.name
    }

    /// The steps return whether there may be another, or what has been found.
    fn skip(&mut self) -> Result<bool, Found> {
        let Some(at) = self.delimiter.find(&self.pending) else {
            // All but what may be the beginning of a delimiter.
            let kept = self.pending.len().min(self.delimiter.needle().len() - 1);
            self.pending.drain(..self.pending.len() - kept);
            return Ok(false);
        };
        self.go_on(at + self.delimiter.needle().len(), Place::BoundaryEnd);
        Ok(true)
    }

    fn boundary_end(&mut self) -> Result<bool, Found> {
        if self.pending.starts_with(b"--") {
            return Err(self.name.take().map_or(Found::Not(NO_MODEL), Found::Name));
        }
        let Some(end) = memmem::find(&self.pending, b"\r\n") else {
            return if self.pending.len() > MAX_BOUNDARY_END + 1 { Err(Found::Not(BROKEN)) } else { Ok(false) };
        };
        if end > MAX_BOUNDARY_END || !self.pending[..end].iter().all(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(Found::Not(BROKEN));
        }
        // Its line end begins the head, which so ends with two of them even when it is empty.
        self.go_on(end, Place::PartHead);
        Ok(true)
    }

    fn part_head(&mut self) -> Result<bool, Found> {
        let Some(end) = memmem::find(&self.pending, b"\r\n\r\n") else {
            return if self.pending.len() > MAX_PART_HEAD + 3 { Err(Found::Not(BROKEN)) } else { Ok(false) };
        };
        let field = (end <= MAX_PART_HEAD).then(|| field_name(&self.pending[..end])).flatten();
        let field = field.ok_or(Found::Not(BROKEN))?;
        let is_model = field == "model";
        if is_model && self.name.is_some() {
            return Err(Found::Twice);
        }
        // Of the line ends before the content the second may be the one before the next boundary.
        self.go_on(end + 2, if is_model { Place::Value } else { Place::Skipped });
        Ok(true)
    }

    fn value(&mut self) -> Result<bool, Found> {
        let Some(end) = self.delimiter.find(&self.pending) else {
            let longest = 2 + MAX_NAME + self.delimiter.needle().len();
            return if self.pending.len() > longest { Err(Found::Not(TOO_LONG)) } else { Ok(false) };
        };
        let value = self.pending[..end].get(2..).unwrap_or_default();
        if value.len() > MAX_NAME {
            return Err(Found::Not(TOO_LONG));
        }
        let value = std::str::from_utf8(value).map_err(|_| Found::Not(NOT_TEXT))?;
        self.name = Some(value.to_owned());
        self.go_on(end + self.delimiter.needle().len(), Place::BoundaryEnd);
        Ok(true)
    }

    fn go_on(&mut self, passed: usize, place: Place) {
        self.pending.drain(..passed);
        self.place = place;
    }
}

/// The name of a part's field, empty when it has none. None when the head could be read in more than one way.
fn field_name(head: &[u8]) -> Option<String> {
    let head = std::str::from_utf8(head).ok()?;
    let mut found = None;
    for line in head.split("\r\n").filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        if !name.eq_ignore_ascii_case("content-disposition") {
            continue;
        }
        let parameters = value.split_once(';').map_or("", |(_, parameters)| parameters);
        if found.replace(parameter(parameters, "name").unwrap_or_default()).is_some() || twice(parameters, "name") {
            return None;
        }
    }
    Some(found.unwrap_or_default())
}

fn parameter(parameters: &str, wanted: &str) -> Option<String> {
    each_parameter(parameters).find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
}

fn twice(parameters: &str, wanted: &str) -> bool {
    each_parameter(parameters).filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).nth(1).is_some()
}

/// The parameters of a header: `a=b; c="d;e"`.
fn each_parameter(parameters: &str) -> impl Iterator<Item = (&str, String)> {
    let mut rest = parameters;
    std::iter::from_fn(move || {
        let (name, after) = rest.split_once('=')?;
        let value;
        (value, rest) = read_value(after.trim_start_matches([' ', '\t']));
        // What has no value is of no interest.
        Some((name.rsplit(';').next().unwrap_or_default().trim(), value))
    })
}

/// A value, quoted or not, and what follows it.
fn read_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return (text[..end].trim().to_owned(), &text[end..]);
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, char) in quoted.char_indices() {
        match char {
            _ if escaped => {
                value.push(char);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(char),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TYPE: &str = "multipart/form-data; boundary=\"b 1\"";

    fn look(body: &[u8], piece: usize) -> (Found, Option<String>) {
        let mut model = FormModel::of_type(TYPE).unwrap();
        let found = body.chunks(piece).map(|part| model.feed(part)).find(|found| *found != Found::More);
        (found.unwrap_or(Found::More), model.so_far())
    }

    fn form(parts: &[(&str, &str)]) -> String {
        let part = |(head, content): &(&str, &str)| format!("--b 1\r\n{head}\r\n\r\n{content}\r\n");
        parts.iter().map(part).collect::<String>() + "--b 1--\r\n"
    }

    const MODEL: &str = "Content-Disposition: form-data; name=\"model\"";
    const FILE: &str =
        "Content-Disposition: form-data; filename=\"a;name=model\"; name=\"file\"\r\nContent-Type: audio/wav";

    #[test]
    fn the_model_of_a_form_is_found_however_it_is_cut() {
        let name = |name: &str| Found::Name(name.to_owned());
        let audio = "RIFF\r\n--b\r\n\r\n-- b 1\r\nname=\"model\"";
        for (body, wanted) in [
            (form(&[(MODEL, "whisper")]), name("whisper")),
            (form(&[(FILE, audio), (MODEL, "org/whisper")]), name("org/whisper")),
            (form(&[(MODEL, "whisper"), (FILE, audio)]), name("whisper")),
            (format!("said before\r\n{}", form(&[(MODEL, "")])), name("")),
            (form(&[("content-disposition:form-data;x;Name=model", "x")]).replace("b 1\r\n", "b 1 \t\r\n"), name("x")),
            (form(&[(FILE, audio)]), Found::Not(NO_MODEL)),
            (form(&[("X: y", "z"), ("", "z")]), Found::Not(NO_MODEL)),
            (form(&[(MODEL, "a\r\n\r\nb")]), name("a\r\n\r\nb")),
            (form(&[(MODEL, "a"), (MODEL, "b")]), Found::Twice),
            (form(&[(&format!("{MODEL}; name=\"x\""), "a")]), Found::Not(BROKEN)),
            (form(&[(&format!("{MODEL}\r\n{FILE}"), "a")]), Found::Not(BROKEN)),
            (form(&[("nonsense", "a")]), Found::Not(BROKEN)),
            ("--b 1x\r\n".to_owned(), Found::Not(BROKEN)),
            (form(&[(MODEL, &"x".repeat(MAX_NAME + 1))]), Found::Not(TOO_LONG)),
            ("{\"model\":\"a\"}".to_owned(), Found::More),
        ] {
            for piece in [1, 2, 3, 7, 100_000] {
                assert_eq!(look(body.as_bytes(), piece).0, wanted, "{body:.200} in pieces of {piece}");
            }
        }
        let cut = form(&[(MODEL, "whisper"), (FILE, audio)]);
        assert_eq!(
            look(&cut.as_bytes()[..cut.len() - 12], 5),
            (Found::More, Some("whisper".into())),
            "the rest may name another"
        );
    }

    #[test]
    fn only_forms_that_say_what_stands_between_their_parts_are_looked_into() {
        for (content_type, wanted) in [
            ("multipart/form-data; boundary=x", true),
            ("Multipart/Form-Data;charset=utf-8; Boundary=\"x\"", true),
            ("multipart/form-data", false),
            ("multipart/form-data; boundary=", false),
            ("multipart/mixed; boundary=x", false),
            ("application/json; boundary=x", false),
        ] {
            assert_eq!(FormModel::of_type(content_type).is_some(), wanted, "{content_type}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_search_panic(body in "(--b 1|\r\n|name=\"model\"|content-disposition: x;|[a-z:;\"]){0,30}", piece in 1usize..9) {
            prop_assert_eq!(look(body.as_bytes(), piece).0, look(body.as_bytes(), 10_000).0);
        }
    }
}
