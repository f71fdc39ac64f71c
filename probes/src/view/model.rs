//! A machine for the view code that misbehaves wherever the architecture allows it.
//!
//! Its memory is real, its CPUs are not: where a real CPU holds *some* of the translations and
//! instructions that it could hold, a model CPU holds *all* of them, and a lookup answers with the
//! set of everything that a real CPU could do. A test passes only if that set has one element, so
//! no seed has to be lucky.
//!
//! - **Translations.** A descriptor that a CPU could reach from its root may be cached from the
//!   moment it is valid, the intermediate levels too, until it is invalidated. Overwriting one
//!   leaves the old value (and all that it led to) in the cache of every CPU on that tree. A new
//!   valid descriptor that disagrees with something cached is the *conflict* that break-before-make
//!   exists to prevent, and panics.
//! - **Order.** A descriptor that is written is not visible before `publish`: invalidating or
//!   linking a table before that panics, and so does a CPU that runs.
//! - **Frames.** Freeing one that any CPU can still reach, or a second time, panics.
//! - **Instructions.** A fetch can see every value that the word ever had since the last
//!   `sync_icache` of it.
//!
//! Stage 1 is not modelled: the port's contract says that an invalidation drops combined entries
//! too.

use crate::addr::{Gpa, Hpa, PAGE_SIZE};
use crate::stage2::{Descriptor, Level, Port};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

const WORDS: usize = (PAGE_SIZE / 4) as usize;
const LEVELS: [Level; 3] = [Level::One, Level::Two, Level::Three];

/// Whether a view switch does what it must.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LocalInvalidate {
    Done,
    Forgotten,
}

/// What a CPU can do with an address: fault, or use this descriptor of this level.
type Outcome = Option<(Level, u64)>;

/// The entry of a level that covers an address.
type Slot = (Level, Gpa);

#[derive(Default)]
struct Cpu {
    root: Hpa,
    /// Valid descriptors that were overwritten and not invalidated since.
    stale: BTreeMap<Slot, BTreeSet<u64>>,
}

/// Where a table hangs.
#[derive(Clone, Copy)]
struct Place {
    root: Hpa,
    level: Level,
    start: Gpa,
}

#[derive(Default)]
struct State {
    frames: BTreeMap<Hpa, Box<[u32; WORDS]>>,
    pool: Vec<Hpa>,
    allocated: BTreeSet<Hpa>,
    unpublished: BTreeSet<Hpa>,
    cpus: Vec<Cpu>,
    /// Tables that some walk can reach.
    places: BTreeMap<Hpa, Place>,
    /// Former values of words that an instruction cache may hold.
    stale_words: BTreeMap<Hpa, BTreeSet<u32>>,
}

/// The machine. A reference to it is a [`Port`].
pub(super) struct Model(RefCell<State>);

impl Model {
    /// A machine with `frames` frames in its pool, from `first` on.
    pub(super) fn new(first: Hpa, frames: u64) -> Self {
        let pool = (0..frames).map(|n| Hpa(first.0 + n * PAGE_SIZE)).collect();
        Self(RefCell::new(State {
            pool,
            ..State::default()
        }))
    }

    /// Starts `count` CPUs on the tree at `root`.
    pub(super) fn start_cpus(&self, count: usize, roots: &[Hpa], root: Hpa) {
        let mut state = self.0.borrow_mut();
        for &root in roots {
            state.place(
                root,
                Place {
                    root,
                    level: Level::One,
                    start: Gpa(0),
                },
            );
        }
        state.cpus = (0..count)
            .map(|_| Cpu {
                root,
                ..Cpu::default()
            })
            .collect();
    }

    /// Moves a CPU to another tree.
    pub(super) fn switch(&self, cpu: usize, root: Hpa, invalidate: LocalInvalidate) {
        let mut state = self.0.borrow_mut();
        if invalidate == LocalInvalidate::Forgotten {
            let old = state.cpus[cpu].root;
            for (slot, value) in state.reachable(old, Level::One, Gpa(0)) {
                state.cpus[cpu].stale.entry(slot).or_default().insert(value);
            }
        } else {
            state.cpus[cpu].stale.clear();
        }
        state.cpus[cpu].root = root;
    }

    /// What a fetch by `cpu` sees; `None` is a stage-2 fault.
    pub(super) fn fetch(&self, cpu: usize, gpa: Gpa) -> Option<u32> {
        let state = self.0.borrow();
        let leaf = state.translate(cpu, gpa)?;
        if leaf.1 & (1 << 54) != 0 {
            return None;
        }
        let at = output(leaf, gpa);
        let stale = state.stale_words.get(&at);
        let now = state.word(at);
        assert!(
            stale.is_none_or(|old| old.iter().all(|&old| old == now)),
            "fetch of {gpa} can see {stale:x?} instead of {now:#x}"
        );
        Some(now)
    }

    /// What a load by `cpu` sees; `None` is a stage-2 fault.
    pub(super) fn load(&self, cpu: usize, gpa: Gpa) -> Option<u32> {
        let state = self.0.borrow();
        let leaf = state.translate(cpu, gpa)?;
        let readable = leaf.1 & (1 << 6) != 0;
        readable.then(|| state.word(output(leaf, gpa)))
    }

    /// A store by `cpu`, followed by the maintenance by which a guest makes its own code change
    /// visible.
    pub(super) fn store(&self, cpu: usize, gpa: Gpa, word: u32) -> Option<()> {
        let mut state = self.0.borrow_mut();
        let leaf = state.translate(cpu, gpa)?;
        if leaf.1 & (1 << 7) == 0 {
            return None;
        }
        let at = output(leaf, gpa);
        state.set_word(at, word);
        state.stale_words.remove(&at);
        Some(())
    }

    /// Every valid descriptor of the tree at `root`.
    pub(super) fn dump(&self, root: Hpa) -> Vec<(Slot, u64)> {
        self.0.borrow().reachable(root, Level::One, Gpa(0))
    }

    /// How many frames of the pool are free.
    pub(super) fn spare(&self) -> usize {
        self.0.borrow().pool.len()
    }

    /// How many frames of the pool are in use.
    pub(super) fn in_use(&self) -> usize {
        self.0.borrow().allocated.len()
    }
}

/// The address that the translation `leaf` gives `gpa`.
fn output((level, value): (Level, u64), gpa: Gpa) -> Hpa {
    Hpa(Descriptor(value).address().0 + (gpa.0 & (level.entry_size() - 1)))
}

impl State {
    fn word(&self, at: Hpa) -> u32 {
        let index = (at.page_offset() / 4) as usize;
        self.frames.get(&at.page()).map_or(0, |frame| frame[index])
    }

    fn set_word(&mut self, at: Hpa, word: u32) {
        let old = self.word(at);
        if old != word {
            self.stale_words.entry(at).or_default().insert(old);
        }
        let index = (at.page_offset() / 4) as usize;
        self.frames
            .entry(at.page())
            .or_insert_with(|| Box::new([0; WORDS]))[index] = word;
    }

    fn descriptor(&self, at: Hpa) -> u64 {
        u64::from(self.word(at)) | u64::from(self.word(Hpa(at.0 + 4))) << 32
    }

    /// Every valid descriptor of the table at `table` and below it.
    fn reachable(&self, table: Hpa, level: Level, start: Gpa) -> Vec<(Slot, u64)> {
        let mut found = Vec::new();
        for index in 0..512 {
            let value = self.descriptor(Hpa(table.0 + index * 8));
            if !Descriptor(value).is_valid() {
                continue;
            }
            let gpa = Gpa(start.0 + index * level.entry_size());
            found.push(((level, gpa), value));
            found.extend(self.below(level, gpa, value));
        }
        found
    }

    /// Every valid descriptor that the descriptor `value` leads to.
    fn below(&self, level: Level, gpa: Gpa, value: u64) -> Vec<(Slot, u64)> {
        match level.below() {
            Some(below) if Descriptor(value).is_table(level) => {
                self.reachable(Descriptor(value).address(), below, gpa)
            }
            _ => Vec::new(),
        }
    }

    /// Notes where the table at `table` and those below it hang.
    fn place(&mut self, table: Hpa, place: Place) {
        self.places.insert(table, place);
        for ((level, start), value) in self.reachable(table, place.level, place.start) {
            if let Some(below) = level.below()
                && Descriptor(value).is_table(level)
            {
                let place = Place {
                    root: place.root,
                    level: below,
                    start,
                };
                self.places.insert(Descriptor(value).address(), place);
            }
        }
    }

    /// Everything that `cpu` can do with `gpa`.
    fn outcomes(&self, cpu: usize, gpa: Gpa) -> BTreeSet<Outcome> {
        let cpu = &self.cpus[cpu];
        let mut outcomes = BTreeSet::new();
        let mut tables = BTreeSet::from([cpu.root]);
        for level in LEVELS {
            let stale = cpu
                .stale
                .get(&(level, level.start(gpa)))
                .cloned()
                .unwrap_or_default();
            let fresh = tables
                .iter()
                .map(|&table| self.descriptor(level.entry(table, gpa)));
            let candidates: BTreeSet<u64> = stale.into_iter().chain(fresh).collect();
            tables = BTreeSet::new();
            for value in candidates {
                if Descriptor(value).is_table(level) {
                    tables.insert(Descriptor(value).address());
                } else {
                    let leaf = Descriptor(value).is_valid().then_some((level, value));
                    outcomes.insert(leaf);
                }
            }
        }
        outcomes
    }

    /// The one thing that `cpu` can do with `gpa`.
    fn translate(&self, cpu: usize, gpa: Gpa) -> Outcome {
        assert!(self.unpublished.is_empty(), "a CPU runs before DSB");
        let outcomes = self.outcomes(cpu, gpa);
        assert_eq!(
            outcomes.len(),
            1,
            "CPU {cpu} can translate {gpa} to any of {outcomes:x?}"
        );
        outcomes.into_iter().next().flatten()
    }

    /// The CPUs that walk the tree at `root`.
    fn cpus_on(&mut self, root: Hpa) -> impl Iterator<Item = &mut Cpu> {
        self.cpus.iter_mut().filter(move |cpu| cpu.root == root)
    }

    /// A descriptor that CPUs can reach loses its value `old`: they may go on using it.
    fn retain(&mut self, root: Hpa, slot: Slot, old: u64) {
        let mut all = vec![(slot, old)];
        all.extend(self.below(slot.0, slot.1, old));
        for cpu in self.cpus_on(root) {
            for &(slot, value) in &all {
                cpu.stale.entry(slot).or_default().insert(value);
            }
        }
    }

    /// A descriptor that CPUs can reach becomes `new`: nothing they hold may disagree.
    fn check_conflict(&mut self, root: Hpa, slot: Slot, new: u64) {
        let mut fresh = BTreeMap::from([(slot, new)]);
        fresh.extend(self.below(slot.0, slot.1, new));
        let (level, start) = slot;
        let end = Gpa(start.0 + level.entry_size());
        for cpu in self.cpus_on(root) {
            for (&(held_level, held_start), values) in &cpu.stale {
                let held_end = Gpa(held_start.0 + held_level.entry_size());
                let apart = held_end <= start || end <= held_start;
                for &held in values {
                    let is_link_above = held_level < level && Descriptor(held).is_table(held_level);
                    let same = fresh.get(&(held_level, held_start)) == Some(&held);
                    assert!(
                        apart || is_link_above || same,
                        "conflict: {new:#x} at {slot:x?} while {held:#x} at \
                         {held_level:?} {held_start} is cached"
                    );
                }
            }
        }
    }
}

impl Port for &Model {
    fn read_descriptor(&self, at: Hpa) -> u64 {
        self.0.borrow().descriptor(at)
    }

    fn write_descriptor(&self, at: Hpa, value: u64) {
        let mut state = self.0.borrow_mut();
        assert!(
            state.allocated.contains(&at.page()),
            "descriptor outside of a table"
        );
        let old = state.descriptor(at);
        let place = state.places.get(&at.page()).copied();
        let slot = place.map(|place| {
            let start = place.start.0 + at.page_offset() / 8 * place.level.entry_size();
            (place.root, (place.level, Gpa(start)))
        });
        if let Some((root, slot)) = slot
            && Descriptor(old).is_valid()
        {
            state.retain(root, slot, old);
        }
        state.set_word(at, value as u32);
        state.set_word(Hpa(at.0 + 4), (value >> 32) as u32);
        if let Some((root, slot)) = slot
            && Descriptor(value).is_valid()
        {
            state.check_conflict(root, slot, value);
            if let Some(level) = slot.0.below()
                && Descriptor(value).is_table(slot.0)
            {
                assert!(state.unpublished.is_empty(), "a table is linked before DSB");
                let table = Descriptor(value).address();
                state.place(
                    table,
                    Place {
                        root,
                        level,
                        start: slot.1,
                    },
                );
            }
        }
        state.unpublished.insert(at);
    }

    fn publish(&self) {
        self.0.borrow_mut().unpublished.clear();
    }

    fn allocate(&self) -> Option<Hpa> {
        let mut state = self.0.borrow_mut();
        let frame = state.pool.pop()?;
        for offset in (0..PAGE_SIZE).step_by(4) {
            state.set_word(Hpa(frame.0 + offset), 0);
        }
        state.allocated.insert(frame);
        state.unpublished.insert(frame);
        Some(frame)
    }

    fn free(&self, frame: Hpa) {
        let mut state = self.0.borrow_mut();
        assert!(state.allocated.remove(&frame), "{frame} is freed twice");
        state.places.remove(&frame);
        state.unpublished.retain(|at| at.page() != frame);
        for cpu in &state.cpus {
            let stale = cpu
                .stale
                .iter()
                .flat_map(|(&slot, values)| values.iter().map(move |&value| (slot, value)));
            let fresh = state.reachable(cpu.root, Level::One, Gpa(0));
            for ((_, gpa), value) in stale.chain(fresh) {
                let reached = Descriptor(value).address();
                assert!(
                    reached != frame,
                    "{frame} is freed while a CPU reaches it by {gpa}"
                );
            }
        }
        state.pool.push(frame);
    }

    fn read_word(&self, at: Hpa) -> u32 {
        self.0.borrow().word(at)
    }

    fn write_word(&self, at: Hpa, word: u32) {
        let mut state = self.0.borrow_mut();
        assert!(
            state.allocated.contains(&at.page()),
            "guest memory is written"
        );
        state.set_word(at, word);
    }

    fn sync_icache(&self, at: Hpa, length: u64) {
        let mut state = self.0.borrow_mut();
        let end = Hpa(at.0 + length);
        state
            .stale_words
            .retain(|&word, _| word < at || word >= end);
    }

    fn invalidate_ipa(&self, gpa: Gpa) {
        let mut state = self.0.borrow_mut();
        assert!(state.unpublished.is_empty(), "TLBI before DSB");
        for cpu in &mut state.cpus {
            for level in LEVELS {
                cpu.stale.remove(&(level, level.start(gpa)));
            }
        }
    }

    fn invalidate_all(&self) {
        let mut state = self.0.borrow_mut();
        assert!(state.unpublished.is_empty(), "TLBI before DSB");
        for cpu in &mut state.cpus {
            cpu.stale.clear();
        }
    }
}
