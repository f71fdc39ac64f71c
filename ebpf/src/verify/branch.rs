//! Conditional jumps: which ways are possible, and what is known on each (`check_cond_jmp_op`).

use super::domain::{Bits, Bounds, Outcome, apply, assume};
use super::reason::Reason;
use super::state::State;
use super::value::{Link, Pointer, Scalar, Value};
use super::verifier::{Flow, Verifier};
use crate::decode::{Alu, Condition, IMMEDIATE, Step};

/// What a comparison makes of its operands, if it can come out so.
type Refined = Option<(Value, Value)>;

impl Verifier<'_> {
    pub(super) fn branch(
        &mut self,
        state: &mut State,
        step: Step,
        condition: Condition,
        bits: Bits,
    ) -> Result<Flow, Reason> {
        let right = self.operand(state, step)?;
        let left = self.read(state, step.dst)?;
        let refined = |outcome| refine(condition, outcome, bits, left, right);
        let taken = refined(Outcome::Holds);
        let passed = refined(Outcome::Fails);
        let (here, next, target) = (state.pc, state.pc + 1, step.argument as usize);
        let has_pointer = [left, right]
            .iter()
            .any(|value| matches!(value, Value::Pointer(_)));
        if taken.is_none() || passed.is_none() || has_pointer {
            // That a way is closed, or a pointer compared with null, depends on the values.
            for value in [left, right] {
                if let Value::Scalar(scalar) = value {
                    self.demand(state, &scalar);
                }
            }
        }
        let go = |state: &mut State, to: usize, values: (Value, Value)| {
            learn(state, step, (left, right), values);
            drop_null_reference(state, left, values.0);
            drop_null_reference(state, right, values.1);
            state.trail.push(here, to);
            state.pc = to;
        };
        match (taken, passed) {
            (Some(taken), Some(passed)) => {
                let mut other = state.clone();
                go(&mut other, target, taken);
                go(state, next, passed);
                self.postpone(other)?;
            }
            (Some(values), None) => {
                go(state, target, values);
                self.is_impossible(next);
            }
            (None, Some(values)) => {
                go(state, next, values);
                self.is_impossible(target);
            }
            // One of them holds for every value that there is.
            (None, None) => return Err(Reason::Internal),
        }
        Ok(Flow::On)
    }
}

/// Where a pointer has turned out null, there is nothing to give back (`mark_ptr_or_null_regs`).
fn drop_null_reference(state: &mut State, before: Value, after: Value) {
    let (Value::Pointer(pointer), Value::Scalar(_)) = (before, after) else {
        return;
    };
    if let Some(id) = pointer.reference {
        state.references.retain(|reference| reference.id != id);
    }
}

/// What is known of two values where a comparison of them comes out so.
fn refine(
    condition: Condition,
    outcome: Outcome,
    bits: Bits,
    left: Value,
    right: Value,
) -> Refined {
    match (left, right) {
        (Value::Scalar(a), Value::Scalar(b)) => {
            let (a_bounds, b_bounds) = assume(condition, outcome, bits, &a.bounds, &b.bounds)?;
            Some((
                refined_scalar(a, a_bounds, &b).into(),
                refined_scalar(b, b_bounds, &a).into(),
            ))
        }
        (Value::Pointer(pointer), Value::Scalar(zero)) if compares_to_null(&zero, bits) => {
            let (pointer, zero) = refine_null(condition, outcome, pointer, zero)?;
            Some((pointer, zero.into()))
        }
        (Value::Scalar(zero), Value::Pointer(pointer)) if compares_to_null(&zero, bits) => {
            // Only equality counts, which has no sides.
            let (pointer, zero) = refine_null(condition, outcome, pointer, zero)?;
            Some((zero.into(), pointer))
        }
        (Value::Pointer(a), Value::Pointer(b)) if bits == Bits::B64 => {
            Some(refine_pointers(condition, outcome, a, b))
        }
        _ => Some((left, right)),
    }
}

/// Where the range of one comes from the other, it depends on both.
fn refined_scalar(scalar: Scalar, bounds: Bounds, other: &Scalar) -> Scalar {
    if bounds == scalar.bounds {
        return scalar;
    }
    Scalar {
        bounds,
        sources: scalar.sources.union(other.sources),
        ..scalar
    }
}

fn compares_to_null(scalar: &Scalar, bits: Bits) -> bool {
    bits == Bits::B64 && scalar.is_zero(Bits::B64)
}

fn refine_null(
    condition: Condition,
    outcome: Outcome,
    pointer: Pointer,
    zero: Scalar,
) -> Option<(Value, Scalar)> {
    let is_null = match (condition, outcome) {
        (Condition::Eq, Outcome::Holds) | (Condition::Ne, Outcome::Fails) => true,
        (Condition::Ne, Outcome::Holds) | (Condition::Eq, Outcome::Fails) => false,
        _ => return Some((pointer.into(), zero)),
    };
    match (pointer.nullable, is_null) {
        (None, true) => None,
        (Some(_), true) => Some((Scalar::constant(0).into(), zero)),
        (_, false) => Some((not_null(pointer), zero)),
    }
}

fn not_null(pointer: Pointer) -> Value {
    Pointer {
        nullable: None,
        ..pointer
    }
    .into()
}

/// Of two equal pointers, one of which is not null, neither is.
fn refine_pointers(
    condition: Condition,
    outcome: Outcome,
    a: Pointer,
    b: Pointer,
) -> (Value, Value) {
    let are_equal = matches!(
        (condition, outcome),
        (Condition::Eq, Outcome::Holds) | (Condition::Ne, Outcome::Fails)
    );
    if are_equal && a.nullable.is_some() != b.nullable.is_some() {
        (not_null(a), not_null(b))
    } else {
        (a.into(), b.into())
    }
}

/// Puts what a comparison has told of its operands into the state: into the registers, and into all
/// that are linked to them.
fn learn(
    state: &mut State,
    step: Step,
    (left, right): (Value, Value),
    (new_left, new_right): (Value, Value),
) {
    for (register, old, new) in [(step.dst, left, new_left), (step.src, right, new_right)] {
        if old == new || register == IMMEDIATE {
            continue;
        }
        if let Some(value) = state.frame_mut().registers.get_mut(usize::from(register)) {
            *value = new;
        }
        match (old, new) {
            (Value::Scalar(_), Value::Scalar(scalar)) => learn_linked(state, &scalar),
            (Value::Pointer(pointer), new) => learn_null(state, &pointer, new),
            _ => {}
        }
    }
}

/// What is learnt of a scalar is learnt of those that differ from it by a constant
/// (`sync_linked_regs`).
fn learn_linked(state: &mut State, known: &Scalar) {
    let Some(Link { id, delta }) = known.link else {
        return;
    };
    for value in state.values_mut() {
        let Value::Scalar(scalar) = value else {
            continue;
        };
        let Some(link) = scalar.link.filter(|link| link.id == id) else {
            continue;
        };
        scalar.sources = scalar.sources.union(known.sources);
        if link.delta == delta {
            scalar.bounds = known.bounds;
        } else {
            let difference = i64::from(link.delta) - i64::from(delta);
            let difference = Bounds::constant(difference as u64);
            scalar.bounds = apply(Alu::Add, Bits::B64, &known.bounds, &difference);
        }
    }
}

/// A check of one pointer for null is a check of its copies.
fn learn_null(state: &mut State, checked: &Pointer, new: Value) {
    let Some(id) = checked.nullable else {
        return;
    };
    for value in state.values_mut() {
        let Value::Pointer(pointer) = value else {
            continue;
        };
        if pointer.nullable == Some(id) {
            *value = match new {
                Value::Pointer(_) => not_null(*pointer),
                null => null,
            };
        }
    }
}
