//! `monitor …`: the command language, with the output as console packets.

use super::{Commands, DebugTarget, Role};
use crate::commands::{self, Caller};
use core::convert::Infallible;
use core::fmt::{self, Write};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd};

/// Bytes of text in one console packet at most: twice as many digits fit a client's buffer with ease.
const CHUNK: usize = 1024;

/// Cuts the output into packets of a bounded size.
struct Chunks<'a> {
    console: ConsoleOutput<'a>,
    in_packet: usize,
}

impl fmt::Write for Chunks<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.as_bytes().chunks(CHUNK) {
            if self.in_packet + piece.len() > CHUNK {
                self.console.flush();
                self.in_packet = 0;
            }
            self.console.write_raw(piece);
            self.in_packet += piece.len();
        }
        Ok(())
    }
}

impl DebugTarget {
    /// Who gives the session's commands.
    pub(crate) fn caller(&self) -> Caller {
        match self.role {
            Role::Debugger => Caller::Monitor {
                space: self.space,
                focus: self.focus,
                owner: self.owner,
            },
            Role::Tool => Caller::Tools { owner: self.owner },
        }
    }
}

impl MonitorCmd for DebugTarget {
    fn handle_monitor_cmd(
        &mut self,
        command: &[u8],
        console: ConsoleOutput<'_>,
    ) -> Result<(), Infallible> {
        let mut out = Chunks {
            console,
            in_packet: 0,
        };
        if let Commands::Refused(reason) = self.commands {
            // Output that cannot be written has no reader to tell.
            let _ = writeln!(out, "{reason}");
            return Ok(());
        }
        let line = alloc::string::String::from_utf8_lossy(command);
        let caller = self.caller();
        // What a shell would go on to show comes to a session as live output.
        let _ = commands::run(self.server, &caller, &line, &mut out);
        Ok(())
    }
}
