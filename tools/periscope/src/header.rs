//! `periscope header`: the fields of the hypervisor's tracepoints, for programs to name.

use anyhow::{Context, Result};
use probes::tracepoint::{Field, FieldKind, Tracepoint};
use std::fmt::Write;
use std::path::PathBuf;

/// Write the structures that programs at tracepoints get as their context
///
/// A program for `vmm:page_fault` has the section `tp/vmm/page_fault` and takes a pointer to
/// `struct vmm_page_fault`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Structures for Rust, not for C
    #[arg(long)]
    rust: bool,
    /// Where to write them [default: to standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let text = if args.rust { rust() } else { c() };
    match &args.output {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        }
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

fn all() -> impl Iterator<Item = &'static Tracepoint> {
    let lists = [tracepoints::ALL, stub::tracepoints::ALL];
    lists.into_iter().flatten().copied()
}

fn name(point: &Tracepoint) -> String {
    format!("{}_{}", point.group(), point.name())
}

fn c() -> String {
    let mut text = String::from(
        "/* SPDX-License-Identifier: MIT OR Apache-2.0 */\n\
         /*\n * What programs at the hypervisor's tracepoints get; made by `periscope header`. Types come\n\
         \x20* from vmlinux.h, <linux/types.h> or periscope_bpf.h, whichever is included before.\n */\n\
         #ifndef PERISCOPE_TRACEPOINTS_H\n#define PERISCOPE_TRACEPOINTS_H\n",
    );
    for point in all() {
        c_enums(&mut text, point);
        let _ = write!(
            text,
            "\n/* {point}: {} */\nstruct {} {{\n",
            point.summary(),
            name(point)
        );
        for field in point.fields() {
            let _ = writeln!(text, "\t{}; /* {} */", c_field(field), field.summary.trim());
        }
        text.push_str("};\n");
    }
    text.push_str("\n#endif\n");
    text
}

fn c_field(Field { name, kind, .. }: &Field) -> String {
    match kind {
        FieldKind::Signed => format!("__s64 {name}"),
        FieldKind::Text => format!("char {name}[8]"),
        FieldKind::Unsigned | FieldKind::Hex | FieldKind::Names(_) => format!("__u64 {name}"),
    }
}

/// The values of fields that have names.
fn c_enums(text: &mut String, point: &Tracepoint) {
    for field in point.fields() {
        let FieldKind::Names(names) = field.kind else {
            continue;
        };
        let prefix = format!("{}_{}", name(point), field.name).to_uppercase();
        let _ = write!(text, "\nenum {}_{} {{\n", name(point), field.name);
        for value in names {
            let _ = writeln!(text, "\t{prefix}_{},", value.to_uppercase());
        }
        text.push_str("};\n");
    }
}

fn rust() -> String {
    let mut text = String::from(
        "// Made by `periscope header --rust`: what programs at the hypervisor's tracepoints get.\n",
    );
    for point in all() {
        let _ = write!(
            text,
            "\n/// `{point}`: {}\n#[repr(C)]\npub struct {} {{\n",
            point.summary(),
            camel(&name(point))
        );
        for Field {
            name,
            kind,
            summary,
        } in point.fields()
        {
            let of = match kind {
                FieldKind::Signed => "i64".to_owned(),
                FieldKind::Text => "[u8; 8]".to_owned(),
                FieldKind::Names(names) => {
                    let _ = writeln!(
                        text,
                        "    /// {} By number: {}.",
                        summary.trim(),
                        names.join(", ")
                    );
                    let _ = writeln!(text, "    pub {name}: u64,");
                    continue;
                }
                FieldKind::Unsigned | FieldKind::Hex => "u64".to_owned(),
            };
            let _ = writeln!(text, "    /// {}\n    pub {name}: {of},", summary.trim());
        }
        text.push_str("}\n");
    }
    text
}

/// `vmm_page_fault` as `VmmPageFault`.
fn camel(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    name.split('_').map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `periscope header -o tools/periscope/examples/periscope_tracepoints.h` makes it anew.
    #[test]
    fn the_examples_have_the_current_header() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/examples/periscope_tracepoints.h"
        );
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == c(),
            "examples/periscope_tracepoints.h is not what `periscope header` writes"
        );
    }

    #[test]
    fn rust_structures() {
        let text = rust();
        assert!(text.contains("pub struct VmmVcpuRunExit {\n"), "{text}");
        assert!(text.contains("    pub result: i64,\n"), "{text}");
        assert!(
            text.contains("    /// What became of it. By number: retry, "),
            "{text}"
        );
    }
}
