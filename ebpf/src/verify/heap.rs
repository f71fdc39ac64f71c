//! Whether there is memory to verify with. The verifier allocates in many small pieces, and where the heap
//! has none left, an allocation is a panic: so it asks first, and is content with less.

use alloc::vec::Vec;

/// Bytes for remembered states at least: fewer are no use.
const LEAST: usize = 64 << 10;
/// What the tables of the verifier take, beside what they take for each instruction.
const TABLES: usize = 256 << 10;
/// What they take for each instruction.
const TABLES_PER_INSN: usize = 128;

/// How many of `wanted` bytes for the remembered states of a program the heap has room for now; `None`
/// where that is too little. Whoever else allocates meanwhile takes of what is left beside.
pub(super) fn room(wanted: usize, insns: usize) -> Option<usize> {
    let besides = TABLES + insns * TABLES_PER_INSN;
    let mut room = wanted;
    // Small pieces cost the allocator something each.
    while !has(room + room / 4 + besides) {
        room /= 2;
        if room < LEAST {
            return None;
        }
    }
    Some(room)
}

fn has(bytes: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
}
