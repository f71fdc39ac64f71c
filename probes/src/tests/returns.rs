//! Return probes.

mod trees;

use super::{CALLS, FUNCTION, LONG, Rig, VCPU0, VCPU1, at, gpa, symbol, table};
use crate::fake::asm;
use crate::machine::{StopReason, VcpuId};
use crate::options::{AfterRun, Moment, ProbeOptions};
use crate::programs::Owner;
use crate::refusal::Refusal;
use crate::space::{Listing, MAX_SITES, ProbeId, ProbeKind, ProbeState};
use crate::target::Target;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use ebpf::helper::Helper;
use ebpf::signature::{At, Signature};

impl Rig {
    fn attach_return(&self, target: &Target, program: &str) -> Result<ProbeId, Refusal> {
        let options = ProbeOptions {
            moment: Moment::RETURN,
            ..ProbeOptions::default()
        };
        let attached = self
            .space
            .attach_probe(target, self.program(program), options);
        attached.map(|(id, _)| id)
    }

    /// At `offset`, without symbols.
    fn return_probe(&self, offset: u64, program: &str) -> ProbeId {
        let target = Target::Address(at(offset));
        self.attach_return(&target, program).unwrap()
    }

    fn counts(&self, probe: ProbeId) -> (u64, u64) {
        let Listing { hits, missed, .. } = self.listing(probe);
        (hits, missed)
    }

    /// Gives a vCPU a stack pointer.
    fn set_sp(&self, vcpu: VcpuId, offset: u64) {
        self.held(|machine| {
            let mut regs = machine.core(vcpu).unwrap();
            regs.sp = at(offset).0;
            machine.set_core(vcpu, &regs).unwrap();
        });
    }
}

#[test]
fn every_call_returns_once_on_both_vcpus() {
    let rig = Rig::new(2);
    let probe = rig.return_probe(FUNCTION, "count");
    // The entry, and the RET two instructions on.
    assert_eq!(rig.machine.armed().len(), 2);
    assert_eq!(rig.run_to_stop(), None);
    assert_eq!(rig.counts(probe), (2 * CALLS, 0));
    assert_eq!((rig.x(VCPU0, 0), rig.x(VCPU1, 0)), (CALLS, CALLS));
    assert_eq!(rig.listing(probe).kind, ProbeKind::Kretprobe);
    rig.space.detach(probe).unwrap();
    assert_eq!(rig.machine.armed(), []);
}

#[test]
fn the_program_sees_the_result_and_the_duration() {
    let rig = Rig::new(1);
    rig.return_probe(FUNCTION, "ret");
    rig.machine.run(5);
    // ADD and NOP are executed before the RET, 10 ns each.
    assert_eq!(rig.events(), ["x0=0x1 after 20 ns"]);
    rig.machine.run(LONG);
    let last = format!("x0={CALLS:#x} after 20 ns");
    assert_eq!(rig.events().last(), Some(&last));
}

/// A program that prints the first two values of its context, as it is uploaded.
fn values(at: At) -> Vec<u8> {
    use ebpf::asm::reg::{R0, R1, R3, R4};
    use ebpf::asm::{call, exit, load, map_value, mov_imm};
    const FORMAT: &[u8] = b"%llu then %llu\0";
    let mut linked = ebpf::builtin::linked("ret").unwrap();
    linked.maps[0].value_size = FORMAT.len() as u32;
    linked.maps[0].initial = FORMAT.to_vec();
    let program = &mut linked.programs[0];
    program.signature = match at {
        At::Entry => Signature::new(at, 2, 0),
        At::Return => Signature::new(at, 1, 0),
    };
    program.insns = [load(R3, R1, 0), load(R4, R1, 8)].to_vec();
    program.insns.extend(map_value(R1, 0, 0));
    program.insns.extend([
        mov_imm(2, FORMAT.len() as i32),
        call(Helper::TracePrintk),
        mov_imm(R0, 0),
        exit(),
    ]);
    linked.encode().unwrap()
}

/// What `fexit` is: the arguments are those of the entry, whatever has become of x0 to x7 since.
#[test]
fn a_program_can_have_the_arguments_at_the_return() {
    let rig = Rig::new(1);
    rig.periscope
        .load_program("leave", &values(At::Return), Owner(0))
        .unwrap();
    let probe = rig.return_probe(FUNCTION, "leave");
    rig.machine.run(LONG);
    assert_eq!(rig.counts(probe), (CALLS, 0));
    let expected: Vec<_> = (0..CALLS)
        .map(|call| format!("{call} then {}", call + 1))
        .collect();
    assert_eq!(rig.events(), expected);
}

#[test]
fn a_program_that_wants_arguments_is_attached_where_they_are() {
    let rig = Rig::new(1);
    rig.periscope
        .load_program("enter", &values(At::Entry), Owner(0))
        .unwrap();
    rig.periscope
        .load_program("leave", &values(At::Return), Owner(0))
        .unwrap();
    let target = Target::Address(at(FUNCTION));
    let refused = rig.attach_return(&target, "enter").unwrap_err();
    assert!(refused.to_string().contains("without --ret"), "{refused}");
    let leave = rig.program("leave");
    let refused = rig
        .space
        .attach_probe(&target, leave, AfterRun::Go)
        .unwrap_err();
    assert!(
        refused.to_string().contains("attach it with --ret"),
        "{refused}"
    );
    let enter = rig.program("enter");
    rig.space
        .attach_probe(&target, enter, AfterRun::Go)
        .unwrap();
    rig.machine.run(3);
    assert_eq!(rig.events(), ["0 then 0"]);
}

#[test]
fn a_call_takes_no_longer_for_a_debugger_that_holds_it() {
    let rig = Rig::new(1);
    rig.return_probe(FUNCTION, "ret");
    rig.machine.run(3);
    rig.held(|_| rig.machine.pass_time(1_000_000));
    rig.machine.run(2);
    assert_eq!(rig.events(), ["x0=0x1 after 20 ns"]);
    // Time in which nobody holds it is the call's.
    rig.machine.run(4);
    rig.machine.pass_time(1000);
    rig.machine.run(3);
    assert_eq!(rig.events(), ["x0=0x2 after 1020 ns"]);
}

#[test]
fn entry_and_return_have_probes_of_their_own() {
    let rig = Rig::new(1);
    let target = Target::Address(at(FUNCTION));
    let (entry, _) = rig
        .space
        .attach_probe(&target, rig.program("count"), AfterRun::Go)
        .unwrap();
    let first = rig.return_probe(FUNCTION, "count");
    let second = rig.return_probe(FUNCTION, "ret");
    assert_eq!(rig.machine.armed().len(), 2);
    // After the entry of the first call: that one is nobody's.
    rig.machine.run(3);
    let late = rig.return_probe(FUNCTION, "count");
    rig.machine.run(LONG);
    assert_eq!(rig.listing(entry).hits, CALLS);
    assert_eq!(rig.counts(first), (CALLS, 0));
    assert_eq!(rig.counts(second), (CALLS, 0));
    assert_eq!(rig.counts(late), (CALLS - 1, 0));
    rig.space.detach(first).unwrap();
    assert_eq!(rig.machine.armed().len(), 2);
}

#[test]
fn a_return_can_stop() {
    let rig = Rig::new(1);
    let options = ProbeOptions {
        after: AfterRun::Stop,
        moment: Moment::RETURN,
        ..ProbeOptions::default()
    };
    let target = Target::Address(at(FUNCTION));
    let (probe, _) = rig
        .space
        .attach_probe(&target, rig.program("count"), options)
        .unwrap();
    let stop = Some(StopReason::Site {
        probe: Some(probe.0),
    });
    for call in 1..=3 {
        let stopped = if call == 1 {
            rig.run_to_stop()
        } else {
            rig.resume()
        };
        assert_eq!(stopped, stop);
        assert_eq!((rig.pc(VCPU0), rig.x(VCPU0, 0)), (at(FUNCTION + 8), call));
    }
}

/// Where the tail-calling function of [`tail_caller`] is.
const TAIL: u64 = 0x80;

/// Lets the guest call a function that jumps to the function of the [`Rig`] for its result.
fn tail_caller(vcpus: usize) -> Rig {
    let rig = Rig::new(vcpus);
    rig.machine.load(gpa(4), &[asm::bl(TAIL as i32 - 4)]);
    rig.machine.load(
        gpa(TAIL),
        &[asm::nop(), asm::b(FUNCTION as i32 - TAIL as i32 - 4)],
    );
    rig
}

#[test]
fn a_tail_call_returns_behind_the_call() {
    let rig = tail_caller(2);
    let probe = rig.return_probe(TAIL, "count");
    assert_eq!(rig.machine.armed().len(), 1, "nothing but the entry");
    assert!(!rig.space.wants_attention());
    // Both are in their first call: where it returns to is known now.
    rig.machine.run(4);
    assert!(rig.space.wants_attention());
    rig.space.attend();
    assert!(!rig.space.wants_attention());
    assert_eq!(rig.machine.armed().len(), 2);
    rig.machine.run(LONG);
    assert_eq!(rig.counts(probe), (2 * (CALLS - 1), 2));
    rig.space.detach(probe).unwrap();
    assert_eq!(rig.machine.armed(), []);
}

#[test]
fn places_behind_calls_leave_sites_to_the_user() {
    let rig = tail_caller(1);
    rig.machine.load(gpa(0x8000), &[asm::nop(); MAX_SITES / 2]);
    for index in 0..MAX_SITES as u64 / 2 {
        let target = Target::Address(at(0x8000 + 4 * index));
        let program = rig.program("count");
        let attached = rig.space.attach_probe(&target, program, AfterRun::Go);
        assert!(attached.is_ok());
    }
    let probe = rig.return_probe(TAIL, "count");
    rig.machine.run(4);
    let sites = rig.machine.armed().len();
    rig.space.attend();
    assert!(
        !rig.space.wants_attention(),
        "it does not try again and again"
    );
    assert_eq!(rig.machine.armed().len(), sites);
    rig.machine.run(LONG);
    assert_eq!(rig.counts(probe), (0, CALLS - 1), "but for the last call");
}

#[test]
fn what_a_tail_call_leads_to_has_its_own_returns() {
    let rig = tail_caller(1);
    let outer = rig.return_probe(TAIL, "ret");
    let inner = rig.return_probe(FUNCTION, "count");
    rig.machine.run(2);
    rig.machine.run(2);
    rig.space.attend();
    rig.machine.run(LONG);
    assert_eq!(rig.counts(inner), (CALLS, 0));
    assert_eq!(rig.counts(outer), (CALLS - 1, 1));
    // Two instructions of its own, three of the function that it jumps to.
    let last = format!("x0={CALLS:#x} after 50 ns");
    assert_eq!(rig.events().last(), Some(&last));
}

#[test]
fn calls_that_leave_unseen_are_missed_and_do_no_harm() {
    const BR_X30: u32 = 0xd61f_03c0;
    let rig = Rig::new(1);
    // Every second call leaves by a jump that only the CPU knows to be a return.
    let function = [
        asm::add(0, 0, 1),
        asm::cbnz(20, 12),
        asm::movz(20, 1),
        asm::ret(),
        asm::movz(20, 0),
        BR_X30,
    ];
    rig.machine.load(gpa(FUNCTION), &function);
    let probe = rig.return_probe(FUNCTION, "count");
    rig.machine.run(LONG);
    assert_eq!(rig.x(VCPU0, 0), CALLS);
    // Nobody watches behind the call: the next call shows that the one before is over.
    assert_eq!(rig.counts(probe), (CALLS / 2, CALLS / 2 - 1));
}

#[test]
fn a_reset_begins_anew() {
    let rig = tail_caller(1);
    let probe = rig.return_probe(TAIL, "count");
    rig.machine.run(5);
    rig.space.attend();
    rig.machine.run(20);
    let (hits, missed) = rig.counts(probe);
    assert!(hits > 0);
    crate::machine::Lifecycle::reset(rig.machine);
    assert_eq!(rig.listing(probe).state, ProbeState::Pending);
    assert_eq!(rig.machine.armed(), []);
    rig.space.attend();
    assert_eq!(rig.listing(probe).state, ProbeState::On);
    rig.machine.run(4);
    rig.space.attend();
    rig.machine.run(LONG);
    assert_eq!(rig.counts(probe), (hits + CALLS - 1, missed + 1));
}

#[test]
fn it_waits_for_its_symbol() {
    let rig = Rig::new(1);
    let probe = rig.attach_return(&symbol("function"), "count").unwrap();
    assert_eq!(rig.listing(probe).state, ProbeState::Pending);
    rig.machine.run(3);
    let symbols = [
        (at(0), "main"),
        (at(FUNCTION), "function"),
        (at(TAIL), "end"),
    ];
    rig.space.set_symbols(table(&symbols));
    rig.space.attend();
    assert_eq!(rig.listing(probe).state, ProbeState::On);
    assert_eq!(rig.events(), ["kretprobe vm1:function is armed now"]);
    rig.machine.run(LONG);
    assert_eq!(rig.counts(probe), (CALLS - 1, 0));
}

#[test]
fn what_is_refused() {
    let rig = Rig::new(1);
    let symbols = [
        (at(0), "main"),
        (at(FUNCTION), "function"),
        (at(TAIL), "end"),
    ];
    rig.space.set_symbols(table(&symbols));
    let refused = |text: &str| {
        let refusal = rig.attach_return(&Target::parse(text).unwrap(), "count");
        refusal.unwrap_err().to_string()
    };
    let middle = refused("function+4");
    assert!(
        middle.contains("is function+0x4, in the middle of a function"),
        "{middle}"
    );
    assert_eq!(refused(&at(FUNCTION + 4).to_string()), middle);
    let endless = [asm::nop(), asm::bl(0), 0xd421_0000];
    rig.machine.load(gpa(FUNCTION), &endless);
    // A jump into itself is no way out.
    rig.machine.load(gpa(FUNCTION + 12), &[asm::b(-4); 13]);
    let never = refused("function");
    assert!(never.contains("it never returns"), "{never}");
    assert_eq!(rig.machine.armed(), []);
    assert_eq!(rig.space.list(), []);
}

#[test]
fn room_for_so_many_calls() {
    const SUB_SP_16: u32 = 0xd100_43ff;
    const SP: u32 = 31;
    let rig = Rig::new(1);
    let main = [asm::movz(20, 3), asm::bl(FUNCTION as i32 - 4), asm::b(0)];
    // Calls itself until x20 is 0.
    let function = [
        SUB_SP_16,
        asm::str(30, SP, 0),
        asm::subs(20, 20, 1),
        asm::cbnz(20, 8),
        asm::b(8),
        asm::bl(-20),
        asm::ldr(30, SP, 0),
        asm::add(SP, SP, 16),
        asm::ret(),
    ];
    rig.machine.load(gpa(0), &main);
    rig.machine.load(gpa(FUNCTION), &function);
    rig.set_sp(VCPU0, 0x8000);
    let attach = |max_active| {
        let options = ProbeOptions {
            moment: Moment::Return { max_active },
            ..ProbeOptions::default()
        };
        let target = Target::Address(at(FUNCTION));
        let attached = rig
            .space
            .attach_probe(&target, rig.program("count"), options);
        attached.unwrap().0
    };
    let probes = [0, 1, 2, 3].map(attach);
    rig.machine.run(LONG);
    // Room for one at least; the outermost call is the oldest.
    assert_eq!(
        probes.map(|probe| rig.counts(probe)),
        [(1, 2), (1, 2), (2, 1), (3, 0)]
    );
}
