//! GICv3 (Arm IHI 0069): distributor, this CPU's redistributor, CPU interface. Everything is in
//! group 1.

use crate::cpu::{self, read_sysreg, write_sysreg};
use crate::platform;

/// SGI that wakes a CPU which waits for work, or for its end.
pub const SGI_WORK: u32 = 1;

const GICD_CTLR: usize = 0x0000;
const GICD_IGROUPR: usize = 0x0080;
const GICD_ISENABLER: usize = 0x0100;
const GICD_IPRIORITYR: usize = 0x0400;
const GICD_IROUTER: usize = 0x6000;
const GICD_CTLR_ENABLE_GROUP1: u32 = 1 << 1;
const GICD_CTLR_AFFINITY_ROUTING: u32 = 1 << 4;
const GICD_CTLR_WRITE_PENDING: u32 = 1 << 31;

const GICR_TYPER: usize = 0x0008;
const GICR_WAKER: usize = 0x0014;
const GICR_STRIDE: usize = 0x2_0000;
/// Offset of a redistributor's frame of SGIs and PPIs.
const GICR_SGI: usize = 0x1_0000;
const GICR_TYPER_LAST: u64 = 1 << 4;
const GICR_WAKER_SLEEP: u32 = 1 << 1;
const GICR_WAKER_ASLEEP: u32 = 1 << 2;

const PRIORITY: u8 = 0xa0;
/// First INTID that is none: 1020 to 1023 are special.
const SPECIAL: u32 = 1020;

fn read32(address: usize) -> u32 {
    // SAFETY: a GIC register, mapped as device memory.
    unsafe { (address as *const u32).read_volatile() }
}

fn read64(address: usize) -> u64 {
    // SAFETY: as for `read32`.
    unsafe { (address as *const u64).read_volatile() }
}

fn write32(address: usize, value: u32) {
    // SAFETY: as for `read32`.
    unsafe { (address as *mut u32).write_volatile(value) }
}

/// Switches the distributor on. Once, on CPU 0.
pub fn init_distributor() {
    let gicd = platform::get().gicd;
    write32(gicd + GICD_CTLR, GICD_CTLR_AFFINITY_ROUTING);
    wait_for_writes(gicd);
    write32(
        gicd + GICD_CTLR,
        GICD_CTLR_AFFINITY_ROUTING | GICD_CTLR_ENABLE_GROUP1,
    );
    wait_for_writes(gicd);
}

fn wait_for_writes(gicd: usize) {
    while read32(gicd + GICD_CTLR) & GICD_CTLR_WRITE_PENDING != 0 {
        cpu::relax();
    }
}

/// Sets up this CPU's redistributor and CPU interface. `false` if it has no redistributor.
pub fn init_cpu() -> bool {
    let Some(gicr) = redistributor() else {
        return false;
    };
    write32(
        gicr + GICR_WAKER,
        read32(gicr + GICR_WAKER) & !GICR_WAKER_SLEEP,
    );
    while read32(gicr + GICR_WAKER) & GICR_WAKER_ASLEEP != 0 {
        cpu::relax();
    }
    write32(gicr + GICR_SGI + GICD_IGROUPR, u32::MAX);
    // SAFETY: the interrupts that become possible have handlers.
    unsafe {
        write_sysreg!("S3_0_C12_C12_5", 7); // ICC_SRE_EL1: system registers
        write_sysreg!("S3_0_C4_C6_0", 0xff); // ICC_PMR_EL1: every priority
        write_sysreg!("S3_0_C12_C12_7", 1); // ICC_IGRPEN1_EL1
    }
    true
}

/// The redistributor whose affinity is this CPU's.
fn redistributor() -> Option<usize> {
    let mpidr = read_sysreg!("MPIDR_EL1");
    let affinity = mpidr & 0xff_ffff | (mpidr >> 32 & 0xff) << 24;
    let mut gicr = platform::get().gicr;
    loop {
        let typer = read64(gicr + GICR_TYPER);
        if typer >> 32 == affinity {
            return Some(gicr);
        }
        if typer & GICR_TYPER_LAST != 0 {
            return None;
        }
        gicr += GICR_STRIDE;
    }
}

/// Enables an interrupt; one that is shared goes to this CPU.
pub fn enable(intid: u32) {
    let (base, index) = if intid < 32 {
        let Some(gicr) = redistributor() else { return };
        (gicr + GICR_SGI, intid as usize)
    } else {
        let gicd = platform::get().gicd;
        let index = intid as usize;
        let group = gicd + GICD_IGROUPR + index / 32 * 4;
        write32(group, read32(group) | 1 << (index % 32));
        let route = read_sysreg!("MPIDR_EL1") & 0xff_00ff_ffff;
        // SAFETY: a GIC register, mapped as device memory.
        unsafe { ((gicd + GICD_IROUTER + index * 8) as *mut u64).write_volatile(route) };
        (gicd, index)
    };
    // SAFETY: priority registers are accessible by byte.
    unsafe { ((base + GICD_IPRIORITYR + index) as *mut u8).write_volatile(PRIORITY) };
    write32(base + GICD_ISENABLER + index / 32 * 4, 1 << (index % 32));
}

/// Sends an SGI to the CPU of `affinity`.
pub fn send(sgi: u32, affinity: u64) {
    let aff0 = affinity & 0xf;
    let clusters = (affinity >> 8 & 0xff) << 16 | (affinity >> 16 & 0xff) << 32;
    let value = u64::from(sgi) << 24 | clusters | 1 << aff0;
    // SAFETY: a barrier, so that the work is seen before the interrupt, and an SGI that every CPU
    // handles.
    unsafe {
        core::arch::asm!("dsb ishst", options(nostack));
        write_sysreg!("S3_0_C12_C11_5", value); // ICC_SGI1R_EL1
    }
}

/// Takes the interrupt that is pending. `None` if it went away.
pub fn acknowledge() -> Option<u32> {
    let intid = read_sysreg!("S3_0_C12_C12_0") as u32 & 0xff_ffff; // ICC_IAR1_EL1
    (intid < SPECIAL).then_some(intid)
}

/// Ends an interrupt that [`acknowledge`] gave.
pub fn end(intid: u32) {
    // SAFETY: every acknowledged interrupt is ended once.
    unsafe { write_sysreg!("S3_0_C12_C12_1", intid) }; // ICC_EOIR1_EL1
}
