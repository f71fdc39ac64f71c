//! The types that a linked program carries: those of its maps' keys and values, of its global data and of what seem to
//! be its records, and the strings of its source lines.

use super::elf::Elf;
use anyhow::{Context, Result, ensure};
use ebpf::btf::{Btf, HEADER, Kind, MAGIC, Type};
use std::collections::HashMap;

/// How deep types may be nested.
const MAX_DEPTH: u32 = 64;

/// Copies types and strings, each once.
pub(super) struct Subset<'a> {
    elf: &'a Elf<'a>,
    from: Option<&'a Btf<'a>>,
    types: Vec<u8>,
    count: u32,
    strings: Vec<u8>,
    offsets: HashMap<Vec<u8>, u32>,
    ids: HashMap<u32, u32>,
}

impl<'a> Subset<'a> {
    pub(super) fn new(elf: &'a Elf<'a>, from: Option<&'a Btf<'a>>) -> Self {
        Self {
            elf,
            from,
            types: Vec::new(),
            count: 0,
            strings: vec![0],
            offsets: HashMap::from([(Vec::new(), 0)]),
            ids: HashMap::from([(0, 0)]),
        }
    }

    /// The new number of a type.
    pub(super) fn ty(&mut self, id: u32) -> Result<u32> {
        match self.from {
            Some(from) => self.copy(from, id, MAX_DEPTH),
            None => Ok(0),
        }
    }

    /// The new offset of a string.
    pub(super) fn string(&mut self, offset: u32) -> u32 {
        let text = self.from.map_or(&[][..], |from| from.string(offset));
        self.text(text)
    }

    /// In the BTF format; nothing where nothing was asked for.
    pub(super) fn finish(self) -> Vec<u8> {
        if self.count == 0 && self.strings.len() == 1 {
            return Vec::new();
        }
        let lengths = [self.types.len(), self.types.len(), self.strings.len()];
        let [types, start, strings] = lengths.map(|length| length as u32);
        let header = [HEADER as u32, 0, types, start, strings];
        let mut bytes = Vec::from(MAGIC);
        bytes.extend([1, 0]);
        bytes.extend(header.into_iter().flat_map(u32::to_le_bytes));
        bytes.extend(self.types);
        bytes.extend(self.strings);
        bytes
    }

    fn text(&mut self, text: &[u8]) -> u32 {
        let strings = &mut self.strings;
        *self.offsets.entry(text.into()).or_insert_with(|| {
            let offset = strings.len() as u32;
            strings.extend(text);
            strings.push(0);
            offset
        })
    }

    /// Copies a type after those that it is made of: whole types cannot be made of themselves, and
    /// pointers are cut.
    fn copy(&mut self, from: &Btf<'_>, id: u32, depth: u32) -> Result<u32> {
        if let Some(&known) = self.ids.get(&id) {
            return Ok(known);
        }
        ensure!(depth > 0, "types that are nested too deep");
        let ty = from.ty(id).context("a type that is not there")?;
        let other = match ty.kind {
            Kind::Ptr => self.pointee(from, ty.size_or_type, depth)?,
            // What a function is like is of no interest to who shows a pointer to it.
            Kind::FuncProto => return Ok(0),
            kind if kind.refers() => self.copy(from, ty.size_or_type, depth - 1)?,
            _ => ty.size_or_type,
        };
        let mut words = self.parts(from, &ty, depth)?;
        words.splice(0..0, [self.text(from.string(ty.name)), ty.info(), other]);
        Ok(self.add(id, &words))
    }

    /// What a pointer points to: of a structure only the name.
    fn pointee(&mut self, from: &Btf<'_>, id: u32, depth: u32) -> Result<u32> {
        let (id, ty) = from.resolve(id).context("an endless type")?;
        if !ty.kind.is_composite() {
            return self.copy(from, id, depth - 1);
        }
        if ty.name == 0 {
            return Ok(0);
        }
        let is_union = u32::from(ty.kind == Kind::Union);
        let info = (Kind::Fwd as u32) << 24 | is_union << 31;
        let name = self.text(from.string(ty.name));
        // Not among the numbers of copied types: the structure itself may be copied too.
        self.count += 1;
        self.put(&[name, info, 0]);
        Ok(self.count)
    }

    /// What follows the three words that every type has.
    fn parts(&mut self, from: &Btf<'_>, ty: &Type<'_>, depth: u32) -> Result<Vec<u32>> {
        let mut words: Vec<u32> = ty.words().collect();
        match ty.kind {
            Kind::Struct | Kind::Union => {
                for member in words.chunks_exact_mut(3) {
                    member[0] = self.text(from.string(member[0]));
                    member[1] = self.copy(from, member[1], depth - 1)?;
                }
            }
            Kind::Array => {
                words[0] = self.copy(from, words[0], depth - 1)?;
                words[1] = self.copy(from, words[1], depth - 1)?;
            }
            Kind::Enum => {
                for enumerator in words.chunks_exact_mut(2) {
                    enumerator[0] = self.text(from.string(enumerator[0]));
                }
            }
            Kind::Enum64 => {
                for enumerator in words.chunks_exact_mut(3) {
                    enumerator[0] = self.text(from.string(enumerator[0]));
                }
            }
            Kind::DataSec => {
                let section = from.string(ty.name);
                for variable in words.chunks_exact_mut(3) {
                    variable[1] = self
                        .place(from, section, variable[0])
                        .unwrap_or(variable[1]);
                    variable[0] = self.copy(from, variable[0], depth - 1)?;
                }
            }
            _ => {}
        }
        Ok(words)
    }

    /// Where in its section a variable is: the compiler leaves that to the symbol.
    fn place(&self, from: &Btf<'_>, section: &[u8], variable: u32) -> Option<u32> {
        let mut sections = self.elf.sections.iter();
        let section = sections.position(|found| found.name.as_bytes() == section)?;
        let name = from.string(from.ty(variable)?.name);
        let mut symbols = self.elf.symbols.iter();
        let symbol = symbols
            .find(|symbol| symbol.section == Some(section) && symbol.name.as_bytes() == name)?;
        u32::try_from(symbol.value).ok()
    }

    fn add(&mut self, id: u32, words: &[u32]) -> u32 {
        self.count += 1;
        self.ids.insert(id, self.count);
        self.put(words);
        self.count
    }

    fn put(&mut self, words: &[u32]) {
        self.types
            .extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
}
