//! A guest that puts another kernel in the place of its own.

use super::{CALLS, FUNCTION, LONG, Rig, VCPU0, at, gpa, symbol, table};
use crate::addr::{Gva, PAGE_SIZE};
use crate::fake::asm;
use crate::fake::stage1::{Page, Stage1};
use crate::options::Moment;
use crate::regs::SysReg;
use crate::space::{AfterRun, KERNEL_PAUSE, Placement, ProbeMode, ProbeOptions, ProbeState};
use crate::symbols::Symbols;
use crate::target::Target;
use alloc::sync::Arc;
use alloc::vec;

/// Where the kernels are mapped: the first, and the one after it.
const OLD: u64 = 0xffff_ff80_0800_0000;
const NEW: u64 = 0xffff_ff80_2000_0000;
/// Their vectors.
const VECTORS: u64 = 0x800;

/// The symbols of a kernel that is mapped there.
fn symbols(base: u64) -> Arc<dyn Symbols> {
    table(&[
        (Gva(base + FUNCTION), "function"),
        (Gva(base + VECTORS), "vectors"),
    ])
}

/// The vCPU runs a kernel in RAM's first page that is mapped at `base`.
fn enter(rig: &Rig, base: u64, tables_at: u64) {
    let mut tables = Stage1::new(rig.machine, gpa(tables_at));
    tables.map(at(0), gpa(0), Page::Kernel);
    tables.map(Gva(base), gpa(0), Page::Kernel);
    rig.held(|machine| {
        tables.install(VCPU0);
        let vectors = base + VECTORS;
        machine.set_sys(VCPU0, SysReg::VbarEl1, vectors).unwrap();
    });
}

/// A guest in its first kernel.
fn rig() -> Rig {
    let rig = Rig::new(1);
    enter(&rig, OLD, 16 * PAGE_SIZE);
    rig.space.set_symbols(symbols(OLD));
    rig
}

#[test]
fn the_same_kernel_keeps_its_probes() {
    let rig = rig();
    let (probe, _) = rig
        .space
        .attach_probe(&symbol("function"), None, AfterRun::Go)
        .unwrap();
    assert!(!rig.held(|_| rig.space.kernel_begins()));
    assert_eq!(rig.listing(probe).state, ProbeState::On);
    assert!(rig.space.symbols().is_some());
    rig.machine.run(LONG);
    assert_eq!(rig.listing(probe).hits, CALLS);
}

/// Of which nothing is known but that it asks what kernels ask.
#[test]
fn a_guest_without_symbols_keeps_its_probes() {
    let rig = Rig::new(1);
    let target = Target::Address(at(FUNCTION));
    let options = ProbeOptions {
        moment: Moment::RETURN,
        ..ProbeOptions::default()
    };
    let (probe, _) = rig.space.attach_probe(&target, None, options).unwrap();
    rig.machine.run(3);
    assert!(!rig.held(|_| rig.space.kernel_begins()));
    rig.machine.run(LONG);
    assert_eq!(rig.listing(probe).hits, CALLS);
}

#[test]
fn another_kernel_gets_the_probes_where_its_symbols_say() {
    let rig = rig();
    let attach = |mode| {
        let options = ProbeOptions {
            mode,
            ..ProbeOptions::default()
        };
        let target = symbol("function");
        rig.space.attach_probe(&target, None, options).unwrap().0
    };
    let probes = [ProbeMode::Hvc, ProbeMode::Xn, ProbeMode::Hw].map(attach);
    // The new kernel has its function elsewhere, in the same memory and by another address.
    let moved = FUNCTION + 0x40;
    rig.machine.load(gpa(moved), &[asm::ret()]);
    enter(&rig, NEW, 32 * PAGE_SIZE);
    assert!(rig.held(|_| rig.space.kernel_begins()));
    // Its symbols cannot be found in the fake's memory.
    assert!(rig.space.symbols().is_none());
    assert_eq!(
        (rig.machine.armed(), rig.machine.points()),
        (vec![], vec![])
    );
    for probe in probes {
        assert_eq!(rig.listing(probe).state, ProbeState::Pending);
    }
    rig.space.set_symbols(table(&[
        (Gva(NEW + moved), "function"),
        (Gva(NEW + VECTORS), "vectors"),
    ]));
    rig.space.attend();
    let armed = rig.machine.armed();
    assert!(
        matches!(armed[..], [(word, _)] if word == gpa(moved)),
        "{armed:?}"
    );
    for probe in probes {
        assert_eq!(rig.listing(probe).address, Some(Gva(NEW + moved)));
    }
}

#[test]
fn nothing_is_armed_between_two_kernels() {
    let rig = rig();
    // By its address, in the memory that both kernels have.
    let (probe, placed) = rig
        .space
        .attach_probe(&Target::Address(at(FUNCTION)), None, AfterRun::Go)
        .unwrap();
    assert!(matches!(placed, Placement::Armed { .. }));
    rig.space.kernel_left();
    rig.space.attend();
    assert_eq!(rig.machine.armed(), []);
    assert_eq!(rig.listing(probe).state, ProbeState::Pending);
    assert!(rig.held(|_| rig.space.kernel_begins()));
    assert_eq!(rig.machine.armed().len(), 1);
    rig.machine.run(LONG);
    assert_eq!(rig.listing(probe).hits, CALLS);
}

/// What was no kernel's end, or the end of one whose successor says nothing.
#[test]
fn what_waits_for_a_kernel_does_not_wait_for_ever() {
    let rig = rig();
    let target = Target::Address(at(FUNCTION));
    rig.space.attach_probe(&target, None, AfterRun::Go).unwrap();
    rig.space.kernel_left();
    rig.machine.pass_time(KERNEL_PAUSE);
    rig.space.attend();
    assert_eq!(rig.machine.armed().len(), 1);
}
