//! Where the arguments of a function are when it is entered (Procedure Call Standard for the Arm 64-bit Architecture,
//! AAPCS64, 6.8.2 "Parameter passing rules").

use crate::kernel_file::sink::{Length, Sink};
use ebpf::btf::{Btf, Kind};

/// Registers for arguments: x0 to x7.
const REGISTERS: u8 = 8;
/// Bytes of a register.
const WORD: u32 = 8;

/// Operations of location expressions (DWARF 5, 7.7.1).
const REGISTER_0: u8 = 0x50;
const MEMORY_AT_REGISTER_0: u8 = 0x70;
const PIECE: u8 = 0x93;
/// The number of SP (DWARF for the Arm 64-bit Architecture, 4.1 "DWARF register names").
const SP: u8 = 31;

/// Where an argument is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In a register.
    Register(u8),
    /// In a register and the one after it, so many bytes.
    Registers(u8, u32),
    /// In memory, at an address that is in a register.
    Pointed(u8),
    /// In memory, so many bytes from SP.
    Stack(u32),
}

impl Place {
    /// Writes the expression of a location, its length before it.
    pub(super) fn write(self, out: &mut impl Sink) {
        let mut length = Length::default();
        self.write_operations(&mut length);
        out.unsigned(length.length() as u64);
        self.write_operations(out);
    }

    fn write_operations(self, out: &mut impl Sink) {
        match self {
            Self::Register(number) => out.byte(REGISTER_0 + number),
            Self::Registers(first, size) => {
                for (number, bytes) in [(first, WORD), (first + 1, size - WORD)] {
                    out.put(&[REGISTER_0 + number, PIECE]);
                    out.unsigned(bytes.into());
                }
            }
            Self::Pointed(number) => out.put(&[MEMORY_AT_REGISTER_0 + number, 0]),
            Self::Stack(offset) => {
                out.byte(MEMORY_AT_REGISTER_0 + SP);
                out.signed(offset.into());
            }
        }
    }
}

/// Gives the arguments of one function their places, in order.
#[derive(Default)]
pub(super) struct Allocation {
    /// The next register for an argument: NGRN.
    register: u8,
    /// The next place on the stack: NSAA, from SP.
    stack: u32,
    /// Whether an argument has come whose place is not known, and so are those after it not.
    is_lost: bool,
}

/// What counts of an argument's type.
struct Passed {
    size: u32,
    is_composite: bool,
    is_aligned_to_16: bool,
}

impl Passed {
    /// `None` for what is not known here, or passed in registers for floating point.
    fn of(btf: &Btf<'_>, ty: u32) -> Option<Self> {
        let (_, ty) = btf.resolve(ty)?;
        let (size, is_composite) = match ty.kind {
            Kind::Ptr => (WORD, false),
            Kind::Int | Kind::Enum | Kind::Enum64 => (ty.size_or_type, false),
            Kind::Struct | Kind::Union => (ty.size_or_type, true),
            _ => return None,
        };
        if !is_composite {
            let is_known = size.is_power_of_two() && size <= 2 * WORD;
            return is_known.then_some(Self {
                size,
                is_composite,
                is_aligned_to_16: size == 2 * WORD,
            });
        }
        // A composite is as aligned as its most aligned member, and one of floating-point members is passed elsewhere. Of one
        // that is passed by a pointer none of this matters.
        let mut is_aligned_to_16 = false;
        if size <= 2 * WORD {
            for member in ty.members() {
                let (_, inner) = btf.resolve(member.ty)?;
                match inner.kind {
                    Kind::Ptr | Kind::Enum | Kind::Enum64 => {}
                    Kind::Int => is_aligned_to_16 |= inner.size_or_type == 2 * WORD,
                    // What is inside may be of any kind; two words of integers in all but odd cases.
                    Kind::Struct | Kind::Union | Kind::Array => {
                        is_aligned_to_16 |= holds_a_long_integer(btf, member.ty)?;
                    }
                    _ => return None,
                }
            }
        }
        Some(Self {
            size,
            is_composite,
            is_aligned_to_16,
        })
    }
}

/// Whether the first thing inside a type is an integer of 16 bytes; `None` where it is no integer or pointer.
fn holds_a_long_integer(btf: &Btf<'_>, mut ty: u32) -> Option<bool> {
    const DEEPEST: usize = 8;
    for _ in 0..DEEPEST {
        let (_, inner) = btf.resolve(ty)?;
        ty = match inner.kind {
            Kind::Struct | Kind::Union => match inner.members().next() {
                Some(member) => member.ty,
                None => return Some(false),
            },
            Kind::Array => inner.array()?.element,
            Kind::Ptr | Kind::Enum | Kind::Enum64 => return Some(false),
            Kind::Int => return Some(inner.size_or_type == 2 * WORD),
            _ => return None,
        };
    }
    None
}

impl Allocation {
    /// Where the next argument is, of that type; `None` where that is not known.
    pub(super) fn place(&mut self, btf: &Btf<'_>, ty: u32) -> Option<Place> {
        let passed = Passed::of(btf, ty).filter(|_| !self.is_lost);
        let Some(mut passed) = passed else {
            self.is_lost = true;
            return None;
        };
        // GNU C: a structure of nothing is not passed.
        if passed.size == 0 {
            return None;
        }
        // Rule B.4: of a large composite, a pointer to a copy is passed.
        let is_pointed = passed.is_composite && passed.size > 2 * WORD;
        if is_pointed {
            passed = Passed {
                size: WORD,
                is_composite: false,
                is_aligned_to_16: false,
            };
        }
        // Rule C.8.
        if passed.is_aligned_to_16 {
            self.register = self.register.next_multiple_of(2);
        }
        let words = passed.size.div_ceil(WORD) as u8;
        if self.register + words <= REGISTERS {
            let first = self.register;
            self.register += words;
            return Some(match words {
                1 if is_pointed => Place::Pointed(first),
                1 => Place::Register(first),
                _ => Place::Registers(first, passed.size),
            });
        }
        // Rules C.13 to C.17.
        self.register = REGISTERS;
        let alignment = if passed.is_aligned_to_16 { 16 } else { WORD };
        let offset = self.stack.next_multiple_of(alignment);
        self.stack = offset + passed.size.next_multiple_of(WORD);
        // A pointer that is itself in memory would take another operation; no kernel has such.
        (!is_pointed).then_some(Place::Stack(offset))
    }
}
