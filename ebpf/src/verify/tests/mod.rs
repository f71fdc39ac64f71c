//! Tests of the whole verifier: verdicts on programs in text, and random programs.

mod assembler;
mod corpus;
mod messages;
mod random;
mod soundness;

use super::verifier::Verifier;
use super::*;
use crate::decode;
use crate::insn::Insn;
use crate::map::{MapDef, MapKind, Mutability};
use alloc::vec::Vec;
pub(crate) use assembler::assemble;

/// The maps that programs of these tests may refer to, by number: a hash map, an array, a per-CPU
/// array, each with values of 48 bytes, a read-only map of one value, a ring buffer, a perf buffer and
/// a queue.
pub(super) fn maps() -> Vec<MapDef> {
    let map = |name: &str, kind, key_size, value_size, max_entries| MapDef {
        name: name.into(),
        kind,
        key_size,
        value_size,
        max_entries,
        mutability: Mutability::Mutable,
        initial: Vec::new(),
    };
    alloc::vec![
        map("hash", MapKind::Hash, 8, 48, 4),
        map("array", MapKind::Array, 4, 48, 1),
        map("percpu", MapKind::PerCpuArray, 4, 48, 2),
        MapDef {
            mutability: Mutability::Frozen,
            initial: (0..48).collect(),
            ..map(".rodata", MapKind::Array, 4, 48, 1)
        },
        map("ring", MapKind::RingBuf, 0, 0, 4096),
        map("perf", MapKind::PerfEventArray, 4, 4, 0),
        map("queue", MapKind::Queue, 0, 8, 4),
    ]
}

/// Whether paths end where explored ones include them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pruning {
    On,
    Off,
}

/// Verifies instructions that may refer to [`maps`], within few steps.
fn verdict(
    insns: &[Insn],
    signature: Option<Signature>,
    pruning: Pruning,
    observer: &mut dyn Observer,
) -> Result<Verified, Refused> {
    let maps = maps();
    let environment = Environment {
        maps: &maps,
        limits: Limits {
            // A helper that calls a function for entries of a map goes on until states are included.
            insns: match pruning {
                Pruning::On => 100_000,
                Pruning::Off => 20_000,
            },
            ..Limits::default()
        },
        signature,
    };
    let functions = structure::check(insns, &maps).map_err(|(insn, reason)| Refused {
        insn,
        reason,
        path: None,
    })?;
    let steps = decode::decode(insns, &[]);
    let mut verifier = Verifier::new(insns, &steps, &functions, environment, observer);
    if pruning == Pruning::Off {
        verifier.never_prune();
    }
    verifier.run()
}
