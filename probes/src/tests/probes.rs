//! Probes, and the hit path.

use super::{CALLS, FUNCTION, LONG, NoMemory, Rig, VCPU0, VCPU1, at, gpa, reader, symbol, table};
use crate::addr::Gva;
use crate::engine::{HVC_BASE, HitOutcome, Trap};
use crate::event::{EventKind, TraceEvent};
use crate::fake::{asm, fleet};
use crate::machine::{Clock, GuestFault, LiveMemory, RunControl, StopReason};
use crate::periscope::NoSpace;
use crate::programs::{Owner, StoreError};
use crate::regs::CoreRegs;
use crate::space::{AfterRun, ProbeKind};
use crate::target::Target;
use alloc::string::ToString;

#[test]
fn hits_are_exact_with_both_vcpus_in_the_function() {
    let rig = Rig::new(2);
    let target = Target::Address(at(FUNCTION));
    let (probe, _) = rig
        .space
        .attach_probe(&target, rig.program("count"), AfterRun::Go)
        .unwrap();
    assert_eq!(rig.run_to_stop(), None);
    assert_eq!(rig.listing(probe).hits, 2 * CALLS);
    assert_eq!(rig.listing(probe).missed, 0);
    assert_eq!((rig.x(VCPU0, 0), rig.x(VCPU1, 0)), (CALLS, CALLS));
    rig.space.detach(probe).unwrap();
    assert_eq!(rig.machine.armed(), []);
}

#[test]
fn a_probe_that_comes_late_counts_what_is_left() {
    let rig = Rig::new(1);
    // One call takes six instructions, after the first of all.
    rig.machine.run(1 + 6 * 5);
    let target = Target::Address(at(FUNCTION));
    let (probe, _) = rig
        .space
        .attach_probe(&target, rig.program("count"), AfterRun::Go)
        .unwrap();
    rig.machine.run(6 * 3);
    assert_eq!(rig.listing(probe).hits, 3);
    rig.space.detach(probe).unwrap();
    rig.machine.run(LONG);
    assert_eq!(rig.x(VCPU0, 0), CALLS);
}

#[test]
fn a_stopping_probe_names_itself() {
    let rig = Rig::new(1);
    let target = Target::Address(at(FUNCTION));
    let (probe, _) = rig
        .space
        .attach_probe(&target, rig.program("count"), AfterRun::Stop)
        .unwrap();
    assert_eq!(
        rig.run_to_stop(),
        Some(StopReason::Site {
            probe: Some(probe.0)
        })
    );
    assert_eq!(rig.pc(VCPU0), at(FUNCTION));
    assert_eq!(
        rig.resume(),
        Some(StopReason::Site {
            probe: Some(probe.0)
        })
    );
    assert_eq!(rig.x(VCPU0, 0), 1);
}

#[test]
fn several_share_a_site_and_gdb_hears_of_its_breakpoint() {
    let rig = Rig::new(1);
    let target = Target::Address(at(FUNCTION));
    let (first, _) = rig
        .space
        .attach_probe(&target, rig.program("count"), AfterRun::Stop)
        .unwrap();
    rig.space.insert_breakpoint(at(FUNCTION), VCPU0).unwrap();
    let (second, _) = rig
        .space
        .attach_probe(&target, rig.program("args"), AfterRun::Stop)
        .unwrap();
    assert_eq!(rig.machine.armed().len(), 1);
    assert_eq!(rig.run_to_stop(), Some(StopReason::Site { probe: None }));
    let hits = (
        rig.listing(first).hits,
        rig.breakpoint().hits,
        rig.listing(second).hits,
    );
    assert_eq!(hits, (1, 1, 1));
    rig.space.detach(first).unwrap();
    assert_eq!(rig.machine.armed().len(), 1);
}

#[test]
fn what_a_program_prints_becomes_an_event() {
    let rig = Rig::new(2);
    let target = Target::Address(at(FUNCTION));
    let (probe, _) = rig
        .space
        .attach_probe(&target, rig.program("args"), AfterRun::Go)
        .unwrap();
    rig.machine.run(2);
    rig.machine.run(1);
    let mut texts = alloc::vec::Vec::new();
    rig.periscope.events().drain(&mut |event, text| {
        if event.kind == EventKind::Print {
            texts.push((*event, text.to_vec()));
        }
    });
    assert_eq!(texts.len(), 2);
    for ((event, text), vcpu) in texts.iter().zip([VCPU0, VCPU1]) {
        assert_eq!(text, b"x0=0x0 x1=0x0 x2=0x0 x3=0x0");
        assert_eq!((event.vcpu, event.id), (vcpu, probe.0));
        assert_eq!(event.pc, at(FUNCTION));
        assert_eq!(event.origin, EventKind::Kprobe);
    }
}

#[test]
fn every_hit_of_a_probe_is_one_event_and_none_of_a_breakpoint() {
    let rig = Rig::new(2);
    let target = Target::Address(at(FUNCTION));
    let attach = |program| {
        let program = rig.program(program);
        let attached = rig.space.attach_probe(&target, program, AfterRun::Go);
        attached.unwrap().0
    };
    assert!(!rig.periscope.is_probed());
    let probes = [attach("count"), attach("count")];
    assert!(rig.periscope.is_probed());
    assert_eq!(rig.run_to_stop(), None);
    let hits = rig.hits();
    assert_eq!(hits.len() as u64, 2 * 2 * CALLS);
    for probe in probes {
        for vcpu in [VCPU0, VCPU1] {
            let own = |hit: &&TraceEvent| hit.id == probe.0 && hit.vcpu == vcpu;
            let args: alloc::vec::Vec<_> = hits.iter().filter(own).map(|hit| hit.args).collect();
            let expected: alloc::vec::Vec<_> = (0..CALLS).map(|x0| [x0, 0, 0, 0]).collect();
            assert_eq!(args, expected);
        }
    }
    assert!(hits.iter().all(|hit| hit.kind == EventKind::Kprobe));

    let rig = Rig::new(1);
    rig.space.insert_breakpoint(at(FUNCTION), VCPU0).unwrap();
    assert!(rig.run_to_stop().is_some());
    assert_eq!(rig.hits(), []);
    assert!(!rig.periscope.is_probed());
}

#[test]
fn a_probe_knows_its_symbol() {
    let rig = Rig::new(1);
    rig.space
        .set_symbols(table(&[(at(0), "main"), (at(FUNCTION), "function")]));
    let (probe, _) = rig
        .space
        .attach_probe(&symbol("function+4"), rig.program("count"), AfterRun::Go)
        .unwrap();
    let listing = rig.listing(probe);
    assert_eq!(
        (listing.kind, listing.site.as_str()),
        (ProbeKind::Kprobe, "function+0x4")
    );
    assert_eq!(listing.address, Some(at(FUNCTION + 4)));
    assert_eq!(rig.run_to_stop(), None);
    assert_eq!(rig.listing(probe).hits, CALLS);
}

/// vCPU 0 executes an HVC.
fn hit(rig: &Rig, immediate: u16, pc: Gva, memory: &dyn LiveMemory) -> HitOutcome {
    let mut regs = CoreRegs {
        pc: pc.0,
        ..CoreRegs::default()
    };
    let trap = &mut Trap {
        vcpu: VCPU0,
        regs: &mut regs,
        memory,
        stamp: rig.machine.stamp(),
    };
    rig.space.hit(immediate, trap)
}

#[test]
fn a_guests_own_hvc_is_not_ours() {
    let rig = Rig::new(1);
    rig.space.insert_breakpoint(at(FUNCTION), VCPU0).unwrap();
    let hit = |immediate, pc| hit(&rig, immediate, pc, &NoMemory);
    // Below the range, a free slot, above the range, and another place in the page.
    for immediate in [0, HVC_BASE - 1, HVC_BASE + 1, HVC_BASE + 1024, u16::MAX] {
        assert_eq!(hit(immediate, at(FUNCTION)), HitOutcome::NotOurs);
    }
    assert_eq!(hit(HVC_BASE, at(FUNCTION + 4)), HitOutcome::NotOurs);
    assert_eq!(rig.breakpoint().hits, 0);
    let ours = HitOutcome::Stop(StopReason::Site { probe: None });
    assert_eq!(hit(HVC_BASE, at(FUNCTION)), ours);
}

/// Memory whose every access hits the probe of [`FUNCTION`].
struct Recursive<'a>(&'a Rig);

impl LiveMemory for Recursive<'_> {
    fn read(&self, _: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        hit(self.0, HVC_BASE, at(FUNCTION), &NoMemory);
        buffer.fill(0);
        Ok(())
    }

    fn write(&self, address: Gva, _: &[u8]) -> Result<(), GuestFault> {
        Err(GuestFault { address })
    }

    fn task(&self) -> u64 {
        0
    }
}

#[test]
fn a_hit_inside_a_run_of_its_own_object_is_missed() {
    let rig = Rig::new(1);
    rig.periscope
        .programs()
        .load("reader", &reader(), Owner(0))
        .expect("it is a program");
    let target = Target::Address(at(FUNCTION));
    let program = rig.program("reader");
    let (probe, _) = rig
        .space
        .attach_probe(&target, program, AfterRun::Go)
        .unwrap();
    let outcome = hit(&rig, HVC_BASE, at(FUNCTION), &Recursive(&rig));
    assert_ne!(outcome, HitOutcome::NotOurs);
    let listing = rig.listing(probe);
    assert_eq!((listing.hits, listing.missed), (2, 1));
    assert_eq!(rig.events(), [""; 0], "and it is no error");
}

#[test]
fn one_vm_stops_and_the_other_runs_on() {
    let (periscope, machines) = fleet(2, 1).unwrap();
    for machine in &machines {
        machine.load(gpa(0), &[asm::add(0, 0, 1), asm::b(-4)]);
    }
    periscope.spaces()[0]
        .insert_breakpoint(at(4), VCPU0)
        .unwrap();
    for _ in 0..10 {
        for machine in &machines {
            machine.run(2);
        }
    }
    assert!(machines[0].held() && !machines[1].held());
    let counted = |index: usize| {
        machines[index].hold();
        let value = crate::machine::Registers::core(machines[index], VCPU0)
            .unwrap()
            .x[0];
        machines[index].release();
        value
    };
    assert_eq!((counted(0), counted(1)), (1, 10));
}

#[test]
fn spaces_have_names() {
    let rig = Rig::new(1);
    assert!(rig.periscope.space("vm1").is_ok());
    let unknown = rig.periscope.space("vm3").err().unwrap();
    assert_eq!(
        unknown.to_string(),
        "no such VM: vm3. There are vm1 (running)."
    );
    for name in ["vm0", "hyp"] {
        let refused = rig.periscope.space(name).err().unwrap();
        assert!(matches!(refused, NoSpace::Hypervisor(_)), "{refused}");
    }
    let (space, target) = rig.periscope.place("vm1:vfs_read+0x8", rig.space).unwrap();
    assert_eq!((space.vm(), target), (rig.space.vm(), symbol("vfs_read+8")));
    assert!(rig.periscope.place("vm9:vfs_read", rig.space).is_err());
    assert!(rig.periscope.place("vm1:", rig.space).is_err());
}

#[test]
fn a_program_in_use_stays() {
    let rig = Rig::new(1);
    let bytes = ebpf::builtin::linked("count").unwrap().encode().unwrap();
    rig.periscope
        .load_program("mine", &bytes, Owner(0))
        .unwrap();
    let target = Target::Address(at(FUNCTION));
    let (probe, _) = rig
        .space
        .attach_probe(&target, rig.program("mine"), AfterRun::Go)
        .unwrap();
    let refused = rig.periscope.unload_program("mine").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "mine is in use by vm1 probe 1: detach first"
    );
    assert_eq!(
        rig.periscope.load_program("mine", &bytes, Owner(0)),
        Err(refused)
    );
    rig.space.detach(probe).unwrap();
    assert_eq!(rig.periscope.unload_program("mine"), Ok(()));
    let gone = rig.periscope.programs().program("mine").unwrap_err();
    assert!(matches!(gone, StoreError::NoSuchObject { .. }), "{gone}");
    let builtin = rig.periscope.unload_program("count").unwrap_err();
    assert_eq!(builtin, StoreError::Builtin("count".to_string()));
}
