//! Probes on the hypervisor's own code.
//!
//! # A hit
//!
//! The probe instruction is `BRK` ([`probes::own_code`]). It comes to `handle_el2_exception` like any exception of EL2's
//! own, and from there to [`hit`]: the space's programs run on the interrupted registers, and the displaced instruction
//! executes, simulated where it depends on its own address and otherwise in its *slot*: two words of text, the instruction
//! and a branch to the one after it in the function. The CPU enters the slot by the `ERET` of the same exception, so there
//! is no second trap, the stack is the interrupted one, and what the instruction does to memory or to devices it does
//! itself.
//!
//! # Hits inside a probe
//!
//! While a CPU serves a hit, of a guest's probe or of one here, it may come upon another probe: on a function that reads
//! a guest's memory, say. Then nothing runs: the hit is counted as missed and passed. That way uses no lock and nothing
//! but this module, `probes` and what these call, none of which can be probed ([`PROBEABLE`]): so it comes to an end at
//! any depth.
//!
//! # Changing text
//!
//! [`arm`] and [`disarm`] run with every other CPU at rest (rendezvous.rs). One that rests may be about to execute the word
//! that changes, which then is the new one, but never in the middle of a hit, which no interrupt comes in between of. One
//! that rests in the slot of a site that goes away continues in the function.

use crate::own_memory::OwnMemory;
use crate::vectors::Frame;
use crate::{cpu, debugger, esr, rendezvous, sysreg, text, time};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use probes::a64::{
    BranchTargetCheck, DataAccess, Execution, SimulationFeatures, execution, simulate,
};
use probes::engine::{HVC_BASE, HitOutcome, Trap};
use probes::machine::VcpuId;
use probes::own_code::Probeable;
use probes::regs::CoreRegs;
use probes::space::{MAX_SITES, Space};
use spin::Once;

/// What can be probed: our own code and that of the emulated devices, without what a hit or a change of text needs. Other
/// crates cannot: `probes`, `ebpf`, `stub` and theirs serve probes, and the standard library serves them all.
pub const PROBEABLE: Probeable = Probeable {
    crates: &["hypervisor", "devices"],
    except: &[
        "hypervisor::backtrace",
        "hypervisor::boot",
        "hypervisor::console_log",
        "hypervisor::cpu",
        "hypervisor::debugger",
        "hypervisor::el2",
        "hypervisor::esr",
        "hypervisor::gic",
        "hypervisor::heap",
        "hypervisor::hprobes",
        "hypervisor::hyp",
        "hypervisor::ksyms",
        "hypervisor::lock",
        "hypervisor::masking",
        "hypervisor::mmu",
        "hypervisor::native",
        "hypervisor::own_memory",
        "hypervisor::own_step",
        "hypervisor::own_sys",
        "hypervisor::panic",
        "hypervisor::rendezvous",
        "hypervisor::sysreg",
        "hypervisor::text",
        "hypervisor::time",
        "hypervisor::trace",
        "hypervisor::vectors",
        "devices::mmio",
        "devices::virtio",
    ],
    unmangled: &["handle_guest_exit"],
};

/// Bytes of a slot: the displaced instruction and the branch back.
const SLOT_SIZE: u64 = 8;

global_asm!(
    r#"
    .section .text.slots, "ax"
    .balign 8
    .global hprobe_slots
hprobe_slots:
    .fill   2 * {SITES}, 4, 0xd4200000      // BRK #0: nobody goes there yet
    .text
    "#,
    SITES = const MAX_SITES,
);

/// One site, for the way of a hit: what it needs without the space's table.
struct Site {
    /// Its address, 0 where the slot is free.
    address: AtomicU64,
    /// The instruction that the `BRK` displaces.
    displaced: AtomicU32,
}

static SITES: [Site; MAX_SITES] = [const {
    Site {
        address: AtomicU64::new(0),
        displaced: AtomicU32::new(0),
    }
}; MAX_SITES];

static SPACE: Once<&'static Space> = Once::new();

/// Tells the way of a hit its space. Once.
pub fn init(space: &'static Space) {
    SPACE.call_once(|| space);
}

/// Serves the exception of a probe. `false`: it is none.
pub fn hit(frame: &mut Frame) -> bool {
    let immediate = esr::iss(frame.syndrome) as u16;
    let slot = usize::from(immediate.wrapping_sub(HVC_BASE));
    let (Some(site), Some(space)) = (SITES.get(slot), SPACE.get()) else {
        return false;
    };
    let is_brk = esr::class(frame.syndrome) == esr::ec::BRK;
    if !is_brk || site.address.load(Ordering::Relaxed) != frame.regs.pc {
        return false;
    }
    let displaced = site.displaced.load(Ordering::Relaxed);
    let cpu = cpu::this();
    let outcome = match cpu.enter_probe() {
        Some(_inside) => space.hit(immediate, &mut trap(cpu.index, &mut frame.regs)),
        None => {
            space.hit_inside_probe(immediate);
            HitOutcome::NotOurs
        }
    };
    match outcome {
        HitOutcome::Resume => {}
        HitOutcome::Step => frame.regs.pc = slot_address(slot),
        HitOutcome::Stop(reason) => {
            debugger::stop(frame, reason);
            leave_stop(frame);
        }
        HitOutcome::NotOurs | HitOutcome::Breakpoint { .. } => {
            pass(frame, slot, displaced);
        }
    }
    true
}

/// A step of the debugger's comes to `regs.pc` on CPU `index`: what [`hit`] does where a site is, and nothing is displaced
/// where it says `NotOurs`. `Step`: the displaced instruction has to execute for real.
pub fn hit_by_step(index: usize, regs: &mut CoreRegs) -> HitOutcome {
    let is_here = |site: &Site| site.address.load(Ordering::Relaxed) == regs.pc;
    let (Some(slot), Some(space)) = (SITES.iter().position(is_here), SPACE.get()) else {
        return HitOutcome::NotOurs;
    };
    let mut trap = trap(index, regs);
    // Where it stands at a site that the debugger has been told of.
    match space.pass(&mut trap) {
        HitOutcome::NotOurs => space.hit(HVC_BASE + slot as u16, &mut trap),
        outcome => outcome,
    }
}

/// The debugger lets this CPU go on from `frame`. Where it still stands at a site that it has been told of, what is displaced
/// there executes and is no hit.
fn leave_stop(frame: &mut Frame) {
    let pc = frame.regs.pc;
    let is_here = |site: &Site| site.address.load(Ordering::Relaxed) == pc;
    let (Some(slot), Some(space)) = (SITES.iter().position(is_here), SPACE.get()) else {
        return;
    };
    let cpu = cpu::this();
    let Some(_inside) = cpu.enter_probe() else {
        return;
    };
    let outcome = space.pass(&mut trap(cpu.index, &mut frame.regs));
    // Otherwise it has executed, or nothing was displaced here when the CPU stopped: then it comes to the site now.
    if outcome == HitOutcome::Step {
        frame.regs.pc = slot_address(slot);
    }
}

/// What CPU `index` meets.
fn trap(index: usize, regs: &mut CoreRegs) -> Trap<'_> {
    Trap {
        vcpu: VcpuId(index as u8),
        regs,
        memory: &OwnMemory,
        stamp: time::stamp(),
    }
}

/// Goes on behind the site: the displaced instruction executes, and nothing else.
fn pass(frame: &mut Frame, slot: usize, displaced: u32) {
    if execution(displaced) == Ok(Execution::Simulated) {
        // What depends on its address is simulated whatever the registers hold (a test of `execution` has it so).
        let _ = simulate(displaced, &mut frame.regs, &OwnMemory, &features(displaced));
    } else {
        frame.regs.pc = slot_address(slot);
    }
}

/// Loads of literals are simulated, as all that depends on its address; the others execute out of line.
pub fn features(displaced: u32) -> SimulationFeatures {
    let data = if execution(displaced) == Ok(Execution::Simulated) {
        DataAccess::Simulated
    } else {
        DataAccess::Stepped
    };
    SimulationFeatures {
        bti: sysreg::read!("id_aa64pfr1_el1") & 0xf != 0,
        // SCTLR_EL2.EnIA and the like are clear: to us PACIASP is a NOP.
        pauth: false,
        data,
        branch_target: BranchTargetCheck::Passed,
    }
}

fn slots() -> u64 {
    unsafe extern "C" {
        static hprobe_slots: u8;
    }
    &raw const hprobe_slots as u64
}

fn slot_address(slot: usize) -> u64 {
    slots() + slot as u64 * SLOT_SIZE
}

/// The address in the function that a PC in a slot stands for; any other PC is what it is.
pub fn address_of(pc: u64) -> u64 {
    let offset = pc.wrapping_sub(slots());
    match SITES.get((offset / SLOT_SIZE) as usize) {
        Some(site) => site.address.load(Ordering::Relaxed) + offset % SLOT_SIZE,
        None => pc,
    }
}

/// The instruction of the hypervisor's own at `address`, whatever probe is there.
pub fn original(address: u64) -> Option<u32> {
    let is_here = |site: &&Site| site.address.load(Ordering::Relaxed) == address;
    match SITES.iter().find(is_here) {
        Some(site) => Some(site.displaced.load(Ordering::Relaxed)),
        None => text::read(address),
    }
}

/// Calls `visit` with the address and the instruction of every word that a probe displaces.
pub fn each_displaced(mut visit: impl FnMut(u64, u32)) {
    for site in &SITES {
        let address = site.address.load(Ordering::Relaxed);
        if address != 0 {
            visit(address, site.displaced.load(Ordering::Relaxed));
        }
    }
}

/// How many sites are armed.
pub fn count() -> usize {
    let is_armed = |site: &&Site| site.address.load(Ordering::Relaxed) != 0;
    SITES.iter().filter(is_armed).count()
}

/// Puts `instruction`, the `BRK` of a free slot, into the word at `address`. `None`: that is no word of text.
///
/// # Safety
///
/// All other CPUs are at rest, and the word there can execute in its slot or by simulation.
pub unsafe fn arm(address: u64, instruction: u32) -> Option<()> {
    let slot = usize::from(((instruction >> 5) as u16).wrapping_sub(HVC_BASE));
    let site = SITES.get(slot)?;
    let displaced = original(address)?;
    let place = slot_address(slot);
    let back = branch(place + 4, address + 4)?;
    site.displaced.store(displaced, Ordering::Relaxed);
    site.address.store(address, Ordering::Relaxed);
    // SAFETY: the slot is free and the others are at rest, so nobody executes what changes; the `BRK` is ours to serve.
    unsafe {
        text::write(place, displaced);
        text::write(place + 4, back);
        text::write(address, instruction);
    }
    Some(())
}

/// Puts the instruction at `address` back, if a probe has displaced it.
///
/// # Safety
///
/// All other CPUs are at rest.
pub unsafe fn disarm(address: u64) {
    let is_here = |site: &Site| site.address.load(Ordering::Relaxed) == address;
    let Some(slot) = SITES.iter().position(is_here) else {
        return;
    };
    let site = &SITES[slot];
    // SAFETY: the word was there before, and nobody executes it now.
    unsafe { text::write(address, site.displaced.load(Ordering::Relaxed)) };
    let place = slot_address(slot)..slot_address(slot + 1);
    for index in 0..cpu::MAX_CPUS {
        rendezvous::with_frame(index, |frame| {
            if place.contains(&frame.regs.pc) {
                frame.regs.pc = address_of(frame.regs.pc);
            }
        });
    }
    site.address.store(0, Ordering::Relaxed);
}

/// `B` from one word of text to another.
fn branch(from: u64, to: u64) -> Option<u32> {
    let words = to.wrapping_sub(from) as i64 / 4;
    let in_range = (-(1 << 25)..1 << 25).contains(&words);
    in_range.then_some(0x1400_0000 | words as u32 & 0x03ff_ffff)
}
