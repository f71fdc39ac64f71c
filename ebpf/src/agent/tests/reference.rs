//! An interpreter of the bytecode, written from the manual: what compiled programs are compared with.

use super::super::{Opcode, Purpose, Register, Registers};
use super::TestRegisters;
use crate::host::{Context, Host};
use crate::object::EvaluationError;
use alloc::vec::Vec;

/// How many bytecodes are executed at most.
const BUDGET: usize = 10_000;

/// What has come of an expression: the top of the stack at its end, if there is one, or the error and where.
pub(super) type Outcome = Result<Option<u64>, (usize, EvaluationError)>;

struct Machine<'a> {
    code: &'a [u8],
    pc: usize,
    stack: Vec<u64>,
}

impl Machine<'_> {
    fn number(&mut self, bytes: usize) -> u64 {
        let operand = &self.code[self.pc..self.pc + bytes];
        self.pc += bytes;
        operand
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn pop(&mut self) -> u64 {
        self.stack.pop().unwrap()
    }

    fn binary(&mut self, operation: impl FnOnce(u64, u64) -> u64) {
        let second = self.pop();
        let first = self.pop();
        self.stack.push(operation(first, second));
    }

    fn divide(&mut self, operation: impl FnOnce(u64, u64) -> u64) -> Result<(), EvaluationError> {
        if self.stack.last() == Some(&0) {
            return Err(EvaluationError::DivisionByZero);
        }
        self.binary(operation);
        Ok(())
    }

    fn read(&mut self, host: &dyn Host, length: usize) -> Result<(), EvaluationError> {
        let address = self.pop();
        let mut word = [0; 8];
        let read = host.read_guest(address, &mut word[..length]);
        read.map_err(|_| EvaluationError::Unreadable {
            address,
            length: length as u8,
        })?;
        self.stack.push(u64::from_le_bytes(word));
        Ok(())
    }
}

/// Evaluates an expression that can be compiled. `None`: it takes too long.
pub(super) fn evaluate(
    code: &[u8],
    purpose: Purpose,
    context: &Context,
    host: &dyn Host,
) -> Option<Outcome> {
    let mut machine = Machine {
        code,
        pc: 0,
        stack: Vec::new(),
    };
    for _ in 0..BUDGET {
        let at = machine.pc;
        let opcode = Opcode::from_byte(code[at]).unwrap();
        machine.pc += 1;
        if opcode == Opcode::End {
            let value = (purpose == Purpose::Condition).then(|| machine.pop());
            return Some(Ok(value));
        }
        if let Err(error) = step(&mut machine, opcode, context, host) {
            return Some(Err((at, error)));
        }
    }
    None
}

fn step(
    machine: &mut Machine<'_>,
    opcode: Opcode,
    context: &Context,
    host: &dyn Host,
) -> Result<(), EvaluationError> {
    let signed = |value: u64| value as i64;
    match opcode {
        Opcode::Add => machine.binary(u64::wrapping_add),
        Opcode::Sub => machine.binary(u64::wrapping_sub),
        Opcode::Mul => machine.binary(u64::wrapping_mul),
        Opcode::DivSigned => {
            machine.divide(|a, b| signed(a).wrapping_div(signed(b)) as u64)?;
        }
        Opcode::DivUnsigned => machine.divide(|a, b| a / b)?,
        Opcode::RemSigned => {
            machine.divide(|a, b| signed(a).wrapping_rem(signed(b)) as u64)?;
        }
        Opcode::RemUnsigned => machine.divide(|a, b| a % b)?,
        Opcode::Lsh => machine.binary(|a, b| a << (b % 64)),
        Opcode::RshSigned => machine.binary(|a, b| (signed(a) >> (b % 64)) as u64),
        Opcode::RshUnsigned => machine.binary(|a, b| a >> (b % 64)),
        Opcode::BitAnd => machine.binary(|a, b| a & b),
        Opcode::BitOr => machine.binary(|a, b| a | b),
        Opcode::BitXor => machine.binary(|a, b| a ^ b),
        Opcode::Equal => machine.binary(|a, b| (a == b).into()),
        Opcode::LessSigned => machine.binary(|a, b| (signed(a) < signed(b)).into()),
        Opcode::LessUnsigned => machine.binary(|a, b| (a < b).into()),
        Opcode::LogNot => {
            let value = machine.pop();
            machine.stack.push((value == 0).into());
        }
        Opcode::BitNot => {
            let value = machine.pop();
            machine.stack.push(!value);
        }
        Opcode::Ext | Opcode::ZeroExt => {
            let bits = machine.number(1);
            let value = machine.pop();
            let is_negative = (1..64).contains(&bits) && value >> (bits - 1) & 1 != 0;
            let low = match bits {
                0..64 => value & ((1 << bits) - 1),
                _ => value,
            };
            let high = match bits {
                0..64 => u64::MAX << bits,
                _ => 0,
            };
            let extends = opcode == Opcode::Ext && is_negative;
            machine.stack.push(if extends { low | high } else { low });
        }
        Opcode::Ref8 => machine.read(host, 1)?,
        Opcode::Ref16 => machine.read(host, 2)?,
        Opcode::Ref32 => machine.read(host, 4)?,
        Opcode::Ref64 => machine.read(host, 8)?,
        Opcode::IfGoto => {
            let target = machine.number(2) as usize;
            if machine.pop() != 0 {
                machine.pc = target;
            }
        }
        Opcode::Goto => machine.pc = machine.number(2) as usize,
        Opcode::Const8 | Opcode::Const16 | Opcode::Const32 | Opcode::Const64 => {
            let bytes = 1 << (opcode as usize - Opcode::Const8 as usize);
            let value = machine.number(bytes);
            machine.stack.push(value);
        }
        Opcode::Reg => {
            let number = machine.number(2) as u16;
            let value = match TestRegisters.register(number) {
                Some(Register::Context { word, bits: 64 }) => context[usize::from(word)],
                Some(Register::Context { word, .. }) => {
                    u64::from(context[usize::from(word)] as u32)
                }
                Some(Register::Machine(number)) => host.register(number).unwrap(),
                _ => unreachable!(),
            };
            machine.stack.push(value);
        }
        Opcode::Dup => {
            let value = *machine.stack.last().unwrap();
            machine.stack.push(value);
        }
        Opcode::Pop => {
            machine.pop();
        }
        Opcode::Swap => {
            let top = machine.stack.len() - 1;
            machine.stack.swap(top, top - 1);
        }
        Opcode::Pick => {
            let from_top = machine.number(1) as usize;
            let value = machine.stack[machine.stack.len() - 1 - from_top];
            machine.stack.push(value);
        }
        Opcode::Rot => {
            let from = machine.stack.len() - 3;
            machine.stack[from..].rotate_right(1);
        }
        Opcode::Getv => {
            let number = machine.number(2) as u16;
            let value = host.state_variable(number);
            machine
                .stack
                .push(value.ok_or(EvaluationError::NoVariable(number))?);
        }
        Opcode::Setv => {
            let number = machine.number(2) as u16;
            let value = *machine.stack.last().unwrap();
            let set = host.set_state_variable(number, value);
            set.ok_or(EvaluationError::NoVariable(number))?;
        }
        Opcode::Tracev => {
            let number = machine.number(2) as u16;
            let collected = host.collect_state_variable(number);
            collected.map_err(EvaluationError::NotCollected)?;
        }
        Opcode::Trace | Opcode::Tracenz => {
            let length = machine.pop();
            let address = machine.pop();
            let collected = if opcode == Opcode::Trace {
                host.collect(address, length)
            } else {
                host.collect_string(address, length)
            };
            collected.map_err(EvaluationError::NotCollected)?;
        }
        Opcode::TraceQuick | Opcode::Trace16 => {
            let length = machine.number(if opcode == Opcode::Trace16 { 2 } else { 1 });
            let address = *machine.stack.last().unwrap();
            let collected = host.collect(address, length);
            collected.map_err(EvaluationError::NotCollected)?;
        }
        _ => unreachable!("{opcode:?} is not compared"),
    }
    Ok(())
}
