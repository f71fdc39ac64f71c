//! Where a command writes: text for people, or one JSON object a line for tools (`--json`).

use alloc::string::String;
use core::fmt::{self, Write};
use ebpf::json::Quoted;

/// How a command's output looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For tools: each row of a table an object, each other line of text `{"note": …}`.
    Json,
    /// For GDB's `info os`: each row of a table an XML item. Other text is left out.
    OsData,
}

/// A command's output.
pub(super) struct Output<'a> {
    inner: &'a mut dyn Write,
    format: Format,
    /// In JSON, the line of text so far.
    line: String,
}

impl<'a> Output<'a> {
    /// Output to `inner`.
    pub(super) fn new(inner: &'a mut dyn Write, format: Format) -> Self {
        Self {
            inner,
            format,
            line: String::new(),
        }
    }

    /// How it looks.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Makes `write!` work without the trait in scope, as every command uses it.
    pub(super) fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> fmt::Result {
        Write::write_fmt(self, text)
    }

    /// Writes something as it is: it has the output's format already.
    pub(super) fn raw(&mut self) -> &mut dyn Write {
        self.inner
    }

    /// Writes what is wrong.
    pub(super) fn problem(&mut self, text: &str) -> fmt::Result {
        match self.format {
            Format::Text => writeln!(self.inner, "{text}"),
            Format::Json => self.object("error", text),
            Format::OsData => Ok(()),
        }
    }

    fn object(&mut self, key: &str, text: &str) -> fmt::Result {
        writeln!(self.inner, "{{{}:{}}}", Quoted(key), Quoted(text))
    }

    /// Ends the output: a last line without an end of its own is one all the same.
    pub(super) fn finish(&mut self) -> fmt::Result {
        if self.line.is_empty() {
            return Ok(());
        }
        let line = core::mem::take(&mut self.line);
        self.object("note", &line)
    }
}

impl Write for Output<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match self.format {
            Format::Text => return self.inner.write_str(text),
            Format::OsData => return Ok(()),
            Format::Json => {}
        }
        for part in text.split_inclusive('\n') {
            self.line.push_str(part.trim_end_matches('\n'));
            if part.ends_with('\n') {
                self.finish()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let mut text = String::new();
        let mut out = Output::new(&mut text, Format::Text);
        write!(out, "one \"word\"\nand").unwrap();
        out.finish().unwrap();
        assert_eq!(text, "one \"word\"\nand");
    }

    #[test]
    fn lines_become_notes() {
        let mut text = String::new();
        let mut out = Output::new(&mut text, Format::Json);
        write!(out, "one \"word\"\n\nhalf ").unwrap();
        write!(out, "a line").unwrap();
        out.finish().unwrap();
        assert_eq!(
            text,
            "{\"note\":\"one \\\"word\\\"\"}\n{\"note\":\"half a line\"}\n"
        );
    }
}
