//! Helpers that put records out: through perf event arrays and ring buffers.

use super::call::{bad_access, map_of};
use super::{E2BIG, EAGAIN, EINVAL, ENOENT, ENOSPC, EOPNOTSUPP};
use crate::address::{self, Place};
use crate::host::Lost;
use crate::map::{Map, Records};
use crate::object::{Access, RunFault};
use crate::run::Run;

/// What a record costs of the budget beside its bytes, in instructions.
const COST: u64 = 50;

/// The bits of the flags that say which CPU's buffer (`BPF_F_INDEX_MASK`), and their value for that
/// of this CPU (`BPF_F_CURRENT_CPU`).
const INDEX: u64 = u32::MAX as u64;

/// Whether to wake the reader (`BPF_RB_NO_WAKEUP`, `BPF_RB_FORCE_WAKEUP`): it is never asleep.
const WAKEUP: u64 = 1 | 2;

/// `perf_event_output(context, map, flags, data, size)`.
pub(super) fn perf_event_output(run: &mut Run<'_>, args: [u64; 5]) -> Result<u64, RunFault> {
    let [_, map, flags, data, size] = args;
    let map = map_of(run, map)?;
    let Some(records) = map.records() else {
        return Ok(EINVAL);
    };
    if flags & !INDEX != 0 {
        return Ok(EINVAL);
    }
    let index = match flags {
        INDEX => run.cpu as u64,
        index => index,
    };
    // Without a number of entries, there is one for each CPU.
    let entries = match map.definition().max_entries {
        0 => map.cpus() as u64,
        entries => entries.into(),
    };
    if index >= entries {
        return Ok(E2BIG);
    }
    if index >= map.cpus() as u64 {
        return Ok(ENOENT);
    }
    if index != run.cpu as u64 {
        return Ok(EOPNOTSUPP);
    }
    put_out(run, map, records, data, size as usize, ENOSPC)
}

/// `ringbuf_output(map, data, size, flags)`.
pub(super) fn ringbuf_output(run: &mut Run<'_>, args: [u64; 5]) -> Result<u64, RunFault> {
    let [map, data, size, flags, _] = args;
    let map = map_of(run, map)?;
    match map.records() {
        Some(records) if flags & !WAKEUP == 0 => {
            put_out(run, map, records, data, size as usize, EAGAIN)
        }
        _ => Ok(EINVAL),
    }
}

/// Copies a record out of the program's memory; `full` is the error where there is no room.
fn put_out(
    run: &mut Run<'_>,
    map: &Map,
    records: &Records,
    data: u64,
    size: usize,
    full: u64,
) -> Result<u64, RunFault> {
    run.charge(COST + size as u64 / 8)?;
    run.memory
        .check_read(data, size)
        .map_err(|_| bad_access(data, size, Access::Read))?;
    if records.claim(size).is_err() {
        return Ok(full);
    }
    let sent = send(run, map, records, data, size);
    Ok(sent.map_or(full, |()| 0))
}

/// Sends a record for which there is room, and whose memory can be read. Where the machine has none
/// for it, it is lost, and the result says so.
fn send(run: &Run<'_>, map: &Map, records: &Records, data: u64, size: usize) -> Result<(), Lost> {
    let words = run.memory.words(data, size);
    let sent = run.host.record(map.id(), size, &words);
    match sent {
        Ok(()) => records.put_out(),
        Err(Lost) => records.lose(size),
    }
    sent
}

/// `ringbuf_reserve(map, size, flags)`: the address of the memory, or 0.
pub(super) fn ringbuf_reserve(run: &mut Run<'_>, args: [u64; 5]) -> Result<u64, RunFault> {
    let [map, size, flags, ..] = args;
    // Submitting it is paid for as well: what has been reserved can always be given back.
    run.charge(COST.saturating_add(size / 8))?;
    let map = map_of(run, map)?;
    let values = map.values();
    let (Some(records), Some(start), 0) = (map.records(), values.at(0, run.cpu), flags) else {
        return Ok(0);
    };
    let reserved = records.reserve(run.cpu, size as usize, values.size());
    Ok(reserved.map_or(0, |offset| address::arena(start + offset)))
}

/// `ringbuf_submit(data, flags)`.
pub(super) fn ringbuf_submit(run: &mut Run<'_>, data: u64) -> Result<u64, RunFault> {
    let (map, records, size) = release(run, data)?;
    // A program does not hear of a record that is lost here; the map counts it.
    let _ = send(run, map, records, data, size);
    Ok(0)
}

/// `ringbuf_discard(data, flags)`.
pub(super) fn ringbuf_discard(run: &mut Run<'_>, data: u64) -> Result<u64, RunFault> {
    let (_, records, size) = release(run, data)?;
    records.consume(size);
    Ok(0)
}

/// Ends a reservation: of which map, and how many bytes.
fn release<'a>(run: &Run<'a>, data: u64) -> Result<(&'a Map, &'a Records, usize), RunFault> {
    let find = || {
        let Some(Place::Arena(offset)) = Place::parse(data) else {
            return None;
        };
        let map = run.memory.map_at(offset)?;
        let records = map.records()?;
        let offset = offset.checked_sub(map.values().at(0, run.cpu)?)?;
        let size = records.release(run.cpu, offset)?;
        Some((map, records, size))
    };
    find().ok_or(RunFault::NotReserved { address: data })
}

/// `ringbuf_query(map, flags)`.
pub(super) fn ringbuf_query(run: &mut Run<'_>, map: u64, what: u64) -> Result<u64, RunFault> {
    let records = map_of(run, map)?.records();
    Ok(records.map_or(0, |records| records.query(what)))
}

#[cfg(test)]
mod tests;
