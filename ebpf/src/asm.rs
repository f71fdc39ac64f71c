//! Constructors of instructions, for programs that are written in Rust: the built-in ones, and what
//! compiles to eBPF.

use crate::helper::Helper;
use crate::insn::{
    self, CALL, EXIT, Insn, LD_IMM64, PSEUDO_FUNCTION, PSEUDO_MAP, PSEUDO_MAP_VALUE, X, class,
    mode, size,
};

/// Registers r0 to r10 by name. r0 holds results; r1 to r5 hold arguments and are lost in calls; r6
/// to r9 survive calls; r10 is the frame pointer.
pub mod reg {
    /// Result of calls and of the program.
    pub const R0: u8 = 0;
    /// First argument; at entry the context.
    pub const R1: u8 = 1;
    /// Second argument.
    pub const R2: u8 = 2;
    /// Third argument.
    pub const R3: u8 = 3;
    /// Fourth argument.
    pub const R4: u8 = 4;
    /// Fifth argument.
    pub const R5: u8 = 5;
    /// Survives calls.
    pub const R6: u8 = 6;
    /// Survives calls.
    pub const R7: u8 = 7;
    /// Survives calls.
    pub const R8: u8 = 8;
    /// Survives calls.
    pub const R9: u8 = 9;
    /// Frame pointer.
    pub const FP: u8 = super::insn::FP;
}

/// Any instruction, encodable or not.
pub const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn {
        code,
        dst,
        src,
        off,
        imm,
    }
}

/// `dst = imm`, 64 bits, sign-extended.
pub const fn mov_imm(dst: u8, imm: i32) -> Insn {
    insn(class::ALU64 | insn::alu::MOV, dst, 0, 0, imm)
}

/// `dst = src`, 64 bits.
pub const fn mov(dst: u8, src: u8) -> Insn {
    insn(class::ALU64 | insn::alu::MOV | X, dst, src, 0, 0)
}

/// `dst op= imm`, 64 bits; `op` of [`insn::alu`].
pub const fn alu_imm(op: u8, dst: u8, imm: i32) -> Insn {
    insn(class::ALU64 | op, dst, 0, 0, imm)
}

/// `dst op= src`, 64 bits; `op` of [`insn::alu`].
pub const fn alu(op: u8, dst: u8, src: u8) -> Insn {
    insn(class::ALU64 | op | X, dst, src, 0, 0)
}

/// `dst = *(u64 *)(src + off)`.
pub const fn load(dst: u8, src: u8, off: i16) -> Insn {
    insn(class::LDX | mode::MEM | size::DW, dst, src, off, 0)
}

/// `*(u64 *)(dst + off) = src`.
pub const fn store(dst: u8, off: i16, src: u8) -> Insn {
    insn(class::STX | mode::MEM | size::DW, dst, src, off, 0)
}

/// `*(u64 *)(dst + off) = imm`, sign-extended.
pub const fn store_imm(dst: u8, off: i16, imm: i32) -> Insn {
    insn(class::ST | mode::MEM | size::DW, dst, 0, off, imm)
}

/// `*(u32 *)(dst + off) = imm`.
pub const fn store_imm32(dst: u8, off: i16, imm: i32) -> Insn {
    insn(class::ST | mode::MEM | size::W, dst, 0, off, imm)
}

/// `*(u64 *)(dst + off) += src`, atomically.
pub const fn atomic_add(dst: u8, off: i16, src: u8) -> Insn {
    insn(
        class::STX | mode::ATOMIC | size::DW,
        dst,
        src,
        off,
        insn::atomic::ADD,
    )
}

/// `if dst op imm goto +off`; `op` of [`insn::jmp`].
pub const fn jump_imm(op: u8, dst: u8, imm: i32, off: i16) -> Insn {
    insn(class::JMP | op, dst, 0, off, imm)
}

/// `dst = map number index`, two slots.
pub const fn map(dst: u8, index: i32) -> [Insn; 2] {
    [
        insn(LD_IMM64, dst, PSEUDO_MAP, 0, index),
        insn(0, 0, 0, 0, 0),
    ]
}

/// `dst = address of byte offset in the first value of array map number index`, two slots.
pub const fn map_value(dst: u8, index: i32, offset: i32) -> [Insn; 2] {
    [
        insn(LD_IMM64, dst, PSEUDO_MAP_VALUE, 0, index),
        insn(0, 0, 0, 0, offset),
    ]
}

/// `dst = the function that begins distance instructions behind the first slot`, two slots.
pub const fn function(dst: u8, distance: i32) -> [Insn; 2] {
    [
        insn(LD_IMM64, dst, PSEUDO_FUNCTION, 0, distance),
        insn(0, 0, 0, 0, 0),
    ]
}

/// `dst = value`, two slots.
pub const fn mov_imm64(dst: u8, value: u64) -> [Insn; 2] {
    [
        insn(LD_IMM64, dst, 0, 0, value as i32),
        insn(0, 0, 0, 0, (value >> 32) as i32),
    ]
}

/// `r0 = helper(r1, r2, r3, r4, r5)`.
pub const fn call(helper: Helper) -> Insn {
    insn(CALL, 0, 0, 0, helper as i32)
}

/// Returns r0.
pub const fn exit() -> Insn {
    insn(EXIT, 0, 0, 0, 0)
}
