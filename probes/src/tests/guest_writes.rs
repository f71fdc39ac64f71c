//! The guest writes where a probe is.

use super::{LONG, Rig, VCPU0, at, gpa};
use crate::fake::asm;
use crate::machine::{PhysMemory, RunControl, StopReason};
use crate::regs::SysReg;
use crate::space::AfterRun;
use crate::target::Target;

/// The word that the guest of [`patching`] writes.
const PATCHED: u64 = 0x18;

/// A guest that executes the word at [`PATCHED`], writes `word` there, and executes it again.
fn patching(word: u32) -> Rig {
    let rig = Rig::new(1);
    let code = [
        asm::movz(1, PATCHED as u16),
        asm::movk(1, 0x4000, 1),
        asm::movz(2, word as u16),
        asm::movk(2, (word >> 16) as u16, 1),
        asm::movz(3, 2),
        asm::nop(),
        // PATCHED:
        asm::add(0, 0, 1),
        asm::str_w(2, 1),
        asm::subs(3, 3, 1),
        asm::cbnz(3, -12),
        asm::b(0),
    ];
    rig.machine.load(gpa(0), &code);
    rig
}

#[test]
fn a_site_adopts_what_the_guest_writes() {
    let rig = patching(asm::add(0, 0, 100));
    let target = Target::Address(at(PATCHED));
    let (probe, _) = rig
        .space
        .attach_probe(&target, rig.program("count"), AfterRun::Go)
        .unwrap();
    rig.machine.run(LONG);
    assert_eq!(rig.x(VCPU0, 0), 101);
    assert_eq!(rig.listing(probe).hits, 2);
}

#[test]
fn a_breakpoint_of_the_guests_own_is_the_guests() {
    let rig = patching(asm::brk(0x123));
    let target = Target::Address(at(PATCHED));
    let (probe, _) = rig
        .space
        .attach_probe(&target, rig.program("count"), AfterRun::Go)
        .unwrap();
    // VBAR_EL1 is 0, where nothing is: the eleventh instruction is the BRK, the next would fault.
    rig.machine.run(11);
    let (esr, elr) = rig.held(|machine| {
        let sys = machine.sys(VCPU0).unwrap();
        (sys.get(SysReg::EsrEl1), sys.get(SysReg::ElrEl1))
    });
    assert_eq!((esr >> 26, esr & 0xffff, elr), (0x3c, 0x123, at(PATCHED).0));
    assert_eq!(rig.listing(probe).hits, 2);
}

#[test]
fn the_debugger_reads_the_original_and_its_writes_are_adopted() {
    let rig = Rig::new(1);
    rig.space.insert_breakpoint(at(0), VCPU0).unwrap();
    let mut word = [0; 4];
    rig.machine.read_phys(gpa(0), &mut word).unwrap();
    assert_eq!(u32::from_le_bytes(word), asm::movz(19, super::CALLS as u16));
    rig.machine
        .write_phys(gpa(0), &asm::movz(19, 3).to_le_bytes())
        .unwrap();
    assert_eq!(rig.run_to_stop(), Some(StopReason::Site { probe: None }));
    assert_eq!(rig.resume(), None);
    assert_eq!(rig.x(VCPU0, 0), 3);
    assert!(!rig.machine.held());
}
