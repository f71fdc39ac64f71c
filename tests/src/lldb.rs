//! A real LLDB, run as a script.

use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};
use std::time::Duration;
use xtask::machine::Transcript;
use xtask::process;

/// LLDBs, newest first, and the unversioned one.
const PROGRAMS: [&str; 5] = ["lldb-22", "lldb-21", "lldb-20", "lldb-19", "lldb"];

/// The newest LLDB of this machine.
pub struct Lldb {
    program: &'static str,
}

impl Lldb {
    /// Finds it.
    pub fn find() -> Result<Self> {
        let found = PROGRAMS
            .into_iter()
            .find(|program| process::find_program(program).is_some());
        let program = found.context("there is no lldb: `cargo xtask setup` installs it")?;
        Ok(Self { program })
    }

    /// Runs commands, one after another, and returns everything that LLDB printed. A command that fails ends the
    /// script, and its message is at the end of the text.
    pub fn script(&self, commands: &[&str], limit: Duration) -> Result<String> {
        let mut command = Command::new(self.program);
        command.args(["--no-lldbinit", "--no-use-colors", "--batch"]);
        for line in commands {
            command.args(["--one-line", line]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        process::die_with_parent(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.program))?;
        let output = Transcript::follow(child.stdout.take().context("no standard output")?);
        let errors = Transcript::follow(child.stderr.take().context("no standard error")?);
        let ended = output.wait_for_end(limit) && errors.wait_for_end(limit);
        // Fails where it has ended by itself.
        let _ = child.kill();
        child.wait()?;
        let text = output.text_from(0) + &errors.text_from(0);
        if !ended {
            bail!(
                "{} did not end within {limit:?}; it said:\n{text}",
                self.program
            );
        }
        Ok(text)
    }
}
