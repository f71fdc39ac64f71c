//! The addresses that programs see: never pointers, always a mark and a distance.
//!
//! ```text
//!  63                      32 31                       0
//! +--------------------------+--------------------------+
//! |           mark           |          offset          |
//! +--------------------------+--------------------------+
//! ```
//!
//! The mark says what the offset counts in: bytes of the object's [`crate::arena::Arena`], bytes of
//! the context, maps, or instructions. Marks are far from each other, so no carry out of an offset makes one mark
//! of another. An address can be forged, as any number can; it still means nothing but memory of
//! this object.
//!
//! Guest addresses are numbers to a program. Those of Linux on arm64 have 0x00 or 0xff in the high
//! byte; a tagged one (TBI, MTE) might begin with 0xeb, and is then taken for one of ours and
//! refused or misread, never dangerous.

/// The mark of an arena's addresses, in place.
pub(crate) const ARENA: u64 = 0xeb01 << 48;
const CONTEXT: u64 = 0xeb02 << 48;
const HANDLE: u64 = 0xeb03 << 48;
const FUNCTION: u64 = 0xeb04 << 48;
const OFFSET: u64 = u32::MAX as u64;

/// How many maps an object may have.
pub(crate) const MAX_MAPS: usize = 64;

/// An address, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// A byte of the context.
    Context(usize),
    /// A byte of the arena: the stack, or the value of a map.
    Arena(usize),
    /// A map itself, by number: no memory.
    Handle(usize),
    /// A function of the program, by its first instruction: no memory either.
    Function(usize),
}

impl Place {
    /// Takes an address apart; `None` if it is not one of ours.
    pub(crate) const fn parse(address: u64) -> Option<Self> {
        let offset = (address & OFFSET) as usize;
        match address & !OFFSET {
            ARENA => Some(Self::Arena(offset)),
            CONTEXT => Some(Self::Context(offset)),
            HANDLE => Some(Self::Handle(offset)),
            FUNCTION => Some(Self::Function(offset)),
            _ => None,
        }
    }
}

/// The address of the context.
pub(crate) const fn context() -> u64 {
    CONTEXT
}

/// The address of a byte of the arena, which has fewer than 1 << 32.
pub(crate) const fn arena(offset: usize) -> u64 {
    ARENA | offset as u64
}

/// The number that stands for the function that begins at instruction `entry`, in helper calls.
pub(crate) const fn function(entry: usize) -> u64 {
    FUNCTION | entry as u64
}

/// The number that stands for map `map` in helper calls.
pub(crate) const fn map_handle(map: usize) -> u64 {
    HANDLE | map as u64
}
