//! A byte stream over TCP: a guest's console, the hypervisor's shell, or a raw debug endpoint.

use anyhow::{Context, Result};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use xtask::machine::Transcript;

/// The prompt of the guest's shell (`xtask::guest` sets it).
const GUEST_PROMPT: &str = "guest# ";

/// A connection whose answers are read in order.
pub struct Console {
    stream: TcpStream,
    transcript: Transcript,
    /// Everything before was returned by an earlier [`Console::expect`].
    cursor: usize,
}

impl Console {
    /// Connects to a port of 127.0.0.1.
    pub fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .with_context(|| format!("cannot connect to 127.0.0.1:{port}"))?;
        let transcript = Transcript::follow(stream.try_clone()?);
        Ok(Self {
            stream,
            transcript,
            cursor: 0,
        })
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream
            .write_all(bytes.as_ref())
            .context("cannot send to the console")
    }

    /// Waits until `wanted` comes and returns everything before it that was not returned yet.
    pub fn expect(&mut self, wanted: &str, limit: Duration) -> Result<String> {
        let end = self.transcript.wait_for(self.cursor, wanted, limit)?;
        let text = self.transcript.text_from(self.cursor);
        let before = text.find(wanted).unwrap_or(text.len());
        self.cursor = end;
        Ok(text[..before].to_owned())
    }

    /// Runs a command in the guest's shell, whose prompt stands there, and returns what it printed.
    pub fn command(&mut self, command: &str, limit: Duration) -> Result<String> {
        self.send(format!("{command}\n"))?;
        let text = self
            .expect(GUEST_PROMPT, limit)
            .with_context(|| format!("`{command}` on the guest's console"))?;
        // The terminal echoes the command's line first.
        let output = text.split_once('\n').map_or("", |(_, output)| output);
        Ok(output.replace('\r', ""))
    }

    /// Everything that came so far.
    pub fn text(&self) -> String {
        self.transcript.text_from(0)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // The transcript's thread holds the stream too. A stream that has ended is as well.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn commands_return_their_output() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let guest = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"boot\r\nguest# ").unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            stream.write_all(b"echo hi\r\nhi\r\nguest# ").unwrap();
            line
        });
        let limit = Duration::from_secs(10);
        let mut console = Console::connect(port).unwrap();
        assert_eq!(console.expect(GUEST_PROMPT, limit).unwrap(), "boot\r\n");
        assert_eq!(console.command("echo hi", limit).unwrap(), "hi\n");
        assert_eq!(guest.join().unwrap(), "echo hi\n");
    }
}
