//! Helpers that call functions of the program: loops around a call. What they must remember lies on
//! the stack of the CPU.

use super::CompileError;
use super::asm::{AddSub, Cond, Label, Reg, SP, Size, Transfer, ZR};
use super::call::RESULT;
use super::emit::Emitter;
use super::flow::Value;
use super::immediate::{self, fits_add_sub};
use super::native::Service;
use super::registers::{self, MARK, OPERAND, TEMPORARY, TEMPORARY2};
use crate::helper::{E2BIG, EINVAL, Helper, MAX_ROUNDS};
use crate::stack::KEY_DISTANCE;

/// Bytes of the frame.
const LOOP_FRAME: i32 = 32;
/// What the helper goes through: the number of rounds, or the map.
const SUBJECT: i32 = 0;
/// What the function is given beside.
const CONTEXT_OF_FUNCTION: i32 = 8;
/// How often it was called.
const DONE: i32 = 16;
/// The entry of the map that is next.
const POSITION: i32 = 24;

impl Emitter<'_> {
    /// Calls a helper that calls a function.
    pub(super) fn call_back(&mut self, helper: Helper) -> Result<(), CompileError> {
        let Value::Function(entry) = self.state.get(2) else {
            return Err(CompileError::Function);
        };
        let [subject, _, context, flags] = [1, 2, 3, 4].map(registers::of);
        let [end, wrong_flags, again, done] = [(); 4].map(|()| self.asm.label());
        self.asm.cbnz(Size::X, flags, wrong_flags);
        let too_many = (helper == Helper::Loop).then(|| self.too_many_rounds(subject));
        self.asm.stp_pre(subject, context, SP, -LOOP_FRAME);
        self.asm.stp(ZR, ZR, SP, DONE);
        self.asm.bind(again);
        match helper {
            Helper::Loop => self.next_round(done),
            _ => self.next_entry(done),
        }
        self.count_round();
        self.pay_for(entry);
        match helper {
            Helper::Loop => self.arguments_of_round(),
            _ => self.arguments_of_entry(),
        }
        let function = self.function_at(entry);
        self.asm.bl(function);
        self.asm.cbz(Size::X, RESULT, again);
        self.asm.bind(done);
        self.recall(RESULT, DONE);
        self.asm
            .add_sub_imm(AddSub::Add, Size::X, SP, SP, LOOP_FRAME as u32);
        self.asm.b(end);
        if let Some(too_many) = too_many {
            self.fail_with(too_many, E2BIG, end);
        }
        self.fail_with(wrong_flags, EINVAL, end);
        self.asm.bind(end);
        Ok(())
    }

    /// Goes to the result if there are more rounds than there may be. They are 32 bits from then on.
    fn too_many_rounds(&mut self, times: Reg) -> Label {
        let label = self.asm.label();
        self.asm.mov(Size::W, times, times);
        immediate::load(&mut self.asm, TEMPORARY, MAX_ROUNDS.into());
        self.asm
            .add_sub(AddSub::Subs, Size::X, ZR, times, TEMPORARY, 0);
        self.asm.b_cond(Cond::Hi, label);
        label
    }

    fn fail_with(&mut self, label: Label, errno: u64, end: Label) {
        self.asm.bind(label);
        immediate::load(&mut self.asm, RESULT, errno);
        self.asm.b(end);
    }

    fn next_round(&mut self, done: Label) {
        self.recall(TEMPORARY, DONE);
        self.recall(TEMPORARY2, SUBJECT);
        self.asm
            .add_sub(AddSub::Subs, Size::X, ZR, TEMPORARY, TEMPORARY2, 0);
        self.asm.b_cond(Cond::Hs, done);
    }

    /// Leaves the address of the value where the function takes it, and the number of the entry behind
    /// it in the frame.
    fn next_entry(&mut self, done: Label) {
        let [map, key, position] = [1, 2, 3].map(registers::of);
        self.recall(map, SUBJECT);
        self.key_address(key);
        self.recall(position, POSITION);
        for unused in [4, 5].map(registers::of) {
            self.asm.mov(Size::X, unused, ZR);
        }
        self.call_runtime(Service::NextElement);
        self.asm.cbz(Size::X, RESULT, done);
        // LSR #32.
        self.asm.ubfm(Size::X, TEMPORARY, RESULT, 32, 63);
        self.remember(TEMPORARY, POSITION);
        self.asm.add_uxtw(registers::of(3), MARK, RESULT);
    }

    fn count_round(&mut self) {
        self.recall(TEMPORARY, DONE);
        self.asm
            .add_sub_imm(AddSub::Add, Size::X, TEMPORARY, TEMPORARY, 1);
        self.remember(TEMPORARY, DONE);
    }

    fn arguments_of_round(&mut self) {
        let [number, context] = [1, 2].map(registers::of);
        self.recall(TEMPORARY, DONE);
        self.asm
            .add_sub_imm(AddSub::Sub, Size::X, number, TEMPORARY, 1);
        self.recall(context, CONTEXT_OF_FUNCTION);
    }

    fn arguments_of_entry(&mut self) {
        let [map, key, context] = [1, 2, 4].map(registers::of);
        self.recall(map, SUBJECT);
        self.key_address(key);
        self.recall(context, CONTEXT_OF_FUNCTION);
    }

    fn key_address(&mut self, d: Reg) {
        let fp = registers::of(10);
        let distance = KEY_DISTANCE as u32;
        if fits_add_sub(distance) {
            self.asm.add_sub_imm(AddSub::Sub, Size::X, d, fp, distance);
        } else {
            immediate::load(&mut self.asm, OPERAND, distance.into());
            self.asm.add_sub(AddSub::Sub, Size::X, d, fp, OPERAND, 0);
        }
    }

    fn remember(&mut self, t: Reg, offset: i32) {
        let store = Transfer::store(8);
        if let Some(scaled) = store.scaled(offset) {
            self.asm.transfer(store, t, SP, scaled);
        }
    }

    fn recall(&mut self, t: Reg, offset: i32) {
        let load = Transfer::load(8);
        if let Some(scaled) = load.scaled(offset) {
            self.asm.transfer(load, t, SP, scaled);
        }
    }
}
