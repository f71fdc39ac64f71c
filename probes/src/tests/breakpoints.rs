//! GDB's breakpoints, actions on them, and hardware points.

use super::{CALLS, FUNCTION, Rig, VCPU0, VCPU1, at, gpa, symbol, table};
use crate::a64::hvc;
use crate::addr::Gva;
use crate::engine::HVC_BASE;
use crate::fake::{FakeMachine, HW_BREAKPOINTS, asm};
use crate::machine::{FetchTrap, HwError, HwPoint, RunControl, RunMode, StopReason, WatchKind};
use crate::refusal::Refusal;
use crate::space::{AfterRun, Placement, ProbeState};
use crate::target::Target;

const BREAKPOINT: StopReason = StopReason::Site { probe: None };

#[test]
fn a_breakpoint_stops_before_its_instruction() {
    let rig = Rig::new(1);
    let placement = rig.space.insert_breakpoint(at(FUNCTION), VCPU0);
    assert_eq!(
        placement,
        Ok(Placement::Armed {
            address: at(FUNCTION)
        })
    );
    assert_eq!(
        rig.machine.armed(),
        [(gpa(FUNCTION), FetchTrap::Instruction(hvc(HVC_BASE)))]
    );
    for call in 0..CALLS {
        let stop = if call == 0 {
            rig.run_to_stop()
        } else {
            rig.resume()
        };
        assert_eq!(stop, Some(BREAKPOINT));
        assert_eq!(rig.pc(VCPU0), at(FUNCTION));
        assert_eq!(rig.x(VCPU0, 0), call);
    }
    assert_eq!(rig.resume(), None);
    assert_eq!(rig.x(VCPU0, 0), CALLS);
    assert_eq!(rig.breakpoint().hits, CALLS);
}

#[test]
fn gdb_removes_and_inserts_at_every_stop() {
    let rig = Rig::new(1);
    let count = rig.program("count");
    rig.space.insert_breakpoint(at(FUNCTION), VCPU0).unwrap();
    let target = Target::Address(at(FUNCTION));
    let action = rig
        .space
        .attach_action(&target, count, AfterRun::Stop)
        .unwrap();
    let mut stops = 0;
    let mut stop = rig.run_to_stop();
    while stop == Some(BREAKPOINT) {
        stops += 1;
        // GDB takes its breakpoint out, steps past it, and sets it again.
        rig.space.remove_breakpoint(at(FUNCTION));
        rig.machine.set_run_mode(VCPU0, RunMode::Step);
        assert_eq!(rig.resume(), Some(StopReason::Step));
        assert_eq!(rig.pc(VCPU0), at(FUNCTION + 4));
        rig.space.insert_breakpoint(at(FUNCTION), VCPU0).unwrap();
        stop = rig.resume();
    }
    assert_eq!(stops, CALLS);
    assert_eq!(rig.breakpoint().hits, CALLS);
    assert_eq!(rig.listing(action).hits, CALLS);
}

#[test]
fn a_removed_breakpoint_stays_armed_until_the_session_resumes() {
    let rig = Rig::new(1);
    rig.space.insert_breakpoint(at(FUNCTION), VCPU0).unwrap();
    rig.machine.hold();
    rig.space.remove_breakpoint(at(FUNCTION));
    assert_eq!(rig.machine.armed().len(), 1);
    rig.space.reconcile();
    assert_eq!(rig.machine.armed(), []);
    assert_eq!(rig.space.list(), []);
    rig.machine.release();
    assert_eq!(rig.run_to_stop(), None);
}

#[test]
fn stepping_onto_a_breakpoint_does_not_count_as_a_hit() {
    let rig = Rig::new(1);
    rig.space.insert_breakpoint(at(FUNCTION), VCPU0).unwrap();
    rig.machine.hold();
    for _ in 0..2 {
        rig.machine.set_run_mode(VCPU0, RunMode::Step);
        assert_eq!(rig.resume(), Some(StopReason::Step));
    }
    assert_eq!(rig.pc(VCPU0), at(FUNCTION));
    assert_eq!(rig.breakpoint().hits, 0);
    // A client that just goes on from there does hit it.
    assert_eq!(rig.resume(), Some(BREAKPOINT));
    assert_eq!(rig.breakpoint().hits, 1);
}

#[test]
fn two_vcpus_each_report_and_pass() {
    let rig = Rig::new(2);
    rig.space.insert_breakpoint(at(FUNCTION), VCPU0).unwrap();
    let mut stops = 0;
    let mut stop = rig.run_to_stop();
    while stop.is_some() {
        stops += 1;
        stop = rig.resume();
    }
    assert_eq!(stops, 2 * CALLS);
    assert_eq!(rig.breakpoint().hits, 2 * CALLS);
    assert_eq!((rig.x(VCPU0, 0), rig.x(VCPU1, 0)), (CALLS, CALLS));
}

#[test]
fn an_action_can_let_the_breakpoint_pass() {
    let rig = Rig::new(1);
    let target = Target::Address(at(FUNCTION));
    // GDB sets its breakpoint only when it resumes: the action comes first.
    let action = rig
        .space
        .attach_action(&target, rig.program("count"), AfterRun::Go)
        .unwrap();
    assert_eq!(rig.listing(action).state, ProbeState::Disarmed);
    rig.space.insert_breakpoint(at(FUNCTION), VCPU0).unwrap();
    assert_eq!(rig.listing(action).state, ProbeState::On);
    assert_eq!(rig.run_to_stop(), None);
    assert_eq!(rig.listing(action).hits, CALLS);
    assert_eq!(rig.breakpoint().hits, CALLS);
    rig.space.detach(action).unwrap();
    assert_eq!(rig.machine.armed().len(), 1);
}

#[test]
fn an_action_on_a_function_finds_the_breakpoint_after_the_prologue() {
    let rig = Rig::new(1);
    rig.space
        .set_symbols(table(&[(at(0), "main"), (at(FUNCTION), "function")]));
    let action = rig
        .space
        .attach_action(&symbol("function"), rig.program("count"), AfterRun::Go)
        .unwrap();
    rig.space.insert_breakpoint(at(4), VCPU0).unwrap();
    assert_eq!(rig.listing(action).state, ProbeState::Disarmed);
    rig.space.remove_breakpoint(at(4));
    rig.space
        .insert_breakpoint(at(FUNCTION + 4), VCPU0)
        .unwrap();
    rig.space.reconcile();
    assert_eq!(rig.run_to_stop(), None);
    assert_eq!(rig.listing(action).hits, CALLS);
    assert_eq!(rig.breakpoint().site, "function+0x4");
}

#[test]
fn the_end_of_a_session_takes_its_breakpoints() {
    let rig = Rig::new(1);
    rig.space.insert_breakpoint(at(FUNCTION), VCPU0).unwrap();
    rig.space.insert_hw(HwPoint::Break(at(8))).unwrap();
    let target = Target::Address(at(FUNCTION));
    let action = rig
        .space
        .attach_action(&target, rig.program("count"), AfterRun::Stop)
        .unwrap();
    rig.space.forget_breakpoints();
    assert_eq!(rig.machine.armed(), []);
    assert_eq!(rig.machine.points(), []);
    assert_eq!(rig.listing(action).state, ProbeState::Disarmed);
    assert_eq!(rig.run_to_stop(), None);
}

#[test]
fn hardware_points_run_out_with_an_error() {
    let rig = Rig::new(1);
    for index in 0..u64::from(HW_BREAKPOINTS) {
        rig.space
            .insert_hw(HwPoint::Break(at(0x100 + 4 * index)))
            .unwrap();
    }
    let one_more = rig.space.insert_hw(HwPoint::Break(at(0x200)));
    let too_many = HwError::TooMany {
        available: HW_BREAKPOINTS,
    };
    assert_eq!(one_more, Err(Refusal::Hardware(too_many)));
    assert_eq!(rig.machine.points().len(), usize::from(HW_BREAKPOINTS));
    rig.space.remove_hw(HwPoint::Break(at(0x100)));
    assert_eq!(rig.space.insert_hw(HwPoint::Break(at(0x200))), Ok(()));
}

#[test]
fn a_hardware_breakpoint_stops_and_is_passed() {
    let rig = Rig::new(1);
    rig.space.insert_hw(HwPoint::Break(at(FUNCTION))).unwrap();
    assert_eq!(rig.run_to_stop(), Some(StopReason::HwBreakpoint));
    assert_eq!((rig.pc(VCPU0), rig.x(VCPU0, 0)), (at(FUNCTION), 0));
    assert_eq!(rig.resume(), Some(StopReason::HwBreakpoint));
    assert_eq!((rig.pc(VCPU0), rig.x(VCPU0, 0)), (at(FUNCTION), 1));
}

/// A guest that stores to [`WATCHED`] once, at 8, and then stands at 12.
fn storing_guest() -> Rig {
    let rig = Rig::new(1);
    let code = [
        asm::movz(1, 0x4000),
        asm::movk(1, 0x4000, 1),
        asm::str_w(0, 1),
        asm::b(0),
    ];
    rig.machine.load(gpa(0), &code);
    rig
}

/// What the store of a [`storing_guest`] meets.
const WATCHED: HwPoint = HwPoint::Watch {
    address: Gva(FakeMachine::RAM_BASE.0 + 0x4000),
    length: 4,
    kind: WatchKind::Write,
};
const WATCHPOINT: StopReason = StopReason::Watchpoint {
    address: Gva(FakeMachine::RAM_BASE.0 + 0x4000),
    kind: WatchKind::Write,
};

#[test]
fn a_watchpoint_on_a_displaced_store_does_not_count_the_hit_twice() {
    let rig = storing_guest();
    rig.space.insert_hw(WATCHED).unwrap();
    let target = Target::Address(at(8));
    let (probe, _) = rig
        .space
        .attach_probe(&target, rig.program("count"), AfterRun::Go)
        .unwrap();
    assert_eq!(rig.run_to_stop(), Some(WATCHPOINT));
    assert_eq!((rig.pc(VCPU0), rig.listing(probe).hits), (at(8), 1));
    rig.space.remove_hw(WATCHED);
    assert_eq!(rig.resume(), None);
    assert_eq!((rig.pc(VCPU0), rig.listing(probe).hits), (at(12), 1));
}

/// The same where a hardware breakpoint makes the vCPU step past the site where it stopped.
#[test]
fn nor_does_one_where_a_hardware_breakpoint_is_passed() {
    let rig = storing_guest();
    rig.space.insert_hw(WATCHED).unwrap();
    rig.space.insert_breakpoint(at(8), VCPU0).unwrap();
    assert_eq!(rig.run_to_stop(), Some(BREAKPOINT));
    rig.space.insert_hw(HwPoint::Break(at(8))).unwrap();
    assert_eq!(rig.resume(), Some(WATCHPOINT));
    rig.space.remove_hw(HwPoint::Break(at(8)));
    rig.space.remove_hw(WATCHED);
    assert_eq!(rig.resume(), None);
    assert_eq!((rig.pc(VCPU0), rig.breakpoint().hits), (at(12), 1));
}

/// A probe counts what a hardware breakpoint of the user's at the same place stops.
#[test]
fn a_hardware_breakpoint_takes_no_hit_from_a_probe() {
    let rig = Rig::new(1);
    let target = Target::Address(at(FUNCTION));
    let (probe, _) = rig
        .space
        .attach_probe(&target, rig.program("count"), AfterRun::Go)
        .unwrap();
    let point = HwPoint::Break(at(FUNCTION));
    rig.space.insert_hw(point).unwrap();
    let mut stop = rig.run_to_stop();
    for call in 1..=CALLS {
        assert_eq!(stop, Some(StopReason::HwBreakpoint));
        stop = if call % 2 == 0 {
            rig.resume()
        } else {
            // As GDB does it.
            rig.space.remove_hw(point);
            rig.machine.set_run_mode(VCPU0, RunMode::Step);
            assert_eq!(rig.resume(), Some(StopReason::Step));
            rig.space.insert_hw(point).unwrap();
            rig.resume()
        };
        assert_eq!(rig.listing(probe).hits, (call + 1).min(CALLS));
    }
    assert_eq!(stop, None);
}
