//! The helpers that say what the arguments and the result of the function are at which the program runs:
//! `get_func_arg`, `get_func_ret`, `get_func_arg_cnt` (`kernel/trace/bpf_trace.c`).

use super::read::Target;
use super::{EINVAL, EOPNOTSUPP};
use crate::object::RunFault;
use crate::run::Run;
use crate::signature::At;

/// `long get_func_arg(context, n, value)`: 0, or `-EINVAL` where the function has fewer arguments.
pub(super) fn argument(run: &mut Run<'_>, number: u64, target: u64) -> Result<u64, RunFault> {
    // A `u32` in Linux' signature.
    let number = number as u32 as usize;
    if number < count(run) as usize {
        put(run, number, target)
    } else {
        Ok(EINVAL)
    }
}

/// `long get_func_ret(context, value)`: 0, or `-EOPNOTSUPP` where the function has only begun.
pub(super) fn result(run: &mut Run<'_>, target: u64) -> Result<u64, RunFault> {
    let signature = run.host.signature();
    match signature.filter(|signature| signature.at() == At::Return) {
        Some(signature) => put(run, signature.arguments(), target),
        None => Ok(EOPNOTSUPP),
    }
}

/// `long get_func_arg_cnt(context)`.
pub(super) fn count(run: &Run<'_>) -> u64 {
    let signature = run.host.signature();
    signature.map_or(0, |signature| signature.arguments() as u64)
}

/// Gives the program a value of its context.
fn put(run: &mut Run<'_>, index: usize, target: u64) -> Result<u64, RunFault> {
    let value = run.memory.context.get(index).copied().unwrap_or(0);
    let target = Target::check(run, target, 8)?;
    target.write(run, 0, &value.to_le_bytes())?;
    Ok(0)
}

#[cfg(test)]
mod tests;
