//! The verifier's appetite: whatever a program is, verification ends, says why, and takes no more memory than its limits
//! allow.

use ebpf::asm::reg::{FP, R0, R1, R2, R6, R7};
use ebpf::asm::{alu, alu_imm, exit, insn, jump_imm, load, mov, mov_imm, store};
use ebpf::insn::{CALL, Insn, PSEUDO_CALL, alu as op, class, jmp, mode, size};
use ebpf::linked::ProgramDef;
use ebpf::stack;
use ebpf::verify::{Limits, Reason, Silent, verify_with};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what is allocated, up to a limit. There is one test in this file, so nobody else allocates
/// meanwhile.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The verifier asks for so much in one piece only to see whether it is there.
const QUESTION: usize = 1 << 20;

// SAFETY: it hands everything on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        if now > LIMIT.load(Ordering::Relaxed) {
            NOW.fetch_sub(layout.size(), Ordering::Relaxed);
            return ptr::null_mut();
        }
        if layout.size() < QUESTION {
            PEAK.fetch_max(now, Ordering::Relaxed);
        }
        // SAFETY: forwarded to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: forwarded to the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A program of 2^`branches` paths that no pruning shortens: every path comes to the end with a number of its own, and
/// the end looks at it.
fn paths(branches: i16) -> Vec<Insn> {
    let mut insns = vec![mov(R6, R1), mov_imm(R7, 0)];
    for branch in 0..branches {
        insns.push(load(R2, R6, 8 * (branch % 32)));
        insns.push(jump_imm(jmp::JGT, R2, 5, 1));
        insns.push(alu_imm(op::ADD, R7, 1 << branch));
    }
    insns.extend([
        alu_imm(op::AND, R7, 7),
        mov(R2, FP),
        alu_imm(op::ADD, R2, -8),
    ]);
    insns.extend([alu(op::ADD, R2, R7), mov_imm(R0, 0)]);
    insns.push(insn(class::STX | mode::MEM | size::B, R2, R0, 0, 0));
    insns.push(exit());
    insns
}

/// A loop of `rounds` rounds that fills the stack with numbers that all differ, and keeps them.
fn rounds(rounds: i32) -> Vec<Insn> {
    let mut insns = vec![mov_imm(R7, 0)];
    let top = insns.len() as i16;
    for slot in 1..=64 {
        insns.extend([alu_imm(op::ADD, R7, 1), store(FP, -8 * slot, R7)]);
    }
    let back = top - insns.len() as i16 - 1;
    insns.push(jump_imm(jmp::JLT, R7, rounds, back));
    insns.extend([mov_imm(R0, 0), exit()]);
    insns
}

/// Functions that call each other and together fill all of the stack with numbers that differ, and many paths in the
/// last.
fn frames() -> Vec<Insn> {
    let mut insns = Vec::new();
    for _ in 0..stack::MAX_FRAMES - 1 {
        insns.extend([mov(R6, R1), load(R2, R6, 0)]);
        for slot in 1..=8 {
            insns.extend([alu_imm(op::ADD, R2, 3), store(FP, -8 * slot, R2)]);
        }
        // The next function begins behind the exit.
        insns.extend([mov(R1, R6), insn(CALL, 0, PSEUDO_CALL, 0, 1), exit()]);
    }
    insns.extend(paths(24));
    insns
}

fn program(insns: Vec<Insn>) -> ProgramDef {
    ProgramDef {
        name: "hostile".to_owned(),
        section: "kprobe/hostile".to_owned(),
        insns,
        ..ProgramDef::default()
    }
}

/// Verifies a program that is too complex, and returns what it took of memory.
fn peak(insns: Vec<Insn>) -> usize {
    let program = program(insns);
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let limits = Limits::default();
    let error = verify_with(&program, &[], limits, &mut Silent).expect_err("it is too complex");
    assert!(
        matches!(
            error.reason,
            Reason::TooManySteps(_) | Reason::TooMuchMemory(_) | Reason::TooMuchWork(_)
        ),
        "{error}"
    );
    let said = error.to_string();
    assert!(said.contains("the program is too complex"), "{said}");
    PEAK.load(Ordering::Relaxed) - before
}

/// Why a program is refused where the heap has `room` bytes more.
fn refusal_with(insns: Vec<Insn>, room: usize) -> Option<Reason> {
    let program = program(insns);
    LIMIT.store(NOW.load(Ordering::Relaxed) + room, Ordering::Relaxed);
    let verdict = verify_with(&program, &[], Limits::default(), &mut Silent);
    LIMIT.store(usize::MAX, Ordering::Relaxed);
    verdict.err().map(|error| error.reason)
}

/// Where there is little memory, programs are refused that need more, and only these; no allocation
/// fails.
fn an_exhausted_heap_is_a_refusal() {
    let short = || vec![mov_imm(R0, 0), exit()];
    // The refusal itself takes a few bytes.
    for room in [4 << 10, 200 << 10] {
        assert_eq!(refusal_with(short(), room), Some(Reason::OutOfMemory));
    }
    for room in [400 << 10, 1 << 20, 4 << 20] {
        assert_eq!(refusal_with(short(), room), None, "{room}");
        let reason = refusal_with(rounds(i32::MAX), room);
        assert_eq!(reason, Some(Reason::OutOfMemory), "{room}");
    }
}

#[test]
fn hostile_programs_take_no_more_memory_than_they_may() {
    // What is not a remembered state: the decoded program and the tables of the verifier.
    let besides = 1 << 20;
    let most = Limits::default().memory + besides;
    for (name, insns) in [
        ("paths", paths(24)),
        ("rounds", rounds(i32::MAX)),
        ("frames", frames()),
    ] {
        let peak = peak(insns);
        assert!(peak <= most, "{name}: {peak} bytes, and {most} are allowed");
    }
    an_exhausted_heap_is_a_refusal();
}
