//! `bpf_tail_call`: going on with another program.

use super::call::map_of;
use crate::object::RunFault;
use crate::run::Run;

/// How often a run goes on with another program at most (Linux: `MAX_TAIL_CALL_CNT`).
pub const MAX_TAIL_CALLS: u32 = 33;

/// The number of the program that a run goes on with, if `bpf_tail_call` finds one and there have not
/// been too many.
pub(crate) fn tail_call(run: &Run<'_>, map: u64, index: u64) -> Result<Option<usize>, RunFault> {
    let slot = index as u32 as usize;
    let program = map_of(run, map)?.program(slot);
    Ok(program.filter(|_| run.stacks.count_tail_call(run.cpu)))
}

#[cfg(test)]
mod tests;
