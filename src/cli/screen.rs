//! A block of text at the end of a terminal that is kept up to date: written over in place, in one piece, so that nothing
//! flickers, and left standing at the end. No other screen, no hidden cursor: whatever ends the program leaves the
//! terminal as it should be.

use std::io::IsTerminal;

use anyhow::Result;

use super::output;

/// The block.
#[derive(Debug, Default)]
pub struct Screen {
    /// Lines it takes now.
    lines: usize,
    last: String,
}

impl Screen {
    /// Begins one when stdout is a terminal that can do it.
    pub fn on_terminal() -> Option<Self> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        (std::io::stdout().is_terminal() && !dumb).then(Self::default)
    }

    /// Shows a text in place of the one before; nothing is written when it is the same.
    ///
    /// # Errors
    /// Stdout is closed.
    pub fn show(&mut self, text: &str) -> Result<()> {
        let fitted = fit(text, size());
        if fitted == self.last && self.lines > 0 {
            return Ok(());
        }
        output::print(&over(self.lines, &fitted))?;
        self.lines = fitted.lines().count();
        self.last = fitted;
        Ok(())
    }
}

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// Returns what writes a text over the lines that were there: up, each line and the rest of it cleared, the rest cleared.
fn over(lines: usize, text: &str) -> String {
    let mut frame = if lines > 0 { format!("\r\u{1b}[{lines}A") } else { String::new() };
    for line in text.lines() {
        frame.push_str(line);
        frame.push_str("\u{1b}[K\n");
    }
    frame.push_str("\u{1b}[J");
    frame
}

/// Cuts lines that are too long for the terminal, and says how many do not fit: a line that wraps, or a block that
/// scrolls, could not be written over.
fn fit(text: &str, (columns, rows): (usize, usize)) -> String {
    let most = rows.saturating_sub(1).max(2);
    let all: Vec<&str> = text.lines().collect();
    let shown = if all.len() > most { most - 1 } else { all.len() };
    let mut fitted: String = all[..shown].iter().map(|line| cut(line, columns) + "\n").collect();
    if shown < all.len() {
        fitted.push_str(&cut(&format!("… {} more lines", all.len() - shown), columns));
        fitted.push('\n');
    }
    fitted
}

/// Cuts a line after so many letters; colours take no room, and end where it is cut.
fn cut(line: &str, columns: usize) -> String {
    let mut text = String::new();
    let (mut room, mut coloured) = (columns, false);
    let mut letters = line.chars().peekable();
    let visible = strip(line).chars().count();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            text.push(letter);
            coloured = true;
            for code in letters.by_ref() {
                text.push(code);
                if code.is_ascii_alphabetic() {
                    break;
                }
            }
        } else if room == 1 && visible > columns {
            text.push('…');
            if coloured {
                text.push_str("\u{1b}[0m");
            }
            return text;
        } else {
            text.push(letter);
            room = room.saturating_sub(1);
        }
    }
    text
}

/// A line without its colours.
fn strip(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, rest)| rest));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_written_over_the_one_before() {
        assert_eq!(over(0, "a\nb\n"), "a\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
        assert_eq!(over(2, "c\n"), "\r\u{1b}[2Ac\u{1b}[K\n\u{1b}[J");
    }

    #[test]
    fn lines_never_wrap_and_the_block_never_scrolls() {
        assert_eq!(fit("abcdef\nxyz\n", (4, 24)), "abc…\nxyz\n");
        assert_eq!(fit("abcd\n", (4, 24)), "abcd\n");
        let red = "\u{1b}[31mabcdef\u{1b}[0m";
        assert_eq!(cut(red, 4), "\u{1b}[31mabc…\u{1b}[0m");
        assert_eq!(cut(red, 6), red);
        assert_eq!(fit("1\n2\n3\n4\n5\n", (20, 4)), "1\n2\n… 3 more lines\n");
    }
}
