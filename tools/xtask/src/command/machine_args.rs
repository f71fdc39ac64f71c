//! What a machine is made of, as people say it on the command line.

use crate::build::Program;
use crate::guest::{self, Freshness, Release};
use crate::machine::{self, Config, DEFAULT_BASE, Ports, Start, Timing, Vm};
use crate::report::Report;
use crate::setup::packages;
use crate::setup::toolchain::BareToolchain;
use anyhow::Result;
use std::path::PathBuf;

/// What every Linux guest gets: the console that the hypervisor emulates.
const CONSOLE_ARGUMENT: &str = "console=ttyAMA0";

/// Options of every subcommand that runs a machine.
#[derive(clap::Parser)]
pub struct MachineArgs {
    /// How many VMs.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=6))]
    vms: u8,
    /// vCPUs of each VM; a list gives each VM its own number, and its last entry the rest.
    #[arg(long, default_value = "2", value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=8))]
    vcpus: Vec<u32>,
    /// Memory of each VM, such as 512M or 1G; a list works as for --vcpus.
    #[arg(long, default_value = "512M", value_name = "SIZE", value_delimiter = ',', value_parser = parse_memory)]
    memory: Vec<u64>,
    /// CPU model: cortex-a72, neoverse-n1, max, or any other of `qemu-system-aarch64 -cpu help` with EL2.
    #[arg(long, default_value = "cortex-a72", value_name = "MODEL")]
    cpu: String,
    /// Guest kernel: a raw arm64 Image, a gzip'd one, or Debian's vmlinuz [default: Debian's cloud kernel].
    #[arg(long, value_name = "IMAGE")]
    kernel: Option<PathBuf>,
    /// Initramfs [default: busybox with a shell; none where --kernel is given].
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// More arguments for the guest kernels.
    #[arg(
        long,
        default_value = "",
        value_name = "ARGS",
        allow_hyphen_values = true
    )]
    append: String,
    /// Words for the hypervisor's own command line, such as `trace=vmm:vm_create`.
    #[arg(long, default_value = "", value_name = "ARGS")]
    hyp_append: String,
    /// Count time by instructions: slow, and the same in every run.
    #[arg(long)]
    icount: bool,
    /// QEMU to use.
    #[arg(long, default_value = "qemu-system-aarch64", value_name = "PATH")]
    qemu: PathBuf,
    /// Port of the hyp endpoint; all others keep their distance from it.
    #[arg(long, default_value_t = DEFAULT_BASE, value_name = "P")]
    port_base: u16,
    /// VMs wait for a debugger before their first instruction.
    #[arg(long)]
    halt: bool,
    /// Keep transcripts of the hypervisor's log, consoles and channels in this directory.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

impl MachineArgs {
    /// The machine that the arguments describe; finds or builds what it needs.
    pub fn config(&self, report: &Report) -> Result<Config> {
        let toolchain = BareToolchain::find_or_install(report)?;
        packages::find_or_install(report)?;
        Program::Hypervisor.build(&toolchain)?;
        let (kernel, initrd) = match &self.kernel {
            Some(kernel) => (machine::raw_kernel(kernel)?, self.initrd.clone()),
            None => {
                let linux = guest::linux(report, Release::Stable, Freshness::Cached)?;
                (
                    linux.kernel,
                    Some(self.initrd.clone().unwrap_or(linux.initrd)),
                )
            }
        };
        let vm = |index: usize| Vm {
            vcpus: nth_or_last(&self.vcpus, index),
            memory: nth_or_last(&self.memory, index),
            kernel: kernel.clone(),
            initrd: initrd.clone(),
            append: format!("{CONSOLE_ARGUMENT} {}", self.append)
                .trim_end()
                .to_owned(),
            start: if self.halt {
                Start::Halted
            } else {
                Start::Immediately
            },
        };
        Ok(Config {
            append: self.hyp_append.clone(),
            qemu: self.qemu.clone(),
            cpu: self.cpu.clone(),
            cpus: None,
            timing: if self.icount {
                Timing::Icount
            } else {
                Timing::Free
            },
            hypervisor: Program::Hypervisor.image(),
            vms: (0..usize::from(self.vms)).map(vm).collect(),
            ports: Ports::new(self.port_base)?,
            emulator_stub: None,
            record: self.record.clone(),
        })
    }
}

/// An entry of a list whose last entry stands for all that follow.
fn nth_or_last<T: Copy + Default>(list: &[T], index: usize) -> T {
    list.get(index).or(list.last()).copied().unwrap_or_default()
}

/// A size in MiB: `512M`, `1G`, or plain MiB.
fn parse_memory(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1024),
        _ => (text, 1),
    };
    let size = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    match size {
        Some(size) if (64..=65536).contains(&size) && size % 2 == 0 => Ok(size),
        _ => Err("write an even number of MiB from 64M to 64G, such as 512M or 1G".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_memory("512M"), Ok(512));
        assert_eq!(parse_memory("1G"), Ok(1024));
        assert_eq!(parse_memory("256"), Ok(256));
        for wrong in [
            "",
            "M",
            "0",
            "63M",
            "65M",
            "99999999999999999999G",
            "1T",
            "-5",
        ] {
            assert!(parse_memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn short_lists_repeat_their_last_entry() {
        assert_eq!(
            [0, 1, 2].map(|index| nth_or_last(&[2, 1], index)),
            [2, 1, 1]
        );
    }
}
