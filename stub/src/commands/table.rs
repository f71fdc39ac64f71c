//! Tables: columns as wide as their widest cell.

use super::osdata::write_item;
use super::output::{Format, Output};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};
use ebpf::json::Quoted;

/// On which side a column is flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Align {
    Left,
    Right,
}

/// What is in a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Cell {
    /// For people; tools get it as a figure or as a string.
    Text(String),
    /// What is JSON already.
    Json(String),
}

impl Cell {
    /// As people read it.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Json(text) => text,
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Rows under a heading.
pub(super) struct Table {
    columns: Vec<Align>,
    /// The heading, then what is under it.
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these columns.
    pub(super) fn new(heading: &[(&str, Align)]) -> Self {
        let columns = heading.iter().map(|(_, align)| *align).collect();
        let names = heading.iter().map(|(name, _)| name.to_string().into());
        Self {
            columns,
            rows: [names.collect()].into(),
        }
    }

    /// Adds a row, of as many cells as there are columns.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<Cell>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Writes it in the output's format.
    pub(super) fn write(&self, out: &mut Output<'_>) -> fmt::Result {
        match out.format() {
            Format::Text => self.write_text(out.raw()),
            Format::Json => self.write_json(out.raw()),
            Format::OsData => self.write_osdata(out.raw()),
        }
    }

    /// Each row as an object, whose keys are the heading's words. Figures lose their commas.
    fn write_json(&self, out: &mut dyn Write) -> fmt::Result {
        let Some((heading, rows)) = self.rows.split_first() else {
            return Ok(());
        };
        for row in rows {
            out.write_char('{')?;
            for (index, (name, cell)) in heading.iter().zip(row).enumerate() {
                let separator = if index == 0 { "" } else { "," };
                let key = name.text().to_lowercase().replace(' ', "_");
                write!(out, "{separator}{}:", Quoted(&key))?;
                match (cell, figure(cell.text())) {
                    (Cell::Json(json), _) => out.write_str(json)?,
                    (Cell::Text(_), Some(figure)) => write!(out, "{figure}")?,
                    (Cell::Text(text), None) => write!(out, "{}", Quoted(text))?,
                }
            }
            out.write_str("}\n")?;
        }
        Ok(())
    }

    /// Each row as an item of `info os`.
    fn write_osdata(&self, out: &mut dyn Write) -> fmt::Result {
        let Some((heading, rows)) = self.rows.split_first() else {
            return Ok(());
        };
        for row in rows {
            let cells = heading.iter().zip(row);
            write_item(out, cells.map(|(name, cell)| (name.text(), cell.text())))?;
        }
        Ok(())
    }

    fn write_text(&self, out: &mut dyn Write) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.text().chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, align), width) in row.iter().zip(&self.columns).zip(&widths) {
                let cell = cell.text();
                match align {
                    Align::Left => write!(line, "{cell:<width$}  ")?,
                    Align::Right => write!(line, "{cell:>width$}  ")?,
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// The number in a cell like `1,204`.
fn figure(cell: &str) -> Option<u64> {
    let digits = cell.replace(',', "");
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    // Identifiers with leading zeros are none.
    let is_plain = digits == "0" || !digits.starts_with('0');
    (is_number && is_plain).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_table_for_people_and_for_tools() {
        let mut table = Table::new(&[("SITE", Align::Left), ("TIMES HIT", Align::Right)]);
        table.row(["vm1:\"f\"".to_string(), "1,204".to_string()]);
        table.row(["vm1:007".to_string(), "-".to_string()]);
        let write = |format| {
            let mut text = String::new();
            table.write(&mut Output::new(&mut text, format)).unwrap();
            text
        };
        assert_eq!(
            write(Format::Text),
            "SITE     TIMES HIT\nvm1:\"f\"      1,204\nvm1:007          -\n"
        );
        assert_eq!(
            write(Format::Json),
            "{\"site\":\"vm1:\\\"f\\\"\",\"times_hit\":1204}\n{\"site\":\"vm1:007\",\"times_hit\":\"-\"}\n"
        );
    }

    #[test]
    fn figures() {
        assert_eq!(figure("1,204"), Some(1204));
        assert_eq!(figure("0"), Some(0));
        for text in ["", "007", "0x10", "-", "-1", "1 of 2"] {
            assert_eq!(figure(text), None, "{text}");
        }
    }
}
