//! What a machine is made of, and how QEMU is told.

use super::ports::Ports;
use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// Where DRAM begins on QEMU's `virt` machine.
const DRAM_BASE: u64 = 0x4000_0000;
/// The first boot module; the 256 MiB below are the hypervisor's and its device tree's.
const MODULE_BASE: u64 = 0x5000_0000;
/// Modules begin at multiples of this: the largest block that stage 2 maps without splitting a gigabyte.
const MODULE_ALIGN: u64 = 2 << 20;
/// One MiB in bytes.
const MIB: u64 = 1 << 20;
/// The hypervisor's limit of physical CPUs.
const MAX_CPUS: u32 = 8;
/// Two virtio-serial ports each, of 16; port 0 is reserved by QEMU, and three are the hypervisor's.
const MAX_VMS: usize = 6;

/// When a VM executes its first instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// At once.
    Immediately,
    /// When a debugger says so.
    Halted,
}

/// How the emulator counts time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timing {
    /// As fast as it can, one thread a CPU.
    Free,
    /// By instructions: byte-for-byte the same in every run.
    Icount,
}

/// One guest.
#[derive(Clone, Debug)]
pub struct Vm {
    /// How many vCPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory: u64,
    /// A raw arm64 Image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub append: String,
    /// When it starts.
    pub start: Start,
}

/// A machine with the hypervisor and its guests.
#[derive(Clone, Debug)]
pub struct Config {
    /// The emulator.
    pub qemu: PathBuf,
    /// QEMU's `-cpu`.
    pub cpu: String,
    /// Physical CPUs; `None` for one for each vCPU and one more.
    pub cpus: Option<u32>,
    /// How time is counted.
    pub timing: Timing,
    /// The hypervisor's boot image.
    pub hypervisor: PathBuf,
    /// The guests.
    pub vms: Vec<Vm>,
    /// More words for the hypervisor's own command line.
    pub append: String,
    /// Where the endpoints listen.
    pub ports: Ports,
    /// Where the emulator's own GDB stub listens, if anywhere.
    pub emulator_stub: Option<u16>,
    /// Directory for transcripts of the hypervisor's log and all channels.
    pub record: Option<PathBuf>,
}

impl Config {
    /// QEMU's command line.
    pub fn command(&self) -> Result<Command> {
        let cpus = self.cpu_count()?;
        if self.vms.len() > MAX_VMS {
            bail!(
                "{} VMs are too many: there are channels for {MAX_VMS}",
                self.vms.len()
            );
        }
        let (modules, end) = self.modules()?;
        let memory: u64 = self.vms.iter().map(|vm| vm.memory * MIB).sum();
        let memory = (end - DRAM_BASE + memory).next_multiple_of(MODULE_ALIGN) / MIB;
        let mut command = Command::new(&self.qemu);
        let machine = "virt,virtualization=on,gic-version=3";
        match self.timing {
            Timing::Free => command.args(["-machine", machine]),
            Timing::Icount => command
                .args(["-machine", &format!("{machine},dtb-randomness=off")])
                .args(["-icount", "shift=0,sleep=off", "-seed", "1"])
                .args(["-rtc", "base=2026-01-01,clock=vm"]),
        };
        command
            .args(["-cpu", cpu_model(&self.cpu), "-smp", &cpus.to_string()])
            .args([
                "-m",
                &format!("{memory}M"),
                "-nodefaults",
                "-display",
                "none",
            ])
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .args(["-device", "virtio-serial-device,max_ports=16"]);
        command.args([
            "-chardev",
            &self.recorded("stdio,id=log,signal=off", "hyp-log"),
        ]);
        command.args(["-serial", "chardev:log"]);
        for (number, (name, port)) in self.ports.channels(self.vms.len()).iter().enumerate() {
            // Without `nodelay` every second write of an answer waits 40 ms for an acknowledgement of the first.
            let socket = format!(
                "socket,id={name},host=127.0.0.1,port={port},server=on,wait=off,nodelay=on"
            );
            command.args(["-chardev", &self.recorded(&socket, name)]);
            // Port 0 of a virtio-serial device is for a console only.
            let nr = number + 1;
            let port = format!("virtserialport,nr={nr},chardev={name},name=org.periscope.{name}");
            command.args(["-device", &port]);
        }
        if let Some(port) = self.emulator_stub {
            command.args(["-gdb", &format!("tcp:127.0.0.1:{port}")]);
        }
        command.arg("-kernel").arg(&self.hypervisor);
        command.args(["-append", &self.hypervisor_arguments()]);
        for module in modules {
            command.args(["-device", &module]);
        }
        Ok(command)
    }

    /// In words.
    pub fn describe(&self) -> Result<String> {
        let mut text = format!("hyp {} CPUs", self.cpu_count()?);
        for (number, vm) in (1..).zip(&self.vms) {
            let s = if vm.vcpus == 1 { "" } else { "s" };
            text += &format!(" · vm{number} {} vCPU{s} {} MB", vm.vcpus, vm.memory);
        }
        Ok(text)
    }

    /// One CPU for each vCPU and one that serves.
    fn cpu_count(&self) -> Result<u32> {
        let vcpus: u32 = self.vms.iter().map(|vm| vm.vcpus).sum();
        let cpus = self.cpus.unwrap_or((vcpus + 1).min(MAX_CPUS));
        if cpus < vcpus || cpus > MAX_CPUS {
            bail!(
                "{vcpus} vCPUs on {cpus} CPUs: each vCPU needs its own CPU, and at most {MAX_CPUS} work"
            );
        }
        Ok(cpus)
    }

    /// What the hypervisor reads in `/chosen/bootargs`.
    fn hypervisor_arguments(&self) -> String {
        let vms = (1..).zip(&self.vms).map(|(number, vm)| {
            let halt = match vm.start {
                Start::Immediately => String::new(),
                Start::Halted => format!(" vm{number}.halt"),
            };
            format!(
                "vm{number}.vcpus={} vm{number}.memory={}M{halt}",
                vm.vcpus, vm.memory
            )
        });
        let own = (!self.append.is_empty()).then(|| self.append.clone());
        vms.chain(own).collect::<Vec<_>>().join(" ")
    }

    /// `guest-loader` devices for kernels and initramfs, by address: a kernel begins a VM, and what follows it is the
    /// VM's. Also the address after the last.
    fn modules(&self) -> Result<(Vec<String>, u64)> {
        let mut modules = Vec::new();
        let mut next = MODULE_BASE;
        let mut add = |path: &PathBuf, kind: &str, extra: String| -> Result<()> {
            let size = super::image::loaded_size(path)?;
            let file = escape(&path.to_string_lossy());
            let device = format!("guest-loader,addr={next:#x},{kind}={file}{extra}");
            modules.push(device);
            next = (next + size).next_multiple_of(MODULE_ALIGN);
            Ok(())
        };
        for vm in &self.vms {
            add(
                &vm.kernel,
                "kernel",
                format!(",bootargs={}", escape(&vm.append)),
            )?;
            if let Some(initrd) = &vm.initrd {
                add(initrd, "initrd", String::new())?;
            }
        }
        Ok((modules, next))
    }

    /// A character device that also writes a transcript, where one is wanted.
    fn recorded(&self, chardev: &str, name: &str) -> String {
        match &self.record {
            Some(dir) => {
                let file = dir.join(format!("{name}.log"));
                format!("{chardev},logfile={}", escape(&file.to_string_lossy()))
            }
            None => chardev.to_owned(),
        }
    }
}

/// QEMU separates options by commas; a doubled one is a comma.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

/// Plain `max` computes pointer authentication with QARMA, which makes all of it three times slower under emulation.
pub(super) fn cpu_model(model: &str) -> &str {
    if model == "max" {
        "max,pauth-impdef=on"
    } else {
        model
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    fn config(vms: usize) -> Config {
        let vm = Vm {
            vcpus: 2,
            memory: 512,
            kernel: "/dev/null".into(),
            initrd: Some("/dev/null".into()),
            append: "console=ttyAMA0 a,b".to_owned(),
            start: Start::Halted,
        };
        Config {
            append: String::new(),
            qemu: "qemu".into(),
            cpu: "max".to_owned(),
            cpus: None,
            timing: Timing::Free,
            hypervisor: "hyp.img".into(),
            vms: vec![vm; vms],
            ports: Ports::new(1230).unwrap(),
            emulator_stub: None,
            record: Some("/rec,ord".into()),
        }
    }

    #[test]
    fn the_command_line_has_every_part() {
        let line = process::display(&config(2).command().unwrap());
        for part in [
            "-cpu max,pauth-impdef=on -smp 5 -m 1288M",
            "-append vm1.vcpus=2 vm1.memory=512M vm1.halt vm2.vcpus=2 vm2.memory=512M vm2.halt",
            "virtserialport,nr=1,chardev=hyp,name=org.periscope.hyp",
            "virtserialport,nr=3,chardev=tools,name=org.periscope.tools",
            "virtserialport,nr=8,chardev=console2,name=org.periscope.console2",
            "port=1335,server=on,wait=off,nodelay=on,logfile=/rec,,ord/console2.log",
            "guest-loader,addr=0x50000000,kernel=/dev/null,bootargs=console=ttyAMA0 a,,b",
        ] {
            assert!(line.contains(part), "no `{part}` in {line}");
        }
    }

    #[test]
    fn too_much_is_refused() {
        assert!(
            config(5)
                .command()
                .unwrap_err()
                .to_string()
                .contains("10 vCPUs on 8 CPUs")
        );
        let mut small = config(1);
        small.cpus = Some(1);
        assert!(small.command().is_err());
    }
}
