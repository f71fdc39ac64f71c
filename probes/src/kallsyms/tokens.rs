//! The token table: what the bytes of a compressed name stand for.

use super::{ImageReader, scan};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::ControlFlow;

/// Codes, and so tokens.
const TOKENS: usize = 256;
/// Bytes of `kallsyms_token_index`.
pub(super) const INDEX_BYTES: u64 = 2 * TOKENS as u64;
/// Most bytes that the tokens may take. Debian's take 1 KB.
const MAX_BYTES: u64 = 16 << 10;
/// Most places that are looked at. An honest kernel has two.
const MAX_PLACES: u32 = 1 << 10;

/// `"0\0" … "9\0"`.
const DIGITS: &[u8; 20] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";

/// The token table of a kernel.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    /// Offset of `kallsyms_token_table` in the image.
    pub(super) at: u64,
    /// Offset of `kallsyms_token_index`.
    pub(super) index_at: u64,
    strings: Vec<u8>,
    /// Where each token is in `strings`.
    ranges: Vec<(u16, u16)>,
}

impl Tokens {
    /// What `code` stands for: printable ASCII, or nothing.
    pub(super) fn get(&self, code: u8) -> &[u8] {
        let (start, end) = self.ranges[usize::from(code)];
        &self.strings[usize::from(start)..usize::from(end)]
    }
}

/// Finds the token table.
pub(super) fn find(image: &(impl ImageReader + ?Sized)) -> Option<Tokens> {
    let mut found = None;
    let mut places = 0;
    scan::each(image, DIGITS, &mut |digits_at| {
        found = parse(image, digits_at);
        places += 1;
        if found.is_some() || places == MAX_PLACES {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    found
}

/// The token table whose token for `'0'` is at `digit_at`, if there is one. The index behind it
/// says where it begins; then all tokens must be where the index says.
fn parse(image: &(impl ImageReader + ?Sized), digit_at: u64) -> Option<Tokens> {
    let length = (image.size() - digit_at).min(MAX_BYTES);
    let mut tail = vec![0; length as usize];
    image.read(digit_at, &mut tail).ok()?;
    let from_digit = TOKENS - usize::from(b'0');
    let (last, _) = tail
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == 0)
        .nth(from_digit - 1)?;
    let end = digit_at + last as u64 + 1;
    let index_at = end.next_multiple_of(8);
    if index_at.checked_add(INDEX_BYTES)? > image.size() {
        return None;
    }
    let mut index = [0; INDEX_BYTES as usize];
    image.read(index_at, &mut index).ok()?;
    let starts: Vec<u16> = index
        .as_chunks()
        .0
        .iter()
        .map(|bytes| u16::from_le_bytes(*bytes))
        .collect();
    let at = digit_at.checked_sub(u64::from(starts[usize::from(b'0')]))?;
    if !at.is_multiple_of(8) || end - at > MAX_BYTES {
        return None;
    }
    let mut strings = vec![0; (end - at) as usize];
    image.read(at, &mut strings).ok()?;
    let ranges = ranges(&strings)?;
    let is_indexed = ranges.iter().map(|&(start, _)| start).eq(starts);
    let is_text = strings
        .iter()
        .all(|&byte| byte == 0 || byte.is_ascii_graphic());
    (is_indexed && is_text).then_some(Tokens {
        at,
        index_at,
        strings,
        ranges,
    })
}

/// Where the 256 zero-terminated strings are.
fn ranges(strings: &[u8]) -> Option<Vec<(u16, u16)>> {
    let mut ranges = Vec::with_capacity(TOKENS);
    let mut start = 0;
    for (index, _) in strings.iter().enumerate().filter(|(_, byte)| **byte == 0) {
        ranges.push((start, u16::try_from(index).ok()?));
        start = u16::try_from(index + 1).ok()?;
    }
    (ranges.len() == TOKENS).then_some(ranges)
}
