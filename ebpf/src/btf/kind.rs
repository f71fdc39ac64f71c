//! The kinds of types.

/// The kind of a type: Linux' `BTF_KIND_…`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// `void`.
    Void = 0,
    /// An integer, a character, a boolean.
    Int = 1,
    /// A pointer.
    Ptr = 2,
    /// An array.
    Array = 3,
    /// A structure.
    Struct = 4,
    /// A union.
    Union = 5,
    /// An enumeration of up to 32 bits.
    Enum = 6,
    /// A structure or union (if flagged) that is only declared.
    Fwd = 7,
    /// A typedef.
    Typedef = 8,
    /// `volatile`.
    Volatile = 9,
    /// `const`.
    Const = 10,
    /// `restrict`.
    Restrict = 11,
    /// A function.
    Func = 12,
    /// A function's prototype.
    FuncProto = 13,
    /// A variable.
    Var = 14,
    /// The variables of a section.
    DataSec = 15,
    /// A floating-point number.
    Float = 16,
    /// An attribute of a declaration.
    DeclTag = 17,
    /// An attribute of a type.
    TypeTag = 18,
    /// An enumeration of 64 bits.
    Enum64 = 19,
}

impl Kind {
    const ALL: [Self; 20] = [
        Self::Void,
        Self::Int,
        Self::Ptr,
        Self::Array,
        Self::Struct,
        Self::Union,
        Self::Enum,
        Self::Fwd,
        Self::Typedef,
        Self::Volatile,
        Self::Const,
        Self::Restrict,
        Self::Func,
        Self::FuncProto,
        Self::Var,
        Self::DataSec,
        Self::Float,
        Self::DeclTag,
        Self::TypeTag,
        Self::Enum64,
    ];

    /// The kind that a type's second word tells. No record has kind `void`.
    pub(super) fn of(info: u32) -> Option<Self> {
        let number = (info >> 24 & 0x1f) as usize;
        Self::ALL
            .get(number)
            .copied()
            .filter(|&kind| kind != Self::Void)
    }

    /// How many bytes follow the three words that every type has.
    pub(super) fn data_size(self, count: usize) -> usize {
        match self {
            Self::Int | Self::Var | Self::DeclTag => 4,
            Self::Array => 12,
            Self::Struct | Self::Union | Self::DataSec | Self::Enum64 => 12 * count,
            Self::Enum | Self::FuncProto => 8 * count,
            _ => 0,
        }
    }

    /// Whether it names or qualifies another type and is otherwise the same.
    pub fn is_alias(self) -> bool {
        matches!(
            self,
            Self::Typedef | Self::Volatile | Self::Const | Self::Restrict | Self::TypeTag
        )
    }

    /// Whether its third word is the number of another type.
    pub fn refers(self) -> bool {
        self.is_alias()
            || matches!(
                self,
                Self::Ptr | Self::Func | Self::FuncProto | Self::Var | Self::DeclTag
            )
    }

    /// Whether its third word is its size in bytes.
    pub(super) fn has_size(self) -> bool {
        matches!(
            self,
            Self::Int
                | Self::Struct
                | Self::Union
                | Self::Enum
                | Self::Enum64
                | Self::Float
                | Self::DataSec
        )
    }

    /// A structure or a union.
    pub fn is_composite(self) -> bool {
        matches!(self, Self::Struct | Self::Union)
    }

    /// An enumeration of any size.
    pub fn is_enum(self) -> bool {
        matches!(self, Self::Enum | Self::Enum64)
    }
}
