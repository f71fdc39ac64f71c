//! The hypervisor's shell: lines in, the command language of the stub, text out.

use super::{Backlog, ChannelPort, drain};
use crate::trace::{self, About, trace};
use ::tracepoints::ShellCommand;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use devices::channel::{Channel, ChannelEvent};
use probes::tracepoint::FieldKind;
use stub::Server;
use stub::commands::{self, Caller, Follower};

/// Longest line of the shell, in bytes.
const MAX_LINE: usize = 1024;
/// Above this many bytes of output the client does not read what it asked for, and gets no more.
const FULL: usize = 256 * 1024;
/// How many buffers of input are forgotten at most when a client replaces another; the port holds fewer.
const MAX_FORGOTTEN: usize = 1024;
/// What Ctrl-C sends where the terminal is raw.
const CTRL_C: u8 = 0x03;
const PROMPT: &str = "periscope> ";

/// The hypervisor's shell.
pub struct Shell {
    server: &'static Server,
    port: ChannelPort,
    /// The line so far; of one that is too long, a byte more than [`MAX_LINE`].
    line: Vec<u8>,
    output: VecDeque<u8>,
    /// Shows events as they come, until the user ends a line.
    follower: Option<Follower>,
}

impl Shell {
    /// A shell over `port`.
    pub fn new(server: &'static Server, port: ChannelPort) -> Self {
        Self {
            server,
            port,
            line: Vec::new(),
            output: VecDeque::new(),
            follower: None,
        }
    }

    /// Serves what has come.
    pub fn run(&mut self) -> Backlog {
        loop {
            // Who came and went before these bytes: commands take their time.
            super::serve_console();
            let event = self.port.take_event();
            if event.is_some() {
                self.line.clear();
                self.output.clear();
                self.follower = None;
            }
            if event == Some(ChannelEvent::Replaced) {
                self.forget_input();
            }
            if matches!(event, Some(ChannelEvent::Opened | ChannelEvent::Replaced)) {
                trace!(About::Hypervisor, ShellInit {});
                self.output.extend(PROMPT.as_bytes());
            }
            let mut buffer = [0; 256];
            let count = self.port.read(&mut buffer);
            for &byte in &buffer[..count] {
                self.byte(byte);
            }
            if event.is_none() && count == 0 {
                break;
            }
        }
        self.follow();
        drain(&mut self.output, &mut self.port);
        if self.output.is_empty() && self.follower.is_none() {
            Backlog::Empty
        } else {
            Backlog::Waiting
        }
    }

    /// What has come may be the last client's. The next types when it sees a prompt.
    fn forget_input(&mut self) {
        let mut buffer = [0; 256];
        for _ in 0..MAX_FORGOTTEN {
            if self.port.read(&mut buffer) == 0 {
                break;
            }
        }
    }

    /// Shows what has come, unless the client does not read.
    fn follow(&mut self) {
        if let Some(follower) = &mut self.follower
            && self.output.len() < FULL
        {
            let mut text = String::new();
            // Writing to a string does not fail.
            let _ = follower.show(self.server, &mut text);
            self.output.extend(text.as_bytes());
        }
    }

    fn byte(&mut self, byte: u8) {
        if self.follower.is_some() {
            // The whole line goes: a client that sends lines gets one prompt for it.
            if matches!(byte, b'\n' | CTRL_C) {
                self.follower = None;
                self.output.extend(PROMPT.as_bytes());
            }
            return;
        }
        match byte {
            b'\r' => {}
            b'\n' => {
                let line = core::mem::take(&mut self.line);
                if self.output.len() < FULL {
                    self.command(&line);
                }
            }
            0x08 | 0x7f => {
                self.line.pop();
            }
            _ if self.line.len() <= MAX_LINE => self.line.push(byte),
            _ => {}
        }
    }

    fn command(&mut self, line: &[u8]) {
        let mut text = String::new();
        if line.len() > MAX_LINE {
            text = format!("the line is too long: {MAX_LINE} bytes are possible");
        } else {
            let line = String::from_utf8_lossy(line);
            let began = trace::begin::<ShellCommand>();
            self.follower = commands::run(self.server, &Caller::Shell, &line, &mut text);
            trace_command(&line, began);
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        self.output.extend(text.as_bytes());
        if self.follower.is_none() {
            self.output.extend(PROMPT.as_bytes());
        }
    }
}

/// A command has run that began at `began`.
fn trace_command(line: &str, began: u64) {
    let part = |from: usize| FieldKind::text(line.as_bytes().get(from..).unwrap_or_default());
    trace!(
        About::Hypervisor,
        ShellCommand {
            length: line.len() as u64,
            text: part(0),
            text8: part(8),
            text16: part(16),
        },
        trace::since(began)
    );
}
