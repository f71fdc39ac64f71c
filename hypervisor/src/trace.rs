//! Where the hypervisor's tracepoints fire.
//!
//! [`trace!`] at a place in the code costs a load and a branch while its tracepoint is off; everything else is in [`fire`].
//! There, interrupts are masked: the ring has one writer, and a CPU that is stopped in the middle would keep the server from
//! switching the tracepoint.

use crate::masking::Masked;
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use crate::{PERISCOPE, cpu, sysreg, time};
use alloc::sync::Arc;
use log::warn;
use probes::machine::{Clock, VcpuId, VmId};
use probes::regs::CoreRegs;
use probes::tracepoint::{Event, Origin, Tracer};
use spin::Once;

static TRACER: Once<Arc<Tracer>> = Once::new();

/// What an event is about.
#[derive(Clone, Copy)]
pub enum About<'a> {
    /// The hypervisor itself.
    Hypervisor,
    /// A VM as a whole.
    Vm(VmId),
    /// A vCPU.
    Vcpu(&'a Vcpu),
    /// The vCPU that has trapped on this CPU with these registers: programs can read its memory.
    Guest(&'static Vcpu, &'a CoreRegs),
}

impl<'a> About<'a> {
    /// The vCPU that lives on this CPU, or the hypervisor where there is none.
    pub fn here(vcpu: Option<&'a Vcpu>) -> Self {
        vcpu.map_or(Self::Hypervisor, Self::Vcpu)
    }
}

/// Fires a tracepoint of the package `tracepoints`, if somebody has switched it on: what it is about, the event, and how long
/// what ends here took, in nanoseconds. The fields are computed only then.
macro_rules! trace {
    ($about:expr, $event:ident $fields:tt) => {
        $crate::trace::trace!($about, $event $fields, 0)
    };
    ($about:expr, $event:ident $fields:tt, $duration:expr) => {
        if $crate::trace::is_on::<::tracepoints::$event>() {
            $crate::trace::fire($about, ::tracepoints::$event $fields, $duration);
        }
    };
}
pub(crate) use trace;

/// Whether somebody wants the event.
#[inline(always)]
pub fn is_on<E: Event>() -> bool {
    PERISCOPE && E::POINT.is_on()
}

/// The time, for [`since`], if somebody wants the event; else 0.
#[inline(always)]
pub fn begin<E: Event>() -> u64 {
    if is_on::<E>() { time::now_ns() } else { 0 }
}

/// Nanoseconds since [`begin`], at least 1; 0 where that returned 0.
pub fn since(begin: u64) -> u64 {
    match begin {
        0 => 0,
        begin => time::now_ns().saturating_sub(begin).max(1),
    }
}

/// The rest of [`trace!`].
#[cold]
#[inline(never)]
pub fn fire<E: Event>(about: About<'_>, event: E, duration_ns: u64) {
    let Some(tracer) = TRACER.get() else {
        return;
    };
    let _masked = Masked::new();
    let memory = match about {
        About::Guest(vcpu, regs) => Some(vcpu.vm().live(regs)),
        _ => None,
    };
    let (vm, vcpu) = match about {
        About::Hypervisor => (VmId(0), VcpuId(cpu::this().index as u8)),
        About::Vm(vm) => (vm, VcpuId(0)),
        About::Vcpu(vcpu) | About::Guest(vcpu, _) => (vcpu.vm_id(), vcpu.id),
    };
    let origin = Origin {
        clock: &Here,
        vm,
        vcpu,
        memory: memory.as_ref().map(|memory| memory as _),
        duration_ns,
    };
    tracer.fire(event, &origin);
}

/// Time, and the CPU that asks.
struct Here;

impl Clock for Here {
    fn now_ns(&self) -> u64 {
        time::now_ns()
    }

    fn cpu(&self) -> usize {
        cpu::this().index
    }

    fn synchronize(&self) {
        sysreg::isb();
    }
}

/// Makes the rings, and switches on what the command line names: `trace=vmm:vm_create,psci`. What happens while the machine
/// boots can be seen only so.
pub fn init(platform: &Platform, cpus: usize) {
    let lists = [tracepoints::ALL, stub::tracepoints::ALL];
    let tracer = TRACER.call_once(|| Arc::new(Tracer::new(cpus, &lists)));
    for name in platform.option("trace").unwrap_or_default().split(',') {
        match tracer.find(name) {
            Ok(points) => {
                for point in points {
                    // Only a program can be refused.
                    let _ = tracer.enable(point, None);
                }
            }
            Err(_) if name.is_empty() => {}
            Err(error) => warn!("trace={name}: {error}"),
        }
    }
}

/// The rings and tracepoints.
pub fn tracer() -> Arc<Tracer> {
    TRACER.get().expect("trace::init has run").clone()
}
