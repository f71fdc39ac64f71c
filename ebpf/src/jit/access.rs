//! Loads, stores, atomic operations.

use super::asm::{AddSub, Cond, Extend, Logical, Lse, Reg, Size, Transfer, ZR};
use super::emit::Emitter;
use super::flow::Value;
use super::immediate::{self, Bitmask, fits_add_sub};
use super::native::Failure;
use super::registers::{
    self, ARENA, CALLEE, CONTEXT, FRAME, MARK, OFFSET, OPERAND, TEMPORARY, TEMPORARY2,
};
use super::{Atomics, Checks, CompileError};
use crate::arena::AtomicOp;
use crate::decode::{Fetch, IMMEDIATE, Step, decode_atomic};
use crate::memory::CONTEXT_SIZE;
use crate::stack::FRAME_SIZE;
use crate::width::Width;

/// Where an access goes.
#[derive(Clone, Copy)]
enum Place {
    /// To a register and a distance, known to be in bounds.
    At(Reg, i32),
    /// Into the arena, at the offset that a register holds.
    Arena(Reg, Extend),
}

impl Emitter<'_> {
    /// `d` = what is at eBPF register `base` plus `offset`.
    pub(super) fn load(
        &mut self,
        op: Transfer,
        d: Reg,
        base: u8,
        offset: i32,
        width: Width,
    ) -> Result<(), CompileError> {
        let place = self.find(base, offset, width)?;
        self.transfer(op, d, place);
        Ok(())
    }

    pub(super) fn store(&mut self, width: Width, step: &Step) -> Result<(), CompileError> {
        let place = self.find(step.dst, step.argument, width)?;
        let value = if step.src != IMMEDIATE {
            registers::of(step.src)
        } else if step.immediate == 0 {
            ZR
        } else {
            self.constant(OPERAND, step.immediate & width.mask());
            OPERAND
        };
        self.transfer(Transfer::store(width.bytes()), value, place);
        Ok(())
    }

    fn transfer(&mut self, op: Transfer, t: Reg, place: Place) {
        match place {
            Place::Arena(offset, extend) => self.asm.transfer_reg(op, t, ARENA, offset, extend),
            Place::At(base, offset) => {
                if let Some(scaled) = op.scaled(offset) {
                    self.asm.transfer(op, t, base, scaled);
                } else if (-256..256).contains(&offset) {
                    self.asm.transfer_unscaled(op, t, base, offset);
                } else {
                    // Frame and context are smaller than what the immediate of ADD can say.
                    let distance = offset.unsigned_abs();
                    self.asm
                        .add_sub_imm(AddSub::Add, Size::X, OFFSET, base, distance);
                    self.asm.transfer(op, t, OFFSET, 0);
                }
            }
        }
    }

    /// Where an access of `width` at eBPF register `base` plus `offset` goes.
    fn find(&mut self, base: u8, offset: i32, width: Width) -> Result<Place, CompileError> {
        let bytes = width.bytes() as i32;
        match self.state.get(base) {
            Value::Context(at) => {
                let at = at + offset;
                if at < 0 || at + bytes > CONTEXT_SIZE as i32 {
                    return Err(CompileError::ContextBounds);
                }
                return Ok(Place::At(CONTEXT, at));
            }
            Value::Frame(at) => {
                let at = at + offset + FRAME_SIZE as i32;
                if at >= 0 && at + bytes <= FRAME_SIZE as i32 {
                    return Ok(Place::At(FRAME, at));
                }
            }
            Value::Mixed => return Err(CompileError::Mixed),
            _ => {}
        }
        let base = registers::of(base);
        Ok(match self.options.checks {
            Checks::Every => {
                self.offset_from_mark(base, offset);
                Place::Arena(OFFSET, Extend::Lsl)
            }
            Checks::Window if offset == 0 => Place::Arena(base, Extend::Uxtw),
            Checks::Window => {
                self.add(Size::W, OFFSET, base, offset);
                Place::Arena(OFFSET, Extend::Uxtw)
            }
        })
    }

    /// The offset in the arena of the address `base + offset`, checked. An address with another
    /// mark is an offset far outside.
    fn offset_from_mark(&mut self, base: Reg, offset: i32) {
        self.asm
            .add_sub(AddSub::Sub, Size::X, OFFSET, base, MARK, 0);
        if offset != 0 {
            self.add(Size::X, OFFSET, OFFSET, offset);
        }
        let size = self.arena_size as u32;
        if fits_add_sub(size) {
            self.asm
                .add_sub_imm(AddSub::Subs, Size::X, ZR, OFFSET, size);
        } else {
            immediate::load(&mut self.asm, TEMPORARY, size.into());
            self.asm
                .add_sub(AddSub::Subs, Size::X, ZR, OFFSET, TEMPORARY, 0);
        }
        let stub = self.stub(Failure::Access);
        self.asm.b_cond(Cond::Hs, stub);
    }

    /// `d = n + distance`.
    pub(super) fn add(&mut self, size: Size, d: Reg, n: Reg, distance: i32) {
        let op = if distance < 0 {
            AddSub::Sub
        } else {
            AddSub::Add
        };
        let magnitude = distance.unsigned_abs();
        if fits_add_sub(magnitude) {
            self.asm.add_sub_imm(op, size, d, n, magnitude);
        } else {
            immediate::load(&mut self.asm, TEMPORARY, magnitude.into());
            self.asm.add_sub(op, size, d, n, TEMPORARY, 0);
        }
    }

    pub(super) fn atomic(&mut self, width: Width, step: &Step) -> Result<(), CompileError> {
        let (op, fetch) = decode_atomic(step.immediate as i32).ok_or(CompileError::Invalid)?;
        let address = self.aligned_address(width, step)?;
        let size = match width {
            Width::Double => Size::X,
            _ => Size::W,
        };
        let source = registers::of(step.src);
        match self.options.runtime.atomics {
            Atomics::Exclusives => self.exclusives(op, size, source, address),
            Atomics::Lse => self.lse(op, size, source, address),
        }
        match fetch {
            Fetch::No => {}
            Fetch::Source => self.asm.mov(size, source, TEMPORARY),
            Fetch::R0 => self.asm.mov(size, registers::of(0), TEMPORARY),
        }
        Ok(())
    }

    /// The address of an atomic access, as A64 takes it. One that is not aligned ends the run, as
    /// it does in the interpreter; the CPU would take an alignment fault (Arm ARM B2.7.2).
    fn aligned_address(&mut self, width: Width, step: &Step) -> Result<Reg, CompileError> {
        match self.find(step.dst, step.argument, width)? {
            Place::At(base, offset) => {
                self.asm
                    .add_sub_imm(AddSub::Add, Size::X, OPERAND, base, offset.unsigned_abs());
                self.asm
                    .add_sub(AddSub::Sub, Size::X, OFFSET, OPERAND, ARENA, 0);
            }
            Place::Arena(offset, Extend::Uxtw) => {
                self.asm.mov(Size::W, OFFSET, offset);
                self.asm.add_uxtw(OPERAND, ARENA, OFFSET);
            }
            Place::Arena(offset, Extend::Lsl) => {
                self.asm
                    .add_sub(AddSub::Add, Size::X, OPERAND, ARENA, offset, 0);
            }
        }
        let stub = self.stub(Failure::Access);
        if let Some(low) = Bitmask::of(width.bytes() as u64 - 1, Size::W) {
            self.asm
                .logical_imm(Logical::Ands, Size::W, ZR, OFFSET, low);
            self.asm.b_cond(Cond::Ne, stub);
        }
        Ok(OPERAND)
    }

    /// Leaves the old value in [`TEMPORARY`].
    fn exclusives(&mut self, op: AtomicOp, size: Size, source: Reg, address: Reg) {
        let again = self.asm.label();
        let done = self.asm.label();
        self.asm.bind(again);
        self.asm.ldaxr(size, TEMPORARY, address);
        let new = TEMPORARY2;
        let logical = |of: &mut Self, op| of.asm.logical(op, size, new, TEMPORARY, source);
        let value = match op {
            AtomicOp::Add => {
                self.asm
                    .add_sub(AddSub::Add, size, new, TEMPORARY, source, 0);
                new
            }
            AtomicOp::Or => {
                logical(self, Logical::Orr);
                new
            }
            AtomicOp::And => {
                logical(self, Logical::And);
                new
            }
            AtomicOp::Xor => {
                logical(self, Logical::Eor);
                new
            }
            AtomicOp::Exchange => source,
            AtomicOp::CompareExchange => {
                let expected = registers::of(0);
                self.asm
                    .add_sub(AddSub::Subs, size, ZR, TEMPORARY, expected, 0);
                self.asm.b_cond(Cond::Ne, done);
                source
            }
        };
        // The helper's address is not needed now: its register tells whether the store was done.
        self.asm.stlxr(size, CALLEE, value, address);
        self.asm.cbnz(Size::W, CALLEE, again);
        self.asm.bind(done);
    }

    /// Leaves the old value in [`TEMPORARY`].
    fn lse(&mut self, op: AtomicOp, size: Size, source: Reg, address: Reg) {
        let (instruction, source) = match op {
            AtomicOp::Add => (Lse::Ldadd, source),
            AtomicOp::Or => (Lse::Ldset, source),
            AtomicOp::And => {
                self.asm.mvn(size, TEMPORARY2, source);
                (Lse::Ldclr, TEMPORARY2)
            }
            AtomicOp::Xor => (Lse::Ldeor, source),
            AtomicOp::Exchange => (Lse::Swp, source),
            AtomicOp::CompareExchange => {
                self.asm.mov(size, TEMPORARY, registers::of(0));
                return self.asm.casal(size, TEMPORARY, source, address);
            }
        };
        self.asm.lse(instruction, size, source, TEMPORARY, address);
    }
}
