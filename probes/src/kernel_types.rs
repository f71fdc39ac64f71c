//! The types that a guest's kernel carries of itself: BTF, in its read-only data.

use crate::addr::Gva;
use crate::kernel::NoKernel;
use crate::kernel_memory::{KernelMemory, kernel_regs};
use crate::machine::Machine;
use crate::symbols::Symbols;
use alloc::vec::Vec;
use core::fmt;
use ebpf::btf::{self, Btf, BtfError};
use ebpf::task::{NoField, TaskFields};

/// Where the types begin and end (`include/asm-generic/vmlinux.lds.h`). Kernels without
/// `CONFIG_KALLSYMS_ALL` do not name them.
const START: &str = "__start_BTF";
/// Where the types end.
const STOP: &str = "__stop_BTF";
/// A name near the beginning of every kernel, before its read-only data.
pub(crate) const TEXT: &str = "_stext";

/// What the types of a kernel begin with: the magic, version 1, no flags, a header of the usual length, the types right behind it.
const BEGINNING: [u8; 12] = [
    btf::MAGIC[0],
    btf::MAGIC[1],
    1,
    0,
    btf::HEADER as u8,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
];

/// Bytes of types at most. Debian's kernels have 5 MiB.
const LONGEST: usize = 16 << 20;
/// How far behind the beginning of a kernel its types are looked for.
const FURTHEST: u64 = 64 << 20;
/// Bytes that are looked through at a time.
const CHUNK: usize = 64 << 10;
/// The types are aligned to so many bytes.
const ALIGN: usize = 4;

/// Why nothing is known of a kernel's types. `Display` tells the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoTypes {
    /// There is no kernel.
    NoKernel(NoKernel),
    /// The kernel has none.
    None,
    /// Its memory cannot be read now.
    Unreadable,
    /// They take more than [`LONGEST`], or than the hypervisor has left.
    TooLong,
    /// They are no types.
    Malformed(BtfError),
    /// They lack what is wanted.
    NoField(NoField),
}

impl fmt::Display for NoTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKernel(reason) => reason.fmt(f),
            Self::None => f.write_str("the kernel carries no types (CONFIG_DEBUG_INFO_BTF)"),
            Self::Unreadable => f.write_str("the kernel's types cannot be read now: try again"),
            Self::TooLong => f.write_str("the kernel's types take too much memory"),
            Self::Malformed(error) => error.fmt(f),
            Self::NoField(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for NoTypes {}

/// Where the kernel whose symbols these are keeps the fields of its tasks. Reads up to [`FURTHEST`] bytes, which a
/// kernel does not change: the VM may run.
pub(crate) fn task_fields(
    machine: &dyn Machine,
    symbols: &dyn Symbols,
) -> Result<TaskFields, NoTypes> {
    let bytes = read(machine, symbols)?;
    let types = Btf::parse(&bytes).map_err(NoTypes::Malformed)?;
    TaskFields::find(&types).map_err(NoTypes::NoField)
}

/// The types as they lie in the kernel's memory.
pub(crate) fn read(machine: &dyn Machine, symbols: &dyn Symbols) -> Result<Vec<u8>, NoTypes> {
    let start = symbols.by_name(START);
    let anchor = start
        .or_else(|| symbols.by_name(TEXT))
        .ok_or(NoTypes::None)?;
    let regs = kernel_regs(machine, anchor).ok_or(NoTypes::Unreadable)?;
    let memory = KernelMemory::new(machine, regs);
    let start = match start {
        Some(start) => start,
        None => {
            let read_some = |at, length| memory.read_some(at, length);
            find_bytes(anchor, &BEGINNING, &read_some).ok_or(NoTypes::None)?
        }
    };
    let length = match symbols.by_name(STOP) {
        Some(stop) => stop
            .0
            .checked_sub(start.0)
            .and_then(|length| length.try_into().ok()),
        None => length(&memory, start),
    };
    let length = length.ok_or(NoTypes::None)?;
    let mut bytes = Vec::new();
    if length > LONGEST || bytes.try_reserve_exact(length).is_err() {
        return Err(NoTypes::TooLong);
    }
    bytes.resize(length, 0);
    memory.read(start, &mut bytes).ok_or(NoTypes::Unreadable)?;
    Ok(bytes)
}

/// Looks for bytes behind a name near the beginning of a kernel.
pub(crate) fn find_bytes(
    text: Gva,
    wanted: &[u8],
    read_some: &dyn Fn(Gva, usize) -> Vec<u8>,
) -> Option<Gva> {
    // What is in two chunks is found in the second: they overlap.
    let step = CHUNK - wanted.len().next_multiple_of(ALIGN);
    let starts = (text.0..text.0.checked_add(FURTHEST)?).step_by(step);
    for start in starts.map(Gva) {
        let bytes = read_some(start, CHUNK);
        let mut places = bytes.windows(wanted.len()).step_by(ALIGN);
        if let Some(index) = places.position(|place| place == wanted) {
            return start.checked_add((index * ALIGN) as u64);
        }
        if bytes.len() < CHUNK {
            return None;
        }
    }
    None
}

/// The whole length, as the header has it.
fn length(memory: &KernelMemory<'_>, start: Gva) -> Option<usize> {
    let [_, _, strings] = memory.words(start)?;
    let header = btf::HEADER as u64;
    let (offset, length) = (strings & 0xffff_ffff, strings >> 32);
    usize::try_from(header.checked_add(offset)?.checked_add(length)?).ok()
}

#[cfg(test)]
mod tests;
