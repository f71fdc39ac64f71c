//! What a running program and its helpers share.

use crate::host::Host;
use crate::memory::Memory;
use crate::object::{RunError, RunFault};
use crate::stack::Stacks;

/// A run: the memory and the machine under it, and how far it may still go.
pub(crate) struct Run<'a> {
    pub(crate) memory: Memory<'a>,
    pub(crate) stacks: &'a Stacks,
    pub(crate) host: &'a dyn Host,
    pub(crate) cpu: usize,
    pub(crate) budget: u64,
}

impl Run<'_> {
    /// Takes the cost of some work from the budget.
    pub(crate) fn charge(&mut self, instructions: u64) -> Result<(), RunFault> {
        self.budget = self
            .budget
            .checked_sub(instructions)
            .ok_or(RunFault::Budget)?;
        Ok(())
    }
}

/// A run goes on with another program of the object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TailCall {
    /// The program's number.
    pub(crate) program: usize,
    /// What is left of the budget.
    pub(crate) left: u64,
}

/// Why a program has not come to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Interruption {
    Failed(RunError),
    TailCall(TailCall),
}
