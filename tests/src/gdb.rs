//! A real GDB, driven through its machine interface (GDB manual, "GDB/MI").

use crate::{LONG, MOMENT};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};
use xtask::process;
use xtask::report::Report;
use xtask::setup::elsewhere::Elsewhere;

/// The GDB that users have.
const PROGRAM: &str = "gdb-multiarch";
/// How many of the last records an error shows.
const SHOWN: usize = 25;

/// One line of GDB's output.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Record {
    /// `token^class,…`.
    Result {
        token: u64,
        class: String,
        rest: String,
    },
    /// `*stopped,…`.
    Stopped(String),
    /// `~"…"`: what a person would see.
    Console(String),
    /// `@"…"`: what the target says (`monitor` and `O` packets).
    Target(String),
    /// `&"…"`: GDB's log, where its warnings are.
    Log(String),
    /// Everything else: notifications, prompts.
    Other(String),
}

/// Why and where the target stopped.
#[derive(Clone, Debug)]
pub struct Stop {
    record: String,
}

impl Stop {
    /// A field of the record, such as `reason`, `thread-id`, `signal-name`, or the frame's `addr` and `func`.
    pub fn field(&self, name: &str) -> Option<String> {
        field(&self.record, name)
    }

    /// GDB's word for the reason (`breakpoint-hit`, `end-stepping-range`, `signal-received`, …), empty if it gave none.
    pub fn reason(&self) -> String {
        self.field("reason").unwrap_or_default()
    }

    /// The PC.
    pub fn pc(&self) -> Result<u64> {
        let addr = self
            .field("addr")
            .with_context(|| format!("no frame in {}", self.record))?;
        parse_hex(&addr)
    }
}

/// A GDB of our own. Ends when dropped.
pub struct Gdb {
    child: Child,
    input: ChildStdin,
    records: Receiver<Record>,
    /// For error messages.
    seen: Vec<Record>,
    stops: Vec<Stop>,
    target_output: String,
    log: String,
    token: u64,
}

impl Gdb {
    /// Starts GDB without any initialisation files.
    pub fn start() -> Result<Self> {
        Self::start_as(Command::new(PROGRAM))
    }

    /// GDB of Debian 13 (16.3), which is not this machine's; more arguments can follow.
    pub fn newer() -> Result<Command> {
        let fetched = Elsewhere::fetch(&Report::new(), "trixie", "gdb-multiarch")?;
        let mut command = fetched.command("usr/bin/gdb-multiarch");
        command
            .arg("--data-directory")
            .arg(fetched.path("usr/share/gdb"));
        Ok(command)
    }

    /// Starts another GDB than this machine's.
    pub fn start_as(mut command: Command) -> Result<Self> {
        command.args(["-nx", "-q", "--interpreter=mi3"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        process::die_with_parent(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", process::display(&command)))?;
        let input = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        let (sender, records) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            // Nobody listens any more when the driver is dropped.
            lines
                .map(|line| parse(&line))
                .all(|record| sender.send(record).is_ok())
        });
        let mut gdb = Self {
            child,
            input,
            records,
            seen: Vec::new(),
            stops: Vec::new(),
            target_output: String::new(),
            log: String::new(),
            token: 0,
        };
        // So that commands are taken while the target runs, `-exec-interrupt` among them.
        gdb.mi("-gdb-set mi-async on")?;
        for setting in [
            "pagination off",
            "confirm off",
            "width 0",
            "tcp auto-retry off",
            // On a machine that has other work an answer may take longer than the default of 2 s.
            "remotetimeout 20",
            // The file of a guest's kernel has megabytes: only those fetch it that are about it.
            "remote pid-to-exec-file-packet off",
        ] {
            gdb.console(&format!("set {setting}"))?;
        }
        Ok(gdb)
    }

    /// Starts GDB with the symbols of a program of ours.
    pub fn with_symbols(elf: &Path) -> Result<Self> {
        let mut gdb = Self::start()?;
        // Our programs are Rust, whose syntax knows no symbols of assembly.
        gdb.console("set language c")?;
        gdb.console(&format!("file {}", elf.display()))?;
        Ok(gdb)
    }

    /// Has it fetch what the target offers, as it does for a user that has no file of the target.
    pub fn with_files_of_target(mut self) -> Result<Self> {
        self.console("set remote pid-to-exec-file-packet auto")?;
        Ok(self)
    }

    /// `target remote`. The target is stopped afterwards.
    pub fn connect(&mut self, port: u16) -> Result<()> {
        self.mi_within(&format!("-target-select remote 127.0.0.1:{port}"), MOMENT)?;
        // GDB reports the stop that it finds like any other.
        self.wait_stop(MOMENT)?;
        Ok(())
    }

    /// `target extended-remote`, to an endpoint where nothing is attached yet.
    pub fn connect_extended(&mut self, port: u16) -> Result<()> {
        let command = format!("-target-select extended-remote 127.0.0.1:{port}");
        self.mi_within(&command, MOMENT).map(drop)
    }

    /// A machine-interface command; returns what follows `^done` or `^running`.
    pub fn mi(&mut self, command: &str) -> Result<String> {
        self.mi_within(command, MOMENT)
    }

    /// The same with a bound of its own.
    pub fn mi_within(&mut self, command: &str, limit: Duration) -> Result<String> {
        self.token += 1;
        writeln!(self.input, "{}{command}", self.token)?;
        let deadline = Instant::now() + limit;
        loop {
            let record = self.next_record(deadline, &format!("the answer to `{command}`"))?;
            match record {
                Record::Result { token, class, rest } if token == self.token => {
                    if class == "error" {
                        let message = field(&rest, "msg").unwrap_or(rest);
                        bail!("`{command}`: {message}");
                    }
                    return Ok(rest);
                }
                _ => {}
            }
        }
    }

    /// A command as a person types it; returns what GDB and the target print. An error of GDB is an error.
    pub fn console(&mut self, command: &str) -> Result<String> {
        self.console_within(command, MOMENT)
    }

    /// The same with a bound of its own.
    pub fn console_within(&mut self, command: &str, limit: Duration) -> Result<String> {
        let from = self.seen.len();
        self.mi_within(
            &format!("-interpreter-exec console {}", quote(command)),
            limit,
        )?;
        let text = self.seen[from..].iter().filter_map(|record| match record {
            Record::Console(text) | Record::Target(text) => Some(text.as_str()),
            _ => None,
        });
        Ok(text.collect())
    }

    /// The value of an expression that is a number.
    pub fn value(&mut self, expression: &str) -> Result<u64> {
        let text = self.console(&format!("output/x {expression}"))?;
        parse_hex(text.trim()).with_context(|| format!("`{expression}` is `{text}`"))
    }

    /// Lets the target run.
    pub fn resume(&mut self) -> Result<()> {
        self.mi("-exec-continue").map(drop)
    }

    /// Lets the target run until it stops.
    pub fn resume_until_stop(&mut self, limit: Duration) -> Result<Stop> {
        self.resume()?;
        self.wait_stop(limit)
    }

    /// Stops the target as Ctrl-C does.
    pub fn interrupt(&mut self) -> Result<Stop> {
        self.mi("-exec-interrupt")?;
        self.wait_stop(MOMENT)
    }

    /// Waits for a stop that was not returned yet.
    pub fn wait_stop(&mut self, limit: Duration) -> Result<Stop> {
        let deadline = Instant::now() + limit;
        while self.stops.is_empty() {
            self.next_record(deadline, "a stop")?;
        }
        Ok(self.stops.remove(0))
    }

    /// Fails if the target stops within `duration`.
    pub fn expect_running(&mut self, duration: Duration) -> Result<()> {
        let deadline = Instant::now() + duration;
        while self.stops.is_empty() {
            match self.records.recv_timeout(left(deadline)) {
                Ok(record) => self.take(record),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => bail!("gdb ended:\n{}", self.last_records()),
            }
        }
        bail!("the target stopped: {}", self.stops[0].record)
    }

    /// Waits until the target has said `wanted` (`O` packets, answers to `monitor`), and takes everything it has said.
    pub fn wait_target_output(&mut self, wanted: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        while !self.target_output.contains(wanted) {
            self.next_record(deadline, &format!("the target to say `{wanted}`"))?;
        }
        Ok(std::mem::take(&mut self.target_output))
    }

    /// Waits until GDB has warned of `wanted`, and takes all its warnings.
    pub fn wait_warning(&mut self, wanted: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        while !self.log.contains(wanted) {
            self.next_record(deadline, &format!("the warning `{wanted}`"))?;
        }
        Ok(std::mem::take(&mut self.log))
    }

    /// Lets the target go and disconnects.
    pub fn detach(&mut self) -> Result<()> {
        self.mi_within("-target-detach", LONG).map(drop)
    }

    fn next_record(&mut self, deadline: Instant, awaited: &str) -> Result<Record> {
        match self.records.recv_timeout(left(deadline)) {
            Ok(record) => {
                self.take(record.clone());
                Ok(record)
            }
            Err(error) => {
                let how = match error {
                    RecvTimeoutError::Timeout => "gdb takes too long",
                    RecvTimeoutError::Disconnected => "gdb ended",
                };
                bail!(
                    "{how}, waiting for {awaited}; its last words:\n{}",
                    self.last_records()
                )
            }
        }
    }

    fn take(&mut self, record: Record) {
        match &record {
            Record::Stopped(text) => self.stops.push(Stop {
                record: text.clone(),
            }),
            Record::Target(text) => self.target_output += text,
            Record::Log(text) => self.log += text,
            _ => {}
        }
        self.seen.push(record);
    }

    fn last_records(&self) -> String {
        let last = &self.seen[self.seen.len().saturating_sub(SHOWN)..];
        last.iter()
            .map(|record| format!("  {record:?}\n"))
            .collect()
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        // Fails where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn parse(line: &str) -> Record {
    let line = line.trim_end();
    if let Some(text) = line.strip_prefix('~') {
        return Record::Console(unquote(text));
    }
    if let Some(text) = line.strip_prefix('@') {
        return Record::Target(unquote(text));
    }
    if let Some(text) = line.strip_prefix('&') {
        return Record::Log(unquote(text));
    }
    if let Some(text) = line.strip_prefix("*stopped") {
        return Record::Stopped(text.to_owned());
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    if let (Ok(token), Some(result)) = (line[..digits].parse(), line[digits..].strip_prefix('^')) {
        let (class, rest) = result.split_once(',').unwrap_or((result, ""));
        return Record::Result {
            token,
            class: class.to_owned(),
            rest: rest.to_owned(),
        };
    }
    Record::Other(line.to_owned())
}

/// The value of the first `name="…"` of a record.
fn field(record: &str, name: &str) -> Option<String> {
    let start = record
        .match_indices(&format!("{name}=\""))
        .map(|(at, _)| at)
        .find(|at| {
            let before = record[..*at].chars().next_back();
            before.is_none_or(|before| matches!(before, ',' | '{' | '['))
        })?;
    Some(unquote(&record[start + name.len() + 1..]))
}

/// The C string that `text` begins with.
fn unquote(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.strip_prefix('"').unwrap_or(text).bytes().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => break,
            b'\\' => match rest.next() {
                Some(b'n') => bytes.push(b'\n'),
                Some(b't') => bytes.push(b'\t'),
                Some(b'r') => bytes.push(b'\r'),
                Some(digit @ b'0'..=b'7') => {
                    // GDB writes what is not ASCII as three octal digits.
                    let mut value = u32::from(digit - b'0');
                    while let Some(digit @ b'0'..=b'7') = rest.peek().copied() {
                        rest.next();
                        value = value * 8 + u32::from(digit - b'0');
                        if value > 0o37 {
                            break;
                        }
                    }
                    bytes.push(value.to_le_bytes()[0]);
                }
                Some(other) => bytes.push(other),
                None => break,
            },
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn parse_hex(text: &str) -> Result<u64> {
    let digits = text.trim_start_matches("0x");
    u64::from_str_radix(digits, 16).with_context(|| format!("`{text}` is no hexadecimal number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn records_of_the_machine_interface() {
        assert_eq!(parse("~\"a\\n\""), Record::Console("a\n".to_owned()));
        assert_eq!(
            parse("@\"\\342\\234\\223 ok\""),
            Record::Target("✓ ok".to_owned())
        );
        let result = Record::Result {
            token: 12,
            class: "done".into(),
            rest: "a=\"b\"".into(),
        };
        assert_eq!(parse("12^done,a=\"b\""), result);
        assert_eq!(parse("(gdb) "), Record::Other("(gdb)".to_owned()));
        let Record::Stopped(record) =
            parse("*stopped,reason=\"breakpoint-hit\",frame={addr=\"0xffff800\",func=\"f\\\"x\"}")
        else {
            panic!("not a stop");
        };
        let stop = Stop { record };
        assert_eq!(stop.reason(), "breakpoint-hit");
        assert_eq!(stop.pc().unwrap(), 0xffff800);
        assert_eq!(stop.field("func").unwrap(), "f\"x");
        assert_eq!(stop.field("nc"), None);
    }

    #[test]
    fn a_real_gdb_answers_and_its_errors_are_errors() {
        let mut gdb = Gdb::start().unwrap();
        assert_eq!(gdb.value("6 * 7").unwrap(), 42);
        assert_eq!(gdb.console("echo \"a\\\\b\"\\n").unwrap(), "\"a\\b\"\n");
        let error = gdb.console("info nonsense").unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let refused = gdb.connect(port).unwrap_err();
        assert!(
            format!("{refused:#}").contains(&port.to_string()),
            "{refused:#}"
        );
    }
}
