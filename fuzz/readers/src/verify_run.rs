//! Accepted programs are safe: programs made of what real ones do, more or less well checked, run on numbers that the
//! fuzzer chooses. The interpreter checks every access; any fault of an accepted program is an error of the verifier.

use crate::input::Input;
use crate::program;
use ebpf::asm::reg::{FP, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9};
use ebpf::asm::{self, call, exit, insn, mov, mov_imm, store_imm};
use ebpf::helper::Helper;
use ebpf::insn::{Insn, X, alu, atomic, class, jmp, mode, size};
use ebpf::verify::{Limits, Silent, verify_with};
use ebpf::{Context, Object};

/// Instructions that the verifier follows at most: enough for loops, few enough for many programs.
const STEPS: usize = 20_000;
/// What a helper may cost of the budget here, at most.
const HELPER_COST: u64 = 200;
/// Runs of an accepted program.
const RUNS: usize = 4;
/// Registers that hold numbers. r6 is the context, r7 a value of the array, r8 a pointer of the moment.
const NUMBERS: [u8; 7] = [R0, R1, R2, R3, R4, R5, R9];
const OPERATIONS: [u8; 14] = [
    alu::ADD,
    alu::SUB,
    alu::MUL,
    alu::DIV,
    alu::OR,
    alu::AND,
    alu::LSH,
    alu::RSH,
    alu::NEG,
    alu::MOD,
    alu::XOR,
    alu::MOV,
    alu::ARSH,
    alu::AND,
];
const CONDITIONS: [u8; 11] = [
    jmp::JEQ,
    jmp::JGT,
    jmp::JGE,
    jmp::JSET,
    jmp::JNE,
    jmp::JSGT,
    jmp::JSGE,
    jmp::JLT,
    jmp::JLE,
    jmp::JSLT,
    jmp::JSLE,
];

/// Verifies a program; if it is accepted, runs it on several guests.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let contexts: [Context; RUNS] = core::array::from_fn(|_| context(&mut input));
    let linked = program::linked(instructions(&mut input));
    let limits = Limits {
        insns: STEPS,
        ..Limits::default()
    };
    let insns = linked.programs[0].insns.len() as u64;
    let Ok(verified) = verify_with(&linked.programs[0], &linked.maps, limits, &mut Silent) else {
        return;
    };
    let object =
        Object::load(&linked, 2).expect("what is accepted with less is accepted with more");
    // A jump backwards pays for all that lies between, a part of which may be skipped.
    let budget = (verified.explored as u64 + 1) * (insns + HELPER_COST);
    for context in &contexts {
        if let Err(error) = program::run_with(&object.programs()[0], context, budget) {
            panic!(
                "an accepted program failed: {error}\n{:#?}",
                linked.programs[0].insns
            );
        }
    }
}

/// Eight numbers of the guest, many of them small; the others are as many more.
fn context(input: &mut Input<'_>) -> Context {
    let mut context = [0; 34];
    for (index, register) in context.iter_mut().enumerate() {
        *register = match index {
            0..8 => number(input),
            _ => index as u64,
        };
    }
    context
}

fn number(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        small @ 0..200 => (small % 64).into(),
        bit @ 200..240 => (1_u64 << (bit % 64)).wrapping_sub(u64::from(bit & 1)),
        _ => input.u64(),
    }
}

fn instructions(input: &mut Input<'_>) -> Vec<Insn> {
    let mut insns = vec![mov(R6, R1)];
    insns.extend(asm::map_value(R7, 1, 0));
    insns.push(mov(R8, FP));
    insns.extend(NUMBERS.map(|register| mov_imm(register, register.into())));
    while input.has_more() && insns.len() < 200 {
        insns.extend(piece(input));
    }
    insns.extend([mov_imm(R0, 0), exit()]);
    insns
}

fn pick<T: Copy>(input: &mut Input<'_>, choices: &[T]) -> T {
    choices[usize::from(input.byte()) % choices.len()]
}

fn immediate(input: &mut Input<'_>) -> i32 {
    match input.byte() {
        small @ 0..240 => i32::from(small % 80) - 8,
        _ => input.u32() as i32,
    }
}

fn width(input: &mut Input<'_>) -> u8 {
    pick(input, &[size::B, size::H, size::W, size::DW])
}

fn piece(input: &mut Input<'_>) -> Vec<Insn> {
    let kind = input.byte() % 16;
    let (dst, src) = (pick(input, &NUMBERS), pick(input, &NUMBERS));
    let width = width(input);
    let offset = i16::from(input.byte() as i8);
    let memory = mode::MEM | width;
    match kind {
        0..4 => vec![arithmetic(input, dst, src)],
        4 | 5 => vec![insn(class::LDX | memory, dst, R6, 8 * (offset & 7), 0)],
        6 | 7 => vec![comparison(input, dst, src)],
        // On the stack, aligned or nearly.
        8 => vec![insn(class::LDX | memory, dst, FP, -(offset & 0x78) - 8, 0)],
        9 => vec![insn(class::STX | memory, FP, src, -(offset & 0x7f) - 8, 0)],
        10 => vec![insn(
            class::ST | memory,
            FP,
            0,
            -(offset & 0x78) - 8,
            immediate(input),
        )],
        // At a place that a number decides.
        11 => {
            let base = pick(input, &[R7, FP]);
            let below = if base == FP { 64 } else { 0 };
            let access = pick(input, &[class::LDX, class::STX, class::ST]);
            let (to, from) = if access == class::LDX {
                (dst, R8)
            } else {
                (R8, src)
            };
            let from = if access == class::ST { 0 } else { from };
            vec![
                mov(R8, base),
                asm::alu(alu::ADD, R8, dst),
                insn(access | memory, to, from, offset % 24 - below, 0),
            ]
        }
        12 => vec![insn(
            class::STX | mode::ATOMIC | pick(input, &[size::W, size::DW]),
            R7,
            src,
            offset & 12,
            pick(
                input,
                &[
                    atomic::ADD,
                    atomic::OR | atomic::FETCH,
                    atomic::XCHG,
                    atomic::CMPXCHG,
                ],
            ),
        )],
        13 => lookup(i32::from(offset & 3)),
        14 => probe_read(dst, i32::from(offset & 0x78)),
        _ => {
            let value = asm::map_value(R8, 3, i32::from(offset & 15));
            vec![value[0], value[1], insn(class::LDX | memory, dst, R8, 0, 0)]
        }
    }
}

fn arithmetic(input: &mut Input<'_>, dst: u8, src: u8) -> Insn {
    let class = pick(input, &[class::ALU, class::ALU64]);
    let bits = if class == class::ALU { 32 } else { 64 };
    let code = class | pick(input, &OPERATIONS);
    let off = match code & 0xf0 {
        alu::DIV | alu::MOD => i16::from(input.byte() & 1),
        _ => 0,
    };
    let imm = immediate(input);
    match code & 0xf0 {
        alu::NEG => insn(code, dst, 0, 0, 0),
        _ if input.byte() & 1 == 1 => insn(code | X, dst, src, off, 0),
        alu::LSH | alu::RSH | alu::ARSH => insn(code, dst, 0, 0, imm.rem_euclid(bits)),
        alu::DIV | alu::MOD if imm == 0 => insn(code, dst, 0, off, 1),
        _ => insn(code, dst, 0, off, imm),
    }
}

/// A jump, mostly a short one forwards.
fn comparison(input: &mut Input<'_>, dst: u8, src: u8) -> Insn {
    let code = pick(input, &[class::JMP, class::JMP32]) | pick(input, &CONDITIONS);
    let distance = match input.byte() {
        forwards @ 0..220 => i16::from(forwards % 12),
        backwards => -i16::from(backwards % 12),
    };
    if input.byte() & 1 == 1 {
        insn(code | X, dst, src, distance, 0)
    } else {
        insn(code, dst, 0, distance, immediate(input))
    }
}

/// What a call has lost, as numbers.
fn after_call() -> [Insn; 5] {
    [R1, R2, R3, R4, R5].map(|register| mov_imm(register, register.into()))
}

/// Looks a key up and counts there.
fn lookup(map: i32) -> Vec<Insn> {
    let mut insns = vec![asm::store_imm32(FP, -4, 1)];
    insns.extend(asm::map(R1, map));
    insns.extend([mov(R2, FP), asm::alu_imm(alu::ADD, R2, -4)]);
    insns.push(call(Helper::MapLookupElem));
    insns.extend(after_call());
    // Two instructions to skip.
    insns.push(asm::jump_imm(jmp::JEQ, R0, 0, 2));
    insns.extend([
        mov(R8, R0),
        insn(class::LDX | mode::MEM | size::DW, R3, R8, 0, 0),
    ]);
    insns.push(mov_imm(R0, 0));
    insns
}

/// Reads as many bytes as a number says to the stack.
fn probe_read(length: u8, below: i32) -> Vec<Insn> {
    let mut insns = vec![
        mov(R2, length),
        mov(R1, FP),
        asm::alu_imm(alu::ADD, R1, -below - 8),
        mov_imm(R3, 64),
        call(Helper::ProbeReadKernel),
    ];
    insns.extend(after_call());
    insns.push(store_imm(FP, -8, 3));
    insns
}
