//! What can be said of compiled code without executing it. `jit-check` (`tests/programs`)
//! executes it.

use super::*;
use crate::asm::reg::{FP, R0, R1, R2, R6};
use crate::asm::{
    self, alu_imm, call, exit, jump_imm, load, map_value, mov, mov_imm, store, store_imm32,
};
use crate::helper::Helper;
use crate::insn::{CALL, Insn, PSEUDO_CALL, alu, jmp};
use crate::map::{MapDef, MapKind};
use crate::testing::{self, any_insn};
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

/// BLR x8: what calls a helper.
const CALL_HELPER: u32 = 0xd63f_0100;

const OPTIONS: Options = Options {
    runtime: Runtime {
        helper_entry: 0x4008_1000,
        atomics: Atomics::Exclusives,
    },
    checks: Checks::Every,
    blinding: Blinding::Off,
};

fn compile_as(insns: &[Insn], maps: &[MapDef], options: Options) -> Result<Code, NotCompiled> {
    testing::load(insns, maps).programs()[0].to_a64(&options)
}

fn compiled(insns: &[Insn], maps: &[MapDef]) -> Code {
    compile_as(insns, maps, OPTIONS).expect("it should be compiled")
}

fn error(insns: &[Insn], maps: &[MapDef]) -> (u32, CompileError) {
    match compile_as(insns, maps, OPTIONS) {
        Err(NotCompiled::Refused { insn, error }) => (insn, error),
        other => panic!("it should be refused: {other:?}"),
    }
}

/// The words of one instruction of a program, without what is behind the program.
fn words_of(code: &Code, insn: u32) -> &[u32] {
    let at = code
        .lines()
        .iter()
        .position(|line| line.insn == Some(insn))
        .expect("it should have code");
    let end = code
        .lines()
        .get(at + 1)
        .map_or(code.words().len(), |line| line.word as usize);
    &code.words()[code.lines()[at].word as usize..end]
}

#[test]
fn a_program_starts_soon() {
    let cases: [(&[Insn], u32); 4] = [
        (&[mov_imm(R0, 1), exit()], 12),
        (&[mov_imm(R0, 1), store(FP, -8, R0), exit()], 16),
        (&[mov_imm(R0, 1), mov(R6, R0), exit()], 13),
        (
            &[mov_imm(R0, 1), store(FP, -8, R0), mov(R6, R0), exit()],
            17,
        ),
    ];
    for (insns, words) in cases {
        let code = compiled(insns, &[]);
        let first = code.lines().iter().find(|line| line.insn.is_some());
        assert_eq!(first.expect("there is an instruction").word, words);
        assert_eq!(words_of(&code, 0).len(), 1);
    }
}

#[test]
fn most_instructions_become_one() {
    let mut insns = Vec::from(map_value(R1, 0, 0));
    insns.extend([
        mov_imm(R0, 1),
        store(FP, -8, R0),
        load(R0, FP, -16),
        load(R0, R1, 0),
        load(R0, R1, 8),
        alu_imm(alu::ADD, R0, -7),
        jump_imm(jmp::JEQ, R0, 0, 0),
        exit(),
    ]);
    let maps = [testing::map(MapKind::Array, 2)];
    let proved = Options {
        checks: Checks::Window,
        ..OPTIONS
    };
    let code = compile_as(&insns, &maps, proved).expect("it should be compiled");
    let lengths: Vec<usize> = (2..9).map(|insn| words_of(&code, insn).len()).collect();
    assert_eq!(lengths, [1, 1, 1, 1, 2, 1, 1]);
    let checked = compiled(&insns, &maps);
    let lengths: Vec<usize> = (2..9).map(|insn| words_of(&checked, insn).len()).collect();
    assert_eq!(lengths, [1, 1, 1, 4, 5, 1, 1]);
}

/// A load from the guest calls the hypervisor, and keeps r0 to r5 on the stack meanwhile. Other loads
/// stay what they are.
#[test]
fn loads_from_the_guest_are_calls() {
    let insns = [
        call(Helper::GetCurrentTaskBtf),
        store(FP, -8, R0),
        load(R1, R0, 16),
        load(R2, FP, -8),
        mov_imm(R0, 0),
        exit(),
    ];
    let linked = testing::linked(&insns, &[]);
    let object = crate::Object::load(&linked, 1).expect("it is safe");
    let code = object.programs()[0].to_a64(&OPTIONS);
    let code = code.expect("it should be compiled");
    let calls = |insn| {
        let words = words_of(&code, insn).iter();
        words.filter(|word| **word == CALL_HELPER).count()
    };
    assert_eq!([calls(2), calls(3)], [1, 0]);
    assert_eq!(words_of(&code, 3).len(), 1);
    // STP x0, x2, [SP, #-48]! and LDP x0, x2, [SP], #48.
    for word in [0xa9bd_0be0, 0xa8c3_0be0] {
        assert!(words_of(&code, 2).contains(&word), "{word:#x}");
    }
}

#[test]
fn lines_tell_the_instruction_of_every_word() {
    let insns = [
        mov(R6, R1),
        load(R0, R6, 0),
        jump_imm(jmp::JNE, R0, 0, -2),
        exit(),
    ];
    let code = compiled(&insns, &[]);
    let words: Vec<u32> = code.lines().iter().map(|line| line.word).collect();
    assert!(words.is_sorted());
    let last = code.words().len() - 1;
    assert_eq!(code.insn_at(0), None);
    // The last word belongs to the way out of the budget's end, that of the jump backwards.
    assert_eq!(code.insn_at(last), Some(2));
    let mut seen: Vec<u32> = (0..=last).filter_map(|word| code.insn_at(word)).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [0, 1, 2]);
}

#[test]
fn a_listing_shows_both() {
    let insns = [mov_imm(R0, 1), store(FP, -8, R0), exit()];
    let code = compiled(&insns, &[]);
    let listing = Listing {
        insns: &insns,
        code: Some(&code),
    };
    let text = listing.to_string();
    let at = text.find("    0: r0 = 1").expect("the program is there");
    let expected = "    0: r0 = 1\n        0x0040  mov x0, #0x1\n    \
                    1: *(u64 *)(r10 - 8) = r0\n        0x0044  str x0, [x25, #0x1f8]\n    2: exit\n";
    assert!(text[at..].starts_with(expected), "{text}");
    let plain = Listing {
        insns: &insns,
        code: None,
    };
    assert_eq!(
        plain.to_string(),
        "    0: r0 = 1\n    1: *(u64 *)(r10 - 8) = r0\n    2: exit\n"
    );
}

#[test]
fn lookups_in_arrays_call_nobody() {
    for (kind, inlined) in [
        (MapKind::Array, true),
        (MapKind::PerCpuArray, true),
        (MapKind::Hash, false),
    ] {
        let mut insns = vec![store_imm32(FP, -4, 1)];
        insns.extend(asm::map(R1, 0));
        insns.extend([
            mov(R2, FP),
            alu_imm(alu::ADD, R2, -4),
            call(Helper::MapLookupElem),
            exit(),
        ]);
        let code = compiled(&insns, &[testing::map(kind, 3)]);
        assert_eq!(!code.words().contains(&CALL_HELPER), inlined, "{kind}");
    }
}

#[test]
fn what_cannot_be_followed_is_not_compiled() {
    let call_next = Insn {
        code: CALL,
        dst: 0,
        src: PSEUDO_CALL,
        off: 0,
        imm: 1,
    };
    let cases: &[(&[Insn], u32, CompileError)] = &[
        (&[mov(R0, R6), exit()], 0, CompileError::Uninitialized(R6)),
        (&[exit()], 0, CompileError::Uninitialized(R0)),
        (
            &[call(Helper::KtimeGetNs), mov(R0, R1), exit()],
            1,
            CompileError::Uninitialized(R1),
        ),
        // One way leaves r0 as it was.
        (
            &[
                load(R2, R1, 0),
                jump_imm(jmp::JEQ, R2, 0, 1),
                mov_imm(R0, 1),
                exit(),
            ],
            3,
            CompileError::Uninitialized(R0),
        ),
        (
            &[mov_imm(R0, 0), store(FP, -8, R1), exit()],
            1,
            CompileError::ContextStored,
        ),
        (
            &[mov_imm(R0, 0), store(R1, 0, R0), exit()],
            1,
            CompileError::ContextWritten,
        ),
        (
            &[load(R0, R1, 8 * 34), exit()],
            0,
            CompileError::ContextBounds,
        ),
        (&[load(R0, R1, -1), exit()], 0, CompileError::ContextBounds),
        (
            &[
                load(R2, R1, 0),
                asm::alu(alu::ADD, R1, R2),
                load(R0, R1, 0),
                exit(),
            ],
            2,
            CompileError::Mixed,
        ),
        // Either the context or the frame, by the way taken.
        (
            &[
                load(R2, R1, 0),
                jump_imm(jmp::JEQ, R2, 0, 1),
                mov(R1, FP),
                load(R0, R1, -8),
                exit(),
            ],
            3,
            CompileError::Mixed,
        ),
        (
            &[call_next, exit(), mov(R0, R1), exit()],
            3,
            CompileError::ContextStored,
        ),
    ];
    for &(insns, insn, expected) in cases {
        assert_eq!(error(insns, &[]), (insn, expected));
    }
}

#[test]
fn an_argument_may_be_the_context() {
    let call_next = Insn {
        code: CALL,
        dst: 0,
        src: PSEUDO_CALL,
        off: 0,
        imm: 1,
    };
    compiled(&[call_next, exit(), load(R0, R1, 16), exit()], &[]);
}

#[test]
fn dead_code_is_left_out() {
    let code = compiled(&[mov_imm(R0, 1), exit(), mov(R0, R6), exit()], &[]);
    assert!(code.lines().iter().all(|line| line.insn != Some(2)));
}

#[test]
fn blinded_code_does_not_show_constants() {
    let secret = 0x1234_5678;
    let insns = [
        mov_imm(R0, secret),
        alu_imm(alu::XOR, R0, secret),
        jump_imm(jmp::JEQ, R0, secret, 0),
        asm::store_imm(FP, -8, secret),
        exit(),
    ];
    // MOVZ or MOVK of half of it.
    let shows = |code: &Code| {
        let moves = |word: &u32| word >> 23 & 0x7f == 0b010_0101 || word >> 23 & 0x7f == 0b110_0101;
        let halves = |word: &u32| matches!(word >> 5 & 0xffff, 0x1234 | 0x5678);
        code.words().iter().filter(|word| moves(word)).any(halves)
    };
    assert!(shows(&compiled(&insns, &[])));
    for seed in 1..20 {
        let options = Options {
            blinding: Blinding::Seed(seed),
            ..OPTIONS
        };
        let code = compile_as(&insns, &[], options).expect("it should be compiled");
        assert!(!shows(&code), "{seed}");
    }
}

#[test]
fn code_that_branches_do_not_reach_across_is_refused() {
    // Five words each, and the first has its way out behind the last.
    let mut insns = Vec::from(map_value(R1, 0, 0));
    insns.extend((0..60_000).map(|_| load(R0, R1, 8)));
    insns.push(exit());
    let maps = [testing::map(MapKind::Array, 2)];
    assert_eq!(error(&insns, &maps), (0, CompileError::TooLong));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whatever the structural checks let through is compiled or refused.
    #[test]
    fn compiling_is_total(
        mut insns in prop::collection::vec(any_insn(), 1..24), window: bool, lse: bool,
    ) {
        insns.push(exit());
        let maps = [testing::map(MapKind::Array, 3), testing::map(MapKind::PerCpuArray, 3)];
        let options = Options {
            runtime: Runtime {
                atomics: if lse { Atomics::Lse } else { Atomics::Exclusives },
                ..OPTIONS.runtime
            },
            checks: if window { Checks::Window } else { Checks::Every },
            ..OPTIONS
        };
        if let Ok(object) = crate::Object::load(&testing::linked(&insns, &maps), 2) {
            let program = &object.programs()[0];
            if let Ok(code) = program.to_a64(&options) {
                let listing = Listing { insns: program.insns(), code: Some(&code) };
                prop_assert!(!listing.to_string().contains(".inst"));
            }
        }
    }
}
