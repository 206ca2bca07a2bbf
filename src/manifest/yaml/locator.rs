//! Positions, from the events of a parser that keeps marks.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::{Chunk, MAX_DEPTH, MAX_NODES, Problem, ProblemKind, TOO_DEEP};
use crate::manifest::Position;
use crate::manifest::locate::{Below, Located};
use crate::manifest::path::{FieldPath, Step};
use crate::manifest::scalar::key_reading;

/// Most problems of one document that are told.
const MAX_PROBLEMS: usize = 100;

/// The positions of one document.
#[derive(Clone, Debug, Default)]
pub(super) struct LocatedDocument {
    pub(super) root: Located,
    pub(super) problems: Vec<Problem>,
}

/// Locates everything in a chunk. A text this parser cannot follow has no positions, which is not an error: the other
/// parser has the last word on syntax.
///
/// # Errors
/// The text is deeper or larger, with its anchors expanded, than any manifest.
pub(super) fn locate(chunk: &Chunk<'_>) -> Result<Vec<LocatedDocument>, Problem> {
    let mut locator = Locator {
        chunk,
        parser: Parser::new_from_str(chunk.text),
        anchors: HashMap::new(),
        nodes: 0,
        path: FieldPath::default(),
        problems: Vec::new(),
    };
    let mut documents = Vec::new();
    loop {
        match locator.next() {
            Ok(Some((Event::DocumentStart(_), _))) => match locator.node(0) {
                Ok(root) => documents.push(LocatedDocument { root, problems: std::mem::take(&mut locator.problems) }),
                Err(Stop::Lost) => return Ok(documents),
                Err(Stop::Refused(problem)) => return Err(problem),
            },
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return Ok(documents),
        }
    }
}

enum Stop {
    /// The parser cannot follow.
    Lost,
    /// The text is refused.
    Refused(Problem),
}

impl From<ScanError> for Stop {
    fn from(_: ScanError) -> Self {
        Self::Lost
    }
}

struct Locator<'a> {
    chunk: &'a Chunk<'a>,
    parser: Parser<'a, StrInput<'a>>,
    /// What each anchor names, and how many nodes that is.
    anchors: HashMap<usize, (Located, usize)>,
    nodes: usize,
    path: FieldPath,
    problems: Vec<Problem>,
}

impl<'a> Locator<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Stop> {
        self.parser.next().transpose().map_err(Stop::from)
    }

    fn place(&self, span: &Span) -> Position {
        self.chunk.place(span.start.line(), span.start.col() + 1)
    }

    fn node(&mut self, depth: usize) -> Result<Located, Stop> {
        let (event, span) = self.next()?.ok_or(Stop::Lost)?;
        self.node_from(event, &span, depth)
    }

    fn node_from(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Located, Stop> {
        let position = self.place(span);
        self.count(1, position)?;
        if depth > MAX_DEPTH {
            return Err(Stop::Refused(Problem::syntax(Some(position), TOO_DEEP)));
        }
        let before = self.nodes;
        let (anchor, node) = match event {
            Event::Alias(anchor) => return self.alias(anchor, position),
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(tag.as_deref(), position);
                let plain = (style == ScalarStyle::Plain && tag.is_none()).then(|| text.into_owned());
                (anchor, Located { value: position, plain, ..Located::default() })
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), position);
                let below = Below::Elements(self.elements(depth)?);
                (anchor, Located { value: position, below, ..Located::default() })
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), position);
                let below = Below::Entries(self.entries(depth)?);
                (anchor, Located { value: position, below, ..Located::default() })
            }
            _ => return Err(Stop::Lost),
        };
        if anchor > 0 {
            let size = self.nodes - before + 1;
            // What is kept for aliases counts as well, or anchors within anchors would be a bomb of their own.
            self.count(size, position)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, position: Position) -> Result<Located, Stop> {
        let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
            let message = "an anchor that contains itself has no end";
            return Err(Stop::Refused(Problem::syntax(Some(position), message)));
        };
        self.count(size, position)?;
        Ok(node)
    }

    fn count(&mut self, nodes: usize, position: Position) -> Result<(), Stop> {
        self.nodes += nodes;
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        let message = format!("more than {MAX_NODES} values once anchors are expanded");
        Err(Stop::Refused(Problem::syntax(Some(position), message)))
    }

    fn elements(&mut self, depth: usize) -> Result<Vec<Located>, Stop> {
        let mut elements = Vec::new();
        loop {
            let (event, span) = self.next()?.ok_or(Stop::Lost)?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(elements);
            }
            self.path.push(Step::Index(elements.len()));
            let node = self.node_from(event, &span, depth + 1);
            self.path.pop();
            elements.push(node?);
        }
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<(String, Located)>, Stop> {
        let mut entries: Vec<(String, Located)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, span) = self.next()?.ok_or(Stop::Lost)?;
            let position = self.place(&span);
            let key = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(text, style, ..) => self.key(text.into_owned(), style, position),
                other => {
                    self.node_from(other, &span, depth + 1)?;
                    self.tell(complex_key(position));
                    self.node(depth + 1)?;
                    continue;
                }
            };
            self.path.push(Step::Key(key.clone()));
            let node = self.node(depth + 1);
            let path = self.path.clone();
            self.path.pop();
            let node = Located { key: Some(position), ..node? };
            match places.get(&key) {
                Some(place) => {
                    let first = std::mem::replace(&mut entries[*place].1, node);
                    self.tell(duplicate(&key, path, position, first.key.unwrap_or_default()));
                }
                None => {
                    places.insert(key.clone(), entries.len());
                    entries.push((key, node));
                }
            }
        }
    }

    fn tell(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    fn key(&mut self, text: String, style: ScalarStyle, position: Position) -> String {
        if style == ScalarStyle::Plain
            && let Some(reading) = key_reading(&text)
        {
            let message = format!("key `{text}` reads as {reading}; keys are text");
            self.tell(Problem::syntax(Some(position), message).help(format!("quote it: \"{text}\"")));
        }
        text
    }

    fn check_tag(&mut self, tag: Option<&Tag>, position: Position) {
        let Some(tag) = tag else { return };
        let known = ["str", "int", "float", "bool", "null", "seq", "map"];
        if tag.is_yaml_core_schema() && known.contains(&tag.suffix.as_str()) {
            return;
        }
        let message = format!("tag `{}{}` means nothing in a manifest", tag.handle, tag.suffix);
        self.tell(Problem::syntax(Some(position), message).help("remove it, or quote the value"));
    }
}

fn complex_key(position: Position) -> Problem {
    Problem::syntax(Some(position), "a key is a list or a mapping; keys are text")
        .help("a template such as `{{ … }}` must be rendered first, or quoted")
}

fn duplicate(key: &str, path: FieldPath, position: Position, first: Position) -> Problem {
    Problem {
        kind: ProblemKind::Duplicate,
        position: Some(position),
        path: Some(path),
        message: format!("key `{key}` stands twice; first at line {}, column {}", first.line, first.column),
        help: Some("keep one of the two".to_owned()),
    }
}
