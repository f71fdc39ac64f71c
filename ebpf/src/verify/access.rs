//! Accesses to memory: what may be reached through a pointer, and what a load gives.

use super::domain::Bounds;
use super::output::MemoryKind;
use super::reason::Reason;
use super::stack::{Certainty, Found, SLOT, Stack, narrowed, slots_of};
use super::state::State;
use super::touched::Place;
use super::value::{Kind, Link, Pointer, Scalar, Value};
use super::verifier::Verifier;
use crate::decode::{Fetch, Op, Step, decode_atomic};
use crate::map::{MapDef, MapKind, Mutability};
use crate::object::Access;
use crate::stack::FRAME_SIZE;
use crate::width::Width;
use core::ops::Range;

/// Bytes that an access may reach.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    pub(super) pointer: Pointer,
    /// From where the pointer's memory begins; of a stack from its end.
    pub(super) offsets: Range<i64>,
    /// Whether it reaches all of them, and not some of them.
    pub(super) certainty: Certainty,
}

impl Reach {
    /// The bytes on the stack of a frame, if it is one.
    pub(super) fn on_stack(&self) -> Option<(usize, Range<i32>)> {
        match self.pointer.kind {
            Kind::Stack { frame } => Some((
                frame.into(),
                self.offsets.start as i32..self.offsets.end as i32,
            )),
            _ => None,
        }
    }
}

impl Verifier<'_> {
    /// Checks that `size` (at most) bytes from `offset` behind a register can be accessed.
    pub(super) fn reach(
        &mut self,
        state: &mut State,
        register: u8,
        offset: i32,
        size: usize,
        access: Access,
    ) -> Result<Reach, Reason> {
        let is_write = access != Access::Read;
        let pointer = match self.read(state, register)? {
            Value::Pointer(pointer) => pointer,
            Value::Scalar(scalar) if scalar.is_guest && is_write => {
                return Err(Reason::WritesGuest(register));
            }
            _ => return Err(Reason::NotAPointer(register)),
        };
        if pointer.nullable.is_some() {
            return Err(Reason::MaybeNull(register));
        }
        let limits = match pointer.kind {
            Kind::Context if is_write => return Err(Reason::ReadOnly("context")),
            // Which field it is must be known. Newer kernels than 6.12 want no more of a kprobe.
            Kind::Context if pointer.constant_offset(0).is_none() => {
                return Err(Reason::ModifiedContext(register));
            }
            Kind::Context => 0..self.environment.context_size() as i64,
            Kind::Stack { .. } => -(FRAME_SIZE as i64)..0,
            Kind::MapValue { map } => {
                let map = self.map(map)?;
                if is_write && map.mutability == Mutability::Frozen {
                    return Err(Reason::ReadOnly("map"));
                }
                0..map.value_size.into()
            }
            Kind::Key { .. } if is_write => return Err(Reason::ReadOnly("key")),
            Kind::Key { map } => 0..self.map(map)?.key_size.into(),
            Kind::Memory { size } => 0..size.into(),
            Kind::Map { .. } | Kind::Function { .. } => {
                return Err(Reason::NotMemory(register, pointer.kind.name()));
            }
        };
        let base = i64::from(pointer.fixed) + i64::from(offset);
        let low = pointer.variable.smin().saturating_add(base);
        let last = pointer.variable.smax().saturating_add(base);
        let high = last.saturating_add(size as i64);
        if low < limits.start || high > limits.end || low > limits.end {
            return Err(Reason::OutOfBounds {
                register,
                kind: pointer.kind.name(),
                low: shown(low),
                high: shown(high),
                start: shown(limits.start),
                end: shown(limits.end),
            });
        }
        if let Kind::Stack { frame } = pointer.kind {
            self.claim_stack(state, frame.into(), low)?;
        }
        Ok(Reach {
            pointer,
            offsets: low..high,
            certainty: if low == last {
                Certainty::Certain
            } else {
                Certainty::Possible
            },
        })
    }

    /// The function of a frame uses its stack down to `offset`.
    fn claim_stack(&mut self, state: &State, frame: usize, offset: i64) -> Result<(), Reason> {
        let depth = &mut self.stack_depths[state.frames[frame].function];
        *depth = (*depth).max(offset.unsigned_abs() as usize);
        // At the end all chains of calls are looked at. But this one need not be followed further,
        // and states stay small.
        let frames = state.frames.iter();
        let together = frames.map(|frame| self.frame_size(frame.function)).sum();
        if together > FRAME_SIZE {
            return Err(Reason::StackDepth(together));
        }
        Ok(())
    }

    /// The definition of a map that the structure's check has found to exist.
    pub(super) fn map(&self, map: u16) -> Result<&MapDef, Reason> {
        let maps = self.environment.maps;
        maps.get(usize::from(map)).ok_or(Reason::Internal)
    }

    /// As [`Self::reach`], for a load or store of an instruction, which has an alignment.
    fn reach_aligned(
        &mut self,
        state: &mut State,
        (register, step): (u8, Step),
        width: Width,
        access: Access,
    ) -> Result<Reach, Reason> {
        let size = width.bytes();
        let reach = self.reach(state, register, step.argument, size, access)?;
        let kind = reach.pointer.kind;
        let is_aligned = is_aligned(&reach.pointer, step.argument, size);
        match kind {
            Kind::Context if !is_aligned => return Err(Reason::ContextField(reach.offsets.start)),
            // Each argument is a field of its own.
            Kind::Context
                if self.environment.signature.is_some() && reach.offsets.start % 8 != 0 =>
            {
                return Err(Reason::ContextField(reach.offsets.start));
            }
            Kind::Stack { .. } if !is_aligned => {
                return Err(Reason::Misaligned(reach.offsets.start, size));
            }
            _ if !is_aligned && access == Access::Atomic => {
                return Err(Reason::Misaligned(reach.offsets.start, size));
            }
            _ => {}
        }
        let innermost = state.depth();
        let kind = match kind {
            Kind::Context => MemoryKind::Context,
            Kind::Stack { frame }
                if usize::from(frame) == innermost && reach.certainty == Certainty::Certain =>
            {
                MemoryKind::Stack {
                    offset: reach.offsets.start as i16,
                }
            }
            _ => MemoryKind::Other,
        };
        self.findings.access(state.pc, kind)?;
        Ok(reach)
    }

    pub(super) fn load(&mut self, state: &mut State, step: Step) -> Result<(), Reason> {
        let (width, is_signed) = match step.op {
            Op::Load(width) => (width, false),
            Op::LoadSigned(width) => (width, true),
            _ => return Err(Reason::Internal),
        };
        if let Value::Scalar(Scalar { is_guest: true, .. }) = self.read(state, step.src)? {
            return self.load_from_guest(state, step);
        }
        let reach = self.reach_aligned(state, (step.src, step), width, Access::Read)?;
        let value = self.loaded(state, &reach, width)?;
        let value = match value {
            Value::Scalar(scalar) if is_signed => {
                let extended = scalar.bounds.sign_extend(8 * width.bytes() as u32);
                scalar.computed(extended).into()
            }
            value => value,
        };
        state.set(step.dst, value);
        Ok(())
    }

    /// A load through an address in the guest. It is checked when it is done, wherever it goes, and
    /// what it gives may be an address again.
    fn load_from_guest(&mut self, state: &mut State, step: Step) -> Result<(), Reason> {
        self.findings.access(state.pc, MemoryKind::Guest)?;
        let value = match step.op {
            Op::Load(Width::Double) => Scalar::GUEST,
            Op::LoadSigned(width) => {
                let bounds = Bounds::loaded(width.bytes());
                Scalar::of(bounds.sign_extend(8 * width.bytes() as u32))
            }
            Op::Load(width) => Scalar::of(Bounds::loaded(width.bytes())),
            _ => return Err(Reason::Internal),
        };
        state.set(step.dst, value);
        Ok(())
    }

    /// What a load gives, zero-extended.
    fn loaded(&mut self, state: &mut State, reach: &Reach, width: Width) -> Result<Value, Reason> {
        let size = width.bytes();
        let unknown = Scalar::of(Bounds::loaded(size)).into();
        if let Some((frame, offsets)) = reach.on_stack() {
            self.read_stack(state, frame, offsets.clone());
            if reach.certainty == Certainty::Possible {
                return Ok(unknown);
            }
            return match state.frames[frame].stack.load(offsets.start, size) {
                Found::Spilled(value) => Ok(value),
                Found::PartOfPointer => Err(Reason::LoadsPartOfPointer),
                Found::Bytes(bounds) => Ok(Scalar::of(bounds).into()),
            };
        }
        match reach.pointer.kind {
            Kind::MapValue { map } if reach.certainty == Certainty::Certain => {
                let offset = reach.offsets.start as usize;
                let known = constant(self.map(map)?, offset, size).map(Scalar::constant);
                Ok(known.map_or(unknown, Value::from))
            }
            Kind::Context if width == Width::Double => {
                let field = reach.offsets.start as usize / 8;
                let signature = self.environment.signature;
                let is_address = signature.is_some_and(|it| it.is_address(field));
                Ok(if is_address {
                    Scalar::GUEST.into()
                } else {
                    unknown
                })
            }
            _ => Ok(unknown),
        }
    }

    /// Notes that bytes of a stack are read.
    pub(super) fn read_stack(&mut self, state: &mut State, frame: usize, offsets: Range<i32>) {
        for slot in slots_of(offsets.clone()) {
            self.checkpoints.read(state, Place::Slot { frame, slot });
        }
        self.findings.reads_unset_stack |= state.frames[frame].stack.has_unset(offsets);
    }

    pub(super) fn store(
        &mut self,
        state: &mut State,
        step: Step,
        width: Width,
    ) -> Result<(), Reason> {
        let value = self.operand(state, step)?;
        let reach = self.reach_aligned(state, (step.dst, step), width, Access::Write)?;
        let Some((frame, offsets)) = reach.on_stack() else {
            // Addresses are numbers of our own making: a program may keep them in maps.
            return Ok(());
        };
        if let Value::Pointer(pointer) = value {
            if width != Width::Double {
                return Err(Reason::StoresPartOfPointer(step.src));
            }
            if frame < state.depth() && matches!(pointer.kind, Kind::Stack { .. }) {
                return Err(Reason::StackPointerEscapes);
            }
        }
        if reach.certainty == Certainty::Possible {
            self.scribble(state, frame, offsets, Certainty::Possible);
            return Ok(());
        }
        let value = match value {
            Value::Scalar(scalar) => self
                .stored(state, step.src, scalar, offsets.start, width)
                .into(),
            value => value,
        };
        let stack = &mut state.frames[frame].stack;
        stack.store(offsets.start, width.bytes(), value);
        self.settle(state, frame, offsets);
        Ok(())
    }

    /// What a store of a scalar leaves in memory.
    fn stored(
        &mut self,
        state: &mut State,
        register: u8,
        scalar: Scalar,
        offset: i32,
        width: Width,
    ) -> Scalar {
        if !Stack::keeps_registers(offset) {
            // The bytes remember a 0, and no longer what it was computed from.
            if scalar.is_zero(super::domain::Bits::B64) {
                self.demand(state, &scalar);
            }
            return scalar;
        }
        let linked = self.link(state, register, scalar);
        narrowed(linked, width.bytes())
    }

    /// Makes sure that a scalar that is about to be copied has a link, so that what is learnt of
    /// one copy is learnt of the other (`assign_scalar_id_before_mov`).
    pub(super) fn link(&mut self, state: &mut State, register: u8, scalar: Scalar) -> Scalar {
        let is_register = usize::from(register) < super::state::REGISTERS;
        if scalar.link.is_some() || scalar.bounds.as_constant().is_some() || !is_register {
            return scalar;
        }
        let linked = Scalar {
            link: Some(Link {
                id: self.new_id(),
                delta: 0,
            }),
            ..scalar
        };
        // Not `set`: the register is not written.
        state.frame_mut().registers[usize::from(register)] = linked.into();
        linked
    }

    /// Something is written into bytes of a stack that is not followed.
    pub(super) fn scribble(
        &mut self,
        state: &mut State,
        frame: usize,
        offsets: Range<i32>,
        certainty: Certainty,
    ) {
        state.frames[frame]
            .stack
            .scribble(offsets.clone(), certainty);
        if certainty == Certainty::Certain {
            self.settle(state, frame, offsets);
        }
    }

    /// Slots that are written as a whole hold nothing from before.
    fn settle(&self, state: &mut State, frame: usize, offsets: Range<i32>) {
        for slot in slots_of(offsets.clone()) {
            let start = -((slot as i32 + 1) * SLOT as i32);
            if offsets.start <= start && start + SLOT as i32 <= offsets.end {
                state.settled.add(Place::Slot { frame, slot });
            }
        }
    }

    pub(super) fn atomic(
        &mut self,
        state: &mut State,
        step: Step,
        width: Width,
    ) -> Result<(), Reason> {
        let (_, fetch) = decode_atomic(step.immediate as i32).ok_or(Reason::Internal)?;
        self.read(state, step.src)?;
        if fetch == Fetch::R0 {
            self.read(state, 0)?;
        }
        let reach = self.reach_aligned(state, (step.dst, step), width, Access::Atomic)?;
        if let Some((frame, offsets)) = reach.on_stack() {
            self.read_stack(state, frame, offsets.clone());
            self.scribble(state, frame, offsets, reach.certainty);
        }
        let old = Scalar::of(Bounds::loaded(width.bytes()));
        match fetch {
            Fetch::No => {}
            Fetch::Source => state.set(step.src, old),
            Fetch::R0 => state.set(0, old),
        }
        Ok(())
    }
}

/// An offset in a message. Pointers are never as far away as `i32` reaches.
fn shown(offset: i64) -> i32 {
    offset.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

/// Whether an access is at a multiple of its size, wherever the pointer points.
fn is_aligned(pointer: &Pointer, offset: i32, size: usize) -> bool {
    let constant = i64::from(pointer.fixed) + i64::from(offset);
    let possible = match pointer.variable.as_constant() {
        Some(variable) => variable.wrapping_add(constant as u64),
        None => pointer.variable.tnum().max() | constant as u64,
    };
    possible & (size as u64 - 1) == 0
}

/// What a map that never changes has there (`bpf_map_direct_read`).
fn constant(map: &MapDef, offset: usize, size: usize) -> Option<u64> {
    if !is_constant(map) {
        return None;
    }
    let mut word = [0; 8];
    // Without an initial value it is all zeros.
    if !map.initial.is_empty() {
        let bytes = map.initial.get(offset..)?.get(..size)?;
        word[..size].copy_from_slice(bytes);
    }
    Some(u64::from_le_bytes(word))
}

/// Whether it is one value that nobody writes.
pub(super) fn is_constant(map: &MapDef) -> bool {
    map.kind == MapKind::Array && map.max_entries == 1 && map.mutability == Mutability::Frozen
}
