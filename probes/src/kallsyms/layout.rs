//! Where the tables are, and the address that the offsets are relative to.

use super::table::SymbolTable;
use super::tokens::{INDEX_BYTES, Tokens};
use super::{FindError, ImageReader, MAX_NAME, MAX_NAME_BYTES, MAX_SYMBOLS, Placement};
use crate::addr::Gva;
use alloc::vec::Vec;

/// Symbols between two markers.
const MARKED: u32 = 256;
/// Bytes that all attempts to find the names may read together.
const NAMES_BUDGET: u64 = 8 * MAX_NAME_BYTES;
/// How the tables are aligned (`ALGN` in `scripts/kallsyms.c`).
const ALIGN: u64 = 8;

/// Offsets of the tables in the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tables {
    /// How many symbols.
    count: u32,
    /// `kallsyms_names`, and how many bytes.
    names: u64,
    name_bytes: u64,
    /// `kallsyms_offsets`.
    offsets: u64,
    /// `kallsyms_relative_base`.
    relative_base: u64,
    /// `kallsyms_token_table`.
    tokens: u64,
}

/// Finds the tables around the token table.
pub(super) fn find(
    image: &(impl ImageReader + ?Sized),
    tokens: &Tokens,
) -> Result<Tables, FindError> {
    let names = find_names(image, tokens).ok_or(FindError::NoNames)?;
    let (offsets, relative_base) = address_places(&names, tokens)
        .into_iter()
        .flatten()
        .find(|&(offsets, _)| check_offsets(image, offsets, names.count).is_some())
        .ok_or(FindError::NoAddresses)?;
    Ok(Tables {
        count: names.count,
        names: names.start,
        name_bytes: names.bytes,
        offsets,
        relative_base,
        tokens: tokens.at,
    })
}

/// Where the offsets and the relative base can be: since Linux 6.4, and until 6.3.
fn address_places(names: &Names, tokens: &Tokens) -> [Option<(u64, u64)>; 2] {
    let array = (u64::from(names.count) * 4).next_multiple_of(ALIGN);
    let behind_index = tokens.index_at + INDEX_BYTES;
    let since_6_4 = (behind_index, behind_index + array);
    let base = names.number_at.checked_sub(ALIGN);
    let until_6_3 = base.and_then(|base| Some((base.checked_sub(array)?, base)));
    [Some(since_6_4), until_6_3]
}

/// The compressed names.
pub(super) fn names(
    image: &(impl ImageReader + ?Sized),
    tables: &Tables,
) -> Result<Vec<u8>, FindError> {
    let mut names = zeroes(tables.name_bytes)?;
    image
        .read(tables.names, &mut names)
        .map_err(|_| FindError::NoNames)?;
    Ok(names)
}

/// The offsets of the symbols.
pub(super) fn offsets(
    image: &(impl ImageReader + ?Sized),
    tables: &Tables,
) -> Result<Vec<u32>, FindError> {
    let mut offsets = Vec::new();
    let count = tables.count as usize;
    offsets
        .try_reserve_exact(count)
        .map_err(|_| FindError::OutOfMemory)?;
    let mut cursor = Cursor::new(image, tables.offsets);
    for _ in 0..count {
        offsets.push(cursor.u32().ok_or(FindError::NoAddresses)?);
    }
    Ok(offsets)
}

fn zeroes(bytes: u64) -> Result<Vec<u8>, FindError> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(bytes as usize)
        .map_err(|_| FindError::OutOfMemory)?;
    vec.resize(bytes as usize, 0);
    Ok(vec)
}

/// `kallsyms_num_syms` and `kallsyms_names`.
#[derive(Clone, Copy)]
struct Names {
    number_at: u64,
    count: u32,
    start: u64,
    bytes: u64,
}

/// Finds the number of symbols, backwards from the token table: a plausible 32-bit number, padded
/// with zeroes to 8 bytes, that names follow.
fn find_names(image: &(impl ImageReader + ?Sized), tokens: &Tokens) -> Option<Names> {
    let lowest = tokens.at.saturating_sub(MAX_NAME_BYTES * 2);
    let mut budget = NAMES_BUDGET;
    let mut window = [0; 1024];
    let mut end = tokens.at;
    while end > lowest {
        let length = (end - lowest).min(window.len() as u64);
        let start = end - length;
        let bytes = &mut window[..length as usize];
        if image.read(start, bytes).is_ok() {
            for (index, word) in bytes.as_chunks::<8>().0.iter().enumerate().rev() {
                let number = u64::from_le_bytes(*word);
                let Ok(count @ 1..=MAX_SYMBOLS) = u32::try_from(number) else {
                    continue;
                };
                let number_at = start + index as u64 * 8;
                if let Some(names) = check_names(image, tokens, number_at, count, &mut budget) {
                    return Some(names);
                }
                if budget == 0 {
                    return None;
                }
            }
        }
        end = start;
    }
    None
}

/// Whether `count` names follow the number at `number_at`, and behind them their markers, and
/// behind these the token table.
fn check_names(
    image: &(impl ImageReader + ?Sized),
    tokens: &Tokens,
    number_at: u64,
    count: u32,
    budget: &mut u64,
) -> Option<Names> {
    let start = number_at + ALIGN;
    let mut names = Cursor::new(image, start);
    let bytes = skip_names(&mut names, tokens, count);
    *budget = budget.saturating_sub((names.at - start).max(CURSOR_BYTES as u64));
    let bytes = bytes?;
    let markers_at = (start + bytes).next_multiple_of(ALIGN);
    let markers_end = markers_at + u64::from(count.div_ceil(MARKED)) * 4;
    // `kallsyms_seqs_of_names`, 3 bytes a symbol, is here from Linux 6.2 to 6.3, and in stable
    // releases of 6.1.
    let sequences_end = markers_end.next_multiple_of(ALIGN) + u64::from(count) * 3;
    let ends = [markers_end, sequences_end].map(|end| end.next_multiple_of(ALIGN));
    if !ends.contains(&tokens.at) {
        return None;
    }
    let mut names = Cursor::new(image, start);
    let mut markers = Cursor::new(image, markers_at);
    *budget = budget.saturating_sub(bytes);
    for index in 0..count {
        let is_marked = index % MARKED == 0;
        if is_marked && u64::from(markers.u32()?) != names.at - start {
            return None;
        }
        skip_names(&mut names, tokens, 1)?;
    }
    Some(Names {
        number_at,
        count,
        start,
        bytes,
    })
}

/// Reads `count` names that expand to a type and a name. Returns how many bytes they take.
fn skip_names(
    names: &mut Cursor<'_, impl ImageReader + ?Sized>,
    tokens: &Tokens,
    count: u32,
) -> Option<u64> {
    let start = names.at;
    for _ in 0..count {
        let length = names.name_length()?;
        let mut expanded = 0;
        for _ in 0..length {
            expanded += tokens.get(names.byte()?).len();
        }
        let is_name = (2..=MAX_NAME).contains(&expanded);
        if !is_name || names.at > tokens.at || names.at - start > MAX_NAME_BYTES {
            return None;
        }
    }
    Some(names.at - start)
}

/// Whether there are `count` offsets at `at`: from 0, in order.
fn check_offsets(image: &(impl ImageReader + ?Sized), at: u64, count: u32) -> Option<()> {
    let mut offsets = Cursor::new(image, at);
    let mut last = offsets.u32().filter(|&first| first == 0)?;
    for _ in 1..count {
        last = offsets.u32().filter(|&next| next >= last)?;
    }
    (last > 0).then_some(())
}

/// The space that the linker leaves for the image's header between `_text` and `_stext`
/// (`arch/arm64/kernel/vmlinux.lds.S`, `SEGMENT_ALIGN`).
const HEADER: u64 = 64 << 10;
/// `R_AARCH64_RELATIVE` (AArch64 ELF ABI).
const R_AARCH64_RELATIVE: u64 = 0x403;

/// The address that the offsets are relative to.
pub(super) fn base(
    image: &(impl ImageReader + ?Sized),
    tables: &Tables,
    symbols: &SymbolTable,
    placement: Placement,
) -> Result<Gva, FindError> {
    let value = Cursor::new(image, tables.relative_base)
        .u64()
        .ok_or(FindError::NoAddresses)?;
    let end_of_text = symbols.required("_etext")?;
    let start_of_init = symbols.required("_sinittext")?;
    match placement {
        Placement::Running { start } => {
            // The tables are read-only data, which lies between text and init text.
            let read_only = value
                .checked_add(end_of_text)
                .zip(value.checked_add(start_of_init));
            let tables_at = start.0.checked_add(tables.tokens);
            let fits = read_only
                .zip(tables_at)
                .is_some_and(|((from, to), at)| is_kernel(value) && from <= at && at < to);
            if fits {
                Ok(Gva(value))
            } else {
                Err(FindError::NotRelocated)
            }
        }
        Placement::Relocated if is_kernel(value) => Ok(Gva(value)),
        Placement::Relocated => Err(FindError::NotRelocated),
        Placement::File if is_kernel(value) => Ok(Gva(value)),
        Placement::File => {
            let text = symbols.required("_stext")?;
            find_relocation(image, tables.relative_base, text).ok_or(FindError::NoBase)
        }
    }
}

/// Whether `address` belongs to the kernel's half of the address space.
fn is_kernel(address: u64) -> bool {
    address >> 63 == 1
}

/// The addend of the RELA entry for the relative base, which is at `base_at`; `_stext` is `text`
/// bytes from it.
fn find_relocation(image: &(impl ImageReader + ?Sized), base_at: u64, text: u64) -> Option<Gva> {
    let mut words = Cursor::new(image, 0);
    let (mut offset, mut info) = (0, 0);
    while let Some(addend) = words.u64() {
        if info == R_AARCH64_RELATIVE && is_kernel(addend) {
            let image_start = addend
                .checked_add(text)
                .and_then(|stext| stext.checked_sub(HEADER));
            let place = image_start.and_then(|start| start.checked_add(base_at));
            if place == Some(offset) {
                return Some(Gva(addend));
            }
        }
        (offset, info) = (info, addend);
    }
    None
}

/// Bytes that a cursor reads at once.
const CURSOR_BYTES: usize = 512;

/// Reads an image from front to back.
struct Cursor<'a, I: ImageReader + ?Sized> {
    image: &'a I,
    at: u64,
    buffer: [u8; CURSOR_BYTES],
    /// What is left of the buffer.
    left: core::ops::Range<usize>,
}

impl<'a, I: ImageReader + ?Sized> Cursor<'a, I> {
    fn new(image: &'a I, at: u64) -> Self {
        Self {
            image,
            at,
            buffer: [0; CURSOR_BYTES],
            left: 0..0,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        if self.left.is_empty() {
            let length = self
                .image
                .size()
                .checked_sub(self.at)?
                .min(self.buffer.len() as u64);
            self.image
                .read(self.at, &mut self.buffer[..length as usize])
                .ok()?;
            self.left = 0..length as usize;
        }
        self.at += 1;
        self.left.next().map(|index| self.buffer[index])
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Some(bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// How many codes the name at the cursor has: ULEB128 of one or two bytes.
    fn name_length(&mut self) -> Option<usize> {
        let first = usize::from(self.byte()?);
        if first < 0x80 {
            return Some(first);
        }
        let second = usize::from(self.byte()?);
        (second < 0x80).then_some(first & 0x7f | second << 7)
    }
}
