//! An ELF file of a kernel, made of what the kernel carries in its memory: `kallsyms` and BTF. A debugger that takes it
//! needs no other file.
//!
//! Everything is where the kernel runs (KASLR included), so nothing is to be relocated. The file has
//!
//! - a section for each part of the kernel and for the code of each module, without contents;
//! - all symbols, with sizes as far as the next symbol;
//! - the build ID of the kernel, by which a host can keep the file;
//! - for each function, how to get from a place in it to its caller (`frames`);
//! - with BTF, DWARF of its types, functions and variables (`dwarf`).
//!
//! Of several functions with one name, BTF describes one and does not say which. None of them has a prototype here.
//!
//! The guest is not trusted. Its symbols and types are bounded where they are read; here nothing is longer than
//! [`MAX_LENGTH`], time is in proportion to what was read, and what is written can be followed to its end.

mod dwarf;
mod elf;
mod frames;
mod identity;
mod making;
mod parts;
mod sink;
mod table;
#[cfg(test)]
mod tests;

use crate::kernel::NoKernel;
use crate::symbols::Symbols;
use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::fmt;
pub use frames::ReadCode;
pub use identity::Identity;
use making::Making;
use parts::Parts;
use spin::Mutex;

/// Bytes of a file at most. That of Debian's kernel has 15 million.
pub const MAX_LENGTH: usize = 28 << 20;
/// Why there is no file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoFile {
    /// There is no kernel.
    NoKernel(NoKernel),
    /// The kernel has no build ID, or it cannot be read now.
    NoBuildId,
    /// The symbols lack one that every kernel has.
    NoSymbol(&'static str),
    /// It would be longer than [`MAX_LENGTH`].
    TooLong,
    /// Not enough heap for it.
    OutOfMemory,
}

impl fmt::Display for NoFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKernel(reason) => reason.fmt(f),
            Self::NoSymbol(name) => write!(f, "there is no symbol {name}: not a Linux kernel's"),
            Self::NoBuildId => f.write_str("the kernel has no build ID"),
            Self::TooLong => write!(f, "it would have more than {} MiB", MAX_LENGTH >> 20),
            Self::OutOfMemory => f.write_str("not enough memory for it"),
        }
    }
}

impl core::error::Error for NoFile {}

impl From<TryReserveError> for NoFile {
    fn from(_: TryReserveError) -> Self {
        Self::OutOfMemory
    }
}

/// Whether these are the symbols of a kernel.
pub fn is_of_kernel(symbols: &dyn Symbols) -> bool {
    Parts::of_kernel(symbols).is_ok()
}

/// What a file is made of.
pub struct Contents<'a> {
    /// The kernel's symbols, where they are; its modules' too.
    pub symbols: &'a dyn Symbols,
    /// Its types, in the BTF format.
    pub types: Option<Vec<u8>>,
    /// Its build ID.
    pub build_id: Option<Vec<u8>>,
    /// Its code.
    pub code: Option<Box<ReadCode>>,
}

/// A file, made as it is read: a debugger waits for each answer, but not as long as all of it takes in an emulator. Its
/// symbols are read when it is opened, its types when its length is asked for, and each section is written when the first byte
/// of it is wanted.
pub struct KernelFile(Mutex<Making>);

impl KernelFile {
    /// Begins a file.
    pub fn open(contents: Contents<'_>) -> Result<Self, NoFile> {
        Making::begin(contents).map(|making| Self(Mutex::new(making)))
    }

    /// Bytes of the file.
    pub fn length(&self) -> Result<usize, NoFile> {
        self.0.lock().length()
    }

    /// Hands `take` at most `count` bytes from `offset` on, none behind the end.
    pub fn read<T>(
        &self,
        offset: usize,
        count: usize,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, NoFile> {
        let mut making = self.0.lock();
        let end = offset.saturating_add(count);
        making.reach(end)?;
        let bytes = making.bytes.get(offset..).unwrap_or_default();
        Ok(take(&bytes[..bytes.len().min(count)]))
    }
}
