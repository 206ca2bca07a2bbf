//! How deep brackets are nested, told in one walk over the text.
//!
//! Both parsers keep every open bracket in mind for each token that follows, so a text of nothing but brackets costs them
//! the square of its length. They never see one: this walk looks at each byte once. It knows quotes, comments and block
//! scalars, because brackets in them are text.

use super::MAX_DEPTH;

/// Returns line and column, both from 1, of the first bracket that is nested deeper than any manifest.
pub(super) fn too_deep(text: &str) -> Option<(usize, usize)> {
    let open = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).take(MAX_DEPTH + 1).count();
    if open <= MAX_DEPTH {
        return None;
    }
    let at = Walk::new(text).first_too_deep()?;
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Some((before.matches('\n').count() + 1, before[line_start..].chars().count() + 1))
}

/// A place in a text, always where a token may begin.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Brackets that are open.
    depth: usize,
    /// Where the line begins.
    line_start: usize,
    /// Column of the innermost key or list element that begins on this line.
    inner: Option<usize>,
    /// Column of the last scalar on this line: a key, when a colon follows.
    scalar: usize,
    /// A plain scalar goes on over lines that are indented at least as deep as this.
    unfinished: Option<usize>,
}

impl<'a> Walk<'a> {
    fn new(text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let mut walk = Self { bytes, at: 0, depth: 0, line_start: 0, inner: None, scalar: 0, unfinished: None };
        walk.begin_line();
        walk
    }

    fn first_too_deep(mut self) -> Option<usize> {
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' | b'\r' => {
                    self.at += 1;
                    self.begin_line();
                }
                b' ' | b'\t' | b',' => self.at += 1,
                b'#' => self.skip_line(),
                b'[' | b'{' => {
                    if self.depth == MAX_DEPTH {
                        return Some(self.at);
                    }
                    self.depth += 1;
                    self.at += 1;
                }
                b']' | b'}' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.at += 1;
                }
                b'"' | b'\'' => self.skip_quoted(byte),
                b'&' | b'!' | b'*' => self.skip_property(),
                b'|' | b'>' if self.depth == 0 => self.skip_block(),
                b':' if self.depth > 0 || self.ends_word(1) => {
                    self.inner = Some(self.scalar);
                    self.at += 1;
                }
                b'-' | b'?' if self.ends_word(1) => {
                    self.inner = Some(self.column());
                    self.at += 1;
                }
                _ => self.skip_plain(),
            }
        }
        None
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn column(&self) -> usize {
        self.at - self.line_start
    }

    /// Whether blank space or the end follows after so many bytes.
    fn ends_word(&self, after: usize) -> bool {
        self.bytes.get(self.at + after).is_none_or(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
    }

    /// Least indentation of a line that still belongs to the scalar that begins here.
    fn least_indent(&self) -> usize {
        self.inner.map_or_else(|| self.column(), |column| column + 1)
    }

    fn skip_line(&mut self) {
        while self.peek().is_some_and(|byte| !matches!(byte, b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Goes to the first token of a line; one that continues a plain scalar has none but its end.
    fn begin_line(&mut self) {
        self.line_start = self.at;
        self.inner = None;
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
        let (first, indent) = (self.peek(), self.column());
        if matches!(first, None | Some(b'\n' | b'\r')) {
            return;
        }
        let unfinished = self.unfinished.take();
        if self.depth > 0 {
            return;
        }
        let marker = ["---", "..."].iter().any(|marker| self.bytes[self.at..].starts_with(marker.as_bytes()));
        if indent == 0 && marker && self.ends_word(3) {
            self.at += 3;
        } else if indent == 0 && first == Some(b'%') {
            self.skip_line();
        } else if first != Some(b'#') && unfinished.is_some_and(|least| indent >= least) {
            self.skip_plain();
            self.unfinished = self.unfinished.and(unfinished);
        }
    }

    fn skip_quoted(&mut self, quote: u8) {
        self.scalar = self.column();
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            if byte == b'\\' && quote == b'"' {
                self.at += 1;
            } else if byte == quote {
                return;
            }
        }
    }

    /// Skips an anchor, an alias or a tag.
    fn skip_property(&mut self) {
        self.scalar = self.column();
        while !(self.ends_word(0) || self.depth > 0 && self.peek().is_some_and(is_bracket)) {
            self.at += 1;
        }
    }

    /// Skips a plain scalar up to its end, or the end of the line.
    fn skip_plain(&mut self) {
        self.scalar = self.column();
        let least = self.least_indent();
        while let Some(byte) = self.peek() {
            let blank_before = self.at > self.line_start && matches!(self.bytes[self.at - 1], b' ' | b'\t');
            let ends = match byte {
                b':' => {
                    self.ends_word(1)
                        || (self.depth > 0 && self.bytes.get(self.at + 1).copied().is_some_and(is_bracket))
                }
                b'#' => blank_before,
                _ => self.depth > 0 && is_bracket(byte),
            };
            if ends {
                return;
            }
            if matches!(byte, b'\n' | b'\r') {
                self.unfinished = (self.depth == 0).then_some(least);
                return;
            }
            self.at += 1;
        }
    }

    /// Skips a literal or folded scalar: its header, and all lines that are indented deeper than what holds it.
    fn skip_block(&mut self) {
        let least = self.least_indent();
        self.skip_line();
        while self.at < self.bytes.len() {
            let line = &self.bytes[self.at + 1..];
            let end = line.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(line.len());
            let indent = line[..end].iter().take_while(|byte| **byte == b' ').count();
            if indent < least && indent < end {
                return;
            }
            self.at += 1 + end;
        }
    }
}

/// Whether a byte ends a word within brackets.
fn is_bracket(byte: u8) -> bool {
    matches!(byte, b',' | b'[' | b']' | b'{' | b'}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More brackets than are taken.
    fn brackets() -> String {
        "[".repeat(MAX_DEPTH + 1)
    }

    #[test]
    fn the_first_bracket_too_many_is_named() {
        let many = brackets();
        assert_eq!(too_deep(&format!("a:\n  b: {many}")), Some((2, 6 + MAX_DEPTH)));
        assert_eq!(too_deep(&format!("größe: {many}")), Some((1, 8 + MAX_DEPTH)));
        assert_eq!(too_deep(&"[".repeat(MAX_DEPTH)), None);
        assert_eq!(too_deep(&"[], ".repeat(5 * MAX_DEPTH)), None);
    }

    #[test]
    fn brackets_are_counted_wherever_a_parser_would_open_them() {
        let many = brackets();
        for before in [
            "",
            "--- ",
            "- ",
            "? ",
            "- - a: ",
            "a: &x !!seq ",
            "a: 'it''s'\nb: ",
            "a: \"\\\"\"\nb: ",
            "a: it's\nb: ",
            "a: b # \"\nc: ",
            "a: b\n  \"c\nd: ",
            "a: |\n  \"\nb: ",
            "a: |2\n    x\n\n  y\nb: ",
            "- a: |\n    \"\n  b: ",
            "a: b\n# c\n ",
            "...\n",
            "a: x\r\nb: ",
            "a: b #\n  ",
            "[it's, \"]\", ']' #]\n, ",
            "{\"a\":\"}\", b: c:\"d, e: ",
        ] {
            assert!(too_deep(&format!("{before}{many}")).is_some(), "{before:?}");
        }
        assert!(too_deep(&"{a: [\"]\",".repeat(MAX_DEPTH)).is_some());
    }

    #[test]
    fn brackets_in_text_and_comments_are_text() {
        let many = brackets();
        for before in [
            "# ",
            "a: b",
            "a: b ",
            "a: b # ",
            "a: '",
            "a: \"",
            "a: |\n  ",
            "a: >-\n\n  ",
            "- a: |\n    x\n   ",
            "- |\n  x\n\n  ",
            "a:\n  |\n  ",
            "a: b\n  ",
            "a: b\n\n  c\n  ",
            "a:\n  b\n  ",
            "[\"",
            "['",
            "[a #",
            "a: |\r\n  ",
            "a: &x b",
        ] {
            assert_eq!(too_deep(&format!("{before}{many}")), None, "{before:?}");
        }
    }
}
