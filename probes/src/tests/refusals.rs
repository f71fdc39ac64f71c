//! What is refused, and in which words.

use super::{FUNCTION, Rig, VCPU0, at, gpa, symbol, table};
use crate::addr::{Gva, PAGE_SIZE};
use crate::fake::stage1::{Page, Stage1};
use crate::fake::{FakeMachine, asm};
use crate::machine::{HwPoint, RunControl, WatchKind};
use crate::options::{ProbeMode, ProbeOptions};
use crate::refusal::Refusal;
use crate::space::{AfterRun, MAX_SITES, Placement, ProbeId};
use crate::target::Target;
use alloc::format;
use alloc::string::ToString;

fn refusal(rig: &Rig, address: Gva) -> Refusal {
    rig.space.insert_breakpoint(address, VCPU0).unwrap_err()
}

#[test]
fn addresses_that_cannot_carry_a_probe() {
    let rig = Rig::new(1);
    assert_eq!(
        refusal(&rig, Gva(at(FUNCTION).0 + 2)),
        Refusal::Unaligned(Gva(at(FUNCTION).0 + 2))
    );
    let device = refusal(&rig, Gva(FakeMachine::DEVICE.0));
    assert!(matches!(device, Refusal::NotRam { .. }), "{device}");
    assert_eq!(rig.space.list(), []);
    assert_eq!(rig.machine.armed(), []);
}

/// Adds one to a word that others may write to.
fn increment() -> [u32; 5] {
    [
        asm::ldxr(1, 0),
        asm::add(1, 1, 1),
        asm::stxr(2, 1, 0),
        asm::cbnz(2, -12),
        asm::ret(),
    ]
}

#[test]
fn inside_an_exclusive_sequence() {
    let rig = Rig::new(1);
    rig.machine.load(gpa(0x80), &increment());
    for offset in [0x84, 0x88] {
        let refused = refusal(&rig, at(offset));
        let expected = Refusal::ExclusiveSequence {
            address: at(offset),
            after: at(0x8c),
        };
        assert_eq!(refused, expected);
    }
    for offset in [0x80, 0x8c, 0x90] {
        assert!(rig.space.insert_breakpoint(at(offset), VCPU0).is_ok());
    }
}

#[test]
fn pages_of_a_guest_with_mmu() {
    let rig = Rig::new(1);
    rig.machine
        .load(gpa(0x80), &[asm::bti_c(), asm::nop(), asm::ret()]);
    let mut tables = Stage1::new(rig.machine, gpa(16 * PAGE_SIZE));
    let [plain, guarded, user] = [0x1000_0000, 0x1001_0000, 0x1002_0000].map(Gva);
    tables.map(plain, gpa(0), Page::Kernel);
    tables.map(guarded, gpa(0), Page::GuardedKernel);
    tables.map(user, gpa(0), Page::User);
    rig.machine.hold();
    tables.install(VCPU0);
    let insert = |page: Gva| rig.space.insert_breakpoint(Gva(page.0 + 0x80), VCPU0);
    let plain_pad = Gva(plain.0 + 0x80);
    assert_eq!(insert(plain), Ok(Placement::Armed { address: plain_pad }));
    // HVC is no landing pad.
    let after_pad = Gva(guarded.0 + 0x84);
    assert_eq!(insert(guarded), Ok(Placement::Armed { address: after_pad }));
    assert_eq!(insert(user), Err(Refusal::UserCode(Gva(user.0 + 0x80))));
}

#[test]
fn a_symbol_that_is_not_there() {
    let rig = Rig::new(1);
    let names = [
        (at(0), "do_sys_open"),
        (at(4), "do_sys_openat2"),
        (at(8), "vfs_read"),
    ];
    rig.space.set_symbols(table(&names));
    let program = rig.program("args");
    let attach = |name| {
        let refused = rig
            .space
            .attach_probe(&symbol(name), program.clone(), AfterRun::Go);
        refused.unwrap_err().to_string()
    };
    assert_eq!(
        attach("do_sys_openat"),
        "no symbol do_sys_openat in vm1. Did you mean do_sys_open, do_sys_openat2?"
    );
    assert_eq!(attach("nothing"), "no symbol nothing in vm1.");
    let action = rig
        .space
        .attach_action(&symbol("nothing"), program.clone(), AfterRun::Go);
    assert!(matches!(action, Err(Refusal::NoSymbol { .. })));
}

#[test]
fn a_symbol_that_is_there_twice() {
    let rig = Rig::new(1);
    rig.space.set_symbols(table(&[
        (at(0), "work"),
        (at(4), "work"),
        (at(8), "alias"),
        (at(8), "alias"),
    ]));
    let program = rig.program("args");
    let attach = |name| {
        rig.space
            .attach_probe(&symbol(name), program.clone(), AfterRun::Go)
    };
    assert_eq!(
        attach("work").unwrap_err().to_string(),
        format!(
            "work can be several symbols of vm1: {}, {}. Say which by its address.",
            at(0),
            at(4)
        )
    );
    assert!(attach("alias").is_ok(), "two names for one place");
}

#[test]
fn sites_run_out() {
    let rig = Rig::new(1);
    rig.machine.load(gpa(0x1000), &[asm::nop(); MAX_SITES + 1]);
    let program = rig.program("count");
    let attach = |index: usize| {
        let target = Target::Address(at(0x1000 + 4 * index as u64));
        rig.space
            .attach_probe(&target, program.clone(), AfterRun::Go)
    };
    let ids: alloc::vec::Vec<_> = (0..MAX_SITES)
        .map(|index| attach(index).unwrap().0)
        .collect();
    assert_eq!(attach(MAX_SITES), Err(Refusal::TooManySites(MAX_SITES)));
    rig.space.detach(ids[7]).unwrap();
    assert!(attach(MAX_SITES).is_ok());
    assert_eq!(rig.machine.armed().len(), MAX_SITES);
}

#[test]
fn probes_and_watchpoints_that_do_not_exist() {
    let rig = Rig::new(1);
    let missing = rig.space.detach(ProbeId(9)).unwrap_err();
    assert_eq!(
        missing,
        Refusal::NoSuchProbe {
            vm: rig.space.vm(),
            id: 9
        }
    );
    rig.space.remove_breakpoint(at(0));
    for (address, length) in [(at(0), 0), (Gva(u64::MAX), 2), (at(1), 64)] {
        let watch = HwPoint::Watch {
            address,
            length,
            kind: WatchKind::Access,
        };
        let refused = rig.space.insert_hw(watch).unwrap_err();
        assert!(matches!(refused, Refusal::Hardware(_)), "{refused}");
    }
    assert_eq!(rig.machine.points(), []);
}

#[test]
fn data_is_no_place_for_a_probe() {
    let rig = Rig::new(1);
    let program = rig.program("count");
    let attach = |address: Gva, mode| {
        let options = ProbeOptions {
            mode,
            ..ProbeOptions::default()
        };
        let target = Target::Address(address);
        rig.space.attach_probe(&target, program.clone(), options)
    };
    // A literal between code, such as an offset of a jump table.
    rig.machine.load(gpa(0x80), &[asm::nop(), 0x0000_01c4]);
    let mut tables = Stage1::new(rig.machine, gpa(16 * PAGE_SIZE));
    let [code, data] = [0x1000_0000, 0x1001_0000].map(Gva);
    tables.map(code, gpa(0), Page::Kernel);
    tables.map(data, gpa(0), Page::KernelData);
    rig.machine.hold();
    tables.install(VCPU0);
    for mode in [ProbeMode::Hvc, ProbeMode::Xn, ProbeMode::Hw] {
        let literal = Gva(code.0 + 0x84);
        let refused = Refusal::NotAnInstruction {
            address: literal,
            word: 0x1c4,
        };
        assert_eq!(attach(literal, mode), Err(refused));
        let word = Gva(data.0 + 0x80);
        assert_eq!(attach(word, mode), Err(Refusal::NotExecutable(word)));
        assert!(attach(Gva(code.0 + 0x80), mode).is_ok());
    }
    let word = Gva(data.0 + 0x80);
    let refused = rig.space.insert_breakpoint(word, VCPU0);
    assert_eq!(refused, Err(Refusal::NotExecutable(word)));
}

#[test]
fn a_page_that_begins_inside_an_exclusive_sequence() {
    let rig = Rig::new(1);
    rig.machine.load(gpa(PAGE_SIZE - 8), &increment());
    let attach = |mode| {
        let options = ProbeOptions {
            mode,
            ..ProbeOptions::default()
        };
        let target = Target::Address(at(PAGE_SIZE + 4));
        rig.space.attach_probe(&target, None, options)
    };
    let page = at(PAGE_SIZE);
    assert_eq!(attach(ProbeMode::Xn), Err(Refusal::PageInSequence { page }));
    assert!(attach(ProbeMode::Hvc).is_ok());
}
