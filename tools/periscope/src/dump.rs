//! `periscope dump`: a linked program as text.

use crate::linked_file::{self, plural};
use anyhow::Result;
use ebpf::btf::Btf;
use ebpf::insn::{Insn, PSEUDO_MAP, PSEUDO_MAP_VALUE, Text};
use ebpf::linked::{Linked, ProgramDef};
use ebpf::map::{MapDef, Mutability};
use ebpf::signature::Signature;
use std::io::{self, Write};
use std::path::PathBuf;

/// Show the maps and the disassembled programs of a linked program
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A linked program, as `periscope link` writes it
    #[arg(value_name = "PROGRAM.lp")]
    program: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let linked = linked_file::read(&args.program)?;
    match write(&mut io::stdout().lock(), &linked) {
        // Whoever reads has seen enough: `periscope dump x.lp | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn write(out: &mut impl Write, linked: &Linked) -> io::Result<()> {
    let license = if linked.license.is_empty() {
        "no license"
    } else {
        &linked.license
    };
    writeln!(out, "object {} ({license})", linked.name)?;
    for (index, map) in linked.maps.iter().enumerate() {
        write_map(out, index, map)?;
    }
    // What is read has been checked.
    let strings = Btf::parse(&linked.types.btf).ok();
    linked
        .programs
        .iter()
        .try_for_each(|program| write_program(out, program, &linked.maps, strings.as_ref()))
}

fn write_map(out: &mut impl Write, index: usize, map: &MapDef) -> io::Result<()> {
    let MapDef {
        name,
        kind,
        key_size,
        value_size,
        max_entries,
        ..
    } = map;
    let entries = if *max_entries == 1 {
        "entry"
    } else {
        "entries"
    };
    write!(
        out,
        "map {index} {name}: {kind}, key {key_size}, value {value_size}, {max_entries} {entries}"
    )?;
    if map.mutability == Mutability::Frozen {
        write!(out, ", read-only")?;
    }
    if map.initial.iter().any(|&byte| byte != 0) {
        write!(out, ", starts with \"{}\"", map.initial.escape_ascii())?;
    }
    writeln!(out)
}

fn write_program(
    out: &mut impl Write,
    program: &ProgramDef,
    maps: &[MapDef],
    strings: Option<&Btf<'_>>,
) -> io::Result<()> {
    let ProgramDef {
        name,
        section,
        signature,
        insns,
        lines,
    } = program;
    write!(
        out,
        "\n{name} ({section}): {}",
        plural(insns.len(), "instruction")
    )?;
    match signature {
        Some(signature) => writeln!(out, ", {}", context(*signature))?,
        None => writeln!(out)?,
    }
    let mut index = 0;
    while let Some(insn) = insns.get(index) {
        let line = lines.iter().find(|line| line.insn as usize == index);
        if let Some((line, strings)) = line.zip(strings) {
            let text = strings.string(line.text).trim_ascii().escape_ascii();
            let file = strings.string(line.file).escape_ascii();
            writeln!(out, "; {text} @ {file}:{}", line.number())?;
        }
        write!(out, "{index:6}: {}", Text::new(insns, index))?;
        match map_of(insn, maps) {
            Some(map) => writeln!(out, "  ; {}", map.name)?,
            None => writeln!(out)?,
        }
        index += if insn.is_wide() { 2 } else { 1 };
    }
    Ok(())
}

/// What a program is given, such as `given address, number`.
fn context(signature: Signature) -> String {
    let kind = |value| match signature.is_address(value) {
        true => "address",
        false => "number",
    };
    let values: Vec<_> = (0..signature.values()).map(kind).collect();
    match values.is_empty() {
        true => "given nothing".to_owned(),
        false => format!("given {}", values.join(", ")),
    }
}

/// The map that an instruction refers to.
fn map_of<'m>(insn: &Insn, maps: &'m [MapDef]) -> Option<&'m MapDef> {
    let refers = insn.is_wide() && matches!(insn.src, PSEUDO_MAP | PSEUDO_MAP_VALUE);
    let index = usize::try_from(insn.imm).ok().filter(|_| refers)?;
    maps.get(index)
}
