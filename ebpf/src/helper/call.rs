//! What the helpers do.

use super::format::{Line, Strings, format};
use super::{EFAULT, EINVAL, Helper, MAX_PRINT};
use crate::address::{self, Place};
use crate::host::{Host, ReadFault};
use crate::map::{MAX_KEY_SIZE, Map, UpdateFlag};
use crate::memory::Memory;
use crate::object::{Access, RunFault};
use crate::run::Run;

/// Arguments of `trace_vprintk` at most (Linux: `MAX_BPRINTF_VARARGS`).
const MAX_ARGUMENTS: usize = 12;
/// What printing costs of the budget, in instructions.
const PRINT_COST: u64 = 100;
/// Bytes that are copied from the guest at a time.
const CHUNK: usize = 256;

/// Calls a helper with r1 to r5 and returns its r0.
pub(crate) fn call(run: &mut Run<'_>, helper: Helper, args: [u64; 5]) -> Result<u64, RunFault> {
    let [first, second, third, fourth, _] = args;
    match helper {
        Helper::MapLookupElem => map_lookup(run, first, second),
        Helper::MapUpdateElem => map_update(run, first, second, third, fourth),
        Helper::MapDeleteElem => map_delete(run, first, second),
        Helper::ProbeRead | Helper::ProbeReadKernel => {
            probe_read(run, first, second as u32 as usize, third)
        }
        Helper::KtimeGetNs => Ok(run.host.ktime_ns()),
        Helper::DurationNs => Ok(run.host.duration_ns().unwrap_or(0)),
        Helper::GetSmpProcessorId => Ok(run.cpu as u64),
        Helper::TracePrintk => print(run, first, second as u32 as usize, &args[2..]),
        Helper::TraceVprintk => print_array(run, [first, second], third, fourth as u32 as usize),
    }
}

fn bad_access(address: u64, length: usize, access: Access) -> RunFault {
    RunFault::BadAccess {
        address,
        length: length as u32,
        access,
    }
}

fn read(run: &Run<'_>, address: u64, target: &mut [u8]) -> Result<(), RunFault> {
    let length = target.len();
    run.memory
        .read(address, target)
        .map_err(|_| bad_access(address, length, Access::Read))
}

/// The map that a program passes to a helper.
fn map_of<'a>(run: &Run<'a>, handle: u64) -> Result<&'a Map, RunFault> {
    let map = match Place::parse(handle) {
        Some(Place::Handle(index)) => run.memory.maps.get(index),
        _ => None,
    };
    map.ok_or(RunFault::NotAMap { value: handle })
}

/// A key, copied out of the program's memory.
struct Key {
    bytes: [u8; MAX_KEY_SIZE as usize],
    length: usize,
}

impl Key {
    fn read(run: &Run<'_>, map: &Map, address: u64) -> Result<Self, RunFault> {
        let length = map.definition().key_size as usize;
        let mut key = Self {
            bytes: [0; MAX_KEY_SIZE as usize],
            length,
        };
        read(run, address, &mut key.bytes[..length])?;
        Ok(key)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn map_lookup(run: &mut Run<'_>, handle: u64, key: u64) -> Result<u64, RunFault> {
    let map = map_of(run, handle)?;
    let key = Key::read(run, map, key)?;
    Ok(map.place(key.as_bytes(), run.cpu).map_or(0, address::arena))
}

fn map_update(
    run: &mut Run<'_>,
    handle: u64,
    key: u64,
    value: u64,
    flags: u64,
) -> Result<u64, RunFault> {
    let map = map_of(run, handle)?;
    let key = Key::read(run, map, key)?;
    let size = map.values().size();
    run.charge(size as u64 / 8)?;
    run.memory
        .check_read(value, size)
        .map_err(|_| bad_access(value, size, Access::Read))?;
    let Some(flag) = UpdateFlag::from_number(flags) else {
        return Ok(EINVAL);
    };
    let memory = &run.memory;
    let result = map.update_with(key.as_bytes(), run.cpu, flag, |values, place| {
        values.fill_words(place, size, |index| {
            let offset = 8 * index;
            let word = memory.load_up_to_word(value + offset as u64, (size - offset).min(8));
            // The whole value has been checked above, and a program cannot take memory away.
            word.unwrap_or(0)
        });
    });
    Ok(result.map_or_else(|error| error.errno(), |()| 0))
}

fn map_delete(run: &mut Run<'_>, handle: u64, key: u64) -> Result<u64, RunFault> {
    let map = map_of(run, handle)?;
    let key = Key::read(run, map, key)?;
    Ok(map
        .delete(key.as_bytes())
        .map_or_else(|error| error.errno(), |()| 0))
}

/// Reads the guest's memory, or the program's own where the address is one of ours.
fn read_anything(
    memory: &Memory<'_>,
    host: &dyn Host,
    address: u64,
    target: &mut [u8],
) -> Result<(), ReadFault> {
    if Place::parse(address).is_some() {
        return memory.read(address, target).map_err(|_| ReadFault);
    }
    // A guest's range that wraps is no range.
    address.checked_add(target.len() as u64).ok_or(ReadFault)?;
    host.read_guest(address, target)
}

fn probe_read(run: &mut Run<'_>, target: u64, size: usize, source: u64) -> Result<u64, RunFault> {
    let refuse = |_| bad_access(target, size, Access::Write);
    run.memory.check_write(target, size).map_err(refuse)?;
    run.charge(size as u64 / 8)?;
    let mut buffer = [0; CHUNK];
    let mut done = 0;
    while done < size {
        let chunk = &mut buffer[..CHUNK.min(size - done)];
        let address = source.wrapping_add(done as u64);
        if read_anything(&run.memory, run.host, address, chunk).is_err() {
            return zero(run, target, size).map(|()| EFAULT);
        }
        run.memory
            .write(target + done as u64, chunk)
            .map_err(refuse)?;
        done += chunk.len();
    }
    Ok(0)
}

fn zero(run: &mut Run<'_>, target: u64, size: usize) -> Result<(), RunFault> {
    let zeros = [0; CHUNK];
    let mut done = 0;
    while done < size {
        let chunk = &zeros[..CHUNK.min(size - done)];
        let result = run.memory.write(target + done as u64, chunk);
        result.map_err(|_| bad_access(target, size, Access::Write))?;
        done += chunk.len();
    }
    Ok(())
}

/// The strings that `%s` prints, in the guest's memory or the program's own.
struct Reachable<'a> {
    memory: &'a Memory<'a>,
    host: &'a dyn Host,
}

impl Strings for Reachable<'_> {
    fn copy(&self, address: u64, target: &mut [u8]) -> usize {
        let mut done = 0;
        while done < target.len() {
            let here = address.wrapping_add(done as u64);
            let length = self.readable_at_once(here).min(target.len() - done);
            let chunk = &mut target[done..][..length];
            if read_anything(self.memory, self.host, here, chunk).is_err() {
                // As the kernel does: a string that faults before its end is empty.
                return 0;
            }
            if let Some(end) = chunk.iter().position(|&byte| byte == 0) {
                return done + end;
            }
            done += length;
        }
        done
    }
}

impl Reachable<'_> {
    /// How many bytes from `address` on are certain to be readable if the first is. Guest memory is
    /// mapped in pages, so a chunk that is aligned to its own size is; program memory ends
    /// anywhere.
    fn readable_at_once(&self, address: u64) -> usize {
        const STEP: u64 = 64;
        if Place::parse(address).is_some() {
            1
        } else {
            (STEP - address % STEP) as usize
        }
    }
}

fn print_array(
    run: &mut Run<'_>,
    [text, size]: [u64; 2],
    array: u64,
    length: usize,
) -> Result<u64, RunFault> {
    if !length.is_multiple_of(8) || length > 8 * MAX_ARGUMENTS {
        return Ok(EINVAL);
    }
    let mut arguments = [0; MAX_ARGUMENTS];
    let arguments = &mut arguments[..length / 8];
    for (index, argument) in arguments.iter_mut().enumerate() {
        let mut bytes = [0; 8];
        read(run, array.wrapping_add(8 * index as u64), &mut bytes)?;
        *argument = u64::from_le_bytes(bytes);
    }
    print(run, text, size as u32 as usize, arguments)
}

fn print(run: &mut Run<'_>, text: u64, size: usize, arguments: &[u64]) -> Result<u64, RunFault> {
    run.charge(PRINT_COST)?;
    if size > MAX_PRINT {
        return Ok(EINVAL);
    }
    let mut buffer = [0; MAX_PRINT];
    let text_bytes = &mut buffer[..size];
    read(run, text, text_bytes)?;
    let Some(end) = text_bytes.iter().position(|&byte| byte == 0) else {
        return Ok(EINVAL);
    };
    let mut line = Line::new();
    let strings = Reachable {
        memory: &run.memory,
        host: run.host,
    };
    if format(&mut line, &text_bytes[..end], arguments, &strings).is_err() {
        return Ok(EINVAL);
    }
    run.host.print(line.as_bytes());
    Ok(line.as_bytes().len() as u64)
}

#[cfg(test)]
mod tests;
