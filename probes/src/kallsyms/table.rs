//! The symbol table, compressed as the kernel has it.

use super::tokens::Tokens;
use super::{FindError, MAX_NAME};
use crate::addr::Gva;
use crate::similar::Suggestions;
use crate::symbols::{Located, NameIndex, Named, Symbol, Symbols, hash};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

/// The symbols of a kernel. Names stay compressed.
#[derive(Clone, Debug)]
pub struct SymbolTable {
    base: Gva,
    tokens: Tokens,
    /// For each symbol its length and its codes.
    names: Vec<u8>,
    /// Where each symbol is in `names`.
    positions: Vec<u32>,
    /// Each symbol's address from `base`, ascending.
    offsets: Vec<u32>,
    by_name: NameIndex,
    /// Which offsets belong to the kernel.
    covered: [Range<u64>; 2],
}

/// A name that has been expanded, its type before it.
struct Name {
    bytes: [u8; MAX_NAME],
    length: usize,
}

impl Name {
    fn kind(&self) -> char {
        char::from(self.bytes[0])
    }

    fn text(&self) -> &str {
        let bytes = self.bytes.get(1..self.length).unwrap_or_default();
        // Tokens are ASCII.
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl SymbolTable {
    /// Takes the tables, which were found consistent.
    pub(super) fn build(
        tokens: Tokens,
        names: Vec<u8>,
        offsets: Vec<u32>,
    ) -> Result<Self, FindError> {
        let positions = positions(&names, offsets.len())?;
        let mut table = Self {
            base: Gva(0),
            tokens,
            names,
            positions,
            offsets,
            by_name: NameIndex::default(),
            covered: [0..0, 0..0],
        };
        let name_hash = |index| hash(table.name(index).text());
        table.by_name =
            NameIndex::of(table.offsets.len(), name_hash).map_err(|_| FindError::OutOfMemory)?;
        table.covered = table.cover()?;
        Ok(table)
    }

    /// The same symbols with `base` as the address of the first.
    pub(super) fn at(self, base: Gva) -> Self {
        Self { base, ..self }
    }

    /// The same symbols, `slide` bytes further up (the addresses wrap).
    pub fn slid(self, slide: u64) -> Self {
        let base = Gva(self.base.0.wrapping_add(slide));
        self.at(base)
    }

    /// Where the kernel's image begins: its `_text`. Without `CONFIG_KALLSYMS_ALL` that is no
    /// symbol; it is 64 KiB before `_stext`.
    pub fn image_start(&self) -> Option<Gva> {
        let before_stext = || Some(Gva(self.by_name("_stext")?.0.checked_sub(64 << 10)?));
        self.by_name("_text").or_else(before_stext)
    }

    /// The offset of a symbol without which this is no arm64 kernel.
    pub(super) fn required(&self, name: &'static str) -> Result<u64, FindError> {
        let index = self.find(name).ok_or(FindError::NoSymbol(name))?;
        Ok(u64::from(self.offsets[index]))
    }

    /// With `CONFIG_KALLSYMS_ALL`, everything up to `_end`; otherwise text and init text.
    fn cover(&self) -> Result<[Range<u64>; 2], FindError> {
        if let Some(end) = self.find("_end") {
            return Ok([0..u64::from(self.offsets[end]), 0..0]);
        }
        let text = self.required("_stext")?..self.required("_etext")?;
        let init = self.required("_sinittext")?..self.required("_einittext")?;
        Ok([text, init])
    }

    fn address(&self, index: usize) -> Gva {
        Gva(self.base.0.wrapping_add(u64::from(self.offsets[index])))
    }

    /// The name of a symbol. One that is too long is cut off; the layout has none.
    fn name(&self, index: usize) -> Name {
        let mut name = Name {
            bytes: [0; MAX_NAME],
            length: 0,
        };
        let codes = self
            .names
            .get(self.positions[index] as usize..)
            .unwrap_or_default();
        let Some((length, codes)) = split_length(codes) else {
            return name;
        };
        for &code in codes.iter().take(length) {
            let token = self.tokens.get(code);
            let Some(room) = name.bytes.get_mut(name.length..name.length + token.len()) else {
                break;
            };
            room.copy_from_slice(token);
            name.length += token.len();
        }
        name
    }

    /// The first symbol of that name.
    fn find(&self, wanted: &str) -> Option<usize> {
        self.all_named(wanted).next()
    }

    /// The symbols of that name, by address.
    fn all_named<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = usize> + 'a {
        let candidates = self.by_name.candidates(wanted);
        candidates.filter(move |&index| self.name(index).text() == wanted)
    }
}

impl Symbols for SymbolTable {
    fn count(&self) -> usize {
        self.offsets.len()
    }

    fn by_name(&self, name: &str) -> Option<Gva> {
        self.find(name).map(|index| self.address(index))
    }

    fn named(&self, name: &str, limit: usize) -> Vec<Named> {
        let named = |index| Named {
            address: self.address(index),
            name: name.to_string(),
        };
        self.all_named(name).take(limit).map(named).collect()
    }

    /// Of several symbols at one address the first, as the kernel's own traces have it.
    fn by_address(&self, address: Gva) -> Option<Located> {
        let offset = address.0.checked_sub(self.base.0)?;
        if !self.covered.iter().any(|range| range.contains(&offset)) {
            return None;
        }
        let offset = u32::try_from(offset).ok()?;
        let after = self.offsets.partition_point(|&start| start <= offset);
        let start = self.offsets[after.checked_sub(1)?];
        let first = self.offsets.partition_point(|&other| other < start);
        let name = self.name(first).text().to_string();
        Some(Located {
            name,
            offset: u64::from(offset - start),
        })
    }

    fn next_after(&self, address: Gva) -> Option<Gva> {
        let offset = address.0.checked_sub(self.base.0)?;
        let after = self
            .offsets
            .partition_point(|&start| u64::from(start) <= offset);
        (after < self.offsets.len()).then(|| self.address(after))
    }

    fn similar(&self, name: &str, limit: usize) -> Vec<String> {
        let mut suggestions = Suggestions::new(name, limit);
        for index in 0..self.offsets.len() {
            suggestions.offer(self.name(index).text());
        }
        suggestions.into_names()
    }

    fn each(&self, visit: &mut dyn FnMut(Gva, &str) -> bool) {
        self.each_symbol(&mut |symbol| visit(symbol.address, symbol.name));
    }

    fn each_symbol(&self, visit: &mut dyn FnMut(Symbol<'_>) -> bool) {
        for index in 0..self.offsets.len() {
            let name = self.name(index);
            let address = self.address(index);
            if !visit(Symbol {
                address,
                kind: name.kind(),
                name: name.text(),
            }) {
                return;
            }
        }
    }
}

/// Where each of `count` names begins.
fn positions(names: &[u8], count: usize) -> Result<Vec<u32>, FindError> {
    let mut positions = Vec::new();
    positions
        .try_reserve_exact(count)
        .map_err(|_| FindError::OutOfMemory)?;
    let mut rest = names;
    for _ in 0..count {
        positions.push((names.len() - rest.len()) as u32);
        let (length, codes) = split_length(rest).ok_or(FindError::NoNames)?;
        rest = codes.get(length..).ok_or(FindError::NoNames)?;
    }
    Ok(positions)
}

/// The number of codes of the name at the start of `names`, ULEB128 of one or two bytes, and what
/// follows it.
fn split_length(names: &[u8]) -> Option<(usize, &[u8])> {
    match *names {
        [length @ 0..0x80, ref codes @ ..] => Some((usize::from(length), codes)),
        [low, high, ref codes @ ..] => {
            Some((usize::from(low & 0x7f) | usize::from(high) << 7, codes))
        }
        _ => None,
    }
}
