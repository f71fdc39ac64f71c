//! Where safe code and compiled code meet: what goes in, what comes out, and calls of helpers.

use super::{Code, Options};
use crate::decode::{Op, Step};
use crate::helper::{self as helpers, Helper};
use crate::object::{Access, RunError, RunFault};
use crate::run::Run;
use crate::{Context, address};
use alloc::boxed::Box;
use core::ffi::c_void;
use core::fmt;
use core::sync::atomic::AtomicU64;

/// Makes compiled code executable: the hypervisor's part.
pub trait Compiler: Sync {
    /// How programs are to be compiled.
    fn options(&self) -> Options;
    /// Puts code where all CPUs can execute it; `None` where there is no room. Then the program is
    /// interpreted.
    fn install(&self, code: &Code) -> Option<Box<dyn Native>>;
}

/// Code that has been installed.
pub trait Native: Send + Sync + fmt::Debug {
    /// Calls the code, which was compiled with the options of the [`Compiler`], as a function of
    /// AAPCS64 with the six arguments of `entry`.
    fn enter(&self, entry: &Entry) -> Outcome;
}

/// Compiled code as a function: its arguments are the fields of an [`Entry`].
pub type EntryPoint =
    unsafe extern "C" fn(*mut c_void, *const Context, *const AtomicU64, u64, u64, u64) -> Outcome;

/// The arguments of compiled code, x0 to x5.
#[derive(Debug)]
#[repr(C)]
pub struct Entry {
    /// x0: what [`helper`] gets back as its `run`.
    pub run: *mut c_void,
    /// x1: the context.
    pub context: *const Context,
    /// x2: the arena.
    pub arena: *const AtomicU64,
    /// x3: the budget, at most `i64::MAX`.
    pub budget: u64,
    /// x4: the end of the stack, as an offset in the arena.
    pub stack: u64,
    /// x5: the CPU.
    pub cpu: u64,
}

/// What compiled code returns, in x0 and x1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Outcome {
    /// r0, or the address of an access that failed.
    pub value: u64,
    /// 0, or what went wrong and where.
    pub status: u64,
}

/// What went wrong: bits 63 to 32 of [`Outcome::status`]; the rest is the number of the
/// instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(super) enum Failure {
    /// The budget is used up.
    Budget = 1,
    /// A helper failed; the run knows why.
    Helper = 2,
    /// An access out of bounds, or an atomic one that is not aligned.
    Access = 3,
}

/// What [`helper`] returns, in x0 and x1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct HelperOutcome {
    /// r0.
    pub value: u64,
    /// What is left of the budget plus 1; 0 where the helper failed.
    pub left: u64,
}

/// Calls helper `number` with r1 to r5 on behalf of compiled code, of whose budget `left`
/// instructions are left. The function at [`super::Runtime::helper_entry`] is called with `run` (as
/// [`Entry::run`]), `number`, the arguments one by one, and `left`, and returns what this does.
pub fn helper(run: &mut Run<'_>, number: u32, arguments: [u64; 5], left: u64) -> HelperOutcome {
    run.budget = left;
    let result = match Helper::from_number(number as i32) {
        Some(helper) => helpers::call(run, helper, arguments),
        None => Err(RunFault::Corrupt),
    };
    match result {
        Ok(value) => HelperOutcome {
            value,
            left: run.budget + 1,
        },
        Err(fault) => {
            run.fault = Some(fault);
            HelperOutcome { value: 0, left: 0 }
        }
    }
}

/// Runs an installed program.
pub(crate) fn run(native: &dyn Native, steps: &[Step], run: &mut Run<'_>) -> Result<u64, RunError> {
    let budget = run.budget.min(i64::MAX as u64);
    let entry = Entry {
        context: run.memory.context,
        arena: run.memory.arena.base(),
        budget,
        stack: run.memory.stack.end as u64,
        cpu: run.cpu as u64,
        run: (&raw mut *run).cast(),
    };
    let outcome = native.enter(&entry);
    if outcome.status == 0 {
        return Ok(outcome.value);
    }
    let insn = outcome.status as u32;
    let step = steps.get(insn as usize);
    let fault = match (outcome.status >> 32, step) {
        (kind, _) if kind == Failure::Budget as u64 => RunFault::Budget,
        (kind, _) if kind == Failure::Helper as u64 => {
            run.fault.take().unwrap_or(RunFault::Corrupt)
        }
        (_, Some(step)) => access(step, outcome.value),
        (_, None) => RunFault::Corrupt,
    };
    Err(RunError { insn, fault })
}

/// The error of an access at the offset `offset` from the arena's mark.
fn access(step: &Step, offset: u64) -> RunFault {
    let (length, access) = match step.op {
        Op::Load(width) | Op::LoadSigned(width) => (width.bytes(), Access::Read),
        Op::Store(width) => (width.bytes(), Access::Write),
        Op::Atomic(width) => (width.bytes(), Access::Atomic),
        // The key of a lookup that is inlined.
        _ => (4, Access::Read),
    };
    RunFault::BadAccess {
        address: address::ARENA.wrapping_add(offset),
        length: length as u32,
        access,
    }
}
