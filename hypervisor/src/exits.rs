//! Exits: what the guest did that needs EL2.
//!
//! A hit of a probe comes first and touches as little as possible. Everything else is rare by comparison: interrupts, the
//! guest's calls, its accesses to emulated devices, faults of the run view, and debug exceptions while the debugger uses the
//! debug registers.

use crate::hwdebug::{DebugRegister, mdscr};
use crate::inject::{self, Access};
use crate::live::{self, Stage1};
use crate::masking::Window;
use crate::step::{self, Progress, Purpose};
use crate::trace::{self, About, trace};
use crate::vcpu::{Resident, Turn, Vcpu};
use crate::vectors::{Frame, kind};
use crate::vm::{GICD, UART};
use crate::{PERISCOPE, cost, cpu, esr, interrupts, psci, service, sysreg};
use ::tracepoints::{Hypercall, PageFault, VcpuRunEnter, VcpuRunExit};
use log::{error, warn};
use probes::addr::{Gpa, Gva};
use probes::engine::{HVC_BASE, HitOutcome, QuickHit, Trap};
use probes::regs::{CoreRegs, pstate};
use probes::space::{MAX_SITES, Space};
use probes::view::{self, Fault};

/// Where every exception from a guest ends up (vectors.rs).
#[unsafe(no_mangle)]
extern "C" fn handle_guest_exit(frame: &mut Frame, which: u64) {
    let quick = match which {
        kind::SYNC => quick_hit(frame),
        _ => QuickHit::NotQuick,
    };
    match quick {
        QuickHit::Over => {}
        QuickHit::NotQuick => {
            let vcpu = serve_exit(frame, which);
            trace_entry(vcpu, frame);
        }
        QuickHit::Stop => stop_at_hit(frame),
    }
}

/// The way of most hits, with no call on it but the program's, and so few registers to save.
#[inline(always)]
fn quick_hit(frame: &mut Frame) -> QuickHit {
    let cpu = cpu::this();
    let (Some(immediate), Some(resident)) = (probe_of(frame.syndrome), cpu.resident.get()) else {
        return QuickHit::NotQuick;
    };
    let is_traced = trace::is_on::<VcpuRunExit>() || trace::is_on::<VcpuRunEnter>();
    if is_traced || !resident.is_undisturbed() {
        return QuickHit::NotQuick;
    }
    // A probe on what the hit needs of the hypervisor does not run.
    cpu.begin_probe();
    let outcome = resident.quick_hit(immediate, &mut frame.regs);
    cpu.end_probe();
    outcome
}

/// A quick hit stops the VM.
#[cold]
#[inline(never)]
fn stop_at_hit(frame: &mut Frame) {
    let vcpu = resident().vcpu;
    let window = Window::open();
    step::finish_hit(vcpu, frame, QuickHit::STOP);
    drop(window);
    vcpu.before_entry(frame);
    trace_entry(vcpu, frame);
}

/// What lives on this CPU, from which an exit has come.
fn resident() -> &'static Resident {
    match cpu::this().resident.get() {
        Some(resident) => resident,
        None => panic!("an exit from a guest on a CPU without one"),
    }
}

/// An exit that is no quick hit. Returns the vCPU.
#[inline(never)]
fn serve_exit(frame: &mut Frame, which: u64) -> &'static Vcpu {
    let resident = resident();
    let vcpu = resident.vcpu;
    trace_exit(vcpu, frame, which);
    let is_hit = which == kind::SYNC && probe_hit(resident, frame);
    if !is_hit {
        serve_other(vcpu, frame, which);
    }
    vcpu.before_entry(frame);
    vcpu
}

/// An exit that is no hit.
#[inline(never)]
fn serve_other(vcpu: &'static Vcpu, frame: &mut Frame, which: u64) {
    let _window = Window::open();
    match which {
        kind::SYNC => synchronous(vcpu, frame),
        kind::SERROR => {
            error!(
                "{}/vcpu{}: SError, ESR {:#x}",
                vcpu.vm().name(),
                vcpu.id.0,
                frame.syndrome
            );
        }
        _ => {
            interrupts::serve(Some(vcpu));
            step::after_interrupt(vcpu, frame);
        }
    }
}

#[inline(always)]
fn trace_exit(vcpu: &'static Vcpu, frame: &Frame, which: u64) {
    if trace::is_on::<VcpuRunExit>() {
        tell_exit(vcpu, frame, which);
    }
}

#[cold]
#[inline(never)]
fn tell_exit(vcpu: &'static Vcpu, frame: &Frame, which: u64) {
    let duration = trace::since(vcpu.set_turn(Turn::Hypervisor));
    let syndrome = if which == kind::SYNC {
        frame.syndrome
    } else {
        0
    };
    let event = VcpuRunExit {
        vector: which,
        class: esr::class(syndrome),
        pc: frame.regs.pc,
        syndrome,
    };
    trace::fire(About::Guest(vcpu, &frame.regs), event, duration);
}

/// The vCPU enters its guest.
#[inline(always)]
pub fn trace_entry(vcpu: &'static Vcpu, frame: &Frame) {
    if trace::is_on::<VcpuRunEnter>() {
        tell_entry(vcpu, frame);
    }
}

#[cold]
#[inline(never)]
fn tell_entry(vcpu: &'static Vcpu, frame: &Frame) {
    let duration = trace::since(vcpu.set_turn(Turn::Guest));
    let event = VcpuRunEnter {
        pc: frame.regs.pc,
        pstate: frame.regs.pstate,
    };
    trace::fire(About::Guest(vcpu, &frame.regs), event, duration);
}

fn synchronous(vcpu: &'static Vcpu, frame: &mut Frame) {
    let syndrome = frame.syndrome;
    let progress = match esr::class(syndrome) {
        esr::ec::HVC => hypercall(vcpu, frame, syndrome),
        esr::ec::SMC => {
            traced_call(vcpu, frame, psci::secure_call);
            skip(frame, syndrome);
            Progress::Done
        }
        esr::ec::SYSREG => system_register(vcpu, frame, syndrome),
        esr::ec::DATA_ABORT | esr::ec::INSTRUCTION_ABORT => abort(vcpu, frame, syndrome),
        esr::ec::SOFTWARE_STEP | esr::ec::BREAKPOINT | esr::ec::WATCHPOINT | esr::ec::BRK => {
            debug(vcpu, frame, syndrome)
        }
        // Traps only while we step the instruction (step.rs): then it is a NOP.
        esr::ec::WFX => {
            skip(frame, syndrome);
            Progress::Done
        }
        _ => {
            warn!(
                "{}/vcpu{}: {} at {:#x}, ESR {syndrome:#x}: made undefined",
                vcpu.vm().name(),
                vcpu.id.0,
                esr::describe(syndrome),
                frame.regs.pc
            );
            inject::undefined(&mut frame.regs);
            Progress::Done
        }
    };
    step::after_trap(vcpu, frame, progress);
}

/// Goes behind the instruction that trapped, as if it had executed.
fn skip(frame: &mut Frame, syndrome: u64) {
    frame.regs.pc += esr::instruction_length(syndrome);
    frame.regs.retire();
}

/// The immediate of an `HVC` of ours, by the syndrome.
#[inline]
fn probe_of(syndrome: u64) -> Option<u16> {
    let immediate = esr::iss(syndrome) as u16;
    let is_ours = immediate.wrapping_sub(HVC_BASE) < MAX_SITES as u16;
    (PERISCOPE && esr::class(syndrome) == esr::ec::HVC && is_ours).then_some(immediate)
}

/// An `HVC` of ours. Returns whether it was a probe. Most hits end without a window (masking.rs): their way is short, and
/// takes no lock that a stopped CPU can hold.
fn probe_hit(resident: &'static Resident, frame: &mut Frame) -> bool {
    let Some(immediate) = probe_of(frame.syndrome) else {
        return false;
    };
    // The preferred return address of HVC is the instruction after it.
    frame.regs.pc -= 4;
    let serve = |space: &Space, trap: &mut Trap<'_>| space.hit(immediate, trap);
    let outcome = resident.serve(&mut frame.regs, serve);
    if outcome == HitOutcome::NotOurs {
        frame.regs.pc += 4;
        return false;
    }
    let _window = (outcome != HitOutcome::Resume).then(Window::open);
    step::finish_hit(resident.vcpu, frame, outcome);
    true
}

fn hypercall(vcpu: &'static Vcpu, frame: &mut Frame, syndrome: u64) -> Progress {
    let immediate = esr::iss(syndrome) as u16;
    if immediate != 0 {
        if cost::hypercall(vcpu, immediate) {
            frame.regs.retire();
            return Progress::Done;
        }
        // SMCCC uses immediate 0 only; to the guest any other HVC is undefined. The PC is behind it already.
        frame.regs.pc -= 4;
        inject::undefined(&mut frame.regs);
        return Progress::Done;
    }
    frame.regs.retire();
    traced_call(vcpu, frame, |regs| psci::call(vcpu, regs));
    Progress::Done
}

/// Does what a guest has called for.
fn traced_call(vcpu: &'static Vcpu, frame: &mut Frame, call: impl FnOnce(&mut CoreRegs)) {
    let began = trace::begin::<Hypercall>();
    let [function, x1, x2, ..] = frame.regs.x;
    call(&mut frame.regs);
    trace!(
        About::Guest(vcpu, &frame.regs),
        Hypercall {
            function,
            x1,
            x2,
            result: frame.regs.x[0],
        },
        trace::since(began)
    );
}

// ---- System registers ----

/// A trapped `MSR`, `MRS` or system instruction (Arm ARM D24.2.37, EC 0x18).
struct SystemAccess {
    op0: u64,
    op1: u64,
    crn: u64,
    crm: u64,
    op2: u64,
    rt: usize,
    is_read: bool,
}

impl SystemAccess {
    fn decode(iss: u64) -> Self {
        Self {
            op0: iss >> 20 & 0x3,
            op2: iss >> 17 & 0x7,
            op1: iss >> 14 & 0x7,
            crn: iss >> 10 & 0xf,
            rt: (iss >> 5 & 0x1f) as usize,
            crm: iss >> 1 & 0xf,
            is_read: iss & 1 != 0,
        }
    }
}

fn system_register(vcpu: &'static Vcpu, frame: &mut Frame, syndrome: u64) -> Progress {
    let access = SystemAccess::decode(esr::iss(syndrome));
    let value = frame.regs.x.get(access.rt).copied().unwrap_or(0);
    let result = match (access.op0, access.op1, access.crn, access.crm, access.op2) {
        // ICC_SGI1R_EL1
        (3, 0, 12, 11, 5) if !access.is_read => {
            interrupts::update(vcpu, |vgic, index| vgic.sgi1r(index, value));
            Some(0)
        }
        // CNTPCT_EL0: guests have one time, and it stands still with them.
        (3, 3, 14, 0, 1) if access.is_read => Some(sysreg::read!("cntvct_el0")),
        (2, op1, crn, crm, op2) => debug_register(vcpu, &access, value, (op1, crn, crm, op2)),
        _ => None,
    };
    let Some(result) = result else {
        warn!(
            "{}/vcpu{}: access to S{}_{}_C{}_C{}_{} at {:#x}: made undefined",
            vcpu.vm().name(),
            vcpu.id.0,
            access.op0,
            access.op1,
            access.crn,
            access.crm,
            access.op2,
            frame.regs.pc
        );
        inject::undefined(&mut frame.regs);
        return Progress::Done;
    };
    if access.is_read
        && let Some(register) = frame.regs.x.get_mut(access.rt)
    {
        *register = result;
    }
    skip(frame, syndrome);
    Progress::Done
}

fn debug_register(
    vcpu: &'static Vcpu,
    access: &SystemAccess,
    value: u64,
    (op1, crn, crm, op2): (u64, u64, u64, u64),
) -> Option<u64> {
    let register = DebugRegister::decode(op1, crn, crm, op2)?;
    if access.is_read {
        return vcpu.local().debug.guest_read(register);
    }
    vcpu.local().debug.guest_write(register, value).then_some(0)
}

// ---- Aborts ----

/// `ISS.S1PTW`: the stage-2 fault came from the walk of stage 1.
const S1PTW: u64 = 1 << 7;
/// `ISS.WnR`: a store.
const WNR: u64 = 1 << 6;
/// `ISS.ISV`: the syndrome describes the access.
const ISV: u64 = 1 << 24;
/// Fault status without its level.
const FSC_KIND: u64 = 0b11_1100;
/// Permission fault.
const FSC_PERMISSION: u64 = 0b00_1100;

fn abort(vcpu: &'static Vcpu, frame: &mut Frame, syndrome: u64) -> Progress {
    let iss = esr::iss(syndrome);
    let far = frame.fault_address;
    let is_fetch = esr::class(syndrome) == esr::ec::INSTRUCTION_ABORT;
    let Some(gpa) = faulting_address(frame, iss) else {
        // Stage 1 has changed since: let the guest try again.
        return Progress::Retry;
    };
    let is_walk = iss & S1PTW != 0;
    let view_access = if is_fetch && !is_walk {
        view::Access::Fetch
    } else {
        view::Access::Data
    };
    let began = trace::begin::<PageFault>();
    let fault = vcpu.vm().roots().fault(vcpu.vm().port(), gpa, view_access);
    let progress = resolve(vcpu, frame, fault, gpa);
    trace!(
        About::Guest(vcpu, &frame.regs),
        PageFault {
            gva: far,
            gpa: gpa.0,
            access: match (is_walk, is_fetch, iss & WNR != 0) {
                (true, ..) => 3,
                (_, true, _) => 0,
                (_, _, false) => 1,
                (_, _, true) => 2,
            },
            outcome: match fault {
                Fault::Retry => 0,
                Fault::Probed | Fault::NoExecute => 1,
                Fault::Unmapped if is_device(vcpu, gpa) => 2,
                Fault::Unmapped | Fault::Forbidden => 3,
            },
        },
        trace::since(began)
    );
    progress
}

/// Does what a stage-2 fault at `gpa` asks for.
fn resolve(vcpu: &'static Vcpu, frame: &mut Frame, fault: Fault, gpa: Gpa) -> Progress {
    let syndrome = frame.syndrome;
    let iss = esr::iss(syndrome);
    let far = frame.fault_address;
    let is_fetch = esr::class(syndrome) == esr::ec::INSTRUCTION_ABORT;
    let is_walk = iss & S1PTW != 0;
    match fault {
        Fault::Retry => Progress::Retry,
        Fault::Probed if iss & WNR != 0 && replaces_kernel(frame) => {
            vcpu.vm().ask_to_follow_kernel(service::Request::KernelLeft);
            Progress::Retry
        }
        Fault::Probed => {
            if !vcpu.local().stepper.is_active() {
                step::begin(vcpu, frame, Purpose::Other);
            }
            Progress::Retry
        }
        Fault::NoExecute => {
            step::fetch(vcpu, frame, gpa);
            Progress::Retry
        }
        Fault::Unmapped if !is_fetch && !is_walk && iss & ISV != 0 => {
            device(vcpu, frame, syndrome, gpa, far)
        }
        Fault::Unmapped | Fault::Forbidden => {
            let access = match (is_fetch, iss & WNR != 0) {
                (true, _) => Access::Fetch,
                (false, false) => Access::Read,
                (false, true) => Access::Write,
            };
            refuse(vcpu, frame, gpa, far, access);
            Progress::Done
        }
    }
}

/// Whether a kernel that lives in the upper half of addresses stores from code in the lower half. Of Linux that is what
/// copies another kernel over it (`arch/arm64/kernel/relocate_kernel.S`): other code that it executes by an identity map
/// stores nothing to its text.
fn replaces_kernel(frame: &Frame) -> bool {
    let is_upper = |address: u64| address >> 55 & 1 == 1;
    !frame.regs.at_el0() && !is_upper(frame.regs.pc) && is_upper(sysreg::read!("vbar_el1"))
}

/// The guest-physical address of a stage-2 fault. HPFAR_EL2 holds it, but not for a permission fault that is not of
/// the walk itself (Arm ARM D24.2.66): then stage 1 is asked again.
fn faulting_address(frame: &Frame, iss: u64) -> Option<Gpa> {
    let far = frame.fault_address;
    let has_hpfar = iss & FSC_KIND != FSC_PERMISSION || iss & S1PTW != 0;
    if has_hpfar {
        let page = (frame.fault_page >> 4 & 0xfff_ffff_ffff) << 12;
        return Some(Gpa(page | far & 0xfff));
    }
    let as_user = || live::translate(Gva(far), Stage1::UserRead);
    // What EL0 executes it may be unable to read. EL1 can.
    let as_kernel = || live::translate(Gva(far), Stage1::Read);
    if frame.regs.at_el0() {
        as_user().or_else(as_kernel)
    } else {
        as_kernel()
    }
}

/// Nothing is there: an external abort, as on a board, and a line in the log.
fn refuse(vcpu: &'static Vcpu, frame: &mut Frame, gpa: Gpa, far: u64, access: Access) {
    warn!(
        "{}/vcpu{}: {access:?} of {gpa}, where nothing is, at {:#x}: external abort",
        vcpu.vm().name(),
        vcpu.id.0,
        frame.regs.pc
    );
    inject::external_abort(&mut frame.regs, far, access);
}

/// A load or store of an emulated device.
fn device(vcpu: &'static Vcpu, frame: &mut Frame, syndrome: u64, gpa: Gpa, far: u64) -> Progress {
    let iss = esr::iss(syndrome);
    let size = 1usize << (iss >> 22 & 0b11);
    let register = (iss >> 16 & 0x1f) as usize;
    let is_store = iss & WNR != 0;
    let mask = u64::MAX >> (64 - 8 * size as u32);
    let stored = frame.regs.x.get(register).copied().unwrap_or(0) & mask;
    let store = is_store.then_some(stored);

    let Some(loaded) = emulate(vcpu, gpa, size, store) else {
        let access = if is_store {
            Access::Write
        } else {
            Access::Read
        };
        refuse(vcpu, frame, gpa, far, access);
        return Progress::Done;
    };
    if !is_store && let Some(target) = frame.regs.x.get_mut(register) {
        *target = extend(loaded & mask, iss, size);
    }
    skip(frame, syndrome);
    Progress::Done
}

/// Sign extension (`ISS.SSE`) and register width (`ISS.SF`) of a load.
fn extend(value: u64, iss: u64, size: usize) -> u64 {
    let sign_extended = if iss & (1 << 21) != 0 {
        let unused = 64 - 8 * size as u32;
        ((value << unused) as i64 >> unused) as u64
    } else {
        value
    };
    let is_64_bit = iss & (1 << 15) != 0;
    if is_64_bit {
        sign_extended
    } else {
        sign_extended & 0xffff_ffff
    }
}

/// Whether an emulated device is at `gpa`.
fn is_device(vcpu: &'static Vcpu, gpa: Gpa) -> bool {
    [GICD, vcpu.vm().gicr(), UART]
        .iter()
        .any(|device| device.contains(gpa.0))
}

/// Finds the device at `gpa`. `None`: there is none. A store gives `Some(0)`.
fn emulate(vcpu: &'static Vcpu, gpa: Gpa, size: usize, store: Option<u64>) -> Option<u64> {
    let vm = vcpu.vm();
    let redistributors = vm.gicr();
    let mut loaded = 0;
    if GICD.contains(gpa.0) {
        let offset = gpa.0 - GICD.start;
        interrupts::update(vcpu, |vgic, _| match store {
            Some(value) => vgic.dist_write(offset, size, value),
            None => {
                loaded = vgic.dist_read(offset, size);
                devices::vgic::VcpuMask::NONE
            }
        });
    } else if redistributors.contains(gpa.0) {
        let offset = gpa.0 - redistributors.start;
        interrupts::update(vcpu, |vgic, _| match store {
            Some(value) => vgic.redist_write(offset, size, value),
            None => {
                loaded = vgic.redist_read(offset, size);
                devices::vgic::VcpuMask::NONE
            }
        });
    } else if UART.contains(gpa.0) {
        let offset = gpa.0 - UART.start;
        {
            let mut uart = vm.vuart.lock();
            match store {
                Some(value) => uart.write(offset, size, value),
                None => loaded = uart.read(offset, size),
            }
        }
        vm.update_uart_line(Some(vcpu));
        service::console_changed(vm);
    } else {
        return None;
    }
    Some(loaded)
}

// ---- Debug exceptions, while they come to us ----

fn debug(vcpu: &'static Vcpu, frame: &mut Frame, syndrome: u64) -> Progress {
    let class = esr::class(syndrome);
    if step::debug_exception(vcpu, frame, class) {
        return Progress::Retry;
    }
    let far = frame.fault_address;
    match class {
        esr::ec::BREAKPOINT if vcpu.local().debug.breaks_at(Gva(frame.regs.pc)) => {
            step::hardware_breakpoint(vcpu, frame);
            Progress::Retry
        }
        esr::ec::WATCHPOINT => {
            let watched = vcpu.local().debug.watch_at(Gva(far));
            let Some(kind) = watched else {
                inject::debug_exception(&mut frame.regs, syndrome, far);
                return Progress::Done;
            };
            step::watchpoint(vcpu, frame, Gva(far), kind);
            Progress::Retry
        }
        esr::ec::SOFTWARE_STEP => guest_step(vcpu, frame, syndrome),
        _ => {
            inject::debug_exception(&mut frame.regs, syndrome, far);
            Progress::Done
        }
    }
}

/// The guest steps something of its own while debug exceptions come to us. They do so in EL1 too, where its own
/// step would wait for the ERET: there the step is taken again.
fn guest_step(vcpu: &'static Vcpu, frame: &mut Frame, syndrome: u64) -> Progress {
    let guest = vcpu.local().debug.guest_mdscr();
    let masked = frame.regs.pstate & pstate::D != 0 || guest & mdscr::KDE == 0;
    if guest & mdscr::SS == 0 || !frame.regs.at_el0() && masked {
        frame.regs.pstate |= pstate::SS;
        return Progress::Retry;
    }
    inject::debug_exception(&mut frame.regs, syndrome, 0);
    Progress::Done
}
