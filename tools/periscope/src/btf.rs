//! `periscope btf`: the types that a kernel's image has.

use crate::link::Kernel;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// Take the types (BTF) out of a kernel's image
///
/// The result is what a running kernel has in /sys/kernel/btf/vmlinux: for `periscope link --btf`,
/// and for `bpftool btf dump file FILE format c`, which makes a vmlinux.h of it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// vmlinux, Image, Image.gz or vmlinuz.efi
    image: PathBuf,
    /// Where to write the types
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let shown = args.image.display();
    let image = fs::read(&args.image).with_context(|| format!("cannot read {shown}"))?;
    let kernel = Kernel::from_image(&image).with_context(|| shown.to_string())?;
    fs::write(&args.output, kernel.btf)
        .with_context(|| format!("cannot write {}", args.output.display()))
}
