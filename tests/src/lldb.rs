//! A real LLDB, driven line by line as from a script.

use crate::MOMENT;
use anyhow::{Context, Result, bail, ensure};
use std::io::{self, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;
use xtask::machine::Transcript;
use xtask::process;
use xtask::setup::lldb;

/// What LLDB says when the target has stopped.
const STOPPED: &str = "Process 1 stopped";

/// An LLDB of our own. Ends when dropped.
pub struct Lldb {
    child: Child,
    input: ChildStdin,
    output: Transcript,
    /// How far the answers to commands were returned.
    cursor: usize,
    /// Where the answer to the last command begins: a stop that it has led to comes behind.
    last: usize,
    commands: usize,
}

impl Lldb {
    /// Starts the newest LLDB of this machine without any initialisation files.
    pub fn start() -> Result<Self> {
        let program = lldb::newest_installed()
            .context("there is no lldb: `cargo xtask setup` installs it")?;
        Self::start_as(Command::new(program))
    }

    /// The same with another LLDB.
    pub fn start_as(mut command: Command) -> Result<Self> {
        command.args(["--no-lldbinit", "--no-use-colors"]);
        // One pipe for both streams: an error belongs behind the command that it is the answer to.
        let (output, standard_output) = io::pipe()?;
        let standard_error = standard_output.try_clone()?;
        command
            .stdin(Stdio::piped())
            .stdout(standard_output)
            .stderr(standard_error);
        process::die_with_parent(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", process::display(&command)))?;
        let input = child.stdin.take().context("no standard input")?;
        let mut lldb = Self {
            child,
            input,
            output: Transcript::follow(output),
            cursor: 0,
            last: 0,
            commands: 0,
        };
        // The machine under test is slow where the tests share the host's CPUs.
        let patience = format!(
            "settings set plugin.process.gdb-remote.packet-timeout {}",
            MOMENT.as_secs()
        );
        lldb.command(&patience)?;
        lldb.command("settings set auto-confirm true")?;
        Ok(lldb)
    }

    /// Connects to an endpoint. The target is stopped afterwards.
    pub fn connect(&mut self, port: u16) -> Result<String> {
        self.command(&format!("gdb-remote 127.0.0.1:{port}"))?;
        self.wait_stop(MOMENT)
    }

    /// Runs a command as a person types it, and returns what LLDB and the target print until it has ended. An error of
    /// LLDB is an error.
    pub fn command(&mut self, line: &str) -> Result<String> {
        let answer = self.answer(line)?;
        ensure!(
            !answer.lines().any(|line| line.starts_with("error: ")),
            "`{line}`: {answer}"
        );
        Ok(answer)
    }

    /// Runs a command that LLDB or the target is to refuse, and returns what it says.
    pub fn refused(&mut self, line: &str) -> Result<String> {
        let answer = self.answer(line)?;
        ensure!(
            answer.lines().any(|line| line.starts_with("error: ")),
            "`{line}` was done: {answer}"
        );
        Ok(answer)
    }

    /// Lets the target run.
    pub fn resume(&mut self) -> Result<()> {
        self.command("continue").map(drop)
    }

    /// Stops the target as Ctrl-C does.
    pub fn interrupt(&mut self) -> Result<String> {
        self.command("process interrupt")?;
        self.wait_stop(MOMENT)
    }

    /// Waits for the stop that the last command leads to, and returns LLDB's words for it.
    pub fn wait_stop(&mut self, limit: Duration) -> Result<String> {
        let stop = self
            .output
            .wait_for(self.last, STOPPED, limit)
            .context("LLDB tells no stop")?;
        // LLDB tells the stop in one go: it is complete where the next command is answered.
        self.command("version")?;
        Ok(self.output.text_from(stop))
    }

    /// Ends LLDB as a person does.
    pub fn quit(mut self) -> Result<()> {
        writeln!(self.input, "quit")?;
        ensure!(
            self.output.wait_for_end(MOMENT),
            "LLDB does not end: {}",
            self.text()
        );
        Ok(())
    }

    /// The value of a register.
    pub fn register(&mut self, name: &str) -> Result<u64> {
        let answer = self.command(&format!("register read --format hex {name}"))?;
        let value = answer
            .split_once(" = 0x")
            .and_then(|(_, rest)| rest.split_ascii_whitespace().next())
            .with_context(|| format!("no value of {name} in `{answer}`"))?;
        u64::from_str_radix(value, 16).with_context(|| format!("{name} is `{value}`"))
    }

    /// Everything that was said so far.
    pub fn text(&self) -> String {
        self.output.text_from(0)
    }

    fn answer(&mut self, line: &str) -> Result<String> {
        // LLDB repeats each line when it takes it. A comment is taken when the command before it has ended.
        self.commands += 1;
        self.last = self.cursor;
        let mark = format!("(lldb) # {}\n", self.commands);
        writeln!(self.input, "{line}\n# {}", self.commands)?;
        let end = self
            .output
            .wait_for(self.cursor, &mark, MOMENT)
            .with_context(|| format!("`{line}` in LLDB"))?;
        let text = self.output.text_from(self.cursor);
        self.cursor = end;
        let Some((answer, _)) = text.split_once(&mark) else {
            bail!("LLDB's output is not text: {text}");
        };
        let echo = format!("(lldb) {line}\n");
        Ok(answer.replacen(&echo, "", 1))
    }
}

impl Drop for Lldb {
    fn drop(&mut self) {
        // Fails where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_lldb_answers_and_its_errors_are_errors() {
        let mut lldb = Lldb::start().unwrap();
        assert_eq!(lldb.command("print 6 * 7").unwrap(), "(int) 42\n");
        let error = lldb.command("nonsense").unwrap_err();
        assert!(error.to_string().contains("not a valid command"), "{error}");
        assert!(lldb.refused("nonsense").is_ok());
        assert!(lldb.refused("print 1").is_err());
    }
}
