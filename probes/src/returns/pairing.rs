//! Pairing: which entry a return belongs to.
//!
//! A function that leaves by a tail call executes no return instruction of its own: the function
//! that it jumps to returns for it, behind the call instruction of its caller. That place is known
//! only when the call comes, and a hit arms nothing. So the entry leaves the address as a wish; the
//! server arms it at its next tick ([`Pairing::wanted`]), and calls that begin from then on are
//! watched there. A call that began before is not: whether it is still under way when control comes
//! by there, nobody knows.

use super::calls::{Arguments, Call, Calls, Frame, Keep};
use crate::addr::Gva;
use alloc::vec::Vec;
use core::ops::Range;
use spin::Mutex;

/// Places behind call instructions that one probe watches at most.
const MAX_RETURN_SITES: usize = 64;

/// What a hit means to what is bound to a site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// The place itself was asked for.
    Here,
    /// A function begins, whose return was asked for.
    Entry,
    /// A return instruction of that function.
    Return,
    /// The instruction behind a call of that function, which may have left by a tail call.
    ReturnSite {
        /// Where the call returns to: the site itself may be one further, behind a landing pad.
        address: Gva,
    },
}

/// What is known of the bits that a signature may take of an address (FEAT_PAuth, Arm ARM D8.10).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Signature {
    /// Of an address in the lower half.
    low: u64,
    /// Of an address in the upper half.
    high: u64,
}

impl Signature {
    /// By `TCR_EL1.T0SZ` and `T1SZ`.
    pub(crate) fn from_tcr(tcr: u64) -> Self {
        /// Says which half an address is in, signed or not.
        const HALF: u64 = 1 << 55;
        let bits = |size: u64| !(u64::MAX.checked_shr(size as u32).unwrap_or(0)) & !HALF;
        Self {
            low: bits(tcr & 0x3f),
            high: bits(tcr >> 16 & 0x3f),
        }
    }

    /// The address without its signature and without a tag.
    fn strip(self, address: u64) -> u64 {
        if address >> 55 & 1 == 0 {
            address & !self.low
        } else {
            address | self.high
        }
    }
}

/// What the function is that a probe is attached to. Changes while the VM is held.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Function {
    /// From its entry to its end.
    pub(crate) extent: Range<u64>,
    /// Whether it may leave by a tail call.
    pub(crate) has_tail_calls: bool,
    pub(crate) signature: Signature,
}

/// Whether a place behind a call instruction traps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Watch {
    Wanted,
    On,
    /// It cannot.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct ReturnSite {
    address: u64,
    watch: Watch,
}

struct State {
    function: Function,
    calls: Calls,
    /// In the order of their addresses.
    sites: Vec<ReturnSite>,
}

/// The calls of one function that has a probe on its returns. Its lock is held for some tens of
/// instructions of the hit path, which nothing interrupts.
pub(crate) struct Pairing(Mutex<State>);

impl core::fmt::Debug for Pairing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Pairing")
    }
}

/// What an entry has led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Entered {
    /// Calls that have been given up.
    pub(crate) missed: u64,
    /// Whether there is a new place to be armed.
    pub(crate) wants_site: bool,
}

/// What a return has led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Left {
    /// When the call began that returns here; `None` where none is known.
    pub(crate) since_ns: Option<u64>,
    /// What that call was given, where that is kept.
    pub(crate) arguments: Option<Arguments>,
    /// Calls that have been given up.
    pub(crate) missed: u64,
}

impl Pairing {
    /// Room for `capacity` calls that are under way.
    pub(crate) fn new(capacity: usize, keep: Keep) -> Self {
        Self(Mutex::new(State {
            function: Function::default(),
            calls: Calls::new(capacity, keep),
            sites: Vec::with_capacity(MAX_RETURN_SITES),
        }))
    }

    /// The function is this one from now on; no call of it is under way.
    pub(crate) fn reset(&self, function: Function) {
        let mut state = self.0.lock();
        state.function = function;
        state.calls.clear();
        state.sites.clear();
    }

    /// The function is entered with these arguments; `link` is x30.
    pub(crate) fn enter(
        &self,
        frame: Frame,
        link: u64,
        arguments: &Arguments,
        now_ns: u64,
    ) -> Entered {
        let mut state = self.0.lock();
        let return_address = state.function.signature.strip(link);
        let (watched, wants_site) = state.watch(return_address);
        let missed = state.calls.enter(Call {
            frame,
            return_address,
            time_ns: now_ns,
            watched,
        });
        state.calls.keep(arguments);
        Entered { missed, wants_site }
    }

    /// A return instruction of the function is about to go to `target`.
    pub(crate) fn leave(&self, frame: Frame, target: u64) -> Left {
        let mut state = self.0.lock();
        let target = state.function.signature.strip(target);
        let stays_inside = |call: &Call| {
            // The guest's own tracers may have replaced the return address, so it need not be the
            // one of the entry. But a subroutine within the function returns within the function.
            call.return_address != target && state.function.extent.contains(&target)
        };
        if state.calls.find(frame).is_some_and(stays_inside) {
            return Left::default();
        }
        let arguments = state.calls.arguments(frame);
        let (call, missed) = state.calls.leave(frame);
        Left {
            since_ns: call.map(|call| call.time_ns),
            arguments,
            missed,
        }
    }

    /// Control is at `address`, behind a call instruction.
    pub(crate) fn arrive(&self, frame: Frame, address: Gva) -> Left {
        let mut state = self.0.lock();
        let arguments = state.calls.arguments(frame);
        let (call, mut missed) = state.calls.leave(frame);
        let returned = call.filter(|call| call.watched && call.return_address == address.0);
        if call.is_some() && returned.is_none() {
            // It has returned, who knows when: its caller runs.
            missed += 1;
        }
        Left {
            since_ns: returned.map(|call| call.time_ns),
            arguments: arguments.filter(|_| returned.is_some()),
            missed,
        }
    }

    /// The places that should be armed.
    pub(crate) fn wanted(&self) -> Vec<Gva> {
        let state = self.0.lock();
        let wanted = state
            .sites
            .iter()
            .filter(|site| site.watch == Watch::Wanted);
        wanted.map(|site| Gva(site.address)).collect()
    }

    /// Whether some place should be armed.
    pub(crate) fn wants_sites(&self) -> bool {
        let state = self.0.lock();
        state.sites.iter().any(|site| site.watch == Watch::Wanted)
    }

    /// The wanted place traps now.
    pub(crate) fn armed(&self, address: Gva) {
        self.set(address, Watch::On);
    }

    /// The wanted place cannot be armed: calls from there are missed where they leave by a tail
    /// call.
    pub(crate) fn refused(&self, address: Gva) {
        self.set(address, Watch::Refused);
    }

    /// The wanted place is not mapped for now: the next call from there may ask again.
    pub(crate) fn dismiss(&self, address: Gva) {
        let mut state = self.0.lock();
        if let Ok(index) = state.position(address.0) {
            state.sites.remove(index);
        }
    }

    fn set(&self, address: Gva, watch: Watch) {
        let mut state = self.0.lock();
        if let Ok(index) = state.position(address.0) {
            state.sites[index].watch = watch;
        }
    }
}

impl State {
    fn position(&self, address: u64) -> Result<usize, usize> {
        self.sites
            .binary_search_by_key(&address, |site| site.address)
    }

    /// Whether a call that returns to `address` will be seen there, and whether that is a new wish.
    fn watch(&mut self, address: u64) -> (bool, bool) {
        if !self.function.has_tail_calls {
            return (false, false);
        }
        match self.position(address) {
            Ok(index) => (self.sites[index].watch == Watch::On, false),
            // Within its capacity: a push does not allocate.
            Err(index) if self.sites.len() < MAX_RETURN_SITES => {
                let watch = Watch::Wanted;
                self.sites.insert(index, ReturnSite { address, watch });
                (false, true)
            }
            Err(_) => (false, false),
        }
    }
}

#[cfg(test)]
mod tests;
