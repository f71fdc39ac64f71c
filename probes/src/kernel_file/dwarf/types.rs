//! Entries of types.

use super::shape::{self, Shape};
use super::sound::Sound;
use crate::kernel_file::sink::{Length, Sink};
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use ebpf::btf::{Btf, Enumerator, Int, Kind, Member, Type};

/// How many attributes may stand before a type.
const MAX_TAGS: usize = 64;

/// How numbers are shown (`DW_ATE_…`, DWARF 5, 7.8 "Base Type Attribute Encodings").
mod encoding {
    pub(super) const BOOLEAN: u8 = 0x02;
    pub(super) const FLOAT: u8 = 0x04;
    pub(super) const SIGNED: u8 = 0x05;
    pub(super) const SIGNED_CHARACTER: u8 = 0x06;
    pub(super) const UNSIGNED: u8 = 0x07;
    pub(super) const UNSIGNED_CHARACTER: u8 = 0x08;
}

/// What an entry's type is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reference {
    /// `void`, which has no entry.
    Void,
    /// The entry at that offset of its unit.
    To(u32),
}

/// Where the entries of types are.
pub(super) struct Layout {
    /// The offset of each type's entry from the beginning of the unit; 0 where it has none.
    offsets: Vec<u32>,
    /// The offset of the entry that stands for types that are none.
    no_type: u32,
    /// Where the entries end.
    pub(super) end: usize,
}

impl Layout {
    /// Lays the entries out one after the other, from `start` on.
    pub(super) fn of(btf: &Btf<'_>, start: usize) -> Result<Self, TryReserveError> {
        let sound = Sound::of(btf)?;
        let mut offsets = Vec::new();
        offsets.try_reserve_exact(btf.count() as usize)?;
        offsets.resize(btf.count() as usize, 0);
        mark_prototypes(btf, &mut offsets);
        let mut layout = Self {
            offsets,
            no_type: start as u32,
            end: start,
        };
        let mut length = Length(start);
        write_no_type(&mut length);
        for (id, ty) in btf.types() {
            let is_wanted = match ty.kind {
                Kind::TypeTag => false,
                Kind::FuncProto => layout.offsets[id as usize] != 0,
                _ => true,
            };
            layout.offsets[id as usize] = 0;
            if is_wanted && sound.has(id) {
                layout.offsets[id as usize] = length.length() as u32;
                let layout = &layout;
                Types { btf, layout }.write_type(&mut length, &ty);
            }
        }
        layout.end = length.length();
        Ok(layout)
    }
}

/// Marks the prototypes that another type names: those of functions are written with the functions.
fn mark_prototypes(btf: &Btf<'_>, marks: &mut [u32]) {
    for (_, ty) in btf.types() {
        let names_another = ty.kind == Kind::Ptr || ty.kind.is_alias();
        let named = marks.get_mut(ty.size_or_type as usize);
        if let Some(named) = named.filter(|_| names_another) {
            *named = 1;
        }
    }
}

/// The types of a kernel with their places.
#[derive(Clone, Copy)]
pub(super) struct Types<'a> {
    pub(super) btf: &'a Btf<'a>,
    pub(super) layout: &'a Layout,
}

impl Types<'_> {
    /// Writes all entries.
    pub(super) fn write(&self, out: &mut impl Sink) {
        write_no_type(out);
        for (id, ty) in self.btf.types() {
            if self.layout.offsets[id as usize] != 0 {
                self.write_type(out, &ty);
            }
        }
    }

    /// How an entry names type `id`.
    pub(super) fn reference(&self, mut id: u32) -> Reference {
        for _ in 0..MAX_TAGS {
            match self.btf.ty(id) {
                Some(ty) if ty.kind == Kind::Void => return Reference::Void,
                Some(ty) if ty.kind == Kind::TypeTag => id = ty.size_or_type,
                _ => break,
            }
        }
        let offset = self.layout.offsets.get(id as usize).copied();
        Reference::To(
            offset
                .filter(|offset| *offset != 0)
                .unwrap_or(self.layout.no_type),
        )
    }

    /// The same where `void` is no type.
    pub(super) fn offset(&self, id: u32) -> u32 {
        match self.reference(id) {
            Reference::Void => self.layout.no_type,
            Reference::To(offset) => offset,
        }
    }

    /// Where a name is in `.debug_str`, which is the strings of the BTF.
    pub(super) fn name(&self, at: u32) -> u32 {
        if self.btf.has_string(at) { at } else { 0 }
    }

    fn is_named(&self, at: u32) -> bool {
        !self.btf.string_within(at, 1).is_empty()
    }

    fn write_type(&self, out: &mut impl Sink, ty: &Type<'_>) {
        match ty.kind {
            Kind::Int | Kind::Float => self.write_number(out, ty),
            Kind::Ptr => self.write_naming(out, ty, Shape::Pointer, Shape::PointerToVoid),
            Kind::Const => self.write_naming(out, ty, Shape::Const, Shape::ConstVoid),
            Kind::Volatile => self.write_naming(out, ty, Shape::Volatile, Shape::VolatileVoid),
            Kind::Restrict => {
                Shape::Restrict.begin(out);
                out.u32(self.offset(ty.size_or_type));
            }
            Kind::Typedef => self.write_typedef(out, ty),
            Kind::Array => self.write_array(out, ty),
            Kind::Struct | Kind::Union => self.write_composite(out, ty),
            Kind::Fwd => {
                // The flag tells unions.
                let shape = if ty.flag {
                    Shape::DeclaredUnion
                } else {
                    Shape::DeclaredStruct
                };
                shape.begin(out);
                out.u32(self.name(ty.name));
            }
            Kind::Enum | Kind::Enum64 => self.write_enumeration(out, ty),
            Kind::FuncProto => self.write_prototype(out, ty),
            // None of these has an entry as a type.
            Kind::Void | Kind::Func | Kind::Var | Kind::DataSec | Kind::DeclTag | Kind::TypeTag => {
            }
        }
    }

    fn write_number(&self, out: &mut impl Sink, ty: &Type<'_>) {
        Shape::BaseType.begin(out);
        out.u32(self.name(ty.name));
        out.byte(ty.int().map_or(encoding::FLOAT, |int| {
            let is_signed = int.encoding & Int::SIGNED != 0;
            match (int.is_boolean(), ty.size_or_type, is_signed) {
                (true, ..) => encoding::BOOLEAN,
                (false, 1, true) => encoding::SIGNED_CHARACTER,
                (false, 1, false) => encoding::UNSIGNED_CHARACTER,
                (false, _, true) => encoding::SIGNED,
                (false, _, false) => encoding::UNSIGNED,
            }
        }));
        out.unsigned(ty.size_or_type.into());
    }

    /// A type that is made of another one, or of `void`.
    fn write_naming(&self, out: &mut impl Sink, ty: &Type<'_>, of: Shape, of_void: Shape) {
        match self.reference(ty.size_or_type) {
            Reference::Void => of_void.begin(out),
            Reference::To(offset) => {
                of.begin(out);
                out.u32(offset);
            }
        }
    }

    fn write_typedef(&self, out: &mut impl Sink, ty: &Type<'_>) {
        let name = self.name(ty.name);
        match self.reference(ty.size_or_type) {
            Reference::Void => {
                Shape::TypedefOfVoid.begin(out);
                out.u32(name);
            }
            Reference::To(offset) => {
                Shape::Typedef.begin(out);
                out.u32(name);
                out.u32(offset);
            }
        }
    }

    fn write_array(&self, out: &mut impl Sink, ty: &Type<'_>) {
        let array = ty.array();
        Shape::Array.begin(out);
        out.u32(self.offset(array.map_or(0, |array| array.element)));
        Shape::Dimension.begin(out);
        out.unsigned(array.map_or(0, |array| array.count).into());
        shape::end_children(out);
    }

    fn write_composite(&self, out: &mut impl Sink, ty: &Type<'_>) {
        let (named, unnamed) = match ty.kind {
            Kind::Union => (Shape::Union, Shape::UnnamedUnion),
            _ => (Shape::Struct, Shape::UnnamedStruct),
        };
        self.begin_perhaps_named(out, ty.name, named, unnamed);
        out.unsigned(ty.size_or_type.into());
        for member in ty.members() {
            self.write_member(out, &member);
        }
        shape::end_children(out);
    }

    fn begin_perhaps_named(&self, out: &mut impl Sink, name: u32, named: Shape, unnamed: Shape) {
        if self.is_named(name) {
            named.begin(out);
            out.u32(name);
        } else {
            unnamed.begin(out);
        }
    }

    fn write_member(&self, out: &mut impl Sink, member: &Member) {
        let ty = self.offset(member.ty);
        if member.bit_size == 0 {
            self.begin_perhaps_named(out, member.name, Shape::Member, Shape::UnnamedMember);
            out.u32(ty);
            out.unsigned((member.bit_offset / 8).into());
        } else {
            self.begin_perhaps_named(out, member.name, Shape::BitField, Shape::UnnamedBitField);
            out.u32(ty);
            out.unsigned(member.bit_size.into());
            out.unsigned(member.bit_offset.into());
        }
    }

    fn write_enumeration(&self, out: &mut impl Sink, ty: &Type<'_>) {
        let (named, unnamed) = (Shape::Enumeration, Shape::UnnamedEnumeration);
        self.begin_perhaps_named(out, ty.name, named, unnamed);
        out.unsigned(ty.size_or_type.into());
        // The flag tells signed ones; enumerators of four bytes and less come with the sign extended.
        let mask = if ty.kind == Kind::Enum {
            u64::from(u32::MAX)
        } else {
            u64::MAX
        };
        for Enumerator { name, value } in ty.enumerators() {
            if ty.flag {
                Shape::SignedEnumerator.begin(out);
                out.u32(self.name(name));
                out.signed(value as i64);
            } else {
                Shape::Enumerator.begin(out);
                out.u32(self.name(name));
                out.unsigned(value & mask);
            }
        }
        shape::end_children(out);
    }

    fn write_prototype(&self, out: &mut impl Sink, ty: &Type<'_>) {
        self.write_naming(out, ty, Shape::Prototype, Shape::PrototypeOfVoid);
        for parameter in ty.parameters() {
            match self.reference(parameter.ty) {
                Reference::Void => Shape::MoreParameters.begin(out),
                Reference::To(offset) => {
                    Shape::PrototypeParameter.begin(out);
                    out.u32(offset);
                }
            }
        }
        shape::end_children(out);
    }
}

/// What a debugger shows where a guest's types make no sense.
fn write_no_type(out: &mut impl Sink) {
    Shape::NoType.begin(out);
    out.text("?");
}
