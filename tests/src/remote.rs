//! A client of the remote serial protocol that can also misbehave (GDB manual, appendix E).

use crate::MOMENT;
use anyhow::{Context, Result, bail, ensure};
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use xtask::machine::Transcript;

/// Bytes of one `vFile:pwrite`, escapes included, at most.
const CHUNK: usize = 1500;
/// How long a silence is believed to be one.
const SILENCE: Duration = Duration::from_millis(300);

/// What `remote put` ended in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Upload {
    /// The program is there.
    Loaded,
    /// An error of the protocol.
    Refused,
}

/// A connection to a debug endpoint.
pub struct Remote {
    stream: TcpStream,
    received: Transcript,
    /// How far packets were returned.
    cursor: usize,
    syncs: u32,
    /// How long it waits for a packet.
    patience: Duration,
}

impl Remote {
    /// Connects to an endpoint and says nothing.
    pub fn connect(port: u16) -> Result<Self> {
        let stream = connect(port)?;
        stream.set_nodelay(true)?;
        let received = Transcript::follow(stream.try_clone()?);
        Ok(Self {
            stream,
            received,
            cursor: 0,
            syncs: 0,
            patience: MOMENT,
        })
    }

    /// Connects, introduces itself and ends acknowledgements, as GDB does.
    pub fn attach(port: u16) -> Result<Self> {
        Self::attach_within(port, MOMENT)
    }

    /// The same where the first answer comes within that time.
    pub fn attach_within(port: u16, patience: Duration) -> Result<Self> {
        let mut remote = Self::connect(port)?;
        remote.patience = patience;
        let features = remote.ask("qSupported:swbreak+;hwbreak+;vContSupported+")?;
        ensure!(
            features.contains("PacketSize="),
            "features without a packet size: `{features}`"
        );
        remote.patience = MOMENT;
        remote.send("+")?;
        ensure!(remote.ask("QStartNoAckMode")? == "OK", "acknowledgements");
        remote.send("+")?;
        Ok(remote)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream
            .write_all(bytes.as_ref())
            .context("cannot send to the endpoint")
    }

    /// Sends a packet and returns the body of the next one that comes.
    pub fn ask(&mut self, body: impl AsRef<[u8]>) -> Result<String> {
        let body = body.as_ref();
        self.send(frame(body))?;
        self.packet()
            .with_context(|| format!("the answer to `{}`", String::from_utf8_lossy(body)))
    }

    /// Sends a `monitor` command and returns what it prints.
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        self.send(frame(
            format!("qRcmd,{}", hex(command.as_bytes())).as_bytes(),
        ))?;
        let mut text = String::new();
        loop {
            let reply = self
                .packet()
                .with_context(|| format!("the answer to `monitor {command}`"))?;
            match reply.strip_prefix('O') {
                Some("K") => return Ok(text),
                Some(digits) => text += &String::from_utf8_lossy(&unhex(digits)?),
                None if reply.starts_with('E') => bail!("`monitor {command}`: {reply}"),
                None => return Ok(text + &String::from_utf8_lossy(&unhex(&reply)?)),
            }
        }
    }

    /// As GDB's `remote put` (GDB manual, E.7 "File-I/O", `vFile`).
    pub fn put(&mut self, name: &str, bytes: &[u8]) -> Result<Upload> {
        let file = self.ask(format!("vFile:open:{},601,1b6", hex(name.as_bytes())))?;
        let file = file
            .strip_prefix('F')
            .with_context(|| format!("open: {file}"))?
            .to_owned();
        ensure!(!file.starts_with('-'), "open: F{file}");
        for (number, chunk) in bytes.chunks(CHUNK).enumerate() {
            let mut packet = format!("vFile:pwrite:{file},{:x},", number * CHUNK).into_bytes();
            for byte in chunk {
                match byte {
                    b'#' | b'$' | b'}' | b'*' => packet.extend([b'}', byte ^ 0x20]),
                    _ => packet.push(*byte),
                }
            }
            let reply = self.ask(&packet)?;
            let written = reply.strip_prefix('F').unwrap_or_default();
            ensure!(
                usize::from_str_radix(written, 16) == Ok(chunk.len()),
                "pwrite: {reply}"
            );
        }
        match self.ask(format!("vFile:close:{file}"))?.as_str() {
            "F0" => Ok(Upload::Loaded),
            // The endpoint for tools has words for it.
            refused if refused.starts_with("F-1") || refused.starts_with("E.") => {
                Ok(Upload::Refused)
            }
            other => bail!("close: {other}"),
        }
    }

    /// The body of the next packet that was not returned yet.
    pub fn packet(&mut self) -> Result<String> {
        let start = self.received.wait_for(self.cursor, "$", self.patience)?;
        let end = self.received.wait_for(start, "#", self.patience)?;
        self.cursor = end + self.wait_for_checksum(end)?;
        // Everything that the tests ask for is ASCII.
        let text = self.received.text_from(start);
        let (body, rest) = text.split_once('#').context("no end of the packet")?;
        let digits = rest.get(..2).context("no checksum")?;
        let wanted = format!("{:02x}", checksum(body.as_bytes()));
        ensure!(digits == wanted, "checksum {digits}, not {wanted}: {body}");
        Ok(body.to_owned())
    }

    /// Waits for the digits behind a packet's `#`, and returns how many they are.
    fn wait_for_checksum(&self, start: usize) -> Result<usize> {
        const DIGITS: usize = 2;
        let deadline = Instant::now() + MOMENT;
        while self.received.len() < start + DIGITS {
            ensure!(!self.received.ended(), "the stream ended in a packet");
            ensure!(Instant::now() < deadline, "a packet without checksum");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(DIGITS)
    }

    /// Stops the target, and skips everything up to the answer to a command that this alone asks for. Fails where
    /// that does not come: the server does not listen any more.
    pub fn resync(&mut self) -> Result<()> {
        self.syncs += 1;
        let command = format!("resync-{}", self.syncs);
        let wanted = hex(command.as_bytes());
        self.send("\x03")?;
        self.send(frame(format!("qRcmd,{wanted}").as_bytes()))?;
        let refusal = self.received.wait_for(self.cursor, &wanted, MOMENT)?;
        let end = self.received.wait_for(refusal, "$OK#", MOMENT)?;
        self.cursor = end + "9a".len();
        Ok(())
    }

    /// Waits until the server has sent so much more.
    pub fn expect(&mut self, wanted: &str) -> Result<()> {
        self.cursor = self.received.wait_for(self.cursor, wanted, MOMENT)?;
        Ok(())
    }

    /// Whether the server stays silent for a while.
    pub fn is_silent(&self) -> bool {
        thread::sleep(SILENCE);
        self.received.len() <= self.cursor
    }
}

/// Connects to an endpoint. QEMU keeps one client waiting beside the one that it serves; the kernel would ask for a
/// third less and less often, in the end after half a minute.
pub fn connect(port: u16) -> Result<TcpStream> {
    const PATIENCE: Duration = Duration::from_millis(100);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let deadline = Instant::now() + MOMENT;
    loop {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Err(error) if error.kind() == ErrorKind::TimedOut && Instant::now() < deadline => {}
            outcome => {
                return outcome.with_context(|| format!("cannot connect to {address}"));
            }
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // The transcript's thread holds the stream too.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// A body in its frame.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut framed = vec![b'$'];
    framed.extend_from_slice(body);
    framed.extend_from_slice(format!("#{:02x}", checksum(body)).as_bytes());
    framed
}

/// Two digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Result<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?));
    bytes
        .collect::<Result<_>>()
        .with_context(|| format!("`{digits}` is not hexadecimal"))
}

fn checksum(body: &[u8]) -> u8 {
    body.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
