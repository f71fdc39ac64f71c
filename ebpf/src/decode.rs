//! From instructions to steps: what the interpreter runs and the compiler translates.
//!
//! A program is decoded once, when it is loaded: an operation, its registers, its jump target as an
//! index. The immediate of a step counts as a register of its own ([`IMMEDIATE`]), so every
//! operation has the one form `dst op src`.

use crate::address;
use crate::arena::AtomicOp;
use crate::helper::Helper;
use crate::insn::{
    Insn, PSEUDO_CALL, PSEUDO_FUNCTION, PSEUDO_MAP, PSEUDO_MAP_VALUE, alu, atomic, class, jmp, mode,
};
use crate::map::Map;
use crate::width::Width;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// The register that holds the step's immediate.
pub(crate) const IMMEDIATE: u8 = 11;
/// Registers 0 to 10, the immediate, and as many more as make the number a power of two.
pub(crate) const REGISTERS: usize = 16;

/// What an arithmetic instruction does with its operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    SignedDiv,
    Mod,
    SignedMod,
    Or,
    And,
    Xor,
    Lsh,
    Rsh,
    Arsh,
    Neg,
    Mov,
    MovSigned(Width),
}

/// When a conditional jump jumps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Condition {
    Eq,
    Ne,
    Set,
    Gt,
    Ge,
    Lt,
    Le,
    SignedGt,
    SignedGe,
    SignedLt,
    SignedLe,
}

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Alu64(Alu),
    Alu32(Alu),
    /// Swaps the bytes of the low part and clears the rest.
    Swap(Width),
    /// Clears all but the low part: a conversion to little-endian, on a little-endian machine.
    Truncate(Width),
    /// A 64-bit immediate; two slots.
    Wide,
    /// The address of a function; two slots.
    Function,
    Load(Width),
    LoadSigned(Width),
    /// A load from the guest's memory: 0 where nothing can be read.
    LoadGuest(Width),
    LoadGuestSigned(Width),
    Store(Width),
    /// The immediate says which operation.
    Atomic(Width),
    Jump,
    JumpIf64(Condition),
    JumpIf32(Condition),
    Call,
    Helper(Helper),
    Exit,
    /// The second slot of a 64-bit immediate, and whatever the verifier refuses: never executed.
    Invalid,
}

impl Op {
    /// How many slots such an instruction takes.
    pub(crate) const fn slots(self) -> usize {
        match self {
            Self::Wide | Self::Function => 2,
            _ => 1,
        }
    }
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) op: Op,
    pub(crate) dst: u8,
    pub(crate) src: u8,
    /// The byte offset of a memory access, or the step that a jump or call goes to or a function
    /// begins at.
    pub(crate) argument: i32,
    /// The immediate; of a call the length of the function that is called.
    pub(crate) immediate: u64,
}

/// Decodes a program that the verifier has accepted and that refers to `maps`.
pub(crate) fn decode(insns: &[Insn], maps: &[Map]) -> Box<[Step]> {
    let mut steps: Box<[Step]> = (0..insns.len())
        .map(|index| decode_one(insns, index, maps))
        .collect();
    // What a call costs is the length of what it calls.
    let entries = entries(&steps);
    for step in steps.iter_mut().filter(|step| step.op == Op::Call) {
        step.immediate = length(&entries, insns.len(), step.argument as usize);
    }
    steps
}

/// How many instructions the function at `entry` has, of a program of `count` whose functions begin at
/// `entries`.
pub(crate) fn length(entries: &[usize], count: usize, entry: usize) -> u64 {
    let after = entries.partition_point(|&other| other <= entry);
    let end = entries.get(after).copied().unwrap_or(count);
    end.saturating_sub(entry) as u64
}

/// Where the functions of a program begin, in order: at 0, where calls go, and what helpers are given
/// to call.
pub(crate) fn entries(steps: &[Step]) -> Vec<usize> {
    let names_one = |step: &&Step| matches!(step.op, Op::Call | Op::Function);
    let named = steps.iter().filter(names_one);
    let mut entries: Vec<_> = named.map(|step| step.argument as usize).collect();
    entries.push(0);
    entries.sort_unstable();
    entries.dedup();
    entries
}

fn decode_one(insns: &[Insn], index: usize, maps: &[Map]) -> Step {
    let insn = insns[index];
    let is_second_slot = index
        .checked_sub(1)
        .is_some_and(|before| insns[before].is_wide());
    let op = if is_second_slot {
        Op::Invalid
    } else {
        decode_op(insn)
    };
    let relative = |distance: i32| (index as i32).saturating_add(1).saturating_add(distance);
    let argument = match op {
        Op::Call | Op::Function => relative(insn.imm),
        Op::Jump if insn.class() == class::JMP32 => relative(insn.imm),
        Op::Jump | Op::JumpIf64(_) | Op::JumpIf32(_) => relative(insn.off.into()),
        _ => insn.off.into(),
    };
    let immediate = match op {
        Op::Wide => decode_wide(insn, insns.get(index + 1).map_or(0, |next| next.imm), maps),
        Op::Function => address::function(argument as usize),
        _ => i64::from(insn.imm) as u64,
    };
    let is_arithmetic_or_jump = !matches!(insn.class(), class::LDX | class::STX | class::ST);
    let immediate_form = is_arithmetic_or_jump && !insn.uses_src() || insn.class() == class::ST;
    let src = if immediate_form { IMMEDIATE } else { insn.src };
    Step {
        op,
        dst: insn.dst,
        src,
        argument,
        immediate,
    }
}

fn decode_wide(insn: Insn, high: i32, maps: &[Map]) -> u64 {
    let map = insn.imm as usize;
    match insn.src {
        PSEUDO_MAP => address::map_handle(map),
        PSEUDO_MAP_VALUE => maps.get(map).map_or(0, |map| {
            address::arena(map.values().start() + high as usize)
        }),
        _ => u64::from(insn.imm as u32) | u64::from(high as u32) << 32,
    }
}

fn decode_op(insn: Insn) -> Op {
    let width = Width::of_bytes(insn.access_size());
    match (insn.class(), insn.mode()) {
        (class::LD, _) if insn.is_wide() && insn.src == PSEUDO_FUNCTION => Op::Function,
        (class::LD, _) if insn.is_wide() => Op::Wide,
        (class::LDX, mode::MEM) => Op::Load(width),
        (class::LDX, mode::MEMSX) => Op::LoadSigned(width),
        (class::ST | class::STX, mode::MEM) => Op::Store(width),
        (class::STX, mode::ATOMIC) => Op::Atomic(width),
        (class::ALU | class::ALU64, _) if insn.operation() == alu::END => decode_swap(insn),
        (class::ALU, _) => decode_alu(insn).map_or(Op::Invalid, Op::Alu32),
        (class::ALU64, _) => decode_alu(insn).map_or(Op::Invalid, Op::Alu64),
        (class::JMP | class::JMP32, _) => decode_jump(insn),
        _ => Op::Invalid,
    }
}

fn decode_swap(insn: Insn) -> Op {
    let width = Width::of_bytes((insn.imm / 8) as u8);
    let to_little = insn.class() == class::ALU && !insn.uses_src();
    if to_little {
        Op::Truncate(width)
    } else {
        Op::Swap(width)
    }
}

fn decode_alu(insn: Insn) -> Option<Alu> {
    Some(match (insn.operation(), insn.off) {
        (alu::ADD, _) => Alu::Add,
        (alu::SUB, _) => Alu::Sub,
        (alu::MUL, _) => Alu::Mul,
        (alu::DIV, 0) => Alu::Div,
        (alu::DIV, _) => Alu::SignedDiv,
        (alu::MOD, 0) => Alu::Mod,
        (alu::MOD, _) => Alu::SignedMod,
        (alu::OR, _) => Alu::Or,
        (alu::AND, _) => Alu::And,
        (alu::XOR, _) => Alu::Xor,
        (alu::LSH, _) => Alu::Lsh,
        (alu::RSH, _) => Alu::Rsh,
        (alu::ARSH, _) => Alu::Arsh,
        (alu::NEG, _) => Alu::Neg,
        (alu::MOV, 0) => Alu::Mov,
        (alu::MOV, bits) => Alu::MovSigned(Width::of_bytes((bits / 8) as u8)),
        _ => return None,
    })
}

fn decode_jump(insn: Insn) -> Op {
    let condition = match insn.operation() {
        jmp::JA => return Op::Jump,
        jmp::CALL if insn.src == PSEUDO_CALL => return Op::Call,
        jmp::CALL if insn.src != 0 => return Op::Invalid,
        jmp::CALL => return Helper::from_number(insn.imm).map_or(Op::Invalid, Op::Helper),
        jmp::EXIT => return Op::Exit,
        jmp::JEQ => Condition::Eq,
        jmp::JNE => Condition::Ne,
        jmp::JSET => Condition::Set,
        jmp::JGT => Condition::Gt,
        jmp::JGE => Condition::Ge,
        jmp::JLT => Condition::Lt,
        jmp::JLE => Condition::Le,
        jmp::JSGT => Condition::SignedGt,
        jmp::JSGE => Condition::SignedGe,
        jmp::JSLT => Condition::SignedLt,
        jmp::JSLE => Condition::SignedLe,
        _ => return Op::Invalid,
    };
    if insn.class() == class::JMP {
        Op::JumpIf64(condition)
    } else {
        Op::JumpIf32(condition)
    }
}

/// Whether an atomic instruction hands back the old value, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fetch {
    No,
    Source,
    R0,
}

pub(crate) fn decode_atomic(immediate: i32) -> Option<(AtomicOp, Fetch)> {
    let op = match immediate & !atomic::FETCH {
        atomic::ADD => AtomicOp::Add,
        atomic::OR => AtomicOp::Or,
        atomic::AND => AtomicOp::And,
        atomic::XOR => AtomicOp::Xor,
        _ if immediate == atomic::XCHG => AtomicOp::Exchange,
        _ if immediate == atomic::CMPXCHG => return Some((AtomicOp::CompareExchange, Fetch::R0)),
        _ => return None,
    };
    let fetch = if immediate & atomic::FETCH == 0 {
        Fetch::No
    } else {
        Fetch::Source
    };
    Some((op, fetch))
}

/// Whether there is an atomic operation of that number.
pub(crate) fn is_atomic_operation(immediate: i32) -> bool {
    decode_atomic(immediate).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_small() {
        assert_eq!(size_of::<Step>(), 16);
    }
}
