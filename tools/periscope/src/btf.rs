//! `periscope btf`: the types that a kernel has.

use crate::link::Kernel;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;

/// Take the types (BTF) out of a kernel's image, or of one that runs
///
/// The result is what a running kernel has in /sys/kernel/btf/vmlinux: for `periscope link --btf`,
/// and for `bpftool btf dump file FILE format c`, which makes a vmlinux.h of it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// vmlinux, Image, Image.gz or vmlinuz.efi
    #[arg(required_unless_present = "target", conflicts_with = "target")]
    image: Option<PathBuf>,
    /// The debug endpoint of a VM where the kernel runs: takes them from its memory
    #[arg(long, value_name = "HOST:PORT")]
    target: Option<String>,
    /// Where to write the types
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let kernel = match (&args.image, &args.target) {
        (_, Some(address)) => Kernel::of_guest(address)?,
        (Some(path), None) => {
            let shown = path.display();
            let image = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
            Kernel::from_image(&image).with_context(|| shown.to_string())?
        }
        (None, None) => bail!("give an image, or a VM's debug endpoint with --target"),
    };
    fs::write(&args.output, kernel.btf)
        .with_context(|| format!("cannot write {}", args.output.display()))
}
