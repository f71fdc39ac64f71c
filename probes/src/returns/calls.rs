//! The calls of one function that have begun and not returned.
//!
//! A fixed number of places, taken when the probe is attached: the hit path allocates nothing. The
//! calls of one task on one stack form a chain, the latest first. All of them are in the order of
//! their age too: where no place is left the oldest call gives its own up, which is more often one
//! that will never return (its task died in it) than one that waits.

use crate::options::MAX_CALLS;
use alloc::boxed::Box;
use alloc::vec;
#[cfg(test)]
use alloc::vec::Vec;
use ebpf::signature::MAX_ARGUMENTS;

/// Which call: two that are under way at the same time differ in this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    /// What tells the threads of execution apart: the guest's `SP_EL0`, where Linux keeps
    /// `current`; a vCPU or CPU number where there is no such thing.
    pub(crate) task: u64,
    /// The stack pointer at the entry.
    pub(crate) sp: u64,
}

/// Stacks are at least so large, and aligned to it: Linux' `THREAD_SIZE` and IRQ stacks. Frames of
/// one task in one such block are on the same stack.
const STACK_SHIFT: u32 = 14;

impl Frame {
    fn same_stack(&self, other: &Self) -> bool {
        self.task == other.task && self.sp >> STACK_SHIFT == other.sp >> STACK_SHIFT
    }
}

/// A call that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Call {
    pub(crate) frame: Frame,
    /// Where it returns to.
    pub(crate) return_address: u64,
    /// When it began, in nanoseconds.
    pub(crate) time_ns: u64,
    /// Whether it was known to trap behind the call instruction too when it began.
    pub(crate) watched: bool,
}

/// A place for a call.
#[derive(Clone, Copy)]
struct Place {
    call: Call,
    /// The next of its chain, or of the free places.
    next: u16,
    older: u16,
    newer: u16,
}

/// No place.
const NONE: u16 = u16::MAX;
const _: () = assert!(MAX_CALLS < NONE);

const EMPTY: Place = Place {
    call: Call {
        frame: Frame { task: 0, sp: 0 },
        return_address: 0,
        time_ns: 0,
        watched: false,
    },
    next: NONE,
    older: NONE,
    newer: NONE,
};

/// x0 to x7 at the entry of a call: its arguments (AAPCS64 section 6.8.2).
pub(crate) type Arguments = [u64; MAX_ARGUMENTS];

/// Whether the arguments of calls are wanted when they return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keep {
    /// No.
    Calls,
    /// Yes.
    Arguments,
}

/// The calls of one function.
pub(crate) struct Calls {
    places: Box<[Place]>,
    /// What the call in each place was given; empty where nobody wants to know.
    arguments: Box<[Arguments]>,
    /// The first of each chain.
    heads: Box<[u16]>,
    free: u16,
    oldest: u16,
    newest: u16,
}

impl Calls {
    /// Room for `capacity` calls, at least 1 and at most [`MAX_CALLS`].
    pub(crate) fn new(capacity: usize, keep: Keep) -> Self {
        let capacity = capacity.clamp(1, MAX_CALLS.into());
        let kept = match keep {
            Keep::Calls => 0,
            Keep::Arguments => capacity,
        };
        let mut calls = Self {
            places: vec![EMPTY; capacity].into_boxed_slice(),
            arguments: vec![[0; MAX_ARGUMENTS]; kept].into_boxed_slice(),
            heads: vec![NONE; capacity.next_power_of_two()].into_boxed_slice(),
            free: NONE,
            oldest: NONE,
            newest: NONE,
        };
        calls.clear();
        calls
    }

    /// Forgets all calls.
    pub(crate) fn clear(&mut self) {
        self.heads.fill(NONE);
        self.places.fill(EMPTY);
        for index in 1..self.places.len() {
            self.places[index - 1].next = index as u16;
        }
        self.free = 0;
        self.oldest = NONE;
        self.newest = NONE;
    }

    /// A call begins. Returns how many others are given up: those on the same stack that this one
    /// is not called from, and the oldest where no place is left.
    pub(crate) fn enter(&mut self, call: Call) -> u64 {
        let mut dropped = self.drop_where(call.frame, |other| other.frame.sp <= call.frame.sp);
        if self.free == NONE {
            let oldest = self.oldest;
            self.unchain(oldest);
            self.release(oldest);
            dropped += 1;
        }
        let index = self.free;
        let bucket = self.bucket(call.frame);
        let place = &mut self.places[usize::from(index)];
        self.free = place.next;
        *place = Place {
            call,
            next: self.heads[bucket],
            older: self.newest,
            newer: NONE,
        };
        self.heads[bucket] = index;
        match self.newest {
            NONE => self.oldest = index,
            newest => self.places[usize::from(newest)].newer = index,
        }
        self.newest = index;
        dropped
    }

    /// The call that has just begun was given these arguments.
    pub(crate) fn keep(&mut self, arguments: &Arguments) {
        if let Some(kept) = self.arguments.get_mut(usize::from(self.newest)) {
            *kept = *arguments;
        }
    }

    /// What the call of `frame` was given, if it is known and arguments are kept.
    pub(crate) fn arguments(&self, frame: Frame) -> Option<Arguments> {
        if self.arguments.is_empty() {
            return None;
        }
        self.arguments.get(self.index_of(frame)?).copied()
    }

    /// The call of `frame` has come to its end, if it is known. Returns it, and how many others are
    /// given up: those that are deeper on the same stack.
    pub(crate) fn leave(&mut self, frame: Frame) -> (Option<Call>, u64) {
        let dropped = self.drop_where(frame, |other| other.frame.sp < frame.sp);
        let mut index = self.heads[self.bucket(frame)];
        while index != NONE {
            let place = self.places[usize::from(index)];
            if place.call.frame == frame {
                self.unchain(index);
                self.release(index);
                return (Some(place.call), dropped);
            }
            index = place.next;
        }
        (None, dropped)
    }

    /// The call of `frame`, if it is known.
    pub(crate) fn find(&self, frame: Frame) -> Option<&Call> {
        self.index_of(frame).map(|index| &self.places[index].call)
    }

    /// In which place the call of `frame` is.
    fn index_of(&self, frame: Frame) -> Option<usize> {
        let mut index = self.heads[self.bucket(frame)];
        while index != NONE {
            let place = &self.places[usize::from(index)];
            if place.call.frame == frame {
                return Some(index.into());
            }
            index = place.next;
        }
        None
    }

    /// Gives up the calls on the stack of `frame` that `gone` is true of.
    fn drop_where(&mut self, frame: Frame, gone: impl Fn(&Call) -> bool) -> u64 {
        let mut dropped = 0;
        let bucket = self.bucket(frame);
        let mut previous = NONE;
        let mut index = self.heads[bucket];
        while index != NONE {
            let place = self.places[usize::from(index)];
            if place.call.frame.same_stack(&frame) && gone(&place.call) {
                match previous {
                    NONE => self.heads[bucket] = place.next,
                    previous => self.places[usize::from(previous)].next = place.next,
                }
                self.release(index);
                dropped += 1;
            } else {
                previous = index;
            }
            index = place.next;
        }
        dropped
    }

    /// Takes a place out of its chain.
    fn unchain(&mut self, wanted: u16) {
        let bucket = self.bucket(self.places[usize::from(wanted)].call.frame);
        let after = self.places[usize::from(wanted)].next;
        if self.heads[bucket] == wanted {
            self.heads[bucket] = after;
            return;
        }
        let mut index = self.heads[bucket];
        while index != NONE {
            let place = &mut self.places[usize::from(index)];
            if place.next == wanted {
                place.next = after;
                return;
            }
            index = place.next;
        }
    }

    /// Takes a place that is in no chain out of the order of age, and makes it free.
    fn release(&mut self, index: u16) {
        let Place { older, newer, .. } = self.places[usize::from(index)];
        match older {
            NONE => self.oldest = newer,
            older => self.places[usize::from(older)].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.places[usize::from(newer)].older = older,
        }
        self.places[usize::from(index)] = Place {
            next: self.free,
            ..EMPTY
        };
        self.free = index;
    }

    /// Where the chain of a task and a stack is; Fibonacci hashing.
    fn bucket(&self, frame: Frame) -> usize {
        let key = frame.task ^ (frame.sp >> STACK_SHIFT);
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        hash as usize & (self.heads.len() - 1)
    }

    /// The calls that are under way, the oldest first.
    #[cfg(test)]
    fn by_age(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        let mut index = self.oldest;
        while index != NONE {
            let place = &self.places[usize::from(index)];
            calls.push(place.call);
            index = place.newer;
        }
        calls
    }
}

#[cfg(test)]
mod tests;
