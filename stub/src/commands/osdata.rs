//! What `info os` shows: the listings of the command language as tables of GDB's (GDB manual, F.4 "Operating System
//! Information"). A table is the listing itself, in another format.

use super::output::Format;
use super::{Caller, run_as};
use crate::server::Server;
use alloc::string::String;
use core::fmt::{self, Write};

/// One table.
struct Kind {
    /// What follows `info os`.
    name: &'static str,
    /// Its heading, for clients that show one.
    title: &'static str,
    description: &'static str,
    /// The command that lists it.
    command: &'static str,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "vms",
        title: "VMs",
        description: "The virtual machines",
        command: "vm list",
    },
    Kind {
        name: "vcpus",
        title: "vCPUs",
        description: "The virtual CPUs and the physical CPUs under them",
        command: "vm vcpus",
    },
    Kind {
        name: "probes",
        title: "Probes",
        description: "Probes, actions and breakpoints with their hits",
        command: "trace list",
    },
    Kind {
        name: "programs",
        title: "Programs",
        description: "The loaded eBPF programs",
        command: "trace progs",
    },
    Kind {
        name: "maps",
        title: "Maps",
        description: "The maps of the programs and the memory that they take",
        command: "map list",
    },
    Kind {
        name: "tracepoints",
        title: "Tracepoints",
        description: "The hypervisor's own events",
        command: "trace tracepoints",
    },
];

/// The document of a table, or of the list of tables for the empty name; `None` where there is no such table.
pub(crate) fn document(server: &Server, caller: &Caller, name: &str) -> Option<String> {
    let mut rows = String::new();
    let kind = if name.is_empty() {
        for Kind {
            name,
            title,
            description,
            ..
        } in KINDS
        {
            // Writing to a `String` does not fail.
            let _ = write_item(
                &mut rows,
                [
                    ("Type", *name),
                    ("Description", *description),
                    ("Title", *title),
                ]
                .into_iter(),
            );
        }
        "types"
    } else {
        let kind = KINDS.iter().find(|kind| kind.name == name)?;
        run_as(server, caller, kind.command, Format::OsData, &mut rows);
        name
    };
    Some(alloc::format!(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"osdata.dtd\">\n<osdata type=\"{kind}\">\n{rows}</osdata>\n"
    ))
}

/// Writes a row: what the columns are called, and what is in them.
pub(super) fn write_item<'a>(
    out: &mut dyn Write,
    cells: impl Iterator<Item = (&'a str, &'a str)>,
) -> fmt::Result {
    out.write_str("<item>")?;
    for (name, cell) in cells {
        let (name, cell) = (Escaped(name), Escaped(cell));
        write!(out, "<column name=\"{name}\">{cell}</column>")?;
    }
    out.write_str("</item>\n")
}

/// Text in XML.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                // XML 1.0 has no way to write them.
                control if control.is_control() => f.write_char('?')?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_does_not_take_is_escaped() {
        let mut row = String::new();
        let cells = [("a<b", "x & \"y\"\u{1}")];
        write_item(&mut row, cells.into_iter()).unwrap();
        assert_eq!(
            row,
            "<item><column name=\"a&lt;b\">x &amp; &quot;y&quot;?</column></item>\n"
        );
    }
}
