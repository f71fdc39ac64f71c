//! What verification has found out, for those who run the program.

use super::checkpoint::Statistics;
use super::reason::Reason;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

/// What memory an instruction accesses, on every path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MemoryKind {
    /// None, or the instruction is never reached.
    #[default]
    None,
    /// The context, at an offset that is constant on every path.
    Context,
    /// The stack of the function that executes it, always at the same distance from its frame
    /// pointer.
    Stack {
        /// That distance: negative.
        offset: i16,
    },
    /// The guest's memory: a load, which gives 0 where nothing can be read.
    Guest,
    /// The stack at varying places, values of maps, or now this and now that.
    Other,
}

/// An accepted program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    memory: Box<[MemoryKind]>,
    reached: Box<[bool]>,
    /// How many instructions were followed on all paths together. No run executes more, the cost
    /// of helpers aside.
    pub explored: usize,
    /// Bytes of stack that the functions of the deepest chain of calls use together.
    pub stack: usize,
    /// Whether a path reads bytes of the stack that it never wrote. Who runs the program must
    /// clear the stack first: what lies there is not the program's.
    pub reads_unset_stack: bool,
    /// How much work that was, as [`super::Limits`] counts it.
    pub work: u64,
    /// States that were remembered in all.
    pub states: usize,
    /// States that were remembered at once.
    pub peak_states: usize,
}

impl Verified {
    /// What memory the instruction accesses.
    pub fn memory(&self, insn: usize) -> MemoryKind {
        self.memory.get(insn).copied().unwrap_or_default()
    }

    /// Whether any path comes to the instruction.
    pub fn is_reached(&self, insn: usize) -> bool {
        self.reached.get(insn) == Some(&true)
    }
}

/// What has been found out so far.
#[derive(Debug)]
pub(super) struct Findings {
    memory: Vec<MemoryKind>,
    reached: Vec<bool>,
    pub(super) reads_unset_stack: bool,
}

impl Findings {
    pub(super) fn new(insns: usize) -> Self {
        Self {
            memory: vec![MemoryKind::None; insns],
            reached: vec![false; insns],
            reads_unset_stack: false,
        }
    }

    pub(super) fn reach(&mut self, insn: usize) {
        self.reached[insn] = true;
    }

    /// Another path accesses memory of that kind. Accesses to the context and loads from the guest
    /// are made differently from all others, so an instruction makes one of them
    /// (`reg_type_mismatch`).
    pub(super) fn access(&mut self, insn: usize, kind: MemoryKind) -> Result<(), Reason> {
        let known = &mut self.memory[insn];
        *known = match (*known, kind) {
            (MemoryKind::None, kind) => kind,
            (known, kind) if known == kind => kind,
            (MemoryKind::Context | MemoryKind::Guest, _)
            | (_, MemoryKind::Context | MemoryKind::Guest) => {
                return Err(Reason::DifferentPointers);
            }
            _ => MemoryKind::Other,
        };
        Ok(())
    }

    pub(super) fn into_verified(
        self,
        explored: usize,
        stack: usize,
        statistics: Statistics,
    ) -> Verified {
        Verified {
            memory: self.memory.into(),
            reached: self.reached.into(),
            explored,
            stack,
            reads_unset_stack: self.reads_unset_stack,
            work: statistics.work,
            states: statistics.states,
            peak_states: statistics.peak_states,
        }
    }
}
