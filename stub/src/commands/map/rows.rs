//! Entries of a map as a table: keys, the values of each CPU, and their sum.

use super::super::Invocation;
use super::super::output::{Format, Output};
use super::super::table::{Align, Cell, Table};
use super::Chosen;
use super::typed::{Sum, Typed, cell};
use super::value::backtrace;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use ebpf::Object;
use ebpf::btf::show::Value;
use ebpf::map::{Entry, MapKind};
use probes::symbols::Symbols;

/// Bytes of what is shown by types in a table, roughly: what comes after that is shown as `…`.
const MAX_TEXT: usize = 256 << 10;

/// A table of entries.
pub(super) struct Rows<'t> {
    table: Table,
    has_key: bool,
    /// Of a per-CPU map, how many values an entry has.
    copies: Option<usize>,
    /// Of the values of the entry so far.
    sum: Sum,
    format: Format,
    types: &'t Typed<'t>,
    values: Values,
    /// What is left of [`MAX_TEXT`].
    room: usize,
}

/// What the values of a map mean.
enum Values {
    /// What their type says.
    Plain,
    /// Addresses of code, in the VM that has these symbols, if any is known.
    Backtraces(Option<Arc<dyn Symbols>>),
    /// Numbers of the object's programs.
    Programs(Arc<Object>),
}

impl Values {
    fn of(chosen: &Chosen, invocation: &Invocation<'_>) -> Self {
        match chosen.map().definition().kind {
            MapKind::StackTrace => {}
            MapKind::ProgArray => return Self::Programs(Arc::clone(&chosen.object)),
            _ => return Self::Plain,
        }
        // Where there are several VMs, nobody says whose the addresses are.
        let space = invocation.here().ok();
        Self::Backtraces(space.and_then(|space| space.find_symbols().ok()))
    }
}

impl<'t> Rows<'t> {
    pub(super) fn new(chosen: &Chosen, types: &'t Typed<'t>, invocation: &Invocation<'_>) -> Self {
        let map = chosen.map();
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
            sum: Sum::default(),
            format: invocation.out.format(),
            types,
            room: MAX_TEXT,
            values: Values::of(chosen, invocation),
        }
    }

    /// Adds a value. Those of an entry of a per-CPU map come one after another, and behind the last
    /// people see their sum.
    pub(super) fn add(&mut self, entry: &Entry<'_>) {
        let cpu = entry.cpu.map(|cpu| cpu.to_string());
        let types = self.types;
        let typed = types.value(entry.value);
        let value = match &self.values {
            Values::Plain => self.cell(typed, entry.value),
            Values::Backtraces(symbols) => backtrace(entry.value, symbols.as_deref()).into(),
            Values::Programs(object) => {
                let number = entry
                    .value
                    .first_chunk()
                    .map(|word| u32::from_le_bytes(*word));
                let program = number.and_then(|number| object.programs().get(number as usize));
                let name = program.map(|program| Cell::from(program.name().to_string()));
                name.unwrap_or_else(|| cell(typed, entry.value, self.format))
            }
        };
        self.row(entry.key, cpu, value);
        let (Some(cpu), Some(copies)) = (entry.cpu, self.copies) else {
            return;
        };
        let more = Sum::of(typed, entry.value);
        match cpu {
            0 => self.sum = more,
            _ => self.sum.add(more),
        }
        let is_last = cpu + 1 == copies && self.format == Format::Text;
        if let Some(sum) = self.sum.show().filter(|_| is_last) {
            self.row(entry.key, Some("sum".to_string()), sum.into());
        }
    }

    fn cell(&mut self, typed: Option<Value<'_>>, bytes: &[u8]) -> Cell {
        let typed = match self.room {
            0 => typed.map(|value| value.limited(0)),
            _ => typed,
        };
        let cell = cell(typed, bytes, self.format);
        if typed.is_some() {
            self.room = self.room.saturating_sub(cell.text().len());
        }
        cell
    }

    fn row(&mut self, key: &[u8], cpu: Option<String>, value: Cell) {
        let types = self.types;
        let key = match self.has_key {
            true => Some(self.cell(types.key(key), key)),
            false => None,
        };
        let cpu = cpu.map(Cell::from);
        self.table.row(key.into_iter().chain(cpu).chain([value]));
    }

    pub(super) fn write(&self, out: &mut Output<'_>) -> fmt::Result {
        self.table.write(out)
    }
}
