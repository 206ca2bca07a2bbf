//! One document of a file, cut out or put back, with everything around it untouched.

/// Returns the line ranges (from 0, end exclusive) of the documents of a YAML text, separators left out.
fn ranges(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    let mut count = 0;
    for (index, line) in text.lines().enumerate() {
        count = index + 1;
        if line == "---" || line.starts_with("--- ") || line.starts_with("---\t") {
            ranges.push(start..index);
            start = index + 1;
        }
    }
    ranges.push(start..count);
    ranges
}

/// Whether anything in these lines is more than comments and blank lines.
fn has_content(lines: &[&str]) -> bool {
    lines.iter().any(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && !line.starts_with('%') && line != "..."
    })
}

/// What becomes of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit<'t> {
    /// It is replaced by this YAML.
    Replace(&'t str),
    /// It is cut out.
    Remove,
}

/// Returns the documents of a text, separators left out; some may hold nothing.
pub fn split(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    ranges(text).into_iter().map(|range| lines.get(range).unwrap_or_default().join("\n")).collect()
}

/// Edits one of the documents that [`split`] gives. Returns the new text, or none when nothing but comments is left.
pub fn edit(text: &str, chosen: usize, edit: Edit<'_>) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let ranges = ranges(text);
    let mut parts: Vec<String> = Vec::new();
    let mut anything = false;
    for (index, range) in ranges.iter().enumerate() {
        let own = lines.get(range.clone()).unwrap_or_default();
        match edit {
            Edit::Replace(yaml) if index == chosen => {
                parts.push(yaml.trim_end().to_owned() + "\n");
                anything = true;
            }
            Edit::Remove if index == chosen => {}
            _ if !has_content(own) && own.iter().all(|line| line.trim().is_empty()) => {}
            _ => {
                anything |= has_content(own);
                parts.push(own.join("\n") + "\n");
            }
        }
    }
    anything.then(|| parts.join("---\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "# head\na: 1\n---\nb: 2 # keep\n---\nc: 3\n";

    #[test]
    fn the_other_documents_stay_as_they_are() {
        assert_eq!(edit(THREE, 1, Edit::Replace("x: 9\n")).as_deref(), Some("# head\na: 1\n---\nx: 9\n---\nc: 3\n"));
        assert_eq!(edit(THREE, 0, Edit::Remove).as_deref(), Some("b: 2 # keep\n---\nc: 3\n"));
        assert_eq!(edit(THREE, 2, Edit::Remove).as_deref(), Some("# head\na: 1\n---\nb: 2 # keep\n"));
    }

    #[test]
    fn the_last_document_takes_the_file_with_it() {
        assert_eq!(edit("# only\na: 1\n", 0, Edit::Remove), None);
        assert_eq!(edit("---\na: 1\n", 1, Edit::Replace("b: 2")).as_deref(), Some("b: 2\n"));
        assert_eq!(split("---\n# nothing\n---\na: 1\n"), ["", "# nothing", "a: 1"]);
    }
}
