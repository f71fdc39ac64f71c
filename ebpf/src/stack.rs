//! The stacks of an object's programs: one for each CPU, at the beginning of the arena.
//!
//! A stack grows downwards by one frame of 512 bytes for each function. It is cleared before a run
//! only for programs that may read what they have not written, which the verifier knows; clearing
//! it is most of what a short program costs.
//!
//! Below the frames of an object that has `bpf_for_each_map_elem` lie as many again. They hold what
//! that gives the functions that it calls: the key of the entry, one for each function that may be
//! waiting for it.

use crate::arena::{OutOfMemory, allocate};
use crate::helper::MAX_TAIL_CALLS;
use crate::object::RunFault;
use crate::run::TailCall;
use alloc::boxed::Box;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;

/// Bytes of stack that every function of a program has (Linux: `MAX_BPF_STACK`).
pub const FRAME_SIZE: usize = 512;

/// How deep subprograms nest at most, the program itself included (Linux: `MAX_CALL_FRAMES`).
pub const MAX_FRAMES: usize = 8;

/// The stacks of an object.
#[derive(Debug)]
pub(crate) struct Stacks {
    frames: usize,
    /// Which of them are in use.
    taken: Box<[AtomicBool]>,
    /// Why the run on a CPU has failed, between the helper that knows and the end of the run. Apart from what every
    /// run touches.
    faults: Box<[Mutex<Option<RunFault>>]>,
    /// What the run on a CPU goes on with. Apart from that, too.
    tails: Box<[Mutex<Tail>]>,
}

/// The tail calls of a run.
#[derive(Debug, Default)]
struct Tail {
    /// How many there have been.
    count: u32,
    /// What has been found, between the helper and the end of the program that called it.
    next: Option<TailCall>,
}

impl Stacks {
    /// Stacks of `frames` frames for `cpus` CPUs.
    pub(crate) fn allocate(cpus: usize, frames: usize) -> Result<Self, OutOfMemory> {
        let taken = allocate(cpus, |_| AtomicBool::new(false))?;
        let faults = allocate(cpus, |_| Mutex::new(None))?;
        let tails = allocate(cpus, |_| Mutex::new(Tail::default()))?;
        Ok(Self {
            frames,
            taken,
            faults,
            tails,
        })
    }

    /// Keeps why the run on `cpu` fails.
    #[cold]
    pub(crate) fn put_fault(&self, cpu: usize, fault: RunFault) {
        if let Some(place) = self.faults.get(cpu) {
            *place.lock() = Some(fault);
        }
    }

    /// Why the run on `cpu` has failed, if somebody has said so.
    #[cold]
    pub(crate) fn take_fault(&self, cpu: usize) -> Option<RunFault> {
        self.faults.get(cpu)?.lock().take()
    }

    /// Whether the run on `cpu` may go on with another program once more; counts that.
    #[cold]
    pub(crate) fn count_tail_call(&self, cpu: usize) -> bool {
        let Some(mut tail) = self.tails.get(cpu).map(Mutex::lock) else {
            return false;
        };
        let is_allowed = tail.count < MAX_TAIL_CALLS;
        tail.count += u32::from(is_allowed);
        is_allowed
    }

    /// Keeps what the run on `cpu` goes on with.
    #[cold]
    pub(crate) fn put_tail_call(&self, cpu: usize, next: TailCall) {
        if let Some(tail) = self.tails.get(cpu) {
            tail.lock().next = Some(next);
        }
    }

    /// What the run on `cpu` goes on with, if somebody has said so.
    #[cold]
    pub(crate) fn take_tail_call(&self, cpu: usize) -> Option<TailCall> {
        self.tails.get(cpu)?.lock().next.take()
    }

    /// The run on `cpu` is over.
    #[cold]
    pub(crate) fn forget_tail_calls(&self, cpu: usize) {
        if let Some(tail) = self.tails.get(cpu) {
            *tail.lock() = Tail::default();
        }
    }

    /// Bytes that they take of the arena.
    pub(crate) fn bytes(&self) -> usize {
        self.taken.len() * self.size()
    }

    /// Whether that CPU has one.
    pub(crate) fn has(&self, cpu: usize) -> bool {
        cpu < self.taken.len()
    }

    /// Takes the stack of `cpu`, which there is, until the result is dropped; `None` where a
    /// program of the object is running on it: a program that a helper or a tracepoint started
    /// would overwrite what the interrupted one has there.
    #[inline]
    pub(crate) fn take(&self, cpu: usize) -> Option<Stack<'_>> {
        let taken = self.taken.get(cpu)?;
        // Only this CPU ever looks at it.
        if taken.load(Ordering::Relaxed) {
            return None;
        }
        taken.store(true, Ordering::Relaxed);
        Some(Stack(taken))
    }

    /// Bytes of the stack of each CPU, a power of two.
    pub(crate) fn size(&self) -> usize {
        self.frames * FRAME_SIZE
    }

    /// Where the stack of `cpu` is in the arena.
    pub(crate) fn range(&self, cpu: usize) -> Range<usize> {
        cpu * self.size()..(cpu + 1) * self.size()
    }
}

/// The stack of a running program.
#[derive(Debug)]
pub(crate) struct Stack<'a>(&'a AtomicBool);

impl Drop for Stack<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Where the keys lie that `bpf_for_each_map_elem` shows, called with the frame pointer `fp`.
pub(crate) const fn key_of_frame(fp: u64) -> u64 {
    fp.wrapping_sub(KEY_DISTANCE as u64)
}

/// From a key up to the frame pointer of the function that goes through the map.
pub(crate) const KEY_DISTANCE: usize = (MAX_FRAMES + 1) * FRAME_SIZE;

const _: () = assert!(crate::map::MAX_KEY_SIZE as usize <= FRAME_SIZE);

/// The end of the frame that a byte of a stack is in. Frames are aligned: stacks begin where the
/// arena does.
pub(crate) fn frame_end(offset: usize) -> usize {
    (offset / FRAME_SIZE + 1) * FRAME_SIZE
}
