//! What waits for its page or its symbol.

use super::{CALLS, FUNCTION, LONG, Rig, VCPU0, at, gpa, symbol, table};
use crate::addr::{Gpa, Gva, PAGE_SIZE};
use crate::fake::stage1::{Page, Stage1};
use crate::fake::{HW_BREAKPOINTS, asm};
use crate::machine::{HwPoint, Lifecycle, RunControl, StopReason, WatchKind};
use crate::regs::pstate;
use crate::space::{AfterRun, Placement, ProbeMode, ProbeState};
use crate::target::Target;

/// Where the guest's code is mapped in the kernel's half.
const KERNEL: u64 = 0xffff_ff80_0800_0000;
const BREAKPOINT: StopReason = StopReason::Site { probe: None };

fn kernel(offset: u64) -> Gva {
    Gva(KERNEL + offset)
}

/// Turns the MMU on; RAM's first page is where it was.
fn mmu_on(rig: &Rig) -> Stage1 {
    let mut tables = Stage1::new(rig.machine, gpa(16 * PAGE_SIZE));
    tables.map(at(0), gpa(0), Page::Kernel);
    rig.machine.hold();
    tables.install(VCPU0);
    rig.machine.release();
    tables
}

/// Lets the vCPU go on in the kernel's half.
fn jump_to_kernel(rig: &Rig) {
    rig.held(|machine| {
        let mut regs = machine.core(VCPU0).unwrap();
        regs.pc = KERNEL;
        machine.set_core(VCPU0, &regs).unwrap();
    });
}

#[test]
fn a_breakpoint_arms_itself_when_its_page_comes() {
    let rig = Rig::new(1);
    assert_eq!(
        rig.space.insert_breakpoint(kernel(FUNCTION), VCPU0),
        Ok(Placement::Pending)
    );
    assert!(rig.space.wants_attention());
    assert_eq!(rig.machine.armed(), []);
    let mut tables = mmu_on(&rig);
    rig.space.attend();
    assert!(rig.space.wants_attention());
    tables.map(kernel(0), gpa(0), Page::Kernel);
    rig.space.attend();
    assert!(!rig.space.wants_attention());
    assert_eq!(rig.machine.armed().len(), 1);
    assert_eq!(rig.machine.points(), []);
    assert_eq!(rig.events().len(), 1);
    // The site is a word of memory: its other address hits too.
    assert_eq!(rig.run_to_stop(), Some(BREAKPOINT));
    assert_eq!(rig.pc(VCPU0), at(FUNCTION));
    rig.machine.release();
    jump_to_kernel(&rig);
    assert_eq!(rig.run_to_stop(), Some(BREAKPOINT));
    assert_eq!(rig.pc(VCPU0), kernel(FUNCTION));
}

#[test]
fn a_spare_hardware_breakpoint_covers_what_waits() {
    let rig = Rig::new(1);
    let mut tables = mmu_on(&rig);
    let target = Target::Address(kernel(FUNCTION));
    rig.space
        .insert_breakpoint(kernel(FUNCTION), VCPU0)
        .unwrap();
    let action = rig
        .space
        .attach_action(&target, rig.program("count"), AfterRun::Stop)
        .unwrap();
    assert_eq!(rig.machine.points(), [HwPoint::Break(kernel(FUNCTION))]);
    let listing = rig.breakpoint();
    assert_eq!(
        (listing.state, listing.mode),
        (ProbeState::Pending, ProbeMode::Hw)
    );
    tables.map(kernel(0), gpa(0), Page::Kernel);
    jump_to_kernel(&rig);
    assert_eq!(rig.run_to_stop(), Some(BREAKPOINT));
    assert_eq!((rig.pc(VCPU0), rig.x(VCPU0, 0)), (kernel(FUNCTION), 0));
    assert_eq!(rig.listing(action).hits, 1);
    // It becomes a site while the vCPU stands there, which has reported it already.
    rig.space.attend();
    assert_eq!(rig.machine.points(), []);
    assert_eq!(rig.resume(), Some(BREAKPOINT));
    assert_eq!((rig.pc(VCPU0), rig.x(VCPU0, 0)), (kernel(FUNCTION), 1));
    assert_eq!((rig.listing(action).hits, rig.breakpoint().hits), (2, 2));
}

#[test]
fn a_cover_that_stays_is_passed() {
    let rig = Rig::new(1);
    let mut tables = mmu_on(&rig);
    rig.space
        .insert_breakpoint(kernel(FUNCTION), VCPU0)
        .unwrap();
    tables.map(kernel(0), gpa(0), Page::Kernel);
    jump_to_kernel(&rig);
    let mut stops = 0;
    let mut stop = rig.run_to_stop();
    while stop == Some(BREAKPOINT) {
        stops += 1;
        stop = rig.resume();
    }
    assert_eq!((stops, rig.x(VCPU0, 0)), (CALLS, CALLS));
}

#[test]
fn a_watchpoint_on_a_covered_store_does_not_count_the_hit_twice() {
    let rig = Rig::new(1);
    let code = [asm::str_w(0, 1), asm::b(0)];
    rig.machine.load(gpa(0), &code);
    let mut tables = mmu_on(&rig);
    let target = Target::Address(kernel(0));
    let (probe, _) = rig
        .space
        .attach_probe(&target, rig.program("count"), AfterRun::Go)
        .unwrap();
    assert_eq!(rig.machine.points(), [HwPoint::Break(kernel(0))]);
    let watch = HwPoint::Watch {
        address: at(0),
        length: 4,
        kind: WatchKind::Write,
    };
    rig.space.insert_hw(watch).unwrap();
    tables.map(kernel(0), gpa(0), Page::Kernel);
    rig.held(|machine| {
        let mut regs = machine.core(VCPU0).unwrap();
        regs.pc = KERNEL;
        regs.x[1] = at(0).0;
        machine.set_core(VCPU0, &regs).unwrap();
    });
    let watched = StopReason::Watchpoint {
        address: at(0),
        kind: WatchKind::Write,
    };
    assert_eq!(rig.run_to_stop(), Some(watched));
    assert_eq!((rig.pc(VCPU0), rig.listing(probe).hits), (kernel(0), 1));
    rig.space.remove_hw(watch);
    assert_eq!(rig.resume(), None);
    assert_eq!((rig.pc(VCPU0), rig.listing(probe).hits), (kernel(4), 1));
}

#[test]
fn covers_give_way_to_the_users_hardware_breakpoints() {
    let rig = Rig::new(1);
    let available = u64::from(HW_BREAKPOINTS);
    for index in 0..2 * available {
        rig.space
            .insert_breakpoint(kernel(4 * index), VCPU0)
            .unwrap();
    }
    assert_eq!(rig.machine.points().len() as u64, available);
    for index in 0..available {
        rig.space.insert_hw(HwPoint::Break(at(4 * index))).unwrap();
    }
    assert!(rig.machine.points().contains(&HwPoint::Break(at(0))));
    assert!(!rig.machine.points().contains(&HwPoint::Break(kernel(0))));
    rig.space.remove_hw(HwPoint::Break(at(0)));
    assert!(rig.machine.points().contains(&HwPoint::Break(kernel(0))));
}

#[test]
fn a_symbol_is_looked_up_when_there_are_symbols() {
    let rig = Rig::new(1);
    let (probe, placement) = rig
        .space
        .attach_probe(&symbol("function"), rig.program("count"), AfterRun::Go)
        .unwrap();
    assert_eq!(
        (placement, rig.listing(probe).address),
        (Placement::Pending, None)
    );
    rig.space.attend();
    assert_eq!(rig.listing(probe).state, ProbeState::Pending);
    rig.space.set_symbols(table(&[(at(FUNCTION), "function")]));
    rig.space.attend();
    assert_eq!(rig.listing(probe).state, ProbeState::On);
    rig.machine.run(LONG);
    assert_eq!(rig.listing(probe).hits, CALLS);
}

#[test]
fn a_symbol_may_come_with_later_symbols() {
    let rig = Rig::new(1);
    let (probe, _) = rig
        .space
        .attach_probe(
            &symbol("module_function"),
            rig.program("count"),
            AfterRun::Go,
        )
        .unwrap();
    rig.space.set_symbols(table(&[(at(0), "main")]));
    rig.space.attend();
    rig.space.attend();
    assert_eq!(rig.listing(probe).state, ProbeState::Pending);
    // The module is loaded, and its symbols with it.
    rig.space
        .set_symbols(table(&[(at(0), "main"), (at(FUNCTION), "module_function")]));
    rig.space.attend();
    assert_eq!(rig.listing(probe).state, ProbeState::On);
}

#[test]
fn a_reset_guest_is_searched_anew() {
    let rig = Rig::new(1);
    rig.space.set_symbols(table(&[(at(FUNCTION), "function")]));
    let (probe, _) = rig
        .space
        .attach_probe(&symbol("function"), rig.program("count"), AfterRun::Go)
        .unwrap();
    rig.space.insert_breakpoint(at(0x10), VCPU0).unwrap();
    rig.machine.run(10);
    let before = rig.listing(probe).hits;
    rig.machine.reset();
    assert_eq!(rig.machine.armed(), []);
    assert!(rig.space.symbols().is_none());
    assert_eq!(rig.listing(probe).state, ProbeState::Pending);
    assert_eq!(rig.breakpoint().state, ProbeState::Pending);
    // This time the function is elsewhere: KASLR.
    rig.space
        .set_symbols(table(&[(at(FUNCTION + 4), "function")]));
    rig.space.attend();
    assert_eq!(rig.machine.armed().len(), 2);
    assert_eq!(rig.listing(probe).address, Some(at(FUNCTION + 4)));
    rig.machine.run(10);
    assert!(
        rig.listing(probe).hits > before,
        "hit counts outlive a reset"
    );
}

#[test]
fn what_turns_out_to_be_no_code_is_given_up() {
    let rig = Rig::new(1);
    rig.space
        .insert_breakpoint(kernel(FUNCTION), VCPU0)
        .unwrap();
    let mut tables = mmu_on(&rig);
    tables.map(kernel(0), Gpa(0x0900_0000), Page::Kernel);
    rig.space.attend();
    assert!(!rig.space.wants_attention());
    assert_eq!(rig.machine.points(), []);
    let events = rig.events();
    assert!(events[0].contains("given up"), "{events:?}");
}

#[test]
fn an_address_without_memory_waits_while_the_mmu_is_off() {
    let rig = Rig::new(1);
    assert_eq!(
        rig.space.insert_breakpoint(Gva(0x120), VCPU0),
        Ok(Placement::Pending)
    );
}

/// Takes the kernel out of a vCPU's tables and has it run user code, as Linux' KPTI does.
fn go_to_user_code(rig: &Rig) {
    let tables = Stage1::new(rig.machine, gpa(32 * PAGE_SIZE));
    rig.held(|machine| {
        tables.install(VCPU0);
        let mut regs = machine.core(VCPU0).unwrap();
        regs.pstate = pstate::EL0T;
        machine.set_core(VCPU0, &regs).unwrap();
    });
}

fn probe_at(rig: &Rig, offset: u64) -> Placement {
    let target = Target::Address(kernel(offset));
    let attached = rig
        .space
        .attach_probe(&target, rig.program("count"), AfterRun::Go);
    attached.unwrap().1
}

#[test]
fn a_kernel_that_user_code_has_unmapped_is_where_it_was() {
    let rig = Rig::new(1);
    mmu_on(&rig).map(kernel(0), gpa(0), Page::Kernel);
    let armed = |offset| Placement::Armed {
        address: kernel(offset),
    };
    assert_eq!(probe_at(&rig, FUNCTION), armed(FUNCTION));
    go_to_user_code(&rig);
    assert_eq!(probe_at(&rig, 4), armed(4));
    assert_eq!(rig.space.insert_breakpoint(kernel(8), VCPU0), Ok(armed(8)));
    assert_eq!(probe_at(&rig, PAGE_SIZE), Placement::Pending);
    // Another life has other tables.
    rig.space.guest_reset();
    assert_eq!(probe_at(&rig, 12), Placement::Pending);
}

#[test]
fn what_the_running_kernel_has_unmapped_is_not_there() {
    let rig = Rig::new(1);
    mmu_on(&rig).map(kernel(0), gpa(0), Page::Kernel);
    probe_at(&rig, FUNCTION);
    rig.held(|_| Stage1::new(rig.machine, gpa(32 * PAGE_SIZE)).install(VCPU0));
    assert_eq!(probe_at(&rig, 4), Placement::Pending);
}
