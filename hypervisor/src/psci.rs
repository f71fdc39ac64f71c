//! The firmware that a guest sees: PSCI 1.1 (Arm DEN 0022) and the SMC Calling Convention 1.1 (Arm DEN 0028), by `HVC #0`.

use crate::trace::{self, About, trace};
use crate::vcpu::{Start, Vcpu};
use crate::{interrupts, service};
use ::tracepoints::PsciCpuSuspend;
use log::info;
use probes::machine::{Power, VcpuId};
use probes::regs::CoreRegs;
use probes::space::Space;

const SMCCC_VERSION: u32 = 0x8000_0000;
const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
const SMCCC_ARCH_WORKAROUND_1: u32 = 0x8000_8000;
const SMCCC_ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
const SMCCC_ARCH_WORKAROUND_3: u32 = 0x8000_3fff;
const PSCI_VERSION: u32 = 0x8400_0000;
const CPU_SUSPEND: u32 = 0x8400_0001;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0x8400_0003;
const AFFINITY_INFO: u32 = 0x8400_0004;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const PSCI_FEATURES: u32 = 0x8400_000a;
/// The 64-bit variant of a function.
const BIT_64: u32 = 1 << 30;

const VERSION_1_1: u64 = 1 << 16 | 1;
const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
/// `MIGRATE_INFO_TYPE`: there is no trusted OS to migrate.
const NO_TRUSTED_OS: i64 = 2;
/// `SMCCC_ARCH_WORKAROUND_*`: not needed on this CPU.
const NOT_REQUIRED: i64 = 1;

/// Affinity fields of `MPIDR_EL1` of a vCPU.
pub fn affinity(vcpu: VcpuId) -> u64 {
    u64::from(vcpu.0)
}

/// `HVC #0`: the function in w0, its arguments in x1 to x3, the result in x0. The PC is behind the HVC already.
///
/// Not inlined: what guests ask for is what people probe first, and the tests count it.
#[inline(never)]
pub fn call(vcpu: &'static Vcpu, regs: &mut CoreRegs) {
    let function = regs.x[0] as u32;
    let result = match function & !BIT_64 {
        PSCI_VERSION => {
            // Linux asks this once in its life, when it has mapped itself and before it starts anything
            // (`drivers/firmware/psci/psci.c`): how a kernel shows that another one has started.
            let vm = vcpu.vm();
            if service::space(vm.id).is_some_and(Space::awaits_kernel) {
                vm.ask_to_follow_kernel(service::Request::KernelBegins);
            }
            VERSION_1_1 as i64
        }
        SMCCC_VERSION => VERSION_1_1 as i64,
        SMCCC_ARCH_FEATURES => arch_feature(regs.x[1] as u32),
        PSCI_FEATURES => {
            let result = feature(regs.x[1] as u32);
            trace!(
                About::Vcpu(vcpu),
                PsciFeatures {
                    function: regs.x[1],
                    result: result as u64,
                }
            );
            result
        }
        CPU_ON => {
            let result = cpu_on(vcpu, function, regs);
            let [_, target, entry, context, ..] = regs.x;
            trace!(
                About::Vcpu(vcpu),
                PsciCpuOn {
                    target,
                    entry,
                    context,
                    result: result as u64,
                }
            );
            result
        }
        CPU_OFF => {
            trace!(About::Vcpu(vcpu), PsciCpuOff {});
            vcpu.power_off();
            SUCCESS
        }
        CPU_SUSPEND => {
            let began = trace::begin::<PsciCpuSuspend>();
            suspend(vcpu);
            trace!(
                About::Vcpu(vcpu),
                PsciCpuSuspend { state: regs.x[1] },
                trace::since(began)
            );
            SUCCESS
        }
        AFFINITY_INFO => {
            let result = affinity_info(vcpu, regs);
            trace!(
                About::Vcpu(vcpu),
                PsciAffinityInfo {
                    target: regs.x[1],
                    level: regs.x[2],
                    result: result as u64,
                }
            );
            result
        }
        MIGRATE_INFO_TYPE => NO_TRUSTED_OS,
        SYSTEM_OFF => {
            trace!(About::Vcpu(vcpu), PsciSystemOff {});
            end(vcpu, service::Request::PowerOff)
        }
        SYSTEM_RESET => {
            trace!(About::Vcpu(vcpu), PsciSystemReset {});
            end(vcpu, service::Request::Reset)
        }
        _ => NOT_SUPPORTED,
    };
    regs.x[0] = result as u64;
}

/// A guest's SMC: there is no secure world for it.
pub fn secure_call(regs: &mut CoreRegs) {
    regs.x[0] = NOT_SUPPORTED as u64;
}

fn arch_feature(function: u32) -> i64 {
    match function {
        SMCCC_VERSION | SMCCC_ARCH_FEATURES => SUCCESS,
        // What the vulnerable branch predictors and store buffers need is done by firmware below us, which QEMU
        // has none of.
        SMCCC_ARCH_WORKAROUND_1 | SMCCC_ARCH_WORKAROUND_2 | SMCCC_ARCH_WORKAROUND_3 => NOT_REQUIRED,
        _ => NOT_SUPPORTED,
    }
}

fn feature(function: u32) -> i64 {
    match function & !BIT_64 {
        PSCI_VERSION | CPU_SUSPEND | CPU_OFF | CPU_ON | AFFINITY_INFO | MIGRATE_INFO_TYPE
        | SYSTEM_OFF | SYSTEM_RESET | PSCI_FEATURES | SMCCC_VERSION => SUCCESS,
        _ => NOT_SUPPORTED,
    }
}

/// The vCPU that `affinity` names.
fn target(vcpu: &'static Vcpu, wanted: u64) -> Option<&'static Vcpu> {
    vcpu.vm()
        .vcpus()
        .iter()
        .find(|candidate| affinity(candidate.id) == wanted)
}

fn cpu_on(vcpu: &'static Vcpu, function: u32, regs: &CoreRegs) -> i64 {
    let [_, wanted, entry, context, ..] = regs.x;
    let width = if function & BIT_64 != 0 {
        u64::MAX
    } else {
        u64::from(u32::MAX)
    };
    let Some(target) = target(vcpu, wanted & width) else {
        return INVALID_PARAMETERS;
    };
    let start = Start {
        entry: entry & width,
        context: context & width,
    };
    if target.request_start(start) {
        SUCCESS
    } else if target.is_on_pending() {
        ON_PENDING
    } else {
        ALREADY_ON
    }
}

fn affinity_info(vcpu: &'static Vcpu, regs: &CoreRegs) -> i64 {
    const ON: i64 = 0;
    const OFF: i64 = 1;
    const ON_PENDING: i64 = 2;
    let lowest_level = regs.x[2];
    let Some(target) = target(vcpu, regs.x[1]).filter(|_| lowest_level == 0) else {
        return INVALID_PARAMETERS;
    };
    match target.power() {
        Power::On => ON,
        Power::Off if target.is_on_pending() => ON_PENDING,
        Power::Off => OFF,
    }
}

/// Standby: until the vCPU has an interrupt. A power-down state is treated as one, as PSCI allows (5.4.5).
fn suspend(vcpu: &'static Vcpu) {
    loop {
        interrupts::serve(Some(vcpu));
        let index = usize::from(vcpu.id.0);
        let wakes = vcpu.vm().vgic.lock().has_pending(index);
        if wakes || vcpu.must_park() || service::is_due() {
            return;
        }
        aarch64_cpu::asm::wfi();
    }
}

/// The whole VM ends or begins anew; the service CPU does it, this vCPU executes nothing more.
fn end(vcpu: &'static Vcpu, request: service::Request) -> i64 {
    info!("{}: {request:?} asked by the guest", vcpu.vm().name());
    vcpu.power_off();
    service::request(vcpu.vm(), request);
    SUCCESS
}
