//! The probe layer on the fake machine.

mod breakpoints;
mod gdb_trace;
mod guest_writes;
mod kernels;
mod lookups;
mod model;
mod modes;
mod options;
mod own_code;
mod pending;
mod probes;
mod refusals;
mod returns;

use crate::addr::{Gpa, Gva};
use crate::event::TraceEvent;
use crate::fake::{FakeMachine, FakeSymbols, asm, fleet};
use crate::machine::{GuestFault, LiveMemory, RunControl, StopReason, VcpuId};
use crate::periscope::Periscope;
use crate::programs::ProgramRef;
use crate::space::{Listing, ProbeId, Space};
use crate::symbols::Symbols;
use crate::target::Target;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How often the guest of a [`Rig`] calls its function.
const CALLS: u64 = 20;
/// More turns than the guest of a [`Rig`] needs.
const LONG: usize = 1000;
/// The function's entry.
const FUNCTION: u64 = 0x40;

const VCPU0: VcpuId = VcpuId(0);
const VCPU1: VcpuId = VcpuId(1);

/// One VM, and a guest that calls `function` [`CALLS`] times on every vCPU.
struct Rig {
    periscope: &'static Periscope,
    machine: &'static FakeMachine,
    space: &'static Space,
}

impl Rig {
    fn new(vcpus: usize) -> Self {
        let (periscope, machines) = fleet(1, vcpus).unwrap();
        let machine = machines[0];
        let main = [
            asm::movz(19, CALLS as u16),
            asm::bl(FUNCTION as i32 - 4),
            asm::subs(19, 19, 1),
            asm::cbnz(19, -8),
            asm::b(0),
        ];
        let function = [asm::add(0, 0, 1), asm::nop(), asm::ret()];
        machine.load(FakeMachine::RAM_BASE, &main);
        machine.load(gpa(FUNCTION), &function);
        for vcpu in 1..vcpus {
            machine.power_on(VcpuId(vcpu as u8), at(0), 0);
        }
        Self {
            periscope,
            machine,
            space: &periscope.spaces()[0],
        }
    }

    fn program(&self, name: &str) -> ProgramRef {
        self.periscope.programs().program(name).unwrap()
    }

    /// Runs until the VM stops, and says why; the VM is then held, as in a session.
    fn run_to_stop(&self) -> Option<StopReason> {
        self.machine.run(LONG);
        self.machine.take_stop().map(|stop| stop.reason)
    }

    /// Goes on as a session does.
    fn resume(&self) -> Option<StopReason> {
        self.space.reconcile();
        self.machine.release();
        self.run_to_stop()
    }

    fn x(&self, vcpu: VcpuId, register: usize) -> u64 {
        self.held(|machine| machine.core(vcpu).unwrap().x[register])
    }

    fn pc(&self, vcpu: VcpuId) -> Gva {
        self.held(|machine| Gva(machine.core(vcpu).unwrap().pc))
    }

    fn held<T>(&self, access: impl FnOnce(&dyn crate::machine::Machine) -> T) -> T {
        self.machine.hold();
        let result = access(self.machine);
        self.machine.release();
        result
    }

    fn listing(&self, id: ProbeId) -> Listing {
        let list = self.space.list();
        list.into_iter()
            .find(|listing| listing.id == Some(id))
            .expect("it is attached")
    }

    /// The only breakpoint of GDB's.
    fn breakpoint(&self) -> Listing {
        let mut breakpoints = self
            .space
            .list()
            .into_iter()
            .filter(|listing| listing.id.is_none());
        let breakpoint = breakpoints.next().expect("there is a breakpoint");
        assert_eq!(breakpoints.next(), None, "one breakpoint");
        breakpoint
    }

    /// All hits, without what they had to say.
    fn hits(&self) -> Vec<TraceEvent> {
        let mut hits = Vec::new();
        self.periscope.events().drain(&mut |event, _| {
            if !event.kind.is_text() {
                hits.push(*event);
            }
        });
        hits
    }

    /// All text that programs and sites had to say.
    fn events(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.periscope.events().drain(&mut |event, text| {
            if event.kind.is_text() {
                lines.push(String::from_utf8_lossy(text).to_string());
            }
        });
        lines
    }
}

/// The address `offset` bytes into RAM, with the MMU off.
fn at(offset: u64) -> Gva {
    Gva(gpa(offset).0)
}

fn gpa(offset: u64) -> Gpa {
    Gpa(FakeMachine::RAM_BASE.0 + offset)
}

fn symbol(name: &str) -> Target {
    Target::parse(name).unwrap()
}

/// Symbols in order of address.
fn table(symbols: &[(Gva, &'static str)]) -> Arc<dyn Symbols> {
    Arc::new(FakeSymbols::new(symbols.iter().copied()))
}

/// The memory of a vCPU that has none.
struct NoMemory;

impl LiveMemory for NoMemory {
    fn task(&self) -> u64 {
        0
    }

    fn read(&self, address: Gva, _: &mut [u8]) -> Result<(), GuestFault> {
        Err(GuestFault { address })
    }

    fn write(&self, address: Gva, _: &[u8]) -> Result<(), GuestFault> {
        Err(GuestFault { address })
    }
}

/// A program that reads guest memory, as it is uploaded.
pub(crate) fn reader() -> Vec<u8> {
    use ebpf::asm::reg::{FP, R0, R1, R2, R3};
    use ebpf::asm::{call, exit, mov, mov_imm};
    let mut linked = ebpf::builtin::linked("count").unwrap();
    linked.maps.clear();
    linked.programs[0].insns = alloc::vec![
        mov(R1, FP),
        ebpf::asm::alu_imm(ebpf::insn::alu::ADD, R1, -8),
        mov_imm(R2, 8),
        mov_imm(R3, 0x1000),
        call(ebpf::helper::Helper::ProbeRead),
        mov_imm(R0, 0),
        exit(),
    ];
    linked.encode().unwrap()
}
