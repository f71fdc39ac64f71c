//! A fake machine under the whole server.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod recording;
pub mod serving;

use probes::addr::{Gpa, Gva};
use probes::fake::stage1::{Page, Stage1};
use probes::fake::{FakeMachine, FakeSymbols, asm, traced_fleet};
use probes::machine::VcpuId;
use probes::periscope::Periscope;
use std::sync::Arc;
use stub::{ByteChannel, Endpoint, Server, Session};

/// Where the guest's program begins.
pub const ENTRY: u64 = 0x4000_0000;
/// The loop that calls [`WORK`] for ever.
pub const AGAIN: u64 = ENTRY + 12;
/// The function `work`: counts its calls in x0 and in the word at [`DATA`].
pub const WORK: u64 = ENTRY + 20;
/// Where `work` stores.
pub const STORE: u64 = WORK + 8;
/// The word that `work` writes.
pub const DATA: u64 = ENTRY + 0x1000;

/// The guest.
fn program() -> Vec<u32> {
    vec![
        asm::movz(3, 0x1000),
        asm::movk(3, 0x4000, 1),
        asm::movz(0, 0),
        asm::bl(8), // AGAIN
        asm::b(-4),
        asm::nop(), // WORK
        asm::add(0, 0, 1),
        asm::str(0, 3, 0), // STORE
        asm::ret(),
    ]
}

/// The guest's symbols.
fn symbols() -> FakeSymbols {
    FakeSymbols::new([
        (Gva(ENTRY), "start"),
        (Gva(AGAIN), "again"),
        (Gva(WORK), "work"),
    ])
}

/// A channel that takes everything.
#[derive(Default)]
pub struct Wire(pub Vec<u8>);

impl ByteChannel for Wire {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.extend_from_slice(bytes);
        bytes.len()
    }
}

/// Two VMs of two vCPUs, all in the same program, and the endpoint of vm1.
pub struct Bench {
    pub periscope: &'static Periscope,
    pub server: &'static Server,
    pub machines: Vec<&'static FakeMachine>,
    pub session: Session,
}

impl Bench {
    /// `vcpus` vCPUs are on.
    pub fn new(vcpus: u8) -> Self {
        let (periscope, machines) = traced_fleet(2, 2, &[stub::tracepoints::ALL]).unwrap();
        for machine in &machines {
            machine.load(Gpa(ENTRY), &program());
            for vcpu in 1..vcpus {
                machine.power_on(VcpuId(vcpu), Gva(ENTRY), 0);
            }
        }
        for space in periscope.spaces() {
            space.set_symbols(Arc::new(symbols()));
        }
        let server: &'static Server = Box::leak(Box::new(Server::new(periscope)));
        let session = Session::new(server, 0).unwrap();
        Self {
            periscope,
            server,
            machines,
            session,
        }
    }

    /// A bench whose client has said hello and wants no acknowledgements.
    pub fn connected(vcpus: u8) -> Self {
        let mut bench = Self::new(vcpus);
        bench.session.opened();
        bench.hello()
    }

    /// The same on a channel that does not tell when clients come and go.
    pub fn connected_by_line(vcpus: u8) -> Self {
        Self::new(vcpus).hello()
    }

    /// The same bench with a client that comes after another.
    pub fn next_client(mut self) -> Self {
        self.session.opened();
        self.hello()
    }

    fn hello(mut self) -> Self {
        self.raw(&frame("qSupported:multiprocess+;swbreak+;hwbreak+"));
        assert_eq!(self.raw(&frame("QStartNoAckMode")), "+$OK#9a");
        self.session.receive(b"+");
        self
    }

    /// vm1.
    pub fn vm(&self) -> &'static FakeMachine {
        self.machines[0]
    }

    /// What the server answers to bytes.
    pub fn raw(&mut self, bytes: &[u8]) -> String {
        self.session.receive(bytes);
        self.output()
    }

    /// The same where they are no text.
    pub fn raw_bytes(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.session.receive(bytes);
        let mut wire = Wire::default();
        self.session.flush(&mut wire);
        wire.0
    }

    /// What the server has to send.
    pub fn output(&mut self) -> String {
        String::from_utf8_lossy(&self.raw_bytes(b"")).into_owned()
    }

    /// The bodies of what the server answers to a packet; console text is decoded: `O:text`.
    pub fn ask_all(&mut self, body: &str) -> Vec<String> {
        let raw = self.raw(&frame(body));
        bodies(&raw)
    }

    /// The one packet that the server answers with.
    pub fn ask(&mut self, body: &str) -> String {
        let bodies = self.ask_all(body);
        assert_eq!(bodies.len(), 1, "{body}: {bodies:?}");
        bodies.into_iter().next().unwrap()
    }

    /// Lets both VMs run.
    pub fn let_run(&self, steps: usize) {
        for machine in &self.machines {
            machine.run(steps);
        }
    }

    /// Lets both VMs run and the session see what happened.
    pub fn run(&mut self, steps: usize) -> Vec<String> {
        self.let_run(steps);
        self.session.poll();
        let raw = self.output();
        bodies(&raw)
    }

    /// What `monitor line` prints.
    pub fn monitor(&mut self, line: &str) -> String {
        let mut replies = self.ask_all(&format!("qRcmd,{}", hex(line)));
        assert_eq!(replies.pop().as_deref(), Some("OK"));
        replies
            .iter()
            .map(|reply| reply.strip_prefix("O:").unwrap())
            .collect()
    }

    /// Turns the MMU of vm1's vCPU 0 on, puts a function that begins with a landing pad and counts in x0 into a guarded page,
    /// and the vCPU into a loop that calls it. Returns where the function is.
    pub fn call_guarded(&mut self) -> u64 {
        let (function, caller, tables) = (ENTRY + 0x2000, ENTRY + 0x3000, ENTRY + 0x1_0000);
        let code = [asm::bti_c(), asm::add(0, 0, 1), asm::ret()];
        self.vm().load(Gpa(function), &code);
        self.vm().load(Gpa(caller), &[asm::bl(-0x1000), asm::b(-4)]);
        let mut stage1 = Stage1::new(self.vm(), Gpa(tables));
        stage1.map(Gva(function), Gpa(function), Page::GuardedKernel);
        stage1.map(Gva(caller), Gpa(caller), Page::Kernel);
        stage1.install(VcpuId(0));
        assert_eq!(self.ask(&format!("P20={}", le(caller))), "OK");
        assert_eq!(self.ask(&format!("P0={}", le(0))), "OK");
        function
    }

    /// A register of the current thread.
    pub fn register(&mut self, number: usize) -> u64 {
        let digits = self.ask(&format!("p{number:x}"));
        u64::from_str_radix(&digits, 16).unwrap().swap_bytes()
    }
}

/// Eight bytes as the protocol writes a register.
pub fn le(value: u64) -> String {
    format!("{:016x}", value.swap_bytes())
}

/// Text as pairs of digits.
pub fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes the escapes out of binary data that is text.
pub fn unescape(body: &str) -> String {
    let mut chars = body.chars();
    let mut text = String::new();
    while let Some(char) = chars.next() {
        text.push(match char {
            '}' => char::from(chars.next().expect("something is escaped") as u8 ^ 0x20),
            char => char,
        });
    }
    text
}

/// A body in its frame.
pub fn frame(body: &str) -> Vec<u8> {
    frame_bytes(body.as_bytes())
}

/// The same for bytes.
pub fn frame_bytes(body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    [b"$", body, format!("#{sum:02x}").as_bytes()].concat()
}

/// Takes the frames off, after looking at their checksums. Stop replies lose their registers ([`stop_registers`])
/// and the physical CPU.
pub fn bodies(raw: &str) -> Vec<String> {
    let bodies = all_of(raw).into_iter();
    bodies.map(|body| without_registers(&body)).collect()
}

/// The same with the registers.
pub fn all_of(raw: &str) -> Vec<String> {
    let frames = raw.trim_start_matches(['+', '-']).split('$').skip(1);
    frames
        .map(|rest| {
            let (body, sum) = rest.split_once('#').expect("a frame has an end");
            let expected = body.bytes().fold(0u8, |sum, byte| sum.wrapping_add(byte));
            assert_eq!(sum.trim_end_matches('+'), format!("{expected:02x}"));
            console(body).unwrap_or_else(|| body.to_string())
        })
        .collect()
}

/// A stop reply's registers: number and digits.
pub fn stop_registers(body: &str) -> Vec<(usize, String)> {
    let pairs = body.get(3..).unwrap_or_default().split(';');
    pairs
        .filter_map(|pair| {
            let (number, digits) = pair.split_once(':')?;
            Some((usize::from_str_radix(number, 16).ok()?, digits.to_string()))
        })
        .collect()
}

fn without_registers(body: &str) -> String {
    if !body.starts_with('T') {
        return body.to_string();
    }
    let (signal, pairs) = body.split_at(3);
    let is_about_registers = |pair: &&str| {
        let key = pair.split(':').next().unwrap_or_default();
        key == "core" || usize::from_str_radix(key, 16).is_ok()
    };
    let kept = pairs
        .split_inclusive(';')
        .filter(|pair| !is_about_registers(pair));
    [signal].into_iter().chain(kept).collect()
}

fn console(body: &str) -> Option<String> {
    let digits = body.strip_prefix('O').filter(|digits| *digits != "K")?;
    let bytes: Option<Vec<u8>> = (0..digits.len() / 2)
        .map(|pair| u8::from_str_radix(digits.get(2 * pair..2 * pair + 2)?, 16).ok())
        .collect();
    Some(format!("O:{}", String::from_utf8_lossy(&bytes?)))
}

/// An object with programs like `count`, by name and section.
pub fn object(programs: &[(&str, &str)]) -> Vec<u8> {
    let mut linked = ebpf::builtin::linked("count").expect("it is built in");
    let count = linked.programs.remove(0);
    for (name, section) in programs {
        let mut program = count.clone();
        (program.name, program.section) = ((*name).into(), (*section).into());
        linked.programs.push(program);
    }
    linked.encode().expect("it is within the limits")
}
