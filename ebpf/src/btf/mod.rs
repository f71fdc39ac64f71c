//! BTF, the compact types of C that Linux and eBPF objects carry
//! (`Documentation/bpf/btf.rst`, `include/uapi/linux/btf.h`).
//!
//! ```text
//! header   magic    u16   0xeb9f
//!          version  u8    1
//!          flags    u8
//!          length   u32   bytes of the header
//!          types    u32   offset of the types behind the header, and their length
//!                   u32
//!          strings  u32   offset of the strings behind the header, and their length
//!                   u32
//! type     name     u32   offset of a string
//!          info     u32   bits 0 to 15 a count, 24 to 28 the kind, 31 a flag
//!          size     u32   bytes, or the id of another type
//!          …              depends on the kind: members, enumerators, parameters
//! ```
//!
//! Types are numbered from 1 in the order in which they are there; 0 is `void`. Everything is
//! untrusted: [`Btf::parse`] checks that every record lies inside, the rest that every id and string
//! does, and that no chain of types is endless.

mod kind;
pub mod show;
#[cfg(test)]
pub(crate) mod tests;

pub use kind::Kind;

use alloc::vec::Vec;
use core::fmt;

/// How many modifiers, typedefs or array dimensions may follow each other. Real types stay far below.
const MAX_CHAIN: usize = 64;

/// The first two bytes of BTF.
pub const MAGIC: [u8; 2] = 0xeb9f_u16.to_le_bytes();
/// Bytes of a header as every version has them.
pub const HEADER: usize = 24;
/// Bytes that every type begins with.
const RECORD: usize = 12;
/// Types at most. A kernel has about 150,000.
const MAX_TYPES: usize = 1 << 20;

/// What is wrong with BTF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BtfError {
    /// It does not start with the magic and a version that is known.
    Magic,
    /// A part lies outside the data.
    Bounds,
    /// The strings do not begin and end with a zero byte.
    Strings,
    /// Type `id` has a kind that there is not.
    Kind {
        /// Its number.
        id: u32,
    },
    /// The data of type `id` ends before it does.
    Truncated {
        /// Its number.
        id: u32,
    },
    /// There are too many types.
    TooMany,
}

impl fmt::Display for BtfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("these are no types in the BTF format"),
            Self::Bounds => f.write_str("a part of the types lies outside their data"),
            Self::Strings => f.write_str("the names of the types are cut off"),
            Self::Kind { id } => write!(f, "type {id} is of a kind that is not known here"),
            Self::Truncated { id } => write!(f, "type {id} is cut off"),
            Self::TooMany => write!(f, "there are more than {MAX_TYPES} types"),
        }
    }
}

impl core::error::Error for BtfError {}

/// Parsed BTF.
#[derive(Clone, Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins, from type 1.
    starts: Vec<u32>,
}

/// One type.
#[derive(Clone, Copy, Debug)]
pub struct Type<'a> {
    /// What kind of type it is.
    pub kind: Kind,
    /// Where its name is among the strings; 0 if it has none.
    pub name: u32,
    /// Bytes, or the number of the type that it is made of: which one depends on the kind.
    pub size_or_type: u32,
    /// The kind's own flag: bit fields among the members, signed enumerators, a union.
    pub flag: bool,
    count: usize,
    data: &'a [u8],
}

/// A member of a structure or union.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Where its name is among the strings; 0 if it has none.
    pub name: u32,
    /// The number of its type.
    pub ty: u32,
    /// Bits from the beginning of the structure.
    pub bit_offset: u32,
    /// Bits of a bit field, 0 for all others.
    pub bit_size: u32,
}

/// A value of an enumeration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enumerator {
    /// Where its name is among the strings.
    pub name: u32,
    /// Its value, sign-extended from 32 bits where it has no more.
    pub value: u64,
}

/// A parameter of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameter {
    /// Where its name is among the strings; 0 if it has none.
    pub name: u32,
    /// The number of its type. A last parameter of type `void` stands for any number of others.
    pub ty: u32,
}

/// A variable of a section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SectionVariable {
    /// The number of the variable's type record, of kind [`Kind::Var`].
    pub ty: u32,
    /// Bytes from the beginning of the section.
    pub offset: u32,
    /// Bytes of the variable.
    pub size: u32,
}

/// Dimension of an array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Array {
    /// The number of the elements' type.
    pub element: u32,
    /// The number of the index' type.
    pub index: u32,
    /// How many elements; 0 for a flexible array.
    pub count: u32,
}

/// The encoding of an integer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Int {
    /// Flags: bit 0 signed, bit 1 a character, bit 2 a boolean.
    pub encoding: u8,
    /// Bits to the first one; not 0 only in an ancient way to write bit fields.
    pub offset: u8,
    /// How many bits.
    pub bits: u8,
}

impl Int {
    /// The flag of signed integers.
    pub const SIGNED: u8 = 1;
    /// The flag of characters.
    const CHAR: u8 = 2;
    /// The flag of booleans.
    pub const BOOL: u8 = 4;

    /// Whether it is said to be a character.
    pub fn is_character(self) -> bool {
        self.encoding & Self::CHAR != 0
    }

    /// Whether it is a truth value.
    pub fn is_boolean(self) -> bool {
        self.encoding & Self::BOOL != 0
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn part(bytes: &[u8], header: usize, start: u32, length: u32) -> Option<&[u8]> {
    let start = header.checked_add(usize::try_from(start).ok()?)?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    bytes.get(start..end)
}

impl<'a> Btf<'a> {
    /// Reads BTF. Total: any bytes give [`Btf`] or an error; 4 bytes are allocated for every 12 at
    /// most.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let version = bytes.get(2);
        if bytes.get(..2) != Some(&MAGIC) || version != Some(&1) {
            return Err(BtfError::Magic);
        }
        let field = |at| word(bytes, at).ok_or(BtfError::Bounds);
        let header = usize::try_from(field(4)?).map_err(|_| BtfError::Bounds)?;
        if header < HEADER {
            return Err(BtfError::Bounds);
        }
        let types = part(bytes, header, field(8)?, field(12)?).ok_or(BtfError::Bounds)?;
        let strings = part(bytes, header, field(16)?, field(20)?).ok_or(BtfError::Bounds)?;
        if strings.first() != Some(&0) || strings.last() != Some(&0) {
            return Err(BtfError::Strings);
        }
        let mut btf = Self {
            types,
            strings,
            starts: Vec::new(),
        };
        btf.find_types()?;
        Ok(btf)
    }

    fn find_types(&mut self) -> Result<(), BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            if self.starts.len() == MAX_TYPES {
                return Err(BtfError::TooMany);
            }
            let id = self.starts.len() as u32 + 1;
            let info = word(self.types, at + 4).ok_or(BtfError::Truncated { id })?;
            let kind = Kind::of(info).ok_or(BtfError::Kind { id })?;
            let next = at + RECORD + kind.data_size(count(info));
            if next > self.types.len() {
                return Err(BtfError::Truncated { id });
            }
            // The types' length is a u32.
            self.starts.push(at as u32);
            at = next;
        }
        Ok(())
    }

    /// How many types there are, `void` included: their numbers are smaller.
    pub fn count(&self) -> u32 {
        self.starts.len() as u32 + 1
    }

    /// Type number `id`, if there is one; 0 is `void`.
    pub fn ty(&self, id: u32) -> Option<Type<'a>> {
        let Some(index) = id.checked_sub(1) else {
            return Some(Type::VOID);
        };
        let at = *self.starts.get(index as usize)? as usize;
        let (name, info) = (word(self.types, at)?, word(self.types, at + 4)?);
        let kind = Kind::of(info)?;
        let data = self.types.get(at + RECORD..)?;
        Some(Type {
            kind,
            name,
            size_or_type: word(self.types, at + 8)?,
            flag: info >> 31 == 1,
            count: count(info),
            data: data.get(..kind.data_size(count(info)))?,
        })
    }

    /// All types with their numbers, from 1.
    pub fn types(&self) -> impl Iterator<Item = (u32, Type<'a>)> + '_ {
        (1..self.count()).filter_map(|id| Some((id, self.ty(id)?)))
    }

    /// All strings, each ended by a zero.
    pub fn strings(&self) -> &'a [u8] {
        self.strings
    }

    /// The string at an offset, without its end; empty where there is none.
    pub fn string(&self, offset: u32) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// The same of which at most `length` bytes are looked at.
    pub fn string_within(&self, offset: u32, length: usize) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        let rest = &rest[..rest.len().min(length)];
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// Whether a string begins at an offset, or in the middle of one.
    pub fn has_string(&self, offset: u32) -> bool {
        (offset as usize) < self.strings.len()
    }

    /// The type behind modifiers and typedefs, and its number.
    pub fn resolve(&self, mut id: u32) -> Option<(u32, Type<'a>)> {
        for _ in 0..MAX_CHAIN {
            let ty = self.ty(id)?;
            if !ty.kind.is_alias() {
                return Some((id, ty));
            }
            id = ty.size_or_type;
        }
        None
    }

    /// How many bytes a value of type `id` takes. `None` where it has no size, as `void`, or is not
    /// to be found out.
    pub fn size(&self, mut id: u32) -> Option<u32> {
        let mut elements = 1_u32;
        for _ in 0..MAX_CHAIN {
            let (_, ty) = self.resolve(id)?;
            if let Some(array) = ty.array() {
                elements = elements.checked_mul(array.count)?;
                id = array.element;
                continue;
            }
            let size = match ty.kind {
                Kind::Ptr => 8,
                Kind::Var => {
                    id = ty.size_or_type;
                    continue;
                }
                kind if kind.has_size() => ty.size_or_type,
                _ => return None,
            };
            return elements.checked_mul(size);
        }
        None
    }
}

fn count(info: u32) -> usize {
    (info & 0xffff) as usize
}

impl<'a> Type<'a> {
    const VOID: Self = Self {
        kind: Kind::Void,
        name: 0,
        size_or_type: 0,
        flag: false,
        count: 0,
        data: &[],
    };

    /// The second word of its record: kind, count and flag.
    pub fn info(&self) -> u32 {
        (self.kind as u32) << 24 | u32::from(self.flag) << 31 | self.count as u32
    }

    /// What follows the three words that every type's record has.
    pub fn words(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.records().map(|[word]| word)
    }

    /// How many members, enumerators, parameters or variables it has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it has none of these.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn records<const N: usize>(&self) -> impl Iterator<Item = [u32; N]> + use<'a, N> {
        let data = self.data;
        let records = data.chunks_exact(4 * N);
        records.map(|record| core::array::from_fn(|at| word(record, 4 * at).unwrap_or_default()))
    }

    fn records_of<const N: usize>(
        &self,
        kinds: &[Kind],
    ) -> impl Iterator<Item = [u32; N]> + use<'a, N> {
        let count = if kinds.contains(&self.kind) {
            self.count
        } else {
            0
        };
        self.records().take(count)
    }

    /// The members of a structure or union.
    pub fn members(&self) -> impl Iterator<Item = Member> + use<'a> {
        let has_bit_fields = self.flag;
        self.records_of(&[Kind::Struct, Kind::Union])
            .map(move |[name, ty, offset]| {
                let (bit_offset, bit_size) = if has_bit_fields {
                    (offset & 0xff_ffff, offset >> 24)
                } else {
                    (offset, 0)
                };
                Member {
                    name,
                    ty,
                    bit_offset,
                    bit_size,
                }
            })
    }

    /// The values of an enumeration.
    pub fn enumerators(&self) -> impl Iterator<Item = Enumerator> + use<'a> {
        let narrow = self.records_of(&[Kind::Enum]).map(|[name, value]| {
            let value = i64::from(value as i32) as u64;
            Enumerator { name, value }
        });
        let wide = self.records_of(&[Kind::Enum64]).map(|[name, low, high]| {
            let value = u64::from(high) << 32 | u64::from(low);
            Enumerator { name, value }
        });
        narrow.chain(wide)
    }

    /// The parameters of a function's prototype.
    pub fn parameters(&self) -> impl Iterator<Item = Parameter> + use<'a> {
        self.records_of(&[Kind::FuncProto])
            .map(|[name, ty]| Parameter { name, ty })
    }

    /// The variables of a section.
    pub fn variables(&self) -> impl Iterator<Item = SectionVariable> + use<'a> {
        self.records_of(&[Kind::DataSec])
            .map(|[ty, offset, size]| SectionVariable { ty, offset, size })
    }

    /// The dimension of an array.
    pub fn array(&self) -> Option<Array> {
        let [element, index, count] = self.records().next().filter(|_| self.kind == Kind::Array)?;
        Some(Array {
            element,
            index,
            count,
        })
    }

    /// The encoding of an integer.
    pub fn int(&self) -> Option<Int> {
        let [data] = self.records().next().filter(|_| self.kind == Kind::Int)?;
        Some(Int {
            encoding: (data >> 24 & 0xf) as u8,
            offset: (data >> 16) as u8,
            bits: data as u8,
        })
    }
}
