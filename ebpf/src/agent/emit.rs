//! From bytecodes to instructions.
//!
//! r6 is the context, r7 to r9 hold values ([`super::operands`]), the others are for the moment.

use super::flow::{self, Step, Wrong};
use super::opcode::Opcode;
use super::operands::{Operand, Operands, immediate, place, set};
use super::printf::Texts;
use super::refused::{Reason, Refused};
use super::{Expression, MAX_EXPRESSIONS, Place, Purpose, Register, Registers};
use crate::asm::reg::{FP, R0, R1, R2, R3, R4, R5, R6};
use crate::asm::{alu, alu_imm, call, exit, insn, jump_imm, load, map_value, mov, mov_imm};
use crate::helper::Helper;
use crate::insn::{Insn, X, alu as operation, class, jmp};
use crate::linked::MAX_INSNS;
use crate::map::MapDef;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Where a jump leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Label {
    /// To the bytecode at an offset of the expression of that number.
    Bytecode(usize, usize),
    /// Behind that expression.
    After(usize),
    /// To what is done where a condition was true.
    Hit,
}

/// What a bytecode makes of two values.
#[derive(Clone, Copy)]
enum Binary {
    /// What an arithmetic instruction does.
    Alu(u8),
    /// What a shift does, by the low bits of the second.
    Shift(u8),
    /// A division, signed where the number is 1, as in the offset of an instruction.
    Divide(u8, i16),
    /// Whether a jump instruction would jump, as 1 or 0.
    Compare(u8),
}

/// Finished code: instructions, maps, and where the instructions of each bytecode begin.
pub(super) type Code = (Vec<Insn>, Vec<MapDef>, Vec<(usize, Place)>);

pub(super) struct Emitter<'a> {
    registers: &'a dyn Registers,
    insns: Vec<Insn>,
    texts: Texts,
    operands: Operands,
    labels: BTreeMap<Label, usize>,
    jumps: Vec<(usize, Label)>,
    places: Vec<(usize, Place)>,
    /// The number of the expression.
    expression: usize,
}

impl<'a> Emitter<'a> {
    pub(super) fn new(registers: &'a dyn Registers) -> Self {
        Self {
            registers,
            insns: Vec::new(),
            texts: Texts::default(),
            operands: Operands::default(),
            labels: BTreeMap::new(),
            jumps: Vec::new(),
            places: Vec::new(),
            expression: 0,
        }
    }

    /// The program of these expressions, the conditions first.
    pub(super) fn program(mut self, expressions: &[Expression<'_>]) -> Result<Code, Refused> {
        let of = |purpose| move |it: &&Expression<'_>| it.purpose == purpose;
        let conditions = expressions
            .iter()
            .take_while(of(Purpose::Condition))
            .count();
        self.insns.push(mov(R6, R1));
        for (number, expression) in expressions.iter().enumerate() {
            if number == conditions {
                self.decide(conditions);
            }
            self.expression = number;
            let refused = |wrong: Wrong| Refused {
                purpose: expression.purpose,
                opcode: wrong.opcode,
                offset: wrong.offset,
                reason: wrong.reason,
            };
            if number >= MAX_EXPRESSIONS {
                return Err(refused(flow::wrong(0, Reason::TooMany)));
            }
            self.one(expression).map_err(refused)?;
            self.bind(Label::After(number));
            if self.insns.len() > MAX_INSNS {
                return Err(refused(flow::wrong(0, Reason::TooMany)));
            }
        }
        if expressions.len() == conditions {
            self.decide(conditions);
        }
        let goes_on = expressions.iter().any(|it| it.purpose == Purpose::Command);
        let result = mov_imm(R0, i32::from(!goes_on));
        self.insns.extend([result, exit()]);
        self.link().map_err(|reason| Refused {
            purpose: expressions
                .first()
                .map_or(Purpose::Condition, |it| it.purpose),
            opcode: None,
            offset: 0,
            reason,
        })?;
        let maps = self.texts.into_map().into_iter().collect();
        Ok((self.insns, maps, self.places))
    }

    /// Behind the conditions, of which none was true. What comes next is for where one was.
    fn decide(&mut self, conditions: usize) {
        if conditions > 0 {
            self.insns.extend([mov_imm(R0, 0), exit()]);
        }
        self.bind(Label::Hit);
    }

    fn bind(&mut self, label: Label) {
        self.labels.insert(label, self.insns.len());
    }

    /// A jump whose offset is still to be known.
    fn jump(&mut self, jump: Insn, label: Label) {
        self.jumps.push((self.insns.len(), label));
        self.insns.push(jump);
    }

    fn jump_always(&mut self, label: Label) {
        self.jump(jump_imm(jmp::JA, 0, 0, 0), label);
    }

    /// Gives the jumps their offsets.
    fn link(&mut self) -> Result<(), Reason> {
        for (at, label) in &self.jumps {
            let target = self.labels.get(label).copied().ok_or(Reason::TooMany)?;
            let distance = target as i64 - *at as i64 - 1;
            self.insns[*at].off = i16::try_from(distance).map_err(|_| Reason::TooMany)?;
        }
        Ok(())
    }

    fn one(&mut self, expression: &Expression<'_>) -> Result<(), Wrong> {
        let steps = flow::steps(expression.code, expression.purpose)?;
        self.operands = Operands::default();
        let mut arrives = true;
        for (index, step) in steps.iter().enumerate() {
            if arrives && step.is_target {
                self.operands.flush(&mut self.insns);
            }
            if !arrives {
                self.operands = Operands::in_frame(step.depth);
            }
            let place = self.place(step);
            self.places.push((self.insns.len(), place));
            self.bind(Label::Bytecode(self.expression, step.offset));
            if step.opcode == Opcode::End {
                self.end(expression.purpose, index + 1 == steps.len());
            } else {
                self.step(step)?;
            }
            arrives = step.falls_through();
        }
        Ok(())
    }

    fn place(&self, step: &Step<'_>) -> Place {
        Place {
            expression: self.expression as u8,
            opcode: step.opcode,
            offset: step.offset as u16,
        }
    }

    fn end(&mut self, purpose: Purpose, is_last: bool) {
        if purpose == Purpose::Condition {
            let value = self.operands.pop_register(&mut self.insns);
            self.jump(jump_imm(jmp::JNE, value, 0, 0), Label::Hit);
        }
        if !is_last {
            self.jump_always(Label::After(self.expression));
        }
    }

    fn step(&mut self, step: &Step<'_>) -> Result<(), Wrong> {
        let operand = step.operand;
        match step.opcode {
            Opcode::Add => self.binary(step, Binary::Alu(operation::ADD)),
            Opcode::Sub => self.binary(step, Binary::Alu(operation::SUB)),
            Opcode::Mul => self.binary(step, Binary::Alu(operation::MUL)),
            Opcode::BitAnd => self.binary(step, Binary::Alu(operation::AND)),
            Opcode::BitOr => self.binary(step, Binary::Alu(operation::OR)),
            Opcode::BitXor => self.binary(step, Binary::Alu(operation::XOR)),
            Opcode::Lsh => self.binary(step, Binary::Shift(operation::LSH)),
            Opcode::RshSigned => self.binary(step, Binary::Shift(operation::ARSH)),
            Opcode::RshUnsigned => self.binary(step, Binary::Shift(operation::RSH)),
            Opcode::DivSigned => self.binary(step, Binary::Divide(operation::DIV, 1)),
            Opcode::DivUnsigned => self.binary(step, Binary::Divide(operation::DIV, 0)),
            Opcode::RemSigned => self.binary(step, Binary::Divide(operation::MOD, 1)),
            Opcode::RemUnsigned => self.binary(step, Binary::Divide(operation::MOD, 0)),
            Opcode::Equal => self.binary(step, Binary::Compare(jmp::JEQ)),
            Opcode::LessSigned => self.binary(step, Binary::Compare(jmp::JSLT)),
            Opcode::LessUnsigned => self.binary(step, Binary::Compare(jmp::JLT)),
            Opcode::LogNot => {
                self.operands.push(Operand::Constant(0));
                self.binary(step, Binary::Compare(jmp::JEQ));
            }
            Opcode::BitNot => {
                self.operands.push(Operand::Constant(u64::MAX));
                self.binary(step, Binary::Alu(operation::XOR));
            }
            Opcode::Ext => self.extend(operand, operation::ARSH),
            Opcode::ZeroExt => self.extend(operand, operation::RSH),
            Opcode::Const8 | Opcode::Const16 | Opcode::Const32 | Opcode::Const64 => {
                self.operands.push(Operand::Constant(operand));
            }
            Opcode::Dup => self.pick(0),
            Opcode::Pick => self.pick(operand as usize),
            Opcode::Pop => {
                let value = self.operands.pop();
                self.operands.free(value);
            }
            Opcode::Swap => self.reorder([1, 0]),
            // a b c become c a b: what gdbserver does, and GDB's own values rely on.
            Opcode::Rot => self.reorder([2, 0, 1]),
            Opcode::Reg => self.register(step)?,
            Opcode::Ref8 => self.reference(step, 1),
            Opcode::Ref16 => self.reference(step, 2),
            Opcode::Ref32 => self.reference(step, 4),
            Opcode::Ref64 => self.reference(step, 8),
            Opcode::IfGoto => {
                let value = self.operands.pop_register(&mut self.insns);
                self.operands.flush(&mut self.insns);
                self.operands.free(Operand::Register(value));
                let target = Label::Bytecode(self.expression, operand as usize);
                self.jump(jump_imm(jmp::JNE, value, 0, 0), target);
            }
            Opcode::Goto => {
                self.operands.flush(&mut self.insns);
                self.jump_always(Label::Bytecode(self.expression, operand as usize));
            }
            Opcode::Getv => self.ask(step, Helper::AgentVariable),
            Opcode::Setv => self.set_variable(step),
            Opcode::Tracev => self.call(step, Helper::AgentCollectVariable, &[operand]),
            Opcode::Trace => self.collect(step, Helper::AgentCollect),
            Opcode::Tracenz => self.collect(step, Helper::AgentCollectString),
            Opcode::TraceQuick | Opcode::Trace16 => {
                self.pick(0);
                self.operands.push(Operand::Constant(operand));
                self.collect(step, Helper::AgentCollect);
            }
            Opcode::Printf => self.printf(step)?,
            // `flow` has refused the floating ones, and `one` serves the end.
            Opcode::End
            | Opcode::Float
            | Opcode::RefFloat
            | Opcode::RefDouble
            | Opcode::RefLongDouble
            | Opcode::LToD
            | Opcode::DToL => return Err(step.wrong(Reason::FloatingPoint)),
        }
        Ok(())
    }

    fn binary(&mut self, step: &Step<'_>, binary: Binary) {
        let second = self.operands.pop();
        let below = self.operands.depth();
        let first = self.operands.pop_register(&mut self.insns);
        // An immediate, or a register.
        let short = match second {
            Operand::Constant(value) => immediate(value),
            _ => None,
        };
        let second_register = match second {
            Operand::Register(register) => register,
            _ => R1,
        };
        if short.is_none() && second_register == R1 {
            self.operands.load(&mut self.insns, second, below, R1);
        }
        match (binary, short) {
            (Binary::Alu(op), Some(value)) => self.insns.push(alu_imm(op, first, value)),
            (Binary::Alu(op), None) => self.insns.push(alu(op, first, second_register)),
            (Binary::Shift(op), Some(value)) => {
                self.insns.push(alu_imm(op, first, value & 63));
            }
            (Binary::Shift(op), None) => self.insns.push(alu(op, first, second_register)),
            (Binary::Divide(..), Some(0)) => self.fail(step),
            (Binary::Divide(op, sign), Some(value)) => {
                let code = class::ALU64 | op;
                self.insns.push(insn(code, first, 0, sign, value));
            }
            (Binary::Divide(op, sign), None) => {
                // Over what `fail` emits.
                self.insns.push(jump_imm(jmp::JNE, second_register, 0, 3));
                self.fail(step);
                let code = class::ALU64 | op | X;
                self.insns.push(insn(code, first, second_register, sign, 0));
            }
            (Binary::Compare(op), short) => {
                self.insns.extend([mov(R0, first), mov_imm(first, 1)]);
                self.insns.push(match short {
                    Some(value) => jump_imm(op, R0, value, 1),
                    None => insn(class::JMP | op | X, R0, second_register, 1, 0),
                });
                self.insns.push(mov_imm(first, 0));
            }
        }
        self.operands.free(second);
        self.operands.push(Operand::Register(first));
    }

    /// Ends the run: the divisor is 0.
    fn fail(&mut self, step: &Step<'_>) {
        let place = self.place(step).to_word();
        let failed = [mov_imm(R1, place), call(Helper::AgentFail), exit()];
        self.insns.extend(failed);
    }

    /// Extends the top from so many bits, by shifting it back with `shift`.
    fn extend(&mut self, bits: u64, shift: u8) {
        if bits >= 64 {
            return;
        }
        if let Operand::Constant(value) = self.operands.peek(0) {
            self.operands.pop();
            self.operands
                .push(Operand::Constant(extended(value, bits, shift)));
            return;
        }
        let value = self.operands.pop_register(&mut self.insns);
        match (bits, shift) {
            (0, _) => self.insns.push(mov_imm(value, 0)),
            (8 | 16 | 32, operation::ARSH) => {
                let code = class::ALU64 | operation::MOV | X;
                self.insns.push(insn(code, value, value, bits as i16, 0));
            }
            (32, _) => {
                let code = class::ALU | operation::MOV | X;
                self.insns.push(insn(code, value, value, 0, 0));
            }
            _ => {
                let distance = 64 - bits as i32;
                let left = alu_imm(operation::LSH, value, distance);
                self.insns.extend([left, alu_imm(shift, value, distance)]);
            }
        }
        self.operands.push(Operand::Register(value));
    }

    /// Pushes a copy of the value so far below the top.
    fn pick(&mut self, from_top: usize) {
        if let constant @ Operand::Constant(_) = self.operands.peek(from_top) {
            return self.operands.push(constant);
        }
        let register = self.operands.reserve(&mut self.insns);
        self.operands.copy(&mut self.insns, from_top, register);
        self.operands.push(Operand::Register(register));
    }

    /// Puts the topmost values in another order: `order` says for each, from the lowest on, which one it was.
    fn reorder<const N: usize>(&mut self, order: [usize; N]) {
        let mut values = [0; N];
        for value in values.iter_mut().rev() {
            *value = self.operands.pop_register(&mut self.insns);
        }
        for from in order {
            self.operands.push(Operand::Register(values[from]));
        }
    }

    fn register(&mut self, step: &Step<'_>) -> Result<(), Wrong> {
        let number = step.operand as u16;
        match self.registers.register(number) {
            None => Err(step.wrong(Reason::NoSuchRegister(number))),
            Some(Register::Unavailable(name)) => Err(step.wrong(Reason::Register(name))),
            Some(Register::Machine(number)) => {
                self.call(step, Helper::AgentRegister, &[number.into()]);
                self.push_result();
                Ok(())
            }
            Some(Register::Context { word, bits }) => {
                let register = self.operands.reserve(&mut self.insns);
                self.insns.push(load(register, R6, 8 * i16::from(word)));
                self.operands.push(Operand::Register(register));
                self.extend(bits.into(), operation::RSH);
                Ok(())
            }
        }
    }

    /// Reads from the guest at the address on top.
    fn reference(&mut self, step: &Step<'_>, length: u64) {
        self.pop_argument(R1);
        set(&mut self.insns, R2, length);
        self.call_with_place(step, Helper::AgentRead, R3);
        self.push_result();
    }

    fn set_variable(&mut self, step: &Step<'_>) {
        self.operands.copy(&mut self.insns, 0, R2);
        set(&mut self.insns, R1, step.operand);
        self.call_with_place(step, Helper::AgentSetVariable, R3);
    }

    /// Pushes what a helper says of the number in the operand.
    fn ask(&mut self, step: &Step<'_>, helper: Helper) {
        self.call(step, helper, &[step.operand]);
        self.push_result();
    }

    /// Collects memory at the address below the length on top.
    fn collect(&mut self, step: &Step<'_>, helper: Helper) {
        self.pop_argument(R2);
        self.pop_argument(R1);
        self.call_with_place(step, helper, R3);
    }

    fn printf(&mut self, step: &Step<'_>) -> Result<(), Wrong> {
        let count = step.operand as usize;
        let text = self.texts.add(step.text, count);
        let (text, length) = text.map_err(|error| step.wrong(Reason::Format(error)))?;
        // What function to print with, and where: there is one way, and one place.
        for _ in 0..2 {
            let value = self.operands.pop();
            self.operands.free(value);
        }
        self.operands.flush(&mut self.insns);
        let first = place(self.operands.depth().saturating_sub(1));
        self.insns.extend(map_value(R1, Texts::MAP, text as i32));
        self.insns.push(mov_imm(R2, length as i32));
        if count == 0 {
            self.insns.push(mov_imm(R3, 0));
        } else {
            self.insns.push(mov(R3, FP));
            self.insns.push(alu_imm(operation::ADD, R3, first.into()));
        }
        self.insns.push(mov_imm(R4, 8 * count as i32));
        self.call_with_place(step, Helper::AgentPrintf, R5);
        for _ in 0..count {
            self.operands.pop();
        }
        Ok(())
    }

    /// Takes the top away, as the argument of a call.
    fn pop_argument(&mut self, register: u8) {
        let value = self.operands.pop();
        let below = self.operands.depth();
        self.operands.load(&mut self.insns, value, below, register);
        self.operands.free(value);
    }

    /// Calls a helper with numbers, and with the place behind them.
    fn call(&mut self, step: &Step<'_>, helper: Helper, numbers: &[u64]) {
        let mut registers = R1..;
        for (register, number) in registers.by_ref().zip(numbers) {
            set(&mut self.insns, register, *number);
        }
        self.call_with_place(step, helper, R1 + numbers.len() as u8);
    }

    /// Calls a helper whose last argument is the place.
    fn call_with_place(&mut self, step: &Step<'_>, helper: Helper, register: u8) {
        let place = self.place(step).to_word();
        self.insns.extend([mov_imm(register, place), call(helper)]);
    }

    fn push_result(&mut self) {
        let register = self.operands.reserve(&mut self.insns);
        self.insns.push(mov(register, R0));
        self.operands.push(Operand::Register(register));
    }
}

/// What [`Emitter::extend`] makes of a constant.
fn extended(value: u64, bits: u64, shift: u8) -> u64 {
    let Some(distance) = 64_u32.checked_sub(bits as u32).filter(|_| bits > 0) else {
        return 0;
    };
    let left = value << distance;
    if shift == operation::ARSH {
        (left as i64 >> distance) as u64
    } else {
        left >> distance
    }
}
