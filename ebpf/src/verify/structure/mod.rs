//! The structure of a program: instructions, jumps and calls that there are.
//!
//! Nothing here depends on what a register holds: registers and map references exist,
//! control never leaves a function but by call and exit, and calls nest no deeper than the stack has
//! frames. After it, a program can be decoded and followed.

mod functions;

use super::reason::Reason;
use crate::decode::is_atomic_operation;
use crate::insn::{
    CALL, EXIT, FP, Insn, LD_IMM64, PSEUDO_CALL, PSEUDO_FUNCTION, PSEUDO_KERNEL_CALL, PSEUDO_MAP,
    PSEUDO_MAP_VALUE, alu, class, jmp, mode,
};
use crate::linked::MAX_INSNS;
use crate::map::{MapDef, MapKind};
use alloc::vec;
use alloc::vec::Vec;
pub(super) use functions::{Functions, Join, JoinPoints};

/// A reason and the instruction that it is about.
pub(super) type Refusal = (usize, Reason);

/// Checks the structure of a program that may refer to `maps`, and returns its functions.
pub(super) fn check(insns: &[Insn], maps: &[MapDef]) -> Result<Functions, Refusal> {
    if insns.is_empty() {
        return Err((0, Reason::Empty));
    }
    if insns.len() > MAX_INSNS {
        return Err((MAX_INSNS, Reason::TooLong));
    }
    let starts = check_each(insns, maps)?;
    Functions::split(insns, &starts)
}

/// Checks every instruction by itself and returns which indices begin one.
fn check_each(insns: &[Insn], maps: &[MapDef]) -> Result<Vec<bool>, Refusal> {
    let mut starts = vec![false; insns.len()];
    let mut index = 0;
    while let Some(&insn) = insns.get(index) {
        starts[index] = true;
        let next = insns.get(index + 1).copied();
        check_one(insn, next, maps).map_err(|reason| (index, reason))?;
        index += if insn.is_wide() { 2 } else { 1 };
    }
    Ok(starts)
}

fn check_one(insn: Insn, next: Option<Insn>, maps: &[MapDef]) -> Result<(), Reason> {
    if insn.dst > FP {
        return Err(Reason::Register(insn.dst));
    }
    if insn.src > FP {
        return Err(Reason::Register(insn.src));
    }
    match insn.class() {
        class::LD => check_wide(insn, next, maps),
        class::LDX => check_load(insn),
        class::ST | class::STX => check_store(insn),
        class::ALU | class::ALU64 => check_alu(insn),
        _ => check_jump(insn),
    }
}

fn reserved(fields_are_zero: bool) -> Result<(), Reason> {
    if fields_are_zero {
        Ok(())
    } else {
        Err(Reason::Reserved)
    }
}

fn check_writable(register: u8) -> Result<(), Reason> {
    if register == FP {
        Err(Reason::WritesFramePointer)
    } else {
        Ok(())
    }
}

fn check_wide(insn: Insn, next: Option<Insn>, maps: &[MapDef]) -> Result<(), Reason> {
    if insn.code != LD_IMM64 {
        return Err(Reason::Opcode);
    }
    check_writable(insn.dst)?;
    reserved(insn.off == 0)?;
    let high = match next {
        Some(Insn {
            code: 0,
            dst: 0,
            src: 0,
            off: 0,
            imm,
        }) => imm,
        _ => return Err(Reason::SecondSlot),
    };
    let map = usize::try_from(insn.imm)
        .ok()
        .and_then(|index| maps.get(index));
    match insn.src {
        0 => Ok(()),
        PSEUDO_MAP => {
            map.ok_or(Reason::Map(insn.imm))?;
            reserved(high == 0)
        }
        PSEUDO_MAP_VALUE => {
            let map = map.ok_or(Reason::Map(insn.imm))?;
            let inside = u32::try_from(high).is_ok_and(|offset| offset < map.value_size);
            if map.kind == MapKind::Array && inside {
                Ok(())
            } else {
                Err(Reason::MapValue)
            }
        }
        // Where it leads, the functions say.
        PSEUDO_FUNCTION => reserved(high == 0),
        kind => Err(Reason::Immediate(kind)),
    }
}

fn check_load(insn: Insn) -> Result<(), Reason> {
    let sign_extends_nothing = insn.mode() == mode::MEMSX && insn.access_size() == 8;
    if !matches!(insn.mode(), mode::MEM | mode::MEMSX) || sign_extends_nothing {
        return Err(Reason::Opcode);
    }
    check_writable(insn.dst)?;
    reserved(insn.imm == 0)
}

fn check_store(insn: Insn) -> Result<(), Reason> {
    match (insn.class(), insn.mode()) {
        (class::ST, mode::MEM) => reserved(insn.src == 0),
        (class::STX, mode::MEM) => reserved(insn.imm == 0),
        (class::STX, mode::ATOMIC) => check_atomic(insn),
        _ => Err(Reason::Opcode),
    }
}

fn check_atomic(insn: Insn) -> Result<(), Reason> {
    if insn.access_size() < 4 || !is_atomic_operation(insn.imm) {
        return Err(Reason::Atomic);
    }
    let source_receives =
        insn.imm & crate::insn::atomic::FETCH != 0 && insn.imm != crate::insn::atomic::CMPXCHG;
    if source_receives {
        check_writable(insn.src)
    } else {
        Ok(())
    }
}

fn check_alu(insn: Insn) -> Result<(), Reason> {
    check_writable(insn.dst)?;
    let bits = if insn.class() == class::ALU64 { 64 } else { 32 };
    let off_is_valid = match insn.operation() {
        alu::DIV | alu::MOD => matches!(insn.off, 0 | 1),
        alu::MOV if insn.uses_src() => {
            matches!(insn.off, 0 | 8 | 16) || insn.off == 32 && bits == 64
        }
        _ => insn.off == 0,
    };
    reserved(off_is_valid)?;
    match insn.operation() {
        0xe0 | 0xf0 => return Err(Reason::Opcode),
        alu::END => return check_swap(insn),
        alu::NEG if insn.uses_src() => return Err(Reason::Opcode),
        alu::NEG => return reserved(insn.src == 0 && insn.imm == 0),
        _ => {}
    }
    if insn.uses_src() {
        return reserved(insn.imm == 0);
    }
    reserved(insn.src == 0)?;
    match insn.operation() {
        alu::DIV | alu::MOD if insn.imm == 0 => Err(Reason::DivisionByZero),
        alu::LSH | alu::RSH | alu::ARSH if !(0..bits).contains(&insn.imm) => Err(Reason::Shift),
        _ => Ok(()),
    }
}

fn check_swap(insn: Insn) -> Result<(), Reason> {
    // In class ALU64 there is one unconditional swap; its source bit is reserved.
    if insn.class() == class::ALU64 && insn.uses_src() {
        return Err(Reason::Opcode);
    }
    reserved(insn.src == 0)?;
    if matches!(insn.imm, 16 | 32 | 64) {
        Ok(())
    } else {
        Err(Reason::SwapSize)
    }
}

fn check_jump(insn: Insn) -> Result<(), Reason> {
    const GOTO: u8 = class::JMP | jmp::JA;
    const GOTO_LONG: u8 = class::JMP32 | jmp::JA;
    match insn.code {
        GOTO => reserved(insn.dst == 0 && insn.src == 0 && insn.imm == 0),
        GOTO_LONG => reserved(insn.dst == 0 && insn.src == 0 && insn.off == 0),
        EXIT => reserved(insn.dst == 0 && insn.src == 0 && insn.off == 0 && insn.imm == 0),
        CALL => check_call(insn),
        _ => check_conditional(insn),
    }
}

fn check_call(insn: Insn) -> Result<(), Reason> {
    reserved(insn.dst == 0 && insn.off == 0)?;
    // Helpers and kernel functions that there are not may be called where no path comes: that is how
    // programs ask what there is.
    reserved(matches!(insn.src, 0 | PSEUDO_CALL | PSEUDO_KERNEL_CALL))
}

fn check_conditional(insn: Insn) -> Result<(), Reason> {
    let is_condition = !matches!(
        insn.operation(),
        jmp::JA | jmp::CALL | jmp::EXIT | 0xe0 | 0xf0
    );
    if !is_condition {
        return Err(Reason::Opcode);
    }
    reserved(if insn.uses_src() {
        insn.imm == 0
    } else {
        insn.src == 0
    })
}

#[cfg(test)]
mod tests;
