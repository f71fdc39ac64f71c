//! The symbols of a Linux kernel, from the kernel itself: no vmlinux, no System.map, KASLR or not.
//!
//! A kernel with `CONFIG_KALLSYMS` carries its symbol table in `.rodata`, in a few arrays that
//! `scripts/kallsyms.c` writes. Nothing points to them from outside, so they are found by what they
//! must look like:
//!
//! 1. `kallsyms_token_table`: 256 zero-terminated strings by which names are compressed. Characters
//!    that occur in names stand for themselves, all digits among them, so the table contains `"0\0"
//!    "1\0" … "9\0"`. It is the table if the 256 offsets of its strings follow it:
//!    `kallsyms_token_index`.
//! 2. `kallsyms_num_syms`, `kallsyms_names`, `kallsyms_markers` lie before it, in that order. A
//!    number is the number of symbols if that many compressed names follow, every 256th at the
//!    position that the markers say, and the tables end where the token table begins.
//! 3. `kallsyms_offsets` and `kallsyms_relative_base` lie before the number up to Linux 6.3 and
//!    behind the token index from 6.4 on. There are as many offsets as symbols, from 0, in order.
//!
//! (`vmlinux-to-elf` by Marin Moulinier finds tables in files by the same token table.)
//!
//! Symbol `n` is at `relative_base + offsets[n]`. In a running kernel the relative base has been
//! relocated, KASLR included, so it is what a probe needs. In an image it is the address that the
//! kernel was linked to (RELR relocations), or zero with the address in a relocation entry (RELA).
//!
//! Supported: arm64, `CONFIG_KALLSYMS_BASE_RELATIVE`, Linux 6.1 to 6.x; with and without
//! `CONFIG_KALLSYMS_ALL` (without it there are only symbols of code). The guest is not trusted:
//! every read is bounded, every search has a budget, and what is found is checked as a whole before
//! it is used.

mod guest;
mod layout;
mod scan;
mod table;
mod tokens;

#[cfg(any(test, feature = "fake"))]
pub mod build;
#[cfg(test)]
mod tests;

pub use guest::find_in_guest;
pub use table::SymbolTable;

use crate::addr::Gva;
use alloc::string::String;
use core::fmt;

/// Most symbols that a table may have. Debian's have 45,000 and 115,000.
pub const MAX_SYMBOLS: u32 = 1 << 18;
/// Most bytes that the compressed names may take. Debian's take 0.6 MB and 1.5 MB.
pub const MAX_NAME_BYTES: u64 = 4 << 20;
/// Longest name, with its type (`KSYM_NAME_LEN` in `include/linux/kallsyms.h`).
pub const MAX_NAME: usize = 512;

/// Bytes of a kernel image by their offset.
pub trait ImageReader {
    /// How many bytes there are. May be more than the kernel.
    fn size(&self) -> u64;
    /// Reads bytes from `offset` on; all of `buffer` lies within [`ImageReader::size`].
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Unreadable>;
}

/// A part of the image cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreadable;

impl ImageReader for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let start = usize::try_from(offset).map_err(|_| Unreadable)?;
        let end = start.checked_add(buffer.len()).ok_or(Unreadable)?;
        buffer.copy_from_slice(self.get(start..end).ok_or(Unreadable)?);
        Ok(())
    }
}

/// Where the bytes come from, which tells what the addresses in them mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// A file `Image`, as `make Image` writes it and Debian installs it. Symbols get the addresses
    /// that the kernel was linked to.
    File,
    /// A kernel that runs. Symbols get the addresses where they are, if the kernel has relocated
    /// itself.
    Running {
        /// The kernel's own address of the image's offset 0. Any address at or before the tables
        /// will do.
        start: Gva,
    },
    /// A kernel that has relocated itself for sure. Symbols get the addresses where they are.
    Relocated,
}

/// A kernel that was found.
pub struct Kernel {
    /// Its symbols.
    pub symbols: SymbolTable,
    /// What it says of itself at boot (`linux_banner`): `Linux version 6.12…`.
    pub banner: String,
}

/// Why there are no symbols.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FindError {
    /// No vCPU is on and has vectors that are mapped: the guest has not booted.
    NoKernelCode,
    /// Nothing looks like `kallsyms_token_table`.
    NoTokenTable,
    /// There is a token table, but no names that are compressed with it.
    NoNames,
    /// There are names, but no addresses for them.
    NoAddresses,
    /// The table lacks this symbol, which every arm64 kernel has.
    NoSymbol(&'static str),
    /// The kernel's relative base does not fit the place it runs at: it has not relocated itself
    /// yet, or the image is not the kernel that the start belongs to.
    NotRelocated,
    /// The image has no address in the relative base and no relocation for it.
    NoBase,
    /// There is no `Linux version` in it.
    NoBanner,
    /// Not enough heap for the table.
    OutOfMemory,
}

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FindError::NoKernelCode => f.write_str(
                "no vCPU has exception vectors yet: try again when the guest has booted",
            ),
            FindError::NoTokenTable => {
                f.write_str("no kallsyms token table: not a Linux kernel, or one without KALLSYMS")
            }
            FindError::NoNames => f.write_str("a kallsyms token table, but no names that fit it"),
            FindError::NoAddresses => f.write_str("kallsyms names, but no offsets that fit them"),
            FindError::NoSymbol(name) => write!(f, "kallsyms has no {name}: not an arm64 kernel"),
            FindError::NotRelocated => {
                f.write_str("the kernel has not relocated itself yet: try again when it has booted")
            }
            FindError::NoBase => f.write_str("the image does not say where it is linked to"),
            FindError::NoBanner => f.write_str("no `Linux version` in the image"),
            FindError::OutOfMemory => f.write_str("not enough memory for the symbol table"),
        }
    }
}

impl core::error::Error for FindError {}

/// Finds the symbols in a kernel image. Takes time in proportion to the image, and heap: for each
/// symbol its compressed name and 16 bytes. That is 4 MB for Debian's
/// largest table and less than 10 MB for any.
pub fn find(
    image: &(impl ImageReader + ?Sized),
    placement: Placement,
) -> Result<Kernel, FindError> {
    let tokens = tokens::find(image).ok_or(FindError::NoTokenTable)?;
    let tables = layout::find(image, &tokens)?;
    let names = layout::names(image, &tables)?;
    let offsets = layout::offsets(image, &tables)?;
    let symbols = SymbolTable::build(tokens, names, offsets)?;
    let base = layout::base(image, &tables, &symbols, placement)?;
    let banner = scan::banner(image).ok_or(FindError::NoBanner)?;
    Ok(Kernel {
        symbols: symbols.at(base),
        banner,
    })
}
