//! Calls of helpers and of subprograms, and returns.

use super::access::{Reach, is_constant};
use super::callback::Calls;
use super::domain::Bits;
use super::reason::Reason;
use super::stack::Certainty;
use super::state::{Frame, Reference, State};
use super::value::{Kind, Pointer, Scalar, Value};
use super::verifier::{Flow, Verifier};
use crate::decode::Step;
use crate::helper::{Argument, Helper, Returned};
use crate::map::Mutability;
use crate::object::Access;
use crate::stack::MAX_FRAMES;

/// Sizes that helpers take are below this (Linux: `BPF_MAX_VAR_SIZ`).
const MAX_SIZE: u64 = 1 << 29;

/// What the arguments so far say of those that follow, and of the result
/// (`bpf_call_arg_meta`).
#[derive(Default)]
struct Call {
    map: Option<u16>,
    wanted: u32,
    /// The first instruction of the function that the helper calls.
    function: Option<u32>,
}

/// Whether the program may end here.
fn check_tail_call(state: &State) -> Result<(), Reason> {
    if state.depth() > 0 {
        return Err(Reason::TailCallInFunction);
    }
    match state.references.first() {
        Some(reference) => Err(Reason::NotReleased(reference.insn)),
        None => Ok(()),
    }
}

impl Verifier<'_> {
    pub(super) fn call_helper(&mut self, state: &mut State, helper: Helper) -> Result<(), Reason> {
        if helper.is_about_arguments() && self.environment.signature.is_none() {
            return Err(Reason::NoArguments(helper));
        }
        let prototype = helper.prototype();
        let mut call = Call::default();
        for (register, &argument) in (1..).zip(&prototype.arguments) {
            self.argument(state, &mut call, register, argument, &prototype.arguments)?;
        }
        if helper == Helper::TailCall {
            check_tail_call(state)?;
        }
        if let Some(entry) = call.function {
            let calls = match call.map {
                Some(map) => Calls::ForEach { map },
                None => Calls::Loop,
            };
            self.call_back(state, entry as usize, calls)?;
        }
        for register in 0..=5 {
            state.set(register, Value::Unset);
        }
        let result = match prototype.returned {
            Returned::Nothing => Value::Unset,
            Returned::Scalar => Value::UNKNOWN,
            Returned::GuestAddress => Scalar::GUEST.into(),
            Returned::MapValueOrNull => {
                let map = call.map.ok_or(Reason::Internal)?;
                Pointer {
                    nullable: Some(self.new_id()),
                    ..Pointer::to(Kind::MapValue { map })
                }
                .into()
            }
            Returned::ReservedOrNull => {
                let id = self.new_id();
                let insn = state.pc;
                state.references.push(Reference { id, insn });
                Pointer {
                    nullable: Some(id),
                    reference: Some(id),
                    ..Pointer::to(Kind::Memory { size: call.wanted })
                }
                .into()
            }
        };
        state.set(0, result);
        Ok(())
    }

    /// Checks what a helper is given in a register (`check_func_arg`).
    fn argument(
        &mut self,
        state: &mut State,
        call: &mut Call,
        register: u8,
        argument: Argument,
        all: &[Argument; 5],
    ) -> Result<(), Reason> {
        if argument == Argument::Unused {
            return Ok(());
        }
        let value = self.read(state, register)?;
        match argument {
            Argument::Unused | Argument::Any => {}
            Argument::Map(purpose) => {
                let Value::Pointer(Pointer {
                    kind: Kind::Map { map },
                    ..
                }) = value
                else {
                    return Err(Reason::Argument(register, "a map"));
                };
                let definition = self.map(map)?;
                if !purpose.takes(definition.kind) {
                    return Err(Reason::MapKind(definition.kind.name()));
                }
                if purpose.changes() && definition.mutability == Mutability::Frozen {
                    return Err(Reason::FrozenMap);
                }
                call.map = Some(map);
            }
            Argument::Key | Argument::Value => {
                let map = self.map(call.map.ok_or(Reason::Internal)?)?;
                let size = match argument {
                    Argument::Key => map.key_size,
                    _ => map.value_size,
                };
                self.read_memory(state, register, size as usize)?;
            }
            Argument::WordWritten => {
                self.write_memory(state, register, 8, Certainty::Certain)?;
            }
            // The size behind it says how much.
            Argument::ValueWritten => {
                let map = self.map(call.map.ok_or(Reason::Internal)?)?;
                let size = map.value_size as usize;
                self.write_memory(state, register, size, Certainty::Certain)?;
            }
            Argument::Read | Argument::ReadOrNull | Argument::Write | Argument::WriteOrNull => {}
            Argument::Text => self.text(state, register)?,
            Argument::Context => {
                let is_context = matches!(value, Value::Pointer(pointer)
                    if pointer.kind == Kind::Context && pointer.constant_offset(0) == Some(0));
                if !is_context {
                    return Err(Reason::Argument(register, "the context"));
                }
            }
            Argument::Size | Argument::SizeOrZero => {
                let memory = all[usize::from(register) - 2];
                self.sized_memory(state, register, memory, argument)?;
            }
            Argument::Wanted => {
                let wanted = match value {
                    Value::Scalar(scalar) => {
                        self.demand(state, &scalar);
                        scalar.bounds.as_constant()
                    }
                    _ => None,
                };
                call.wanted = wanted
                    .and_then(|wanted| u32::try_from(wanted).ok())
                    .filter(|&wanted| u64::from(wanted) < MAX_SIZE)
                    .ok_or(Reason::Argument(register, "a constant size"))?;
            }
            Argument::Reserved => self.release(state, register, value)?,
            Argument::Function => match value {
                Value::Pointer(Pointer {
                    kind: Kind::Function { entry },
                    ..
                }) => call.function = Some(entry),
                _ => return Err(Reason::Argument(register, "a function of the program")),
            },
            Argument::StackOrNull => {
                let fits = match value {
                    Value::Pointer(pointer) => matches!(pointer.kind, Kind::Stack { .. }),
                    Value::Scalar(scalar) => {
                        self.demand(state, &scalar);
                        scalar.is_zero(Bits::B64)
                    }
                    Value::Unset => false,
                };
                if !fits {
                    return Err(Reason::Argument(
                        register,
                        "an address on the stack, or null",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Memory and its size, in the register before and in `register` (`check_mem_size_reg`).
    fn sized_memory(
        &mut self,
        state: &mut State,
        register: u8,
        memory: Argument,
        size: Argument,
    ) -> Result<(), Reason> {
        let Value::Scalar(scalar) = self.read(state, register)? else {
            return Err(Reason::Argument(register, "a size"));
        };
        self.demand(state, &scalar);
        let bounds = scalar.bounds;
        if bounds.smin() < 0 || bounds.umax() >= MAX_SIZE {
            return Err(Reason::SizeUnbounded(register));
        }
        if bounds.umin() == 0 && size == Argument::Size {
            return Err(Reason::SizeMayBeZero(register));
        }
        let pointer = register - 1;
        let is_null = matches!(self.read(state, pointer)?,
            Value::Scalar(scalar) if scalar.is_zero(Bits::B64));
        if is_null {
            // Nothing of nothing is allowed to those that take it.
            if let Value::Scalar(null) = state.peek(pointer) {
                self.demand(state, &null);
            }
            let takes_null = matches!(memory, Argument::ReadOrNull | Argument::WriteOrNull);
            return if takes_null && bounds.umax() == 0 {
                Ok(())
            } else {
                Err(Reason::Argument(pointer, "memory"))
            };
        }
        let most = bounds.umax() as usize;
        if !matches!(memory, Argument::Write | Argument::WriteOrNull) {
            return self.read_memory(state, pointer, most);
        }
        let certainty = match bounds.as_constant() {
            Some(_) => Certainty::Certain,
            None => Certainty::Possible,
        };
        self.write_memory(state, pointer, most, certainty)
    }

    /// A helper writes `size` bytes of memory, all of them for certain or perhaps not.
    fn write_memory(
        &mut self,
        state: &mut State,
        register: u8,
        size: usize,
        certainty: Certainty,
    ) -> Result<(), Reason> {
        let reach = self.memory(state, register, size, Access::Write)?;
        if let Some((frame, offsets)) = reach.on_stack() {
            // Where it is not certain to be written, what was there may be read later.
            let certainty = match reach.certainty {
                Certainty::Certain => certainty,
                Certainty::Possible => Certainty::Possible,
            };
            self.scribble(state, frame, offsets, certainty);
        }
        Ok(())
    }

    /// A string that never changes, with its NUL (`check_reg_const_str`).
    fn text(&mut self, state: &mut State, register: u8) -> Result<(), Reason> {
        let wanted = Reason::Argument(register, "a string in a read-only map");
        let Value::Pointer(pointer) = self.read(state, register)? else {
            return Err(wanted);
        };
        let Kind::MapValue { map } = pointer.kind else {
            return Err(wanted);
        };
        let reach = self.memory(state, register, 1, Access::Read)?;
        if reach.certainty == Certainty::Possible {
            return Err(wanted);
        }
        let map = self.map(map)?;
        let text = map.initial.get(reach.offsets.start as usize..);
        match text {
            Some(text) if is_constant(map) && text.contains(&0) => Ok(()),
            _ => Err(wanted),
        }
    }

    /// A helper reads `size` bytes of memory.
    fn read_memory(&mut self, state: &mut State, register: u8, size: usize) -> Result<(), Reason> {
        let reach = self.memory(state, register, size, Access::Read)?;
        if let Some((frame, offsets)) = reach.on_stack() {
            self.read_stack(state, frame, offsets);
        }
        Ok(())
    }

    /// Memory that a helper is given (`check_helper_mem_access`).
    fn memory(
        &mut self,
        state: &mut State,
        register: u8,
        size: usize,
        access: Access,
    ) -> Result<Reach, Reason> {
        let is_memory = matches!(self.read(state, register)?, Value::Pointer(pointer)
            if !matches!(pointer.kind, Kind::Map { .. } | Kind::Function { .. }));
        if !is_memory {
            return Err(Reason::Argument(
                register,
                "memory: stack or a value of a map",
            ));
        }
        self.reach(state, register, 0, size, access)
    }

    /// Takes back what a helper gave (`release_reference`).
    fn release(&mut self, state: &mut State, register: u8, value: Value) -> Result<(), Reason> {
        let wanted = Reason::Argument(register, "what was reserved, unchanged and not null");
        let Value::Pointer(pointer) = value else {
            return Err(wanted);
        };
        let id = pointer.reference.ok_or(wanted)?;
        if pointer.nullable.is_some() || pointer.constant_offset(0) != Some(0) {
            return Err(wanted);
        }
        let kept = state.references_before_callback();
        let is_it = |reference: &Reference| reference.id == id;
        let place = state.references.iter().position(is_it).ok_or(wanted)?;
        if place < kept {
            return Err(Reason::ReleasedInCallback);
        }
        state.references.remove(place);
        for value in state.values_mut() {
            let is_gone = matches!(value, Value::Pointer(pointer) if pointer.reference == Some(id));
            if is_gone {
                *value = Value::UNKNOWN;
            }
        }
        Ok(())
    }

    /// Enters a subprogram.
    pub(super) fn call(&mut self, state: &mut State, step: Step) -> Result<Flow, Reason> {
        let entry = step.argument as usize;
        let function = self.functions.at(entry).ok_or(Reason::Internal)?;
        // The structure's check knows every chain of calls.
        if state.frames.len() >= MAX_FRAMES {
            return Err(Reason::CallDepth);
        }
        let mut frame = Frame::new(function, state.pc + 1);
        for register in 1..=5 {
            // What the function does not read does not matter.
            if state.peek(register) != Value::Unset {
                frame.registers[usize::from(register)] = self.read(state, register)?;
            }
        }
        for register in 0..=5 {
            state.set(register, Value::Unset);
        }
        state.enter(frame);
        state.trail.push(state.pc, entry);
        state.pc = entry;
        Ok(Flow::On)
    }

    /// Leaves a function, or ends the program.
    pub(super) fn leave(&mut self, state: &mut State) -> Result<Flow, Reason> {
        let is_subprogram = state.frames.len() > 1;
        // A function that returns nothing leaves nothing in r0.
        let result = match state.peek(0) {
            Value::Unset if is_subprogram && state.frame().callback.is_none() => Value::Unset,
            _ => self.read(state, 0)?,
        };
        if !is_subprogram {
            return match state.references.first() {
                Some(reference) => Err(Reason::NotReleased(reference.insn)),
                None => Ok(Flow::End),
            };
        }
        if matches!(
            result,
            Value::Pointer(Pointer {
                kind: Kind::Stack { .. },
                ..
            })
        ) {
            return Err(Reason::StackPointerEscapes);
        }
        let here = state.pc;
        if state.frame().callback.is_some() {
            self.come_back(state, result)?;
            return Ok(Flow::On);
        }
        let left = state.frames.pop().ok_or(Reason::Internal)?;
        state.set(0, result);
        state.trail.push(here, left.return_to);
        state.pc = left.return_to;
        Ok(Flow::On)
    }
}
