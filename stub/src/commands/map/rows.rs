//! Entries of a map as a table: keys, the values of each CPU, and their sum.

use super::super::Invocation;
use super::super::output::{Format, Output};
use super::super::table::{Align, Table};
use super::value::{backtrace, integer, show};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use ebpf::map::{Entry, Map, MapKind};
use probes::symbols::Symbols;

/// A table of entries.
pub(super) struct Rows {
    table: Table,
    has_key: bool,
    /// Of a per-CPU map, how many values an entry has.
    copies: Option<usize>,
    /// Of the values of the entry so far.
    sum: Option<u64>,
    format: Format,
    values: Values,
}

/// What the values of a map mean.
enum Values {
    /// Numbers or bytes.
    Plain,
    /// Addresses of code, in the VM that has these symbols, if any is known.
    Backtraces(Option<Arc<dyn Symbols>>),
}

impl Values {
    fn of(map: &Map, invocation: &Invocation<'_>) -> Self {
        if map.definition().kind != MapKind::StackTrace {
            return Self::Plain;
        }
        // Where there are several VMs, nobody says whose the addresses are.
        let space = invocation.here().ok();
        Self::Backtraces(space.and_then(|space| space.find_symbols().ok()))
    }

    fn show(&self, value: &[u8]) -> String {
        match self {
            Self::Plain => show(value),
            Self::Backtraces(symbols) => backtrace(value, symbols.as_deref()),
        }
    }
}

impl Rows {
    pub(super) fn new(map: &Map, invocation: &Invocation<'_>) -> Self {
        let definition = map.definition();
        let has_key = definition.key_size > 0;
        let copies = definition.kind.is_per_cpu().then(|| map.copies());
        let columns = [
            has_key.then_some(("KEY", Align::Right)),
            copies.map(|_| ("CPU", Align::Right)),
            Some(("VALUE", Align::Right)),
        ];
        let columns: Vec<_> = columns.into_iter().flatten().collect();
        Self {
            table: Table::new(&columns),
            has_key,
            copies,
            sum: Some(0),
            format: invocation.out.format(),
            values: Values::of(map, invocation),
        }
    }

    /// Adds a value. Those of an entry of a per-CPU map come one after another, and behind the last
    /// people see their sum.
    pub(super) fn add(&mut self, entry: &Entry<'_>) {
        let cpu = entry.cpu.map(|cpu| cpu.to_string());
        let value = self.values.show(entry.value);
        self.row(entry.key, cpu, value);
        let (Some(cpu), Some(copies)) = (entry.cpu, self.copies) else {
            return;
        };
        if cpu == 0 {
            self.sum = Some(0);
        }
        let more = integer(entry.value);
        self.sum = self.sum.zip(more).map(|(sum, more)| sum.wrapping_add(more));
        if let Some(sum) = self.sum
            && cpu + 1 == copies
            && self.format == Format::Text
        {
            self.row(entry.key, Some("sum".to_string()), sum.to_string());
        }
    }

    fn row(&mut self, key: &[u8], cpu: Option<String>, value: String) {
        let key = self.has_key.then(|| show(key));
        self.table.row(key.into_iter().chain(cpu).chain([value]));
    }

    pub(super) fn write(&self, out: &mut Output<'_>) -> fmt::Result {
        self.table.write(out)
    }
}
