//! The shapes of entries: which tag and attributes one has (DWARF 5, 7.5.3 "Abbreviations Tables").
//!
//! Numbers are those of DWARF 5, 7.5 "Format of Debugging Information".

use crate::kernel_file::sink::Sink;
use alloc::vec::Vec;

/// Tags of entries (`DW_TAG_…`).
mod tag {
    pub(super) const ARRAY: u8 = 0x01;
    pub(super) const ENUMERATION: u8 = 0x04;
    pub(super) const FORMAL_PARAMETER: u8 = 0x05;
    pub(super) const MEMBER: u8 = 0x0d;
    pub(super) const POINTER: u8 = 0x0f;
    pub(super) const COMPILE_UNIT: u8 = 0x11;
    pub(super) const STRUCTURE: u8 = 0x13;
    pub(super) const SUBROUTINE_TYPE: u8 = 0x15;
    pub(super) const TYPEDEF: u8 = 0x16;
    pub(super) const UNION: u8 = 0x17;
    pub(super) const UNSPECIFIED_PARAMETERS: u8 = 0x18;
    pub(super) const SUBRANGE: u8 = 0x21;
    pub(super) const BASE_TYPE: u8 = 0x24;
    pub(super) const CONST: u8 = 0x26;
    pub(super) const ENUMERATOR: u8 = 0x28;
    pub(super) const SUBPROGRAM: u8 = 0x2e;
    pub(super) const VARIABLE: u8 = 0x34;
    pub(super) const VOLATILE: u8 = 0x35;
    pub(super) const RESTRICT: u8 = 0x37;
    pub(super) const UNSPECIFIED_TYPE: u8 = 0x3b;
}

/// Attributes (`DW_AT_…`) with the form in which each stands here (`DW_FORM_…`).
mod attribute {
    const ADDRESS: u8 = 0x01;
    const DATA1: u8 = 0x0b;
    const STRING: u8 = 0x08;
    const SIGNED: u8 = 0x0d;
    const STRING_AT: u8 = 0x0e;
    const UNSIGNED: u8 = 0x0f;
    const ENTRY_AT: u8 = 0x13;
    const SECTION_OFFSET: u8 = 0x17;
    const EXPRESSION: u8 = 0x18;
    const PRESENT: u8 = 0x19;

    pub(super) type Attribute = [u8; 2];
    pub(super) const LOCATION: Attribute = [0x02, EXPRESSION];
    pub(super) const LOCATIONS: Attribute = [0x02, SECTION_OFFSET];
    pub(super) const NAME: Attribute = [0x03, STRING_AT];
    pub(super) const OWN_NAME: Attribute = [0x03, STRING];
    pub(super) const BYTE_SIZE: Attribute = [0x0b, UNSIGNED];
    pub(super) const BIT_SIZE: Attribute = [0x0d, UNSIGNED];
    pub(super) const LOW_PC: Attribute = [0x11, ADDRESS];
    /// As a distance from the low one.
    pub(super) const HIGH_PC: Attribute = [0x12, UNSIGNED];
    pub(super) const LANGUAGE: Attribute = [0x13, DATA1];
    pub(super) const UNSIGNED_VALUE: Attribute = [0x1c, UNSIGNED];
    pub(super) const SIGNED_VALUE: Attribute = [0x1c, SIGNED];
    pub(super) const PRODUCER: Attribute = [0x25, STRING];
    pub(super) const PROTOTYPED: Attribute = [0x27, PRESENT];
    pub(super) const COUNT: Attribute = [0x37, UNSIGNED];
    pub(super) const MEMBER_OFFSET: Attribute = [0x38, UNSIGNED];
    pub(super) const DECLARATION: Attribute = [0x3c, PRESENT];
    pub(super) const ENCODING: Attribute = [0x3e, DATA1];
    pub(super) const EXTERNAL: Attribute = [0x3f, PRESENT];
    pub(super) const TYPE: Attribute = [0x49, ENTRY_AT];
    pub(super) const RANGES: Attribute = [0x55, SECTION_OFFSET];
    pub(super) const BIT_OFFSET: Attribute = [0x6b, UNSIGNED];
}

use attribute::*;

/// Whether entries inside follow (`DW_CHILDREN_…`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Children {
    No = 0,
    Yes = 1,
}

/// Makes [`Shape`] and [`ALL`] of one list.
macro_rules! shapes {
    ($($name:ident: $tag:ident, $children:ident, [$($attribute:ident),*];)*) => {
        /// The shape of an entry. An entry begins with its number, and its attributes follow in the order that is in the
        /// list.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub(super) enum Shape {
            $($name,)*
        }

        const ALL: &[(Shape, u8, Children, &[Attribute])] = &[
            $((Shape::$name, tag::$tag, Children::$children, &[$($attribute),*]),)*
        ];
    };
}

shapes! {
    Unit: COMPILE_UNIT, Yes, [PRODUCER, LANGUAGE, OWN_NAME, LOW_PC, RANGES];
    NoType: UNSPECIFIED_TYPE, No, [OWN_NAME];
    BaseType: BASE_TYPE, No, [NAME, ENCODING, BYTE_SIZE];
    Pointer: POINTER, No, [TYPE];
    PointerToVoid: POINTER, No, [];
    Const: CONST, No, [TYPE];
    ConstVoid: CONST, No, [];
    Volatile: VOLATILE, No, [TYPE];
    VolatileVoid: VOLATILE, No, [];
    Restrict: RESTRICT, No, [TYPE];
    Typedef: TYPEDEF, No, [NAME, TYPE];
    TypedefOfVoid: TYPEDEF, No, [NAME];
    Array: ARRAY, Yes, [TYPE];
    Dimension: SUBRANGE, No, [COUNT];
    Struct: STRUCTURE, Yes, [NAME, BYTE_SIZE];
    UnnamedStruct: STRUCTURE, Yes, [BYTE_SIZE];
    DeclaredStruct: STRUCTURE, No, [NAME, DECLARATION];
    Union: UNION, Yes, [NAME, BYTE_SIZE];
    UnnamedUnion: UNION, Yes, [BYTE_SIZE];
    DeclaredUnion: UNION, No, [NAME, DECLARATION];
    Member: MEMBER, No, [NAME, TYPE, MEMBER_OFFSET];
    UnnamedMember: MEMBER, No, [TYPE, MEMBER_OFFSET];
    BitField: MEMBER, No, [NAME, TYPE, BIT_SIZE, BIT_OFFSET];
    UnnamedBitField: MEMBER, No, [TYPE, BIT_SIZE, BIT_OFFSET];
    Enumeration: ENUMERATION, Yes, [NAME, BYTE_SIZE];
    UnnamedEnumeration: ENUMERATION, Yes, [BYTE_SIZE];
    Enumerator: ENUMERATOR, No, [NAME, UNSIGNED_VALUE];
    SignedEnumerator: ENUMERATOR, No, [NAME, SIGNED_VALUE];
    Prototype: SUBROUTINE_TYPE, Yes, [PROTOTYPED, TYPE];
    PrototypeOfVoid: SUBROUTINE_TYPE, Yes, [PROTOTYPED];
    PrototypeParameter: FORMAL_PARAMETER, No, [TYPE];
    MoreParameters: UNSPECIFIED_PARAMETERS, No, [];
    Function: SUBPROGRAM, Yes, [NAME, PROTOTYPED, LOW_PC, HIGH_PC, TYPE];
    FunctionOfVoid: SUBPROGRAM, Yes, [NAME, PROTOTYPED, LOW_PC, HIGH_PC];
    GlobalFunction: SUBPROGRAM, Yes, [NAME, PROTOTYPED, EXTERNAL, LOW_PC, HIGH_PC, TYPE];
    GlobalFunctionOfVoid: SUBPROGRAM, Yes, [NAME, PROTOTYPED, EXTERNAL, LOW_PC, HIGH_PC];
    Parameter: FORMAL_PARAMETER, No, [NAME, TYPE, LOCATIONS];
    ParameterNowhere: FORMAL_PARAMETER, No, [NAME, TYPE];
    Variable: VARIABLE, No, [NAME, TYPE, LOCATION];
    GlobalVariable: VARIABLE, No, [NAME, TYPE, EXTERNAL, LOCATION];
}

impl Shape {
    /// Its number in the table; 0 ends a list of entries.
    const fn code(self) -> u8 {
        self as u8 + 1
    }

    /// Begins an entry.
    pub(super) fn begin(self, out: &mut impl Sink) {
        out.byte(self.code());
    }
}

/// Ends the entries that are inside another.
pub(super) fn end_children(out: &mut impl Sink) {
    out.byte(0);
}

/// The table of all shapes: `.debug_abbrev`.
pub(super) fn table() -> Vec<u8> {
    let mut out = Vec::new();
    for (shape, tag, children, attributes) in ALL {
        out.put(&[shape.code(), *tag, *children as u8]);
        out.put(attributes.as_flattened());
        out.put(&[0, 0]);
    }
    out.byte(0);
    out
}
