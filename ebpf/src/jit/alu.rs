//! Arithmetic. Most operations of eBPF are those of A64: a division by zero gives 0, shifts use the
//! low bits of their count, and 32-bit results are zero-extended (RFC 9669 sections 4.1 and 4.2;
//! Arm ARM C6.2, UDIV, SDIV, LSLV).

use super::asm::{AddSub, Logical, Reg, Size, TwoSource, ZR};
use super::emit::Emitter;
use super::immediate::{Bitmask, fits_add_sub};
use super::registers::{self, OPERAND, TEMPORARY};
use crate::decode::{Alu, IMMEDIATE, Step};
use crate::width::Width;

impl Emitter<'_> {
    /// `dst = dst op src`.
    pub(super) fn alu(&mut self, op: Alu, size: Size, step: &Step) {
        let d = registers::of(step.dst);
        let constant = (step.src == IMMEDIATE).then_some(step.immediate);
        if let Some(value) = constant
            && self.alu_constant(op, size, d, value)
        {
            return;
        }
        if let Some(value) = constant {
            self.operand(size, value);
        }
        let m = registers::of(step.src);
        match op {
            Alu::Add => self.asm.add_sub(AddSub::Add, size, d, d, m, 0),
            Alu::Sub => self.asm.add_sub(AddSub::Sub, size, d, d, m, 0),
            Alu::Mul => self.asm.madd(size, d, d, m, ZR),
            Alu::Div => self.asm.two_source(TwoSource::Udiv, size, d, d, m),
            Alu::SignedDiv => self.asm.two_source(TwoSource::Sdiv, size, d, d, m),
            Alu::Mod => self.remainder(TwoSource::Udiv, size, d, m),
            Alu::SignedMod => self.remainder(TwoSource::Sdiv, size, d, m),
            Alu::Or => self.asm.logical(Logical::Orr, size, d, d, m),
            Alu::And => self.asm.logical(Logical::And, size, d, d, m),
            Alu::Xor => self.asm.logical(Logical::Eor, size, d, d, m),
            Alu::Lsh => self.asm.two_source(TwoSource::Lslv, size, d, d, m),
            Alu::Rsh => self.asm.two_source(TwoSource::Lsrv, size, d, d, m),
            Alu::Arsh => self.asm.two_source(TwoSource::Asrv, size, d, d, m),
            Alu::Neg => self.asm.add_sub(AddSub::Sub, size, d, ZR, d, 0),
            Alu::Mov => self.asm.mov(size, d, m),
            Alu::MovSigned(width) => {
                self.asm.sbfm(size, d, m, 0, 8 * width.bytes() as u32 - 1);
            }
        }
    }

    /// The operation with a constant, where one instruction does it.
    fn alu_constant(&mut self, op: Alu, size: Size, d: Reg, value: u64) -> bool {
        let bits = match size {
            Size::W => 32,
            Size::X => 64,
        };
        // The verifier has refused counts of `bits` and more.
        let count = value as u32 & (bits - 1);
        match op {
            Alu::Lsh => {
                let rotation = (bits - count) & (bits - 1);
                self.asm.ubfm(size, d, d, rotation, bits - 1 - count);
            }
            Alu::Rsh => self.asm.ubfm(size, d, d, count, bits - 1),
            Alu::Arsh => self.asm.sbfm(size, d, d, count, bits - 1),
            Alu::Neg => self.asm.add_sub(AddSub::Sub, size, d, ZR, d, 0),
            Alu::Mov => self.constant(d, truncated(size, value)),
            Alu::Add | Alu::Sub => return self.add_constant(op, size, d, value as i64),
            Alu::And => return self.logical_constant(Logical::And, size, d, value),
            Alu::Or => return self.logical_constant(Logical::Orr, size, d, value),
            Alu::Xor => return self.logical_constant(Logical::Eor, size, d, value),
            _ => return false,
        }
        true
    }

    fn add_constant(&mut self, op: Alu, size: Size, d: Reg, value: i64) -> bool {
        let adds = (op == Alu::Add) == (value >= 0);
        let op = if adds { AddSub::Add } else { AddSub::Sub };
        let Some(magnitude) = magnitude(value).filter(|_| self.may_show()) else {
            return false;
        };
        self.asm.add_sub_imm(op, size, d, d, magnitude);
        true
    }

    fn logical_constant(&mut self, op: Logical, size: Size, d: Reg, value: u64) -> bool {
        let Some(bits) = Bitmask::of(value, size).filter(|_| self.may_show()) else {
            return false;
        };
        self.asm.logical_imm(op, size, d, d, bits);
        true
    }

    /// Puts a constant operand into its register.
    pub(super) fn operand(&mut self, size: Size, value: u64) {
        self.constant(OPERAND, truncated(size, value));
    }

    /// What is left of a division by `m`; of one by zero, where the quotient is 0, `d` itself.
    fn remainder(&mut self, op: TwoSource, size: Size, d: Reg, m: Reg) {
        self.asm.two_source(op, size, TEMPORARY, d, m);
        self.asm.msub(size, d, TEMPORARY, m, d);
    }

    /// Swaps the low bytes of a register and clears the rest.
    pub(super) fn swap(&mut self, width: Width, register: u8) {
        let d = registers::of(register);
        match width {
            Width::Byte => {}
            Width::Half => {
                self.asm.rev16(d, d);
                self.asm.ubfm(Size::W, d, d, 0, 15);
            }
            Width::Word => self.asm.rev(Size::W, d, d),
            Width::Double => self.asm.rev(Size::X, d, d),
        }
    }

    /// Clears all but the low bytes of a register.
    pub(super) fn truncate(&mut self, width: Width, register: u8) {
        let d = registers::of(register);
        if width != Width::Double {
            self.asm
                .ubfm(Size::W, d, d, 0, 8 * width.bytes() as u32 - 1);
        }
    }
}

/// The distance of a number from 0, where ADD and SUB have a form with it.
pub(super) fn magnitude(value: i64) -> Option<u32> {
    u32::try_from(value.unsigned_abs())
        .ok()
        .filter(|&magnitude| fits_add_sub(magnitude))
}

/// A number as an operation of that size sees it.
fn truncated(size: Size, value: u64) -> u64 {
    match size {
        Size::W => value & 0xffff_ffff,
        Size::X => value,
    }
}
