//! `periscope link`: makes a linked program of what `clang -target bpf` wrote.
//!
//! This is the host's half of loading, as libbpf is in Linux: the object's references to maps,
//! global data, functions and the kernel's types are filled in; the hypervisor gets instructions and
//! map definitions, and verifies them. The results are libbpf's to the byte wherever both accept a
//! program (`tests/libbpf.rs`); `docs/linking.md` says why aya-obj does not do this.

mod code;
mod core;
mod elf;
mod ext;
mod externs;
mod kernel;
mod maps;
mod sections;
mod seed;
mod signature;
mod types;
mod variables;

pub(crate) use kernel::Kernel;
pub(crate) use seed::MARK as SEED_MARK;

use crate::linked_file::{self, plural};
use crate::record_types::named_as_records;
use anyhow::{Context, Result, anyhow, bail, ensure};
use code::{Functions, Targets};
use ebpf::btf::Btf;
use ebpf::linked::{Line, Linked, MapTypes, ProgramDef, Types};
use ebpf::verify::verify_object;
use elf::{Elf, Role};
use ext::Ext;
use externs::Externs;
use maps::{Entries, Maps};
use sections::Place;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use variables::Values;

/// Link a compiled eBPF object for the hypervisor
///
/// Takes what `clang -O2 -g -target bpf -c` writes: kprobe, kretprobe, fentry, fexit, hprobe, hretprobe
/// and tracepoint programs, maps (BTF-defined or legacy), global data, functions that are not inlined,
/// CO-RE relocations. Verifies the result as the hypervisor will.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The compiled object
    #[arg(value_name = "PROGRAM.bpf.o")]
    object: PathBuf,
    /// Where to write the linked program [default: beside the object, ending in .lp]
    #[arg(short, long, value_name = "PROGRAM.lp")]
    output: Option<PathBuf>,
    #[command(flatten)]
    kernel: KernelArgs,
    #[command(flatten)]
    wishes: WishArgs,
    /// Do not ask the verifier: the hypervisor will
    #[arg(long)]
    no_verify: bool,
}

/// What a user wants of an object.
#[derive(clap::Args)]
pub(crate) struct WishArgs {
    /// Take only this program, even if its section says that it runs elsewhere (may be repeated)
    #[arg(long = "program", value_name = "NAME")]
    programs: Vec<String>,
    /// How many entries a map has that leaves this to whoever loads it (may be repeated)
    #[arg(long = "map", value_name = "NAME=ENTRIES")]
    maps: Vec<String>,
    /// What a global variable holds from the start, as its type has it: a number, true, a text (may
    /// be repeated)
    #[arg(long = "set", value_name = "NAME=VALUE")]
    values: Vec<String>,
    /// Where a program runs, in place of the section that its source gives it (may be repeated)
    #[arg(long = "attach", value_name = "PROGRAM=SECTION")]
    sections: Vec<String>,
}

/// The kernel whose types CO-RE relocations are about.
#[derive(clap::Args)]
#[group(multiple = false)]
pub(crate) struct KernelArgs {
    /// The guest kernel's BTF (its /sys/kernel/btf/vmlinux), for programs with CO-RE relocations
    #[arg(long, value_name = "FILE")]
    btf: Option<PathBuf>,
    /// The guest kernel's image (vmlinux, Image, Image.gz or vmlinuz.efi): has its BTF and version
    #[arg(long, value_name = "IMAGE")]
    kernel: Option<PathBuf>,
    /// The debug endpoint of a VM where the kernel runs: takes its BTF and version from its memory
    #[arg(long, value_name = "HOST:PORT")]
    target: Option<String>,
}

impl KernelArgs {
    /// The kernel that is named, if one is.
    pub(crate) fn read(&self) -> Result<Option<Kernel>> {
        if let Some(address) = &self.target {
            return Kernel::of_guest(address).map(Some);
        }
        if let Some(path) = &self.btf {
            let (btf, version) = (read(path)?, None);
            return Ok(Some(Kernel { btf, version }));
        }
        let Some(path) = &self.kernel else {
            return Ok(None);
        };
        let kernel = Kernel::from_image(&read(path)?);
        kernel.map(Some).with_context(|| path.display().to_string())
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let stem = stem(&args.object)?;
    let output = match &args.output {
        Some(output) => output.clone(),
        None => args.object.with_file_name(format!("{stem}.lp")),
    };
    let bytes = read(&args.object)?;
    let kernel = args.kernel.read()?;
    let (linked, left_out) = link_bytes(&args.object, &bytes, kernel.as_ref(), &args.wishes)?;
    if !args.no_verify {
        verify_object(&linked).with_context(|| format!("cannot link {}", args.object.display()))?;
    }
    linked_file::write(&linked, &output)?;
    for line in left_out {
        println!("{line}");
    }
    let insns = linked.programs.iter();
    let insns = insns.map(|program| program.insns.len()).sum();
    println!(
        "linked {}: {}, {}, {}",
        output.display(),
        plural(linked.programs.len(), "program"),
        plural(linked.maps.len(), "map"),
        plural(insns, "instruction"),
    );
    Ok(())
}

impl WishArgs {
    fn read(&self) -> Result<Wishes<'_>> {
        Ok(Wishes {
            programs: &self.programs,
            sections: sections::parse(&self.sections)?,
            entries: Entries::parse(&self.maps)?,
            values: Values::parse(&self.values)?,
        })
    }
}

/// Links the bytes of the object in the file `path`. Returns what came of it, and a line for each program that was left
/// out and that the user does not expect to be.
pub(crate) fn link_bytes(
    path: &Path,
    bytes: &[u8],
    kernel: Option<&Kernel>,
    wishes: &WishArgs,
) -> Result<(Linked, Vec<String>)> {
    let stem = stem(path)?;
    let linked = wishes
        .read()
        .and_then(|wishes| link(stem, bytes, kernel, &wishes));
    let (linked, left_out) = linked.with_context(|| format!("cannot link {}", path.display()))?;
    let left_out = left_out.iter().filter_map(LeftOut::describe);
    Ok((linked, left_out.collect()))
}

/// The types that an object carries in the BTF format, if it has any.
pub(crate) fn types_of(object: &[u8]) -> Result<Option<Vec<u8>>> {
    let elf = Elf::parse(object)?;
    Ok(elf.section(".BTF").map(|section| section.data.to_vec()))
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

/// A program that is in the object but not in the result.
struct LeftOut {
    name: String,
    section: String,
    reason: Reason,
}

impl LeftOut {
    /// In words, where the user may not expect it.
    fn describe(&self) -> Option<String> {
        let Self {
            name,
            section,
            reason,
        } = self;
        match reason {
            Reason::Elsewhere => Some(format!(
                "left out {name} ({section}): it runs only inside a kernel"
            )),
            Reason::Kprobes => Some(format!(
                "left out {name} ({section}): the object's kprobes do the same, and --program \
                 {name} takes it instead"
            )),
            Reason::Marked => Some(format!(
                "left out {name} (?{section}): --program {name} takes it"
            )),
            // Whoever names programs knows which ones they do not name.
            Reason::NotNamed => None,
        }
    }
}

/// Why a program is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    /// It wants a function's arguments, and other programs of the object want the registers: two ways to
    /// do the same, of which whoever loads an object chooses one.
    Kprobes,
    /// Its section is for programs inside a kernel.
    Elsewhere,
    /// Its section's name begins with `?`.
    Marked,
    /// The user named others.
    NotNamed,
}

/// What a user wants of an object.
struct Wishes<'w> {
    /// The programs to take; if there are none, those that can run here.
    programs: &'w [String],
    /// Sections of programs, in place of those that the object names.
    sections: HashMap<String, String>,
    entries: Entries,
    values: Values,
}

impl Wishes<'_> {
    /// Where a program runs that its source puts into a section.
    fn section<'s>(&'s self, program: &str, source: &'s str) -> &'s str {
        self.sections.get(program).map_or(source, String::as_str)
    }
}

/// Links the bytes of an object.
fn link(
    name: &str,
    bytes: &[u8],
    kernel: Option<&Kernel>,
    wishes: &Wishes<'_>,
) -> Result<(Linked, Vec<LeftOut>)> {
    let elf = Elf::parse(bytes)?;
    let btf = elf.section(".BTF").map(|section| Btf::parse(section.data));
    let btf = btf.transpose().context("the object's types")?;
    let ext = match &btf {
        Some(btf) => Ext::parse(&elf, btf)?,
        None => Ext::default(),
    };
    let kernel_types = kernel.map(|kernel| Btf::parse(&kernel.btf));
    let kernel_types = kernel_types.transpose().context("the kernel's types")?;
    let mut relocator = match (&btf, &kernel_types) {
        (Some(local), Some(kernel)) => Some(core::Relocator::new(local, kernel)?),
        _ => None,
    };
    if relocator.is_none() && !ext.core.is_empty() {
        let mut sections: Vec<_> = ext.core.keys().map(String::as_str).collect();
        sections.sort_unstable();
        bail!(
            "{} has CO-RE relocations, which need the types of the guest's kernel: give its BTF \
             with --btf, its image with --kernel, or the debug endpoint of its VM with \
             --target",
            sections.join(", ")
        );
    }
    let externs = Externs::new(&elf, btf.as_ref(), kernel.and_then(|kernel| kernel.version))?;
    let mut maps = Maps::new(&elf, btf.as_ref(), &externs)?;
    let targets = Targets {
        maps: &maps,
        externs: &externs,
    };
    let functions = Functions::new(&elf, &ext, &targets, relocator.as_mut())?;
    let choice = choose(&elf, &functions, wishes)?;
    // Who has no program here need not say how large the maps are.
    maps.complete(&wishes.entries)?;
    wishes.values.put(&elf, btf.as_ref(), &mut maps)?;
    maps.hold(|program| choice.taken.iter().position(|(key, ..)| *key == program))?;
    let mut types = types::Subset::new(&elf, btf.as_ref());
    let mut programs = Vec::new();
    let means_old_numbers = seed::is_marked(&elf);
    for (key, section, name) in choice.taken {
        let program = || format!("program {name}");
        let mut linked = functions.link(&elf, key).with_context(program)?;
        if means_old_numbers {
            seed::renumber(&mut linked.insns);
        }
        let signature = signature::of_section(&section, kernel_types.as_ref());
        let signature = signature.with_context(program)?;
        let lines = linked.lines.iter().map(|line| Line {
            // Programs have at most MAX_INSNS instructions.
            insn: line.insn as u32,
            file: types.string(line.file),
            text: types.string(line.text),
            position: line.position,
        });
        programs.push(ProgramDef {
            name,
            section,
            signature,
            lines: lines.collect(),
            insns: linked.insns,
        });
    }
    let mut map_types = Vec::new();
    for MapTypes { key, value } in &maps.types {
        let [key, value] = [types.ty(*key)?, types.ty(*value)?];
        map_types.push(MapTypes { key, value });
    }
    while map_types.last() == Some(&MapTypes::default()) {
        map_types.pop();
    }
    for (_, ty) in btf
        .iter()
        .flat_map(|btf| named_as_records(btf, kernel_types.as_ref()))
    {
        // Who has one that cannot be carried sees such records as bytes.
        let _ = types.ty(ty);
    }
    let linked = Linked {
        name: name.into(),
        license: license(&elf)?,
        maps: maps.definitions,
        programs,
        types: Types {
            btf: types.finish(),
            maps: map_types,
        },
    };
    linked.check()?;
    Ok((linked, choice.left_out))
}

/// Which programs of an object are linked, in the order in which they are there.
struct Choice {
    /// Place, section and name.
    taken: Vec<(code::Key, String, String)>,
    left_out: Vec<LeftOut>,
}

fn choose(elf: &Elf<'_>, functions: &Functions, wishes: &Wishes<'_>) -> Result<Choice> {
    let names = wishes.programs;
    let mut choice = Choice {
        taken: Vec::new(),
        left_out: Vec::new(),
    };
    let programs = || {
        let sections = elf.sections.iter().enumerate();
        let sections = sections.filter(|(_, section)| section.role == Role::Programs);
        sections.flat_map(|(index, section)| {
            let functions = functions.of_section(index);
            functions.map(move |(key, function)| (section, key, function))
        })
    };
    let has_kprobes = programs().any(|(section, _, function)| {
        sections::is_kprobe(wishes.section(&function.name, section.name))
    });
    for (section, key, function) in programs() {
        let name = function.name.clone();
        let section = wishes.section(&name, section.name);
        let place = sections::place(section);
        let place = place.with_context(|| format!("program {name}"))?;
        let left_out = match place {
            _ if names.contains(&name) => None,
            _ if !names.is_empty() => Some(Reason::NotNamed),
            Place::Here => None,
            Place::Arguments if has_kprobes && !wishes.sections.contains_key(&name) => {
                Some(Reason::Kprobes)
            }
            Place::Arguments => None,
            Place::Elsewhere => Some(Reason::Elsewhere),
            Place::OnRequest => Some(Reason::Marked),
        };
        let section = section.trim_start_matches('?').to_owned();
        match left_out {
            None => choice.taken.push((key, section, name)),
            Some(reason) => choice.left_out.push(LeftOut {
                name,
                section,
                reason,
            }),
        }
    }
    let is_taken = |wanted: &&String| choice.taken.iter().any(|(.., name)| name == *wanted);
    let mut named = names.iter().chain(wishes.sections.keys());
    if let Some(missing) = named.find(|name| !is_taken(name)) {
        let is_left_out = choice.left_out.iter().any(|left| left.name == *missing);
        ensure!(
            !is_left_out,
            "program {missing} is to be attached, but is not taken: its section is for programs \
             inside a kernel, or --program takes others"
        );
        bail!("there is no program {missing} in it");
    }
    if choice.taken.is_empty()
        && let Some(LeftOut { name, section, .. }) = choice.left_out.first()
    {
        bail!(
            "program {name} is in section {section}, and no other is in one that runs here: there \
             are {}",
            sections::known()
        );
    }
    ensure!(
        !choice.taken.is_empty(),
        "there is no program in it: give a function a section, as SEC(\"kprobe/vfs_read\")"
    );
    Ok(choice)
}

/// The license that the source declares; empty where it declares none.
fn license(elf: &Elf<'_>) -> Result<String> {
    let Some(section) = elf.section("license") else {
        return Ok(String::new());
    };
    let text = section.data.split(|&byte| byte == 0).next();
    let text = str::from_utf8(text.unwrap_or_default()).context("the license")?;
    Ok(text.into())
}
