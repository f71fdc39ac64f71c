//! `get_stackid` and `get_stack`: how the guest's kernel, or the process under it, came to where it
//! is.
//!
//! Backtraces follow the frame records that x29 points to (AAPCS64 section 6.4.6), as arm64's Linux
//! does itself: its kernel has frame pointers, and so have processes that were compiled with them.
//! Return addresses may be signed; the kernel's text and a process' are both within 48 bits of
//! address, so the bits above say nothing and are replaced.
//!
//! Linux takes the return address that x30 holds for lost where a probe hits before the function has
//! made its frame record. Here it is the second address of such a backtrace, which so begins with
//! the function and its caller.

use super::call::{map_of, result};
use super::read::Target;
use super::{EFAULT, EINVAL};
use crate::host::Host;
use crate::map::{Compare, OnCollision};
use crate::object::RunFault;
use crate::run::Run;

/// Addresses of a backtrace at most (Linux: `PERF_MAX_STACK_DEPTH`).
const MAX_DEPTH: usize = 127;

/// Frame records that are followed to find the end of the kernel's stack.
const MAX_RECORDS: usize = 256;

/// What each frame record costs of the budget, in instructions.
const RECORD_COST: u64 = 20;

/// How many addresses to leave out (`BPF_F_SKIP_FIELD_MASK`).
const SKIP: u64 = 0xff;
/// The process' backtrace, not the kernel's (`BPF_F_USER_STACK`).
const USER: u64 = 1 << 8;
/// `BPF_F_FAST_STACK_CMP`.
const FAST_COMPARE: u64 = 1 << 9;
/// `BPF_F_REUSE_STACKID`.
const REUSE: u64 = 1 << 10;

/// Where Linux keeps the last frame record of a kernel stack that was entered from a process: in
/// that process' `struct pt_regs` (`arch/arm64/include/asm/ptrace.h`, the same since 5.10).
const STACKFRAME_IN_PT_REGS: u64 = 304;
/// The registers of the process in it.
const REGS: usize = 34;

/// Bits of an address that are the same in all the kernel's, or a process', code.
const VA_BITS: u32 = 48;

/// Addresses, innermost first.
struct Backtrace {
    addresses: [u64; MAX_DEPTH],
    length: usize,
}

impl Backtrace {
    fn new() -> Self {
        Self {
            addresses: [0; MAX_DEPTH],
            length: 0,
        }
    }

    fn push(&mut self, address: u64) {
        if let Some(place) = self.addresses.get_mut(self.length) {
            *place = address;
            self.length += 1;
        }
    }

    /// What is left without the first `skipped` and with `most` at most. Nothing where nothing is.
    fn from(&self, skipped: usize, most: usize) -> &[u64] {
        let all = &self.addresses[..self.length];
        let rest = all.get(skipped..).unwrap_or_default();
        &rest[..rest.len().min(most)]
    }
}

/// A frame record: that of the caller, and where it goes on.
struct FrameRecord {
    next: u64,
    return_address: u64,
}

fn read_record(host: &dyn Host, at: u64) -> Option<FrameRecord> {
    let mut bytes = [0; 16];
    let is_aligned = at.is_multiple_of(8);
    let read = is_aligned && at != 0 && host.read_guest(at, &mut bytes).is_ok();
    let ([next, return_address], _) = bytes.as_chunks::<8>() else {
        return None;
    };
    read.then(|| FrameRecord {
        next: u64::from_le_bytes(*next),
        return_address: u64::from_le_bytes(*return_address),
    })
}

/// The kernel's address of code that a return address means, signed or not.
fn kernel_code(address: u64) -> u64 {
    address | u64::MAX << VA_BITS
}

/// The same in a process.
fn user_code(address: u64) -> u64 {
    address & !(u64::MAX << VA_BITS)
}

/// What the flags ask for, in the program's registers. Nothing where it cannot be had: outside a
/// guest's Linux kernel, or in a kernel thread, which has no process under it.
fn backtrace(run: &mut Run<'_>, flags: u64) -> Result<Backtrace, RunFault> {
    let mut kernel = Backtrace::new();
    // Only a probe in a kernel knows the current task, and its context is the registers.
    let (true, Some(&[pc, pstate])) = (
        run.host.current().is_some(),
        run.memory.context.last_chunk::<2>(),
    ) else {
        return Ok(kernel);
    };
    if is_el0(pstate) {
        return Ok(kernel);
    }
    kernel.push(pc);
    if run.host.function().is_some() {
        kernel.push(kernel_code(run.memory.context[30]));
    }
    let last = follow(run, &mut kernel, run.memory.context[29])?;
    if flags & USER == 0 {
        return Ok(kernel);
    }
    let mut user = Backtrace::new();
    let registers = last.and_then(|at| registers_of_process(run.host, at));
    if let Some(registers) = registers {
        user.push(registers[32]);
        follow_user(run, &mut user, registers[29])?;
    }
    Ok(user)
}

/// Whether that is the PSTATE of AArch64 code of a process (Arm ARM C5.2.19, SPSR_EL1.M).
fn is_el0(pstate: u64) -> bool {
    pstate & 0x1f == 0
}

/// Follows frame records of the kernel from `at`, and tells where the last is, which is empty.
fn follow(
    run: &mut Run<'_>,
    backtrace: &mut Backtrace,
    mut at: u64,
) -> Result<Option<u64>, RunFault> {
    for _ in 0..MAX_RECORDS {
        run.charge(RECORD_COST)?;
        let Some(record) = read_record(run.host, at) else {
            return Ok(None);
        };
        if record.next == 0 && record.return_address == 0 {
            return Ok(Some(at));
        }
        backtrace.push(kernel_code(record.return_address));
        at = record.next;
    }
    Ok(None)
}

/// Follows frame records of a process from `at`: upwards on its stack, or they are none.
fn follow_user(run: &mut Run<'_>, backtrace: &mut Backtrace, mut at: u64) -> Result<(), RunFault> {
    for _ in 0..MAX_DEPTH {
        run.charge(RECORD_COST)?;
        if user_code(at) != at {
            return Ok(());
        }
        let Some(record) = read_record(run.host, at) else {
            return Ok(());
        };
        if record.return_address == 0 {
            return Ok(());
        }
        backtrace.push(user_code(record.return_address));
        if record.next <= at {
            return Ok(());
        }
        at = record.next;
    }
    Ok(())
}

/// The registers with which a process entered the kernel, whose last frame record is at `last`.
fn registers_of_process(host: &dyn Host, last: u64) -> Option<[u64; REGS]> {
    let mut bytes = [0; 8 * REGS];
    let start = last.checked_sub(STACKFRAME_IN_PT_REGS)?;
    host.read_guest(start, &mut bytes).ok()?;
    let (words, _) = bytes.as_chunks::<8>();
    let registers: [u64; REGS] = core::array::from_fn(|index| u64::from_le_bytes(words[index]));
    let [.., pc, pstate] = registers;
    let is_process = is_el0(pstate) && user_code(pc) == pc && pc != 0;
    is_process.then_some(registers)
}

/// `get_stackid(context, map, flags)`: the number of the backtrace in the map.
pub(super) fn get_stackid(run: &mut Run<'_>, map: u64, flags: u64) -> Result<u64, RunFault> {
    let map = map_of(run, map)?;
    if flags & !(SKIP | USER | FAST_COMPARE | REUSE) != 0 {
        return Ok(EINVAL);
    }
    let backtrace = backtrace(run, flags)?;
    let most = map.definition().value_size as usize / 8;
    let addresses = backtrace.from((flags & SKIP) as usize, most);
    if addresses.is_empty() {
        return Ok(EFAULT);
    }
    run.charge(addresses.len() as u64)?;
    let compare = match flags & FAST_COMPARE {
        0 => Compare::All,
        _ => Compare::Hash,
    };
    let on_collision = match flags & REUSE {
        0 => OnCollision::Refuse,
        _ => OnCollision::Replace,
    };
    let stored = map.store_trace(addresses, compare, on_collision);
    Ok(match stored {
        Ok(number) => number.into(),
        Err(error) => result(Err(error)),
    })
}

/// `get_stack(context, buffer, size, flags)`: the bytes of the backtrace, and zeros behind them.
pub(super) fn get_stack(
    run: &mut Run<'_>,
    buffer: u64,
    size: u64,
    flags: u64,
) -> Result<u64, RunFault> {
    let target = Target::check(run, buffer, size)?;
    if flags & !(SKIP | USER) != 0 || !target.size.is_multiple_of(8) {
        target.zero(run)?;
        return Ok(EINVAL);
    }
    let backtrace = backtrace(run, flags)?;
    let skipped = (flags & SKIP) as usize;
    if backtrace.length == 0 || backtrace.length < skipped {
        target.zero(run)?;
        return Ok(EFAULT);
    }
    let addresses = backtrace.from(skipped, target.size / 8);
    for (index, address) in addresses.iter().enumerate() {
        target.write(run, 8 * index, &address.to_le_bytes())?;
    }
    target.zero_from(run, 8 * addresses.len())?;
    Ok(8 * addresses.len() as u64)
}

#[cfg(test)]
mod tests;
