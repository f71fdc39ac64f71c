//! Probes without a probe instruction.

use super::{CALLS, FUNCTION, LONG, Rig, VCPU0, VCPU1, at, gpa};
use crate::addr::Gva;
use crate::fake::{HW_BREAKPOINTS, asm};
use crate::machine::{FetchTrap, HwError, HwPoint, Lifecycle, PhysMemory, StopReason, WatchKind};
use crate::refusal::Refusal;
use crate::space::{AfterRun, Placement, ProbeId, ProbeMode, ProbeOptions, ProbeState};
use crate::target::Target;
use alloc::vec::Vec;

fn attach(rig: &Rig, offset: u64, mode: ProbeMode) -> ProbeId {
    let target = Target::Address(at(offset));
    let options = ProbeOptions {
        mode,
        ..ProbeOptions::default()
    };
    rig.space.attach_probe(&target, None, options).unwrap().0
}

#[test]
fn every_mode_counts_exactly_on_both_vcpus() {
    for mode in [ProbeMode::Hvc, ProbeMode::Xn, ProbeMode::Hw] {
        let rig = Rig::new(2);
        let entry = attach(&rig, FUNCTION, mode);
        let ret = attach(&rig, FUNCTION + 8, mode);
        let caller = attach(&rig, 4, mode);
        assert_eq!(rig.run_to_stop(), None);
        for probe in [entry, ret, caller] {
            let listing = rig.listing(probe);
            assert_eq!((listing.hits, listing.mode), (2 * CALLS, mode));
        }
        assert_eq!((rig.x(VCPU0, 0), rig.x(VCPU1, 0)), (CALLS, CALLS));
        for probe in [entry, ret, caller] {
            rig.space.detach(probe).unwrap();
        }
        assert_eq!(rig.machine.armed(), []);
        assert_eq!(rig.machine.points(), []);
    }
}

#[test]
fn a_page_that_is_not_executable_carries_no_probe_instruction() {
    let rig = Rig::new(1);
    attach(&rig, FUNCTION, ProbeMode::Xn);
    assert_eq!(rig.machine.armed(), [(gpa(FUNCTION), FetchTrap::NoExecute)]);
    attach(&rig, FUNCTION + 4, ProbeMode::Hw);
    assert_eq!(rig.machine.armed().len(), 1);
    assert_eq!(rig.machine.points(), [HwPoint::Break(at(FUNCTION + 4))]);
}

#[test]
fn modes_mix_at_one_address_and_on_one_page() {
    let rig = Rig::new(2);
    let modes = [ProbeMode::Hvc, ProbeMode::Xn, ProbeMode::Hw];
    let here = modes.map(|mode| attach(&rig, FUNCTION, mode));
    let beside = attach(&rig, FUNCTION + 8, ProbeMode::Hvc);
    rig.machine.run(1 + 6 * 5);
    let hits = here.map(|probe| rig.listing(probe).hits);
    assert_eq!((hits, rig.listing(beside).hits), ([10; 3], 10));
    // The page is executable again without the `xn` probe.
    rig.space.detach(here[1]).unwrap();
    let instruction = |trap: &FetchTrap| matches!(trap, FetchTrap::Instruction(_));
    let armed = rig.machine.armed();
    assert!(armed.iter().all(|(_, trap)| instruction(trap)), "{armed:?}");
    assert_eq!(rig.run_to_stop(), None);
    let hits = [here[0], here[2], beside].map(|probe| rig.listing(probe).hits);
    assert_eq!(hits, [2 * CALLS; 3]);
    assert_eq!((rig.x(VCPU0, 0), rig.x(VCPU1, 0)), (CALLS, CALLS));
}

#[test]
fn what_the_guest_writes_to_a_page_without_copy_is_what_it_executes() {
    let rig = Rig::new(1);
    let (xn, hvc) = (
        attach(&rig, FUNCTION, ProbeMode::Xn),
        attach(&rig, FUNCTION + 4, ProbeMode::Hvc),
    );
    let write = |offset, word: u32| {
        rig.machine
            .write_phys(gpa(offset), &word.to_le_bytes())
            .unwrap();
    };
    write(FUNCTION, asm::add(0, 0, 100));
    write(FUNCTION + 4, asm::add(0, 0, 1000));
    rig.machine.run(1 + 6);
    assert_eq!(rig.x(VCPU0, 0), 1100);
    // It stays so when the page gets a copy.
    rig.space.detach(xn).unwrap();
    rig.machine.run(6);
    assert_eq!((rig.x(VCPU0, 0), rig.listing(hvc).hits), (2200, 2));
}

#[test]
fn probes_of_all_modes_stop_and_are_passed() {
    for mode in [ProbeMode::Hvc, ProbeMode::Xn, ProbeMode::Hw] {
        let rig = Rig::new(1);
        let options = ProbeOptions {
            mode,
            after: AfterRun::Stop,
            ..ProbeOptions::default()
        };
        let target = Target::Address(at(FUNCTION));
        let (probe, placement) = rig.space.attach_probe(&target, None, options).unwrap();
        let address = at(FUNCTION);
        assert_eq!(placement, Placement::Armed { address });
        let reason = StopReason::Site {
            probe: Some(probe.0),
        };
        for call in 0..3 {
            let stop = if call == 0 {
                rig.run_to_stop()
            } else {
                rig.resume()
            };
            assert_eq!(stop, Some(reason));
            assert_eq!((rig.pc(VCPU0), rig.x(VCPU0, 0)), (address, call));
        }
        assert_eq!(rig.listing(probe).hits, 3);
    }
}

#[test]
fn hardware_breakpoints_run_out() {
    let rig = Rig::new(1);
    let available = HW_BREAKPOINTS;
    rig.machine.load(gpa(0x1000), &[asm::nop(); 16]);
    let probes: Vec<_> = (0..u64::from(available))
        .map(|index| attach(&rig, 0x1000 + 4 * index, ProbeMode::Hw))
        .collect();
    let options = ProbeOptions {
        mode: ProbeMode::Hw,
        ..ProbeOptions::default()
    };
    let target = Target::Address(at(FUNCTION));
    let refused = Refusal::Hardware(HwError::TooMany { available });
    let attach = || rig.space.attach_probe(&target, None, options);
    assert_eq!(attach(), Err(refused.clone()));
    let point = HwPoint::Break(at(FUNCTION));
    assert_eq!(rig.space.insert_hw(point), Err(refused));
    rig.space.disable(probes[0]).unwrap();
    assert!(attach().is_ok());
    assert!(rig.space.enable(probes[0]).is_err());
    assert_eq!(rig.listing(probes[0]).state, ProbeState::Disarmed);
}

#[test]
fn a_probe_gets_a_hardware_breakpoint_before_what_waits() {
    let rig = Rig::new(1);
    for index in 0..u64::from(HW_BREAKPOINTS) {
        let nowhere = Gva(0x1000 + 4 * index);
        rig.space.insert_breakpoint(nowhere, VCPU0).unwrap();
    }
    assert_eq!(rig.machine.points().len(), usize::from(HW_BREAKPOINTS));
    let probe = attach(&rig, FUNCTION, ProbeMode::Hw);
    assert!(rig.machine.points().contains(&HwPoint::Break(at(FUNCTION))));
    assert_eq!(rig.run_to_stop(), None);
    assert_eq!(rig.listing(probe).hits, CALLS);
}

#[test]
fn a_probe_of_an_address_keeps_its_hardware_breakpoint_over_a_reset() {
    let rig = Rig::new(1);
    let (hw, xn) = (
        attach(&rig, FUNCTION, ProbeMode::Hw),
        attach(&rig, FUNCTION + 4, ProbeMode::Xn),
    );
    rig.machine.run(LONG);
    rig.machine.reset();
    assert_eq!(rig.listing(hw).state, ProbeState::On);
    assert_eq!(rig.listing(xn).state, ProbeState::Pending);
    rig.space.attend();
    rig.machine.run(LONG);
    assert_eq!(
        (rig.listing(hw).hits, rig.listing(xn).hits),
        (2 * CALLS, 2 * CALLS)
    );
}

#[test]
fn a_watchpoint_on_an_instruction_of_the_page_does_not_count_its_hit_twice() {
    let rig = Rig::new(1);
    let code = [
        asm::movz(1, 0x2000),
        asm::movk(1, 0x4000, 1),
        asm::str_w(2, 1),
        asm::b(0),
    ];
    rig.machine.load(gpa(0), &code);
    let probe = attach(&rig, 8, ProbeMode::Xn);
    rig.space
        .insert_hw(HwPoint::Watch {
            address: at(0x2000),
            length: 4,
            kind: WatchKind::Write,
        })
        .unwrap();
    let stop = rig.run_to_stop();
    assert!(
        matches!(stop, Some(StopReason::Watchpoint { .. })),
        "{stop:?}"
    );
    rig.space.remove_hw(HwPoint::Watch {
        address: at(0x2000),
        length: 4,
        kind: WatchKind::Write,
    });
    assert_eq!(rig.resume(), None);
    assert_eq!((rig.listing(probe).hits, rig.pc(VCPU0)), (1, at(12)));
}
