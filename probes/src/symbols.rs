//! Symbols of a space, by name and by address.

use crate::addr::Gva;
use alloc::collections::TryReserveError;
use alloc::string::String;
use alloc::vec::Vec;

/// A symbol and how far into it an address lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located {
    /// The symbol's name.
    pub name: String,
    /// Bytes from the symbol to the address.
    pub offset: u64,
}

/// A symbol and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// Its address.
    pub address: Gva,
    /// Its whole name.
    pub name: String,
}

/// A symbol as it stands in a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Symbol<'a> {
    /// Where it is.
    pub address: Gva,
    /// Its type as `nm` shows it: `T` and `t` for code, `D`, `d`, `B`, `b`, `R`, `r`, … for data; lower case is local.
    /// `?` where the table does not know.
    pub kind: char,
    /// Its name.
    pub name: &'a str,
}

/// A table of symbols. Built once, then only read.
pub trait Symbols: Send + Sync {
    /// How many symbols.
    fn count(&self) -> usize;
    /// The address of the symbol `name`; of several, the lowest.
    fn by_name(&self, name: &str) -> Option<Gva>;
    /// At most `limit` symbols that answer to `name`, by address: a name need not be unique.
    fn named(&self, name: &str, limit: usize) -> Vec<Named>;
    /// The last symbol at or before `address`, unless `address` lies outside what the table covers.
    fn by_address(&self, address: Gva) -> Option<Located>;
    /// The first address after `address` where a symbol is.
    fn next_after(&self, address: Gva) -> Option<Gva>;
    /// At most `limit` names that a user who typed `name` may have meant, best first.
    fn similar(&self, name: &str, limit: usize) -> Vec<String>;
    /// In how many places functions that answer to `name` have been inlined, where the table knows.
    fn inlined(&self, _name: &str) -> u32 {
        0
    }
    /// Calls `visit` for every symbol in order of address, until it returns `false`.
    fn each(&self, visit: &mut dyn FnMut(Gva, &str) -> bool);
    /// The same with the kinds of the symbols, as far as the table knows them.
    fn each_symbol(&self, visit: &mut dyn FnMut(Symbol<'_>) -> bool) {
        self.each(&mut |address, name| {
            let kind = '?';
            visit(Symbol {
                address,
                kind,
                name,
            })
        });
    }
    /// Whether a part of the code that comes and goes is there now: a module of the kernel.
    fn has_module(&self, name: &str) -> bool {
        let _ = name;
        false
    }
}

/// The symbols of a table by their names: 8 bytes for each. Looking up reads no names but those whose hash is right.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameIndex(Vec<(u32, u32)>);

impl NameIndex {
    /// Of `count` symbols; `name_hash` is the hash of a symbol's name, by its number.
    pub(crate) fn of(
        count: usize,
        name_hash: impl Fn(usize) -> u32,
    ) -> Result<Self, TryReserveError> {
        let mut index = Vec::new();
        index.try_reserve_exact(count)?;
        index.extend((0..count).map(|number| (name_hash(number), number as u32)));
        index.sort_unstable();
        Ok(Self(index))
    }

    /// The numbers of the symbols that may be called `wanted`, lowest first.
    pub(crate) fn candidates(&self, wanted: &str) -> impl Iterator<Item = usize> + '_ {
        let wanted = hash(wanted);
        let first = self.0.partition_point(|(hash, _)| *hash < wanted);
        let alike = self.0[first..]
            .iter()
            .take_while(move |(hash, _)| *hash == wanted);
        alike.map(|(_, number)| *number as usize)
    }
}

/// What tables order names by (FNV-1a).
pub(crate) fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
