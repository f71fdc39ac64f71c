//! Keys and values by the types that the object of their map carries.

use super::super::Problem;
use super::super::output::Format;
use super::super::table::Cell;
use super::{Chosen, value};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use ebpf::btf::Btf;
use ebpf::btf::show::{Value, read};
use ebpf::linked::MapTypes;

/// What the keys and values of a map are, where that is known.
pub(super) struct Typed<'o> {
    /// The object's types; those of a loaded object are well-made.
    btf: Option<Btf<'o>>,
    types: MapTypes,
}

impl<'o> Typed<'o> {
    pub(super) fn of(chosen: &'o Chosen) -> Self {
        let (bytes, types) = chosen.object.types_of(chosen.index);
        Self {
            btf: Btf::parse(bytes).ok(),
            types,
        }
    }

    fn typed<'v>(&'v self, ty: u32, bytes: &'v [u8]) -> Option<Value<'v>> {
        let btf = self.btf.as_ref().filter(|_| ty != 0)?;
        Some(Value::new(btf, ty, bytes))
    }

    /// A key that has a type.
    pub(super) fn key<'v>(&'v self, bytes: &'v [u8]) -> Option<Value<'v>> {
        self.typed(self.types.key, bytes)
    }

    /// A value that has a type.
    pub(super) fn value<'v>(&'v self, bytes: &'v [u8]) -> Option<Value<'v>> {
        self.typed(self.types.value, bytes)
    }

    /// A key as a user writes it: as it is shown, a number, or its bytes.
    pub(super) fn parse_key(&self, text: &str, size: usize) -> Result<Vec<u8>, Problem> {
        self.parse(self.types.key, text, size, "key")
    }

    /// The same of a value.
    pub(super) fn parse_value(&self, text: &str, size: usize) -> Result<Vec<u8>, Problem> {
        self.parse(self.types.value, text, size, "value")
    }

    fn parse(&self, ty: u32, text: &str, size: usize, what: &str) -> Result<Vec<u8>, Problem> {
        let are_bytes = text.contains(':') && !text.starts_with('"');
        let btf = self.btf.as_ref().filter(|_| ty != 0 && !are_bytes);
        match btf.and_then(|btf| read(btf, ty, text)) {
            Some(bytes) if bytes.len() == size => Ok(bytes),
            _ => value::parse(text, size, what),
        }
    }
}

/// A cell of a table with what `typed` is, or with bytes of which nothing is known.
pub(super) fn cell(typed: Option<Value<'_>>, bytes: &[u8], format: Format) -> Cell {
    match (typed, format) {
        (Some(value), Format::Json) => Cell::Json(value.json().to_string()),
        (Some(value), Format::Text | Format::OsData) => Cell::Text(value.text().to_string()),
        (None, _) => Cell::Text(value::show(bytes)),
    }
}

/// The numbers that the values of several CPUs are made of, added up.
#[derive(Default)]
pub(super) struct Sum(Option<Vec<(String, i128)>>);

impl Sum {
    /// Begins with the numbers of a first value; there is no sum of what has others.
    pub(super) fn of(typed: Option<Value<'_>>, bytes: &[u8]) -> Self {
        Self(numbers(typed, bytes))
    }

    pub(super) fn add(&mut self, more: Self) {
        let (Some(sums), Some(more)) = (&mut self.0, more.0) else {
            self.0 = None;
            return;
        };
        for ((_, sum), (_, number)) in sums.iter_mut().zip(more) {
            *sum = sum.wrapping_add(number);
        }
    }

    /// As text: a number, or one for each member.
    pub(super) fn show(&self) -> Option<String> {
        match self.0.as_deref()? {
            [(name, sum)] if name.is_empty() => Some(sum.to_string()),
            sums => {
                let member = |(name, sum): &(String, i128)| format!("{name}={sum}");
                let members: Vec<String> = sums.iter().map(member).collect();
                Some(format!("{{{}}}", members.join(" ")))
            }
        }
    }
}

/// The number that a value is, or those that all its members are.
fn numbers(typed: Option<Value<'_>>, bytes: &[u8]) -> Option<Vec<(String, i128)>> {
    let Some(typed) = typed else {
        return Some(vec![(String::new(), value::integer(bytes)?.into())]);
    };
    match typed.fields() {
        None => Some(vec![(String::new(), typed.number()?)]),
        Some(fields) => {
            let number =
                |field: &ebpf::btf::show::Field<'_>| Some((field.name(), field.value.number()?));
            fields.iter().map(number).collect()
        }
    }
}
