//! Values as people and tools read them, by their types.
//!
//! | type | text | JSON |
//! |---|---|---|
//! | integer, bit field | `-7` | `-7` |
//! | boolean | `true` | `true` |
//! | enumeration | `TCP_LISTEN`, or the number where it has no name | `"TCP_LISTEN"` |
//! | pointer, floating-point number | its bits, `0xffff8000` | `"0xffff8000"` |
//! | array of `char` | `"sh"` | `"sh"` |
//! | other array | `[1 2]` | `[1,2]` |
//! | structure, union, section | `{pid=7 comm="sh"}` | `{"pid":7,"comm":"sh"}` |
//! | what is not there | `?` | `null` |
//!
//! A string ends at its first zero byte; bytes that are no UTF-8 are shown as U+FFFD. Members without a name are shown as if
//! their own members were the outer one's, as C lets one write them. Of a union all members are shown.
//!
//! Where bytes are fewer than the type has, an array is as long as they reach, and a string in it is all that is left of
//! them, without the zeros at its end: so programs put out structures that end in a text of any length. A flexible array
//! at the end takes all bytes that there are.
//!
//! Types and bytes are untrusted. Every value costs a step of [`Value::limited`], one of a long enumeration more, every
//! nesting one of [`MAX_DEPTH`]; what is behind the last is shown as `…`, and JSON stays well-formed.

use super::{Btf, Enumerator, Int, Kind, Type};
use crate::json::Quoted;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::{self, Display, Write};

/// How deep values may be nested.
pub const MAX_DEPTH: usize = 16;

/// How many values, those inside others included, are shown where nobody says otherwise.
const MAX_VALUES: usize = 1024;

/// How many members are looked at for each that is shown: some have no name.
const LOOKS: usize = 4;

/// How many enumerators are looked through for a step.
const ENUMERATORS: usize = 256;

/// Bytes of a name that are shown at most.
const MAX_NAME: usize = 256;

/// What stands for what is not shown.
const MORE: &str = "…";

/// Bits of the widest integer.
const WIDEST: u32 = u128::BITS;

/// How a value is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    Text,
    Json,
}

/// Bytes and what they mean.
#[derive(Clone, Copy, Debug)]
pub struct Value<'v> {
    btf: &'v Btf<'v>,
    ty: u32,
    bytes: &'v [u8],
    /// Of a bit field, its first bit in the bytes and how many it has.
    bits: Option<(u32, u32)>,
    limit: usize,
}

/// A member of a structure or union, or a variable of a section.
#[derive(Clone, Copy, Debug)]
pub struct Field<'v> {
    name: &'v [u8],
    /// What is in it.
    pub value: Value<'v>,
}

impl Field<'_> {
    /// What it is called.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(self.name).into_owned()
    }
}

impl<'v> Value<'v> {
    /// A value of type `ty`, whose bytes may be too few or too many.
    pub fn new(btf: &'v Btf<'v>, ty: u32, bytes: &'v [u8]) -> Self {
        Self {
            btf,
            ty,
            bytes,
            bits: None,
            limit: MAX_VALUES,
        }
    }

    /// The same of which at most so many values are shown, those inside others included.
    #[must_use]
    pub fn limited(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// As text.
    pub fn text(self) -> impl Display + use<'v> {
        Shown {
            value: self,
            style: Style::Text,
        }
    }

    /// As JSON.
    pub fn json(self) -> impl Display + use<'v> {
        Shown {
            value: self,
            style: Style::Json,
        }
    }

    /// The members of a structure, a union or a section of variables; `None` for anything else.
    pub fn fields(&self) -> Option<Vec<Field<'v>>> {
        let (_, ty) = self.btf.resolve(self.ty)?;
        if !ty.kind.is_composite() && ty.kind != Kind::DataSec {
            return None;
        }
        let mut fields = Vec::new();
        let mut looks = self.limit.saturating_mul(LOOKS);
        self.add_fields(&ty, &mut fields, &mut looks, MAX_DEPTH);
        if looks == 0 {
            let name = MORE.as_bytes();
            let value = self.part(0, 0, Some(0));
            fields.push(Field { name, value });
        }
        Some(fields)
    }

    /// The elements of an array of integers, as numbers without a sign, as far as the bytes reach.
    pub fn words(&self) -> Option<Vec<u64>> {
        let (_, ty) = self.btf.resolve(self.ty)?;
        let element = ty.array()?.element;
        let (_, int) = self.btf.resolve(element)?;
        let size = int.size_or_type as usize;
        if int.kind != Kind::Int || is_char(self.btf, element) || !(1..=8).contains(&size) {
            return None;
        }
        let word = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..size].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        };
        Some(self.bytes.chunks_exact(size).map(word).collect())
    }

    /// The number that an integer, a boolean or an enumeration is.
    pub fn number(&self) -> Option<i128> {
        let (_, ty) = self.btf.resolve(self.ty)?;
        let signed = match ty.kind {
            Kind::Int => Signedness::of(ty.int()?),
            kind if kind.is_enum() => Signedness::of_enum(&ty),
            _ => return None,
        };
        let (bits, width) = self.load(&ty)?;
        Some(match signed {
            // More than i128 has are shown by nobody who asks for a number.
            Signedness::Unsigned => i128::try_from(bits).ok()?,
            Signedness::Signed => extend(bits, width),
        })
    }

    fn add_fields(
        &self,
        ty: &Type<'v>,
        fields: &mut Vec<Field<'v>>,
        looks: &mut usize,
        depth: usize,
    ) {
        for variable in ty.variables() {
            if fields.len() >= self.limit {
                return;
            }
            let start = variable.offset as usize;
            let end = start.saturating_add(variable.size as usize);
            let var = self.btf.ty(variable.ty);
            fields.push(Field {
                name: var.map_or(&[], |var| self.btf.string_within(var.name, MAX_NAME)),
                value: self.part(variable.ty, start, Some(end)),
            });
        }
        for member in ty.members() {
            if fields.len() >= self.limit || *looks == 0 {
                return;
            }
            *looks -= 1;
            let value = self.member(ty, member.ty, member.bit_offset, member.bit_size);
            let name = self.btf.string_within(member.name, MAX_NAME);
            if !name.is_empty() {
                fields.push(Field { name, value });
                continue;
            }
            let inner = self.btf.resolve(member.ty);
            if let Some((_, inner)) = inner.filter(|(_, inner)| inner.kind.is_composite())
                && depth > 0
            {
                value.add_fields(&inner, fields, looks, depth - 1);
            }
            // Anything else without a name is padding.
        }
    }

    fn member(&self, outer: &Type<'v>, ty: u32, bit_offset: u32, bit_size: u32) -> Self {
        let start = (bit_offset / 8) as usize;
        if bit_size > 0 {
            let value = self.part(ty, start, None);
            return Self {
                bits: Some((bit_offset % 8, bit_size)),
                ..value
            };
        }
        let is_flexible = start >= outer.size_or_type as usize;
        let end = match self.btf.size(ty) {
            _ if is_flexible => None,
            size => size.map(|size| start.saturating_add(size as usize)),
        };
        self.part(ty, start, end)
    }

    /// A value among the bytes of this one, as far as they reach.
    fn part(&self, ty: u32, start: usize, end: Option<usize>) -> Self {
        let end = end.unwrap_or(self.bytes.len()).min(self.bytes.len());
        Self {
            ty,
            bytes: self.bytes.get(start..end).unwrap_or_default(),
            bits: None,
            ..*self
        }
    }

    /// The bits of a number and how many there are; `None` where the bytes do not reach.
    fn load(&self, ty: &Type<'_>) -> Option<(u128, u32)> {
        let (shift, width, size) = match (self.bits, ty.int()) {
            (Some((shift, width)), _) => (shift, width, (shift + width).div_ceil(8)),
            (None, Some(int)) => {
                let width = u32::from(int.bits);
                (int.offset.into(), width, ty.size_or_type)
            }
            (None, None) => (0, ty.size_or_type.checked_mul(8)?, ty.size_or_type),
        };
        if !(1..=WIDEST).contains(&width) || shift + width > WIDEST {
            return None;
        }
        let bytes = self.bytes.get(..size as usize)?;
        let mut buffer = [0; size_of::<u128>()];
        // An integer is never larger, and of a bit field only what it has is taken.
        let taken = bytes.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&bytes[..taken]);
        let mask = u128::MAX >> (WIDEST - width);
        Some((u128::from_le_bytes(buffer) >> shift & mask, width))
    }
}

/// Whether a number has a sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Signedness {
    Signed,
    Unsigned,
}

impl Signedness {
    fn of(int: Int) -> Self {
        match int.encoding & Int::SIGNED {
            0 => Self::Unsigned,
            _ => Self::Signed,
        }
    }

    /// Compilers before LLVM 15 do not say it: then a negative enumerator tells.
    fn of_enum(ty: &Type<'_>) -> Self {
        let is_negative = |one: Enumerator| (one.value as i64) < 0;
        match ty.flag || ty.kind == Kind::Enum && ty.enumerators().any(is_negative) {
            true => Self::Signed,
            false => Self::Unsigned,
        }
    }
}

/// The lowest `width` bits as a signed number.
fn extend(bits: u128, width: u32) -> i128 {
    let unused = WIDEST - width;
    (bits << unused) as i128 >> unused
}

/// A value on its way to a reader.
struct Shown<'v> {
    value: Value<'v>,
    style: Style,
}

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printer = Printer {
            out: f,
            style: self.style,
            room: self.value.limit,
        };
        printer.value(&self.value, MAX_DEPTH)
    }
}

struct Printer<'p> {
    out: &'p mut dyn Write,
    style: Style,
    /// How many more values are shown.
    room: usize,
}

impl Printer<'_> {
    fn value(&mut self, value: &Value<'_>, depth: usize) -> fmt::Result {
        if self.room == 0 || depth == 0 {
            return self.word(MORE);
        }
        self.room -= 1;
        let Some((_, ty)) = value.btf.resolve(value.ty) else {
            return self.unknown();
        };
        match ty.kind {
            Kind::Int => self.int(value, &ty),
            Kind::Enum | Kind::Enum64 => self.enumeration(value, &ty),
            Kind::Ptr => self.bits(
                value,
                &Type {
                    size_or_type: 8,
                    ..ty
                },
            ),
            Kind::Float => self.bits(value, &ty),
            Kind::Array => self.array(value, &ty, depth),
            Kind::Struct | Kind::Union | Kind::DataSec => self.composite(value, depth),
            Kind::Var => {
                let of_variable = Value {
                    ty: ty.size_or_type,
                    ..*value
                };
                self.value(&of_variable, depth - 1)
            }
            _ => self.unknown(),
        }
    }

    fn int(&mut self, value: &Value<'_>, ty: &Type<'_>) -> fmt::Result {
        let (Some((bits, width)), Some(int)) = (value.load(ty), ty.int()) else {
            return self.unknown();
        };
        match (bits, Signedness::of(int)) {
            (0, _) if int.is_boolean() => self.out.write_str("false"),
            (1, _) if int.is_boolean() => self.out.write_str("true"),
            (bits, Signedness::Unsigned) => write!(self.out, "{bits}"),
            (bits, Signedness::Signed) => write!(self.out, "{}", extend(bits, width)),
        }
    }

    fn enumeration(&mut self, value: &Value<'_>, ty: &Type<'_>) -> fmt::Result {
        let Some((bits, width)) = value.load(ty) else {
            return self.unknown();
        };
        self.room = self.room.saturating_sub(ty.len() / ENUMERATORS);
        let mask = u128::MAX >> (WIDEST - width);
        let is_it = |one: &Enumerator| one.value as i64 as i128 as u128 & mask == bits;
        match (ty.enumerators().find(is_it), Signedness::of_enum(ty)) {
            (Some(one), _) => {
                let name = value.btf.string_within(one.name, MAX_NAME);
                let name = String::from_utf8_lossy(name);
                self.word(&name)
            }
            (None, Signedness::Unsigned) => write!(self.out, "{bits}"),
            (None, Signedness::Signed) => write!(self.out, "{}", extend(bits, width)),
        }
    }

    fn bits(&mut self, value: &Value<'_>, ty: &Type<'_>) -> fmt::Result {
        match (value.load(ty), self.style) {
            (Some((bits, _)), Style::Text) => write!(self.out, "{bits:#x}"),
            (Some((bits, _)), Style::Json) => write!(self.out, "\"{bits:#x}\""),
            (None, _) => self.unknown(),
        }
    }

    fn array(&mut self, value: &Value<'_>, ty: &Type<'_>, depth: usize) -> fmt::Result {
        let Some(array) = ty.array() else {
            return self.unknown();
        };
        let size = value
            .btf
            .size(array.element)
            .map_or(0, |size| size as usize);
        let full = (array.count as usize).saturating_mul(size);
        let is_whole = array.count > 0 && value.bytes.len() >= full;
        if is_char(value.btf, array.element) {
            let text = match is_whole {
                true => value.bytes[..full].split(|&byte| byte == 0).next(),
                false => Some(without_padding(value.bytes)),
            };
            return self.string(text.unwrap_or_default());
        }
        let count = match is_whole || size == 0 {
            true => array.count as usize,
            false => value.bytes.len() / size,
        };
        self.out.write_char('[')?;
        for index in 0..count {
            if index > 0 {
                self.separator()?;
            }
            if self.room == 0 {
                self.word(MORE)?;
                break;
            }
            let start = index.saturating_mul(size);
            let element = value.part(array.element, start, start.checked_add(size));
            self.value(&element, depth - 1)?;
        }
        self.out.write_char(']')
    }

    fn composite(&mut self, value: &Value<'_>, depth: usize) -> fmt::Result {
        // One more, to tell that there is more.
        let limited = value.limited(self.room.saturating_add(1));
        self.out.write_char('{')?;
        for (index, field) in limited.fields().unwrap_or_default().iter().enumerate() {
            if index > 0 {
                self.separator()?;
            }
            if self.room == 0 {
                self.name(MORE)?;
                self.unknown()?;
                break;
            }
            self.name(&String::from_utf8_lossy(field.name))?;
            self.value(&field.value, depth - 1)?;
        }
        self.out.write_char('}')
    }

    fn name(&mut self, name: &str) -> fmt::Result {
        match self.style {
            Style::Text => write!(self.out, "{name}="),
            Style::Json => write!(self.out, "{}:", Quoted(name)),
        }
    }

    fn separator(&mut self) -> fmt::Result {
        self.out.write_char(match self.style {
            Style::Text => ' ',
            Style::Json => ',',
        })
    }

    fn string(&mut self, bytes: &[u8]) -> fmt::Result {
        let text = String::from_utf8_lossy(bytes);
        match self.style {
            Style::Text => write!(self.out, "{text:?}"),
            Style::Json => write!(self.out, "{}", Quoted(&text)),
        }
    }

    fn word(&mut self, word: &str) -> fmt::Result {
        match self.style {
            Style::Text => self.out.write_str(word),
            Style::Json => write!(self.out, "{}", Quoted(word)),
        }
    }

    fn unknown(&mut self) -> fmt::Result {
        self.out.write_str(match self.style {
            Style::Text => "?",
            Style::Json => "null",
        })
    }
}

/// The bytes of a value of type `ty` that is shown as `text`, where it is an enumeration, a boolean or an array of
/// `char`, whose quotes may be left out. `None` for anything else, and for what no value is shown as.
pub fn read(btf: &Btf<'_>, ty: u32, text: &str) -> Option<Vec<u8>> {
    let size = btf.size(ty)? as usize;
    let (_, ty) = btf.resolve(ty)?;
    let number = |number: u64| number.to_le_bytes().get(..size).map(<[u8]>::to_vec);
    match ty.kind {
        Kind::Enum | Kind::Enum64 => {
            let is_it = |one: &Enumerator| btf.string(one.name) == text.as_bytes();
            number(ty.enumerators().find(is_it)?.value)
        }
        Kind::Int if ty.int()?.is_boolean() => match text {
            "false" => number(0),
            "true" => number(1),
            _ => None,
        },
        Kind::Array if is_char(btf, ty.array()?.element) => {
            let quoted = text
                .strip_prefix('"')
                .and_then(|text| text.strip_suffix('"'));
            let plain = quoted.unwrap_or(text).as_bytes();
            let mut bytes = vec![0; size];
            bytes.get_mut(..plain.len())?.copy_from_slice(plain);
            Some(bytes)
        }
        _ => None,
    }
}

/// Whether an array of such elements is a text. Compilers do not set the flag for characters: the name tells.
fn is_char(btf: &Btf<'_>, element: u32) -> bool {
    let resolved = btf.resolve(element).map(|(_, ty)| ty);
    let is_one_byte = |ty: &Type<'_>| ty.kind == Kind::Int && ty.size_or_type == 1;
    resolved.filter(is_one_byte).is_some_and(|ty| {
        ty.int().is_some_and(Int::is_character) || btf.string_within(ty.name, MAX_NAME) == b"char"
    })
}

fn without_padding(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != 0);
    &bytes[..end.map_or(0, |last| last + 1)]
}

#[cfg(test)]
mod tests;
