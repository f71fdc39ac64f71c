//! Random programs that do what real ones do: compute with numbers of the guest, compare, loop, keep
//! things on the stack, and access memory at computed offsets, more or less well checked.

use crate::asm::reg::{FP, R0, R1, R6, R7, R9};
use crate::asm::{self, exit, insn, mov, mov_imm};
use crate::helper::Helper;
use crate::insn::{Insn, PSEUDO_CALL, PSEUDO_FUNCTION, X, alu, class, jmp, mode, size};
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

/// Registers that hold numbers.
const NUMBERS: [u8; 6] = [0, 1, 2, 3, 4, 8];
/// Counts a loop.
const COUNTER: u8 = 5;
/// Bytes of the stack that take part.
const STACK: i16 = 32;

/// A piece of a program.
#[derive(Clone, Debug)]
enum Piece {
    Straight(Vec<Insn>),
    /// A jump over the pieces.
    Unless(Insn, Vec<Piece>),
    /// A jump to the second pieces, over the first.
    Either(Insn, Vec<Piece>, Vec<Piece>),
    /// The pieces, so many times.
    Repeat(i32, Vec<Piece>),
    /// A call of the subprogram, which gets a number and a pointer to the stack.
    Call(u8),
    /// A call of `bpf_loop`, which calls the other subprogram as often as the number says.
    CallBack(Times),
}

/// How often `bpf_loop` calls.
#[derive(Clone, Copy, Debug)]
enum Times {
    Constant(i32),
    /// A number of which few bits are left.
    Number(u8),
    /// For each entry of the per-CPU array.
    Entries,
}

fn register() -> impl Strategy<Value = u8> {
    prop::sample::select(NUMBERS.to_vec())
}

fn immediate() -> impl Strategy<Value = i32> {
    prop_oneof![4 => 0..64_i32, 2 => -8..8_i32, 1 => any::<i32>()]
}

fn width() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![size::B, size::H, size::W, size::DW])
}

/// Computes with numbers.
fn arithmetic() -> impl Strategy<Value = Vec<Insn>> {
    use alu::*;
    let operation = prop::sample::select(vec![
        ADD, ADD, SUB, MUL, DIV, OR, AND, AND, LSH, RSH, MOD, XOR, MOV, MOV, ARSH, NEG,
    ]);
    let class = prop::sample::select(vec![class::ALU, class::ALU64]);
    let parts = (class, operation, any::<bool>(), register(), register());
    (parts, immediate(), 0..4_u8).prop_map(|(parts, imm, signed)| {
        let (class, operation, by_register, dst, src) = parts;
        let bits = if class == class::ALU { 32 } else { 64 };
        let code = class | operation;
        let off = i16::from(matches!(operation, DIV | MOD) && signed == 0);
        vec![match operation {
            NEG => insn(code, dst, 0, 0, 0),
            MOV if by_register && signed == 0 => insn(code | X, dst, src, 8, 0),
            _ if by_register => insn(code | X, dst, src, off, 0),
            LSH | RSH | ARSH => insn(code, dst, 0, 0, imm.rem_euclid(bits)),
            DIV | MOD if imm == 0 => insn(code, dst, 0, off, 1),
            _ => insn(code, dst, 0, off, imm),
        }]
    })
}

/// Takes a number of the guest.
fn from_context() -> impl Strategy<Value = Vec<Insn>> {
    (register(), width(), 0..8_i16).prop_map(|(dst, width, index)| {
        let code = class::LDX | mode::MEM | width;
        vec![insn(code, dst, R6, 8 * index, 0)]
    })
}

/// Keeps a number on the stack, or takes one from there.
fn spill() -> impl Strategy<Value = Vec<Insn>> {
    (register(), width(), 1..=STACK, 0..3_u8, immediate()).prop_map(
        |(register, width, below, kind, imm)| {
            let bytes = i16::from(insn(width, 0, 0, 0, 0).access_size());
            let off = -(below + bytes - 1) / bytes * bytes;
            let code = mode::MEM | width;
            vec![match kind {
                0 => insn(class::LDX | code, register, FP, off, 0),
                1 => insn(class::STX | code, FP, register, off, 0),
                _ => insn(class::ST | code, FP, 0, off, imm),
            }]
        },
    )
}

fn comparison() -> impl Strategy<Value = Insn> {
    use jmp::*;
    let operation = prop::sample::select(vec![
        JEQ, JGT, JGE, JSET, JNE, JSGT, JSGE, JLT, JLE, JSLT, JSLE,
    ]);
    let class = prop::sample::select(vec![class::JMP, class::JMP, class::JMP32]);
    (
        class,
        operation,
        any::<bool>(),
        register(),
        register(),
        immediate(),
    )
        .prop_map(|(class, operation, by_register, dst, src, imm)| {
            let code = class | operation;
            if by_register {
                insn(code | X, dst, src, 0, 0)
            } else {
                insn(code, dst, 0, 0, imm)
            }
        })
}

/// Limits a number in one of the ways in which programs do, or in none.
fn guard() -> impl Strategy<Value = (u8, Vec<Insn>, Option<Insn>)> {
    let limit = prop_oneof![Just(7), Just(15), Just(31), 1..64_i32];
    (register(), limit, 0..9_u8).prop_map(|(number, limit, kind)| {
        let wide = |operation| insn(class::ALU64 | operation, number, 0, 0, limit);
        let narrow = |operation| insn(class::ALU | operation, number, 0, 0, limit);
        let over = |class, operation, imm| Some(insn(class | operation, number, 0, 0, imm));
        let (before, jump) = match kind {
            0 => (vec![], None),
            1 => (vec![wide(alu::AND)], None),
            2 => (vec![narrow(alu::AND)], None),
            3 => (vec![wide(alu::MOD)], None),
            4 => (vec![narrow(alu::MOD)], None),
            5 => (vec![], over(class::JMP, jmp::JGT, limit)),
            6 => (vec![], over(class::JMP32, jmp::JGE, limit)),
            7 => (vec![wide(alu::AND)], over(class::JMP, jmp::JSGT, limit / 2)),
            _ => (vec![], over(class::JMP, jmp::JSGT, limit)),
        };
        (number, before, jump)
    })
}

/// Accesses a value of a map, the read-only map or the stack at an offset that a number decides.
fn access() -> impl Strategy<Value = Piece> {
    let offset = prop_oneof![Just(0_i16), -16..48_i16];
    let what = (register(), width(), offset, 0..6_u8, 0..4_u8);
    (guard(), what).prop_map(
        |((number, mut before, jump), (register, width, off, base, kind))| {
            let (pointer, off, width) = match base {
                0 | 1 => (vec![mov(R9, FP)], off - 48, size::B),
                2 => (asm::map_value(R9, 3, 0).to_vec(), off, width),
                _ => (vec![mov(R9, R7)], off, width),
            };
            let mut insns = pointer;
            insns.push(asm::alu(alu::ADD, R9, number));
            let code = mode::MEM | width;
            insns.push(match kind {
                0 => insn(class::STX | code, R9, register, off, 0),
                1 => insn(class::ST | code, R9, 0, off, 3),
                2 if width == size::DW => asm::atomic_add(R9, off, register),
                _ => insn(class::LDX | code, register, R9, off, 0),
            });
            match jump {
                Some(jump) => {
                    let body = vec![Piece::Straight(insns)];
                    if before.is_empty() {
                        Piece::Unless(jump, body)
                    } else {
                        // The jump behind what comes before it.
                        let skipped = Piece::Unless(jump, body);
                        Piece::Repeat(1, vec![Piece::Straight(before), skipped])
                    }
                }
                None => {
                    before.extend(insns);
                    Piece::Straight(before)
                }
            }
        },
    )
}

fn times() -> impl Strategy<Value = Times> {
    prop_oneof![
        (0..5_i32).prop_map(Times::Constant),
        register().prop_map(Times::Number),
        Just(Times::Entries),
    ]
}

fn piece() -> impl Strategy<Value = Piece> {
    let leaf = prop_oneof![
        5 => arithmetic().prop_map(Piece::Straight),
        2 => from_context().prop_map(Piece::Straight),
        3 => spill().prop_map(Piece::Straight),
        4 => access(),
        1 => register().prop_map(Piece::Call),
        1 => times().prop_map(Piece::CallBack),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let pieces = || prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            2 => (comparison(), pieces()).prop_map(|(jump, body)| Piece::Unless(jump, body)),
            2 => (comparison(), pieces(), pieces())
                .prop_map(|(jump, first, second)| Piece::Either(jump, first, second)),
            1 => (1..6_i32, pieces()).prop_map(|(times, body)| Piece::Repeat(times, body)),
        ]
    })
}

/// The instructions of a piece. A loop in a loop is one round of it: there is one counter.
fn assemble(piece: &Piece, in_loop: InLoop) -> Vec<Insn> {
    let all = |pieces: &[Piece], in_loop| -> Vec<Insn> {
        pieces
            .iter()
            .flat_map(|piece| assemble(piece, in_loop))
            .collect()
    };
    match piece {
        Piece::Straight(insns) => insns.clone(),
        Piece::Unless(jump, body) => {
            let body = all(body, in_loop);
            let off = body.len() as i16;
            let mut insns = vec![Insn { off, ..*jump }];
            insns.extend(body);
            insns
        }
        Piece::Either(jump, first, second) => {
            let (first, second) = (all(first, in_loop), all(second, in_loop));
            let off = first.len() as i16 + 1;
            let mut insns = vec![Insn { off, ..*jump }];
            insns.extend(first);
            insns.push(insn(class::JMP | jmp::JA, 0, 0, second.len() as i16, 0));
            insns.extend(second);
            insns
        }
        Piece::Repeat(times, body) if *times > 1 && in_loop == InLoop::No => {
            let mut insns = vec![mov_imm(COUNTER, 0)];
            insns.extend(all(body, InLoop::Yes));
            insns.push(asm::alu_imm(alu::ADD, COUNTER, 1));
            let back = -(insns.len() as i16);
            insns.push(asm::jump_imm(jmp::JLT, COUNTER, *times, back));
            insns
        }
        Piece::Repeat(_, body) => all(body, in_loop),
        Piece::Call(_) | Piece::CallBack(_) if in_loop == InLoop::Yes => vec![],
        Piece::Call(number) => {
            let mut insns = vec![mov(R1, *number), mov(2, FP), asm::alu_imm(alu::ADD, 2, -8)];
            // The distance is set when the whole is put together.
            insns.push(insn(crate::insn::CALL, 0, PSEUDO_CALL, 0, i32::MAX));
            // What the call has lost.
            insns.extend((1..6).map(|register| mov_imm(register, register.into())));
            insns
        }
        Piece::CallBack(times) => call_back(*times),
    }
}

fn call_back(times: Times) -> Vec<Insn> {
    let mut insns = Vec::new();
    let helper = match times {
        Times::Constant(times) => {
            insns.push(mov_imm(R1, times));
            Helper::Loop
        }
        Times::Number(number) => {
            insns.extend([mov(R1, number), asm::alu_imm(alu::AND, R1, 3)]);
            Helper::Loop
        }
        Times::Entries => {
            insns.extend(asm::map(R1, 2));
            Helper::ForEachMapElem
        }
    };
    // The distance is set when the whole is put together.
    insns.extend(asm::function(2, i32::MAX));
    insns.extend([
        mov(3, FP),
        asm::alu_imm(alu::ADD, 3, (-STACK).into()),
        mov_imm(4, 0),
        asm::call(helper),
    ]);
    insns.extend((1..6).map(|register| mov_imm(register, register.into())));
    insns
}

/// The function that helpers call, which gets a number or a map in r1 and a pointer to the caller's
/// stack in r2, or in r4 where it is called for entries. It keeps what it gets, changes it, and goes on
/// or not.
fn called_back(pieces: &[Piece], times: Times) -> Vec<Insn> {
    let context = match times {
        Times::Entries => 4,
        _ => 2,
    };
    let mut insns = vec![mov(R9, context), asm::load(8, R9, 0), mov(R6, R9)];
    insns.extend((0..5).map(|register| mov_imm(register, register.into())));
    insns.extend(asm::map_value(R7, 1, 0));
    insns.extend((0..STACK / 8).map(|slot| asm::store_imm(FP, -8 * (slot + 1), 1)));
    let inner = pieces.iter().filter(|piece| is_simple(piece));
    insns.extend(inner.flat_map(|piece| assemble(piece, InLoop::Yes)));
    insns.extend([
        asm::store(R6, 0, 8),
        asm::alu_imm(alu::ADD, 8, 1),
        asm::store(R6, 8, 8),
        mov(R0, 8),
        asm::alu_imm(alu::AND, R0, 1),
        exit(),
    ]);
    insns
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum InLoop {
    Yes,
    No,
}

/// A program that returns one of its numbers.
pub(super) fn program() -> impl Strategy<Value = Vec<Insn>> {
    let pieces = prop::collection::vec(piece(), 1..8);
    (pieces, register(), prop::collection::vec(piece(), 1..3)).prop_map(
        |(pieces, returned, function)| {
            let mut insns = vec![mov(R6, R1)];
            insns.extend(asm::map_value(R7, 1, 0));
            insns.extend(
                (0..6)
                    .chain(8..9)
                    .map(|register| mov_imm(register, register.into())),
            );
            insns.extend((0..STACK / 8).map(|slot| asm::store_imm(FP, -8 * (slot + 1), 0)));
            insns.extend(pieces.iter().flat_map(|piece| assemble(piece, InLoop::No)));
            insns.extend([mov(R0, returned), exit()]);
            let takes_address = |insn: &Insn| insn.is_wide() && insn.src == PSEUDO_FUNCTION;
            let names: Vec<_> = (0..insns.len())
                .filter(|&index| takes_address(&insns[index]))
                .collect();
            for index in names {
                let is_for_entries = insns[index..]
                    .iter()
                    .find(|insn| insn.code == crate::insn::CALL)
                    .is_some_and(|call| *call == asm::call(Helper::ForEachMapElem));
                let times = match is_for_entries {
                    true => Times::Entries,
                    false => Times::Constant(0),
                };
                insns[index].imm = insns.len() as i32 - index as i32 - 1;
                insns.extend(called_back(&function, times));
            }
            let entry = insns.len();
            let is_call = |insn: &Insn| insn.code == crate::insn::CALL && insn.src == PSEUDO_CALL;
            if insns.iter().any(is_call) {
                // It gets a number in r1 and a pointer to 8 bytes in r2.
                insns.extend([asm::load(8, 2, 0), asm::store(2, 0, R1), mov(R0, R1)]);
                insns.extend([mov_imm(R6, 0), mov_imm(3, 3), mov_imm(4, 4), mov_imm(2, 2)]);
                insns.extend(asm::map_value(R7, 1, 0));
                insns.extend((0..STACK / 8).map(|slot| asm::store_imm(FP, -8 * (slot + 1), 1)));
                let inner = function.iter().filter(|piece| is_simple(piece));
                insns.extend(inner.flat_map(|piece| assemble(piece, InLoop::Yes)));
                insns.extend([mov(R0, 8), exit()]);
            }
            for (index, insn) in insns
                .iter_mut()
                .enumerate()
                .filter(|(_, insn)| is_call(insn))
            {
                insn.imm = entry as i32 - index as i32 - 1;
            }
            insns
        },
    )
}

/// Whether a piece does without the context, which the subprogram does not have.
fn is_simple(piece: &Piece) -> bool {
    match piece {
        Piece::Straight(insns) => insns
            .iter()
            .all(|insn| insn.class() != class::LDX || insn.src != R6),
        Piece::Unless(_, body) | Piece::Repeat(_, body) => body.iter().all(is_simple),
        Piece::Either(_, first, second) => first.iter().chain(second).all(is_simple),
        Piece::Call(_) | Piece::CallBack(_) => false,
    }
}

/// Numbers of a guest: many small ones, some at borders, some anything.
pub(super) fn guest_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..80_u64,
        1 => (0..80_i64).prop_map(|number| number.wrapping_neg() as u64),
        1 => prop::sample::select(vec![1 << 31, 1 << 32, 1 << 63, u64::MAX, u64::from(u32::MAX)]),
        2 => any::<u64>(),
    ]
}
