//! The tiny guest (`tests/guest`) from the outside: its console, its replies, and what they must
//! be.

mod bare;
mod stopped;
mod subject;
pub mod truth;
mod world;

pub use bare::Bare;
pub use stopped::time_stands_still;
pub use subject::{Kind, Subject, step_adds, step_sum};
pub use world::{World, addresses};

use crate::{Console, LONG};
use anyhow::{Context, Result, anyhow, bail};

/// A tiny guest at its console.
pub struct Tiny<'a> {
    console: &'a mut Console,
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

impl<'a> Tiny<'a> {
    /// The guest behind a console.
    pub fn new(console: &'a mut Console) -> Self {
        Self { console }
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
        self.console.send(format!("{command}\n"))
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

    /// Drops what the guest still says to a case before this one, which has failed.
    pub fn settle(&mut self) -> Result<()> {
        self.send("version")?;
        while !self.line()?.starts_with("ok tiny-guest") {}
        Ok(())
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
        let line = self.console.expect("\n", LONG)?;
        Ok(line.trim_end().to_owned())
    }
}
