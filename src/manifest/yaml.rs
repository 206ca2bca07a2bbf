//! The only file that names a YAML crate.
//!
//! Values come from `serde_yaml` (libyaml, of which the parser kubectl uses is a port, so both accept the same texts);
//! positions and quoting come from an event parser, because `serde_yaml` keeps neither. A text is cut at its `---` lines
//! first, so that a syntax error costs one document and not the file.

mod locator;
mod nesting;
mod reader;
mod writer;

use serde_json::Value;

pub use writer::to_yaml;

use super::Position;
use super::locate::{Below, Located};
use super::path::{FieldPath, Step};
use super::scalar::kubernetes_reading;

/// Longest text taken, in bytes.
pub const MAX_TEXT_BYTES: usize = 4 * 1024 * 1024;
/// Deepest nesting taken.
const MAX_DEPTH: usize = 100;
const TOO_DEEP: &str = "nested more than 100 levels deep";
/// Most nodes of one document after anchors are expanded.
const MAX_NODES: usize = 200_000;
/// Most documents of one text.
const MAX_DOCUMENTS: usize = 10_000;

/// One document of a text.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    /// Its value; `None` when it could not be read at all.
    pub(super) value: Option<Value>,
    /// Where everything stands, when it can be told.
    pub(super) located: Option<Located>,
    /// Where the document begins.
    pub(super) start: Position,
    /// What is wrong with the text.
    pub(super) problems: Vec<Problem>,
}

/// Something wrong with the text of a document.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Problem {
    pub(super) kind: ProblemKind,
    pub(super) position: Option<Position>,
    pub(super) path: Option<FieldPath>,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProblemKind {
    /// A key stands twice in one mapping.
    Duplicate,
    /// Anything else.
    Syntax,
}

impl Problem {
    fn syntax(position: Option<Position>, message: impl Into<String>) -> Self {
        Self { kind: ProblemKind::Syntax, position, path: None, message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Reads every document of a text; empty ones are left out.
pub(super) fn parse(text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_TEXT_BYTES {
        let message = format!("the text is {} bytes long; at most {MAX_TEXT_BYTES} are read", text.len());
        return vec![broken(Position { line: 1, column: 1 }, Problem::syntax(None, message))];
    }
    if text.trim_start().starts_with(['{', '['])
        && let Some(documents) = parse_json(text)
    {
        return documents;
    }
    let chunks = chunks(text);
    if let Some(chunk) = chunks.get(MAX_DOCUMENTS) {
        let message = format!("more than {MAX_DOCUMENTS} documents in one text");
        return vec![broken(chunk.start(), Problem::syntax(None, message).help("spread them over several files"))];
    }
    chunks.into_iter().flat_map(|chunk| parse_chunk(&chunk)).collect()
}

/// Settings that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// Where, when known.
    pub position: Option<Position>,
    /// What is wrong.
    pub message: String,
}

/// Reads one document of settings; an empty text gives the defaults.
///
/// # Errors
/// The text is not YAML, or does not fit the type.
pub fn from_yaml<T: serde::de::DeserializeOwned + Default>(text: &str) -> Result<T, SettingsError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(T::default());
    }
    if let Some((line, column)) = nesting::too_deep(text) {
        return Err(SettingsError { position: Some(Position { line, column }), message: TOO_DEEP.to_owned() });
    }
    serde_yaml::from_str(text).map_err(|error| {
        let position = error.location().map(|place| Position { line: place.line(), column: place.column() });
        let message = error.to_string();
        stands_twice(text).filter(|_| message.contains("duplicate")).unwrap_or(SettingsError { position, message })
    })
}

/// Returns the first key that stands twice, where it does: the other parser names only the mapping.
fn stands_twice(text: &str) -> Option<SettingsError> {
    let mut problems = parse(text).into_iter().flat_map(|document| document.problems);
    let twice = problems.find(|problem| problem.kind == ProblemKind::Duplicate)?;
    Some(SettingsError { position: twice.position, message: twice.message })
}

/// Reads the first document of a text; returns it and the paths of keys that stand twice in it.
///
/// # Errors
/// What is wrong with it, in one sentence.
pub fn document(text: &str) -> Result<(Value, Vec<String>), String> {
    let mut duplicates = Vec::new();
    let found = parse(text).into_iter().next().ok_or_else(|| "it is empty".to_owned())?;
    for problem in found.problems {
        match (problem.kind, problem.path) {
            (ProblemKind::Duplicate, Some(path)) => duplicates.push(path.to_string()),
            _ => return Err(problem.message),
        }
    }
    found.value.map(|value| (value, duplicates)).ok_or_else(|| "it is empty".to_owned())
}

/// A part of a text, and where it begins.
#[derive(Clone, Copy, Debug)]
struct Chunk<'a> {
    text: &'a str,
    /// Lines before it.
    lines: usize,
    /// Characters before it on its first line.
    columns: usize,
}

impl Chunk<'_> {
    /// Returns a position within the chunk, both counted from 1, as a position within the whole text.
    fn place(&self, line: usize, column: usize) -> Position {
        let shift = if line <= 1 { self.columns } else { 0 };
        Position { line: line + self.lines, column: column + shift }
    }

    fn start(&self) -> Position {
        let blank = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#') || is_marker(line);
        let lines = self.text.lines().take_while(blank).count();
        self.place(lines + 1, 1)
    }

    fn is_blank(&self) -> bool {
        self.text.lines().all(|line| {
            let line = line.strip_prefix("---").unwrap_or(line).trim();
            line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "..."
        })
    }
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut begin, mut begin_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) && at > begin {
            chunks.push(Chunk { text: &text[begin..at], lines: begin_line, columns: 0 });
            (begin, begin_line) = (at, number);
        }
        at += line.len();
    }
    chunks.push(Chunk { text: &text[begin..], lines: begin_line, columns: 0 });
    chunks.retain(|chunk| !chunk.is_blank());
    chunks
}

fn parse_chunk(chunk: &Chunk<'_>) -> Vec<Document> {
    if let Some((line, column)) = nesting::too_deep(chunk.text) {
        return vec![broken(chunk.start(), Problem::syntax(Some(chunk.place(line, column)), TOO_DEEP))];
    }
    let located = match locator::locate(chunk) {
        Ok(located) => located,
        Err(problem) => return vec![broken(chunk.start(), problem)],
    };
    let values = reader::read_yaml(chunk);
    let located = if located.len() < values.len() { locate_without_tabs(chunk).unwrap_or(located) } else { located };
    let mut twice = if located.len() < values.len() { reader::check_twice(chunk) } else { Vec::new() };
    twice.resize(values.len(), None);
    let places = (0..values.len()).map(|index| located.get(index));
    let read = values.into_iter().zip(places).zip(twice);
    read.filter_map(|((value, located), twice)| join(chunk, value, located, twice)).collect()
}

/// Tabs between tokens are where the two parsers part ways. A space stands where a tab stood, so positions stay.
fn locate_without_tabs(chunk: &Chunk<'_>) -> Option<Vec<locator::LocatedDocument>> {
    let text = chunk.text.replace('\t', " ");
    locator::locate(&Chunk { text: &text, ..*chunk }).ok()
}

/// Brings a value and its positions together. A document without positions brings what is said `twice` in it.
fn join(
    chunk: &Chunk<'_>,
    read: reader::Read,
    located: Option<&locator::LocatedDocument>,
    twice: Option<Problem>,
) -> Option<Document> {
    let start = located.map_or_else(|| chunk.start(), |document| document.root.value);
    let mut value = match read {
        Ok(value) => value,
        Err(problem) => return Some(broken(start, problem)),
    };
    let Some(located) = located else {
        let problems: Vec<_> = twice.into_iter().collect();
        let empty = value.is_null() && problems.is_empty();
        return (!empty).then(|| Document { value: Some(value), located: None, start, problems });
    };
    let mut root = located.root.clone();
    settle_scalars(&mut value, &root);
    let mut problems = located.problems.clone();
    merge_keys(&mut value, &mut root, &mut FieldPath::default(), &mut problems);
    if value.is_null() && problems.is_empty() {
        return None;
    }
    Some(Document { value: Some(value), located: Some(root), start, problems })
}

fn broken(start: Position, problem: Problem) -> Document {
    Document { value: None, located: None, start, problems: vec![problem] }
}

/// Reads unquoted scalars as Kubernetes does.
fn settle_scalars(value: &mut Value, node: &Located) {
    match (value, &node.below) {
        (Value::Object(map), Below::Entries(entries)) => {
            for (key, node) in entries {
                if let Some(value) = map.get_mut(key) {
                    settle_scalars(value, node);
                }
            }
        }
        (Value::Array(items), Below::Elements(nodes)) => {
            items.iter_mut().zip(nodes).for_each(|(item, node)| settle_scalars(item, node));
        }
        (value, Below::Nothing) => {
            if let Some(reading) = node.plain.as_deref().and_then(kubernetes_reading) {
                *value = reading;
            }
        }
        _ => {}
    }
}

/// Carries out `<<` merges in a value and its positions alike.
fn merge_keys(value: &mut Value, node: &mut Located, path: &mut FieldPath, problems: &mut Vec<Problem>) {
    match (value, &mut node.below) {
        (Value::Object(map), Below::Entries(entries)) => {
            if let Some(position) = entries.iter().position(|(key, _)| key == "<<") {
                let (_, merged_node) = entries.remove(position);
                if let Some(merged) = map.shift_remove("<<") {
                    merge_into(map, entries, &merged, &merged_node, path, problems);
                }
            }
            for (key, node) in entries {
                if let Some(value) = map.get_mut(key) {
                    path.push(Step::Key(key.clone()));
                    merge_keys(value, node, path, problems);
                    path.pop();
                }
            }
        }
        (Value::Array(items), Below::Elements(nodes)) => {
            for (index, (item, node)) in items.iter_mut().zip(nodes).enumerate() {
                path.push(Step::Index(index));
                merge_keys(item, node, path, problems);
                path.pop();
            }
        }
        _ => {}
    }
}

fn merge_into(
    map: &mut serde_json::Map<String, Value>,
    entries: &mut Vec<(String, Located)>,
    merged: &Value,
    merged_node: &Located,
    path: &FieldPath,
    problems: &mut Vec<Problem>,
) {
    match (merged, &merged_node.below) {
        (Value::Object(from), Below::Entries(from_entries)) => {
            for (key, node) in from_entries {
                // What is merged in may itself merge; its own keys come before what it merges.
                if key == "<<" {
                    continue;
                }
                if let Some(value) = from.get(key)
                    && !map.contains_key(key)
                {
                    map.insert(key.clone(), value.clone());
                    entries.push((key.clone(), node.clone()));
                }
            }
            if let (Some(inner), Some(inner_node)) = (from.get("<<"), merged_node.entry("<<")) {
                merge_into(map, entries, inner, inner_node, path, problems);
            }
        }
        (Value::Array(items), Below::Elements(nodes)) => {
            for (item, node) in items.iter().zip(nodes) {
                merge_into(map, entries, item, node, path, problems);
            }
        }
        _ => problems.push(Problem {
            path: Some(path.clone()),
            ..Problem::syntax(Some(merged_node.value), "`<<` merges a mapping or a list of mappings, nothing else")
        }),
    }
}

/// Reads JSON documents, one after the other; `None` when the text is not JSON after all.
fn parse_json(text: &str) -> Option<Vec<Document>> {
    let mut documents = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut begin = 0;
    while let Some(value) = stream.next() {
        let value = value.ok()?;
        let chunk = json_chunk(text, begin, stream.byte_offset());
        begin = stream.byte_offset();
        let text = without_surrogates(chunk.text);
        let located = locator::locate(&Chunk { text: &text, ..chunk }).ok();
        let located = located.as_ref().and_then(|documents| documents.first());
        documents.push(Document {
            value: Some(value),
            start: located.map_or_else(|| chunk.place(1, 1), |located| located.root.value),
            problems: located.map(|located| located.problems.clone()).unwrap_or_default(),
            located: located.map(|located| located.root.clone()),
        });
    }
    Some(documents)
}

/// Writes other escapes for those of JSON that YAML does not have. Positions stay; the text is used for nothing else.
fn without_surrogates(text: &str) -> String {
    let mut parts = text.split("\\u");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.get(..2).unwrap_or_default().to_ascii_lowercase();
        clean.push_str("\\u");
        match part.get(2..) {
            Some(rest) if digits.starts_with('d') && digits.as_str() >= "d8" => {
                clean.push_str("00");
                clean.push_str(rest);
            }
            _ => clean.push_str(part),
        }
    }
    clean
}

fn json_chunk(text: &str, begin: usize, end: usize) -> Chunk<'_> {
    let begin = begin + (text[begin..end].len() - text[begin..end].trim_start().len());
    let before = &text[..begin];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Chunk {
        text: &text[begin..end],
        lines: before.bytes().filter(|byte| *byte == b'\n').count(),
        columns: text[line_start..begin].chars().count(),
    }
}

#[cfg(test)]
mod tests;
