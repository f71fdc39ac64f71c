//! What a user reads.

use super::assembler::assemble;
use super::*;
use crate::asm;
use crate::btf::tests::btf;
use crate::linked::Line;
use crate::testing;
use crate::testing::program;
use alloc::string::ToString;

fn refusal(text: &str) -> String {
    let insns = assemble(text).expect("it is well-formed");
    let error = verify(&program(&insns), &maps()).expect_err("it is unsafe");
    error.to_string()
}

#[test]
fn a_refusal_says_where_what_why_and_how() {
    let said = refusal(
        "r6 = *(u64 *)(r1 + 0)
         if r6 > 7 goto on
         r6 = 3
         on:
         *(u64 *)(r10 - 8) = 0
         r1 = map[0] ll
         r2 = r10
         r2 += -8
         call map_lookup_elem
         r0 = *(u32 *)(r0 + 0)
         exit",
    );
    assert_eq!(
        said,
        "kprobe/test, instruction 9\n  r0 = *(u32 *)(r0 + 0)\n  \
         r0 may be null: compare it with 0 first\n  \
         known: R0=map_value_or_null[0] R6=3 R10=fp fp-8=0\n  path: 0-1, 2"
    );
}

#[test]
fn a_line_of_the_source_is_shown_if_it_is_known() {
    let mut linked = testing::linked(&[asm::mov(1, 1), asm::exit()], &[]);
    linked.types.btf = btf(&[], b"\0src/f.bpf.c\0  return\x1b 0; \0");
    let position = 7 << 10 | 3;
    linked.programs[0].lines.push(Line {
        insn: 0,
        file: 1,
        text: 13,
        position,
    });
    let error = verify_object(&linked).expect_err("r0 is not set");
    assert_eq!(
        error.to_string(),
        "kprobe/test, instruction 1 (f.bpf.c:7: return 0;)\n  exit\n  \
         r0 is read, and nothing was put there\n  known: R1=ctx R10=fp\n  path: 0"
    );
    linked.types = Types::default();
    let error = verify_object(&linked).expect_err("r0 is not set");
    assert_eq!(error.line, None);
}

#[test]
fn limits_are_told() {
    let insns = assemble("r0 = 0\nagain:\nr0 += 1\nif r0 < 1000 goto again\nexit").expect("a loop");
    let verdict = |limits| verify_with(&program(&insns), &[], limits, &mut Silent);
    let default = Limits::default();
    assert!(verdict(default).is_ok());
    let error = verdict(Limits {
        insns: 500,
        ..default
    });
    let error = error.expect_err("it takes 2000 steps");
    assert_eq!(error.reason, Reason::TooManySteps(500));
    let error = verdict(Limits {
        memory: 4096,
        ..default
    });
    let error = error.expect_err("it takes several states");
    assert_eq!(error.reason, Reason::TooMuchMemory(4096));
    let error = verdict(Limits {
        work: 2500,
        ..default
    });
    let error = error.expect_err("comparing takes more than the steps");
    assert_eq!(error.reason, Reason::TooMuchWork(2500));
    assert!(
        error
            .to_string()
            .contains("too complex: 2500 units of work")
    );
}

#[test]
fn the_programs_of_an_object_share_the_work() {
    let insns = assemble("r0 = 0\nagain:\nr0 += 1\nif r0 < 100000 goto again\nexit");
    let mut linked = testing::linked(&insns.expect("a loop"), &[]);
    assert!(verify_object(&linked).is_ok());
    linked.programs = alloc::vec![linked.programs[0].clone(); 20];
    let error = verify_object(&linked).expect_err("each is all right, but not all");
    assert_eq!(error.reason, Reason::TooMuchWork(Limits::default().work));
}

#[test]
fn the_log_shows_every_step() {
    let insns = assemble(
        "r2 = *(u64 *)(r1 + 0)\nr0 = 0\nif r2 > 3 goto out\nr0 = r2\nout:\nif r0 > 9 goto -2\nexit",
    )
    .expect("it is well-formed");
    let mut text = String::new();
    let mut log = Log::new(&insns, &mut text);
    verify_with(&program(&insns), &[], Limits::default(), &mut log).expect("it is safe");
    log.finish().expect("a string takes everything");
    for expected in [
        "0: r2 = *(u64 *)(r1 + 0)                    ; R1=ctx R10=fp\n",
        "\nfrom 4: R0=0 R1=ctx R2=scalar(umin=4)",
        "3: not possible\n",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
}

#[test]
fn who_runs_the_program_is_told_what_it_accesses() {
    let insns = assemble(
        "r2 = *(u64 *)(r1 + 8)
         *(u64 *)(r10 - 16) = r2
         r3 = map[1][0] ll
         *(u64 *)(r3 + 0) = r2
         r4 = *(u64 *)(r10 - 24)
         r0 = 0
         goto out
         r0 = *(u64 *)(r0 + 0)
         out:
         exit",
    )
    .expect("it is well-formed");
    let verified = verify(&program(&insns), &maps()).expect("it is safe");
    assert_eq!(verified.memory(0), MemoryKind::Context);
    assert_eq!(verified.memory(1), MemoryKind::Stack { offset: -16 });
    assert_eq!(verified.memory(2), MemoryKind::None);
    assert_eq!(verified.memory(4), MemoryKind::Other);
    assert!(!verified.is_reached(8) && verified.is_reached(9));
    assert_eq!(verified.stack, 32);
    assert!(verified.reads_unset_stack);
    assert_eq!(verified.explored, 8);
}

/// The same place of a caller's stack is another distance from the frame pointer.
#[test]
fn a_callers_stack_is_no_fixed_place() {
    let insns = assemble(
        "r1 = r10\nr1 += -8\ncall function\nexit\nfunction:\n*(u64 *)(r1 + 0) = 1\nr0 = 0\nexit",
    )
    .expect("it is well-formed");
    let verified = verify(&program(&insns), &[]).expect("it is safe");
    assert_eq!(verified.memory(4), MemoryKind::Other);
}

/// As programs ask what a kernel has: the linker has made a constant of the answer.
#[test]
fn what_there_is_not_may_be_called_where_no_path_comes() {
    const MISSING: i32 = 13;
    let call = |src, imm| asm::insn(crate::insn::CALL, 0, src, 0, imm);
    let cases = [
        (call(0, MISSING), "helper 13 is not one of ours"),
        (call(0, crate::insn::BAD_RELO), "bpf_core_field_exists()"),
        (call(crate::insn::PSEUDO_KERNEL_CALL, 1), "kernel functions"),
    ];
    for (missing, said) in cases {
        let unreached = [
            asm::mov_imm(0, 0),
            asm::jump_imm(crate::insn::jmp::JEQ, 0, 0, 1),
            missing,
            asm::exit(),
        ];
        let verified = verify(&program(&unreached), &[]).expect("it is never called");
        assert!(!verified.is_reached(2));
        let reached = [asm::mov_imm(0, 1), unreached[1], missing, asm::exit()];
        let error = verify(&program(&reached), &[]).expect_err("it is called");
        assert!(error.to_string().contains(said), "{error}");
    }
}
