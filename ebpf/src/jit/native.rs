//! Where safe code and compiled code meet: what goes in, what comes out, and calls of helpers.

use super::{Code, Options};
use crate::decode::{Op, Step};
use crate::helper::{self as helpers, Helper};
use crate::object::{Access, Data, Program, RunError, RunFault};
use crate::run::{Interruption, TailCall};
use crate::width::Width;
use crate::{Context, Host, address};
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
    /// Calls the code, which was compiled with the options of the [`Compiler`], as an [`EntryPoint`]
    /// with these arguments behind any first one.
    ///
    /// It is on the way of every hit, so it does nothing else. That the CPU executes what has been
    /// installed, and not what it fetched from the same place before, is up to the caller: between the
    /// moment when the program became reachable for this CPU and this call lies a context
    /// synchronization event (Arm ARM B2.4.4), such as an exception.
    extern "C" fn enter(
        &self,
        call: *const c_void,
        context: *const Context,
        arena: *const AtomicU64,
        budget: u64,
        cpu: u64,
    ) -> Outcome;
}

/// Compiled code as a function. Its arguments are those of [`Native::enter`], where that has them: it
/// need not move them. They are: anything; the [`Call`], for [`helper`]; the context; the arena; the
/// budget, at most `i64::MAX`; the CPU.
pub type EntryPoint = unsafe extern "C" fn(
    *const c_void,
    *const c_void,
    *const Context,
    *const AtomicU64,
    u64,
    u64,
) -> Outcome;

/// A run of a compiled program. Outside this crate it is only handed from compiled code to
/// [`helper`].
pub struct Call<'a> {
    data: &'a Data,
    context: &'a Context,
    host: &'a dyn Host,
    cpu: usize,
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
    /// What is left of the budget plus 1; 0 where the program ends, because the helper failed or the
    /// run goes on with another one.
    pub left: u64,
}

/// What compiled code calls the hypervisor for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Service {
    Helper(Helper),
    /// To go on to the next entry of a map: r1 is the map, r2 where its key goes, r3 the position to go on
    /// from.
    NextElement,
    /// To load from the guest, where r1 says.
    LoadGuest(Width),
    /// The same, sign-extended.
    LoadGuestSigned(Width),
}

impl Service {
    /// In the number of a load, above its bytes. Helpers have smaller numbers.
    const LOAD: u32 = 0x100;
    const SIGNED: u32 = 0x10;
    const NEXT: u32 = 0x200;

    /// The number that means it.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Helper(helper) => helper as u32,
            Self::NextElement => Self::NEXT,
            Self::LoadGuest(width) => Self::LOAD | width.bytes() as u32,
            Self::LoadGuestSigned(width) => Self::LOAD | Self::SIGNED | width.bytes() as u32,
        }
    }

    const fn from_number(number: u32) -> Option<Self> {
        if number == Self::NEXT {
            return Some(Self::NextElement);
        }
        if number & Self::LOAD == 0 {
            return match Helper::from_number(number as i32) {
                Some(helper) => Some(Self::Helper(helper)),
                None => None,
            };
        }
        let width = Width::of_bytes((number & 0xf) as u8);
        Some(if number & Self::SIGNED == 0 {
            Self::LoadGuest(width)
        } else {
            Self::LoadGuestSigned(width)
        })
    }
}

/// Does what `number` means ([`Service`]; most are helpers) with r1 to r5 on behalf of compiled code,
/// of whose budget `left` instructions are left. The function at [`super::Runtime::helper_entry`] is called with the call
/// that the code was entered with, `number`, the arguments one by one, and `left`, and returns what
/// this does.
pub fn helper(call: &Call<'_>, number: u32, arguments: [u64; 5], left: u64) -> HelperOutcome {
    let mut run = call.data.run(call.context, call.host, call.cpu, left);
    let result = match Service::from_number(number) {
        Some(Service::Helper(Helper::TailCall)) => {
            let [_, map, index, ..] = arguments;
            match helpers::tail_call(&run, map, index) {
                Ok(Some(program)) => {
                    let next = TailCall { program, left };
                    call.data.stacks().put_tail_call(call.cpu, next);
                    return HelperOutcome { value: 0, left: 0 };
                }
                Ok(None) => Ok(0),
                Err(fault) => Err(fault),
            }
        }
        Some(Service::Helper(helper)) => helpers::call(&mut run, helper, arguments),
        Some(Service::NextElement) => {
            let [map, key, position, ..] = arguments;
            helpers::next_element(&mut run, map, position, key)
        }
        Some(Service::LoadGuest(width)) => helpers::load_guest(&mut run, arguments[0], width),
        Some(Service::LoadGuestSigned(width)) => {
            let loaded = helpers::load_guest(&mut run, arguments[0], width);
            loaded.map(|value| width.sign_extend(value))
        }
        None => Err(RunFault::Corrupt),
    };
    match result {
        Ok(value) => HelperOutcome {
            value,
            left: run.budget + 1,
        },
        Err(fault) => {
            call.data.stacks().put_fault(call.cpu, fault);
            HelperOutcome { value: 0, left: 0 }
        }
    }
}

/// Runs an installed program on `cpu`, whose stack is its own meanwhile, and what it goes on with.
#[inline(always)]
pub(crate) fn run(
    native: &dyn Native,
    program: &Program,
    context: &Context,
    host: &dyn Host,
    budget: u64,
    cpu: usize,
) -> Result<u64, RunError> {
    let call = Call {
        data: program.data(),
        context,
        host,
        cpu,
    };
    let outcome = enter(native, &call, budget);
    if outcome.status == 0 {
        Ok(outcome.value)
    } else {
        go_on(outcome, program, &call)
    }
}

/// The same of the program alone.
pub(crate) fn run_alone(
    native: &dyn Native,
    program: &Program,
    context: &Context,
    host: &dyn Host,
    budget: u64,
    cpu: usize,
) -> Result<u64, Interruption> {
    let call = Call {
        data: program.data(),
        context,
        host,
        cpu,
    };
    let outcome = enter(native, &call, budget);
    if outcome.status == 0 {
        Ok(outcome.value)
    } else {
        Err(interruption(outcome, program, cpu))
    }
}

#[inline(always)]
fn enter(native: &dyn Native, call: &Call<'_>, budget: u64) -> Outcome {
    let budget = budget.min(i64::MAX as u64);
    let place = (&raw const *call).cast();
    let arena = call.data.arena().base();
    native.enter(place, call.context, arena, budget, call.cpu as u64)
}

/// What becomes of a run that has ended with `outcome` instead of at the program's end. All that is needed
/// is in the call: nothing has to be kept in registers while the program runs.
#[cold]
#[inline(never)]
fn go_on(outcome: Outcome, program: &Program, call: &Call<'_>) -> Result<u64, RunError> {
    let interruption = interruption(outcome, program, call.cpu);
    program.go_on(interruption, call.context, call.host, call.cpu)
}

/// Why a run on `cpu` has ended with `outcome`. Where it was a helper, that has left word.
fn interruption(outcome: Outcome, program: &Program, cpu: usize) -> Interruption {
    let stacks = program.data().stacks();
    if let Some(next) = stacks.take_tail_call(cpu) {
        return Interruption::TailCall(next);
    }
    let helper = stacks.take_fault(cpu);
    let insn = outcome.status as u32;
    let step = program.steps().get(insn as usize);
    let fault = match (outcome.status >> 32, step) {
        (kind, _) if kind == Failure::Budget as u64 => RunFault::Budget,
        (kind, _) if kind == Failure::Helper as u64 => helper.unwrap_or(RunFault::Corrupt),
        (_, Some(step)) => access(step, outcome.value),
        (_, None) => RunFault::Corrupt,
    };
    Interruption::Failed(RunError::new(insn, fault))
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
