//! Bodies in Kubernetes' protobuf encoding, read into the same JSON that other clients send.
//!
//! `kubectl` 1.32 and newer encode what `create namespace|secret|serviceaccount|configmap` and `auth` send, and have no
//! other way when it is refused. Only those messages are known. An empty string on the wire is a field that was not set.
//!
//! The envelope is `k8s\0` and a `runtime.Unknown`; field numbers are those of Kubernetes' published `.proto` files.

use serde_json::{Map, Value, json};

/// Media type of these bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// First bytes of every body.
const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting of messages; the known ones stay below it.
const DEPTH_LIMIT: u8 = 16;

/// Why a body cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// It is no such encoding at all.
    #[error("the body is not in Kubernetes' protobuf encoding")]
    NotProtobuf,
    /// It is, and ends or turns wrong somewhere.
    #[error("the protobuf body is damaged")]
    Damaged,
    /// Nobody taught us this kind.
    #[error("protobuf bodies of kind {0} are not read; send JSON")]
    UnknownKind(String),
}

/// What a field holds.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    /// Bytes, written as base64 in JSON.
    Bytes,
    Bool,
    Whole,
    /// Seconds and nanoseconds.
    Time,
    Message(&'static [Field]),
    /// `map<string, …>`.
    Map(&'static Shape),
    /// `repeated …`.
    List(&'static Shape),
}

struct Field {
    number: u32,
    name: &'static str,
    shape: Shape,
}

const fn field(number: u32, name: &'static str, shape: Shape) -> Field {
    Field { number, name, shape }
}

const TEXTS: Shape = Shape::List(&Shape::Text);
const TEXT_MAP: Shape = Shape::Map(&Shape::Text);

const OWNER: &[Field] = &[
    field(1, "kind", Shape::Text),
    field(3, "name", Shape::Text),
    field(4, "uid", Shape::Text),
    field(5, "apiVersion", Shape::Text),
    field(6, "controller", Shape::Bool),
    field(7, "blockOwnerDeletion", Shape::Bool),
];
const METADATA: &[Field] = &[
    field(1, "name", Shape::Text),
    field(2, "generateName", Shape::Text),
    field(3, "namespace", Shape::Text),
    field(5, "uid", Shape::Text),
    field(6, "resourceVersion", Shape::Text),
    field(7, "generation", Shape::Whole),
    field(8, "creationTimestamp", Shape::Time),
    field(11, "labels", TEXT_MAP),
    field(12, "annotations", TEXT_MAP),
    field(13, "ownerReferences", Shape::List(&Shape::Message(OWNER))),
    field(14, "finalizers", TEXTS),
];
const NAMESPACE: &[Field] = &[
    field(1, "metadata", Shape::Message(METADATA)),
    field(2, "spec", Shape::Message(&[field(1, "finalizers", TEXTS)])),
];
const SECRET: &[Field] = &[
    field(1, "metadata", Shape::Message(METADATA)),
    field(2, "data", Shape::Map(&Shape::Bytes)),
    field(3, "type", Shape::Text),
    field(4, "stringData", TEXT_MAP),
    field(5, "immutable", Shape::Bool),
];
const CONFIG_MAP: &[Field] = &[
    field(1, "metadata", Shape::Message(METADATA)),
    field(2, "data", TEXT_MAP),
    field(3, "binaryData", Shape::Map(&Shape::Bytes)),
    field(4, "immutable", Shape::Bool),
];
const SERVICE_ACCOUNT: &[Field] = &[
    field(1, "metadata", Shape::Message(METADATA)),
    field(
        2,
        "secrets",
        Shape::List(&Shape::Message(&[
            field(1, "kind", Shape::Text),
            field(2, "namespace", Shape::Text),
            field(3, "name", Shape::Text),
            field(4, "uid", Shape::Text),
            field(5, "apiVersion", Shape::Text),
        ])),
    ),
    field(3, "imagePullSecrets", Shape::List(&Shape::Message(&[field(1, "name", Shape::Text)]))),
    field(4, "automountServiceAccountToken", Shape::Bool),
];
const ACCESS_REVIEW: &[Field] = &[
    field(1, "metadata", Shape::Message(METADATA)),
    field(
        2,
        "spec",
        Shape::Message(&[
            field(
                1,
                "resourceAttributes",
                Shape::Message(&[
                    field(1, "namespace", Shape::Text),
                    field(2, "verb", Shape::Text),
                    field(3, "group", Shape::Text),
                    field(4, "version", Shape::Text),
                    field(5, "resource", Shape::Text),
                    field(6, "subresource", Shape::Text),
                    field(7, "name", Shape::Text),
                ]),
            ),
            field(
                2,
                "nonResourceAttributes",
                Shape::Message(&[field(1, "path", Shape::Text), field(2, "verb", Shape::Text)]),
            ),
        ]),
    ),
];
const RULES_REVIEW: &[Field] = &[
    field(1, "metadata", Shape::Message(METADATA)),
    field(2, "spec", Shape::Message(&[field(1, "namespace", Shape::Text)])),
];
const IDENTITY_REVIEW: &[Field] = &[field(1, "metadata", Shape::Message(METADATA))];
const DELETE_OPTIONS: &[Field] = &[
    field(1, "gracePeriodSeconds", Shape::Whole),
    field(
        2,
        "preconditions",
        Shape::Message(&[field(1, "uid", Shape::Text), field(2, "resourceVersion", Shape::Text)]),
    ),
    field(4, "propagationPolicy", Shape::Text),
    field(5, "dryRun", TEXTS),
];

fn fields_of(kind: &str) -> Option<&'static [Field]> {
    Some(match kind {
        "Namespace" => NAMESPACE,
        "Secret" => SECRET,
        "ConfigMap" => CONFIG_MAP,
        "ServiceAccount" => SERVICE_ACCOUNT,
        "SelfSubjectAccessReview" => ACCESS_REVIEW,
        "SelfSubjectRulesReview" => RULES_REVIEW,
        "SelfSubjectReview" => IDENTITY_REVIEW,
        "DeleteOptions" => DELETE_OPTIONS,
        _ => return None,
    })
}

/// Reads a body into the JSON another client would have sent.
///
/// # Errors
/// It cannot be read, or is of a kind that is not known.
pub fn to_json(body: &[u8]) -> Result<Value, ProtobufError> {
    const TYPE: &[Field] = &[field(1, "apiVersion", Shape::Text), field(2, "kind", Shape::Text)];
    const UNKNOWN: &[Field] = &[field(1, "type", Shape::Message(TYPE))];
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::NotProtobuf)?;
    let heading = message(envelope, UNKNOWN, 0)?;
    let kind = heading["type"]["kind"].as_str().unwrap_or_default().to_owned();
    let fields = fields_of(&kind).ok_or_else(|| ProtobufError::UnknownKind(kind.clone()))?;
    let raw = Parts(envelope).find_map(|part| part.ok().filter(|part| part.number == 2)?.bytes());
    let mut object = json!({"apiVersion": heading["type"]["apiVersion"], "kind": kind});
    if let (Some(root), Value::Object(rest)) = (object.as_object_mut(), message(raw.unwrap_or_default(), fields, 0)?) {
        root.extend(rest);
    }
    Ok(object)
}

fn message(bytes: &[u8], fields: &'static [Field], depth: u8) -> Result<Value, ProtobufError> {
    if depth > DEPTH_LIMIT {
        return Err(ProtobufError::Damaged);
    }
    let mut object = Map::new();
    for part in Parts(bytes) {
        let part = part?;
        let Some(field) = fields.iter().find(|field| field.number == part.number) else { continue };
        match field.shape {
            Shape::List(shape) => {
                let element = read(part, *shape, depth)?;
                if let Value::Array(list) = object.entry(field.name).or_insert_with(|| json!([])) {
                    list.push(element);
                }
            }
            Shape::Map(shape) => {
                let (key, value) = entry(part.bytes().ok_or(ProtobufError::Damaged)?, *shape, depth)?;
                if let Value::Object(map) = object.entry(field.name).or_insert_with(|| json!({})) {
                    map.insert(key, value);
                }
            }
            shape => {
                let value = read(part, shape, depth)?;
                if value != "" {
                    object.insert(field.name.to_owned(), value);
                }
            }
        }
    }
    Ok(Value::Object(object))
}

/// Reads one entry of a map: its key is field 1, its value field 2.
fn entry(bytes: &[u8], shape: Shape, depth: u8) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut value) = (String::new(), Value::String(String::new()));
    for part in Parts(bytes) {
        let part = part?;
        match part.number {
            1 => key = text(part)?,
            2 => value = read(part, shape, depth)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn read(part: Part<'_>, shape: Shape, depth: u8) -> Result<Value, ProtobufError> {
    match shape {
        Shape::Text => text(part).map(Value::String),
        Shape::Bytes => {
            let bytes = part.bytes().ok_or(ProtobufError::Damaged)?;
            serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())).map_err(|_| ProtobufError::Damaged)
        }
        Shape::Bool => Ok(json!(part.number()? != 0)),
        Shape::Whole => Ok(json!(part.number()?.cast_signed())),
        Shape::Time => time(part),
        Shape::Message(fields) => message(part.bytes().ok_or(ProtobufError::Damaged)?, fields, depth + 1),
        // Neither lists nor maps hold each other.
        Shape::Map(_) | Shape::List(_) => Err(ProtobufError::Damaged),
    }
}

fn text(part: Part<'_>) -> Result<String, ProtobufError> {
    let bytes = part.bytes().ok_or(ProtobufError::Damaged)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Damaged)
}

/// An empty time is one that was not set.
fn time(part: Part<'_>) -> Result<Value, ProtobufError> {
    for inner in Parts(part.bytes().ok_or(ProtobufError::Damaged)?) {
        let inner = inner?;
        if inner.number == 1 {
            let second = inner.number()?.cast_signed();
            let time = jiff::Timestamp::from_second(second).map_err(|_| ProtobufError::Damaged)?;
            return Ok(json!(time.to_string()));
        }
    }
    Ok(json!(""))
}

/// One field as it is on the wire.
#[derive(Clone, Copy)]
struct Part<'a> {
    number: u32,
    content: Content<'a>,
}

#[derive(Clone, Copy)]
enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Part<'a> {
    fn bytes(&self) -> Option<&'a [u8]> {
        match self.content {
            Content::Bytes(bytes) => Some(bytes),
            Content::Number(_) => None,
        }
    }

    fn number(&self) -> Result<u64, ProtobufError> {
        match self.content {
            Content::Number(number) => Ok(number),
            Content::Bytes(_) => Err(ProtobufError::Damaged),
        }
    }
}

/// The fields of a message, one after the other; ends after the first error.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Result<Part<'a>, ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.take().ok_or(ProtobufError::Damaged);
        if part.is_err() {
            self.0 = &[];
        }
        Some(part)
    }
}

impl<'a> Parts<'a> {
    fn take(&mut self) -> Option<Part<'a>> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok()?;
        let content = match tag & 7 {
            0 => Content::Number(self.varint()?),
            1 => Content::Bytes(self.split(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Content::Bytes(self.split(length)?)
            }
            5 => Content::Bytes(self.split(4)?),
            _ => return None,
        };
        Some(Part { number, content })
    }

    fn split(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.split(1)?.first()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn body(kind: &str, raw: &[u8]) -> Vec<u8> {
        let heading = [block(1, b"v1"), block(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), block(1, &heading), block(2, raw), block(3, b""), block(4, b"")].concat()
    }

    #[test]
    fn what_kubectl_creates_is_read() {
        // `name`, and the empty fields that are always on the wire.
        let metadata = block(1, &[block(1, b"team"), block(2, b""), block(8, b""), vec![7 << 3, 0]].concat());
        let namespace = to_json(&body("Namespace", &metadata)).unwrap();
        assert_eq!(namespace["metadata"], json!({"name": "team", "generation": 0}));
        let data = block(2, &[block(1, b"key"), block(2, b"value")].concat());
        let secret = to_json(&body("Secret", &[metadata, data, block(3, b"Opaque")].concat())).unwrap();
        assert_eq!((&secret["apiVersion"], &secret["kind"]), (&json!("v1"), &json!("Secret")));
        assert_eq!((&secret["data"]["key"], &secret["type"]), (&json!("dmFsdWU="), &json!("Opaque")));
    }

    #[test]
    fn other_kinds_and_other_bytes_are_refused() {
        assert_eq!(to_json(&body("Pod", b"")), Err(ProtobufError::UnknownKind("Pod".to_owned())));
        assert_eq!(to_json(b"{}"), Err(ProtobufError::NotProtobuf));
        assert_eq!(to_json(&body("Secret", &[10, 200])), Err(ProtobufError::Damaged));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(raw in proptest::collection::vec(any::<u8>(), 0..120)) {
            for kind in ["Secret", "ServiceAccount", "SelfSubjectAccessReview"] {
                let bytes = [MAGIC, &block(1, &block(2, kind.as_bytes())), &block(2, &raw)].concat();
                drop(to_json(&bytes));
            }
            drop(to_json(&[MAGIC, &raw].concat()));
        }
    }
}
