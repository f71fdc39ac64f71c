//! The server of a bench on a TCP port, for real clients.

use super::Bench;
use super::recording::{self, Recording};
use std::io::{ErrorKind, Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use stub::{ByteChannel, Endpoint, MachineSession, Session};

/// How long a client may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The server in a thread of its own.
pub struct Serving {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Socket(TcpStream);

impl ByteChannel for Socket {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.write(bytes).unwrap_or(0)
    }
}

impl Serving {
    /// Serves vm1 of a bench on a port of the loopback interface.
    pub fn start(vcpus: u8) -> Self {
        Self::spawn(vcpus, recording::VM1, |bench| {
            let session = Session::new(bench.server, 0).unwrap();
            Box::new(session)
        })
    }

    /// Serves the whole machine of a bench.
    pub fn start_machine(vcpus: u8) -> Self {
        Self::spawn(vcpus, recording::MACHINE, |bench| {
            Box::new(MachineSession::new(bench.server))
        })
    }

    fn spawn(vcpus: u8, number: u8, endpoint: fn(&Bench) -> Box<dyn Endpoint>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let recording = Recording::wanted(number);
        let thread = thread::spawn(move || serve(&listener, &ended, vcpus, endpoint, recording));
        Self {
            port,
            end,
            thread: Some(thread),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the server died");
        }
    }
}

fn serve(
    listener: &TcpListener,
    end: &AtomicBool,
    vcpus: u8,
    endpoint: fn(&Bench) -> Box<dyn Endpoint>,
    mut recording: Option<Recording>,
) {
    let bench = Bench::new(vcpus);
    let mut endpoint = endpoint(&bench);
    while !end.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(true).unwrap();
                socket.set_nodelay(true).unwrap();
                endpoint.opened();
                serve_client(&bench, &mut *endpoint, Socket(socket), end, &mut recording);
                if let Some(recording) = &mut recording {
                    recording.end_of_client();
                }
                endpoint.closed();
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
        bench.let_run(10);
        endpoint.poll();
    }
}

fn serve_client(
    bench: &Bench,
    endpoint: &mut dyn Endpoint,
    mut socket: Socket,
    end: &AtomicBool,
    recording: &mut Option<Recording>,
) {
    let mut buffer = [0; 4096];
    while !end.load(Ordering::Relaxed) {
        match socket.0.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if let Some(recording) = recording {
                    recording.take(&buffer[..count]);
                }
                endpoint.receive(&buffer[..count]);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_micros(200));
            }
            Err(_) => return,
        }
        bench.let_run(50);
        endpoint.poll();
        endpoint.flush(&mut socket);
    }
}

/// Gives GDB these commands and returns what it printed.
pub fn run_gdb(commands: &[&str]) -> String {
    run_client(&mut gdb(commands))
}

/// A GDB that is given these commands and ends.
pub fn gdb(commands: &[&str]) -> Command {
    let fixed = [
        "set confirm off",
        "set pagination off",
        "set width 0",
        "set remotetimeout 20",
    ];
    let mut gdb = Command::new("gdb-multiarch");
    gdb.args(["-nx", "-q", "-batch"]);
    for command in fixed.iter().chain(commands) {
        gdb.args(["-ex", command]);
    }
    gdb
}

/// Runs a client to its end and returns what it printed, both streams in the order of a terminal.
pub fn run_client(command: &mut Command) -> String {
    let mut log = tempfile::tempfile().unwrap();
    let (out, err) = (log.try_clone().unwrap(), log.try_clone().unwrap());
    let name = command.get_program().to_owned();
    let spawned = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
    let mut child =
        spawned.unwrap_or_else(|error| panic!("{name:?}: {error}: `cargo xtask setup`"));
    let started = Instant::now();
    let mut hangs = false;
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > LIMIT {
            hangs = true;
            child.kill().unwrap();
        }
        thread::sleep(Duration::from_millis(20));
    }
    let mut output = Vec::new();
    log.rewind().unwrap();
    log.read_to_end(&mut output).unwrap();
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(!hangs, "{name:?} hangs after {output}");
    output
}

/// Each of `parts` is in `output`, one after the other.
#[track_caller]
pub fn assert_in_order(output: &str, parts: &[&str]) {
    let mut rest = output;
    for part in parts {
        let Some(at) = rest.find(part) else {
            panic!("{part:?} is not where it should be in:\n{output}");
        };
        rest = &rest[at + part.len()..];
    }
}
