//! The tiny guest on QEMU alone.

use super::Tiny;
use crate::{Console, Gdb, MOMENT};
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use xtask::build::Program;
use xtask::machine::{Emulator, Ports};

/// A tiny guest without the hypervisor.
pub struct Bare {
    console: Console,
    emulator: Emulator,
    debugger: u16,
}

impl Bare {
    /// Boots one with two CPUs of the model `cpu`, and waits for its banner.
    pub fn boot(cpu: &str) -> Result<Self> {
        let image = Program::TinyGuest.image();
        if !image.is_file() {
            bail!("{} is not there: run `cargo xtask build`", image.display());
        }
        let ports = Ports::find_free(1)?;
        let (port, debugger) = (ports.console(1), ports.emulator());
        // QEMU waits for the console, so that it misses nothing. Without `nodelay` every reply
        // waits 40 ms for an acknowledgement of its first character.
        let console =
            format!("socket,id=console,host=127.0.0.1,port={port},server=on,wait=on,nodelay=on");
        let mut command = Command::new("qemu-system-aarch64");
        command
            .args(["-machine", "virt,gic-version=3", "-cpu", cpu])
            .args(["-smp", "2", "-m", "128M", "-nodefaults", "-display", "none"])
            .args(["-chardev", &console, "-serial", "chardev:console"])
            .args(["-gdb", &format!("tcp:127.0.0.1:{debugger}")])
            .arg("-kernel")
            .arg(image);
        let emulator = Emulator::start(command)?;
        let console = connect(port, &emulator)?;
        let mut bare = Self {
            console,
            emulator,
            debugger,
        };
        match bare.tiny().wait_ready()? {
            2 => Ok(bare),
            cpus => bail!("{cpus} of 2 CPUs came up"),
        }
    }

    /// The guest.
    pub fn tiny(&mut self) -> Tiny<'_> {
        Tiny::new(&mut self.console)
    }

    /// A GDB at the emulator's own stub, which has stopped the guest.
    pub fn attach(&self) -> Result<Gdb> {
        let mut gdb = Gdb::with_symbols(&Program::TinyGuest.elf())?;
        gdb.connect(self.debugger)?;
        Ok(gdb)
    }

    /// Waits for the emulator's end after `off`.
    pub fn wait_off(&self) -> Result<()> {
        let status = self.emulator.wait()?;
        if !status.success() {
            bail!("QEMU ended: {status}");
        }
        Ok(())
    }
}

/// Connects once the emulator listens.
fn connect(port: u16, emulator: &Emulator) -> Result<Console> {
    let deadline = Instant::now() + MOMENT;
    loop {
        match Console::connect(port) {
            Ok(console) => return Ok(console),
            Err(error) if Instant::now() > deadline || emulator.try_wait().is_some() => {
                let said = emulator.errors.text_from(0);
                return Err(error).context(format!("QEMU's console does not listen: {said}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
