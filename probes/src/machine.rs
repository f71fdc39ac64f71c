//! How the debugger meets a machine: the traits that a hypervisor implements to adopt Periscope.
//!
//! One [`Machine`] is one guest (`vm1`, `vm2`, …) or the hypervisor itself (`hyp`). Everything here is callable on any
//! physical CPU; what needs the VM held says so. The traits are few on purpose; `hypervisor/` is the reference
//! implementation and `fake` the one for unit tests.
//!
//! # The hypervisor as a machine
//!
//! `hyp` is a machine like a guest with these differences. Its vCPU *n* is physical CPU *n*. A [`Gpa`] is the address
//! that hypervisor code uses, whatever the MMU makes of it. A hold brings every other physical CPU to where it executes
//! no code that can be probed. [`ExecuteView::arm`] changes the code itself. The probe instruction is `BRK`, not
//! `HVC`, and code that serves probes cannot be probed ([`crate::own_code`]).
//!
//! # Holds
//!
//! A VM runs while nobody holds it. [`RunControl::hold`] brings every vCPU to EL2 and keeps it there; holds nest, and
//! the VM goes on when the last is released. A debug stop is a hold that a session keeps; arming a site is a hold for a
//! few microseconds. A vCPU is never inside the hit path while its VM is held: it either handled its trap before it
//! parked or has not fetched the instruction yet. That is what lets the tables of a VM change without a lock on the hit
//! path.

use crate::a64::SimulationFeatures;
use crate::addr::{Gpa, Gva};
use crate::regs::{CoreRegs, FpRegs, SysReg, SysRegs};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// Number of a VM as users write it: `vm1` is `VmId(1)`. `VmId(0)` is the hypervisor itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct VmId(pub u8);

impl VmId {
    /// The hypervisor itself.
    pub const HYPERVISOR: Self = Self(0);

    /// Whether it is the hypervisor itself.
    pub fn is_hypervisor(self) -> bool {
        self == Self::HYPERVISOR
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            f.write_str("hyp")
        } else {
            write!(f, "vm{}", self.0)
        }
    }
}

/// Index of a vCPU in its VM, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub struct VcpuId(pub u8);

/// Whether a vCPU has been switched on by PSCI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    /// Executes guest code when its VM is not held.
    On,
    /// Off: not yet started by `CPU_ON`, or ended by `CPU_OFF`. Its registers read as zero.
    Off,
}

/// The life of a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmState {
    /// Created or halted; its first instruction is still to come.
    Ready,
    /// Executes, or is held by a debugger.
    Running,
    /// The guest powered itself off, or `vm stop` did.
    Off,
}

/// How a vCPU goes on when its VM is released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunMode {
    /// Freely.
    Continue,
    /// One instruction (an exclusive sequence counts as one), then a [`StopReason::Step`].
    Step,
    /// Instruction by instruction while the PC stays in `start..end`, then a [`StopReason::Step`] (RSP `vCont;r`).
    StepRange {
        /// First address of the range.
        start: Gva,
        /// First address after it.
        end: Gva,
    },
    /// Not at all: another vCPU runs alone (scheduler-locking).
    Stay,
}

/// Whether the interrupts that wait for a vCPU get ahead of an instruction that the debugger steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StepInterrupts {
    /// They wait until the vCPU runs freely: a step goes to the next instruction of the code that is stepped.
    #[default]
    Wait,
    /// They are taken as on a vCPU that runs: the step then ends at the first instruction of the handler.
    Taken,
}

/// What a watchpoint watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchKind {
    /// Stores.
    Write,
    /// Loads.
    Read,
    /// Both.
    Access,
}

/// Why a vCPU stopped its VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// [`RunMode::Step`] or [`RunMode::StepRange`] came to its end.
    Step,
    /// A probe site said stop. The PC is the site; its instruction has not executed.
    Site {
        /// The probe that said so, or `None` for a breakpoint of GDB's own.
        probe: Option<u32>,
    },
    /// A hardware breakpoint. The PC is its address; the instruction has not executed.
    HwBreakpoint,
    /// A watchpoint. The access has not happened.
    Watchpoint {
        /// Accessed address (FAR).
        address: Gva,
        /// What the watchpoint that fired watches.
        kind: WatchKind,
    },
    /// Somebody asked: Ctrl-C, `vm` command, the start of a session.
    Request,
    /// The guest reset itself or was reset; the VM is held before its first instruction.
    Reset,
}

/// One stop: which vCPU, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop {
    /// The vCPU that stopped the VM.
    pub vcpu: VcpuId,
    /// Why.
    pub reason: StopReason,
}

/// The vCPU that was addressed is off, or there is none of that number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoVcpu;

/// Guest-physical memory that cannot be accessed as RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PhysFault {
    /// Nothing is there.
    Unmapped(Gpa),
    /// A device is there: reading it could have side effects.
    Device(Gpa),
}

/// Stopping, stepping and resuming the vCPUs of a VM.
pub trait RunControl {
    /// How many vCPUs the VM has.
    fn vcpu_count(&self) -> usize;
    /// Whether a vCPU is on.
    fn power(&self, vcpu: VcpuId) -> Power;
    /// The physical CPU that executes a vCPU, where it is always the same one. There is none by default.
    fn physical_cpu(&self, _vcpu: VcpuId) -> Option<usize> {
        None
    }
    /// The VM's life.
    fn state(&self) -> VmState;
    /// Brings every vCPU to EL2 and keeps it there; returns when all are. Nests. Guest time stands still.
    fn hold(&self);
    /// Takes one hold back. With the last, every vCPU goes on as its [`RunMode`] says.
    fn release(&self);
    /// Whether anybody holds the VM.
    fn held(&self) -> bool;
    /// How long the VM has been held so far, in nanoseconds of [`Clock::now_ns`], without a hold that still goes on: what
    /// is no part of how long something took to the guest. Called on the hit path.
    fn held_ns(&self) -> u64;
    /// How `vcpu` goes on from the next release, whatever was set before: `Continue` ends a step that has not come to
    /// its end. The VM is held. A hold and its release alone change nothing; every stop that is taken sets `Continue`
    /// for all vCPUs.
    fn set_run_mode(&self, vcpu: VcpuId, mode: RunMode);
    /// What interrupts do to steps ([`RunMode::Step`] and [`RunMode::StepRange`]).
    fn step_interrupts(&self) -> StepInterrupts {
        StepInterrupts::default()
    }
    /// Changes that. Says whether it can be changed; by default it cannot.
    fn set_step_interrupts(&self, _interrupts: StepInterrupts) -> bool {
        false
    }
    /// The next stop that nobody has taken yet, if any. A vCPU that stops its VM takes a hold in the name of the
    /// debugger: who takes the stop owns that hold and releases it.
    fn take_stop(&self) -> Option<Stop>;
}

/// The registers of a vCPU. The VM is held.
pub trait Registers {
    /// Core registers.
    fn core(&self, vcpu: VcpuId) -> Result<CoreRegs, NoVcpu>;
    /// Sets the core registers. PSTATE bits that would leave EL1/EL0 or AArch64 are ignored.
    fn set_core(&self, vcpu: VcpuId, regs: &CoreRegs) -> Result<(), NoVcpu>;
    /// SIMD and floating-point registers.
    fn fp(&self, vcpu: VcpuId) -> Result<FpRegs, NoVcpu>;
    /// Sets the SIMD and floating-point registers.
    fn set_fp(&self, vcpu: VcpuId, regs: &FpRegs) -> Result<(), NoVcpu>;
    /// System registers.
    fn sys(&self, vcpu: VcpuId) -> Result<SysRegs, NoVcpu>;
    /// Sets one system register. Only registers with [`crate::regs::SysRegAccess::ReadWrite`].
    fn set_sys(&self, vcpu: VcpuId, reg: SysReg, value: u64) -> Result<(), NoVcpu>;
}

/// Guest-physical memory. May be used while the VM runs.
pub trait PhysMemory {
    /// Reads RAM. Always the guest's own bytes, never a probe.
    fn read_phys(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), PhysFault>;
    /// Writes RAM, makes it coherent with instruction fetch, and refreshes a shadow of the page where there is one.
    fn write_phys(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), PhysFault>;
}

/// Why a page cannot carry a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArmError {
    /// Not RAM of this VM.
    NotRam(Gpa),
    /// No page left for a shadow or a table.
    OutOfMemory,
    /// The code has no execute view: only an instruction in its place can trap.
    NoView,
}

/// How the fetch of an armed word traps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchTrap {
    /// It sees this instruction instead of the guest's own.
    Instruction(u32),
    /// It is a stage-2 permission fault, like every other fetch from the page: the page is the
    /// guest's own, with the right to execute taken away. Data accesses to it do not trap.
    NoExecute,
}

/// What the probes of a VM take of the hypervisor's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ViewUsage {
    /// Armed words.
    pub sites: usize,
    /// Pages with armed words that have a copy.
    pub shadows: usize,
    /// Pages with armed words that cannot be executed.
    pub no_execute: usize,
    /// Pages of stage-2 tables. Without armed words, as many as after the VM's creation.
    pub tables: usize,
}

/// The execute view of a VM: what its vCPUs fetch where probes are. The VM is held.
pub trait ExecuteView {
    /// Makes fetches of the word at `gpa` (a multiple of 4) trap as `trap` says; data accesses keep seeing the original.
    /// Arming an armed word replaces how it traps. Where one word of a page is armed with [`FetchTrap::NoExecute`], all
    /// armed words of the page trap that way.
    fn arm(&self, gpa: Gpa, trap: FetchTrap) -> Result<(), ArmError>;
    /// Makes fetches see the original again. With the last armed word of a page everything about it is as before.
    fn disarm(&self, gpa: Gpa);
    /// What the view takes now. The VM may run.
    fn view_usage(&self) -> ViewUsage;
}

/// One hardware breakpoint or watchpoint of the debugger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HwPoint {
    /// Stops before the instruction at this address.
    Break(Gva),
    /// Stops at accesses to `address..address + length`.
    Watch {
        /// First watched byte.
        address: Gva,
        /// How many bytes, at least 1.
        length: u64,
        /// Which accesses.
        kind: WatchKind,
    },
}

impl HwPoint {
    /// Whether it is a watchpoint that an access which begins at `address` can mean. That may be a little before what is
    /// watched, where a wide access reaches into it (Arm ARM D2.10.6).
    pub fn watches(&self, access: Gva) -> bool {
        const WIDEST_ACCESS: u64 = 64;
        let Self::Watch {
            address, length, ..
        } = *self
        else {
            return false;
        };
        let last = address.0.saturating_add(length.saturating_sub(1));
        access.0 <= last && access.0.saturating_add(WIDEST_ACCESS) > address.0
    }
}

/// Why the hardware points cannot be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HwError {
    /// More points than the CPU has registers.
    TooMany {
        /// How many of that kind the CPU has.
        available: u8,
    },
    /// The range is empty, wraps, or no watchpoint register can cover it.
    BadRange,
    /// The debug registers of the hypervisor's CPUs are its guests'.
    Guests,
}

/// Hardware breakpoints and watchpoints on all vCPUs of a VM. The VM is held.
pub trait HwDebug {
    /// Replaces the set of points. On an error the set stays as it was.
    fn set_points(&self, points: &[HwPoint]) -> Result<(), HwError>;
}

/// When and where something happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// [`Clock::now_ns`].
    pub time_ns: u64,
    /// [`Clock::cpu`].
    pub cpu: usize,
}

/// Time, and the CPU that asks.
pub trait Clock {
    /// Nanoseconds since the hypervisor started; does not stand still with a VM.
    fn now_ns(&self) -> u64;
    /// The physical CPU that calls, from 0. Smaller than `event::MAX_CPUS`.
    fn cpu(&self) -> usize;
    /// From here on this CPU executes code that was written before: a context synchronization event
    /// (Arm ARM B2.4.4), such as an `ISB`.
    fn synchronize(&self);
    /// Both at once.
    fn stamp(&self) -> Stamp {
        Stamp {
            time_ns: self.now_ns(),
            cpu: self.cpu(),
        }
    }
}

/// Starting and ending a VM.
pub trait Lifecycle {
    /// Starts a VM that is ready or off. No effect on one that runs.
    fn start(&self);
    /// Takes the power away: every vCPU goes off.
    fn power_off(&self);
    /// Loads the guest anew and starts it (or leaves it held before its first instruction, where a debugger holds it).
    fn reset(&self);
}

/// One guest, as the debugger sees it.
pub trait Machine:
    RunControl + Registers + PhysMemory + ExecuteView + HwDebug + Clock + Lifecycle + Sync
{
    /// Which VM.
    fn vm(&self) -> VmId;
    /// What a simulation of `instruction` must know of the calling CPU and of the vCPU that has trapped on it. Called on
    /// the hit path. Whoever asks sets the branch target check.
    fn simulation(&self, instruction: u32) -> SimulationFeatures;
    /// Something waits that the server does not hear of otherwise: makes the hypervisor call
    /// [`crate::space::Space::attend`] soon. Called on the hit path, so it neither allocates
    /// nor waits.
    fn notify_server(&self);
    /// The last that the guest has written to its console, oldest byte first; `None` where nobody keeps it.
    fn console(&self) -> Option<Vec<u8>> {
        None
    }
    /// Of the hypervisor: the VM whose guest a physical CPU executes when it is not in the hypervisor.
    fn guest(&self, _cpu: VcpuId) -> Option<&dyn Machine> {
        None
    }
}

/// A guest access that stage 1 or stage 2 would refuse, or that is not RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestFault {
    /// The address that faults.
    pub address: Gva,
}

/// The memory of the vCPU that traps, and what else of it the hit path asks for, on its own physical CPU while it is on
/// the hit path: no allocation, no lock that a stopped CPU can hold.
pub trait LiveMemory {
    /// What tells apart the threads of execution of the vCPU that traps: `SP_EL0` while EL1 runs on
    /// `SP_EL1` (Linux keeps `current` there, `arch/arm64/include/asm/current.h`). 0 otherwise.
    fn task(&self) -> u64;
    /// `ESR_EL2` as the last synchronous exception of a vCPU on this CPU has left it; 0 where there is no
    /// vCPU.
    fn exit_syndrome(&self) -> u64 {
        0
    }
    /// Stores the vCPU's SIMD and floating-point registers as [`FpRegs::as_words`] has them. Where there are none: zeros.
    fn store_fp(&self, place: &[AtomicU64; FpRegs::WORDS]) {
        place
            .iter()
            .for_each(|word| word.store(0, Ordering::Relaxed));
    }
    /// Stores its first system registers, as many as there are places, by number; `core` are its core registers. Where
    /// there are none: zeros.
    fn store_sys(&self, core: &CoreRegs, place: &[AtomicU64]) {
        let _ = core;
        place
            .iter()
            .for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// A system register of the vCPU that traps; `None` where it cannot be read here.
    fn system(&self, register: SysReg) -> Option<u64> {
        let _ = register;
        None
    }
    /// Reads as a load of guest EL1 does. On a fault nothing is promised about `buffer`.
    fn read(&self, gva: Gva, buffer: &mut [u8]) -> Result<(), GuestFault>;
    /// Reads for a debugger, its programs and expressions: whatever EL1 could read with `PSTATE.PAN` clear, as Linux' own
    /// tracers read a process' memory. On a fault nothing is promised about `buffer`.
    fn inspect(&self, gva: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        self.read(gva, buffer)
    }
    /// Writes all of `bytes` with the permissions of guest EL1, or nothing. Refuses pages that carry probes, device
    /// memory, and whatever the vCPU has watchpoints on: such a store is stepped instead.
    fn write(&self, gva: Gva, bytes: &[u8]) -> Result<(), GuestFault>;
}

impl<T: LiveMemory + ?Sized> LiveMemory for &T {
    fn task(&self) -> u64 {
        (**self).task()
    }

    fn exit_syndrome(&self) -> u64 {
        (**self).exit_syndrome()
    }

    fn store_fp(&self, place: &[AtomicU64; FpRegs::WORDS]) {
        (**self).store_fp(place);
    }

    fn store_sys(&self, core: &CoreRegs, place: &[AtomicU64]) {
        (**self).store_sys(core, place);
    }

    fn system(&self, register: SysReg) -> Option<u64> {
        (**self).system(register)
    }

    fn read(&self, gva: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        (**self).read(gva, buffer)
    }

    fn inspect(&self, gva: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        (**self).inspect(gva, buffer)
    }

    fn write(&self, gva: Gva, bytes: &[u8]) -> Result<(), GuestFault> {
        (**self).write(gva, bytes)
    }
}
