//! A machine for tests: free ports, consoles connected from the start, gone when dropped.

use crate::{Console, Gdb, LONG, MOMENT, Shell};
use anyhow::{Context, Result, bail};
use std::env;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use xtask::build::Program;
use xtask::guest::{self, Freshness, READY_MARKER, Release};
use xtask::machine::{Config, Machine, Ports, Start, Timing, Vm};
use xtask::report::Report;

/// Names QEMU's CPU model for all machines that do not say which they want.
const CPU_VARIABLE: &str = "PERISCOPE_CPU";
/// The model where nobody names one.
const DEFAULT_CPU: &str = "cortex-a72";

/// What a test wants of its machine.
#[derive(Clone, Debug)]
pub struct Spec {
    hypervisor: Program,
    cpu: String,
    cpus: Option<u32>,
    vms: Vec<Vm>,
    timing: Timing,
    append: String,
    emulator_stub: EmulatorStub,
}

/// Whether the emulator is debugged too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EmulatorStub {
    Absent,
    Listening,
}

impl Spec {
    /// The hypervisor alone, on the CPU model that the tests are to run on.
    pub fn hypervisor() -> Self {
        Self {
            hypervisor: Program::Hypervisor,
            cpu: env::var(CPU_VARIABLE).unwrap_or_else(|_| DEFAULT_CPU.to_owned()),
            cpus: None,
            vms: Vec::new(),
            timing: Timing::Free,
            append: String::new(),
            emulator_stub: EmulatorStub::Absent,
        }
    }

    /// QEMU's name of its CPU model.
    pub fn model(&self) -> &str {
        &self.cpu
    }

    /// Another CPU model.
    pub fn cpu(mut self, model: &str) -> Self {
        self.cpu = model.to_owned();
        self
    }

    /// This many physical CPUs instead of what the VMs need.
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = Some(count);
        self
    }

    /// The hypervisor that has no debug server and no probes.
    pub fn without_periscope(mut self) -> Self {
        self.hypervisor = Program::HypervisorAlone;
        self
    }

    /// Time counted by instructions.
    pub fn icount(mut self) -> Self {
        self.timing = Timing::Icount;
        self
    }

    /// With the GDB stub of the emulator itself, under the whole machine: for references, and for what only it can see.
    pub fn emulator_stub(mut self) -> Self {
        self.emulator_stub = EmulatorStub::Listening;
        self
    }

    /// More words for the hypervisor's command line.
    pub fn append(mut self, words: &str) -> Self {
        self.append = words.to_owned();
        self
    }

    /// One more VM.
    pub fn vm(mut self, vm: Vm) -> Self {
        self.vms.push(vm);
        self
    }

    /// One more VM with the tiny guest.
    pub fn tiny_guest(self, vcpus: u32, start: Start) -> Self {
        self.vm(Vm {
            vcpus,
            memory: 64,
            kernel: Program::TinyGuest.image(),
            initrd: None,
            append: String::new(),
            start,
        })
    }

    /// One more VM with a Debian kernel and a busybox root.
    pub fn linux(self, release: Release, vcpus: u32, start: Start) -> Result<Self> {
        self.linux_with(&[], release, vcpus, start)
    }

    /// The same with programs of ours in the guest's `/bin`, and what they need.
    pub fn linux_with(
        self,
        programs: &[Program],
        release: Release,
        vcpus: u32,
        start: Start,
    ) -> Result<Self> {
        let mut linux = guest::linux(&Report::new(), release, Freshness::Cached)?;
        if !programs.is_empty() {
            let files: Vec<_> = programs.iter().map(|program| program.elf()).collect();
            linux = linux.with_programs(&files)?;
        }
        if programs.contains(&Program::Kexec) {
            linux = linux.with_own_kernel()?;
        }
        Ok(self.linux_guest(linux, vcpus, start))
    }

    /// The same with a guest that was made before.
    pub fn linux_guest(self, linux: guest::Linux, vcpus: u32, start: Start) -> Self {
        self.vm(Vm {
            vcpus,
            memory: 512,
            kernel: linux.kernel,
            initrd: Some(linux.initrd),
            append: "console=ttyAMA0".to_owned(),
            start,
        })
    }

    /// More words for the command line of the last VM's guest.
    pub fn guest_words(mut self, words: &str) -> Self {
        if let Some(vm) = self.vms.last_mut() {
            vm.append = format!("{} {words}", vm.append);
        }
        self
    }

    /// The machine, on free ports.
    pub fn config(self) -> Result<Config> {
        let hypervisor = self.hypervisor.image();
        require_built(&hypervisor)?;
        for vm in &self.vms {
            require_built(&vm.kernel)?;
        }
        let ports = Ports::find_free(self.vms.len())?;
        let has_stub = self.emulator_stub == EmulatorStub::Listening;
        Ok(Config {
            qemu: "qemu-system-aarch64".into(),
            cpu: self.cpu,
            cpus: self.cpus,
            timing: self.timing,
            hypervisor,
            append: self.append,
            ports,
            emulator_stub: has_stub.then(|| ports.emulator()),
            vms: self.vms,
            record: None,
        })
    }
}

/// A running machine whose hypervisor is ready.
pub struct TestMachine {
    machine: Machine,
    ready: String,
    consoles: Vec<Mutex<Console>>,
}

impl TestMachine {
    /// Boots a machine and waits until its hypervisor serves.
    pub fn start(spec: Spec) -> Result<Self> {
        let config = spec.config()?;
        let machine = Machine::start(&config)?;
        let ready = machine.wait_ready(MOMENT)?;
        let consoles = (1..)
            .take(config.vms.len())
            .map(|vm| Console::connect(machine.ports.console(vm)).map(Mutex::new));
        let consoles = consoles.collect::<Result<_>>()?;
        Ok(Self {
            machine,
            ready,
            consoles,
        })
    }

    /// The hypervisor's line `periscope: ready …`.
    pub fn ready_line(&self) -> &str {
        &self.ready
    }

    /// The hypervisor's log so far.
    pub fn log(&self) -> String {
        self.machine.emulator.serial.text_from(0)
    }

    /// Waits until the hypervisor's log says `wanted`.
    pub fn wait_log(&self, wanted: &str, limit: Duration) -> Result<()> {
        let emulator = &self.machine.emulator;
        emulator.wait_for(&emulator.serial, 0, wanted, limit)?;
        Ok(())
    }

    /// Where its endpoints listen.
    pub fn ports(&self) -> Ports {
        self.machine.ports
    }

    /// The console of a VM, from 1, for one test at a time.
    pub fn console(&self, vm: usize) -> Result<MutexGuard<'_, Console>> {
        let console = self
            .consoles
            .get(vm - 1)
            .with_context(|| format!("there is no vm{vm}"))?;
        // A case that failed may leave it in the middle of something, which the next case then says.
        Ok(console.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a Linux guest's shell stands at its first prompt.
    pub fn wait_for_shell(&self, vm: usize) -> Result<()> {
        let mut console = self.console(vm)?;
        console
            .expect(READY_MARKER, LONG)
            .with_context(|| format!("vm{vm} does not boot"))?;
        console
            .expect("guest# ", MOMENT)
            .with_context(|| format!("vm{vm} has no shell"))?;
        Ok(())
    }

    /// The hypervisor's shell, for one client at a time.
    pub fn shell(&self) -> Result<Shell> {
        Shell::connect(self.machine.ports.shell())
    }

    /// A new gdb that is attached to a VM.
    pub fn gdb(&self, vm: u16) -> Result<Gdb> {
        let mut gdb = Gdb::start()?;
        gdb.connect(self.machine.ports.vm(vm))?;
        Ok(gdb)
    }

    /// A new gdb that knows the hypervisor's symbols and has stopped it.
    pub fn gdb_of_hypervisor(&self) -> Result<Gdb> {
        let mut gdb = Gdb::with_symbols(&Program::Hypervisor.elf())?;
        gdb.connect(self.machine.ports.hyp())?;
        Ok(gdb)
    }
}

fn require_built(path: &Path) -> Result<()> {
    if !path.is_file() {
        bail!(
            "{} is not there: run the tests with `cargo xtask test`",
            path.display()
        );
    }
    Ok(())
}
