//! What a register or a spilled register holds.

use super::domain::{Bits, Bounds};
use core::fmt;

/// A set of places of a checkpoint: those that a scalar was computed from. A place is a register or
/// a stack slot of the state that was saved there; [`super::checkpoint`] says which bit stands for
/// which.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sources(pub(super) [u64; 2]);

impl Sources {
    pub(super) const NONE: Self = Self([0; 2]);
    pub(super) const ALL: Self = Self([u64::MAX; 2]);

    /// The one place with that number, 0 to 127.
    pub(super) const fn one(place: usize) -> Self {
        if place < 64 {
            Self([1 << place, 0])
        } else {
            Self([0, 1 << (place % 64)])
        }
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0[0] | self.0[1] == 0
    }

    pub(super) const fn union(self, other: Self) -> Self {
        Self([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }

    pub(super) const fn without(self, other: Self) -> Self {
        Self([self.0[0] & !other.0[0], self.0[1] & !other.0[1]])
    }

    pub(super) const fn intersects(self, other: Self) -> bool {
        self.0[0] & other.0[0] | self.0[1] & other.0[1] != 0
    }
}

/// Scalars with the same number differ by constants only: a comparison of one tells of all
/// (`reg->id`, `BPF_ADD_CONST`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub(super) id: u32,
    /// What is added to what the others have in common.
    pub(super) delta: i32,
}

/// A number, or a sum of bits of pointers that is only a number to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Scalar {
    pub(super) bounds: Bounds,
    pub(super) link: Option<Link>,
    /// What it was computed from since the last checkpoint.
    pub(super) sources: Sources,
    /// Whether it may be read through: an address in the guest, as far as is known here. Every such
    /// read is checked when it is done, so nothing depends on whether it really is one.
    pub(super) is_guest: bool,
}

impl Scalar {
    pub(super) const UNKNOWN: Self = Self::of(Bounds::UNKNOWN);

    /// A scalar that depends on nothing.
    pub(super) const fn of(bounds: Bounds) -> Self {
        Self {
            bounds,
            link: None,
            sources: Sources::NONE,
            is_guest: false,
        }
    }

    /// Anything, which may be an address in the guest.
    pub(super) const GUEST: Self = Self {
        is_guest: true,
        ..Self::UNKNOWN
    };

    pub(super) const fn constant(value: u64) -> Self {
        Self::of(Bounds::constant(value))
    }

    /// Other bounds, from the same sources.
    pub(super) const fn computed(self, bounds: Bounds) -> Self {
        Self {
            bounds,
            link: None,
            sources: self.sources,
            is_guest: false,
        }
    }

    /// Whether its low `bits` are certainly 0.
    pub(super) fn is_zero(&self, bits: Bits) -> bool {
        self.bounds.as_constant_in(bits) == Some(0)
    }
}

/// What a pointer points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The context.
    Context,
    /// The stack of a function: offsets are from its end, as r10 has it.
    Stack {
        /// Which frame, the outermost 0.
        frame: u8,
    },
    /// A value of a map.
    MapValue {
        /// The map's number.
        map: u16,
    },
    /// A map itself, as helpers take it.
    Map {
        /// The map's number.
        map: u16,
    },
    /// The key of a map's entry, as a function sees it that is called for each.
    Key {
        /// The map's number.
        map: u16,
    },
    /// A function of the program, as helpers take it.
    Function {
        /// Its first instruction.
        entry: u32,
    },
    /// Memory that a helper has given.
    Memory {
        /// How many bytes.
        size: u32,
    },
}

impl Kind {
    /// As messages call it; the names are the kernel's (`reg_type_str`).
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Context => "ctx",
            Self::Stack { .. } => "fp",
            Self::MapValue { .. } => "map_value",
            Self::Map { .. } => "map_ptr",
            Self::Key { .. } => "map_key",
            Self::Function { .. } => "func",
            Self::Memory { .. } => "mem",
        }
    }
}

/// A pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pointer {
    pub(super) kind: Kind,
    /// Whether it may be null; copies share the number, and a check of one is a check of all.
    pub(super) nullable: Option<u32>,
    /// What must be released, if it points to such.
    pub(super) reference: Option<u32>,
    /// Constants that were added.
    pub(super) fixed: i32,
    /// Everything else that was added.
    pub(super) variable: Bounds,
}

impl Pointer {
    pub(super) const fn to(kind: Kind) -> Self {
        Self {
            kind,
            nullable: None,
            reference: None,
            fixed: 0,
            variable: Bounds::constant(0),
        }
    }

    /// The frame pointer of a frame.
    pub(super) const fn stack(frame: usize) -> Self {
        Self::to(Kind::Stack { frame: frame as u8 })
    }

    /// The distance from where the memory begins, plus `offset`, if it is constant.
    pub(super) fn constant_offset(&self, offset: i32) -> Option<i64> {
        let variable = self.variable.as_constant()? as i64;
        variable.checked_add(i64::from(self.fixed) + i64::from(offset))
    }
}

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Value {
    /// Nothing: it must not be read.
    Unset,
    Scalar(Scalar),
    Pointer(Pointer),
}

impl Value {
    pub(super) const UNKNOWN: Self = Self::Scalar(Scalar::UNKNOWN);
}

impl From<Pointer> for Value {
    fn from(pointer: Pointer) -> Self {
        Self::Pointer(pointer)
    }
}

impl From<Scalar> for Value {
    fn from(scalar: Scalar) -> Self {
        Self::Scalar(scalar)
    }
}

impl fmt::Display for Value {
    /// As the kernel's log shows it (`print_reg_state`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.write_str("?"),
            Self::Scalar(scalar) => {
                if scalar.is_guest {
                    f.write_str("guest:")?;
                }
                scalar.bounds.fmt(f)?;
                match scalar.link {
                    Some(Link { id, delta: 0 }) => write!(f, "#{id}"),
                    Some(Link { id, delta }) => write!(f, "#{id}{delta:+}"),
                    None => Ok(()),
                }
            }
            Self::Pointer(pointer) => pointer.fmt(f),
        }
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if self.nullable.is_some() {
            f.write_str("_or_null")?;
        }
        match self.kind {
            Kind::Stack { frame } if frame > 0 => write!(f, "[{frame}]")?,
            Kind::MapValue { map } | Kind::Map { map } | Kind::Key { map } => {
                write!(f, "[{map}]")?;
            }
            Kind::Function { entry } => write!(f, "[{entry}]")?,
            Kind::Memory { size } => write!(f, "[{size} bytes]")?,
            _ => {}
        }
        if let Some(offset) = self.constant_offset(0) {
            if offset != 0 {
                write!(f, "{offset:+}")?;
            }
        } else {
            write!(f, "{:+}+{}", self.fixed, self.variable)?;
        }
        self.reference
            .map_or(Ok(()), |reference| write!(f, "(ref {reference})"))
    }
}
