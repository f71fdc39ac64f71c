//! The physical GICv3.
//!
//! EL2 takes every interrupt of the machine (`HCR_EL2.IMO`, `FMO`). EOI mode 1 splits priority drop from deactivation:
//! an interrupt that is handed to a guest with a hardware-linked list register is only dropped here, and the guest's own
//! end-of-interrupt deactivates it.

use crate::platform::Platform;
use crate::{cpu, sysreg};
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicV3, SgiTarget, SgiTargetGroup};
use arm_gic::{IntId, InterruptGroup, Trigger, UniqueMmioPointer};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// Makes a CPU look at its vCPU's requests: holds, power, new virtual interrupts.
pub const SGI_KICK: u32 = 1;
/// Makes the service CPU look for work (service.rs).
pub const SGI_SERVICE: u32 = 2;
/// Stops a CPU, whatever its EL2 code is doing (rendezvous.rs).
pub const SGI_STOP: u32 = 3;
/// PPI of the maintenance interrupt of the virtual CPU interface.
pub const PPI_MAINTENANCE: u32 = 25;
/// PPI of the EL2 physical timer.
pub const PPI_HYP_TIMER: u32 = 26;
/// PPI of the EL1 virtual timer.
pub const PPI_VIRTUAL_TIMER: u32 = 27;

/// Priority of the stop interrupt. Smaller numbers come first; all of ours differ in the upper four bits, which every
/// GIC implements in either security state's view (GICv3 4.8.6).
const PRIORITY_STOP: u8 = 0x20;
/// Priority of the debug channels' devices: they are waited for while everything else stands.
const PRIORITY_CHANNEL: u8 = 0x60;
/// Priority of everything else.
const PRIORITY: u8 = 0xa0;

/// What `ICC_PMR_EL1` lets pass to this CPU (masking.rs).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum PriorityMask {
    /// Every interrupt.
    Open = 0xf0,
    /// The stop interrupt and those of the debug channels.
    ChannelsOnly = 0x80,
    /// The stop interrupt alone.
    StopOnly = 0x40,
}

/// Address of the SGI frame of each CPU's redistributor.
static SGI_FRAMES: [AtomicU64; cpu::MAX_CPUS] = [const { AtomicU64::new(0) }; cpu::MAX_CPUS];
/// Address of the first redistributor.
static REDISTRIBUTORS: AtomicU64 = AtomicU64::new(0);
/// Size of a GICv3 redistributor: RD and SGI frame.
const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
/// Offset of the SGI frame in it.
const SGI_FRAME: u64 = 0x1_0000;

static GIC: Mutex<Option<GicV3<'static>>> = Mutex::new(None);

/// Sets up the distributor and this CPU's interface. Boot CPU, once.
///
/// # Safety
///
/// `platform` names the GIC's real registers, mapped as device memory, and nobody else drives them.
pub unsafe fn init(platform: &Platform) {
    let gicd = NonNull::new(platform.gicd.start as *mut Gicd).expect("a distributor address");
    let gicr = NonNull::new(platform.gicr.start as *mut GicrSgi).expect("a redistributor address");
    let cpus = platform.cpus.len();
    // SAFETY: forwarded to the caller.
    let mut gic = unsafe { GicV3::new(UniqueMmioPointer::new(gicd), gicr, cpus) }
        .expect("redistributors as the GICv3 architecture lays them out");
    REDISTRIBUTORS.store(platform.gicr.start, Ordering::Relaxed);
    GicCpuInterface::enable_system_register_el2(true);
    gic.setup(0);
    *GIC.lock() = Some(gic);
    init_cpu(0);
}

/// `HCR_EL2`: RW, and IMO, FMO, AMO. Without these an interrupt is EL1's, and pending for ever while EL2 executes.
const HCR: u64 = 1 << 31 | 1 << 3 | 1 << 4 | 1 << 5;

/// Sets up the calling CPU's interface and private interrupts.
pub fn init_cpu(index: usize) {
    GicCpuInterface::enable_system_register_el2(true);
    // SAFETY: routes interrupts to EL2, which masks them; EL2's own execution does not depend on the rest.
    unsafe { sysreg::write!("hcr_el2", HCR) };
    sysreg::isb();
    let own = redistributor_of_this_cpu();
    let frame =
        REDISTRIBUTORS.load(Ordering::Relaxed) + own as u64 * REDISTRIBUTOR_SIZE + SGI_FRAME;
    SGI_FRAMES[index].store(frame, Ordering::Relaxed);
    let mut guard = GIC.lock();
    let gic = guard.as_mut().expect("gic::init has run");
    gic.init_cpu(own);
    GicCpuInterface::enable_group1(true);
    set_priority_mask(PriorityMask::Open);
    // SAFETY: EOImode 1, see the module's head; no memory is concerned.
    unsafe { sysreg::write!("icc_ctlr_el1", 1 << 1) };
    enable_private(gic, own, IntId::sgi(SGI_STOP), PRIORITY_STOP);
    for sgi in [SGI_KICK, SGI_SERVICE] {
        enable_private(gic, own, IntId::sgi(sgi), PRIORITY);
    }
    for ppi in [PPI_MAINTENANCE, PPI_HYP_TIMER, PPI_VIRTUAL_TIMER] {
        enable_private(gic, own, IntId::ppi(ppi - 16), PRIORITY);
    }
}

fn enable_private(gic: &mut GicV3<'_>, own: usize, intid: IntId, priority: u8) {
    gic.set_interrupt_priority(intid, Some(own), priority)
        .expect("a private interrupt");
    gic.enable_interrupt(intid, Some(own), true)
        .expect("a private interrupt");
}

/// Redistributors need not come in our order of CPUs: GICR_TYPER tells whose each is.
fn redistributor_of_this_cpu() -> usize {
    let affinity = sysreg::read!("mpidr_el1") & 0xff_00ff_ffff;
    let mut guard = GIC.lock();
    let gic = guard.as_mut().expect("gic::init has run");
    (0..cpu::MAX_CPUS)
        .find(|&index| {
            gic.gicr_typer(index)
                .is_ok_and(|typer| typer.core_mpidr() == affinity)
        })
        .unwrap_or(0)
}

/// Enables the interrupt of a debug channel's device, delivered to the CPU with `affinity`.
pub fn enable_channel_spi(intid: u32, affinity: u64) {
    let mut guard = GIC.lock();
    let gic = guard.as_mut().expect("gic::init has run");
    let id = IntId::spi(intid - 32);
    let distributor = gic.distributor();
    let done = distributor
        .set_interrupt_priority(id, PRIORITY_CHANNEL)
        .and_then(|()| distributor.set_trigger(id, Trigger::Edge))
        .and_then(|()| distributor.set_routing(id, Some(affinity)))
        .and_then(|()| distributor.enable_interrupt(id, true));
    if done.is_err() {
        log::error!("SPI {intid} cannot be enabled");
    }
}

/// Sends software-generated interrupt `sgi` to a CPU.
pub fn send(target: &cpu::Cpu, sgi: u32) {
    let affinity = target.affinity.load(Ordering::Relaxed);
    sysreg::dsb_ish();
    let target = SgiTarget::List {
        affinity3: 0,
        affinity2: (affinity >> 16) as u8,
        affinity1: (affinity >> 8) as u8,
        target_list: 1 << (affinity & 0xf),
    };
    let _ = GicCpuInterface::send_sgi(IntId::sgi(sgi), target, SgiTargetGroup::CurrentGroup1);
    sysreg::isb();
}

/// What this CPU lets pass.
pub fn priority_mask() -> PriorityMask {
    const CHANNELS_ONLY: u64 = PriorityMask::ChannelsOnly as u64;
    const STOP_ONLY: u64 = PriorityMask::StopOnly as u64;
    match sysreg::read!("icc_pmr_el1") & 0xf0 {
        STOP_ONLY => PriorityMask::StopOnly,
        CHANNELS_ONLY => PriorityMask::ChannelsOnly,
        _ => PriorityMask::Open,
    }
}

/// Changes what this CPU lets pass.
pub fn set_priority_mask(mask: PriorityMask) {
    // SAFETY: no memory is concerned; what may be taken when is masking.rs' to know.
    unsafe { sysreg::write!("icc_pmr_el1", mask as u64) };
    sysreg::isb();
}

/// The next pending interrupt that the priority mask lets pass, acknowledged.
pub fn acknowledge() -> Option<u32> {
    GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1).map(u32::from)
}

/// Priority drop: other interrupts may come, this one stays active.
pub fn drop_priority(intid: u32) {
    // SAFETY: ends an interrupt that this CPU has acknowledged; no memory is concerned.
    unsafe { sysreg::write!("icc_eoir1_el1", u64::from(intid)) };
}

/// Deactivates a private interrupt of this CPU, whether it is active or not: what it was handed to has gone.
pub fn clear_active(intid: u32) {
    /// `GICR_ICACTIVER0`, in the SGI frame.
    const ICACTIVER0: u64 = 0x380;
    let frame = SGI_FRAMES[cpu::this().index].load(Ordering::Relaxed);
    // SAFETY: the SGI frame of this CPU's redistributor, mapped as device memory; write-one-to-clear bits of private
    // interrupts.
    unsafe { core::ptr::write_volatile((frame + ICACTIVER0) as *mut u32, 1 << intid) };
}

/// Deactivation: this interrupt may come again.
pub fn deactivate(intid: u32) {
    // SAFETY: as above.
    unsafe { sysreg::write!("icc_dir_el1", u64::from(intid)) };
}
