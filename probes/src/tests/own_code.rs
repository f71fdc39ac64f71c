//! Probes on the hypervisor's own code: the space `hyp` over a fake.

use super::{NoMemory, VCPU0, at, gpa, symbol, table};
use crate::a64::{Unmovable, brk};
use crate::addr::Gva;
use crate::engine::{HVC_BASE, HitOutcome, Trap};
use crate::fake::{FakeMachine, asm};
use crate::kernel::NoKernel;
use crate::machine::{Clock, FetchTrap, VmId};
use crate::own_code::{Hypervisor, Probeable};
use crate::periscope::Periscope;
use crate::programs::MapMemory;
use crate::refusal::Refusal;
use crate::regs::CoreRegs;
use crate::space::{AfterRun, Placement, ProbeKind, Space};
use crate::symbols::Symbols;
use crate::tracepoint::Tracer;
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;

const RULE: Probeable = Probeable {
    crates: &["hypervisor"],
    except: &["hypervisor::hit"],
    unmangled: &["handle_guest_exit"],
};

/// `STP X29, X30, [SP, #-16]!`.
const STP: u32 = 0xa9bf_7bfd;
/// `ERET`.
const ERET: u32 = 0xd69f_03e0;

struct Own {
    periscope: &'static Periscope,
    machine: &'static FakeMachine,
}

impl Own {
    fn new() -> Self {
        Self::with(Some(table(&[
            (at(0x000), "handle_guest_exit"),
            (at(0x100), "hypervisor::psci::call"),
            (at(0x200), "hypervisor::hit::serve"),
            (at(0x300), "probes::engine::run"),
        ])))
    }

    fn with(symbols: Option<Arc<dyn Symbols>>) -> Self {
        let machine = FakeMachine::leak(VmId::HYPERVISOR, 2, 0x1_0000);
        machine.load(gpa(0), &[asm::nop(), asm::b(8), ERET, asm::ret()]);
        machine.load(gpa(0x100), &[STP, asm::ret()]);
        let own = Hypervisor {
            machine,
            symbols,
            probeable: RULE,
            compiler: None,
            map_memory: MapMemory::DEFAULT,
        };
        let tracer = Arc::new(Tracer::new(2, &[]));
        let periscope = Periscope::new(&[], Some(own), tracer).unwrap();
        let periscope: &'static Periscope = Box::leak(Box::new(periscope));
        Self { periscope, machine }
    }

    fn space(&self) -> &'static Space {
        self.periscope.space("hyp").unwrap()
    }

    fn attach(&self, place: &str) -> Result<Placement, Refusal> {
        let count = self.periscope.programs().program("count").unwrap();
        let attached = self
            .space()
            .attach_probe(&symbol(place), count, AfterRun::Go);
        attached.map(|(_, placement)| placement)
    }
}

fn regs(pc: Gva) -> CoreRegs {
    CoreRegs {
        pc: pc.0,
        pstate: 0b1001,
        ..CoreRegs::default()
    }
}

#[test]
fn the_probe_is_a_brk() {
    let own = Own::new();
    let armed = Ok(Placement::Armed { address: at(0x100) });
    assert_eq!(own.attach("hypervisor::psci::call"), armed);
    assert_eq!(
        own.machine.armed(),
        [(gpa(0x100), FetchTrap::Instruction(brk(HVC_BASE)))]
    );
    let list = own.space().list();
    assert_eq!(list[0].kind, ProbeKind::Hprobe);
    assert_eq!(list[0].site, "hypervisor::psci::call");
    own.space().detach(list[0].id.unwrap()).unwrap();
    assert_eq!(own.machine.armed(), []);
}

#[test]
fn hits_run_and_say_where_the_instruction_executes() {
    let own = Own::new();
    own.attach("hypervisor::psci::call").unwrap();
    own.attach("handle_guest_exit+4").unwrap();
    let hit = |slot, pc| {
        let mut regs = regs(pc);
        let trap = &mut Trap {
            vcpu: VCPU0,
            regs: &mut regs,
            memory: &NoMemory,
            stamp: own.machine.stamp(),
        };
        let outcome = own.space().hit(HVC_BASE + slot, trap);
        (outcome, regs.pc)
    };
    // A store executes out of line, a branch is simulated.
    assert_eq!(hit(0, at(0x100)), (HitOutcome::Step, at(0x100).0));
    assert_eq!(hit(1, at(4)), (HitOutcome::Resume, at(12).0));
    assert_eq!(hit(1, at(0x100)).0, HitOutcome::NotOurs);
    let counts = |index: usize| {
        let list = own.space().list();
        (list[index].hits, list[index].missed)
    };
    assert_eq!((counts(0), counts(1)), ((1, 0), (1, 0)));
    own.space().hit_inside_probe(HVC_BASE);
    own.space().hit_inside_probe(HVC_BASE + 7);
    own.space().hit_inside_probe(0);
    assert_eq!((counts(0), counts(1)), ((1, 1), (1, 0)));
}

#[test]
fn code_that_serves_probes_is_refused() {
    let own = Own::new();
    for place in ["hypervisor::hit::serve", "probes::engine::run"] {
        let refusal = own.attach(place).unwrap_err();
        let said = alloc::format!("hyp:{place} serves probes itself and cannot be probed.");
        assert_eq!(refusal.to_string(), said);
    }
    // So is what no symbol is known for, and a breakpoint of GDB's.
    let before = Refusal::ServesProbes {
        vm: VmId::HYPERVISOR,
        place: "0x3fffff00".to_string(),
    };
    assert_eq!(own.attach("0x3fffff00"), Err(before));
    let breakpoint = own.space().insert_breakpoint(at(0x200), VCPU0);
    assert!(matches!(breakpoint, Err(Refusal::ServesProbes { .. })));
    assert_eq!(own.machine.armed(), []);
}

#[test]
fn instructions_that_cannot_move_are_refused() {
    let own = Own::new();
    let unmovable = Refusal::Unmovable {
        vm: VmId::HYPERVISOR,
        address: at(8),
        reason: Unmovable::ExceptionState,
    };
    assert_eq!(own.attach("handle_guest_exit+8"), Err(unmovable));
    assert_eq!(
        own.attach("handle_guest_exit+2"),
        Err(Refusal::Unaligned(at(2)))
    );
}

#[test]
fn nothing_works_without_symbols() {
    let bare = Own::with(None);
    assert_eq!(bare.attach("f"), Err(Refusal::NoOwnSymbols));
    assert!(matches!(
        bare.attach("0x40000000"),
        Err(Refusal::ServesProbes { .. })
    ));
    assert_eq!(
        bare.space().find_symbols().err(),
        Some(NoKernel::Hypervisor)
    );
}

#[test]
fn places_name_the_hypervisor() {
    let own = Own::new();
    let here = own.space();
    let (space, target) = own.periscope.place("hyp:a::b+4", here).unwrap();
    assert_eq!(
        (space.vm(), target.to_string()),
        (VmId::HYPERVISOR, "a::b+0x4".to_string())
    );
    let (_, target) = own.periscope.place("a::b", here).unwrap();
    assert_eq!(target, symbol("a::b"));
}
