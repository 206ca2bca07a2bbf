//! Where every key and value of a document stands in its text.
//!
//! A tree of the same shape as the JSON value; it also keeps the text of unquoted scalars, which the value no longer has.

use super::Position;
use super::path::{FieldPath, Step};

/// Where a value stands, and what is below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Located {
    /// Where its key stands, when it has one.
    pub(super) key: Option<Position>,
    /// Where the value begins.
    pub(super) value: Position,
    /// The text, when the value is an unquoted and untagged scalar.
    pub(super) plain: Option<String>,
    /// What is below.
    pub(super) below: Below,
}

/// What is below a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Below {
    /// Nothing: a scalar.
    #[default]
    Nothing,
    /// Elements of a list.
    Elements(Vec<Located>),
    /// Entries of a mapping, in order, each key once.
    Entries(Vec<(String, Located)>),
}

impl Located {
    /// Returns the node a path leads to.
    pub(super) fn find(&self, path: &FieldPath) -> Option<&Self> {
        path.steps().iter().try_fold(self, |node, step| node.step(step))
    }

    /// Returns the node a path leads to, or the nearest one above it.
    pub(super) fn nearest(&self, path: &FieldPath) -> &Self {
        let mut node = self;
        for step in path.steps() {
            let Some(next) = node.step(step) else { break };
            node = next;
        }
        node
    }

    /// Returns the entry of a mapping.
    pub(super) fn entry(&self, key: &str) -> Option<&Self> {
        match &self.below {
            Below::Entries(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    fn step(&self, step: &Step) -> Option<&Self> {
        match (step, &self.below) {
            (Step::Key(key), _) => self.entry(key),
            (Step::Index(index), Below::Elements(elements)) => elements.get(*index),
            _ => None,
        }
    }
}
