//! Helpers that call functions of the program: what both ways to run a program have in common.

use super::call::{bad_access, map_of};
use super::{E2BIG, EINVAL};
use crate::map::MAX_KEY_SIZE;
use crate::object::{Access, RunFault};
use crate::run::Run;

/// How often `bpf_loop` calls its function at most (Linux: `BPF_MAX_LOOPS`).
pub(crate) const MAX_ROUNDS: u32 = 1 << 23;

/// Entries that are looked at for the price of an instruction.
const ENTRIES_PER_CHARGE: usize = 8;

/// What a helper calls a function for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rounds {
    /// So many times.
    Times(u64),
    /// For the entries of a map, which the next of them is looked for in.
    Entries {
        /// The map, as programs name it.
        map: u64,
        /// The number of the entry to begin with.
        position: u64,
    },
}

/// What a helper that calls a function does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Iteration {
    rounds: Rounds,
    /// What the function is given beside.
    context: u64,
    /// How often it has been called.
    pub(crate) done: u64,
}

impl Iteration {
    /// What `bpf_loop(times, _, context, flags)` does, or what it returns at once.
    pub(crate) fn times(times: u64, context: u64, flags: u64) -> Result<Self, u64> {
        let times = times as u32;
        if flags != 0 {
            return Err(EINVAL);
        }
        if times > MAX_ROUNDS {
            return Err(E2BIG);
        }
        Ok(Self {
            rounds: Rounds::Times(times.into()),
            context,
            done: 0,
        })
    }

    /// What `bpf_for_each_map_elem(map, _, context, flags)` does, or what it returns at once.
    pub(crate) fn entries(map: u64, context: u64, flags: u64) -> Result<Self, u64> {
        if flags != 0 {
            return Err(EINVAL);
        }
        Ok(Self {
            rounds: Rounds::Entries { map, position: 0 },
            context,
            done: 0,
        })
    }

    /// The arguments of the next call, if there is one. A key is shown at `key`.
    pub(crate) fn next(
        &mut self,
        run: &mut Run<'_>,
        key: u64,
    ) -> Result<Option<[u64; 4]>, RunFault> {
        let arguments = match &mut self.rounds {
            Rounds::Times(times) if self.done >= *times => return Ok(None),
            Rounds::Times(_) => [self.done, self.context, 0, 0],
            Rounds::Entries { map, position } => {
                let Some(element) = Element::unpack(next_element(run, *map, *position, key)?)
                else {
                    return Ok(None);
                };
                *position = element.position;
                [
                    *map,
                    key,
                    crate::address::arena(element.value),
                    self.context,
                ]
            }
        };
        self.done += 1;
        Ok(Some(arguments))
    }
}

/// An entry of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Element {
    /// The number of the entry behind it.
    position: u64,
    /// Where its value is in the arena.
    value: usize,
}

impl Element {
    /// As one number, for compiled code: the position in the high half. Not 0, since no value lies
    /// where an arena begins.
    const fn pack(self) -> u64 {
        self.position << 32 | self.value as u64
    }

    fn unpack(packed: u64) -> Option<Self> {
        (packed != 0).then_some(Self {
            position: packed >> 32,
            value: packed as u32 as usize,
        })
    }
}

/// Looks for an entry of the map from number `position` on, writes its key to `key`, and returns it as
/// [`Element`] packs it; 0 where there is none.
pub(crate) fn next_element(
    run: &mut Run<'_>,
    map: u64,
    position: u64,
    key: u64,
) -> Result<u64, RunFault> {
    let map = map_of(run, map)?;
    let length = map.definition().key_size as usize;
    let mut bytes = [0; MAX_KEY_SIZE as usize];
    let bytes = &mut bytes[..length];
    let entries = map.values().shape().entries;
    for entry in position as usize..entries {
        if entry.is_multiple_of(ENTRIES_PER_CHARGE) {
            run.charge(1)?;
        }
        if let Some(value) = map.entry(entry, run.cpu, bytes) {
            run.memory
                .write(key, bytes)
                .map_err(|_| bad_access(key, length, Access::Write))?;
            let position = entry as u64 + 1;
            return Ok(Element { position, value }.pack());
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
