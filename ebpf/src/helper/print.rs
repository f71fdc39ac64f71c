//! The helpers that format: `trace_printk`, `trace_vprintk`, `snprintf`.

use super::call::read;
use super::format::{Line, Strings, format};
use super::read::{Reachable, Target};
use super::{EINVAL, MAX_PRINT};
use crate::object::RunFault;
use crate::run::Run;

/// Arguments in an array at most (Linux: `MAX_BPRINTF_VARARGS`).
const MAX_ARGUMENTS: usize = 12;
/// What formatting costs of the budget, in instructions.
pub(super) const COST: u64 = 100;

impl Strings for Reachable<'_> {
    fn copy(&self, address: u64, target: &mut [u8]) -> usize {
        // As the kernel does: a string that faults before its end is empty.
        self.copy_string(address, target).unwrap_or(0)
    }
}

/// Arguments that a program has put in its memory.
struct Arguments {
    words: [u64; MAX_ARGUMENTS],
    count: usize,
}

impl Arguments {
    /// `None`: there are too many, or half ones.
    fn read(run: &Run<'_>, [array, bytes]: [u64; 2]) -> Result<Option<Self>, RunFault> {
        let bytes = bytes as u32 as usize;
        let count = bytes / 8;
        if !bytes.is_multiple_of(8) || count > MAX_ARGUMENTS {
            return Ok(None);
        }
        let mut words = [0; MAX_ARGUMENTS];
        for (index, word) in words.iter_mut().take(count).enumerate() {
            let mut bytes = [0; 8];
            read(run, array.wrapping_add(8 * index as u64), &mut bytes)?;
            *word = u64::from_le_bytes(bytes);
        }
        Ok(Some(Self { words, count }))
    }

    fn as_slice(&self) -> &[u64] {
        &self.words[..self.count]
    }
}

/// A format, without its NUL.
pub(super) struct Format {
    bytes: [u8; MAX_PRINT],
    length: usize,
}

impl Format {
    /// Reads one of `size` bytes with its NUL. `None`: it has none, or is too long.
    pub(super) fn read(run: &Run<'_>, text: u64, size: u64) -> Result<Option<Self>, RunFault> {
        let size = size as u32 as usize;
        if size > MAX_PRINT {
            return Ok(None);
        }
        let mut bytes = [0; MAX_PRINT];
        read(run, text, &mut bytes[..size])?;
        let end = bytes[..size].iter().position(|&byte| byte == 0);
        Ok(end.map(|length| Self { bytes, length }))
    }

    /// Reads one that ends with its NUL, wherever that is.
    fn read_string(run: &Run<'_>, text: u64) -> Result<Option<Self>, RunFault> {
        let mut bytes = [0; MAX_PRINT];
        for length in 0..MAX_PRINT {
            let byte = &mut bytes[length..=length];
            read(run, text.wrapping_add(length as u64), byte)?;
            if byte == [0] {
                return Ok(Some(Self { bytes, length }));
            }
        }
        Ok(None)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// `None`: it is not one that the kernel would take.
    fn fill(&self, run: &Run<'_>, arguments: &[u64]) -> Option<Line> {
        let mut line = Line::new();
        format(&mut line, self.as_bytes(), arguments, &Reachable::of(run)).ok()?;
        Some(line)
    }
}

/// `long trace_printk(format, size, a, b, c)`.
pub(super) fn printk(
    run: &mut Run<'_>,
    [text, size]: [u64; 2],
    arguments: &[u64],
) -> Result<u64, RunFault> {
    run.charge(COST)?;
    let format = Format::read(run, text, size)?;
    let Some(line) = format.and_then(|format| format.fill(run, arguments)) else {
        return Ok(EINVAL);
    };
    run.host.print(line.as_bytes());
    Ok(line.as_bytes().len() as u64)
}

/// `long trace_vprintk(format, size, array, bytes)`.
pub(super) fn vprintk(run: &mut Run<'_>, text: [u64; 2], array: [u64; 2]) -> Result<u64, RunFault> {
    match Arguments::read(run, array)? {
        Some(arguments) => printk(run, text, arguments.as_slice()),
        None => Ok(EINVAL),
    }
}

/// `long snprintf(target, size, format, array, bytes)`: the length with its NUL, also of what does not fit into the
/// target; that is cut, and has a NUL all the same. More than [`MAX_PRINT`] bytes are never made.
pub(super) fn snprintf(
    run: &mut Run<'_>,
    [target, size]: [u64; 2],
    text: u64,
    array: [u64; 2],
) -> Result<u64, RunFault> {
    run.charge(COST)?;
    let target = Target::check(run, target, size)?;
    let Some(arguments) = Arguments::read(run, array)? else {
        return Ok(EINVAL);
    };
    let format = Format::read_string(run, text)?;
    let Some(line) = format.and_then(|format| format.fill(run, arguments.as_slice())) else {
        return Ok(EINVAL);
    };
    let made = line.as_bytes();
    if let Some(longest) = target.size.checked_sub(1) {
        let length = made.len().min(longest);
        target.write(run, 0, &made[..length])?;
        target.write(run, length, &[0])?;
    }
    Ok(made.len() as u64 + 1)
}
