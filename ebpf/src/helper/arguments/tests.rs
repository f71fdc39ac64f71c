use crate::asm::reg::{FP, R0, R1, R2, R3, R6};
use crate::asm::{self, alu_imm, exit, load, mov, mov_imm, store_imm};
use crate::helper::Helper;
use crate::insn::{Insn, alu};
use crate::object::Object;
use crate::signature::{At, Signature};
use crate::testing::{self, FakeHost, context};
use alloc::vec::Vec;

/// A function with two arguments.
fn signature(at: At) -> Signature {
    Signature::new(at, 2, 0).expect("two are not too many")
}

/// Runs a program that is given the arguments of such a function: 0x100 and 0x101, and 0x102 as its result.
fn run(at: At, insns: &[Insn]) -> u64 {
    let mut linked = testing::linked(insns, &[]);
    linked.programs[0].signature = Some(signature(at));
    let object = Object::load(&linked, 1).expect("it is safe");
    let mut host = FakeHost::new();
    host.signature = object.programs()[0].signature();
    let result = object.programs()[0].run(&context(), &host);
    result.expect("these do not fail")
}

/// Calls a helper with r1 the context, some that are numbers, and a place for a number; returns the result where that
/// is an error, and the number otherwise.
fn asked(at: At, helper: Helper, numbers: &[i32]) -> u64 {
    let mut insns = Vec::from([store_imm(FP, -8, 7)]);
    for (register, &number) in (R2..).zip(numbers) {
        insns.push(mov_imm(register, number));
    }
    let place = R2 + numbers.len() as u8;
    insns.extend([
        mov(place, FP),
        alu_imm(alu::ADD, place, -8),
        asm::call(helper),
        asm::jump_imm(crate::insn::jmp::JNE, R0, 0, 1),
        load(R0, FP, -8),
        exit(),
    ]);
    run(at, &insns)
}

#[test]
fn arguments_come_by_number() {
    for (number, expected) in [
        (0, 0x100),
        (1, 0x101),
        (2, super::EINVAL),
        (-1, super::EINVAL),
    ] {
        for at in [At::Entry, At::Return] {
            assert_eq!(
                asked(at, Helper::GetFuncArg, &[number]),
                expected,
                "{number}"
            );
        }
    }
}

#[test]
fn the_result_is_there_at_the_return() {
    assert_eq!(asked(At::Return, Helper::GetFuncRet, &[]), 0x102);
    assert_eq!(asked(At::Entry, Helper::GetFuncRet, &[]), super::EOPNOTSUPP);
}

#[test]
fn arguments_are_counted_without_the_result() {
    for at in [At::Entry, At::Return] {
        assert_eq!(run(at, &[asm::call(Helper::GetFuncArgCnt), exit()]), 2);
    }
}

#[test]
fn arguments_are_also_the_context() {
    let sum = |last| {
        let add = |offset| [load(R3, R6, offset), asm::alu(alu::ADD, R0, R3)];
        let mut insns = Vec::from([mov(R6, R1), mov_imm(R0, 0)]);
        insns.extend((0..=last).flat_map(|index| add(8 * index)));
        insns.push(exit());
        insns
    };
    assert_eq!(run(At::Entry, &sum(1)), 0x201);
    assert_eq!(run(At::Return, &sum(2)), 0x303);
}

#[test]
fn the_cookie_is_the_probes() {
    let object = testing::load(&[asm::call(Helper::GetAttachCookie), exit()], &[]);
    let mut host = FakeHost::new();
    host.cookie = 0xc00c1e;
    assert_eq!(object.programs()[0].run(&context(), &host), Ok(0xc00c1e));
}
