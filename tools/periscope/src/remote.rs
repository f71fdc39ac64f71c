//! An endpoint of the hypervisor: the few packets of GDB's remote protocol that get and put files there and run `monitor`
//! commands (GDB manual, appendix E, "Host I/O Packets", "qRcmd").

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long an answer may take. To find a kernel's types in its memory takes seconds in an emulator.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of a file at most: a server could send without end.
const MAX_FILE: usize = 64 << 20;

/// Bytes of an answer at most.
const MAX_ANSWER: usize = 1 << 20;

/// Bytes of a part of a file that is put, escapes included, at most.
const PART: usize = 1500;

/// A connection to an endpoint.
pub(crate) struct Remote<S: Read + Write> {
    stream: BufReader<S>,
}

impl Remote<TcpStream> {
    /// Connects to `HOST:PORT`. The VM stops until the connection ends by [`Remote::detach`].
    pub(crate) fn connect(address: &str) -> Result<Self> {
        let connect = || -> Result<TcpStream> {
            let mut places = address.to_socket_addrs()?;
            let place = places.next().context("the name has no address")?;
            let stream = TcpStream::connect_timeout(&place, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        let stream = connect().with_context(|| {
            format!(
                "cannot connect to {address}: give an endpoint of the hypervisor, as localhost:1234"
            )
        })?;
        let mut remote = Self::new(stream);
        remote.ask(b"qSupported:xmlRegisters=aarch64")?;
        let reply = remote.ask(b"QStartNoAckMode")?;
        ensure!(reply == b"OK", "{address} is no endpoint of the hypervisor");
        Ok(remote)
    }
}

impl<S: Read + Write> Remote<S> {
    fn new(stream: S) -> Self {
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Ends the session; the VM goes on.
    pub(crate) fn detach(mut self) -> Result<()> {
        let reply = self.ask(b"D")?;
        ensure!(reply == b"OK", "the endpoint does not let go");
        Ok(())
    }

    /// Opens a file that the endpoint offers.
    pub(crate) fn open(&mut self, name: &str) -> Result<u64> {
        // Read-only: GDB's flags for files are 0.
        let open = format!("vFile:open:{},0,0", hex(name.as_bytes()));
        let (fd, _) = self.host_io(&open)?;
        fd.with_context(|| format!("there is no file {name} there"))
    }

    /// What there is of an open file from `offset` on, nothing at its end; `None` where it cannot be read.
    pub(crate) fn read(&mut self, fd: u64, offset: u64) -> Result<Option<Vec<u8>>> {
        let read = format!("vFile:pread:{fd:x},{MAX_ANSWER:x},{offset:x}");
        let (count, data) = self.host_io(&read)?;
        let Some(count) = count else {
            return Ok(None);
        };
        ensure!(count == data.len() as u64, "a part of an answer got lost");
        Ok(Some(data))
    }

    /// Puts a file there, as GDB's `remote put` does.
    pub(crate) fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        // GDB's flags for a file that is created and written: O_WRONLY, O_CREAT, O_TRUNC.
        let open = format!("vFile:open:{},601,1b6", hex(name.as_bytes()));
        let (fd, _) = self.host_io(&open)?;
        let fd = fd.with_context(|| format!("{name} cannot be put there"))?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = bytes.len() - rest.len();
            let mut packet = format!("vFile:pwrite:{fd:x},{offset:x},").into_bytes();
            let mut taken = 0;
            while let Some(&byte) = rest.get(taken).filter(|_| packet.len() < PART) {
                match byte {
                    b'#' | b'$' | b'}' | b'*' => packet.extend([b'}', byte ^ 0x20]),
                    _ => packet.push(byte),
                }
                taken += 1;
            }
            let (written, _) = self.host_io_bytes(&packet)?;
            ensure!(written == Some(taken as u64), "{name} cannot be put there");
            rest = &rest[taken..];
        }
        let (closed, _) = self.host_io(&format!("vFile:close:{fd:x}"))?;
        closed
            .map(drop)
            .with_context(|| format!("{name} is refused: `monitor trace load` says why"))
    }

    /// What a `monitor` command prints.
    pub(crate) fn monitor(&mut self, command: &str) -> Result<String> {
        self.send(format!("qRcmd,{}", hex(command.as_bytes())).as_bytes())?;
        let mut text = Vec::new();
        loop {
            let reply = self.receive()?;
            match reply.split_first() {
                Some((b'O', b"K")) => break,
                Some((b'O', digits)) => text.extend(unhex(digits)?),
                Some((b'E', _)) => bail!("the endpoint refuses `{command}`"),
                // GDB's own stubs may answer with the text alone.
                _ => {
                    text.extend(unhex(&reply)?);
                    break;
                }
            }
            ensure!(text.len() <= MAX_FILE, "`{command}` prints without end");
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// The bytes of a file that the endpoint offers.
    pub(crate) fn file(&mut self, name: &str) -> Result<Vec<u8>> {
        let fd = self.open(name)?;
        let mut bytes = Vec::new();
        loop {
            let data = self.read(fd, bytes.len() as u64)?;
            let data = data.with_context(|| format!("{name} cannot be read"))?;
            if data.is_empty() {
                break;
            }
            bytes.extend(data);
            ensure!(bytes.len() <= MAX_FILE, "{name} has no end");
        }
        self.host_io(&format!("vFile:close:{fd:x}"))?;
        Ok(bytes)
    }

    /// The number and the data of `F number; data`; no number where it is an error.
    fn host_io(&mut self, packet: &str) -> Result<(Option<u64>, Vec<u8>)> {
        self.host_io_bytes(packet.as_bytes())
    }

    fn host_io_bytes(&mut self, packet: &[u8]) -> Result<(Option<u64>, Vec<u8>)> {
        let reply = self.ask(packet)?;
        if let Some(reason) = reply.strip_prefix(b"E.") {
            bail!("{}", String::from_utf8_lossy(reason));
        }
        let Some((b'F', rest)) = reply.split_first() else {
            bail!("the endpoint has no files");
        };
        let end = rest.iter().position(|&byte| byte == b';');
        let (number, data) = match end {
            Some(end) => (&rest[..end], rest[end + 1..].to_vec()),
            None => (rest, Vec::new()),
        };
        let number = str::from_utf8(number).ok();
        let number = number.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        Ok((number, data))
    }

    fn ask(&mut self, body: &[u8]) -> Result<Vec<u8>> {
        self.send(body)?;
        self.receive()
    }

    fn send(&mut self, body: &[u8]) -> Result<()> {
        let sum = checksum(body);
        let packet = [b"$", body, format!("#{sum:02x}").as_bytes()].concat();
        let sent = self.stream.get_mut().write_all(&packet);
        sent.context("the endpoint has closed the connection")
    }

    /// The body of the next packet, its escapes taken out.
    fn receive(&mut self) -> Result<Vec<u8>> {
        const SILENT: &str = "the endpoint does not answer: is another client connected?";
        // Acknowledgements, and what came before.
        self.stream.skip_until(b'$').context(SILENT)?;
        let mut body = Vec::new();
        let limit = 2 * MAX_ANSWER as u64;
        let mut packet = (&mut self.stream).take(limit);
        packet.read_until(b'#', &mut body).context(SILENT)?;
        ensure!(body.pop() == Some(b'#'), "{SILENT}");
        let mut sum = [0; 2];
        self.stream.read_exact(&mut sum).context(SILENT)?;
        let expected = format!("{:02x}", checksum(&body));
        ensure!(
            sum == *expected.as_bytes(),
            "an answer was damaged on its way"
        );
        Ok(unescape(&body))
    }
}

fn checksum(body: &[u8]) -> u8 {
    body.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Takes out `}` before bytes that have a meaning; they are XORed with 0x20.
fn unescape(body: &[u8]) -> Vec<u8> {
    let mut bytes = body.iter();
    let mut plain = Vec::with_capacity(body.len());
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'}' => bytes.next().map_or(byte, |&escaped| escaped ^ 0x20),
            byte => byte,
        });
    }
    plain
}

fn unhex(digits: &[u8]) -> Result<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    bytes.context("an answer is no text")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Result as IoResult};

    /// A server that says the same whatever it hears.
    struct Script {
        answers: Cursor<Vec<u8>>,
        heard: Vec<u8>,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
            self.answers.read(buffer)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> IoResult<usize> {
            self.heard.write(bytes)
        }

        fn flush(&mut self) -> IoResult<()> {
            Ok(())
        }
    }

    fn remote(answers: &[&[u8]]) -> Remote<Script> {
        let packet = |body: &&[u8]| {
            let sum = format!("#{:02x}", checksum(body));
            [b"$", *body, sum.as_bytes()].concat()
        };
        let answers: Vec<u8> = answers.iter().flat_map(packet).collect();
        Remote::new(Script {
            answers: Cursor::new(answers),
            heard: Vec::new(),
        })
    }

    #[test]
    fn files_come_in_parts() {
        let mut remote = remote(&[b"F3", b"F4;ab}\x03d", b"F1;}]", b"F0;", b"F0"]);
        assert_eq!(remote.file("btf").expect("it is there"), b"ab#d}");
        let heard = &remote.stream.get_ref().heard;
        let heard = String::from_utf8_lossy(heard);
        assert!(heard.starts_with("$vFile:open:627466,0,0#"), "{heard}");
        assert!(heard.contains("$vFile:pread:3,100000,4#"), "{heard}");
        assert!(heard.contains("$vFile:close:3#"), "{heard}");
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let error = |answers: &[&[u8]]| {
            let error = remote(answers).file("btf").expect_err("it is an error");
            error.to_string()
        };
        assert_eq!(error(&[b"F-1,2"]), "there is no file btf there");
        assert_eq!(error(&[b""]), "the endpoint has no files");
        assert_eq!(error(&[b"F3", b"F9;ab"]), "a part of an answer got lost");
        assert!(error(&[b"F3"]).contains("does not answer"));
        let mut damaged = remote(&[b"F3"]);
        damaged.stream.get_mut().answers.get_mut()[2] = b'4';
        let error = damaged.file("btf").expect_err("its checksum is wrong");
        assert_eq!(error.to_string(), "an answer was damaged on its way");
    }
}
