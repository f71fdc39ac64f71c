//! Helpers of queues and stacks.

use super::EINVAL;
use super::call::{bad_access, map_of, result};
use super::read::Target;
use crate::address;
use crate::map::PushFlag;
use crate::object::{Access, RunFault};
use crate::run::Run;

/// Whether the value that is read stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Take {
    /// `map_pop_elem`.
    Pop,
    /// `map_peek_elem`.
    Peek,
}

/// `map_push_elem(map, value, flags)`.
pub(super) fn push(run: &mut Run<'_>, map: u64, value: u64, flags: u64) -> Result<u64, RunFault> {
    let map = map_of(run, map)?;
    let size = map.values().size();
    run.charge(size as u64 / 8)?;
    let refuse = |_| bad_access(value, size, Access::Read);
    run.memory.check_read(value, size).map_err(refuse)?;
    let Some(flag) = PushFlag::from_number(flags) else {
        return Ok(EINVAL);
    };
    let words = run.memory.words(value, size);
    Ok(result(map.push_with(flag, |values, place| {
        values.fill_words(place, size, words);
    })))
}

/// `map_pop_elem(map, value)` and `map_peek_elem(map, value)`. The value becomes zeros where there
/// is nothing to take.
pub(super) fn take(run: &mut Run<'_>, take: Take, map: u64, value: u64) -> Result<u64, RunFault> {
    let map = map_of(run, map)?;
    let size = map.values().size();
    let target = Target::check(run, value, size as u64)?;
    let mut copied = Ok(());
    let copy = |place: usize| copied = run.memory.copy(value, address::arena(place), size);
    let taken = match take {
        Take::Pop => map.pop_with(copy),
        Take::Peek => map.peek_with(copy),
    };
    copied.map_err(|_| bad_access(value, size, Access::Write))?;
    if taken.is_err() {
        target.zero(run)?;
    }
    Ok(result(taken))
}

#[cfg(test)]
mod tests;
