//! `periscope verify`: what the hypervisor would say to a linked program, without one.

use crate::linked_file::{self, plural};
use anyhow::{Context, Result};
use ebpf::Object;
use ebpf::linked::{Linked, ProgramDef};
use ebpf::verify::{Limits, Log, MemoryKind, verify_with};
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::PathBuf;

/// Check a linked program as the hypervisor does when it loads it
///
/// Verifies every program, and allocates the maps as on a machine with the given number of CPUs.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A linked program, as `periscope link` writes it
    #[arg(value_name = "PROGRAM.lp")]
    program: PathBuf,
    /// Physical CPUs of the machine: per-CPU maps have a value for each
    #[arg(long, default_value_t = 4, value_name = "N")]
    cpus: usize,
    /// Show every step, with what is known of registers and stack before it
    #[arg(short, long)]
    verbose: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let linked = linked_file::read(&args.program)?;
    let refused = || format!("refused: {}", args.program.display());
    if args.verbose {
        log(&linked).with_context(refused)?;
    }
    let object = Object::load(&linked, args.cpus).with_context(refused)?;
    let insns = object
        .programs()
        .iter()
        .map(|program| program.insn_count())
        .sum();
    let memory: u64 = linked.maps.iter().map(|map| map.memory(args.cpus)).sum();
    println!(
        "verified: {}, {}, {} of {memory} bytes",
        plural(object.programs().len(), "program"),
        plural(insns, "instruction"),
        plural(object.maps().len(), "map"),
    );
    Ok(())
}

/// Shows how every program is verified, up to the first that is refused.
fn log(linked: &Linked) -> Result<()> {
    linked.check()?;
    for program in &linked.programs {
        println!("{}:", program.label());
        log_program(program, linked)?;
    }
    Ok(())
}

fn log_program(program: &ProgramDef, linked: &Linked) -> Result<()> {
    let mut log = Log::new(&program.insns, Output(io::stdout().lock()));
    let limits = Limits::default();
    let verdict = verify_with(program, &linked.maps, limits, &mut log);
    log.finish().context("cannot write the log")?;
    let verified = verdict.map_err(|error| error.in_source(program, &linked.types))?;
    let accesses = |wanted: fn(&MemoryKind) -> bool| {
        let kinds = (0..program.insns.len()).map(|insn| verified.memory(insn));
        kinds.filter(wanted).count()
    };
    let mut summary = String::new();
    write!(
        summary,
        "followed {} (limit {}), work {} (limit {}), remembered {} states, {} at once; {} bytes of \
         stack",
        plural(verified.explored, "instruction"),
        limits.insns,
        verified.work,
        limits.work,
        verified.states,
        verified.peak_states,
        verified.stack,
    )?;
    if verified.reads_unset_stack {
        summary.push_str(", some read before it is written");
    }
    println!(
        "{summary}\naccesses: {} of the context, {} of fixed places on the stack, {} of the guest, \
         {} others\n",
        accesses(|kind| *kind == MemoryKind::Context),
        accesses(|kind| matches!(kind, MemoryKind::Stack { .. })),
        accesses(|kind| *kind == MemoryKind::Guest),
        accesses(|kind| *kind == MemoryKind::Other),
    );
    Ok(())
}

/// Standard output, for those who write text.
struct Output<'a>(io::StdoutLock<'a>);

impl fmt::Write for Output<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_all(text.as_bytes()).map_err(|_| fmt::Error)
    }
}
