//! Steps of EL2 code for the debugger: one instruction of one CPU, while all others rest.
//!
//! Hardware single-step is no way: at EL2 it would share `MDSCR_EL1` with the guest. What there is a simulation for, branches
//! above all, is simulated on the registers in the CPU's frame. So are exclusive accesses: with all other CPUs at rest, a store-exclusive
//! that follows its load succeeds, and stepping through a loop of them comes to its end, which real ones would not, as every
//! exception clears the monitor. PSTATE's masks live in the frame. WFI and WFE are NOPs, as the architecture allows. Everything
//! else executes in a slot of text, on its own CPU, which takes no interrupt for that moment and comes back by `BRK`.
//!
//! A site of a probe at the PC is a hit, as when the CPU runs.

use crate::lock::MaskedMutex;
use crate::own_memory::{self, Access, OwnMemory};
use crate::rendezvous::{self, MASTER, brk};
use crate::vectors::Frame;
use crate::{cpu, hprobes, live, text};
use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use probes::a64::{Execution, Simulated, execution, simulate};
use probes::addr::{Gva, Hpa};
use probes::engine::HitOutcome;
use probes::machine::{LiveMemory, StopReason};
use probes::regs::{CoreRegs, pstate};

global_asm!(
    r#"
    .section .text.slots, "ax"
    .balign 8
    .global own_step_slot
own_step_slot:
    brk     #0                      // the instruction
    brk     #{STEPPED}
    .text
    "#,
    STEPPED = const brk::STEPPED,
);

/// What has become of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stepped {
    /// It has executed.
    Done,
    /// It is the service CPU's own: the debugger has to return from its exception, and comes back behind the instruction.
    LeavesDebugger,
    /// A probe there says stop.
    Stopped(StopReason),
    /// It cannot be stepped.
    Refused,
}

/// Where the CPU that executes in the slot goes on.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Whether interrupts were masked in its code.
static MASKED: AtomicBool = AtomicBool::new(false);
/// The CPU and the address of the last load-exclusive that was simulated.
static MONITOR: MaskedMutex<Option<(usize, u64)>> = MaskedMutex::new(None);

/// Forgets exclusive accesses: CPUs run.
pub fn clear_monitor() {
    *MONITOR.lock() = None;
}

/// Executes one instruction of CPU `index`, which rests.
pub fn step(index: usize) -> Stepped {
    let Some(mut regs) = rendezvous::with_frame(index, |frame| frame.regs) else {
        return Stepped::Refused;
    };
    regs.pc = hprobes::address_of(regs.pc);
    match hprobes::hit_by_step(index, &mut regs) {
        HitOutcome::Resume => finish(index, &regs),
        HitOutcome::Stop(reason) => Stepped::Stopped(reason),
        HitOutcome::Step | HitOutcome::NotOurs | HitOutcome::Breakpoint { .. } => {
            execute(index, &mut regs)
        }
    }
}

fn finish(index: usize, regs: &CoreRegs) -> Stepped {
    rendezvous::with_frame(index, |frame| frame.regs = *regs);
    Stepped::Done
}

fn execute(index: usize, regs: &mut CoreRegs) -> Stepped {
    let Some(word) = hprobes::original(regs.pc) else {
        return Stepped::Refused;
    };
    if is_wait(word) || masks(word, regs) || exclusive(index, word, regs) {
        regs.pc += 4;
        return finish(index, regs);
    }
    // Every branch that there is a simulation for, RET too: one in the slot would not come back.
    match simulate(word, regs, &OwnMemory, &hprobes::features(word)) {
        Simulated::Done => finish(index, regs),
        Simulated::Step if execution(word) == Ok(Execution::OutOfLine) && !is_branch(word) => {
            out_of_line(index, word, regs)
        }
        Simulated::Step | Simulated::Breakpoint { .. } => Stepped::Refused,
    }
}

/// Unconditional branch (register) (Arm ARM C4.1.66): those that are left have pointer authentication.
fn is_branch(word: u32) -> bool {
    word & 0xfe00_0000 == 0xd600_0000
}

/// WFE, WFI (Arm ARM C6.2, hints 2 and 3).
fn is_wait(word: u32) -> bool {
    matches!(word, 0xd503_205f | 0xd503_207f)
}

/// MRS and MSR of DAIF, in both forms: while the instruction would execute in the slot, the masks are not the code's own.
fn masks(word: u32, regs: &mut CoreRegs) -> bool {
    const DAIF: u64 = 0xf << 6;
    let register = (word & 0x1f) as usize;
    let immediate = u64::from(word >> 8 & 0xf) << 6;
    if word & !0xf00 == 0xd503_40df {
        regs.pstate |= immediate;
    } else if word & !0xf00 == 0xd503_40ff {
        regs.pstate &= !immediate;
    } else if word & !0x1f == 0xd53b_4220 {
        set(regs, register, regs.pstate & DAIF);
    } else if word & !0x1f == 0xd51b_4220 {
        regs.pstate = regs.pstate & !DAIF | get(regs, register) & DAIF;
    } else {
        return false;
    }
    true
}

fn get(regs: &CoreRegs, register: usize) -> u64 {
    regs.x.get(register).copied().unwrap_or(0)
}

fn set(regs: &mut CoreRegs, register: usize, value: u64) {
    if let Some(place) = regs.x.get_mut(register) {
        *place = value;
    }
}

/// Load and store exclusive, single and pair (Arm ARM C4.1.94). `false`: it is none, or it would fault.
fn exclusive(index: usize, word: u32, regs: &mut CoreRegs) -> bool {
    // The class, and o2 clear: with it set these are ordered accesses and compare-and-swap.
    if word & 0x3f80_0000 != 0x0800_0000 {
        return false;
    }
    let field = |low: u32| (word >> low & 0x1f) as usize;
    let (status, second, base, first) = (field(16), field(10), field(5), field(0));
    let is_load = word & 1 << 22 != 0;
    let is_pair = word & 1 << 21 != 0;
    let size = 1usize << (word >> 30);
    let registers = [Some(first), is_pair.then_some(second)];
    let length = size * registers.iter().flatten().count();
    let address = if base == 31 { regs.sp } else { get(regs, base) };
    if !address.is_multiple_of(length as u64) {
        return false;
    }
    let mut buffer = [0; 16];
    let bytes = &mut buffer[..length];
    if is_load {
        if OwnMemory.read(Gva(address), bytes).is_err() {
            return false;
        }
        for (register, bytes) in registers.into_iter().flatten().zip(bytes.chunks(size)) {
            let mut value = [0; 8];
            value[..size].copy_from_slice(bytes);
            set(regs, register, u64::from_le_bytes(value));
        }
        *MONITOR.lock() = Some((index, address));
        return true;
    }
    if own_memory::check(address, length, Access::Write).is_err() {
        return false;
    }
    let succeeds = MONITOR.lock().take() == Some((index, address));
    if succeeds {
        for (register, bytes) in registers.into_iter().flatten().zip(bytes.chunks_mut(size)) {
            bytes.copy_from_slice(&get(regs, register).to_le_bytes()[..size]);
        }
        live::copy_to(Hpa(address), bytes);
    }
    set(regs, status, u64::from(!succeeds));
    true
}

fn out_of_line(index: usize, word: u32, regs: &CoreRegs) -> Stepped {
    unsafe extern "C" {
        static own_step_slot: u8;
    }
    let slot = &raw const own_step_slot as u64;
    // SAFETY: the slot's first word is for this, and all other CPUs rest outside of it.
    unsafe { text::write(slot, word) };
    NEXT.store(regs.pc + 4, Ordering::Relaxed);
    MASKED.store(regs.pstate & pstate::I != 0, Ordering::Relaxed);
    rendezvous::with_frame(index, |frame| {
        frame.regs = CoreRegs {
            pc: slot,
            pstate: regs.pstate | pstate::I,
            ..*regs
        };
    });
    if index == MASTER {
        return Stepped::LeavesDebugger;
    }
    if rendezvous::run_alone(index) {
        Stepped::Done
    } else {
        Stepped::Refused
    }
}

/// The instruction in the slot has executed on this CPU: puts `frame` behind the one that it stands for.
pub fn leave_slot(frame: &mut Frame) {
    frame.regs.pc = NEXT.load(Ordering::Relaxed);
    if !MASKED.load(Ordering::Relaxed) {
        frame.regs.pstate &= !pstate::I;
    }
}

/// The PC of a CPU that rests.
pub fn pc(index: usize) -> Option<Gva> {
    let pc = rendezvous::with_frame(index, |frame| frame.regs.pc)?;
    cpu::get(index).map(|_| Gva(hprobes::address_of(pc)))
}
