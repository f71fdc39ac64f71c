//! Symbols that a test names.

use crate::addr::Gva;
use crate::symbols::{Located, Named, Symbol, Symbols};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A table of a few symbols, in order of address.
pub struct FakeSymbols(Vec<(Gva, char, &'static str)>);

impl FakeSymbols {
    /// Symbols of functions.
    pub fn new(symbols: impl IntoIterator<Item = (Gva, &'static str)>) -> Self {
        let functions = symbols.into_iter();
        Self::with_kinds(functions.map(|(address, name)| (address, 't', name)))
    }

    /// Symbols with their kinds, as `nm` writes them.
    pub fn with_kinds(symbols: impl IntoIterator<Item = (Gva, char, &'static str)>) -> Self {
        Self(symbols.into_iter().collect())
    }

    fn all(&self) -> impl Iterator<Item = (Gva, &'static str)> {
        self.0.iter().map(|(address, _, name)| (*address, *name))
    }
}

impl Symbols for FakeSymbols {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn by_name(&self, name: &str) -> Option<Gva> {
        let found = self.all().find(|(_, other)| *other == name);
        found.map(|(address, _)| address)
    }

    fn named(&self, name: &str, limit: usize) -> Vec<Named> {
        let named = |(address, name): (Gva, &str)| Named {
            address,
            name: name.to_string(),
        };
        let found = self.all().filter(|(_, other)| *other == name);
        found.take(limit).map(named).collect()
    }

    /// Of several symbols at one address, the first.
    fn by_address(&self, address: Gva) -> Option<Located> {
        let (start, ..) = self.0.iter().rfind(|(start, ..)| *start <= address)?;
        let (_, name) = self.all().find(|(other, _)| other == start)?;
        Some(Located {
            name: name.to_string(),
            offset: address.0 - start.0,
        })
    }

    fn next_after(&self, address: Gva) -> Option<Gva> {
        let mut addresses = self.all().map(|(other, _)| other);
        addresses.find(|other| *other > address)
    }

    /// Those with the same first letter.
    fn similar(&self, name: &str, limit: usize) -> Vec<String> {
        let alike = |(_, other): &(Gva, &str)| other.chars().next() == name.chars().next();
        let found = self.all().filter(alike);
        found
            .take(limit)
            .map(|(_, name)| name.to_string())
            .collect()
    }

    fn each(&self, visit: &mut dyn FnMut(Gva, &str) -> bool) {
        let _ = self.all().all(|(address, name)| visit(address, name));
    }

    fn each_symbol(&self, visit: &mut dyn FnMut(Symbol<'_>) -> bool) {
        let symbol = |(address, kind, name): &(Gva, char, &'static str)| Symbol {
            address: *address,
            kind: *kind,
            name,
        };
        let _ = self.0.iter().map(symbol).all(visit);
    }
}
