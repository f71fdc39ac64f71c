//! `jit-check SEED COUNT`: makes random eBPF programs, from seed SEED on, runs each by the interpreter and compiled, and
//! compares results, errors, maps and what was printed. Says how many agreed, or shows the first that did not, and exits
//! with 1 then.
//!
//! `jit-check kernel SEED COUNT`: makes programs that Linux takes too, and compares our verifier, interpreter and
//! compiler with those of the kernel under it (`BPF_PROG_TEST_RUN`).
//!
//! A static program for Linux on arm64 without a C library: it runs under `qemu-aarch64` on any host.
#![no_std]
#![no_main]

extern crate alloc;

mod generate;
mod kernel;
mod machine;
mod native;
mod pages;
mod random;
mod stacks;

use alloc::vec::Vec;
use core::arch::global_asm;
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use ebpf::jit::{Atomics, Blinding, Checks, Compiler, Listing, NotCompiled};
use ebpf::linked::Linked;
use ebpf::verify::{Reason, VerifyError};
use ebpf::{Context, LoadError, Object, RunError};
use generate::Behaviour;
use guest_programs::linux::{Stderr, Stdout, argument, exit};
use machine::Machine;
use native::Linux;
use random::Random;
use talc::TalcCell;
use talc::base::binning::DefaultBinning;
use talc::cell::TalcSyncCell;
use talc::source::Claim;

/// CPUs that programs run on, one after another.
const CPUS: usize = 3;

const HEAP_SIZE: usize = 64 << 20;
static mut HEAP_MEMORY: [MaybeUninit<u8>; HEAP_SIZE] = [MaybeUninit::uninit(); HEAP_SIZE];

// SAFETY: nothing else names the memory, and there is one thread and no signal handler.
#[global_allocator]
static HEAP: TalcSyncCell<Claim, DefaultBinning> =
    unsafe { TalcSyncCell::new(TalcCell::new(Claim::array(&raw mut HEAP_MEMORY))) };

global_asm!(
    "_start:",
    "    mov x0, sp",
    "    b {start}",
    "    .globl _start",
    start = sym start,
);

/// What differed.
enum Failure {
    Load(LoadError),
    Compile(NotCompiled),
    Result {
        interpreter: Result<u64, RunError>,
        compiled: Result<u64, RunError>,
    },
    Map(usize),
    Print,
    Run(RunError),
    Stack([u64; 2]),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => write!(f, "it was refused: {error}"),
            Self::Compile(error) => write!(f, "it was not compiled: {error}"),
            Self::Result {
                interpreter,
                compiled,
            } => write!(f, "interpreter {interpreter:x?}, compiled {compiled:x?}"),
            Self::Map(map) => write!(f, "map {map} differs"),
            Self::Print => f.write_str("they printed differently"),
            Self::Run(error) => write!(f, "it ended: {error}"),
            Self::Stack(left) => write!(f, "frames that should be clear hold {left:x?}"),
        }
    }
}

/// # Safety
/// `stack` must be the stack pointer that the kernel starts a program with.
unsafe extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: forwarded to the caller.
    let text = |number| unsafe { argument(stack, number) }?.to_str().ok();
    let with_kernel = text(1) == Some("kernel");
    let first = if with_kernel { 2 } else { 1 };
    let [seed, count] = [first, first + 1].map(|number| text(number)?.parse::<u64>().ok());
    let (Some(seed), Some(count)) = (seed, count) else {
        let _ = writeln!(Stderr, "usage: jit-check [kernel] SEED COUNT");
        exit(2);
    };
    if with_kernel {
        compare_with_kernel(seed, count);
    }
    let compiler = Linux {
        atomics: Atomics::Exclusives,
        checks: Checks::Every,
        blinding: Blinding::Off,
    };
    let clear = stacks::left_over(&compiler).and_then(|left| match left {
        [0, 0] => Ok(()),
        left => Err(Failure::Stack(left)),
    });
    if let Err(failure) = clear {
        let _ = writeln!(Stderr, "jit-check: stacks: {failure}");
        exit(1);
    }
    let [mut ended_early, mut unseen] = [0; 2];
    for seed in seed..seed + count {
        match check(seed) {
            Ok(Ended::Early) => ended_early += 1,
            Ok(Ended::Unseen) => unseen += 1,
            Ok(Ended::Well) => {}
            Err((compiler, failure)) => {
                let _ = writeln!(Stderr, "jit-check: seed {seed}, {compiler:?}: {failure}");
                exit(1);
            }
        }
    }
    let _ = writeln!(
        Stdout,
        "jit-check: {} programs agree, {ended_early} of them ended by an error; {unseen} are too complex",
        count - unseen,
    );
    exit(0);
}

fn compare_with_kernel(seed: u64, count: u64) -> ! {
    let mut too_complex = 0;
    for seed in seed..seed + count {
        match kernel::check(seed) {
            Ok(kernel::Outcome::Agreed) => {}
            Ok(kernel::Outcome::TooComplex) => too_complex += 1,
            Err(difference) => {
                let _ = writeln!(Stderr, "jit-check: seed {seed}: {difference}");
                exit(1);
            }
        }
    }
    let agreed = count - too_complex;
    let _ = writeln!(
        Stdout,
        "jit-check: {agreed} programs agree with the kernel, {too_complex} are too complex"
    );
    exit(0);
}

/// How a program's runs ended.
enum Ended {
    Well,
    /// At least one by an error.
    Early,
    /// Not at all: the program is too complex for the verifier, without which it cannot run.
    Unseen,
}

fn check(seed: u64) -> Result<Ended, (Linux, Failure)> {
    let mut random = Random(!seed);
    let checks = random.pick(&[Checks::Every, Checks::Window]);
    let compiler = Linux {
        atomics: random.pick(&[Atomics::Exclusives, Atomics::Lse]),
        checks,
        blinding: random.pick(&[Blinding::Off, Blinding::Off, Blinding::Seed(seed | 1)]),
    };
    let behaviour = match checks {
        _ if random.once_in(4) => Behaviour::ReadsGuest,
        Checks::Every => Behaviour::Faulty,
        Checks::Window => Behaviour::Proved,
    };
    let budget = if random.once_in(8) {
        random.below(1000)
    } else {
        1_000_000
    };
    let linked = generate::linked(seed, behaviour);
    let load = match behaviour {
        Behaviour::ReadsGuest | Behaviour::Anywhere => Object::load,
        Behaviour::Proved | Behaviour::Faulty => Object::load_unverified,
    };
    let compared = match [load(&linked, CPUS), load(&linked, CPUS)] {
        [Ok(interpreted), Ok(compiled)] => compare(interpreted, compiled, &compiler, budget),
        [Err(LoadError::Verify(error)), _] if is_too_complex(&error) => Ok(Ended::Unseen),
        [Err(error), _] | [_, Err(error)] => Err(Failure::Load(error)),
    };
    compared.map_err(|failure| {
        show(&linked, &compiler);
        (compiler, failure)
    })
}

fn is_too_complex(error: &VerifyError) -> bool {
    matches!(
        error.reason,
        Reason::TooManySteps(_) | Reason::TooMuchMemory(_)
    )
}

/// Runs the program on every CPU, by the interpreter and compiled.
fn compare(
    interpreted: Object,
    mut compiled: Object,
    compiler: &Linux,
    budget: u64,
) -> Result<Ended, Failure> {
    compiled.compile(compiler);
    for program in compiled.programs() {
        program
            .declined()
            .map(Failure::Compile)
            .map_or(Ok(()), Err)?;
    }
    let context: Context = core::array::from_fn(|index| Random(index as u64).number());
    let mut ended = Ended::Well;
    for cpu in (0..CPUS).cycle().take(2 * CPUS) {
        let machines = [Machine::on_cpu(cpu), Machine::on_cpu(cpu)];
        let run = |object: &Object, machine: &Machine| {
            object.programs()[0].run_within(budget, &context, machine)
        };
        let results = [
            run(&interpreted, &machines[0]),
            run(&compiled, &machines[1]),
        ];
        if results[0] != results[1] {
            let [interpreter, compiled] = results;
            return Err(Failure::Result {
                interpreter,
                compiled,
            });
        }
        if results[0].is_err() {
            ended = Ended::Early;
        }
        if machines[0].printed != machines[1].printed {
            return Err(Failure::Print);
        }
        for (number, maps) in interpreted.maps().iter().zip(compiled.maps()).enumerate() {
            if contents(maps.0) != contents(maps.1) {
                return Err(Failure::Map(number));
            }
        }
    }
    Ok(ended)
}

fn contents(map: &ebpf::map::Map) -> Vec<u8> {
    let mut bytes = Vec::new();
    map.for_each(&mut |entry| {
        bytes.extend(entry.key);
        bytes.extend(entry.value);
        true
    });
    bytes
}

/// Prints a program and what it is compiled to.
fn show(linked: &Linked, compiler: &Linux) {
    let Ok(object) = Object::load_unverified(linked, CPUS) else {
        return;
    };
    let program = &object.programs()[0];
    let code = program.to_a64(&compiler.options()).ok();
    let listing = Listing {
        insns: program.insns(),
        code: code.as_ref(),
    };
    let _ = writeln!(Stderr, "{listing}");
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Stderr, "jit-check: {info}");
    exit(3);
}
