//! What a running program and its helpers share.

use crate::host::Host;
use crate::memory::Memory;
use crate::object::RunFault;

/// A run: the memory and the machine under it, and how far it may still go.
pub(crate) struct Run<'a> {
    pub(crate) memory: Memory<'a>,
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
