//! `periscope header`: the fields of the hypervisor's tracepoints, for programs to name.

use crate::link::SEED_MARK;
use anyhow::{Context, Result};
use ebpf::helper::{PRIVATE, Private};
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
    /// The helpers that Linux does not have, and not the tracepoints
    #[arg(long, conflicts_with = "rust")]
    helpers: bool,
    /// Where to write them [default: to standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let text = match args {
        Args { helpers: true, .. } => helpers(),
        Args { rust: true, .. } => rust(),
        _ => c(),
    };
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

fn helpers() -> String {
    let mut text = String::from(
        "/* SPDX-License-Identifier: MIT OR Apache-2.0 */\n\
         /*\n * The helpers of Periscope that Linux does not have; made by `periscope header --helpers`. Types and SEC come\n\
         \x20* from vmlinux.h and <bpf/bpf_helpers.h>, or from periscope_bpf.h, which includes this.\n */\n\
         #ifndef PERISCOPE_HELPERS_H\n#define PERISCOPE_HELPERS_H\n",
    );
    for Private {
        helper,
        result,
        parameters,
        summary,
        seed,
    } in PRIVATE
    {
        let known = seed.map_or(String::new(), |seed| format!(" (once {seed})"));
        let space = if result.ends_with('*') { "" } else { " " };
        let _ = write!(
            text,
            "\n/* {summary}{known} */\nstatic {result}{space}(*const bpf_{})({parameters}) = (void *){};\n",
            helper.name(),
            *helper as u8
        );
    }
    let numbers = PRIVATE.iter().filter_map(|private| private.seed);
    let numbers: Vec<_> = numbers.map(|number| number.to_string()).collect();
    let _ = write!(
        text,
        "\n/* In a program that says this, the numbers {} mean these helpers too. */\n\
         #define PERISCOPE_SEED_HELPERS char {SEED_MARK} SEC(\".{SEED_MARK}\") = 1\n\n#endif\n",
        numbers.join(", ")
    );
    text
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
    use ebpf::helper::Helper;

    fn example(name: &str) -> String {
        let path = format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// `periscope header [--helpers] -o tools/periscope/examples/NAME` makes it anew.
    #[test]
    fn the_examples_have_the_current_headers() {
        for (name, expected) in [
            ("periscope_tracepoints.h", c()),
            ("periscope_helpers.h", helpers()),
        ] {
            let is_current = example(name) == expected;
            assert!(
                is_current,
                "examples/{name} is not what `periscope header` writes"
            );
        }
    }

    /// Helpers have their names and numbers from `ebpf`, in C too.
    #[test]
    fn the_headers_declare_all_helpers() {
        let text = example("periscope_bpf.h") + &helpers();
        let declared = text.split(';').filter_map(|declaration| {
            let (_, rest) = declaration.split_once("(*const bpf_")?;
            let (name, rest) = rest.split_once(")(")?;
            let (_, number) = rest.split_once(") = (void *)")?;
            Some((number.parse().ok()?, name))
        });
        let mut declared: Vec<(u8, &str)> = declared.collect();
        declared.sort_unstable();
        // Those of compiled expressions are refused to programs that are uploaded.
        let all = Helper::ALL
            .iter()
            .filter(|helper| !helper.is_of_expressions());
        let expected: Vec<_> = all.map(|helper| (*helper as u8, helper.name())).collect();
        assert_eq!(declared, expected);
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
