//! The only place that prints: results to stdout, everything else to stderr.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use super::colour;

/// Whether results are coloured; decided once, when the command line is read.
static COLOURS: AtomicBool = AtomicBool::new(false);

/// Sets whether results are coloured.
pub fn use_colours(use_them: bool) {
    COLOURS.store(use_them, Ordering::Relaxed);
}

/// Whether results are coloured.
pub fn colours() -> bool {
    COLOURS.load(Ordering::Relaxed)
}

/// Stdout could not be written; a reader that went away is one case of it.
#[derive(Debug, thiserror::Error)]
#[error("could not write to stdout")]
pub struct StdoutError(#[source] pub io::Error);

/// Prints results as they are.
///
/// # Errors
/// Stdout is closed or full.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(StdoutError)?;
    Ok(())
}

/// Prints one line of results.
///
/// # Errors
/// Stdout is closed or full.
pub fn line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Says something to the person, not to the reader of results.
pub fn note(text: &str) {
    // With stderr gone there is nobody left to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Text in columns, as kubectl prints it: upper-case heads, three blanks between.
#[derive(Clone, Debug, Default)]
pub struct Grid {
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
    head_shown: bool,
}

impl Grid {
    /// Makes an empty grid with these column heads.
    pub fn new<H: AsRef<str>>(heads: impl IntoIterator<Item = H>) -> Self {
        let heads: Vec<String> = heads.into_iter().map(|head| head.as_ref().to_uppercase()).collect();
        let widths = heads.iter().map(|head| head.chars().count()).collect();
        Self { heads, widths, ..Self::default() }
    }

    /// Adds a row; missing cells are empty.
    pub fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let mut cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        cells.resize(self.heads.len(), String::new());
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(cells);
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Leaves the heads out.
    pub fn hide_heads(&mut self) {
        self.head_shown = true;
    }

    /// Takes the rows out as text; the heads come before the first ones.
    pub fn take_text(&mut self) -> String {
        let mut text = String::new();
        if !self.head_shown && !self.rows.is_empty() {
            self.head_shown = true;
            text.push_str(&self.aligned(&self.heads, false));
        }
        for row in std::mem::take(&mut self.rows) {
            text.push_str(&self.aligned(&row, colours()));
        }
        text
    }

    fn aligned(&self, cells: &[String], coloured: bool) -> String {
        let mut line = String::new();
        for ((cell, width), head) in cells.iter().zip(&self.widths).zip(&self.heads) {
            match colour::of_cell(head, cell).filter(|_| coloured) {
                Some(tone) => line.push_str(&tone.paint(cell)),
                None => line.push_str(cell),
            }
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 3));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut grid = Grid::new(["Name", "Ready"]);
        grid.row(["sklearn-iris", "True"]);
        grid.row(["x"]);
        assert_eq!(grid.take_text(), "NAME           READY\nsklearn-iris   True\nx\n");
        grid.row(["late", "False"]);
        assert_eq!(grid.take_text(), "late           False\n", "heads are shown once");
    }
}
