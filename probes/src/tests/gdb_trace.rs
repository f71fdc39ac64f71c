//! GDB tracepoints.

use super::{CALLS, FUNCTION, LONG, Rig, VCPU0, at, gpa};
use crate::addr::{Gva, PAGE_SIZE};
use crate::fake::asm;
use crate::fake::stage1::{Page, Stage1};
use crate::gdb_trace::{
    Action, BadTrace, Compile, Definition, Leaving, Moment, More, PointId, PointKind, RunStatus,
    Running, Search, Shape, StopReason, Switch,
};
use crate::machine::{PhysMemory, RunControl};
use crate::programs::{Owner, ProgramRef};
use crate::regs::pstate;
use crate::space::ProbeKind;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use ebpf::agent::Expression;

const ME: Owner = Owner(1);
/// What the function's entry is to the client.
const ENTRY: PointId = PointId {
    number: 7,
    address: Gva(0x4000_0000 + FUNCTION),
};

/// For tests without expressions.
struct NoExpressions;

impl Compile for NoExpressions {
    fn compile(&self, _: &str, _: &[Expression<'_>]) -> Result<ProgramRef, String> {
        Err("no expressions here".to_string())
    }
}

/// A tracepoint at the entry that collects all registers and the function's first instruction.
fn definition() -> Definition {
    let code = Action::Memory {
        base: Some(32),
        offset: 0,
        length: 4,
    };
    Definition {
        id: ENTRY,
        switch: Switch::Enabled,
        kind: PointKind::Code,
        steps: 0,
        passes: 0,
        condition: None,
        actions: [(Moment::Hit, Action::Registers), (Moment::Hit, code)].to_vec(),
        sayings: Vec::new(),
    }
}

impl Rig {
    /// Begins an experiment with these tracepoints.
    fn trace(&self, definitions: &[Definition]) {
        self.define(definitions);
        self.space.start_experiment(&NoExpressions).unwrap();
    }

    fn define(&self, definitions: &[Definition]) {
        self.space.init_experiment(ME);
        for definition in definitions {
            let defined =
                self.space
                    .define_tracepoint(definition.clone(), More::Nothing, &NoExpressions);
            defined.unwrap();
        }
    }

    fn status(&self) -> RunStatus {
        self.space.experiment().status()
    }

    /// vCPU, PC and x19 of all frames.
    fn frames(&self) -> Vec<(u8, u64, Option<u64>)> {
        let experiment = self.space.experiment();
        (0..)
            .map_while(|number| experiment.find(&Search::Number(number), None))
            .map(|selected| {
                let head = selected.frame.head;
                let x19 = selected
                    .frame
                    .registers()
                    .map(|registers| registers.core.x[19]);
                (head.vcpu.0, head.pc.0, x19)
            })
            .collect()
    }

    fn kinds(&self) -> Vec<ProbeKind> {
        self.space.list().iter().map(|entry| entry.kind).collect()
    }
}

#[test]
fn every_hit_on_every_vcpu_is_a_frame() {
    let rig = Rig::new(2);
    rig.trace(&[definition()]);
    assert_eq!(rig.kinds(), [ProbeKind::GdbTracepoint]);
    assert_eq!(rig.status().running, Running::Yes);
    rig.machine.run(LONG);
    rig.space.stop_experiment();
    assert_eq!((rig.kinds(), rig.machine.armed()), (Vec::new(), Vec::new()));
    let frames = rig.frames();
    for vcpu in 0..2 {
        let of_vcpu = frames.iter().filter(|(who, ..)| *who == vcpu);
        let counts: Vec<_> = of_vcpu.map(|(_, pc, x19)| (*pc, x19.unwrap())).collect();
        let expected: Vec<_> = (1..=CALLS)
            .rev()
            .map(|left| (at(FUNCTION).0, left))
            .collect();
        assert_eq!(counts, expected, "vcpu{vcpu}");
    }
    let status = rig.status();
    assert_eq!(
        status.running,
        Running::Stopped(StopReason::Command(String::new()))
    );
    assert_eq!(status.frames, (2 * CALLS, 2 * CALLS));
    let of_point = rig.space.experiment().point_status(ENTRY).unwrap();
    assert_eq!(of_point.hits, 2 * CALLS);
    assert_eq!(of_point.usage as usize, status.size.0 - status.size.1);
    let frame = rig
        .space
        .experiment()
        .find(&Search::Pc(at(FUNCTION)), None)
        .unwrap()
        .frame;
    assert_eq!(frame.memory(at(FUNCTION)).unwrap().len(), 4);
    assert_eq!(rig.hits(), [], "a GDB tracepoint writes no events");
}

/// What a process has is collected with `PSTATE.PAN` set too, though the kernel's own loads of it fault.
#[test]
fn memory_of_a_process_is_collected_under_pan() {
    const USER: Gva = Gva(0x1000_0000);
    const TEXT: [u8; 8] = *b"/etc/fst";
    let rig = Rig::new(1);
    let mut tables = Stage1::new(rig.machine, gpa(16 * PAGE_SIZE));
    tables.map(at(0), gpa(0), Page::Kernel);
    tables.map(USER, gpa(PAGE_SIZE), Page::User);
    rig.machine.write_phys(gpa(PAGE_SIZE), &TEXT).unwrap();
    rig.machine.load(gpa(FUNCTION), &[asm::ldr(0, 1, 0)]);
    rig.held(|machine| {
        tables.install(VCPU0);
        let mut regs = machine.core(VCPU0).unwrap();
        regs.x[1] = USER.0;
        regs.pstate |= pstate::PAN;
        machine.set_core(VCPU0, &regs).unwrap();
    });
    let text = Action::Memory {
        base: Some(1),
        offset: 0,
        length: TEXT.len() as u32,
    };
    rig.trace(&[Definition {
        actions: [(Moment::Hit, text)].to_vec(),
        ..definition()
    }]);
    rig.machine.run(LONG);
    rig.space.stop_experiment();
    let found = rig.space.experiment().find(&Search::Number(0), None);
    assert_eq!(found.unwrap().frame.memory(USER), Some(&TEXT[..]));
    assert_eq!(rig.status().frames, (1, 1), "the load itself aborts");
    assert_eq!(rig.x(VCPU0, 0), 0, "and loads nothing");
}

#[test]
fn frames_are_found_in_every_way() {
    let rig = Rig::new(1);
    let second = Definition {
        id: PointId {
            number: 9,
            address: at(FUNCTION + 4),
        },
        actions: Vec::new(),
        ..definition()
    };
    rig.trace(&[definition(), second]);
    rig.machine.run(LONG);
    let experiment = rig.space.experiment();
    let find = |search: Search, after| experiment.find(&search, after).map(|found| found.number);
    assert_eq!(find(Search::Number(39), None), Some(39));
    assert_eq!(find(Search::Number(40), None), None);
    assert_eq!(find(Search::Tracepoint(9), None), Some(1));
    assert_eq!(find(Search::Tracepoint(9), Some(1)), Some(3));
    assert_eq!(find(Search::Pc(at(FUNCTION)), Some(0)), Some(2));
    assert_eq!(find(Search::Pc(at(0)), None), None);
    let entry = at(FUNCTION)..=at(FUNCTION);
    assert_eq!(find(Search::Inside(entry.clone()), Some(37)), Some(38));
    assert_eq!(find(Search::Outside(entry), Some(37)), Some(39));
    assert_eq!(find(Search::Tracepoint(7), Some(38)), None);
    let empty = experiment.find(&Search::Number(1), None).unwrap().frame;
    assert!(empty.blocks.is_empty() && empty.head.pc == at(FUNCTION + 4));
}

#[test]
fn a_run_ends_by_a_pass_count() {
    let rig = Rig::new(2);
    let limited = Definition {
        passes: 5,
        ..definition()
    };
    rig.trace(&[limited]);
    rig.machine.run(LONG);
    assert_eq!(
        rig.status().running,
        Running::Stopped(StopReason::PassCount(7))
    );
    assert_eq!((rig.frames().len(), rig.status().frames), (5, (5, 5)));
    assert_eq!(rig.space.experiment().point_status(ENTRY).unwrap().hits, 5);
    assert_eq!(rig.machine.armed().len(), 1);
    assert!(rig.space.wants_attention());
    rig.space.attend();
    assert_eq!(rig.machine.armed(), [], "nothing stays armed");
    rig.space.stop_experiment();
    let reason = rig.status().running;
    assert_eq!(
        reason,
        Running::Stopped(StopReason::PassCount(7)),
        "the first reason stays"
    );
}

#[test]
fn a_full_buffer_ends_a_run_or_goes_round() {
    let rig = Rig::new(1);
    let set = |shape| {
        let mut experiment = rig.space.experiment();
        experiment.set_shape(shape);
        experiment.set_size(Some(8 * 1024)).unwrap();
    };
    set(Shape::Linear);
    rig.trace(&[definition()]);
    rig.machine.run(LONG);
    let full = rig.frames();
    assert_eq!(rig.status().running, Running::Stopped(StopReason::Full));
    assert!((5..CALLS as usize).contains(&full.len()), "{full:?}");
    assert_eq!(full[0].2, Some(CALLS));

    let rig = Rig::new(1);
    let mut experiment = rig.space.experiment();
    experiment.set_shape(Shape::Circular);
    experiment.set_size(Some(8 * 1024)).unwrap();
    drop(experiment);
    rig.trace(&[definition()]);
    rig.machine.run(LONG);
    let newest = rig.frames();
    assert_eq!(rig.status().running, Running::Yes);
    assert_eq!(rig.status().frames, (newest.len() as u64, CALLS));
    let expected: Vec<_> = (1..=newest.len() as u64).rev().map(Some).collect();
    let counts: Vec<_> = newest.iter().map(|(.., x19)| *x19).collect();
    assert_eq!(counts, expected);
    assert!(newest.len() >= 5);
}

#[test]
fn steps_are_frames_too() {
    let rig = Rig::new(2);
    let stepping = Definition {
        steps: 3,
        passes: 4,
        actions: [(Moment::Step, Action::Registers)].to_vec(),
        ..definition()
    };
    rig.trace(&[stepping]);
    rig.machine.run(LONG);
    assert_eq!(
        rig.status().running,
        Running::Stopped(StopReason::PassCount(7))
    );
    let frames = rig.frames();
    for vcpu in 0..2 {
        let of_vcpu = frames.iter().filter(|(who, ..)| *who == vcpu);
        let pcs: Vec<_> = of_vcpu
            .map(|(_, pc, x19)| (*pc - at(0).0, x19.is_some()))
            .collect();
        // At the hit nothing is collected; then two instructions of the function, and the one after its return.
        let call = [
            (FUNCTION, false),
            (FUNCTION + 4, true),
            (FUNCTION + 8, true),
            (8, true),
        ];
        assert_eq!(pcs, [call, call].concat(), "vcpu{vcpu}");
    }
    rig.space.attend();
    assert!(!rig.space.walks(VCPU0));
}

#[test]
fn a_vcpu_in_its_steps_is_let_go_when_the_run_ends() {
    let rig = Rig::new(1);
    let stepping = Definition {
        steps: 1000,
        ..definition()
    };
    rig.trace(&[stepping]);
    rig.machine.run(10);
    assert!(rig.space.walks(VCPU0));
    let before = rig.status().frames.0;
    assert!(before > 3);
    rig.space.stop_experiment();
    assert!(!rig.space.walks(VCPU0));
    rig.machine.run(LONG);
    assert_eq!(rig.status().frames.0, before);
}

#[test]
fn a_tracepoint_is_switched_in_a_run() {
    let rig = Rig::new(1);
    let off = Definition {
        switch: Switch::Disabled,
        ..definition()
    };
    rig.trace(&[off]);
    rig.machine.run(17);
    assert_eq!((rig.frames().len(), rig.machine.armed().len()), (0, 0));
    rig.space.switch_tracepoint(ENTRY, Switch::Enabled).unwrap();
    rig.machine.run(12);
    let collected = rig.frames().len();
    assert!(collected > 0);
    rig.space
        .switch_tracepoint(ENTRY, Switch::Disabled)
        .unwrap();
    rig.machine.run(12);
    assert_eq!(rig.frames().len(), collected);
    let nowhere = PointId { number: 8, ..ENTRY };
    let refused = rig.space.switch_tracepoint(nowhere, Switch::Enabled);
    assert_eq!(refused, Err(BadTrace::NoSuchPoint(nowhere)));
}

#[test]
fn a_tracepoint_that_comes_in_a_run_is_armed_at_once() {
    let rig = Rig::new(1);
    let other = Definition {
        id: PointId {
            number: 1,
            address: at(8),
        },
        ..definition()
    };
    rig.trace(&[other]);
    let late = rig
        .space
        .define_tracepoint(definition(), More::Nothing, &NoExpressions);
    assert_eq!((late, rig.machine.armed().len()), (Ok(()), 2));
    rig.machine.run(LONG);
    assert_eq!(rig.status().frames.0, 2 * CALLS);
    let expression = Action::Expression([0x22, 0, 0x27].to_vec());
    let another = Definition {
        id: PointId { number: 2, ..ENTRY },
        actions: [(Moment::Hit, expression)].to_vec(),
        ..definition()
    };
    let id = another.id;
    let refused = rig
        .space
        .define_tracepoint(another, More::Nothing, &NoExpressions);
    assert_eq!(refused, Err(BadTrace::FirstExpression(id)));
    assert_eq!(
        rig.space.experiment().definitions().len(),
        2,
        "it is not kept"
    );
}

#[test]
fn what_runs_can_be_defined_anew_and_stays_as_it_is() {
    let rig = Rig::new(1);
    rig.trace(&[definition()]);
    let define = |more| {
        let definition = definition();
        rig.space
            .define_tracepoint(definition, more, &NoExpressions)
    };
    let add = |more| {
        let expression = Action::Expression([0x27].to_vec());
        let said = (b"X1,27".to_vec(), [expression].to_vec());
        let space = rig.space;
        space.add_actions(ENTRY, Moment::Hit, said, more, &NoExpressions)
    };
    assert_eq!(define(More::Nothing), Ok(()));
    assert_eq!(add(More::Nothing), Err(BadTrace::Complete(ENTRY)));
    assert_eq!(define(More::Follows), Ok(()));
    assert_eq!((add(More::Follows), add(More::Nothing)), (Ok(()), Ok(())));
    assert_eq!(add(More::Nothing), Err(BadTrace::Complete(ENTRY)));
    assert_eq!(*rig.space.experiment().definitions(), [definition()]);
    rig.machine.run(LONG);
    assert_eq!(rig.status().frames.0, CALLS);
    rig.space.stop_experiment();
    assert_eq!(define(More::Nothing), Err(BadTrace::Exists(ENTRY)));
}

#[test]
fn a_run_that_cannot_begin_leaves_nothing() {
    let rig = Rig::new(1);
    assert_eq!(
        rig.space.start_experiment(&NoExpressions),
        Err(BadTrace::Nothing)
    );
    let nowhere = Definition {
        id: PointId {
            number: 8,
            address: Gva(0x0900_0000),
        },
        ..definition()
    };
    rig.define(&[definition(), nowhere]);
    let refused = rig.space.start_experiment(&NoExpressions).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("tracepoint 8 at 0x9000000: "),
        "{refused}"
    );
    assert_eq!((rig.kinds(), rig.machine.armed()), (Vec::new(), Vec::new()));
    assert_eq!(rig.status().running, Running::Never);
    let huge = Definition {
        actions: [(
            Moment::Hit,
            Action::Memory {
                base: None,
                offset: 0,
                length: 65 * 1024,
            },
        )]
        .to_vec(),
        ..definition()
    };
    rig.define(&[huge]);
    assert_eq!(
        rig.space.start_experiment(&NoExpressions),
        Err(BadTrace::Frame(ENTRY))
    );
    let conditional = Definition {
        condition: Some([0x22, 1, 0x27].to_vec()),
        ..definition()
    };
    rig.define(&[conditional]);
    let refused = rig.space.start_experiment(&NoExpressions).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "tracepoint 7 at 0x40000040: no expressions here"
    );
}

#[test]
fn definitions_come_in_their_order() {
    let rig = Rig::new(1);
    let space = rig.space;
    space.init_experiment(ME);
    let define = |definition, more| space.define_tracepoint(definition, more, &NoExpressions);
    let add = |id, more| {
        let text = b"R1".to_vec();
        let actions = [Action::Registers].to_vec();
        space.add_actions(id, Moment::Hit, (text, actions), more, &NoExpressions)
    };
    assert_eq!(add(ENTRY, More::Nothing), Err(BadTrace::NoSuchPoint(ENTRY)));
    assert_eq!(define(definition(), More::Follows), Ok(()));
    let other = PointId { number: 8, ..ENTRY };
    let second = Definition {
        id: other,
        ..definition()
    };
    assert_eq!(
        define(second.clone(), More::Nothing),
        Err(BadTrace::Incomplete(ENTRY))
    );
    assert_eq!(
        space.start_experiment(&NoExpressions),
        Err(BadTrace::Incomplete(ENTRY))
    );
    assert_eq!(add(ENTRY, More::Follows), Ok(()));
    assert_eq!(add(ENTRY, More::Nothing), Ok(()));
    assert_eq!(add(ENTRY, More::Nothing), Err(BadTrace::Complete(ENTRY)));
    assert_eq!(
        define(definition(), More::Nothing),
        Err(BadTrace::Exists(ENTRY))
    );
    assert_eq!(define(second, More::Nothing), Ok(()));
    for number in 100.. {
        let more = Definition {
            id: PointId { number, ..ENTRY },
            ..definition()
        };
        if let Err(refused) = define(more, More::Nothing) {
            assert_eq!((refused, number), (BadTrace::TooMany, 100 + 510));
            break;
        }
    }
    let long = space
        .experiment()
        .add_source(ENTRY, [b'x'; 600 << 10].to_vec());
    assert_eq!(long, Err(BadTrace::TooLong));
}

#[test]
fn an_experiment_goes_with_its_client_unless_it_is_to_stay() {
    let rig = Rig::new(1);
    rig.trace(&[definition()]);
    rig.machine.run(20);
    rig.space.leave_experiment(Owner(2));
    assert_eq!(rig.status().running, Running::Yes, "it is another's");
    rig.space.experiment().set_leaving(Leaving::GoesOn);
    rig.space.leave_experiment(ME);
    assert_eq!(rig.status().running, Running::Yes);
    let collected = rig.frames().len();
    rig.machine.run(20);
    assert!(rig.frames().len() > collected);
    rig.space.experiment().set_leaving(Leaving::Ends);
    rig.space.leave_experiment(ME);
    let status = rig.status();
    assert_eq!(status.running, Running::Stopped(StopReason::Disconnected));
    assert_eq!((status.frames, rig.machine.armed()), ((0, 0), Vec::new()));
    assert!(rig.space.experiment().definitions().is_empty());
    // A client that dies in the middle of a definition.
    rig.space.init_experiment(ME);
    rig.space.experiment().set_leaving(Leaving::GoesOn);
    let begun = rig
        .space
        .define_tracepoint(definition(), More::Follows, &NoExpressions);
    assert_eq!(begun, Ok(()));
    rig.space.leave_experiment(ME);
    assert!(rig.space.experiment().definitions().is_empty());
}

#[test]
fn a_guest_that_starts_anew_is_traced_again() {
    use crate::machine::Lifecycle;
    let rig = Rig::new(1);
    rig.trace(&[definition()]);
    rig.machine.run(20);
    let before = rig.frames().len();
    assert!(before > 0);
    rig.machine.reset();
    assert_eq!(rig.machine.armed(), []);
    rig.space.attend();
    rig.machine.run(LONG);
    assert_eq!(rig.frames().len(), before + CALLS as usize);
    assert!(!rig.machine.held());
}
