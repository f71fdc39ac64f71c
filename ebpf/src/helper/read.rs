//! The helpers that copy memory for a program: `probe_read`, its forms for user and kernel memory,
//! and those for strings (`kernel/trace/bpf_trace.c`).

use super::EFAULT;
use super::call::bad_access;
use crate::address::Place;
use crate::host::{Host, ReadFault};
use crate::memory::Memory;
use crate::object::{Access, RunFault};
use crate::run::Run;
use crate::width::Width;

/// Bytes that are copied at a time.
const CHUNK: usize = 256;

/// Which memory a program asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Half {
    /// Whatever is at the address: the kernel's memory or a process', or the program's own.
    Any,
    /// Memory of the process that runs.
    User,
}

impl Half {
    /// Whether an address can be meant. Bit 55 says which half it is in, whatever tag it has.
    fn has(self, address: u64) -> bool {
        self == Self::Any || address >> 55 & 1 == 0
    }
}

/// Memory that a program may read through a helper: the guest's, and its own.
pub(super) struct Reachable<'a> {
    pub(super) memory: &'a Memory<'a>,
    pub(super) host: &'a dyn Host,
}

impl<'a> Reachable<'a> {
    pub(super) fn of<'r: 'a>(run: &'a Run<'r>) -> Self {
        Self {
            memory: &run.memory,
            host: run.host,
        }
    }

    fn read(&self, address: u64, target: &mut [u8]) -> Result<(), ReadFault> {
        if Place::parse(address).is_some() {
            return self.memory.read(address, target).map_err(|_| ReadFault);
        }
        // A guest's range that wraps is no range.
        address.checked_add(target.len() as u64).ok_or(ReadFault)?;
        self.host.read_guest(address, target)
    }

    /// Copies a string without its NUL, at most as much as `target` holds, and returns its length. It is not read
    /// beyond the NUL: what follows may be unmapped.
    pub(super) fn copy_string(&self, address: u64, target: &mut [u8]) -> Result<usize, ReadFault> {
        let mut done = 0;
        while done < target.len() {
            let here = address.checked_add(done as u64).ok_or(ReadFault)?;
            let length = Self::readable_at_once(here).min(target.len() - done);
            let chunk = &mut target[done..][..length];
            self.read(here, chunk)?;
            if let Some(end) = chunk.iter().position(|&byte| byte == 0) {
                return Ok(done + end);
            }
            done += length;
        }
        Ok(done)
    }

    /// How many bytes from `address` on are certain to be readable if the first is. Guest memory is
    /// mapped in pages, so a chunk that is aligned to its own size is; program memory ends
    /// anywhere.
    fn readable_at_once(address: u64) -> usize {
        const STEP: u64 = 64;
        if Place::parse(address).is_some() {
            1
        } else {
            (STEP - address % STEP) as usize
        }
    }
}

/// The memory of a program that a helper fills.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) address: u64,
    pub(super) size: usize,
}

impl Target {
    /// The target that a program names, if it may write all of it.
    pub(super) fn check(run: &mut Run<'_>, address: u64, size: u64) -> Result<Self, RunFault> {
        // A `u32` in Linux' signatures.
        let target = Self {
            address,
            size: size as u32 as usize,
        };
        let checked = run.memory.check_write(address, target.size);
        checked.map_err(|_| target.refused())?;
        run.charge(target.size as u64 / 8)?;
        Ok(target)
    }

    fn refused(self) -> RunFault {
        bad_access(self.address, self.size, Access::Write)
    }

    /// Writes bytes from `offset` on, as far as the target goes.
    pub(super) fn write(self, run: &Run<'_>, offset: usize, bytes: &[u8]) -> Result<(), RunFault> {
        let room = self.size.saturating_sub(offset);
        let bytes = &bytes[..bytes.len().min(room)];
        let written = run.memory.write(self.address + offset as u64, bytes);
        written.map_err(|_| self.refused())
    }

    /// Zeroes all of it, as Linux does where a read faults.
    pub(super) fn zero(self, run: &Run<'_>) -> Result<(), RunFault> {
        self.zero_from(run, 0)
    }

    /// Zeroes it from `offset` on.
    pub(super) fn zero_from(self, run: &Run<'_>, offset: usize) -> Result<(), RunFault> {
        let zeros = [0; CHUNK];
        (offset..self.size)
            .step_by(CHUNK)
            .try_for_each(|at| self.write(run, at, &zeros))
    }
}

/// `long probe_read(target, size, source)`: 0, or `-EFAULT` and zeros.
pub(super) fn probe_read(
    run: &mut Run<'_>,
    half: Half,
    [target, size, source]: [u64; 3],
) -> Result<u64, RunFault> {
    let target = Target::check(run, target, size)?;
    let mut buffer = [0; CHUNK];
    for offset in (0..target.size).step_by(CHUNK) {
        let chunk = &mut buffer[..CHUNK.min(target.size - offset)];
        let address = source.wrapping_add(offset as u64);
        if !half.has(address) || Reachable::of(run).read(address, chunk).is_err() {
            return target.zero(run).map(|()| EFAULT);
        }
        target.write(run, offset, chunk)?;
    }
    Ok(0)
}

/// `long probe_read_str(target, size, source)`: the length with its NUL, which is there even if the string is
/// longer than the target; or `-EFAULT` and zeros.
pub(super) fn probe_read_str(
    run: &mut Run<'_>,
    half: Half,
    [target, size, source]: [u64; 3],
) -> Result<u64, RunFault> {
    let target = Target::check(run, target, size)?;
    let Some(longest) = target.size.checked_sub(1) else {
        return Ok(0);
    };
    let mut buffer = [0; CHUNK];
    let mut done = 0;
    while done < longest {
        let chunk = &mut buffer[..CHUNK.min(longest - done)];
        let address = source.wrapping_add(done as u64);
        let copied = match half.has(address) {
            true => Reachable::of(run).copy_string(address, chunk),
            false => Err(ReadFault),
        };
        let Ok(copied) = copied else {
            return target.zero(run).map(|()| EFAULT);
        };
        target.write(run, done, &chunk[..copied])?;
        done += copied;
        if copied < chunk.len() {
            break;
        }
    }
    target.write(run, done, &[0])?;
    Ok(done as u64 + 1)
}

/// What a load through an address in the guest gives, zero-extended: 0 where nothing can be read, and for
/// addresses of processes, as Linux has it for pointers to its own structures (`BPF_PROBE_MEM`).
pub(crate) fn load_guest(run: &mut Run<'_>, address: u64, width: Width) -> Result<u64, RunFault> {
    run.charge(1)?;
    let mut word = [0; 8];
    let bytes = &mut word[..width.bytes()];
    let is_range = address.checked_add(width.bytes() as u64).is_some();
    if Half::User.has(address) || !is_range || run.host.read_guest(address, bytes).is_err() {
        return Ok(0);
    }
    Ok(u64::from_le_bytes(word))
}

#[cfg(test)]
mod tests;
