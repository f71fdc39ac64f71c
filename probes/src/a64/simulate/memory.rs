//! Loads and stores of general registers (Arm ARM C4.1.94).
//!
//! What could fault or be observed differently is stepped: a misaligned access or stack pointer,
//! whatever [`LiveMemory`] refuses, EL0 (whose permissions are not those of [`LiveMemory`]). An
//! aligned register is stored by one call, a pair as well, so that a fault in the second half of a
//! pair leaves the first unwritten, and the guest's handler sees what it may expect.

use super::{Flow, Register31, read, write};
use crate::a64::{field, signed_field};
use crate::addr::Gva;
use crate::machine::LiveMemory;
use crate::regs::CoreRegs;

/// Number of the stack pointer as a base register, and of the zero register as a data register.
const SP: u32 = 31;

pub(super) fn execute(
    instruction: u32,
    regs: &mut CoreRegs,
    memory: &dyn LiveMemory,
) -> Option<Flow> {
    let is_vector = field(instruction, 26, 1) == 1;
    if is_vector || regs.at_el0() {
        return None;
    }
    match field(instruction, 27, 3) {
        0b101 => pair(instruction, regs, memory)?,
        0b111 => single(instruction, regs, memory)?,
        0b011 => literal(instruction, regs, memory)?,
        _ => return None,
    }
    Some(Flow::Next)
}

/// What a load or store does with one register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    Store,
    LoadZeroExtended,
    /// To 64 bits.
    LoadSignExtended,
    /// To 32 bits, the upper 32 cleared.
    LoadSignExtended32,
}

/// How the address comes about, and what becomes of the base register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Indexing {
    Offset,
    PreIndex,
    PostIndex,
}

/// An address, and the base register's value after the access where it changes.
struct Location {
    address: u64,
    base: u32,
    written_back: Option<u64>,
}

impl Location {
    /// `None` where the stack pointer is misaligned as a base: it faults if `SCTLR_EL1.SA` is set.
    fn of(instruction: u32, regs: &CoreRegs, offset: i64, indexing: Indexing) -> Option<Self> {
        let base = field(instruction, 5, 5);
        if base == SP && !regs.sp.is_multiple_of(16) {
            return None;
        }
        let start = read(regs, base, Register31::StackPointer);
        let moved = start.wrapping_add_signed(offset);
        let (address, written_back) = match indexing {
            Indexing::Offset => (moved, None),
            Indexing::PreIndex => (moved, Some(moved)),
            Indexing::PostIndex => (start, Some(moved)),
        };
        Some(Self {
            address,
            base,
            written_back,
        })
    }

    /// Whether writeback and `data` name the same register: CONSTRAINED UNPREDICTABLE (Arm ARM
    /// K1.2.19).
    fn clashes(&self, data: u32) -> bool {
        self.written_back.is_some() && self.base == data && data != SP
    }

    fn write_back(&self, regs: &mut CoreRegs) {
        if let Some(value) = self.written_back {
            write(regs, self.base, Register31::StackPointer, value);
        }
    }
}

/// STP and LDP of X and W registers. LDPSW, STGP and the non-temporal forms are stepped.
fn pair(instruction: u32, regs: &mut CoreRegs, memory: &dyn LiveMemory) -> Option<()> {
    let size: u32 = match field(instruction, 30, 2) {
        0b00 => 4,
        0b10 => 8,
        _ => return None,
    };
    let indexing = match field(instruction, 23, 3) {
        0b001 => Indexing::PostIndex,
        0b010 => Indexing::Offset,
        0b011 => Indexing::PreIndex,
        _ => return None,
    };
    let offset = signed_field(instruction, 15, 7, i64::from(size));
    let location = Location::of(instruction, regs, offset, indexing)?;
    let first = field(instruction, 0, 5);
    let second = field(instruction, 10, 5);
    if location.clashes(first) || location.clashes(second) {
        return None;
    }
    let size = size as usize;
    let is_load = field(instruction, 22, 1) == 1;
    let mut bytes = [0; 16];
    if is_load {
        if first == second {
            return None;
        }
        load(memory, location.address, size, &mut bytes[..2 * size])?;
        for (number, bytes) in [first, second].into_iter().zip(bytes.chunks_exact(size)) {
            write(regs, number, Register31::Zero, from_le_bytes(bytes));
        }
    } else {
        for (number, bytes) in [first, second]
            .into_iter()
            .zip(bytes.chunks_exact_mut(size))
        {
            let value = read(regs, number, Register31::Zero).to_le_bytes();
            bytes.copy_from_slice(&value[..size]);
        }
        store(memory, location.address, size, &bytes[..2 * size])?;
    }
    location.write_back(regs);
    Some(())
}

/// LDR and STR of all sizes with an immediate: scaled and unsigned, or signed with or without
/// writeback. Register offsets, unprivileged accesses, atomics and prefetches are stepped.
fn single(instruction: u32, regs: &mut CoreRegs, memory: &dyn LiveMemory) -> Option<()> {
    let size_log2 = field(instruction, 30, 2);
    let operation = match (field(instruction, 22, 2), size_log2) {
        (0b00, _) => Operation::Store,
        (0b01, _) => Operation::LoadZeroExtended,
        (0b10, 0..=2) => Operation::LoadSignExtended,
        (0b11, 0..=1) => Operation::LoadSignExtended32,
        _ => return None,
    };
    let size = 1 << size_log2;
    let is_scaled = field(instruction, 24, 1) == 1;
    let is_signed = field(instruction, 21, 1) == 0;
    let (offset, indexing) = if is_scaled {
        let offset = i64::from(field(instruction, 10, 12)) << size_log2;
        (offset, Indexing::Offset)
    } else if is_signed {
        let indexing = match field(instruction, 10, 2) {
            0b00 => Indexing::Offset,
            0b01 => Indexing::PostIndex,
            0b11 => Indexing::PreIndex,
            _ => return None,
        };
        (signed_field(instruction, 12, 9, 1), indexing)
    } else {
        return None;
    };
    let location = Location::of(instruction, regs, offset, indexing)?;
    let data = field(instruction, 0, 5);
    if location.clashes(data) {
        return None;
    }
    transfer(operation, location.address, size, data, regs, memory)?;
    location.write_back(regs);
    Some(())
}

/// LDR and LDRSW of a literal. PRFM is stepped.
fn literal(instruction: u32, regs: &mut CoreRegs, memory: &dyn LiveMemory) -> Option<()> {
    let is_rcpc_or_tag = field(instruction, 24, 1) == 1;
    if is_rcpc_or_tag {
        return None;
    }
    let (operation, size) = match field(instruction, 30, 2) {
        0b00 => (Operation::LoadZeroExtended, 4),
        0b01 => (Operation::LoadZeroExtended, 8),
        0b10 => (Operation::LoadSignExtended, 4),
        _ => return None,
    };
    let address = regs
        .pc
        .wrapping_add_signed(signed_field(instruction, 5, 19, 4));
    transfer(
        operation,
        address,
        size,
        field(instruction, 0, 5),
        regs,
        memory,
    )
}

/// Loads or stores one register; changes none where it returns `None`.
fn transfer(
    operation: Operation,
    address: u64,
    size: usize,
    data: u32,
    regs: &mut CoreRegs,
    memory: &dyn LiveMemory,
) -> Option<()> {
    let mut bytes = [0; 8];
    if operation == Operation::Store {
        bytes = read(regs, data, Register31::Zero).to_le_bytes();
        return store(memory, address, size, &bytes[..size]);
    }
    load(memory, address, size, &mut bytes[..size])?;
    let value = u64::from_le_bytes(bytes);
    let unused = u64::BITS - 8 * size as u32;
    let extended = ((value << unused) as i64 >> unused) as u64;
    let value = match operation {
        Operation::LoadSignExtended => extended,
        Operation::LoadSignExtended32 => u64::from(extended as u32),
        Operation::LoadZeroExtended | Operation::Store => value,
    };
    write(regs, data, Register31::Zero, value);
    Some(())
}

/// Reads `bytes.len()` bytes that must be aligned to `size`.
fn load(memory: &dyn LiveMemory, address: u64, size: usize, bytes: &mut [u8]) -> Option<()> {
    check(address, size, bytes.len())?;
    memory.read(Gva(address), bytes).ok()
}

/// Writes `bytes` where they are aligned to `size`.
fn store(memory: &dyn LiveMemory, address: u64, size: usize, bytes: &[u8]) -> Option<()> {
    check(address, size, bytes.len())?;
    memory.write(Gva(address), bytes).ok()
}

/// An access that is aligned and does not go over the end of the address space.
fn check(address: u64, size: usize, length: usize) -> Option<()> {
    let last = address.checked_add(length as u64 - 1);
    (address.is_multiple_of(size as u64) && last.is_some()).then_some(())
}

/// A little-endian number of at most eight bytes.
fn from_le_bytes(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}
