//! A Debian guest at its shell, and its kernel's symbols in GDB.

use crate::{Console, Gdb, LONG, MOMENT};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::MutexGuard;
use std::time::Duration;
use xtask::guest::{self, Freshness, Release};
use xtask::process;
use xtask::report::Report;
use xtask::workspace;

/// Where the shell of a guest waits for a command.
const PROMPT: &str = "guest# ";

/// A Linux guest whose shell stands at its prompt.
pub struct Linux<'a> {
    console: MutexGuard<'a, Console>,
}

impl<'a> Linux<'a> {
    /// The guest behind a console.
    pub fn new(console: MutexGuard<'a, Console>) -> Self {
        Self { console }
    }

    /// Keeps kernel messages and line breaks of the shell's editor out of what commands print. Once in each boot.
    pub fn quieten(&mut self) -> Result<()> {
        self.run("dmesg -n 1; stty columns 1000").map(drop)
    }

    /// Runs a command and returns what it printed.
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.run_within(command, MOMENT)
    }

    /// The same with a bound of its own.
    pub fn run_within(&mut self, command: &str, limit: Duration) -> Result<String> {
        self.console.command(command, limit)
    }

    /// Begins a command; [`Linux::finish`] waits for its end.
    pub fn begin(&mut self, command: &str) -> Result<()> {
        self.console.send(format!("{command}\n"))
    }

    /// Waits for the end of the command that was begun, and returns everything since.
    pub fn finish(&mut self) -> Result<String> {
        Ok(self.console.expect(PROMPT, LONG)?.replace('\r', ""))
    }

    /// Waits until a text comes.
    pub fn expect(&mut self, wanted: &str, limit: Duration) -> Result<String> {
        self.console.expect(wanted, limit)
    }

    /// Fails if the console says anything within `duration`.
    pub fn expect_silence(&mut self, duration: Duration) -> Result<()> {
        let before = self.console.text().len();
        std::thread::sleep(duration);
        let text = self.console.text();
        ensure!(
            text.len() == before,
            "the console of a stopped VM said: {:?}",
            &text[before..]
        );
        Ok(())
    }

    /// The addresses of a symbol in the guest's own /proc/kallsyms.
    pub fn kallsyms(&mut self, symbol: &str) -> Result<Vec<u64>> {
        // More than 100,000 lines, which a busy machine takes its time for.
        let text = self.run_within(&format!("grep -w {symbol} /proc/kallsyms"), LONG)?;
        let exact = text
            .lines()
            .filter(|line| line.split_whitespace().nth(2) == Some(symbol));
        exact
            .map(|line| {
                let digits = line.split_whitespace().next().unwrap_or_default();
                u64::from_str_radix(digits, 16).with_context(|| format!("no address in `{line}`"))
            })
            .collect()
    }

    /// The only address of a symbol.
    pub fn address(&mut self, symbol: &str) -> Result<u64> {
        let found = self.kallsyms(symbol)?;
        let [address] = found[..] else {
            anyhow::bail!("{symbol} is not one symbol of the guest's: {found:x?}");
        };
        Ok(address)
    }
}

/// A symbol file that `periscope symbols` has made of a kernel image.
pub struct SymbolFile {
    path: PathBuf,
    text: u64,
}

impl SymbolFile {
    /// Makes the file of the stable release's kernel, as a user would.
    pub fn make() -> Result<Self> {
        let linux = guest::linux(&Report::new(), Release::Stable, Freshness::Cached)?;
        let path = workspace::target_dir().join("vmlinux.sym.elf");
        let mut command = process::cargo();
        command.args(["run", "--quiet", "--package", "periscope", "--"]);
        command.args(["symbols", "--symbols-only", "--kernel"]);
        command.arg(&linux.kernel);
        command.arg("-o").arg(&path);
        let said = process::output(&mut command)?;
        let text = said.rsplit_once("_text at 0x").map(|(_, digits)| digits);
        let text = text.with_context(|| format!("no address of _text in {said}"))?;
        Ok(Self {
            path,
            text: u64::from_str_radix(text.trim(), 16)?,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A `System.map` of its global symbols, as `nm` makes one of any ELF file.
    pub fn system_map(&self) -> Result<PathBuf> {
        let path = self.path.with_file_name("System.map");
        let text = process::output(Command::new("nm").args(["-n", "-g"]).arg(&self.path))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Loads it into a GDB that is attached, where the guest really runs. Returns the address of `_text` there.
    pub fn load(&self, gdb: &mut Gdb) -> Result<u64> {
        let info = gdb.console("monitor vm info")?;
        self.load_with(gdb, "symbol-file", &info)
    }

    /// Loads it beside the hypervisor's own symbols, where the guest runs of which `vm info` says `info`.
    pub fn add(&self, gdb: &mut Gdb, info: &str) -> Result<u64> {
        self.load_with(gdb, "add-symbol-file", info)
    }

    /// How far from where it is linked the kernel runs of which `vm info` says `info`.
    pub fn slide(&self, info: &str) -> Result<u64> {
        Ok(text_address(info)?.wrapping_sub(self.text))
    }

    fn load_with(&self, gdb: &mut Gdb, command: &str, info: &str) -> Result<u64> {
        let slide = self.slide(info)?;
        let path = self.path.display();
        gdb.console_within(&format!("{command} {path} -o {slide:#x}"), LONG)?;
        text_address(info)
    }
}

/// Where the kernel's code begins, by `vm info`.
fn text_address(info: &str) -> Result<u64> {
    let digits = info
        .split_once("text at 0x")
        .and_then(|(_, rest)| rest.split(',').next());
    let digits = digits.with_context(|| format!("no address of the kernel in {info}"))?;
    Ok(u64::from_str_radix(digits, 16)?)
}
