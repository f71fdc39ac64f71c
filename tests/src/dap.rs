//! A debug adapter, driven as an editor drives it: the Debug Adapter Protocol over standard input and output.

use crate::MOMENT;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};
use xtask::process;

/// An adapter of our own. Ends when dropped.
pub struct Dap {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    /// Events and responses that nobody has asked for yet.
    kept: Vec<Value>,
    /// What the debug console shows.
    console: String,
    sequence: u64,
}

impl Dap {
    /// Starts an adapter, and introduces an editor to it.
    pub fn start(command: &mut Command) -> Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        process::die_with_parent(command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", process::display(command)))?;
        let input = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            // Nobody listens any more when the driver is dropped.
            while let Some(message) = read_message(&mut output) {
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let mut dap = Self {
            child,
            input,
            messages,
            kept: Vec::new(),
            console: String::new(),
            sequence: 0,
        };
        dap.request(
            "initialize",
            json!({"adapterID": "periscope", "pathFormat": "path", "linesStartAt1": true, "columnsStartAt1": true}),
        )?;
        Ok(dap)
    }

    /// Sends a request without waiting for the response; returns its number.
    pub fn send(&mut self, command: &str, arguments: Value) -> Result<u64> {
        self.sequence += 1;
        let message = json!({
            "seq": self.sequence, "type": "request", "command": command, "arguments": arguments,
        });
        let body = message.to_string();
        write!(self.input, "Content-Length: {}\r\n\r\n{body}", body.len())?;
        self.input.flush()?;
        Ok(self.sequence)
    }

    /// The body of the response to a request that was sent. A failure is an error.
    pub fn response(&mut self, sequence: u64) -> Result<Value> {
        let is_it =
            |message: &Value| message["type"] == "response" && message["request_seq"] == sequence;
        let response = self.wait(is_it, MOMENT)?;
        ensure!(response["success"] == true, "{response}");
        Ok(response["body"].clone())
    }

    /// A request and the body of its response.
    pub fn request(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let sequence = self.send(command, arguments)?;
        self.response(sequence)
            .with_context(|| format!("the request `{command}`"))
    }

    /// The body of the next event of a kind.
    pub fn event(&mut self, kind: &str) -> Result<Value> {
        let is_it = |message: &Value| message["type"] == "event" && message["event"] == kind;
        let event = self.wait(is_it, MOMENT);
        Ok(event.with_context(|| format!("the event `{kind}`"))?["body"].clone())
    }

    /// Waits until the debug console has shown `wanted`, and takes all that it has shown.
    pub fn wait_console(&mut self, wanted: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        while !self.console.contains(wanted) {
            let message = self.next(deadline).with_context(|| {
                format!(
                    "the debug console shows no `{wanted}`, but {}",
                    self.console
                )
            })?;
            self.kept.push(message);
        }
        Ok(std::mem::take(&mut self.console))
    }

    /// What a command prints that is typed into the debug console.
    pub fn type_in(&mut self, command: &str) -> Result<String> {
        let arguments = json!({"expression": command, "context": "repl"});
        let body = self.request("evaluate", arguments)?;
        Ok(body["result"].as_str().unwrap_or_default().to_owned())
    }

    fn wait(&mut self, is_it: impl Fn(&Value) -> bool, limit: Duration) -> Result<Value> {
        if let Some(index) = self.kept.iter().position(&is_it) {
            return Ok(self.kept.remove(index));
        }
        let deadline = Instant::now() + limit;
        loop {
            let message = self.next(deadline)?;
            if is_it(&message) {
                return Ok(message);
            }
            self.kept.push(message);
        }
    }

    fn next(&mut self, deadline: Instant) -> Result<Value> {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(message) = self.messages.recv_timeout(left) else {
            bail!(
                "the adapter says no more; it has said {} and in its console {}",
                json!(self.kept),
                self.console
            );
        };
        if message["event"] == "output" {
            self.console
                .push_str(message["body"]["output"].as_str().unwrap_or_default());
        }
        Ok(message)
    }
}

impl Drop for Dap {
    fn drop(&mut self) {
        // Fails where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next message (Debug Adapter Protocol, "Base Protocol"); `None` at the end.
fn read_message(output: &mut BufReader<ChildStdout>) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        output
            .read_line(&mut line)
            .ok()
            .filter(|count| *count > 0)?;
        match line.trim_end() {
            "" => break,
            line => {
                if let Some(digits) = line.strip_prefix("Content-Length: ") {
                    length = digits.parse().ok()?;
                }
            }
        }
    }
    let mut body = vec![0; length];
    output.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}
