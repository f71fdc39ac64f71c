//! A machine under QEMU: the hypervisor, its guests, and the channels to them.

mod config;
mod image;
mod ports;
mod transcript;

pub use config::{Config, Start, Timing, Vm};
pub use image::raw_kernel;
pub use ports::{DEFAULT_BASE, Ports};
pub use transcript::Transcript;

use crate::process;
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What the hypervisor writes to its log when its endpoints serve.
const READY: &str = "periscope: ready";
/// How often a wait looks whether the emulator has ended.
const POLL: Duration = Duration::from_millis(50);

/// An emulator that runs. It ends when this is dropped, or when this process ends in any way.
pub struct Emulator {
    /// The first serial port.
    pub serial: Transcript,
    /// What the emulator itself says.
    pub errors: Transcript,
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
    ended: Receiver<ExitStatus>,
}

impl Emulator {
    /// Starts an emulator whose standard output is the first serial port.
    pub fn start(mut command: Command) -> Result<Self> {
        let line = process::display(&command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Ctrl-C on the terminal is for who started us, not for the emulator.
        command.process_group(0);
        process::die_with_parent(&mut command);
        let (stop, stopped) = mpsc::channel();
        let (started, start) = mpsc::channel();
        let (report_end, ended) = mpsc::channel();
        // The kernel kills the child when the thread that started it ends, so one thread starts it and stays.
        let keeper = thread::spawn(move || match command.spawn() {
            Ok(mut child) => {
                let streams = (child.stdout.take(), child.stderr.take());
                // Nobody waits for the streams only if the starter is gone; the child then ends below.
                let _ = started.send(Ok(streams));
                keep(child, &stopped, &report_end);
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        });
        let (stdout, stderr) = start
            .recv()
            .context("the emulator's thread ended")?
            .with_context(|| format!("cannot start `{line}`"))?;
        let serial = Transcript::follow(stdout.context("no standard output")?);
        let errors = Transcript::follow(stderr.context("no standard error")?);
        Ok(Self {
            serial,
            errors,
            stop: Some(stop),
            keeper: Some(keeper),
            ended,
        })
    }

    /// Waits until `wanted` stands in `transcript` at or after `offset`, and fails at once when the emulator ends
    /// before. Returns the offset behind it.
    pub fn wait_for(
        &self,
        transcript: &Transcript,
        offset: usize,
        wanted: &str,
        limit: Duration,
    ) -> Result<usize> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match transcript.wait_for(offset, wanted, left.min(POLL)) {
                Ok(end) => return Ok(end),
                Err(error) if left.is_zero() || transcript.ended() => {
                    let errors = self.errors.text_from(0);
                    let log = self.serial.text_from(0);
                    let log = process::last_lines(&log, 30);
                    return Err(error.context(format!(
                        "waited {limit:.1?}; the emulator says: {errors}\nthe serial log ends in:\n{log}"
                    )));
                }
                Err(_) => {}
            }
        }
    }

    /// Waits for the emulator's end.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.ended.recv().context("the emulator's thread ended")
    }

    /// Whether the emulator has ended, and how.
    pub fn try_wait(&self) -> Option<ExitStatus> {
        self.ended.try_recv().ok()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(keeper) = self.keeper.take() {
            // A keeper that panicked has ended, and its child with it.
            let _ = keeper.join();
        }
    }
}

/// Waits for the child's end, or ends it when nobody wants it any more.
fn keep(mut child: Child, stopped: &Receiver<()>, report_end: &Sender<ExitStatus>) {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            // Nobody may be listening any more.
            let _ = report_end.send(status);
            return;
        }
        if stopped.recv_timeout(POLL) == Err(mpsc::RecvTimeoutError::Disconnected) {
            // Fails only where the child has just ended.
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
    }
}

/// A machine whose hypervisor runs.
pub struct Machine {
    /// The emulator; its serial port is the hypervisor's log.
    pub emulator: Emulator,
    /// Where the endpoints listen.
    pub ports: Ports,
}

impl Machine {
    /// Starts a machine. Its endpoints listen when this returns, but nobody need be there yet.
    pub fn start(config: &Config) -> Result<Self> {
        if let Some(dir) = &config.record {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let emulator = Emulator::start(config.command()?)?;
        Ok(Self {
            emulator,
            ports: config.ports,
        })
    }

    /// Waits until the hypervisor serves, and returns its ready line. QEMU listens on all sockets before the first
    /// instruction executes, so all endpoints accept connections then.
    pub fn wait_ready(&self, limit: Duration) -> Result<String> {
        let log = &self.emulator.serial;
        let found = self
            .emulator
            .wait_for(log, 0, READY, limit)
            .context("the hypervisor did not get ready")?;
        let end = self.emulator.wait_for(log, found, "\n", limit)?;
        let line = log.text_from(found - READY.len());
        Ok(line[..end - (found - READY.len())].trim_end().to_owned())
    }
}

/// The command of a machine without the hypervisor: one Linux guest at EL1 on the same kind of machine.
pub fn bare_command(config: &Config) -> Result<Command> {
    let [vm] = config.vms.as_slice() else {
        bail!("a bare machine boots exactly one guest");
    };
    let mut command = Command::new(&config.qemu);
    command
        .args([
            "-machine",
            "virt,gic-version=3",
            "-cpu",
            config::cpu_model(&config.cpu),
        ])
        .args([
            "-smp",
            &vm.vcpus.to_string(),
            "-m",
            &format!("{}M", vm.memory),
        ])
        .args(["-nodefaults", "-display", "none"])
        .args([
            "-chardev",
            "stdio,id=log,signal=off",
            "-serial",
            "chardev:log",
        ])
        .arg("-kernel")
        .arg(&vm.kernel)
        .args(["-append", &vm.append]);
    if let Some(initrd) = &vm.initrd {
        command.arg("-initrd").arg(initrd);
    }
    Ok(command)
}
