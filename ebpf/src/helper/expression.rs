//! The helpers of compiled agent expressions ([`crate::agent`]). Their last argument says which bytecode they serve. Where
//! they cannot, the run ends with an evaluation error.

use crate::agent::Place;
use crate::host::CollectFault;
use crate::object::{EvaluationError, RunFault};
use crate::run::Run;

/// An error of the bytecode that a helper's argument names.
pub(super) fn evaluation(place: u64, error: EvaluationError) -> RunFault {
    match Place::from_word(place) {
        Some(place) => RunFault::Evaluation { place, error },
        None => RunFault::Corrupt,
    }
}

/// `u64 agent_read(address, length, place)`: the number of 1, 2, 4 or 8 bytes there.
pub(super) fn read(run: &mut Run<'_>, args: [u64; 5]) -> Result<u64, RunFault> {
    let [address, length, place, ..] = args;
    run.charge(1)?;
    let mut word = [0; 8];
    let length = (length as usize).min(word.len());
    let end = address.checked_add(length as u64);
    let read = end.map(|_| run.host.read_guest(address, &mut word[..length]));
    match read {
        Some(Ok(())) => Ok(u64::from_le_bytes(word)),
        _ => {
            let length = length as u8;
            let error = EvaluationError::Unreadable { address, length };
            Err(evaluation(place, error))
        }
    }
}

/// `agent_fail(place)`: the divisor is 0.
pub(super) fn fail(place: u64) -> RunFault {
    evaluation(place, EvaluationError::DivisionByZero)
}

/// `u64 agent_register(number, place)`.
pub(super) fn register(run: &Run<'_>, number: u64, place: u64) -> Result<u64, RunFault> {
    let number = number as u16;
    let value = run.host.register(number);
    value.ok_or_else(|| evaluation(place, EvaluationError::NoRegister(number)))
}

/// `u64 agent_variable(number, place)`.
pub(super) fn variable(run: &Run<'_>, number: u64, place: u64) -> Result<u64, RunFault> {
    let number = number as u16;
    let value = run.host.state_variable(number);
    value.ok_or_else(|| evaluation(place, EvaluationError::NoVariable(number)))
}

/// `agent_set_variable(number, value, place)`: 0.
pub(super) fn set_variable(run: &Run<'_>, args: [u64; 5]) -> Result<u64, RunFault> {
    let [number, value, place, ..] = args;
    let number = number as u16;
    let set = run.host.set_state_variable(number, value);
    set.map(|()| 0)
        .ok_or_else(|| evaluation(place, EvaluationError::NoVariable(number)))
}

/// `agent_collect(address, length, place)`: 0.
pub(super) fn collect(run: &mut Run<'_>, args: [u64; 5]) -> Result<u64, RunFault> {
    let [address, length, place, ..] = args;
    charge_for(run, length)?;
    collected(run.host.collect(address, length), place)
}

/// `agent_collect_string(address, limit, place)`: 0.
pub(super) fn collect_string(run: &mut Run<'_>, args: [u64; 5]) -> Result<u64, RunFault> {
    let [address, limit, place, ..] = args;
    charge_for(run, limit)?;
    collected(run.host.collect_string(address, limit), place)
}

/// `agent_collect_variable(number, place)`: 0.
pub(super) fn collect_variable(run: &Run<'_>, number: u64, place: u64) -> Result<u64, RunFault> {
    collected(run.host.collect_state_variable(number as u16), place)
}

/// Memory costs by its length. More than this fits into no frame.
fn charge_for(run: &mut Run<'_>, length: u64) -> Result<(), RunFault> {
    const MOST: u64 = 4096;
    run.charge(length.min(MOST) / 8)
}

fn collected(result: Result<(), CollectFault>, place: u64) -> Result<u64, RunFault> {
    let fault = |fault| evaluation(place, EvaluationError::NotCollected(fault));
    result.map(|()| 0).map_err(fault)
}
