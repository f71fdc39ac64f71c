use crate::helper::MAX_TAIL_CALLS;
use crate::linked::{Linked, ParseError, ProgramDef};
use crate::map::{MapDef, MapError, MapKind, UpdateFlag};
use crate::object::{LoadError, Object, RunError, RunFault};
use crate::testing::{self, FakeHost, context};
use crate::verify::{Reason, assemble, verify};
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

/// Counts its runs in the first value of map 1 and goes on with slot `slot`; returns `result` where that
/// does not happen.
fn program(name: &str, section: &str, slot: u32, result: u32) -> ProgramDef {
    let text = format!(
        "r6 = r1\n r2 = map[1][0] ll\n r3 = 1\n lock *(u64 *)(r2 + 0) += r3
         r1 = r6\n r2 = map[0] ll\n r3 = {slot}\n call tail_call\n r0 = {result}\n exit"
    );
    ProgramDef {
        name: name.into(),
        section: section.into(),
        insns: assemble(&text).expect("it is well-formed"),
        ..ProgramDef::default()
    }
}

/// A map of four slots that hold these programs.
fn slots(programs: &[Option<u32>]) -> MapDef {
    let number = |program: &Option<u32>| program.map_or(0, |program| program + 1);
    MapDef {
        value_size: 4,
        initial: programs
            .iter()
            .map(number)
            .flat_map(u32::to_le_bytes)
            .collect(),
        ..testing::map(MapKind::ProgArray, 4)
    }
}

fn linked(programs: Vec<ProgramDef>, held: &[Option<u32>]) -> Linked {
    Linked {
        programs,
        ..testing::linked(&[], &[slots(held), testing::map(MapKind::Array, 1)])
    }
}

fn load(programs: Vec<ProgramDef>, held: &[Option<u32>]) -> Object {
    Object::load(&linked(programs, held), 2).expect("it is safe")
}

fn run_within(object: &Object, budget: u64) -> Result<u64, RunError> {
    object.programs()[0].run_within(budget, &context(), &FakeHost::new())
}

fn run(object: &Object) -> Result<u64, RunError> {
    run_within(object, 1_000_000)
}

/// How many programs have run.
fn runs(object: &Object) -> u64 {
    let mut count = [0; 8];
    let looked_up = object.maps()[1].lookup(&[0; 4], 0, &mut count);
    assert_eq!(looked_up, Ok(()));
    u64::from_le_bytes(count)
}

#[test]
fn a_run_goes_on_with_another_program() {
    let programs = vec![
        program("first", "kprobe/f", 1, 100),
        program("second", "kretprobe/f", 2, 200),
    ];
    let object = load(programs, &[None, Some(1)]);
    assert_eq!(run(&object), Ok(200), "slot 2 is empty");
    assert_eq!(runs(&object), 2);
}

#[test]
fn an_index_outside_falls_through() {
    for slot in [3, 4, u32::MAX] {
        let object = load(vec![program("only", "kprobe/f", slot, 7)], &[Some(0)]);
        assert_eq!(run(&object), Ok(7));
        assert_eq!(runs(&object), 1);
    }
}

#[test]
fn a_cycle_ends_at_the_limit() {
    let object = load(vec![program("again", "kprobe/f", 0, 5)], &[Some(0)]);
    for round in 1..4 {
        assert_eq!(run(&object), Ok(5));
        assert_eq!(runs(&object), round * u64::from(MAX_TAIL_CALLS + 1));
    }
}

#[test]
fn the_budget_is_for_all_of_them() {
    let object = load(vec![program("again", "kprobe/f", 0, 5)], &[Some(0)]);
    // Twelve slots of instructions for each of three runs, and some of a fourth.
    let failed = RunError {
        program: Some(0),
        ..RunError::new(0, RunFault::Budget)
    };
    assert_eq!(run_within(&object, 40), Err(failed));
    assert_eq!(runs(&object), 3);
    assert!(
        failed
            .to_string()
            .starts_with("after a tail call, program 0")
    );
    assert_eq!(run(&object), Ok(5), "nothing is left of the run before");
    assert_eq!(runs(&object), 3 + u64::from(MAX_TAIL_CALLS + 1));
}

#[test]
fn the_debugger_fills_slots() {
    let object = load(
        vec![
            program("first", "kprobe/f", 0, 1),
            program("second", "ksyscall/g", 3, 2),
            program("other", "hprobe/h", 3, 3),
        ]
        .into_iter()
        .map(|mut program| {
            // The third does not use the map.
            if program.name == "other" {
                program.insns = assemble("r0 = 0\n exit").expect("it is well-formed");
            }
            program
        })
        .collect(),
        &[],
    );
    let map = &object.maps()[0];
    let key = [0; 4];
    let set = |program, flag| object.set_program(0, &key, program, flag);
    assert_eq!(run(&object), Ok(1));
    assert_eq!(set(1, UpdateFlag::Any), Ok(()));
    assert_eq!((map.len(), map.program(0)), (1, Some(1)));
    assert_eq!(run(&object), Ok(2));
    assert_eq!(set(1, UpdateFlag::NoExist), Err(MapError::Exists));
    assert_eq!(set(2, UpdateFlag::Any), Err(MapError::OtherContext));
    assert_eq!(set(3, UpdateFlag::Any), Err(MapError::NotFound));
    let past = object.set_program(0, &4_u32.to_le_bytes(), 1, UpdateFlag::Any);
    assert_eq!(past, Err(MapError::OutOfRange));
    let mut value = [9; 4];
    assert_eq!(map.lookup(&key, 0, &mut value), Ok(()));
    assert_eq!(value, [1, 0, 0, 0]);
    let written = map.update(&key, 0, &value, UpdateFlag::Any);
    assert_eq!(written, Err(MapError::Unsupported));
    assert_eq!(map.delete(&key), Ok(()));
    assert_eq!(map.delete(&key), Err(MapError::NotFound));
    assert_eq!(run(&object), Ok(1));
}

/// Nothing keeps anything of an object that has gone.
#[test]
fn an_object_goes_as_a_whole() {
    let object = load(vec![program("again", "kprobe/f", 0, 5)], &[Some(0)]);
    let program = object.programs()[0].clone();
    assert_eq!(run(&object), Ok(5));
    drop(object);
    assert_eq!(alloc::sync::Arc::strong_count(&program), 1);
}

#[test]
fn programs_of_different_places_do_not_meet() {
    let first = || program("first", "kprobe/f", 0, 0);
    let other = |section| vec![first(), program("second", section, 0, 0)];
    let refusal = |programs, held: &[Option<u32>]| linked(programs, held).check().err();
    for section in ["hprobe/f", "tp/vmm/exit", ""] {
        assert_eq!(refusal(other(section), &[]), Some(ParseError::Contexts));
    }
    assert_eq!(refusal(other("kretsyscall/f"), &[Some(1)]), None);
    assert_eq!(
        refusal(vec![first()], &[Some(1)]),
        Some(ParseError::ProgramSlot)
    );
    let too_many = linked(vec![first()], &[Some(0); 5]);
    assert!(matches!(
        Object::load(&too_many, 1),
        Err(LoadError::Malformed(_))
    ));
}

#[test]
fn absurd_sizes_are_refused() {
    let mut absurd = linked(vec![program("only", "kprobe/f", 0, 0)], &[]);
    absurd.maps[0].max_entries = u32::MAX;
    assert!(matches!(
        Object::load(&absurd, 1),
        Err(LoadError::Malformed(_))
    ));
    absurd.maps[0] = slots(&[]);
    absurd.maps.extend((0..5).map(|number| MapDef {
        name: format!("m{number}"),
        max_entries: 1 << 20,
        ..slots(&[])
    }));
    assert!(matches!(
        Object::load(&absurd, 1),
        Err(LoadError::Quota { .. })
    ));
}

fn refusal(text: &str) -> Reason {
    let insns = assemble(text).expect("it is well-formed");
    let maps = [slots(&[]), testing::map(MapKind::RingBuf, 4096)];
    let maps = maps.map(|map| match map.kind {
        MapKind::RingBuf => MapDef {
            key_size: 0,
            value_size: 0,
            ..map
        },
        _ => map,
    });
    let error = verify(&testing::program(&insns), &maps).expect_err("it is unsafe");
    error.reason
}

#[test]
fn the_verifier_knows_tail_calls() {
    let call = "r2 = map[0] ll\n r3 = 0\n call tail_call";
    let after = refusal(&format!("{call}\n exit"));
    assert_eq!(after, Reason::Unset(0), "it returns nothing");
    let moved = refusal(&format!("r1 += 8\n {call}\n r0 = 0\n exit"));
    assert!(matches!(moved, Reason::Argument(1, _)), "{moved}");
    let nested = refusal(&format!(
        "call inner\n exit\n inner:\n {call}\n r0 = 0\n exit"
    ));
    assert_eq!(nested, Reason::TailCallInFunction);
    let keeping = refusal(&format!(
        "r6 = r1\n r1 = map[1] ll\n r2 = 8\n r3 = 0\n call ringbuf_reserve\n if r0 == 0 goto out
         r7 = r0\n r1 = r6\n {call}\n r1 = r7\n r2 = 0\n call ringbuf_discard\n out:\n r0 = 0\n exit"
    ));
    assert_eq!(keeping, Reason::NotReleased(5));
    let lookup = refusal(
        "*(u32 *)(r10 - 4) = 0\n r1 = map[0] ll\n r2 = r10\n r2 += -4\n call map_lookup_elem\n exit",
    );
    assert_eq!(lookup, Reason::MapKind("prog_array"));
}
