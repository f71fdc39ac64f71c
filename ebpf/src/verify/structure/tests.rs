use super::*;
use crate::asm::reg::{FP, R0, R1, R2};
use crate::asm::{alu_imm, call, exit, insn, map as map_insn, map_value, mov, mov_imm, mov_imm64};
use crate::helper::Helper;
use crate::stack::MAX_FRAMES;
use crate::testing::{self, program};
use crate::verify::verify;
use alloc::string::ToString;
use proptest::prelude::*;

fn verdict(insns: &[Insn]) -> Result<(), Refusal> {
    let maps = [
        testing::map(MapKind::Array, 1),
        testing::map(MapKind::Hash, 1),
    ];
    check(insns, &maps).map(|_| ())
}

fn jump(off: i16) -> Insn {
    insn(class::JMP, 0, 0, off, 0)
}

fn call_function(distance: i32) -> Insn {
    insn(CALL, 0, PSEUDO_CALL, 0, distance)
}

#[test]
fn single_instructions_are_checked() {
    let [wide, second] = mov_imm64(R0, 1);
    let cases = [
        (insn(0xff, 0, 0, 0, 0), Reason::Opcode),
        (insn(0x00, 0, 0, 0, 0), Reason::Opcode),
        (insn(0x99, 0, 0, 0, 0), Reason::Opcode),
        (insn(0xe5, 0, 0, 0, 0), Reason::Opcode),
        (insn(0x86, 0, 0, 0, 0), Reason::Opcode),
        (insn(0x8f, 0, 0, 0, 0), Reason::Opcode),
        (insn(0xdf, 0, 0, 0, 16), Reason::Opcode),
        (insn(0xb7, 11, 0, 0, 0), Reason::Register(11)),
        (insn(0xbf, 0, 15, 0, 0), Reason::Register(15)),
        (mov(FP, R1), Reason::WritesFramePointer),
        (alu_imm(alu::ADD, FP, 8), Reason::WritesFramePointer),
        (insn(0x79, FP, R1, 0, 0), Reason::WritesFramePointer),
        (insn(0xdb, R1, FP, 0, 1), Reason::WritesFramePointer),
        (alu_imm(alu::DIV, R0, 0), Reason::DivisionByZero),
        (alu_imm(alu::MOD, R0, 0), Reason::DivisionByZero),
        (alu_imm(alu::LSH, R0, 64), Reason::Shift),
        (insn(0x64, R0, 0, 0, 32), Reason::Shift),
        (alu_imm(alu::RSH, R0, -1), Reason::Shift),
        (insn(0xd4, R0, 0, 0, 8), Reason::SwapSize),
        (insn(0xdb, R1, R2, 0, 0x20), Reason::Atomic),
        (insn(0xd3, R1, R2, 0, 0), Reason::Atomic),
        (insn(0xb7, R0, R1, 0, 0), Reason::Reserved),
        (insn(0xb7, R0, 0, 1, 0), Reason::Reserved),
        (insn(0x05, R1, 0, 0, 0), Reason::Reserved),
        (Insn { src: 5, ..wide }, Reason::Immediate(5)),
        (insn(CALL, 0, 3, 0, 1), Reason::Reserved),
    ];
    for (refused, reason) in cases {
        let program = [refused, second, mov_imm(R0, 0), exit()];
        assert_eq!(verdict(&program), Err((0, reason)), "{refused:?}");
    }
}

#[test]
fn whole_programs_are_checked() {
    let [wide, second] = mov_imm64(R0, 1);
    let zero = mov_imm(R0, 0);
    let cases: &[(&[Insn], Refusal)] = &[
        (&[], (0, Reason::Empty)),
        (&[zero], (0, Reason::FallsThrough)),
        (
            &[exit(), insn(0x15, R0, 0, -2, 0)],
            (1, Reason::FallsThrough),
        ),
        (&[jump(1), exit()], (0, Reason::JumpTarget)),
        (&[jump(-2), exit()], (0, Reason::JumpTarget)),
        (&[jump(1), wide, second, exit()], (0, Reason::JumpTarget)),
        (
            &[insn(0x06, 0, 0, 0, i32::MAX), exit()],
            (0, Reason::JumpTarget),
        ),
        (&[wide], (0, Reason::SecondSlot)),
        (&[wide, exit()], (0, Reason::SecondSlot)),
        (&[call_function(1), exit()], (0, Reason::CallTarget)),
        (&[call_function(-100), exit()], (0, Reason::CallTarget)),
        (
            &[call_function(1), wide, second, exit()],
            (0, Reason::CallTarget),
        ),
        (&[call_function(-1), exit()], (0, Reason::Recursion)),
        (
            &[call_function(1), exit(), call_function(-3), exit()],
            (2, Reason::Recursion),
        ),
        // A jump from the main function into a subprogram.
        (
            &[call_function(1), jump(0), zero, exit()],
            (1, Reason::JumpTarget),
        ),
        // A main function that falls into its subprogram.
        (&[call_function(0), exit()], (0, Reason::FallsThrough)),
    ];
    for (program, refusal) in cases {
        assert_eq!(verdict(program), Err(*refusal), "{program:?}");
    }
}

#[test]
fn map_references_are_checked() {
    let with = |first: [Insn; 2]| verdict(&[first[0], first[1], exit()]);
    assert_eq!(with(map_insn(R1, 1)), Ok(()));
    assert_eq!(with(map_insn(R1, 2)), Err((0, Reason::Map(2))));
    assert_eq!(with(map_insn(R1, -1)), Err((0, Reason::Map(-1))));
    assert_eq!(with(map_value(R1, 0, 7)), Ok(()));
    assert_eq!(with(map_value(R1, 0, 8)), Err((0, Reason::MapValue)));
    assert_eq!(with(map_value(R1, 0, -1)), Err((0, Reason::MapValue)));
    assert_eq!(with(map_value(R1, 1, 0)), Err((0, Reason::MapValue)));
}

#[test]
fn calls_may_nest_as_deep_as_the_stack() {
    let nested = |depth: usize| {
        let mut insns = Vec::new();
        for _ in 1..depth {
            insns.extend([call_function(1), exit()]);
        }
        insns.extend([mov_imm(R0, 0), exit()]);
        insns
    };
    assert_eq!(verdict(&nested(MAX_FRAMES)), Ok(()));
    assert_eq!(
        verdict(&nested(MAX_FRAMES + 1)),
        Err((0, Reason::CallDepth))
    );
}

#[test]
fn a_diamond_of_calls_is_no_recursion() {
    let insns = [
        call_function(2),
        call_function(3),
        exit(),
        call_function(3),
        exit(),
        call_function(1),
        exit(),
        exit(),
    ];
    assert_eq!(verdict(&insns), Ok(()));
}

#[test]
fn every_helper_can_be_called() {
    for &helper in Helper::ALL {
        assert_eq!(Helper::from_number(helper as i32), Some(helper));
        assert_eq!(verdict(&[call(helper), exit()]), Ok(()));
    }
}

#[test]
fn too_many_instructions_are_refused() {
    let mut insns = vec![mov_imm(R0, 0); MAX_INSNS];
    insns.push(exit());
    assert_eq!(verdict(&insns), Err((MAX_INSNS, Reason::TooLong)));
}

#[test]
fn an_error_says_where_what_and_why() {
    let error = verify(&program(&[mov(FP, R1), exit()]), &[]).expect_err("it writes r10");
    assert_eq!(
        error.to_string(),
        "kprobe/test, instruction 0\n  r10 = r1\n  r10, the frame pointer, is read-only"
    );
}

proptest! {
    #[test]
    fn any_instructions_get_a_verdict(bytes: Vec<[u8; 8]>) {
        let insns: Vec<_> = bytes.iter().map(|&bytes| Insn::decode(bytes)).collect();
        let _ = verify(&program(&insns), &[]);
    }

    /// Jumps and calls at random: the search for cycles ends.
    #[test]
    fn any_calls_get_a_verdict(distances in prop::collection::vec(-8..8_i32, 1..30)) {
        let mut insns: Vec<_> = distances
            .iter()
            .flat_map(|&distance| [call_function(distance), exit()])
            .collect();
        insns.push(exit());
        let _ = verdict(&insns);
    }
}
