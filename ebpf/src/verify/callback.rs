//! Functions that helpers call (`push_callback_call`, `prepare_func_exit`).
//!
//! Such a helper is followed as a loop whose rounds meet at its call. From there one path goes on as if
//! the helper were done, and another, later, through one round of the function and back to the call. It
//! ends there once a state of an earlier round includes its own. For that, numbers that differ between
//! two rounds and that nothing has depended on are forgotten (`widen_imprecise_scalars`); those that
//! something has depended on are followed round by round, as often as the helper may call.

use super::domain::Bounds;
use super::reason::Reason;
use super::state::{Callback, Frame, State};
use super::touched::Place;
use super::value::{Kind, Pointer, Scalar, Value};
use super::verifier::Verifier;
use crate::stack::MAX_FRAMES;

/// What a helper calls a function for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Calls {
    /// As often as r1 says.
    Loop,
    /// For each entry of a map.
    ForEach {
        /// The map's number.
        map: u16,
    },
}

impl Calls {
    /// The arguments of the function, of which the helper was given `context`
    /// (`set_loop_callback_state`, `set_map_elem_callback_state`).
    fn arguments(self, context: Value) -> [Value; 5] {
        let unset = Value::Unset;
        match self {
            Self::Loop => [Value::UNKNOWN, context, unset, unset, unset],
            Self::ForEach { map } => {
                let pointer = |kind| Value::from(Pointer::to(kind));
                let value = pointer(Kind::MapValue { map });
                let [map, key] = [pointer(Kind::Map { map }), pointer(Kind::Key { map })];
                [map, key, value, context, unset]
            }
        }
    }
}

impl Verifier<'_> {
    /// Leaves a call of the function at `entry` for later, if the helper may call it once more. The
    /// state goes on as if it did not.
    pub(super) fn call_back(
        &mut self,
        state: &mut State,
        entry: usize,
        calls: Calls,
    ) -> Result<(), Reason> {
        let function = self.functions.at(entry).ok_or(Reason::Internal)?;
        if !self.functions.has_call(state.frame().function, function) {
            return Err(Reason::FunctionFromElsewhere);
        }
        // The structure's check knows every chain of calls.
        if state.frames.len() >= MAX_FRAMES {
            return Err(Reason::CallDepth);
        }
        if self.has_more_rounds(state, calls) {
            let mut frame = Frame::new(function, state.pc);
            frame.callback = Some(Callback {
                references: state.references.len(),
            });
            frame.registers[1..6].copy_from_slice(&calls.arguments(state.peek(3)));
            let mut other = state.clone();
            other.enter(frame);
            other.trail.push(state.pc, entry);
            other.pc = entry;
            self.postpone(other)?;
        }
        state.frame_mut().rounds = 0;
        Ok(())
    }

    /// Whether the helper may call the function once more.
    fn has_more_rounds(&mut self, state: &State, calls: Calls) -> bool {
        match (calls, state.peek(1)) {
            (Calls::Loop, Value::Scalar(times)) => {
                self.demand(state, &times);
                u64::from(state.frame().rounds) < times.bounds.umax()
            }
            _ => true,
        }
    }

    /// Returns from a function to the helper that has called it.
    pub(super) fn come_back(&mut self, state: &mut State, result: Value) -> Result<(), Reason> {
        let is_valid = match result {
            Value::Scalar(scalar) => {
                self.demand(state, &scalar);
                scalar.bounds.umax() <= 1
            }
            _ => false,
        };
        if !is_valid {
            return Err(Reason::CallbackResult);
        }
        if let Some(more) = state.references.get(state.references_before_callback()) {
            return Err(Reason::NotReleased(more.insn));
        }
        let here = state.pc;
        let left = state.frames.pop().ok_or(Reason::Internal)?;
        state.frame_mut().rounds += 1;
        state.trail.push(here, left.return_to);
        state.pc = left.return_to;
        state.has_come_back = true;
        self.widen(state);
        Ok(())
    }

    /// Forgets numbers on the stack that were others in the round before.
    fn widen(&self, state: &mut State) {
        let Some(last) = self.last_round(state) else {
            return;
        };
        for (frame, f) in state.frames.iter_mut().enumerate() {
            let before = &last.state.frames[frame].stack;
            for (slot, content) in f.stack.slots_mut().iter_mut().enumerate() {
                let size = content.spill_size();
                let Some(Value::Scalar(scalar)) = content.spilled.as_deref_mut() else {
                    continue;
                };
                let was = before.slot(slot).and_then(|slot| slot.spilled.as_deref());
                let is_other =
                    !matches!(was, Some(Value::Scalar(was)) if was.bounds == scalar.bounds);
                if is_other && !last.is_precise(Place::Slot { frame, slot }) {
                    *scalar = Scalar {
                        is_guest: scalar.is_guest,
                        ..Scalar::of(Bounds::loaded(size.max(1)))
                    };
                }
            }
        }
    }
}
