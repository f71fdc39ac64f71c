use super::super::{E2BIG, ENOENT, Helper};
use super::*;
use crate::asm::reg::{FP, R0, R1, R2, R3};
use crate::asm::{self, alu_imm, call, exit, load, mov, mov_imm, store_imm};
use crate::insn::{Insn, alu};
use crate::map::{MapDef, MapKind};
use crate::object::RunError;
use crate::testing::{self, FakeHost, context};
use alloc::vec;
use alloc::vec::Vec;

fn definition(kind: MapKind) -> MapDef {
    MapDef {
        key_size: 0,
        ..testing::map(kind, 2)
    }
}

/// `r0 = helper(map, r10 - 8, flags)`.
fn with_value(helper: Helper, flags: i32) -> Vec<Insn> {
    let mut program = Vec::from(asm::map(R1, 0));
    program.extend([
        mov(R2, FP),
        alu_imm(alu::ADD, R2, -8),
        mov_imm(R3, flags),
        call(helper),
    ]);
    program
}

fn push(value: i32, flags: i32) -> Vec<Insn> {
    let mut program = vec![store_imm(FP, -8, value)];
    program.extend(with_value(Helper::MapPushElem, flags));
    program
}

/// Takes a value and leaves it in r0.
fn take(helper: Helper) -> Vec<Insn> {
    let mut program = vec![store_imm(FP, -8, -1)];
    program.extend(with_value(helper, 0));
    program.push(load(R0, FP, -8));
    program
}

fn run(kind: MapKind, parts: &[Vec<Insn>]) -> Result<u64, RunError> {
    let mut program = parts.concat();
    program.push(exit());
    testing::load(&program, &[definition(kind)]).programs()[0].run(&context(), &FakeHost::new())
}

#[test]
fn the_first_or_the_last_comes_out() {
    let pop = || take(Helper::MapPopElem);
    let peek = || take(Helper::MapPeekElem);
    for (kind, expected) in [(MapKind::Queue, [1, 2]), (MapKind::Stack, [2, 1])] {
        assert_eq!(
            run(kind, &[push(1, 0), push(2, 0), peek()]),
            Ok(expected[0])
        );
        assert_eq!(
            run(kind, &[push(1, 0), push(2, 0), peek(), pop()]),
            Ok(expected[0])
        );
        assert_eq!(
            run(kind, &[push(1, 0), push(2, 0), pop(), pop()]),
            Ok(expected[1])
        );
    }
    // What replaces takes the place of the oldest.
    let full = [push(1, 0), push(2, 0), push(3, 2), pop()];
    assert_eq!(run(MapKind::Queue, &full), Ok(2));
    assert_eq!(run(MapKind::Stack, &full), Ok(3));
}

#[test]
fn errors_are_those_of_linux() {
    let result = |helper| with_value(helper, 0);
    assert_eq!(
        run(MapKind::Queue, &[push(1, 0), push(2, 0), push(3, 0)]),
        Ok(E2BIG)
    );
    assert_eq!(run(MapKind::Queue, &[push(1, 1)]), Ok(EINVAL));
    assert_eq!(run(MapKind::Queue, &[push(1, 3)]), Ok(EINVAL));
    assert_eq!(
        run(MapKind::Stack, &[result(Helper::MapPeekElem)]),
        Ok(ENOENT)
    );
    assert_eq!(
        run(MapKind::Stack, &[result(Helper::MapPopElem)]),
        Ok(ENOENT)
    );
    // Where there is nothing, the value becomes 0.
    assert_eq!(run(MapKind::Stack, &[take(Helper::MapPopElem)]), Ok(0));
}

#[test]
fn a_map_of_another_kind_is_no_queue() {
    let mut program = push(1, 0);
    program.push(exit());
    let object = testing::load(&program, &[testing::map(MapKind::Hash, 1)]);
    let result = object.programs()[0].run(&context(), &FakeHost::new());
    assert_eq!(result, Ok(EINVAL));
}
