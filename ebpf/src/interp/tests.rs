use super::*;
use crate::asm::reg::{FP, R0, R1, R2, R3, R6};
use crate::asm::{alu as alu_reg, exit, insn, load as load64, mov, mov_imm, mov_imm64, store_imm};
use crate::insn::{CALL, PSEUDO_CALL, X, alu, atomic, class, jmp, mode, size};
use crate::map::MapKind;
use crate::testing::{self, FakeHost, context, run};
use alloc::string::ToString;
use alloc::vec::Vec;
use proptest::prelude::*;

/// r0 = `left` op `right`, with `off` as it is in the instruction.
fn binary(code: u8, off: i16, left: u64, right: u64) -> u64 {
    let mut program = Vec::from(mov_imm64(R0, left));
    program.extend(mov_imm64(R1, right));
    program.extend([insn(code | X, R0, R1, off, 0), exit()]);
    run(&program).expect("arithmetic cannot fail")
}

/// r0 = op(`value`), with `imm` as it is in the instruction.
fn unary(code: u8, off: i16, imm: i32, value: u64) -> u64 {
    let mut program = Vec::from(mov_imm64(R0, value));
    let src = if code & X != 0 && code & 0xf0 == alu::MOV {
        R0
    } else {
        0
    };
    program.extend([insn(code, R0, src, off, imm), exit()]);
    run(&program).expect("arithmetic cannot fail")
}

/// Whether `left` op `right` jumps.
fn jumps(code: u8, left: u64, right: i32) -> bool {
    let mut program = Vec::from(mov_imm64(R1, left));
    program.extend([
        mov_imm(R0, 1),
        insn(code, R1, 0, 1, right),
        mov_imm(R0, 0),
        exit(),
    ]);
    run(&program).expect("a jump cannot fail") == 1
}

fn fault_of(insns: &[Insn]) -> RunFault {
    run(insns).expect_err("the program should fail").fault
}

const MIN: u64 = 1 << 63;

#[test]
fn division_has_no_traps() {
    let div = class::ALU64 | alu::DIV;
    let modulo = class::ALU64 | alu::MOD;
    assert_eq!(binary(div, 0, 7, 0), 0);
    assert_eq!(binary(modulo, 0, 7, 0), 7);
    assert_eq!(binary(div, 1, MIN, u64::MAX), MIN);
    assert_eq!(binary(modulo, 1, MIN, u64::MAX), 0);
    assert_eq!(binary(div, 1, -7_i64 as u64, 2), -3_i64 as u64);
    assert_eq!(binary(modulo, 1, -7_i64 as u64, 2), -1_i64 as u64);
    assert_eq!(
        binary(class::ALU | alu::DIV, 1, 0x8000_0000, 0xffff_ffff),
        0x8000_0000
    );
    assert_eq!(
        binary(class::ALU | alu::MOD, 0, 0xf_0000_0007, 0x1_0000_0000),
        7
    );
}

#[test]
fn shifts_use_the_low_bits_of_their_count() {
    assert_eq!(binary(class::ALU64 | alu::LSH, 0, 1, 65), 2);
    assert_eq!(
        binary(class::ALU | alu::RSH, 0, 0xffff_ffff_8000_0000, 33),
        0x4000_0000
    );
    assert_eq!(
        binary(class::ALU | alu::ARSH, 0, 0x8000_0000, 31),
        0xffff_ffff
    );
    assert_eq!(binary(class::ALU64 | alu::ARSH, 0, MIN, 63), u64::MAX);
}

#[test]
fn thirty_two_bit_results_are_zero_extended() {
    assert_eq!(binary(class::ALU | alu::ADD, 0, u64::MAX, 1), 0);
    assert_eq!(binary(class::ALU | alu::SUB, 0, 0, 1), 0xffff_ffff);
    assert_eq!(unary(class::ALU | alu::NEG, 0, 0, 1), 0xffff_ffff);
    assert_eq!(unary(class::ALU | alu::MOV, 0, -1, 0), 0xffff_ffff);
}

#[test]
fn moves_sign_extend() {
    assert_eq!(
        unary(class::ALU64 | alu::MOV | X, 8, 0, 0x80),
        0xffff_ffff_ffff_ff80
    );
    assert_eq!(
        unary(class::ALU64 | alu::MOV | X, 32, 0, 0x8000_0000),
        0xffff_ffff_8000_0000
    );
    assert_eq!(unary(class::ALU | alu::MOV | X, 16, 0, 0x8000), 0xffff_8000);
}

#[test]
fn bytes_are_swapped() {
    let value = 0x0102_0304_0506_0708;
    assert_eq!(unary(class::ALU | alu::END | X, 0, 16, value), 0x0807);
    assert_eq!(unary(class::ALU | alu::END | X, 0, 32, value), 0x0807_0605);
    assert_eq!(
        unary(class::ALU | alu::END | X, 0, 64, value),
        0x0807_0605_0403_0201
    );
    assert_eq!(unary(class::ALU | alu::END, 0, 32, value), 0x0506_0708);
    assert_eq!(unary(class::ALU64 | alu::END, 0, 16, value), 0x0807);
}

#[test]
fn immediates_of_jumps_are_sign_extended() {
    // rbpf zero-extends these.
    assert!(jumps(class::JMP | jmp::JEQ, u64::MAX, -1));
    assert!(!jumps(class::JMP | jmp::JNE, u64::MAX, -1));
    assert!(!jumps(class::JMP | jmp::JGT, 0xffff_ffff, -1));
    assert!(jumps(class::JMP | jmp::JGE, u64::MAX, -1));
    assert!(jumps(class::JMP | jmp::JSLT, -2_i64 as u64, -1));
    assert!(jumps(class::JMP | jmp::JSET, MIN, -1));
    assert!(jumps(class::JMP32 | jmp::JEQ, 0xffff_ffff, -1));
    assert!(jumps(class::JMP32 | jmp::JLT, 0x7fff_ffff, -1));
    assert!(jumps(class::JMP32 | jmp::JSGT, 0x7fff_ffff, -1));
}

#[test]
fn long_jumps_go_by_their_immediate() {
    let program = [
        insn(class::JMP32 | jmp::JA, 0, 0, 0, 1),
        mov_imm(R0, 9),
        exit(),
    ];
    assert_eq!(run(&program), Ok(0));
}

#[test]
fn the_context_can_be_read_at_any_width_but_not_written() {
    assert_eq!(run(&[load64(R0, R1, 8 * 33), exit()]), Ok(0x100 + 33));
    let byte = class::LDX | mode::MEM | size::B;
    assert_eq!(run(&[insn(byte, R0, R1, 9, 0), exit()]), Ok(1));
    let unaligned = class::LDX | mode::MEM | size::DW;
    assert_eq!(
        run(&[insn(unaligned, R0, R1, 4, 0), exit()]),
        Ok(0x101_0000_0000)
    );
    for off in [8 * 33 + 1, 8 * 34, -1] {
        let fault = fault_of(&[load64(R0, R1, off), exit()]);
        assert!(matches!(
            fault,
            RunFault::BadAccess {
                access: Access::Read,
                length: 8,
                ..
            }
        ));
    }
    let fault = fault_of(&[store_imm(R1, 0, 1), exit()]);
    assert!(matches!(
        fault,
        RunFault::BadAccess {
            access: Access::Write,
            ..
        }
    ));
}

#[test]
fn a_stack_frame_ends_where_it_ends() {
    let program = [store_imm(FP, -512, -5), load64(R0, FP, -512), exit()];
    assert_eq!(run(&program), Ok(-5_i64 as u64));
    for off in [-513, -7, 0] {
        let fault = fault_of(&[store_imm(FP, off, 0), exit()]);
        assert!(
            matches!(
                fault,
                RunFault::BadAccess {
                    access: Access::Write,
                    ..
                }
            ),
            "{off}"
        );
    }
}

#[test]
fn guest_addresses_and_null_cannot_be_dereferenced() {
    for address in [
        0,
        testing::GUEST,
        u64::MAX,
        crate::address::map_handle(0),
        // Behind the stacks of an object without maps.
        crate::address::arena(4 * 512),
        crate::address::arena(u32::MAX as usize),
    ] {
        let mut program = Vec::from(mov_imm64(R1, address));
        program.extend([load64(R0, R1, 0), exit()]);
        let error = run(&program).expect_err("there is no memory there");
        let expected = RunFault::BadAccess {
            address,
            length: 8,
            access: Access::Read,
        };
        assert_eq!(
            error,
            RunError {
                program: None,
                insn: 2,
                fault: expected
            }
        );
    }
    let null = run(&[mov_imm(R1, 0), load64(R0, R1, 8), exit()]).expect_err("null");
    assert_eq!(
        null.to_string(),
        "instruction 1: reads 8 bytes at 0x8, which it may not (a null pointer?)"
    );
}

#[test]
fn sign_extending_loads() {
    let half = class::LDX | mode::MEMSX | size::H;
    let program = [store_imm(FP, -8, 0x8000), insn(half, R0, FP, -8, 0), exit()];
    assert_eq!(run(&program), Ok(0xffff_ffff_ffff_8000));
}

#[test]
fn an_endless_loop_ends_with_the_budget() {
    let program = testing::load(&[insn(class::JMP, 0, 0, -1, 0)], &[]);
    let run = |budget| program.programs()[0].run_within(budget, &context(), &FakeHost::new());
    assert_eq!(
        run(1000),
        Err(RunError {
            program: None,
            insn: 0,
            fault: RunFault::Budget
        })
    );
}

#[test]
fn a_run_pays_for_functions_and_for_jumps_backwards() {
    let cost = |insns: &[Insn]| {
        let object = testing::load(insns, &[]);
        let run = |budget| object.programs()[0].run_within(budget, &context(), &FakeHost::new());
        (0..100).find(|&budget| run(budget).is_ok())
    };
    assert_eq!(cost(&[mov_imm(R0, 3), exit()]), Some(2));
    let skip = insn(class::JMP, 0, 0, 1, 0);
    assert_eq!(cost(&[mov_imm(R0, 3), skip, exit(), exit()]), Some(4));
    let round = [
        mov_imm(R0, 3),
        insn(class::ALU64 | alu::SUB, R0, 0, 0, 1),
        insn(class::JMP | jmp::JNE, R0, 0, -2, 0),
        exit(),
    ];
    assert_eq!(cost(&round), Some(4 + 2 * 2));
    let call = [
        insn(CALL, 0, PSEUDO_CALL, 0, 2),
        insn(CALL, 0, PSEUDO_CALL, 0, 1),
        exit(),
        mov_imm(R0, 3),
        exit(),
    ];
    assert_eq!(cost(&call), Some(3 + 2 * 2));
}

#[test]
fn subprograms_have_a_frame_of_their_own_and_keep_r6_to_r9() {
    let program = [
        mov_imm(R6, 5),
        store_imm(FP, -8, 7),
        mov(R1, FP),
        insn(CALL, 0, PSEUDO_CALL, 0, 3),
        alu_reg(alu::ADD, R0, R6),
        load64(R1, FP, -8),
        exit(),
        // r0 = *(r1 - 8) + 1, through a frame and a saved register that are not the caller's
        mov_imm(R6, 100),
        store_imm(FP, -8, 1),
        load64(R0, R1, -8),
        load64(R2, FP, -8),
        alu_reg(alu::ADD, R0, R2),
        exit(),
    ];
    assert_eq!(run(&program), Ok(7 + 1 + 5));
}

#[test]
fn eight_functions_nest() {
    let nested = |depth: usize| {
        let mut program = Vec::new();
        for _ in 1..depth {
            program.extend([insn(CALL, 0, PSEUDO_CALL, 0, 1), exit()]);
        }
        program.extend([store_imm(FP, -8, 8), load64(R0, FP, -8), exit()]);
        program
    };
    assert_eq!(run(&nested(8)), Ok(8));
}

#[test]
fn atomics_on_the_stack_and_in_maps() {
    let cases = [
        (atomic::ADD, 5 + 3, 3),
        (atomic::ADD | atomic::FETCH, 5 + 3, 5),
        (atomic::OR | atomic::FETCH, 5 | 3, 5),
        (atomic::AND | atomic::FETCH, 5 & 3, 5),
        (atomic::XOR | atomic::FETCH, 5 ^ 3, 5),
        (atomic::XCHG, 3, 5),
    ];
    for width in [size::W, size::DW] {
        for (operation, memory, source) in cases {
            let code = class::STX | mode::ATOMIC | width;
            let body = |base: u8, off: i16| {
                [
                    store_imm(base, off, 5),
                    mov_imm(R2, 3),
                    insn(code, base, R2, off, operation),
                    load64(R0, base, off),
                    insn(class::ALU64 | alu::LSH, R0, 0, 0, 8),
                    alu_reg(alu::OR, R0, R2),
                    exit(),
                ]
            };
            let expected = Ok(memory << 8 | source);
            assert_eq!(run(&body(FP, -8)), expected);
            let mut program = Vec::from(crate::asm::map_value(R3, 0, 0));
            program.extend(body(R3, 0));
            let object = testing::load(&program, &[testing::map(MapKind::Array, 1)]);
            assert_eq!(
                object.programs()[0].run(&context(), &FakeHost::new()),
                expected
            );
        }
    }
}

#[test]
fn compare_and_exchange() {
    let code = class::STX | mode::ATOMIC | size::DW;
    for (expected, after) in [(5, 9), (6, 5)] {
        let program = [
            store_imm(FP, -8, 5),
            mov_imm(R0, expected),
            mov_imm(R2, 9),
            insn(code, FP, R2, -8, atomic::CMPXCHG),
            load64(R1, FP, -8),
            insn(class::ALU64 | alu::LSH, R0, 0, 0, 8),
            alu_reg(alu::OR, R0, R1),
            exit(),
        ];
        assert_eq!(run(&program), Ok(5 << 8 | after));
    }
}

#[test]
fn atomics_must_be_aligned() {
    for (width, off) in [(size::W, -6), (size::DW, -12)] {
        let code = class::STX | mode::ATOMIC | width;
        let fault = fault_of(&[insn(code, FP, R2, off, atomic::ADD), exit()]);
        assert!(matches!(
            fault,
            RunFault::BadAccess {
                access: Access::Atomic,
                ..
            }
        ));
    }
}

#[test]
fn a_cpu_that_the_object_was_not_loaded_for_is_refused() {
    let object = testing::load(&[mov_imm(R0, 0), exit()], &[]);
    let result = object.programs()[0].run(&context(), &FakeHost::on_cpu(4));
    assert_eq!(
        result,
        Err(RunError {
            program: None,
            insn: 0,
            fault: RunFault::NoSuchCpu { cpu: 4 }
        })
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whatever the verifier lets through runs to a result or an error: no panic, no hang.
    #[test]
    fn what_is_verified_is_safe_to_run(mut insns in prop::collection::vec(testing::any_insn(), 1..24)) {
        insns.push(exit());
        let maps = [testing::map(MapKind::Array, 3), testing::map(MapKind::Hash, 3)];
        let linked = testing::linked(&insns, &maps);
        if let Ok(object) = crate::Object::load(&linked, 1) {
            let result = object.programs()[0].run_within(10_000, &context(), &FakeHost::new());
            let corrupt = result.is_err_and(|error| error.fault == RunFault::Corrupt);
            prop_assert!(!corrupt);
        }
    }
}
