//! The symbols as the file has them, and what BTF says of them.

use super::NoFile;
use super::dwarf::{Named, Scope};
use super::elf::{self, FileSymbol, SHN_ABS};
use super::parts::{Holds, Part, Parts};
use super::sink::Sink;
use crate::symbols::{NameIndex, Symbol, Symbols, hash};
use crate::target::Target;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use ebpf::btf::{Btf, Kind};

/// All symbols by address.
#[derive(Default)]
pub(super) struct Table {
    pub(super) symbols: Vec<FileSymbol>,
    /// Their names, each ended by a zero; the first is empty.
    pub(super) names: Vec<u8>,
    /// The functions that BTF describes, by address.
    pub(super) functions: Vec<Named>,
    /// The variables that it describes.
    pub(super) variables: Vec<Named>,
}

impl Table {
    /// Takes all symbols.
    pub(super) fn read(
        symbols: &dyn Symbols,
        parts: &Parts,
        types: Option<&Btf<'_>>,
    ) -> Result<Self, NoFile> {
        let mut described = types.map(Described::of).transpose()?;
        let mut table = Self {
            symbols: Vec::new(),
            names: Vec::from([0]),
            functions: Vec::new(),
            variables: Vec::new(),
        };
        table.symbols.try_reserve_exact(symbols.count())?;
        let mut result = Ok(());
        symbols.each_symbol(&mut |symbol| {
            result = table.add(&symbol, parts, described.as_mut());
            result.is_ok()
        });
        result?;
        table.symbols.sort_by_key(|symbol| symbol.address);
        table.set_sizes(parts);
        if let Some(described) = described {
            table.take(&described)?;
        }
        Ok(table)
    }

    fn add(
        &mut self,
        symbol: &Symbol<'_>,
        parts: &Parts,
        described: Option<&mut Described<'_>>,
    ) -> Result<(), TryReserveError> {
        let part = parts.at(symbol.address.0);
        let holds = part.map(|(_, part)| part.holds);
        let (name, is_kernels) = match Target::split_module(symbol.name) {
            Some((_, function)) => (function, false),
            None => (symbol.name, true),
        };
        self.symbols.try_reserve(1)?;
        self.names.try_reserve(name.len() + 1)?;
        self.symbols.push(FileSymbol {
            name: self.names.len() as u32,
            binding: binding(symbol.kind),
            kind: match holds {
                Some(Holds::Code) => elf::FUNC,
                Some(Holds::Constants | Holds::Variables) => elf::OBJECT,
                None => elf::NOTYPE,
            },
            section: part.map_or(SHN_ABS, |(index, _)| index as u16 + 1),
            address: symbol.address.0,
            size: 0,
        });
        self.names.text(name);
        // The types of modules are elsewhere.
        if let Some(described) = described.filter(|_| is_kernels) {
            described.meet(symbol, holds)?;
        }
        Ok(())
    }

    /// How many symbols are local.
    pub(super) fn locals(&self) -> usize {
        let local = |symbol: &&FileSymbol| symbol.binding == elf::LOCAL;
        self.symbols.iter().filter(local).count()
    }

    /// Each symbol reaches to the next one at another address, or to the end of its part.
    fn set_sizes(&mut self, parts: &Parts) {
        let mut next = u64::MAX;
        let mut last = u64::MAX;
        for symbol in self.symbols.iter_mut().rev() {
            if symbol.address != last {
                next = last;
                last = symbol.address;
            }
            if let Some((_, Part { range, .. })) = parts.at(symbol.address) {
                symbol.size = next.min(range.end) - symbol.address;
            }
        }
    }

    /// Sorts out what BTF describes. Of names for one address the first counts, and of a name for several addresses
    /// none.
    fn take(&mut self, described: &Described<'_>) -> Result<(), TryReserveError> {
        for (entry, named) in &described.met {
            if described.times[*entry as usize] != 1 {
                continue;
            }
            let kind = described.btf.ty(named.ty).map(|ty| ty.kind);
            let list = match kind {
                Some(Kind::Func) => &mut self.functions,
                _ => &mut self.variables,
            };
            list.try_reserve(1)?;
            list.push(*named);
        }
        for list in [&mut self.functions, &mut self.variables] {
            list.sort_by_key(|named| named.address);
            list.dedup_by_key(|named| named.address);
            for named in list {
                let after = self
                    .symbols
                    .partition_point(|at| at.address < named.address);
                named.size = self.symbols.get(after).map_or(0, |symbol| symbol.size);
            }
        }
        Ok(())
    }
}

/// How a symbol is bound whose kind `nm` shows so.
fn binding(kind: char) -> u8 {
    match kind {
        'W' | 'w' | 'V' | 'v' => elf::WEAK,
        kind if kind.is_ascii_lowercase() => elf::LOCAL,
        _ => elf::GLOBAL,
    }
}

fn scope(kind: char) -> Scope {
    if binding(kind) == elf::LOCAL {
        Scope::Local
    } else {
        Scope::Global
    }
}

/// The functions and variables of a BTF, and the symbols with their names.
struct Described<'a> {
    btf: &'a Btf<'a>,
    /// The numbers of their types.
    types: Vec<u32>,
    index: NameIndex,
    /// How many symbols have the name of each.
    times: Vec<u8>,
    /// Which have been met, and as what.
    met: Vec<(u32, Named)>,
}

impl<'a> Described<'a> {
    fn of(btf: &'a Btf<'a>) -> Result<Self, TryReserveError> {
        let is_named = |kind| matches!(kind, Kind::Func | Kind::Var);
        let named = || btf.types().filter(|(_, ty)| is_named(ty.kind));
        let count = named().count();
        let (mut types, mut times) = (Vec::new(), Vec::new());
        types.try_reserve_exact(count)?;
        types.extend(named().map(|(id, _)| id));
        times.try_reserve_exact(count)?;
        times.resize(count, 0);
        let index = NameIndex::of(count, |entry| hash(name(btf, types[entry])))?;
        let mut met = Vec::new();
        met.try_reserve_exact(count)?;
        Ok(Self {
            btf,
            types,
            index,
            times,
            met,
        })
    }

    /// Sees a symbol, and what the part holds that it is in.
    fn meet(&mut self, symbol: &Symbol<'_>, holds: Option<Holds>) -> Result<(), TryReserveError> {
        let wanted = match holds {
            Some(Holds::Code) => Kind::Func,
            Some(Holds::Constants | Holds::Variables) => Kind::Var,
            None => return Ok(()),
        };
        let (index, types) = (&self.index, &self.types);
        for entry in index.candidates(symbol.name) {
            let ty = types[entry];
            let is_meant = self.btf.ty(ty).is_some_and(|ty| ty.kind == wanted);
            if !is_meant || name(self.btf, ty) != symbol.name {
                continue;
            }
            self.times[entry] = self.times[entry].saturating_add(1);
            self.met.try_reserve(1)?;
            let named = Named {
                ty,
                address: symbol.address.0,
                size: 0,
                scope: scope(symbol.kind),
            };
            self.met.push((entry as u32, named));
        }
        Ok(())
    }
}

fn name<'a>(btf: &Btf<'a>, ty: u32) -> &'a str {
    let name = btf.ty(ty).map_or(&[][..], |ty| btf.string(ty.name));
    core::str::from_utf8(name).unwrap_or_default()
}
