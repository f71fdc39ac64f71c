//! Exclusive sequences: from a load-exclusive to its store-exclusive.
//!
//! An exception return clears the exclusive monitor (Arm ARM B2.17.1), so a guest that is stepped
//! or probed between the two never completes its store and loops for ever. Such a sequence
//! therefore runs as one step: freely, up to hardware breakpoints at every place where it can end.
//! GDB does the same (`aarch64_software_single_step`), but follows B.cond alone; Linux leaves its
//! compare-and-exchange loops by CBNZ, so all direct branches count here.

use super::{Class, INSTRUCTION_SIZE, branch_offset, classify};
use crate::addr::Gva;

/// How many instructions after a load-exclusive its store-exclusive is looked for; GDB's limit.
pub const SEQUENCE_LENGTH: usize = 16;

/// Most ends that a sequence may have: one after the store, and two ways out by branches.
pub const MAX_ENDS: usize = 3;

/// The addresses where an exclusive sequence can end, none of them twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    addresses: [Gva; MAX_ENDS],
    count: usize,
}

impl Ends {
    const EMPTY: Self = Self {
        addresses: [Gva(0); MAX_ENDS],
        count: 0,
    };

    /// The addresses.
    pub fn as_slice(&self) -> &[Gva] {
        &self.addresses[..self.count]
    }

    /// Adds an address unless it is there; `None` where no room is left.
    fn add(&mut self, address: Gva) -> Option<()> {
        if self.as_slice().contains(&address) {
            return Some(());
        }
        *self.addresses.get_mut(self.count)? = address;
        self.count += 1;
        Some(())
    }
}

/// How to step the instruction at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepPlan {
    /// As one instruction, by hardware single-step.
    Single,
    /// Freely to hardware breakpoints at all of `ends`. An exception of the sequence itself leaves
    /// it to the guest's vector: the caller puts a bound on the run.
    Sequence {
        /// Where it can end.
        ends: Ends,
    },
}

/// How to step the instruction at `pc`. `fetch` reads the guest's own instruction, `None` where
/// nothing is mapped.
///
/// A load-exclusive with no store-exclusive within [`SEQUENCE_LENGTH`] instructions, or that can be
/// left by an indirect branch or an exception, or in more than [`MAX_ENDS`] places, is stepped
/// alone.
pub fn step_plan(pc: Gva, mut fetch: impl FnMut(Gva) -> Option<u32>) -> StepPlan {
    let Some(store) = closing_store(pc, &mut fetch) else {
        return StepPlan::Single;
    };
    match ends(pc, store, &mut fetch) {
        Some(ends) => StepPlan::Sequence { ends },
        None => StepPlan::Single,
    }
}

/// Whether `address` lies after a load-exclusive and not after its store-exclusive: a probe there
/// would keep the guest's loop from ever ending. The load itself is not inside: what stops there
/// steps the whole sequence.
pub fn inside_exclusive_sequence(address: Gva, mut fetch: impl FnMut(Gva) -> Option<u32>) -> bool {
    (1..=SEQUENCE_LENGTH as u64)
        .map_while(|back| address.0.checked_sub(back * INSTRUCTION_SIZE).map(Gva))
        .any(|load| closing_store(load, &mut fetch).is_some_and(|store| store >= address))
}

/// The store-exclusive that closes the sequence which the instruction at `load` opens, if it opens
/// one.
fn closing_store(load: Gva, fetch: &mut impl FnMut(Gva) -> Option<u32>) -> Option<Gva> {
    if classify(fetch(load)?) != Class::LoadExclusive {
        return None;
    }
    let mut address = load;
    for _ in 0..SEQUENCE_LENGTH {
        address = address.checked_add(INSTRUCTION_SIZE)?;
        let instruction = fetch(address)?;
        if classify(instruction) == Class::StoreExclusive {
            return Some(address);
        }
        if leaves_for_unknown(instruction) {
            return None;
        }
    }
    None
}

/// Every address that control can reach from `load..=store` by falling through or by a direct
/// branch; `None` where they are too many.
fn ends(load: Gva, store: Gva, fetch: &mut impl FnMut(Gva) -> Option<u32>) -> Option<Ends> {
    let mut ends = Ends::EMPTY;
    ends.add(store.checked_add(INSTRUCTION_SIZE)?)?;
    let mut address = load;
    while address < store {
        if let Some(offset) = branch_offset(fetch(address)?) {
            let target = Gva(address.0.wrapping_add_signed(offset));
            if target < load || target > store {
                ends.add(target)?;
            }
        }
        address = address.checked_add(INSTRUCTION_SIZE)?;
    }
    Some(ends)
}

/// Whether an instruction goes where the code alone does not tell: exception generation (Arm ARM
/// C4.1.66, `11010100…`) and branches by register (`1101011…`: BR, BLR, RET, ERET and their PAC
/// forms).
const fn leaves_for_unknown(instruction: u32) -> bool {
    matches!(instruction >> 24, 0xd4 | 0xd6 | 0xd7)
}
