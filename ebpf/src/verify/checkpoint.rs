//! Saved states: what later paths are compared with, and what their exploration has depended on.
//!
//! A checkpoint is *done* when every path from it has been explored and found safe. A later path
//! that comes to the same instruction in a state that the checkpoint's includes is safe too, so it
//! ends there. To include more states, a done checkpoint forgets what its exploration did not
//! depend on: places that were never read (as `propagate_liveness`), and the values of scalars that
//! no verdict depended on (as `mark_chain_precision`).
//!
//! The kernel finds the latter by walking back over the instructions. Here every scalar carries the
//! places of the last checkpoint that it was computed from ([`Sources`]), so that a verdict marks
//! these at once, and follows the scalars that the checkpoint saved there to the one before it.
//!
//! Only done checkpoints end a path. So every run of an accepted program follows explored
//! instructions, never one of them twice: it executes at most as many as were explored.

use super::state::{REGISTERS, State};
use super::touched::{Place, Touched};
use super::value::{Sources, Value};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// The number of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CheckpointId(u32);

/// A saved state.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// As it was; its scalars' sources are places of the checkpoint before.
    pub(super) state: Box<State>,
    /// What was read from it before being written.
    pub(super) read: Touched,
    /// The scalars whose values mattered.
    pub(super) precise: Sources,
    /// Those whose values may matter, as far as was known when a path settled
    /// ([`super::callback`]).
    pub(super) settled_on: Sources,
    /// Paths from it that are not yet explored to their end.
    branches: usize,
    /// How often it ended a path, and how often it was compared in vain.
    pub(super) hits: u32,
    pub(super) misses: u32,
    memory: usize,
}

impl Checkpoint {
    pub(super) fn is_done(&self) -> bool {
        self.branches == 0
    }

    /// Whether the value of the scalar at a place mattered.
    pub(super) fn is_precise(&self, place: Place) -> bool {
        let source = Sources::one(place.source(self.state.frames.len()));
        self.precise.intersects(source)
    }
}

/// What it costs to copy a state that takes so many bytes, or to look at all of it.
pub(super) const fn work_on(bytes: usize) -> u64 {
    bytes as u64 / 128
}

/// All places of a state that a checkpoint remembers, and what is there.
pub(super) fn places(state: &State) -> impl Iterator<Item = (Place, &Value)> {
    state.frames.iter().enumerate().flat_map(move |(frame, f)| {
        let first = state.first_kept(frame);
        let registers = (first..REGISTERS)
            .map(move |register| (Place::Register { frame, register }, &f.registers[register]));
        let slots = f.stack.slots().iter().enumerate();
        let spilled = slots.filter_map(move |(slot, content)| {
            let value = content.spilled.as_deref()?;
            Some((Place::Slot { frame, slot }, value))
        });
        registers.chain(spilled)
    })
}

/// What the scalars of a state were computed from that are in some places of a checkpoint of `frames`
/// frames.
pub(super) fn sources(state: &State, places_in: Sources, frames: usize) -> Sources {
    places(state)
        .filter(|(place, _)| places_in.intersects(Sources::one(place.source(frames))))
        .fold(Sources::NONE, |sources, (_, value)| match value {
            Value::Scalar(scalar) => sources.union(scalar.sources),
            _ => sources,
        })
}

/// All checkpoints that are kept.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    all: Vec<Option<Checkpoint>>,
    free: Vec<CheckpointId>,
    memory: usize,
    open: usize,
    total: usize,
    peak: usize,
    /// What has been spent on them and on other things.
    pub(super) work: u64,
}

/// What a verification has taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statistics {
    pub(super) work: u64,
    pub(super) states: usize,
    pub(super) peak_states: usize,
}

impl Checkpoints {
    /// Bytes that they take, about.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// How many are not done.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// What they have taken.
    pub(super) fn statistics(&self) -> Statistics {
        Statistics {
            work: self.work,
            states: self.total,
            peak_states: self.peak,
        }
    }

    pub(super) fn get(&self, id: CheckpointId) -> Option<&Checkpoint> {
        self.all.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: CheckpointId) -> Option<&mut Checkpoint> {
        self.all.get_mut(id.0 as usize)?.as_mut()
    }

    /// The same, which is work.
    fn look(&mut self, id: CheckpointId) -> Option<&mut Checkpoint> {
        self.work += 1;
        self.get_mut(id)
    }

    /// Saves a state as the parent of what follows.
    pub(super) fn save(&mut self, state: &mut State) -> CheckpointId {
        let saved = Box::new(state.clone());
        let memory = size_of::<Checkpoint>() + saved.memory();
        let checkpoint = Checkpoint {
            state: saved,
            read: Touched::NONE,
            precise: Sources::NONE,
            settled_on: Sources::NONE,
            branches: 1,
            hits: 0,
            misses: 0,
            memory,
        };
        self.memory += memory;
        self.open += 1;
        self.total += 1;
        self.work += work_on(memory);
        let id = match self.free.pop() {
            Some(id) => {
                self.all[id.0 as usize] = Some(checkpoint);
                id
            }
            None => {
                self.all.push(Some(checkpoint));
                CheckpointId(self.all.len() as u32 - 1)
            }
        };
        self.peak = self.peak.max(self.count());
        state.parent = Some(id);
        state.settled = Touched::NONE;
        restart_sources(state);
        id
    }

    /// Another path starts from the checkpoint.
    pub(super) fn branch(&mut self, id: Option<CheckpointId>) {
        if let Some(checkpoint) = id.and_then(|id| self.get_mut(id)) {
            checkpoint.branches += 1;
        }
    }

    /// A path from the checkpoint has come to its end.
    pub(super) fn finish(&mut self, id: Option<CheckpointId>) {
        let mut next = id;
        while let Some(checkpoint) = next.and_then(|id| self.get_mut(id)) {
            checkpoint.branches -= 1;
            if checkpoint.branches > 0 {
                return;
            }
            // Nothing is marked in it from now on, so nothing goes on to the one before.
            next = checkpoint.state.parent;
            self.open -= 1;
        }
    }

    /// Forgets a done checkpoint.
    pub(super) fn forget(&mut self, id: CheckpointId) {
        if let Some(checkpoint) = self.all[id.0 as usize].take() {
            self.memory -= checkpoint.memory;
            self.free.push(id);
        }
    }

    /// Notes that a place of the current state is read.
    pub(super) fn read(&mut self, state: &mut State, place: Place) {
        if state.settled.has(place) {
            return;
        }
        state.settled.add(place);
        let mut next = state.parent;
        while let Some(checkpoint) = next.and_then(|id| self.look(id)) {
            if checkpoint.read.has(place) {
                return;
            }
            checkpoint.read.add(place);
            if checkpoint.state.settled.has(place) {
                return;
            }
            next = checkpoint.state.parent;
        }
    }

    /// Notes that a verdict depends on the value of a scalar that was computed from `sources`, the
    /// last checkpoint being `parent`.
    pub(super) fn demand(&mut self, parent: Option<CheckpointId>, sources: Sources) {
        self.mark(parent, sources, |checkpoint| &mut checkpoint.precise);
    }

    /// Notes that it may depend on such.
    pub(super) fn settle_on(&mut self, parent: Option<CheckpointId>, sources: Sources) {
        self.mark(parent, sources, |checkpoint| &mut checkpoint.settled_on);
    }

    fn mark(
        &mut self,
        parent: Option<CheckpointId>,
        sources: Sources,
        marks: impl Fn(&mut Checkpoint) -> &mut Sources,
    ) {
        let (mut next, mut sources) = (parent, sources);
        while let Some(checkpoint) = next.and_then(|id| self.look(id)) {
            let marked = marks(checkpoint);
            let new = sources.without(*marked);
            if new.is_empty() {
                return;
            }
            *marked = marked.union(new);
            let frames = checkpoint.state.frames.len();
            sources = self::sources(&checkpoint.state, new, frames);
            next = checkpoint.state.parent;
            let work = work_on(checkpoint.memory);
            self.work += work;
        }
    }
}

/// After a checkpoint, every scalar comes from the place that it is in.
fn restart_sources(state: &mut State) {
    let frames = state.frames.len();
    for (frame, f) in state.frames.iter_mut().enumerate() {
        for (register, value) in f.registers.iter_mut().enumerate() {
            start_from(value, Place::Register { frame, register }.source(frames));
        }
        for (slot, content) in f.stack.slots_mut().iter_mut().enumerate() {
            if let Some(value) = content.spilled.as_deref_mut() {
                start_from(value, Place::Slot { frame, slot }.source(frames));
            }
        }
    }
}

fn start_from(value: &mut Value, source: usize) {
    if let Value::Scalar(scalar) = value {
        scalar.sources = Sources::one(source);
    }
}
