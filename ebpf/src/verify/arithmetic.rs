//! Arithmetic on registers: numbers, and pointers within the kernel's rules
//! (`adjust_reg_min_max_vals`, `adjust_ptr_min_max_vals`).

use super::domain::{Bits, Bounds, apply};
use super::reason::Reason;
use super::state::State;
use super::value::{Kind, Link, Pointer, Scalar, Value};
use super::verifier::Verifier;
use crate::decode::{Alu, IMMEDIATE, Step};
use crate::width::Width;

/// How far from where its memory begins a pointer may be (Linux: `BPF_MAX_VAR_OFF`).
const MAX_OFFSET: i64 = 1 << 29;

impl Verifier<'_> {
    pub(super) fn arithmetic(
        &mut self,
        state: &mut State,
        step: Step,
        operation: Alu,
        bits: Bits,
    ) -> Result<(), Reason> {
        let right = self.operand(state, step)?;
        let value = match operation {
            Alu::Mov => self.copied(state, step.src, right, bits),
            Alu::MovSigned(_) => unary(operation, bits, right),
            Alu::Neg => {
                let left = self.read(state, step.dst)?;
                unary(operation, bits, left)
            }
            _ => {
                let left = self.read(state, step.dst)?;
                self.binary(state, step.dst, operation, bits, left, right)?
            }
        };
        state.set(step.dst, value);
        Ok(())
    }

    /// What a move leaves. What is learnt of the copy is learnt of the original.
    fn copied(&mut self, state: &mut State, source: u8, value: Value, bits: Bits) -> Value {
        match value {
            Value::Scalar(scalar) if bits == Bits::B64 || scalar.bounds.fits_32_bits() => {
                if source == IMMEDIATE {
                    scalar.into()
                } else {
                    self.link(state, source, scalar).into()
                }
            }
            Value::Pointer(_) if bits == Bits::B64 => value,
            value => unary(Alu::Mov, bits, value),
        }
    }

    fn binary(
        &mut self,
        state: &mut State,
        dst: u8,
        operation: Alu,
        bits: Bits,
        left: Value,
        right: Value,
    ) -> Result<Value, Reason> {
        match (left, right) {
            (Value::Scalar(left), Value::Scalar(right)) => {
                Ok(scalars(operation, bits, &left, &right).into())
            }
            (Value::Pointer(_), Value::Pointer(_)) if operation == Alu::Sub => Ok(Value::UNKNOWN),
            (Value::Pointer(_), Value::Pointer(_)) => Err(Reason::TwoPointers(dst)),
            (Value::Pointer(_), Value::Scalar(_)) if bits == Bits::B32 => {
                if operation == Alu::Sub {
                    Ok(Value::UNKNOWN)
                } else {
                    Err(Reason::PointerArithmetic(dst, "32-bit arithmetic"))
                }
            }
            (Value::Pointer(pointer), Value::Scalar(scalar)) => {
                self.demand(state, &scalar);
                moved(dst, pointer, operation, &scalar.bounds)
            }
            (Value::Scalar(scalar), Value::Pointer(pointer)) => {
                self.demand(state, &scalar);
                if bits == Bits::B32 {
                    return Err(Reason::PointerArithmetic(dst, "32-bit arithmetic"));
                }
                if operation != Alu::Add {
                    return Err(Reason::PointerArithmetic(
                        dst,
                        "this operation from a number",
                    ));
                }
                moved(dst, pointer, operation, &scalar.bounds)
            }
            _ => Err(Reason::Internal),
        }
    }

    pub(super) fn swap(
        &mut self,
        state: &mut State,
        step: Step,
        width: Width,
    ) -> Result<(), Reason> {
        let value = self.read(state, step.dst)?;
        let bits = 8 * width.bytes() as u32;
        let swapped = match value {
            Value::Scalar(scalar) => {
                let low = scalar.bounds.truncate(bits);
                let swapped = match low.as_constant() {
                    Some(value) => Bounds::constant(value.swap_bytes() >> (64 - bits)),
                    None => Bounds::UNKNOWN.truncate(bits),
                };
                scalar.computed(swapped)
            }
            _ => Scalar::of(Bounds::UNKNOWN.truncate(bits)),
        };
        state.set(step.dst, swapped);
        Ok(())
    }

    pub(super) fn truncate(
        &mut self,
        state: &mut State,
        step: Step,
        width: Width,
    ) -> Result<(), Reason> {
        let bits = 8 * width.bytes() as u32;
        let truncated = match self.read(state, step.dst)? {
            Value::Scalar(scalar) => scalar.computed(scalar.bounds.truncate(bits)),
            _ => Scalar::of(Bounds::UNKNOWN.truncate(bits)),
        };
        state.set(step.dst, truncated);
        Ok(())
    }
}

/// An operation on one value: a pointer becomes a number, of which only the width is known.
fn unary(operation: Alu, bits: Bits, value: Value) -> Value {
    match value {
        Value::Scalar(scalar) => {
            let bounds = apply(operation, bits, &scalar.bounds, &scalar.bounds);
            scalar.computed(bounds).into()
        }
        _ => Scalar::of(Bounds::UNKNOWN.truncate(bits.count())).into(),
    }
}

fn scalars(operation: Alu, bits: Bits, left: &Scalar, right: &Scalar) -> Scalar {
    Scalar {
        bounds: apply(operation, bits, &left.bounds, &right.bounds),
        link: shifted_link(operation, bits, left, right),
        sources: left.sources.union(right.sources),
        is_guest: is_still_guest(operation, bits, left, right),
    }
}

/// What is at a distance from an address in the guest is one too.
fn is_still_guest(operation: Alu, bits: Bits, left: &Scalar, right: &Scalar) -> bool {
    match (operation, bits) {
        (Alu::Add, Bits::B64) => left.is_guest || right.is_guest,
        (Alu::Sub, Bits::B64) => left.is_guest,
        _ => false,
    }
}

/// A number plus a constant stays linked (`BPF_ADD_CONST`).
fn shifted_link(operation: Alu, bits: Bits, left: &Scalar, right: &Scalar) -> Option<Link> {
    let Link { id, delta } = left.link.filter(|_| bits == Bits::B64)?;
    let constant = i32::try_from(right.bounds.as_constant()? as i64).ok()?;
    let delta = match operation {
        Alu::Add => delta.checked_add(constant)?,
        Alu::Sub => delta.checked_sub(constant)?,
        _ => return None,
    };
    Some(Link { id, delta })
}

/// A pointer plus or minus a number.
fn moved(
    register: u8,
    pointer: Pointer,
    operation: Alu,
    distance: &Bounds,
) -> Result<Value, Reason> {
    let prohibited = |what| Err(Reason::PointerArithmetic(register, what));
    if pointer.nullable.is_some() {
        return Err(Reason::MaybeNull(register));
    }
    match operation {
        Alu::Add => {}
        // Nothing that is compiled does it, and it is not how stacks are counted.
        Alu::Sub if matches!(pointer.kind, Kind::Stack { .. }) => {
            return prohibited("subtraction, as it is to the stack,");
        }
        Alu::Sub => {}
        _ => return prohibited("anything but addition and subtraction"),
    }
    if matches!(pointer.kind, Kind::Map { .. }) && distance.as_constant() != Some(0) {
        return prohibited("arithmetic, as it is to a map,");
    }
    let is_bounded = |bounds: &Bounds| bounds.smin() > -MAX_OFFSET && bounds.smax() < MAX_OFFSET;
    if !is_bounded(distance) {
        return Err(Reason::UnboundedOffset(register));
    }
    let moved = match distance.as_constant() {
        Some(constant) => {
            let constant = constant as i64;
            let signed = if operation == Alu::Sub {
                -constant
            } else {
                constant
            };
            Pointer {
                // Both are below `MAX_OFFSET`.
                fixed: (i64::from(pointer.fixed) + signed) as i32,
                ..pointer
            }
        }
        None => Pointer {
            variable: apply(operation, Bits::B64, &pointer.variable, distance),
            ..pointer
        },
    };
    let is_near = i64::from(moved.fixed).abs() < MAX_OFFSET && is_bounded(&moved.variable);
    if is_near {
        Ok(moved.into())
    } else {
        Err(Reason::UnboundedOffset(register))
    }
}
