//! Whether a state includes another (`states_equal`).

use super::checkpoint::Checkpoint;
use super::domain::Bounds;
use super::stack::{Byte, SLOT, Slot};
use super::state::{Frame, REGISTERS, State};
use super::touched::Place;
use super::value::{Link, Pointer, Scalar, Sources, Value};

/// How states are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The old state includes the new one, as far as the old one's exploration depended on it.
    Include,
    /// The old state includes the new one.
    Contain,
    /// They are the same.
    Same,
}

/// Whether a path in state `new` can do nothing that was not explored from a done checkpoint.
pub(super) fn includes(old: &Checkpoint, new: &State, work: &mut u64) -> bool {
    Comparison::new(old, Mode::Include, work).states(new)
}

/// Whether a path in state `new` can do nothing that will not have been explored when all paths from a
/// checkpoint have been, one of which it is.
pub(super) fn contains(old: &Checkpoint, new: &State, work: &mut u64) -> bool {
    Comparison::new(old, Mode::Contain, work).states(new)
}

/// Whether `new` is the state of a checkpoint of its own path: nothing has changed since.
pub(super) fn repeats(old: &Checkpoint, new: &State, work: &mut u64) -> bool {
    Comparison::new(old, Mode::Same, work).states(new)
}

/// Numbers that stand for the same thing in the old and in the new state: of each at most one pair
/// (`check_ids`).
struct Pairs {
    pairs: [(u32, u32); Pairs::LIMIT],
    count: usize,
    /// The last number that stood for nothing: these count down from the largest.
    nothing: u32,
}

impl Pairs {
    /// Where there are more, states are taken for different.
    const LIMIT: usize = 32;

    const fn new() -> Self {
        Self {
            pairs: [(0, 0); Self::LIMIT],
            count: 0,
            nothing: u32::MAX,
        }
    }

    fn agree(&mut self, old: u32, new: u32) -> bool {
        let known = &self.pairs[..self.count];
        if let Some(&pair) = known.iter().find(|pair| pair.0 == old || pair.1 == new) {
            return pair == (old, new);
        }
        let Some(free) = self.pairs.get_mut(self.count) else {
            return false;
        };
        *free = (old, new);
        self.count += 1;
        true
    }

    /// An old number that has nothing in the new state: that is the same as long as no other place
    /// has it.
    fn agree_with_nothing(&mut self, old: u32) -> bool {
        self.nothing -= 1;
        self.agree(old, self.nothing)
    }

    fn agree_if_any(&mut self, old: Option<u32>, new: Option<u32>) -> bool {
        match (old, new) {
            (None, None) => true,
            (Some(old), Some(new)) => self.agree(old, new),
            _ => false,
        }
    }
}

struct Comparison<'a> {
    old: &'a Checkpoint,
    mode: Mode,
    pairs: Pairs,
    /// Counts what is looked at.
    work: &'a mut u64,
}

/// Places that are compared for a unit of work, about.
const PLACES_OF_WORK: usize = 16;

impl<'a> Comparison<'a> {
    fn new(old: &'a Checkpoint, mode: Mode, work: &'a mut u64) -> Self {
        *work += 1;
        Self {
            work,
            old,
            mode,
            pairs: Pairs::new(),
        }
    }

    fn states(&mut self, new: &State) -> bool {
        let old = &self.old.state;
        old.frames.len() == new.frames.len()
            && old.references.len() == new.references.len()
            && old
                .references
                .iter()
                .zip(&new.references)
                .all(|(old, new)| self.pairs.agree(old.id, new.id))
            && (0..old.frames.len()).all(|frame| self.frames(frame, new))
    }

    fn frames(&mut self, frame: usize, new: &State) -> bool {
        // Most comparisons end early, but not all.
        *self.work +=
            (REGISTERS + new.frames[frame].stack.slots().len()) as u64 / PLACES_OF_WORK as u64;
        let first = new.first_kept(frame);
        let (old, new) = (&self.old.state.frames[frame], &new.frames[frame]);
        let is_same_call = old.function == new.function
            && old.return_to == new.return_to
            && old.callback == new.callback;
        // Later rounds of a helper are some of those that follow earlier ones.
        let is_no_later = match self.mode {
            Mode::Same => old.rounds == new.rounds,
            _ => old.rounds <= new.rounds,
        };
        if !is_same_call || !is_no_later {
            return false;
        }
        (first..REGISTERS).all(|register| {
            let place = Place::Register { frame, register };
            self.is_dead(place)
                || self.values(place, &old.registers[register], &new.registers[register])
        }) && self.stacks(frame, old, new)
    }

    /// Whether the old state's exploration never looked at a place.
    fn is_dead(&self, place: Place) -> bool {
        self.mode == Mode::Include && !self.old.read.has(place)
    }

    fn is_precise(&self, place: Place) -> bool {
        let source = Sources::one(place.source(self.old.state.frames.len()));
        let marked = self.old.precise.union(self.old.settled_on);
        self.mode != Mode::Include || marked.intersects(source)
    }

    fn values(&mut self, place: Place, old: &Value, new: &Value) -> bool {
        match (old, new) {
            (Value::Unset, _) => self.mode != Mode::Same || *new == Value::Unset,
            (Value::Scalar(old), Value::Scalar(new)) if !self.uses_agree(old, new) => false,
            (Value::Scalar(_), Value::Scalar(_)) if !self.is_precise(place) => true,
            (Value::Scalar(old), Value::Scalar(new)) => self.scalars(old, new),
            (Value::Pointer(old), Value::Pointer(new)) => self.pointers(old, new),
            _ => false,
        }
    }

    /// Whether the new scalar may be used for all that the old one may have been.
    fn uses_agree(&self, old: &Scalar, new: &Scalar) -> bool {
        match self.mode {
            Mode::Include | Mode::Contain => !old.is_guest || new.is_guest,
            Mode::Same => old.is_guest == new.is_guest,
        }
    }

    fn bounds(&self, old: &Bounds, new: &Bounds) -> bool {
        match self.mode {
            Mode::Include | Mode::Contain => old.includes(new),
            Mode::Same => old == new,
        }
    }

    /// What was linked in the old state was refined together there, so it must be linked in the
    /// new one. The converse does no harm.
    fn scalars(&mut self, old: &Scalar, new: &Scalar) -> bool {
        let linked = match (old.link, new.link) {
            (None, new) => self.mode != Mode::Same || new.is_none(),
            (Some(old), Some(new)) => self.links(old, new),
            (Some(old), None) => self.mode != Mode::Same && self.pairs.agree_with_nothing(old.id),
        };
        linked && self.bounds(&old.bounds, &new.bounds)
    }

    fn links(&mut self, old: Link, new: Link) -> bool {
        old.delta == new.delta && self.pairs.agree(old.id, new.id)
    }

    fn pointers(&mut self, old: &Pointer, new: &Pointer) -> bool {
        old.kind == new.kind
            && old.fixed == new.fixed
            && self.bounds(&old.variable, &new.variable)
            && self.pairs.agree_if_any(old.nullable, new.nullable)
            && self.pairs.agree_if_any(old.reference, new.reference)
    }

    fn stacks(&mut self, frame: usize, old: &Frame, new: &Frame) -> bool {
        if self.mode == Mode::Same && old.stack.depth() != new.stack.depth() {
            return false;
        }
        let slots = old.stack.slots().iter().enumerate();
        slots.into_iter().all(|(slot, old)| {
            let place = Place::Slot { frame, slot };
            self.is_dead(place) || self.slots(place, old, new.stack.slot(slot))
        })
    }

    fn slots(&mut self, place: Place, old: &Slot, new: Option<&Slot>) -> bool {
        if self.mode == Mode::Same && new.is_none_or(|new| new.bytes != old.bytes) {
            return false;
        }
        let bytes_agree = (0..SLOT).all(|byte| {
            let new = new.map_or(Byte::Unset, |new| new.bytes[byte]);
            match (old.bytes[byte], new) {
                (Byte::Unset, _) => true,
                // Reading what was never written is to be noted.
                (_, Byte::Unset) => false,
                // It was read as any number, which everything is.
                (Byte::Any | Byte::Spilled, _) => true,
                (Byte::Zero, new) => new == Byte::Zero,
            }
        });
        let size = old.spill_size();
        bytes_agree
            && old
                .spilled
                .as_deref()
                .is_none_or(|value| self.spills(place, value, size, new))
    }

    /// Whether what the old state has spilled includes what is in the new one's slot.
    fn spills(&mut self, place: Place, old: &Value, size: usize, new: Option<&Slot>) -> bool {
        let spilled = new.and_then(|new| {
            let value = new.spilled.as_deref()?;
            Some((value, new.spill_size()))
        });
        match (spilled, old) {
            (Some((value, new_size)), _) if new_size == size => self.values(place, old, value),
            // No register, but bytes: any number.
            (_, Value::Scalar(old)) if self.mode != Mode::Same => {
                let is_pointer = matches!(spilled, Some((Value::Pointer(_), _)));
                !is_pointer
                    && !old.is_guest
                    && (!self.is_precise(place)
                        || old.link.is_none() && old.bounds.includes(&Bounds::loaded(size)))
            }
            _ => false,
        }
    }
}
