//! Whole sessions: what clients of several endpoints send, in turn, over a fake machine. Whatever it is, when they are
//! gone the guests run, nothing of theirs is left in them, and the next client is served.
//!
//! # Input
//!
//! What happens, with a `#` in between, as `seeds/session` has it of real clients. A packet stands for itself, without
//! its frame. Other things begin with a byte that no packet begins with ([`event`]).

use probes::addr::{Gpa, Gva};
use probes::fake::{FakeMachine, asm, traced_fleet};
use probes::machine::{Lifecycle, RunControl, VcpuId};
use probes::periscope::Periscope;
use std::cell::RefCell;
use stub::commands::{self, Caller};
use stub::{ByteChannel, Endpoint, MachineSession, Server, Session};

/// First bytes of what is no packet.
pub mod event {
    /// Ctrl-C.
    pub const INTERRUPT: u8 = 3;
    /// The guests execute as many instructions as the next byte says.
    pub const RUN: u8 = 0x80;
    /// The client is gone.
    pub const CLOSED: u8 = 0x81;
    /// A client has come.
    pub const OPENED: u8 = 0x82;
    /// A client has come in the place of another.
    pub const REPLACED: u8 = 0x83;
    /// The endpoint whose client speaks next: its number is the next byte.
    pub const ENDPOINT: u8 = 0x84;
    /// Bytes as they are.
    pub const RAW: u8 = 0x85;
}

/// Where the guests' program begins.
const ENTRY: u64 = FakeMachine::RAM_BASE.0;
/// How much happens in one run at most.
const MAX_EVENTS: usize = 150;
/// How many instructions the guests execute after each event.
const STEPS: usize = 8;

thread_local! {
    // A fleet lives as long as the process, so one has to do for all inputs.
    static WORLD: RefCell<World> = RefCell::new(World::new());
}

/// Plays the input.
pub fn check(bytes: &[u8]) {
    WORLD.with_borrow_mut(|world| world.play(bytes));
}

struct World {
    periscope: &'static Periscope,
    server: &'static Server,
    machines: Vec<&'static FakeMachine>,
}

/// A channel whose client reads everything.
#[derive(Default)]
struct Wire(Vec<u8>);

impl ByteChannel for Wire {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.extend_from_slice(bytes);
        bytes.len()
    }
}

/// A loop that calls a function, which counts in memory.
fn program() -> Vec<u32> {
    vec![
        asm::movz(3, 0x1000),
        asm::movk(3, 0x4000, 1),
        asm::bl(8),
        asm::b(-4),
        asm::nop(),
        asm::add(0, 0, 1),
        asm::str(0, 3, 0),
        asm::ret(),
    ]
}

impl World {
    fn new() -> Self {
        let fleet = traced_fleet(2, 2, &[stub::tracepoints::ALL]);
        let (periscope, machines) = fleet.expect("built-in programs load");
        Self {
            periscope,
            server: Box::leak(Box::new(Server::new(periscope))),
            machines,
        }
    }

    fn endpoints(&self) -> Vec<Box<dyn Endpoint>> {
        let vms = (0..).map_while(|index| Session::new(self.server, index));
        let mut endpoints: Vec<Box<dyn Endpoint>> = Vec::new();
        for session in vms {
            endpoints.push(Box::new(session));
        }
        endpoints.push(Box::new(Session::of_tools(self.server)));
        endpoints.push(Box::new(MachineSession::new(self.server)));
        endpoints
    }

    fn play(&mut self, bytes: &[u8]) {
        self.boot();
        let mut endpoints = self.endpoints();
        let mut speaker = 0;
        for happening in bytes.split(|byte| *byte == b'#').take(MAX_EVENTS) {
            let count = endpoints.len();
            let endpoint = &mut endpoints[speaker];
            match happening {
                [event::INTERRUPT] => endpoint.receive(&[event::INTERRUPT]),
                [event::RUN, steps] => self.run((*steps).into()),
                [event::CLOSED] => endpoint.closed(),
                [event::OPENED] => endpoint.opened(),
                [event::REPLACED] => endpoint.replaced(),
                [event::ENDPOINT, number] => speaker = usize::from(*number) % count,
                [event::RAW, raw @ ..] => endpoint.receive(raw),
                body => endpoint.receive(&frame(body)),
            }
            self.run(STEPS);
            for endpoint in &mut endpoints {
                endpoint.poll();
                endpoint.flush(&mut Wire::default());
            }
        }
        for endpoint in &mut endpoints {
            endpoint.closed();
            endpoint.poll();
        }
        self.check_left();
        check_next(&mut *endpoints[0]);
        self.clean();
    }

    fn boot(&self) {
        for machine in &self.machines {
            machine.load(Gpa(ENTRY), &program());
            machine.reset();
            machine.start();
            machine.power_on(VcpuId(1), Gva(ENTRY), 0);
        }
    }

    fn run(&self, steps: usize) {
        for machine in &self.machines {
            machine.run(steps);
        }
    }

    /// Without clients nobody holds a VM, and only probes are in it.
    fn check_left(&self) {
        for (space, machine) in self.periscope.spaces().iter().zip(&self.machines) {
            assert!(!machine.held(), "{} is held", space.vm());
            assert!(machine.points().is_empty(), "hardware points are left");
            let probes = space.list();
            assert!(
                probes.iter().any(|probe| probe.id.is_some()) || machine.armed().is_empty(),
                "{:?} is armed",
                machine.armed()
            );
        }
    }

    /// Takes away what stays when a client goes.
    fn clean(&self) {
        for space in self.periscope.all_spaces() {
            for id in space.list().into_iter().filter_map(|probe| probe.id) {
                let detached = space.detach(id);
                detached.expect("a probe that is listed can be detached");
            }
        }
        for line in ["trace disable *", "trace reset"] {
            let _ = commands::run(self.server, &Caller::Shell, line, &mut String::new());
        }
        for name in self.periscope.programs().names() {
            // Those that are built in stay.
            let _ = self.periscope.unload_program(&name);
        }
        for machine in &self.machines {
            assert!(machine.armed().is_empty(), "{:?} is armed", machine.armed());
        }
    }
}

/// The next client is served.
fn check_next(endpoint: &mut dyn Endpoint) {
    endpoint.opened();
    endpoint.receive(&frame(b"qSupported:"));
    let mut wire = Wire::default();
    endpoint.flush(&mut wire);
    let hello = String::from_utf8_lossy(&wire.0).into_owned();
    assert!(hello.starts_with("+$PacketSize="), "{hello}");
    endpoint.closed();
}

/// A packet in its frame.
fn frame(body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    [b"$", body, format!("#{sum:02x}").as_bytes()].concat()
}
