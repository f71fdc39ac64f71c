//! `single-step SESSIONS`, inside a Linux guest: in each session a child is single-stepped with ptrace through code whose
//! every step is known, and each step is checked. Prints how many sessions went well and how many steps they took; says
//! what was wrong and exits with 1 otherwise.
#![no_std]
#![no_main]

use core::arch::global_asm;
use core::fmt::{self, Write};
use guest_programs::linux::{self, Child, Errno, Forked, Registers, Stdout, Stop};

/// How often the subject goes round.
const ROUNDS: u64 = 100;
/// Offsets in the subject, in bytes: of its system call, its count, its branch, its end.
const SYSTEM_CALL: u64 = 8;
const COUNT: u64 = 12;
const BRANCH: u64 = 16;
const END: u64 = 20;
/// Where the branch leads.
const ROUND: u64 = 4;
/// Steps from where the child stops itself to the subject, at most.
const APPROACH: u32 = 1000;
/// What the child exits with.
const EXIT_CODE: i32 = 42;

global_asm!(
    "_start:",
    "    mov x0, sp",
    "    b {start}",
    "    .globl _start",
    // One instruction, then rounds of four, one of which is a system call; x9 counts down.
    "subject:",
    "    mov x9, #{rounds}",
    "1:  mov x8, #{getppid}",
    "    svc #0",
    "    subs x9, x9, #1",
    "    b.ne 1b",
    "    ret",
    start = sym start,
    rounds = const ROUNDS,
    getppid = const linux::GETPPID,
);

unsafe extern "C" {
    safe fn subject();
}

/// What went wrong in a session.
enum Failure {
    /// A system call that must not fail.
    Syscall(&'static str, Errno),
    /// The child stopped or ended otherwise than it must.
    Unexpected(&'static str, Stop),
    /// It never came to the subject.
    Lost,
    /// A step led elsewhere than to `expected`, both as offsets from the subject, with `left` rounds to go.
    Step {
        expected: u64,
        pc: u64,
        left: u64,
        x9: u64,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Syscall(name, Errno(number)) => write!(f, "{name} failed: errno {number}"),
            Failure::Unexpected(when, stop) => write!(f, "{when}: {stop}"),
            Failure::Lost => write!(f, "the subject did not come within {APPROACH} steps"),
            Failure::Step {
                expected,
                pc,
                left,
                x9,
            } => write!(
                f,
                "a step to subject+{pc:#x} with x9 = {x9}, not to subject+{expected:#x} with {left}"
            ),
        }
    }
}

/// The program, with its arguments on the initial stack: their number, then pointers to them.
extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: the kernel has put the stack there.
    let sessions = unsafe { linux::first_argument(stack) }.unwrap_or(1);
    let mut steps = 0;
    for number in 1..=sessions {
        match session() {
            Ok(taken) => steps += taken,
            Err(failure) => {
                let _ = writeln!(Stdout, "single-step: session {number}: {failure}");
                linux::exit(1);
            }
        }
    }
    let _ = writeln!(Stdout, "single-step: {sessions} sessions, {steps} steps");
    linux::exit(0);
}

/// Returns how many steps it took.
fn session() -> Result<u32, Failure> {
    let child = match linux::fork() {
        Ok(Forked::Parent(child)) => child,
        Ok(Forked::Child) => be_stepped(),
        Err(errno) => return Err(Failure::Syscall("clone", errno)),
    };
    let result = step_through(&child);
    if result.is_err() {
        child.kill();
    }
    result
}

/// The child: lets itself be traced, stops, and goes through the subject.
fn be_stepped() -> ! {
    linux::trace_me_and_stop();
    subject();
    linux::exit(EXIT_CODE);
}

fn step_through(child: &Child) -> Result<u32, Failure> {
    match child.wait() {
        Stop::Signal(linux::SIGSTOP) => {}
        other => return Err(Failure::Unexpected("before the first step", other)),
    }
    let subject = subject as *const () as u64;
    let mut steps = 0;
    while child_registers(child)?.pc != subject {
        if steps == APPROACH {
            return Err(Failure::Lost);
        }
        step(child)?;
        steps += 1;
    }
    let mut offset = 0;
    let mut left = ROUNDS;
    while offset != END {
        for _ in 0..stops(offset) {
            step(child)?;
            steps += 1;
        }
        (offset, left) = after(offset, left);
        let Registers { pc, x9 } = child_registers(child)?;
        if pc.wrapping_sub(subject) != offset || x9 != left {
            return Err(Failure::Step {
                expected: offset,
                pc: pc.wrapping_sub(subject),
                left,
                x9,
            });
        }
    }
    child
        .resume()
        .map_err(|errno| Failure::Syscall("PTRACE_CONT", errno))?;
    match child.wait() {
        Stop::Exit(EXIT_CODE) => Ok(steps),
        other => Err(Failure::Unexpected("after the last step", other)),
    }
}

/// How often the child stops before the instruction at `offset` of the subject is behind it. Linux stops it where a
/// system call ends, and for the step that the CPU made into the call.
fn stops(offset: u64) -> u32 {
    match offset {
        SYSTEM_CALL => 2,
        _ => 1,
    }
}

/// Where the instruction at `offset` of the subject leads, and how many rounds are left then.
fn after(offset: u64, left: u64) -> (u64, u64) {
    match offset {
        COUNT => (offset + 4, left - 1),
        BRANCH if left > 0 => (ROUND, left),
        _ => (offset + 4, left),
    }
}

fn step(child: &Child) -> Result<(), Failure> {
    child
        .step()
        .map_err(|errno| Failure::Syscall("PTRACE_SINGLESTEP", errno))?;
    match child.wait() {
        Stop::Signal(linux::SIGTRAP) => Ok(()),
        other => Err(Failure::Unexpected("after a step", other)),
    }
}

fn child_registers(child: &Child) -> Result<Registers, Failure> {
    child
        .registers()
        .map_err(|errno| Failure::Syscall("PTRACE_GETREGSET", errno))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Stdout, "single-step: {info}");
    linux::exit(1);
}
