//! Where in a document: `spec.predictor.containers[0].env[1].name`.

use std::fmt;

use serde_json::Value;

/// One step down from an object or a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Into the value of a key.
    Key(String),
    /// Into an element of a list.
    Index(usize),
}

/// The way from the root of a document to a value, shown as Kubernetes shows field paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldPath(Vec<Step>);

impl FieldPath {
    /// Returns the path of a value by its keys, outermost first.
    pub fn of(keys: &[&str]) -> Self {
        Self(keys.iter().map(|key| Step::Key((*key).to_owned())).collect())
    }

    /// Reads a path as it is shown.
    pub fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let bracketed = rest.strip_prefix('[').and_then(|inside| inside.split_once(']'));
            if let Some((name, after)) = bracketed {
                steps.push(name.parse().map_or_else(|_| Step::Key(name.to_owned()), Step::Index));
                rest = after;
                continue;
            }
            let name = rest.trim_start_matches(['.', '[']);
            let end = name.find(['.', '[']).unwrap_or(name.len());
            steps.extend((end > 0).then(|| Step::Key(name[..end].to_owned())));
            rest = &name[end..];
        }
        Self(steps)
    }

    /// Returns the path of the value at `key` below this one.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// Returns the path of the element at `index` below this one.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    /// Returns the steps, outermost first.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Returns the path of the object or list that holds the value, when there is one.
    pub fn parent(&self) -> Option<Self> {
        self.0.split_last().map(|(_, above)| Self(above.to_vec()))
    }

    /// Returns the last key on the way, skipping list positions.
    pub fn last_key(&self) -> Option<&str> {
        self.0.iter().rev().find_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
    }

    /// Returns the value the path leads to.
    pub fn find<'a>(&self, root: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(root, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Index(index) => value.get(index),
        })
    }

    pub(super) fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    pub(super) fn pop(&mut self) {
        self.0.pop();
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if key.contains(['.', '/', '[', ' ']) => write!(f, "[{key}]")?,
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_kubernetes_writes_them() {
        let path = FieldPath::of(&["spec", "predictor", "containers"]).index(0).key("env").index(1).key("name");
        assert_eq!(path.to_string(), "spec.predictor.containers[0].env[1].name");
        assert_eq!(FieldPath::parse(&path.to_string()), path);
        let path = FieldPath::of(&["metadata", "annotations", "serving.kserve.io/stop"]);
        assert_eq!(path.to_string(), "metadata.annotations[serving.kserve.io/stop]");
        assert_eq!(FieldPath::parse(&path.to_string()), path);
        assert_eq!(FieldPath::parse("[a[0"), FieldPath::of(&["a", "0"]));
    }
}
