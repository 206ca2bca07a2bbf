//! Finding a model's name in the first message of a gRPC request, without changing it. Pure.
//!
//! Of a field that is said twice protobuf takes the last, or merges both, so a message that names a model twice is
//! refused. That is known only when the message has ended; what is looked at is all of it, or as much as the caller shows.

use super::peek::Found;

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
}

/// Looks for the model's name in the body of a gRPC request. Fed piece by piece; only what may be a name is kept.
#[derive(Debug)]
pub(crate) struct GrpcModel {
    shape: GrpcName,
    /// The beginning of what is not understood yet: the prefix, or a field.
    pending: Vec<u8>,
    /// Bytes of the message behind `pending`; none before its length is known.
    left: Option<usize>,
    /// Bytes of a field that are passed over.
    skip: usize,
    name: Option<String>,
}

const NO_NAME: &str = "the first message names no model";
const BROKEN: &str = "the first message is not valid protobuf";
const COMPRESSED: &str = "the first message is compressed";
/// Flags and length before a message.
const PREFIX: usize = 5;

impl GrpcModel {
    pub(crate) fn new(shape: GrpcName) -> Self {
        Self { shape, pending: Vec::new(), left: None, skip: 0, name: None }
    }

    /// Takes the next piece of the body.
    pub(crate) fn feed(&mut self, mut piece: &[u8]) -> Found {
        if self.left.is_none() {
            let (prefix, rest) = piece.split_at(piece.len().min(PREFIX - self.pending.len()));
            self.pending.extend_from_slice(prefix);
            piece = rest;
            let Some([compressed, len @ ..]) = self.pending.first_chunk::<PREFIX>() else { return Found::More };
            if *compressed != 0 {
                return Found::Not(COMPRESSED);
            }
            self.left = Some(u32::from_be_bytes(*len) as usize);
            self.pending.clear();
        }
        self.take(piece)
    }

    /// Takes a piece of the message; what follows the message is not looked at.
    fn take(&mut self, piece: &[u8]) -> Found {
        let left = self.left.unwrap_or_default();
        let piece = &piece[..piece.len().min(left)];
        let left = left - piece.len();
        self.left = Some(left);
        let passed = piece.len().min(self.skip);
        self.skip -= passed;
        self.pending.extend_from_slice(&piece[passed..]);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        while self.skip == 0 && !rest.is_empty() {
            match field(rest) {
                Field::Bytes(number, content, after) if number == self.shape.outer() => {
                    if let Err(found) = self.look_at(content) {
                        return found;
                    }
                    rest = after;
                }
                Field::Bytes(.., after) => rest = after,
                // The name must be there as a whole, the others are of no interest.
                Field::Cut(number, missing) if number.is_some_and(|number| number != self.shape.outer()) => {
                    (self.skip, rest) = (missing, &[]);
                }
                Field::Cut(..) => break,
                Field::Broken => return Found::Not(BROKEN),
            }
        }
        let unread = rest.len();
        self.pending = pending;
        self.pending.drain(..self.pending.len() - unread);
        match () {
            () if left > 0 => Found::More,
            () if self.skip > 0 || unread > 0 => Found::Not(BROKEN),
            () => self.name.take().map_or(Found::Not(NO_NAME), Found::Name),
        }
    }

    /// Returns what has been found when no more is looked at.
    pub(crate) fn so_far(self) -> Option<String> {
        self.name
    }

    /// Looks at the field that is, or has, the name.
    fn look_at(&mut self, content: &[u8]) -> Result<(), Found> {
        match self.shape {
            GrpcName::Field(_) => self.named(content),
            GrpcName::Nested => self.look_into(content),
        }
    }

    /// Looks into a message whose field 1 is the name.
    fn look_into(&mut self, mut message: &[u8]) -> Result<(), Found> {
        while !message.is_empty() {
            match field(message) {
                Field::Bytes(1, name, after) => {
                    self.named(name)?;
                    message = after;
                }
                Field::Bytes(.., after) => message = after,
                Field::Cut(..) | Field::Broken => return Err(Found::Not(BROKEN)),
            }
        }
        Ok(())
    }

    fn named(&mut self, name: &[u8]) -> Result<(), Found> {
        let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty());
        let name = name.ok_or(Found::Not(NO_NAME))?;
        match self.name.replace(name.to_owned()) {
            None => Ok(()),
            Some(_) => Err(Found::Twice),
        }
    }
}

impl GrpcName {
    /// Number of the field of the message itself.
    fn outer(self) -> u64 {
        match self {
            Self::Field(number) => number,
            Self::Nested => 1,
        }
    }
}

/// The first field of a protobuf message of which we may have only the beginning.
enum Field<'a> {
    /// Number, content if it is of the kind that strings and messages are, and what follows. Others are called 0.
    Bytes(u64, &'a [u8], &'a [u8]),
    /// Number, if that is known already, and how many bytes are missing.
    Cut(Option<u64>, usize),
    Broken,
}

fn field(bytes: &[u8]) -> Field<'_> {
    let mut rest = bytes;
    let tag = match varint(&mut rest) {
        Varint::Value(tag) => tag,
        Varint::Cut => return Field::Cut(None, 0),
        Varint::Broken => return Field::Broken,
    };
    // Larger ones are none, and some readers cut them.
    if tag >> 3 == 0 || tag > u64::from(u32::MAX) {
        return Field::Broken;
    }
    let (number, len) = match tag & 7 {
        0 | 2 => match (varint(&mut rest), tag & 7) {
            (Varint::Value(_), 0) => (0, 0),
            (Varint::Value(len), _) => match usize::try_from(len) {
                Ok(len) if len <= u32::MAX as usize => (tag >> 3, len),
                _ => return Field::Broken,
            },
            (Varint::Cut, _) => return Field::Cut(None, 0),
            (Varint::Broken, _) => return Field::Broken,
        },
        1 => (0, 8),
        5 => (0, 4),
        _ => return Field::Broken,
    };
    match rest.split_at_checked(len) {
        Some((content, after)) => Field::Bytes(number, content, after),
        None => Field::Cut(Some(number), len - rest.len()),
    }
}

enum Varint {
    Value(u64),
    Cut,
    Broken,
}

/// Longest of a 64-bit number.
const MAX_VARINT: usize = 10;

fn varint(bytes: &mut &[u8]) -> Varint {
    let mut value = 0u64;
    for (at, &byte) in bytes.iter().take(MAX_VARINT).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at).min(63);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Varint::Value(value);
        }
    }
    if bytes.len() < MAX_VARINT { Varint::Cut } else { Varint::Broken }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn look(shape: GrpcName, body: &[u8], piece: usize) -> (Found, Option<String>) {
        let mut model = GrpcModel::new(shape);
        let found = body.chunks(piece).map(|part| model.feed(part)).find(|found| *found != Found::More);
        (found.unwrap_or(Found::More), model.so_far())
    }

    fn frame(message: &[u8]) -> Vec<u8> {
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message);
        body
    }

    /// A field of bytes.
    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    #[test]
    fn the_model_of_a_grpc_message_is_found_however_it_is_cut() {
        let name = Found::Name("iris".into());
        let spec = bytes(1, &[bytes(3, b"serving_default"), bytes(1, b"iris")].concat());
        let table = [
            (GrpcName::Field(1), bytes(1, b"iris"), name.clone()),
            (GrpcName::Field(2), [bytes(1, b"r"), bytes(2, b"iris")].concat(), name.clone()),
            (GrpcName::Nested, spec, name.clone()),
            (GrpcName::Field(1), b"\x18\x05\x0d1234\x11abcdefgh\x0a\x04iris".to_vec(), name.clone()),
            (GrpcName::Field(1), [bytes(1, b"iris"), bytes(5, &[10; 90])].concat(), name),
            (GrpcName::Field(1), Vec::new(), Found::Not(NO_NAME)),
            (GrpcName::Field(1), bytes(1, b""), Found::Not(NO_NAME)),
            (GrpcName::Field(1), bytes(1, b"\xff"), Found::Not(NO_NAME)),
            (GrpcName::Nested, bytes(1, b""), Found::Not(NO_NAME)),
            (GrpcName::Field(1), b"\x0a\x09iris".to_vec(), Found::Not(BROKEN)),
            (GrpcName::Field(1), b"\x12\x09iris".to_vec(), Found::Not(BROKEN)),
            (GrpcName::Nested, bytes(1, b"\x0a\x09iris"), Found::Not(BROKEN)),
            (GrpcName::Field(1), b"\x0b".to_vec(), Found::Not(BROKEN)),
            (GrpcName::Field(1), b"\x8a\x80\x80\x80\x10\x04iris".to_vec(), Found::Not(BROKEN)),
            (GrpcName::Field(1), vec![0x80; 11], Found::Not(BROKEN)),
        ];
        for (shape, message, wanted) in table {
            let body = [frame(&message), b"\0\0\0\0\x06\x0a\x04oops".to_vec()].concat();
            for piece in [1, 2, 3, 7, 1000] {
                assert_eq!(look(shape, &body, piece).0, wanted, "{shape:?} {message:?} in pieces of {piece}");
            }
        }
        assert_eq!(look(GrpcName::Field(1), b"\x01\0\0\0\x01x", 1).0, Found::Not(COMPRESSED));
    }

    #[test]
    fn a_message_that_names_two_models_is_none_of_either() {
        let twice = [bytes(1, b"iris"), bytes(5, b"x"), bytes(1, b"other")].concat();
        let spec = |name: &[u8]| bytes(1, &bytes(1, name));
        for (shape, message) in [
            (GrpcName::Field(1), twice.clone()),
            (GrpcName::Nested, [spec(b"iris"), spec(b"other")].concat()),
            (GrpcName::Nested, bytes(1, &twice)),
        ] {
            for piece in [1, 2, 9, 1000] {
                assert_eq!(look(shape, &frame(&message), piece).0, Found::Twice, "{shape:?} in pieces of {piece}");
            }
        }
        let cut = &frame(&twice)[..12];
        assert_eq!(look(GrpcName::Field(1), cut, 5), (Found::More, Some("iris".into())), "the rest may name another");
    }

    proptest! {
        #[test]
        fn no_body_makes_the_search_panic(body in proptest::collection::vec(any::<u8>(), 0..200), piece in 1usize..9) {
            for shape in [GrpcName::Field(1), GrpcName::Field(2), GrpcName::Nested] {
                prop_assert_eq!(look(shape, &body, piece).0, look(shape, &body, 1000).0);
                let message = frame(&body);
                prop_assert_eq!(look(shape, &message, piece).0, look(shape, &message, 1000).0);
            }
        }
    }
}
