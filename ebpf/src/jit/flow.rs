//! What each register holds at each instruction, as far as the compiler has to know it.
//!
//! The context is not in the arena: which loads go to it must be known when a program is compiled,
//! as it must in Linux, whose verifier refuses an instruction that is used with two kinds of
//! pointers. Constant distances from the frame pointer and map handles are followed too, because
//! they make better code. And no register is read that nothing was written to: it would hold what
//! the hypervisor left there.
//!
//! This is no verifier. What it cannot follow, such as a context pointer that goes through memory,
//! is not compiled, and interpreted instead.

use super::CompileError;
use crate::address::Place;
use crate::decode::{Alu, Fetch, IMMEDIATE, Op, Step, decode_atomic};
use crate::helper::Helper;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Value {
    /// What was there before: not the program's.
    Uninitialized,
    /// A number, or an address in the arena.
    Number,
    /// The address of that byte of the context.
    Context(i32),
    /// The frame pointer of this function and a distance.
    Frame(i32),
    /// The handle of that map.
    Map(usize),
    /// The function of the program that begins there.
    Function(usize),
    /// A number made of an address in the context, or one of these and something else: nobody can
    /// say which memory it means.
    Mixed,
}

impl Value {
    /// What it is where two ways meet.
    fn join(self, other: Self) -> Self {
        match (self, other) {
            _ if self == other => self,
            (Self::Uninitialized, _) | (_, Self::Uninitialized) => Self::Uninitialized,
            _ if self.is_of_context() || other.is_of_context() => Self::Mixed,
            _ => Self::Number,
        }
    }

    /// Whether it was made of an address in the context.
    fn is_of_context(self) -> bool {
        matches!(self, Self::Context(_) | Self::Mixed)
    }

    /// What is `distance` further; distances that nobody needs are numbers.
    fn plus(self, distance: i64) -> Self {
        let moved = |offset: i32| {
            let moved = i64::from(offset) + distance;
            i32::try_from(moved)
                .ok()
                .filter(|moved| moved.unsigned_abs() < 1 << 16)
        };
        match self {
            Self::Context(offset) => moved(offset).map_or(Self::Mixed, Self::Context),
            Self::Frame(offset) => moved(offset).map_or(Self::Number, Self::Frame),
            _ => self.arithmetic(Self::Number),
        }
    }

    /// What any operation makes of two operands.
    fn arithmetic(self, other: Self) -> Self {
        if self.is_of_context() || other.is_of_context() {
            Self::Mixed
        } else {
            Self::Number
        }
    }

    /// What a function that is called makes of an argument.
    fn as_argument(self) -> Self {
        match self {
            Self::Frame(_) => Self::Number,
            other => other,
        }
    }
}

/// What r0 to r10 hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State([Value; 11]);

impl State {
    /// At the entry of a function that is given `arguments`, r1 to r5.
    fn entry(arguments: [Value; 5]) -> Self {
        let mut state = Self::unknown();
        state.0[1..6].copy_from_slice(&arguments);
        state.0[10] = Value::Frame(0);
        state
    }

    /// Before anything is known.
    pub(super) fn unknown() -> Self {
        Self([Value::Uninitialized; 11])
    }

    fn join(self, other: Self) -> Self {
        Self(core::array::from_fn(|register| {
            self.0[register].join(other.0[register])
        }))
    }

    /// What a register holds.
    pub(super) fn get(&self, register: u8) -> Value {
        match self.0.get(usize::from(register)) {
            Some(&value) => value,
            // The register of the immediate.
            None => Value::Number,
        }
    }

    fn read(&self, register: u8) -> Result<Value, CompileError> {
        match self.get(register) {
            Value::Uninitialized => Err(CompileError::Uninitialized(register)),
            value => Ok(value),
        }
    }

    fn set(&mut self, register: u8, value: Value) {
        if let Some(place) = self.0.get_mut(usize::from(register)) {
            *place = value;
        }
    }

    /// After a call: a result, and what the arguments were is lost.
    fn return_from_call(&mut self) {
        self.0[0] = Value::Number;
        self.0[1..6].fill(Value::Uninitialized);
    }
}

/// The states at the beginning of every piece of code that control can enter otherwise than from
/// the instruction before. Pieces that nothing leads to are not there.
#[derive(Debug)]
pub(super) struct Flow(BTreeMap<usize, State>);

impl Flow {
    /// Follows a program that has passed the structural checks of [`crate::verify`].
    pub(super) fn of(steps: &[Step]) -> Result<Self, (usize, CompileError)> {
        let functions = steps.iter().filter(|step| step.op == Op::Function);
        let functions = functions.map(|step| step.argument as usize);
        let jumps = steps.iter().filter_map(jump_target);
        let targets: BTreeSet<usize> = jumps.chain(functions).collect();
        let mut arguments = [Value::Uninitialized; 5];
        arguments[0] = Value::Context(0);
        let mut flow = Self(BTreeMap::new());
        let mut waiting = Vec::new();
        flow.enter(0, State::entry(arguments), &mut waiting);
        // Every register changes at most three times at a place, so this ends.
        while let Some(start) = waiting.pop() {
            flow.follow(steps, &targets, start, &mut waiting)?;
        }
        Ok(flow)
    }

    /// What the registers hold where control enters at `index`.
    pub(super) fn at(&self, index: usize) -> Option<State> {
        self.0.get(&index).copied()
    }

    /// Follows the steps from `start` to the next place where control also comes from elsewhere.
    fn follow(
        &mut self,
        steps: &[Step],
        targets: &BTreeSet<usize>,
        start: usize,
        waiting: &mut Vec<usize>,
    ) -> Result<(), (usize, CompileError)> {
        let Some(mut state) = self.at(start) else {
            return Ok(());
        };
        let mut index = start;
        while let Some(step) = steps.get(index) {
            let before = state;
            state.follow(step).map_err(|error| (index, error))?;
            if let Some((target, entering)) = leaving(step, &before) {
                self.enter(target, entering, waiting);
            }
            index += step.op.slots();
            if matches!(step.op, Op::Jump | Op::Exit) {
                break;
            }
            if targets.contains(&index) {
                self.enter(index, state, waiting);
                break;
            }
        }
        Ok(())
    }

    fn enter(&mut self, target: usize, state: State, waiting: &mut Vec<usize>) {
        let known = self.at(target);
        let joined = known.map_or(state, |known| known.join(state));
        if known != Some(joined) {
            self.0.insert(target, joined);
            waiting.push(target);
        }
    }
}

fn jump_target(step: &Step) -> Option<usize> {
    match step.op {
        Op::Jump | Op::JumpIf64(_) | Op::JumpIf32(_) | Op::Call => Some(step.argument as usize),
        _ => None,
    }
}

/// Where a step leads beside the next one, and what the registers hold there.
fn leaving(step: &Step, state: &State) -> Option<(usize, State)> {
    if let Op::Helper(helper) = step.op {
        return called_back(helper, state);
    }
    let target = jump_target(step)?;
    let entering = if step.op == Op::Call {
        State::entry([1, 2, 3, 4, 5].map(|register| state.get(register).as_argument()))
    } else {
        *state
    };
    Some((target, entering))
}

/// The function that a helper calls, and what its registers hold then.
fn called_back(helper: Helper, state: &State) -> Option<(usize, State)> {
    let argument = |register| state.get(register).as_argument();
    let context = argument(3);
    let [number, none] = [Value::Number, Value::Uninitialized];
    let arguments = match helper {
        Helper::Loop => [number, context, none, none, none],
        Helper::ForEachMapElem => [argument(1), number, number, context, none],
        _ => return None,
    };
    match state.get(2) {
        Value::Function(entry) => Some((entry, State::entry(arguments))),
        _ => None,
    }
}

impl State {
    /// What the registers hold after a step.
    pub(super) fn follow(&mut self, step: &Step) -> Result<(), CompileError> {
        match step.op {
            Op::Alu64(op) => self.follow_alu(step, op)?,
            Op::Alu32(op) => {
                let left = match op {
                    Alu::Mov | Alu::MovSigned(_) => Value::Number,
                    _ => self.read(step.dst)?,
                };
                let value = left.arithmetic(self.read(step.src)?);
                self.set(step.dst, value);
            }
            Op::Swap(_) | Op::Truncate(_) => {
                let value = self.read(step.dst)?.arithmetic(Value::Number);
                self.set(step.dst, value);
            }
            Op::Wide => self.set(step.dst, constant(step.immediate)),
            Op::Function => self.set(step.dst, Value::Function(step.argument as usize)),
            Op::Load(_) | Op::LoadSigned(_) => {
                dereferenced(self.read(step.src)?)?;
                self.set(step.dst, Value::Number);
            }
            Op::LoadGuest(_) | Op::LoadGuestSigned(_) => {
                if self.read(step.src)?.is_of_context() {
                    return Err(CompileError::Mixed);
                }
                self.set(step.dst, Value::Number);
            }
            Op::Store(_) => {
                written(self.read(step.dst)?)?;
                stored(self.read(step.src)?)?;
            }
            Op::Atomic(_) => self.follow_atomic(step)?,
            Op::Jump => {}
            Op::JumpIf64(_) | Op::JumpIf32(_) => {
                self.read(step.dst)?;
                self.read(step.src)?;
            }
            Op::Call => self.return_from_call(),
            Op::Helper(helper) => {
                for register in 1..=helper.prototype().count() {
                    self.read(register)?;
                }
                if helper.calls_back() && !matches!(self.get(2), Value::Function(_)) {
                    return Err(CompileError::Function);
                }
                self.return_from_call();
            }
            Op::Exit => stored(self.read(0)?)?,
            Op::Invalid => return Err(CompileError::Invalid),
        }
        Ok(())
    }

    fn follow_alu(&mut self, step: &Step, op: Alu) -> Result<(), CompileError> {
        let right = self.read(step.src)?;
        let distance = (step.src == IMMEDIATE).then_some(step.immediate as i64);
        let value = match (op, distance) {
            (Alu::Mov, _) => right,
            (Alu::MovSigned(_), _) => right.arithmetic(Value::Number),
            (Alu::Add, Some(distance)) => self.read(step.dst)?.plus(distance),
            (Alu::Sub, Some(distance)) => self.read(step.dst)?.plus(-distance),
            _ => self.read(step.dst)?.arithmetic(right),
        };
        self.set(step.dst, value);
        Ok(())
    }

    fn follow_atomic(&mut self, step: &Step) -> Result<(), CompileError> {
        let (_, fetch) = decode_atomic(step.immediate as i32).ok_or(CompileError::Invalid)?;
        written(self.read(step.dst)?)?;
        stored(self.read(step.src)?)?;
        match fetch {
            Fetch::No => {}
            Fetch::Source => self.set(step.src, Value::Number),
            Fetch::R0 => {
                self.read(0)?;
                self.set(0, Value::Number);
            }
        }
        Ok(())
    }
}

fn constant(value: u64) -> Value {
    match Place::parse(value) {
        Some(Place::Handle(map)) => Value::Map(map),
        // Nobody gives programs such constants, but they can be forged.
        Some(Place::Context(_)) => Value::Mixed,
        _ => Value::Number,
    }
}

/// What a load may go to.
fn dereferenced(value: Value) -> Result<(), CompileError> {
    match value {
        Value::Mixed => Err(CompileError::Mixed),
        _ => Ok(()),
    }
}

/// What a store may go to.
fn written(value: Value) -> Result<(), CompileError> {
    match value {
        Value::Context(_) => Err(CompileError::ContextWritten),
        other => dereferenced(other),
    }
}

/// What may be put where it is not followed further.
fn stored(value: Value) -> Result<(), CompileError> {
    if value.is_of_context() {
        Err(CompileError::ContextStored)
    } else {
        Ok(())
    }
}
