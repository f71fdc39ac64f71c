//! `periscope verify`: what the hypervisor would say to a linked program, without one.

use crate::linked_file::{self, plural};
use anyhow::{Context, Result};
use ebpf::Object;
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
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let linked = linked_file::read(&args.program)?;
    let object = Object::load(&linked, args.cpus)
        .with_context(|| format!("refused: {}", args.program.display()))?;
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
