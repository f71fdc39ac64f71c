//! The addresses that programs see: never pointers, always a region, a slot and an offset.
//!
//! ```text
//!  63      56 55      48 47              24 23               0
//! +----------+----------+------------------+------------------+
//! |   0xeb   |  region  |       slot       |      offset      |
//! +----------+----------+------------------+------------------+
//! ```
//!
//! A slot is a stack frame or a value of a map, and every access is checked against the size of its
//! slot. No slot is as large as 1 << 24 bytes and no region has as many slots, so arithmetic that
//! leaves a slot downwards ends at an offset or a slot that does not exist. An address can be
//! forged, as any number can; it still means nothing but memory of this object.
//!
//! Guest addresses are numbers to a program. Those of Linux on arm64 have 0x00 or 0xff in the high
//! byte; a tagged one (TBI, MTE) might begin with 0xeb, and is then taken for one of ours and
//! refused or misread, never dangerous.

/// The high byte of every address of ours.
const MARK: u64 = 0xeb;
/// Region number of the first map's values.
const FIRST_MAP: u8 = 0x10;
/// Region number of the first map itself, as helpers take it.
const FIRST_HANDLE: u8 = 0x80;
/// How many maps an object may have.
pub(crate) const MAX_MAPS: usize = 64;
/// Mask of a slot number or an offset.
const FIELD: u64 = (1 << 24) - 1;

const _: () = assert!(FIRST_MAP as usize + MAX_MAPS <= FIRST_HANDLE as usize);
const _: () = assert!(FIRST_HANDLE as usize + MAX_MAPS <= 0x100);
const _: () = assert!((crate::map::MAX_VALUE_SIZE as u64) < FIELD);

/// What an address points into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Region {
    /// The context. Slot 0.
    Context,
    /// The stack. Slots are frames, the outermost 0.
    Stack,
    /// The values of a map.
    Map(usize),
    /// A map itself: no memory.
    Handle(usize),
}

/// An address, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) region: Region,
    pub(crate) slot: usize,
    pub(crate) offset: usize,
}

impl Place {
    /// The address as a number. The parts are in range.
    pub(crate) const fn address(self) -> u64 {
        let region = match self.region {
            Region::Context => 0,
            Region::Stack => 1,
            Region::Map(index) => FIRST_MAP + index as u8,
            Region::Handle(index) => FIRST_HANDLE + index as u8,
        };
        MARK << 56 | (region as u64) << 48 | (self.slot as u64) << 24 | self.offset as u64
    }

    /// Takes an address apart; `None` if it is not one of ours.
    pub(crate) const fn parse(address: u64) -> Option<Self> {
        if address >> 56 != MARK {
            return None;
        }
        let region = match (address >> 48) as u8 {
            0 => Region::Context,
            1 => Region::Stack,
            number if number >= FIRST_HANDLE => Region::Handle((number - FIRST_HANDLE) as usize),
            number if number >= FIRST_MAP => Region::Map((number - FIRST_MAP) as usize),
            _ => return None,
        };
        let slot = (address >> 24 & FIELD) as usize;
        let offset = (address & FIELD) as usize;
        Some(Self {
            region,
            slot,
            offset,
        })
    }
}

/// The address of the context.
pub(crate) const fn context() -> u64 {
    Place {
        region: Region::Context,
        slot: 0,
        offset: 0,
    }
    .address()
}

/// The address of byte `offset` of stack frame `frame`.
pub(crate) const fn stack(frame: usize, offset: usize) -> u64 {
    Place {
        region: Region::Stack,
        slot: frame,
        offset,
    }
    .address()
}

/// The address of byte `offset` of value `slot` of map `map`.
pub(crate) const fn map_value(map: usize, slot: usize, offset: usize) -> u64 {
    Place {
        region: Region::Map(map),
        slot,
        offset,
    }
    .address()
}

/// The number that stands for map `map` in helper calls.
pub(crate) const fn map_handle(map: usize) -> u64 {
    Place {
        region: Region::Handle(map),
        slot: 0,
        offset: 0,
    }
    .address()
}
