//! `periscope link`: makes a linked program of what `clang -target bpf` wrote.
//!
//! This is the host's half of loading, as libbpf is in Linux: aya-obj parses the object and applies
//! its relocations; the hypervisor gets instructions and map definitions, and verifies them.
//! aya-obj passes over several things that it cannot do without a word, and panics on some objects
//! that are malformed: [`check`] refuses these first, naming the symbol.

mod check;
mod co_re;
mod maps;

use crate::linked_file::{self, plural};
use anyhow::{Context, Result, anyhow, bail};
use aya_obj::btf::Btf;
use aya_obj::generated::bpf_insn;
use aya_obj::obj::{Object, ProgramSection};
use ebpf::insn::Insn;
use ebpf::linked::{Linked, ProgramDef};
use object::{Endianness, ObjectSection, read::elf::ElfFile64};
use std::collections::HashSet;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

/// An eBPF object as clang writes it.
type Elf<'data> = ElfFile64<'data, Endianness>;

/// Link a compiled eBPF object for the hypervisor
///
/// Takes what `clang -O2 -g -target bpf -c` writes: kprobe, kretprobe and tracepoint programs, maps
/// (BTF-defined or legacy), global data, functions that are not inlined. Verifies the result as the
/// hypervisor will.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The compiled object
    #[arg(value_name = "PROGRAM.bpf.o")]
    object: PathBuf,
    /// Where to write the linked program [default: beside the object, ending in .lp]
    #[arg(short, long, value_name = "PROGRAM.lp")]
    output: Option<PathBuf>,
    /// The guest kernel's BTF (its /sys/kernel/btf/vmlinux), for programs with CO-RE relocations
    #[arg(long, value_name = "FILE")]
    btf: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let stem = stem(&args.object)?;
    let output = match &args.output {
        Some(output) => output.clone(),
        None => args.object.with_file_name(format!("{stem}.lp")),
    };
    let bytes = read(&args.object)?;
    let btf = args.btf.as_deref().map(read).transpose()?;
    let linked = catch_panics(|| link(stem, &bytes, btf.as_deref()))
        .with_context(|| format!("cannot link {}", args.object.display()))?;
    linked_file::write(&linked, &output)?;
    let insns = linked
        .programs
        .iter()
        .map(|program| program.insns.len())
        .sum();
    println!(
        "linked {}: {}, {}, {}",
        output.display(),
        plural(linked.programs.len(), "program"),
        plural(linked.maps.len(), "map"),
        plural(insns, "instruction"),
    );
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The object's name without `.bpf.o` or `.o`.
fn stem(path: &Path) -> Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| anyhow!("{} is no file name in UTF-8", path.display()))?;
    let stem = name.strip_suffix(".o").unwrap_or(name);
    let stem = stem.strip_suffix(".bpf").unwrap_or(stem);
    if stem.is_empty() {
        Err(anyhow!("{name} has nothing before its suffix"))
    } else {
        Ok(stem)
    }
}

/// aya-obj panics on some malformed objects. A user wants an error.
fn catch_panics(link: impl FnOnce() -> Result<Linked>) -> Result<Linked> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(link));
    panic::set_hook(hook);
    result.unwrap_or_else(|_| Err(anyhow!("the object is malformed")))
}

/// Links the bytes of an object.
fn link(name: &str, bytes: &[u8], btf: Option<&[u8]>) -> Result<Linked> {
    let elf = Elf::parse(bytes).context("this is no ELF object")?;
    let text = check::check(&elf)?;
    let mut object = Object::parse(bytes)?;
    match btf {
        Some(btf) => {
            let btf = Btf::parse(btf, object.endianness).context("the kernel's BTF")?;
            object.relocate_btf(&btf)?;
        }
        None => co_re::refuse(&elf)?,
    }
    let maps = maps::Maps::new(&object)?;
    object.relocate_maps(maps.numbered(), &text)?;
    object.relocate_calls(&text)?;
    let linked = Linked {
        name: name.into(),
        license: license(&elf, &object)?,
        maps: maps.definitions,
        programs: programs(&elf, &object)?,
    };
    linked.check()?;
    for program in &linked.programs {
        ebpf::verify::verify(program, &linked.maps)?;
    }
    Ok(linked)
}

/// The license that the source declares. aya-obj takes GPL for granted where there is none.
fn license(elf: &Elf<'_>, object: &Object) -> Result<String> {
    use object::Object as _;
    match elf.section_by_name("license") {
        Some(_) => Ok(object.license.to_str().context("the license")?.into()),
        None => Ok(String::new()),
    }
}

/// The programs, in the order in which they are in the object.
fn programs(elf: &Elf<'_>, object: &Object) -> Result<Vec<ProgramDef>> {
    let mut programs: Vec<_> = object.programs.iter().collect();
    programs.sort_by_key(|(_, program)| program.function_key());
    if programs.is_empty() {
        bail!("there is no program in it: give a function a section, as SEC(\"kprobe/vfs_read\")");
    }
    programs
        .into_iter()
        .map(|(name, program)| {
            let section = section_name(elf, program.section_index)?;
            if !matches!(
                program.section,
                ProgramSection::KProbe | ProgramSection::KRetProbe | ProgramSection::TracePoint
            ) {
                bail!(
                    "program {name} is in section {section}: only kprobe and kretprobe programs, \
                     whose context is the registers, and tp programs, whose context is the fields \
                     of a tracepoint, run here"
                );
            }
            let function = object.functions.get(&program.function_key());
            let function = function.with_context(|| format!("program {name} has no function"))?;
            let insns = function.instructions.iter().map(insn).collect();
            Ok(ProgramDef {
                name: name.clone(),
                section,
                insns,
            })
        })
        .collect()
}

fn section_name(elf: &Elf<'_>, index: usize) -> Result<String> {
    use object::Object as _;
    let section = elf.section_by_index(object::SectionIndex(index))?;
    Ok(section.name()?.into())
}

fn insn(insn: &bpf_insn) -> Insn {
    Insn {
        code: insn.code,
        dst: insn.dst_reg(),
        src: insn.src_reg(),
        off: insn.off,
        imm: insn.imm,
    }
}

/// Indices of the sections that hold functions but no programs.
type TextSections = HashSet<usize>;
