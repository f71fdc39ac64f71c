//! Physical interrupts, and the virtual ones that they become.
//!
//! A guest's interrupts live in its [`Vgic`] and, for the vCPU of this CPU, in the list registers. Nothing is folded back
//! or refilled on ordinary exits: whoever changes the virtual GIC goes through [`update`], which does sync, change and
//! flush in one go; a vCPU on another CPU is kicked and does its own.

use crate::trace::{self, About, trace};
use crate::vcpu::Vcpu;
use crate::{cpu, gic, masking, rendezvous, service, sysreg, time};
use ::tracepoints::{IrqHandle, IrqInject};
use devices::vgic::{Delivery, ListRegs, PhysicalTimer, VcpuMask, Vgic};
use probes::machine::Power;

/// `CNTV_CTL_EL0`: ENABLE and ISTATUS set, IMASK clear.
const TIMER_ASSERTED: u64 = 0b101;
const TIMER_BITS: u64 = 0b111;

/// Handles every interrupt that is pending on this CPU. `vcpu` is the one that lives here.
pub fn serve(vcpu: Option<&'static Vcpu>) {
    // The list registers of a vCPU that is off are of a life that has ended: they must not get into the virtual GIC, which
    // may have been reset for the next.
    let vcpu = vcpu.filter(|vcpu| vcpu.power() == Power::On);
    while let Some(intid) = acknowledge() {
        let about = About::here(vcpu);
        let intid_field = u64::from(intid);
        trace!(about, ExternalInterrupt { intid: intid_field });
        let began = trace::begin::<IrqHandle>();
        handle(intid, vcpu);
        trace!(about, IrqHandle { intid: intid_field }, trace::since(began));
    }
}

/// Handles an interrupt that has been acknowledged.
fn handle(intid: u32, vcpu: Option<&'static Vcpu>) {
    match (intid, vcpu) {
        // Stays active until the guest deactivates it through its list register, or `update` says so.
        (gic::PPI_VIRTUAL_TIMER, Some(vcpu)) => {
            trace!(
                About::Vcpu(vcpu),
                TimerEvent {
                    deadline: sysreg::read!("cntv_cval_el0"),
                    late: time::guest_timer_lateness(),
                }
            );
            update(vcpu, |vgic, index| vgic.timer_fired(index));
            return;
        }
        (gic::PPI_VIRTUAL_TIMER, None) => {
            // Nobody's timer: switch it off, or it fires for ever.
            // SAFETY: no vCPU uses it.
            unsafe { sysreg::write!("cntv_ctl_el0", 0) };
        }
        (gic::SGI_KICK | gic::PPI_MAINTENANCE, Some(vcpu)) => {
            gic::deactivate(intid);
            update(vcpu, |_, _| VcpuMask::NONE);
            return;
        }
        (gic::PPI_HYP_TIMER, _) => {
            trace!(
                About::Hypervisor,
                TimerTick {
                    late: time::timer_lateness(),
                }
            );
            time::stop_timer();
            service::tick();
        }
        (gic::SGI_STOP, _) => {
            gic::deactivate(intid);
            rendezvous::obey();
            return;
        }
        (intid, _) if intid >= 32 => service::device_interrupt(intid),
        _ => {}
    }
    gic::deactivate(intid);
}

/// The next interrupt of any priority, acknowledged and dropped to let others come.
fn acknowledge() -> Option<u32> {
    masking::with_priority_mask(gic::PriorityMask::Open, || {
        let intid = gic::acknowledge()?;
        gic::drop_priority(intid);
        Some(intid)
    })
}

/// Changes the virtual GIC of `vcpu`, which lives on this CPU, and brings its list registers up to date.
pub fn update(vcpu: &'static Vcpu, change: impl FnOnce(&mut Vgic, usize) -> VcpuMask) {
    let index = usize::from(vcpu.id.0);
    let mut regs = read_list_registers();
    let before = trace::is_on::<IrqInject>().then_some(regs);
    let kick = {
        let mut vgic = vcpu.vm().vgic.lock();
        let after_sync = vgic.sync(index, &regs);
        let after_change = change(&mut vgic, index);
        let timer = sysreg::read!("cntv_ctl_el0");
        vgic.timer_sample(index, timer & TIMER_BITS == TIMER_ASSERTED);
        if vgic.flush(index, &mut regs, vcpu.delivery()) == PhysicalTimer::Deactivate {
            gic::deactivate(gic::PPI_VIRTUAL_TIMER);
        }
        VcpuMask(after_sync.0 | after_change.0)
    };
    write_list_registers(&regs);
    if let Some(before) = before {
        trace_injections(vcpu, &before, &regs);
    }
    vcpu.vm().kick(kick, Some(vcpu));
}

/// Tells which interrupts a vCPU is given that it was not given before.
#[cold]
fn trace_injections(vcpu: &Vcpu, before: &ListRegs, now: &ListRegs) {
    for (intid, priority) in now.pending() {
        let was_there = before.pending().any(|(other, _)| other == intid);
        if !was_there {
            let (intid, priority) = (intid.into(), priority.into());
            trace!(About::Vcpu(vcpu), IrqInject { intid, priority });
        }
    }
}

/// Turns this CPU's virtual CPU interface to what a guest finds after reset.
pub fn reset_cpu_interface() {
    let mut regs = ListRegs::new(list_register_count());
    regs.hcr = devices::vgic::hcr::EN;
    write_list_registers(&regs);
    // The last guest may have gone with its timer interrupt in a list register: nobody would deactivate it.
    gic::clear_active(gic::PPI_VIRTUAL_TIMER);
    // SAFETY: the guest's interrupt state only.
    unsafe {
        sysreg::write!("ich_vmcr_el2", 0);
        sysreg::write!("ich_ap0r0_el2", 0);
        sysreg::write!("ich_ap1r0_el2", 0);
    }
}

/// Which interrupts a vCPU may take while it executes one instruction for us.
pub fn delivery_for_step(interrupts_masked: bool) -> Delivery {
    if interrupts_masked {
        Delivery::Normal
    } else {
        Delivery::Withheld
    }
}

/// Makes the vCPU on `cpu` look at its requests.
pub fn kick(target: &cpu::Cpu) {
    gic::send(target, gic::SGI_KICK);
}

fn list_register_count() -> usize {
    (sysreg::read!("ich_vtr_el2") & 0x1f) as usize + 1
}

macro_rules! list_registers {
    ($($index:literal $name:literal,)*) => {
        fn read_list_registers() -> ListRegs {
            let count = list_register_count();
            let mut regs = ListRegs::new(count);
            $(if $index < count { regs.lr[$index] = sysreg::read!($name); })*
            regs.hcr = sysreg::read!("ich_hcr_el2");
            regs
        }

        fn write_list_registers(regs: &ListRegs) {
            // SAFETY: the guest's interrupt state only.
            unsafe {
                $(if $index < regs.count { sysreg::write!($name, regs.lr[$index]); })*
                sysreg::write!("ich_hcr_el2", regs.hcr);
            }
        }
    };
}

list_registers! {
    0 "ich_lr0_el2", 1 "ich_lr1_el2", 2 "ich_lr2_el2", 3 "ich_lr3_el2",
    4 "ich_lr4_el2", 5 "ich_lr5_el2", 6 "ich_lr6_el2", 7 "ich_lr7_el2",
    8 "ich_lr8_el2", 9 "ich_lr9_el2", 10 "ich_lr10_el2", 11 "ich_lr11_el2",
    12 "ich_lr12_el2", 13 "ich_lr13_el2", 14 "ich_lr14_el2", 15 "ich_lr15_el2",
}
