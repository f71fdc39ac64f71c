//! The tiny guest (`tests/guest`) from the outside: its console, its replies, and what they must
//! be.

use anyhow::{Context, Result, anyhow, bail};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use xtask::build::Program;
use xtask::machine::{Emulator, Transcript};

/// How long the guest may take to boot, and for each line that it says.
const PATIENCE: Duration = Duration::from_secs(60);

/// The console of a tiny guest.
pub struct Tiny {
    output: Transcript,
    input: Box<dyn Write + Send>,
    /// How much of the output was read, in bytes.
    read: usize,
}

/// The fields of a reply's last line, `ok NAME=VALUE …`, and the lines before it.
#[derive(Debug)]
pub struct Reply {
    /// The last line without `ok`.
    pub text: String,
    /// The lines before it.
    pub lines: Vec<String>,
}

impl Reply {
    /// A numeric field.
    pub fn number(&self, name: &str) -> Result<u64> {
        number(&self.text, name)
    }
}

/// The value of `name=` in a line of fields.
fn number(line: &str, name: &str) -> Result<u64> {
    let value = field(line, name)?;
    let parsed = match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    };
    parsed.with_context(|| format!("`{name}` is not a number in `{line}`"))
}

fn field<'a>(line: &'a str, name: &str) -> Result<&'a str> {
    let fields = line.split_ascii_whitespace();
    let mut named = fields.filter_map(|field| field.split_once('='));
    let found = named.find(|(key, _)| *key == name);
    found
        .map(|(_, value)| value)
        .with_context(|| format!("no `{name}` in `{line}`"))
}

impl Tiny {
    /// A guest whose console says `output` and reads `input`.
    pub fn new(output: Transcript, input: impl Write + Send + 'static) -> Self {
        Self {
            output,
            input: Box::new(input),
            read: 0,
        }
    }

    /// Waits for the banner of a boot. Returns how many CPUs came up.
    pub fn wait_ready(&mut self) -> Result<u64> {
        loop {
            let line = self.line()?;
            if line.starts_with("tiny-guest: ready") {
                return number(&line, "cpus");
            }
        }
    }

    /// Sends a command without waiting for a reply.
    pub fn send(&mut self, command: &str) -> Result<()> {
        writeln!(self.input, "{command}").with_context(|| format!("cannot send `{command}`"))
    }

    /// The reply to the command sent before; an error where it is `err …`.
    pub fn reply(&mut self) -> Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = self.line()?;
            if let Some(text) = line.strip_prefix("ok") {
                return Ok(Reply {
                    text: text.trim().to_owned(),
                    lines,
                });
            }
            if let Some(refusal) = line.strip_prefix("err ") {
                return Err(anyhow!("{refusal}"));
            }
            if line.starts_with("EXC") || line.starts_with("PANIC") {
                bail!("the guest met what it did not expect: {line}");
            }
            lines.push(line);
        }
    }

    /// Runs a command to its end.
    pub fn run(&mut self, command: &str) -> Result<Reply> {
        self.send(command)?;
        self.reply().with_context(|| format!("`{command}`"))
    }

    /// Runs a command that the guest is to refuse, and returns what it says.
    pub fn refused(&mut self, command: &str) -> Result<String> {
        self.send(command)?;
        match self.reply() {
            Ok(reply) => bail!("`{command}` was done: {}", reply.text),
            Err(refusal) => Ok(refusal.to_string()),
        }
    }

    /// The guest's functions with a first instruction of their own kind.
    pub fn subjects(&mut self) -> Result<Vec<Subject>> {
        self.run("list")?
            .lines
            .iter()
            .map(|line| Subject::parse(line))
            .collect()
    }

    fn line(&mut self) -> Result<String> {
        let end = self.output.wait_for(self.read, "\n", PATIENCE)?;
        let text = self.output.text_from(self.read);
        let line = text.lines().next().unwrap_or_default().to_owned();
        self.read = end;
        Ok(line)
    }
}

/// What is special about calling a subject; `subjects::Kind` of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing; runs with the MMU off too.
    Plain,
    /// Only a RET: returns its argument and counts nothing.
    Bare,
    /// Its first instruction is an HVC.
    Hypercall,
    /// Runs with the MMU on only.
    Mapped,
    /// Adds one to the shared word by exclusives; runs with the MMU on only.
    Exclusive,
    /// The same by an atomic instruction.
    Atomic,
}

/// A function of the guest with a first instruction of its own kind.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its symbol.
    pub name: String,
    /// Its constant.
    pub k: u64,
    /// What is special about it.
    pub kind: Kind,
    /// Where it is linked.
    pub address: u64,
}

impl Subject {
    fn parse(line: &str) -> Result<Self> {
        let name = line
            .split_ascii_whitespace()
            .next()
            .context("an empty line")?;
        let kind = match field(line, "kind")? {
            "plain" => Kind::Plain,
            "bare" => Kind::Bare,
            "hypercall" => Kind::Hypercall,
            "mapped" => Kind::Mapped,
            "exclusive" => Kind::Exclusive,
            "atomic" => Kind::Atomic,
            other => bail!("no kind `{other}`"),
        };
        let (k, address) = (number(line, "k")?, number(line, "address")?);
        Ok(Self {
            name: name.to_owned(),
            k,
            kind,
            address,
        })
    }

    /// What `calls` calls count.
    pub fn count(&self, calls: u64) -> u64 {
        if self.kind == Kind::Bare { 0 } else { calls }
    }

    /// The sum of the results of the calls with 1 to `calls`.
    pub fn sum(&self, calls: u64) -> u64 {
        let arguments = (1..=calls).fold(0u64, u64::wrapping_add);
        match self.kind {
            Kind::Bare => arguments,
            _ => arguments
                .wrapping_mul(3)
                .wrapping_add(self.k.wrapping_mul(calls)),
        }
    }

    /// What `calls` calls add to the shared word.
    pub fn shared(&self, calls: u64) -> u64 {
        match self.kind {
            Kind::Exclusive | Kind::Atomic => calls,
            _ => 0,
        }
    }

    /// Whether it runs with the MMU off.
    pub fn runs_unmapped(&self) -> bool {
        matches!(self.kind, Kind::Plain | Kind::Bare | Kind::Hypercall)
    }
}

/// The `sum` of `step N`: the guest steps a loop of three instructions, and folds the offset of the
/// next one.
pub fn step_sum(steps: u64) -> u64 {
    let offsets = [4, 8, 0].into_iter().cycle();
    let offsets = offsets.take(usize::try_from(steps).unwrap_or(usize::MAX));
    offsets.fold(0u64, |sum, offset| {
        sum.wrapping_mul(31).wrapping_add(offset)
    })
}

/// The `adds` of `step N`.
pub fn step_adds(steps: u64) -> u64 {
    steps.div_ceil(3)
}

/// A tiny guest on QEMU alone, without the hypervisor.
pub struct Bare {
    /// Its console.
    pub tiny: Tiny,
    emulator: Emulator,
    socket: PathBuf,
}

impl Bare {
    /// Boots one with two CPUs of the model `cpu`, and waits for its banner.
    pub fn boot(cpu: &str) -> Result<Self> {
        let image = Program::TinyGuest.image();
        if !image.exists() {
            bail!("{} is missing: run `cargo xtask build`", image.display());
        }
        let socket = socket_path();
        let mut command = Command::new("qemu-system-aarch64");
        let console = format!(
            "socket,id=console,path={},server=on,wait=on",
            socket.display()
        );
        command
            .args([
                "-machine",
                "virt,gic-version=3",
                "-cpu",
                cpu,
                "-smp",
                "2",
                "-m",
                "128M",
            ])
            .args(["-nodefaults", "-display", "none"])
            .args([
                "-chardev",
                &console,
                "-serial",
                "chardev:console",
                "-kernel",
            ])
            .arg(image);
        let emulator = Emulator::start(command)?;
        let stream = connect(&socket, &emulator)?;
        let tiny = Tiny::new(Transcript::follow(stream.try_clone()?), stream);
        let mut bare = Self {
            tiny,
            emulator,
            socket,
        };
        match bare.tiny.wait_ready()? {
            2 => Ok(bare),
            cpus => bail!("{cpus} of 2 CPUs came up"),
        }
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

impl Drop for Bare {
    fn drop(&mut self) {
        // QEMU may have removed it.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// A path of its own for every guest of every test process.
fn socket_path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("periscope-tiny-{}-{number}.sock", std::process::id());
    std::env::temp_dir().join(name)
}

/// Connects once the emulator listens.
fn connect(socket: &Path, emulator: &Emulator) -> Result<UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                if Instant::now() > deadline || emulator.try_wait().is_some() {
                    let said = emulator.errors.text_from(0);
                    return Err(error).context(format!("QEMU's console does not listen: {said}"));
                }
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_line_is_a_subject() {
        let line = "fn_b k=0x909 kind=plain address=0x40205e70";
        let subject = Subject::parse(line).unwrap();
        assert_eq!((subject.name.as_str(), subject.k), ("fn_b", 0x909));
        assert_eq!(subject.sum(2), 3 * 3 + 2 * 0x909);
        assert!(Subject::parse("fn_b k=0x909 kind=odd address=0").is_err());
    }

    #[test]
    fn steps_are_folded_in_order() {
        assert_eq!(step_sum(1), 4);
        assert_eq!(step_sum(4), ((4 * 31 + 8) * 31) * 31 + 4);
        assert_eq!([1, 2, 3, 4].map(step_adds), [1, 1, 1, 2]);
    }
}
