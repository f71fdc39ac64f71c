//! Which hits a probe takes, and how it is switched.

use super::{CALLS, FUNCTION, LONG, Rig, VCPU0, VCPU1, at};
use crate::machine::{RunControl, StopReason, VcpuId};
use crate::refusal::Refusal;
use crate::space::{AfterRun, Placement, ProbeId, ProbeOptions, ProbeState};
use crate::target::Target;
use core::num::NonZeroU64;
use proptest::prelude::*;

fn attach(rig: &Rig, options: ProbeOptions) -> ProbeId {
    let target = Target::Address(at(FUNCTION));
    rig.space.attach_probe(&target, None, options).unwrap().0
}

fn limited(limit: u64) -> ProbeOptions {
    ProbeOptions {
        limit: NonZeroU64::new(limit),
        ..ProbeOptions::default()
    }
}

#[test]
fn a_probe_without_program_counts() {
    let rig = Rig::new(2);
    let probe = attach(&rig, ProbeOptions::default());
    assert_eq!(rig.run_to_stop(), None);
    let listing = rig.listing(probe);
    assert_eq!((listing.hits, listing.missed), (2 * CALLS, 0));
    assert_eq!(listing.program, None);
}

#[test]
fn a_probe_takes_the_hits_of_its_vcpu() {
    let rig = Rig::new(2);
    let only = |vcpu| ProbeOptions {
        vcpu: Some(vcpu),
        ..ProbeOptions::default()
    };
    let (first, both) = (
        attach(&rig, only(VCPU0)),
        attach(&rig, ProbeOptions::default()),
    );
    // One call takes six instructions, after the first of all.
    rig.machine.run(1 + 6 * 5);
    rig.held(|machine| {
        let mut regs = machine.core(VCPU1).unwrap();
        regs.pc = at(0x10).0;
        machine.set_core(VCPU1, &regs).unwrap();
    });
    rig.machine.run(LONG);
    assert_eq!(rig.listing(first).hits, CALLS);
    assert_eq!(rig.listing(both).hits, CALLS + 5);
    let target = Target::Address(at(FUNCTION));
    let refused = rig.space.attach_probe(&target, None, only(VcpuId(2)));
    let vm = rig.space.vm();
    assert_eq!(refused, Err(Refusal::NoVcpu { vm, vcpu: 2 }));
}

#[test]
fn a_stopping_probe_of_one_vcpu_lets_the_others_pass() {
    let rig = Rig::new(2);
    let probe = attach(
        &rig,
        ProbeOptions {
            vcpu: Some(VCPU1),
            after: AfterRun::Stop,
            limit: NonZeroU64::new(1),
            ..ProbeOptions::default()
        },
    );
    rig.machine.run(LONG);
    let stop = rig.machine.take_stop().unwrap();
    let reason = StopReason::Site {
        probe: Some(probe.0),
    };
    assert_eq!((stop.vcpu, stop.reason), (VCPU1, reason));
    assert_eq!(rig.resume(), None);
    assert_eq!((rig.x(VCPU0, 0), rig.x(VCPU1, 0)), (CALLS, CALLS));
    assert_eq!(rig.listing(probe).hits, 1);
}

#[test]
fn after_its_last_hit_a_probe_is_disarmed() {
    let rig = Rig::new(2);
    let probe = attach(&rig, limited(7));
    assert!(!rig.space.wants_attention());
    rig.machine.run(LONG);
    let done = rig.listing(probe);
    assert_eq!((done.hits, done.state), (7, ProbeState::Done));
    assert!(rig.space.wants_attention());
    rig.space.attend();
    assert!(!rig.space.wants_attention());
    assert_eq!(rig.machine.armed(), []);
    assert_eq!(rig.listing(probe).state, ProbeState::Done);
    let events = rig.events();
    let text = "kprobe vm1:0x40000040 is done after 7 hits";
    assert!(events.iter().any(|event| event == text), "{events:?}");
}

#[test]
fn a_probe_that_is_done_can_be_had_again() {
    let rig = Rig::new(1);
    let probe = attach(&rig, limited(2));
    rig.machine.run(1 + 6 * 5);
    assert_eq!(rig.listing(probe).hits, 2);
    let armed = Placement::Armed {
        address: at(FUNCTION),
    };
    // Before the server has looked, and after.
    assert_eq!(rig.space.enable(probe), Ok(armed));
    rig.machine.run(6 * 5);
    assert_eq!(rig.listing(probe).hits, 4);
    rig.space.attend();
    assert_eq!(rig.machine.armed(), []);
    assert_eq!(rig.space.enable(probe), Ok(armed));
    rig.space.attend();
    assert_eq!(rig.listing(probe).state, ProbeState::On);
    rig.machine.run(LONG);
    assert_eq!(rig.listing(probe).hits, 6);
}

#[test]
fn a_probe_that_is_off_leaves_the_guest_alone() {
    let rig = Rig::new(2);
    let (first, second) = (
        attach(&rig, ProbeOptions::default()),
        attach(&rig, ProbeOptions::default()),
    );
    rig.machine.run(1 + 6 * 5);
    rig.space.disable(first).unwrap();
    assert_eq!(rig.machine.armed().len(), 1);
    rig.machine.run(6 * 5);
    rig.space.disable(second).unwrap();
    rig.space.disable(second).unwrap();
    assert_eq!(rig.machine.armed(), []);
    assert_eq!(rig.listing(first).state, ProbeState::Disarmed);
    rig.space.attend();
    rig.machine.run(6 * 5);
    rig.space.enable(first).unwrap();
    rig.space.enable(first).unwrap();
    rig.machine.run(LONG);
    let hits = (rig.listing(first).hits, rig.listing(second).hits);
    assert_eq!(hits, (2 * (CALLS - 10), 2 * 10));
    assert_eq!((rig.x(VCPU0, 0), rig.x(VCPU1, 0)), (CALLS, CALLS));
    let missing = Refusal::NoSuchProbe {
        vm: rig.space.vm(),
        id: 9,
    };
    assert_eq!(rig.space.enable(ProbeId(9)), Err(missing.clone()));
    assert_eq!(rig.space.disable(ProbeId(9)), Err(missing));
}

#[test]
fn an_action_that_is_off_does_not_let_pass() {
    let rig = Rig::new(1);
    let target = Target::Address(at(FUNCTION));
    let action = rig
        .space
        .attach_action(&target, rig.program("count"), AfterRun::Go)
        .unwrap();
    rig.space.insert_breakpoint(at(FUNCTION), VCPU0).unwrap();
    rig.machine.run(1 + 6 * 5);
    rig.space.disable(action).unwrap();
    assert_eq!(rig.run_to_stop(), Some(StopReason::Site { probe: None }));
    rig.space.enable(action).unwrap();
    assert_eq!(rig.resume(), None);
    assert_eq!(rig.listing(action).hits, CALLS - 1);
    assert_eq!(rig.breakpoint().hits, CALLS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Probes at one site, each switched at random: each takes what comes by while it is on, up to
    /// its limit.
    #[test]
    fn each_probe_takes_its_own_hits(
        limits in prop::collection::vec(prop::option::of(1..30_u64), 1..4),
        rounds in prop::collection::vec((0..4_usize, any::<bool>(), any::<bool>()), 1..12),
    ) {
        let rig = Rig::new(2);
        let probes: alloc::vec::Vec<_> = limits
            .iter()
            .map(|limit| attach(&rig, limited(limit.unwrap_or(0))))
            .collect();
        let mut on = alloc::vec![true; limits.len()];
        let mut left: alloc::vec::Vec<_> =
            limits.iter().map(|limit| limit.unwrap_or(u64::MAX)).collect();
        let mut expected = alloc::vec![0; limits.len()];
        rig.machine.run(1);
        for (index, switch_on, serve) in rounds {
            let index = index % probes.len();
            if switch_on {
                rig.space.enable(probes[index]).unwrap();
                left[index] = limits[index].unwrap_or(u64::MAX);
            } else {
                rig.space.disable(probes[index]).unwrap();
            }
            on[index] = switch_on;
            // One call on each vCPU.
            rig.machine.run(6);
            for index in 0..probes.len() {
                let taken = if on[index] { left[index].min(2) } else { 0 };
                left[index] -= taken;
                expected[index] += taken;
                prop_assert_eq!(rig.listing(probes[index]).hits, expected[index]);
            }
            if serve {
                rig.space.attend();
            }
        }
    }
}
