//! Compiled code, as this process executes it.

use crate::pages::CodePages;
use alloc::boxed::Box;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::AtomicU64;
use ebpf::Context;
use ebpf::jit::{
    Atomics, Blinding, Call, Checks, Code, Compiler, EntryPoint, HelperOutcome, Native, Options,
    Outcome, Runtime, helper,
};

/// Compiles in one of the ways that there are.
#[derive(Clone, Copy, Debug)]
pub struct Linux {
    pub atomics: Atomics,
    pub checks: Checks,
    pub blinding: Blinding,
}

impl Compiler for Linux {
    fn options(&self) -> Options {
        Options {
            runtime: Runtime {
                helper_entry: helper_entry as *const () as u64,
                atomics: self.atomics,
            },
            checks: self.checks,
            blinding: self.blinding,
        }
    }

    fn install(&self, code: &Code) -> Option<Box<dyn Native>> {
        Some(Box::new(Installed(CodePages::new(code.words())?)))
    }
}

#[derive(Debug)]
struct Installed(CodePages);

// SAFETY: code is only read.
unsafe impl Send for Installed {}
// SAFETY: the same.
unsafe impl Sync for Installed {}

impl Native for Installed {
    extern "C" fn enter(
        &self,
        call: *const c_void,
        context: *const Context,
        arena: *const AtomicU64,
        budget: u64,
        cpu: u64,
    ) -> Outcome {
        // SAFETY: the pages hold what the compiler made, which is a function of that type.
        let program = unsafe { core::mem::transmute::<*const u32, EntryPoint>(self.0.start()) };
        // SAFETY: these are the arguments that it was compiled for.
        unsafe { program(ptr::null(), call, context, arena, budget, cpu) }
    }
}

/// What compiled code calls.
extern "C" fn helper_entry(
    call: *const c_void,
    number: u64,
    first: u64,
    second: u64,
    third: u64,
    fourth: u64,
    fifth: u64,
    left: u64,
) -> HelperOutcome {
    // SAFETY: compiled code hands back the call that it was entered with, which lives until the code returns.
    let call = unsafe { &*call.cast::<Call<'_>>() };
    helper(
        call,
        number as u32,
        [first, second, third, fourth, fifth],
        left,
    )
}
