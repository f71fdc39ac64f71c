//! The kernel as an oracle: its verifier and its compiler on the same programs.

use crate::CPUS;
use crate::generate::{self, Behaviour};
use crate::machine::Machine;
use crate::native::Linux;
use crate::random::Random;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use ebpf::insn::Insn;
use ebpf::jit::{Atomics, Blinding, Checks};
use ebpf::verify::Reason;
use ebpf::{Context, LoadError, Object, RunError};
use guest_programs::bpf::Loaded;
use guest_programs::linux::Errno;

/// What came of a program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Both verifiers accept it, and all ways to run it give the same.
    Agreed,
    /// It is too complex for one of the verifiers.
    TooComplex,
}

/// What differed.
pub enum Difference {
    /// Only one of the verifiers accepts it.
    Verdict {
        ours: Option<LoadError>,
        kernel: Option<Errno>,
        /// What the kernel's verifier says.
        log: String,
    },
    /// The kernel does not run what it has accepted.
    NotRun(Errno),
    Result {
        interpreted: Result<u64, RunError>,
        compiled: Result<u64, RunError>,
        kernel: u32,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict {
                ours: Some(error), ..
            } => write!(f, "the kernel accepts what we refuse: {error}"),
            Self::Verdict { kernel, log, .. } => {
                write!(f, "the kernel refuses what we accept: {kernel:?}\n{log}")
            }
            Self::NotRun(errno) => write!(f, "the kernel does not run it: {errno:?}"),
            Self::Result {
                interpreted,
                compiled,
                kernel,
            } => write!(
                f,
                "interpreted {interpreted:x?}, compiled {compiled:x?}, by the kernel {kernel:#x}"
            ),
        }
    }
}

/// Bytes of the kernel's log that are shown: the last instructions and the reason.
const LOG: usize = 2048;
/// `E2BIG`: the kernel's verifier has followed a million instructions.
const TOO_COMPLEX: usize = 7;

/// Runs the program of a seed by the interpreter, compiled, and by the kernel.
pub fn check(seed: u64) -> Result<Outcome, Difference> {
    let linked = generate::linked(seed, Behaviour::Anywhere);
    let insns = linked.programs[0].insns.iter();
    let code: Vec<_> = insns.map(|insn: &Insn| insn.encode()).collect();
    let kernel = Loaded::load(&code, &mut []);
    let ours = Object::load(&linked, CPUS);
    let (kernel, mut ours) = match (kernel, ours) {
        (Ok(kernel), Ok(ours)) => (kernel, ours),
        (Err(Errno(TOO_COMPLEX)), _) => return Ok(Outcome::TooComplex),
        (_, Err(LoadError::Verify(error))) if is_too_complex(error.reason) => {
            return Ok(Outcome::TooComplex);
        }
        (kernel, ours) => {
            let (kernel, ours) = (kernel.err(), ours.err());
            let log = last_words(&code);
            return Err(Difference::Verdict { ours, kernel, log });
        }
    };
    let mut context: Context = core::array::from_fn(|index| Random(seed ^ index as u64).number());
    let run = |object: &Object| object.programs()[0].run(&context, &Machine::on_cpu(0));
    let interpreted = run(&ours);
    ours.compile(&Linux {
        atomics: Atomics::Exclusives,
        checks: Checks::Window,
        blinding: Blinding::Off,
    });
    let compiled = run(&ours);
    let kernel = kernel.run(&mut context).map_err(Difference::NotRun)?;
    if interpreted == compiled && interpreted.map(|result| result as u32) == Ok(kernel) {
        Ok(Outcome::Agreed)
    } else {
        Err(Difference::Result {
            interpreted,
            compiled,
            kernel,
        })
    }
}

/// The end of what the kernel's verifier says of a program.
fn last_words(code: &[[u8; 8]]) -> String {
    let mut log = [0; LOG];
    // It has been refused before.
    let _ = Loaded::load(code, &mut log);
    let text = log.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn is_too_complex(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::TooManySteps(_) | Reason::TooMuchWork(_) | Reason::TooMuchMemory(_)
    )
}
