//! `periscope trace` in a process of its own.

use crate::{LONG, MOMENT, TestMachine};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use xtask::machine::Transcript;
use xtask::{process, workspace};

/// How often its end is looked for.
const POLL: Duration = Duration::from_millis(20);

/// A program that is being traced.
pub struct Trace {
    child: Child,
    output: Transcript,
    errors: Transcript,
}

/// What it has said when it has ended well.
pub struct Ended {
    /// The lines of its standard output.
    pub lines: Vec<String>,
    /// What it says of the whole, on its standard error.
    pub summary: String,
}

impl Trace {
    /// Runs `periscope trace PROGRAM WORDS…` at a machine and waits until the program is attached.
    pub fn start(machine: &TestMachine, program: &Path, words: &[&str]) -> Result<Self> {
        process::run(process::cargo().args(["build", "--quiet", "--package", "periscope"]))?;
        let mut command = Command::new(workspace::target_dir().join("debug/periscope"));
        command.arg("trace").arg(program).args(words);
        command.args(["--tools", &format!("127.0.0.1:{}", machine.ports().tools())]);
        process::die_with_parent(&mut command);
        let pipes = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = pipes.spawn().context("periscope should be built")?;
        let output = child.stdout.take().context("its output is piped")?;
        let errors = child.stderr.take().context("its errors are piped")?;
        let trace = Self {
            child,
            output: Transcript::follow(output),
            errors: Transcript::follow(errors),
        };
        trace
            .errors
            .wait_for(0, ", program ", LONG)
            .context("nothing is attached")?;
        Ok(trace)
    }

    /// Waits until its output says something.
    pub fn expect(&self, wanted: &str) -> Result<()> {
        self.output.wait_for(0, wanted, MOMENT).map(drop)
    }

    /// As Ctrl-C: it ends well.
    pub fn interrupt(mut self) -> Result<Ended> {
        let kill = format!("kill -INT {}", self.child.id());
        process::run(Command::new("sh").args(["-c", &kill]))?;
        let deadline = Instant::now() + MOMENT;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "it does not end");
            thread::sleep(POLL);
        };
        let summary = self.errors.text_from(0);
        ensure!(status.success(), "{status}: {summary}");
        ensure!(self.output.wait_for_end(MOMENT), "its output does not end");
        let lines = self.output.text_from(0);
        Ok(Ended {
            lines: lines.lines().map(str::to_owned).collect(),
            summary,
        })
    }

    /// As `kill -9`.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It has ended, or nobody wants it any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The lines as JSON.
    pub fn rows(&self) -> Result<Vec<Value>> {
        let row = |line: &String| serde_json::from_str(line).with_context(|| line.clone());
        self.lines.iter().map(row).collect()
    }
}
