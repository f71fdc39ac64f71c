//! The hypervisor's own code as something to probe.
//!
//! # The probe instruction
//!
//! It is `BRK #(HVC_BASE + slot)`: a breakpoint instruction exception is never masked, and at EL2 it is taken to EL2 by
//! the vector for the current level. It overwrites `ESR_EL2`, `ELR_EL2` and `SPSR_EL2` (and leaves `FAR_EL2` and
//! `HPFAR_EL2` unknown), so a hypervisor with probes saves these with the registers of a guest before its first
//! instruction that can be probed, and reads them from there.
//!
//! # What can be probed
//!
//! Code that serves probes cannot: its probe would call itself. [`Probeable`] decides by the crate and the module of the
//! function, from its demangled name. Everything that is not named as probeable is not.

use crate::a64::{brk, exclusive_sequence_around, execution};
use crate::addr::{Gpa, Gva};
use crate::engine::HVC_BASE;
use crate::locate::Spot;
use crate::machine::Machine;
use crate::programs::MapMemory;
use crate::refusal::Refusal;
use crate::symbols::Symbols;
use alloc::sync::Arc;
use ebpf::jit::Compiler;

/// The probe instruction of a slot.
pub(crate) const fn probe_instruction(slot: u16) -> u32 {
    brk(HVC_BASE + slot)
}

/// Finds the word for a probe at `address`, which is a multiple of 4.
pub(crate) fn locate(machine: &dyn Machine, address: Gva) -> Result<Spot, Refusal> {
    let vm = machine.vm();
    let peek = |at: Gva| {
        let mut bytes = [0; 4];
        machine.read_phys(Gpa(at.0), &mut bytes).ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    let gpa = Gpa(address.0);
    let Some(word) = peek(address) else {
        return Err(Refusal::NotRam { vm, address, gpa });
    };
    if let Some(after) = exclusive_sequence_around(address, peek) {
        return Err(Refusal::ExclusiveSequence { address, after });
    }
    execution(word).map_err(|reason| Refusal::Unmovable {
        vm,
        address,
        reason,
    })?;
    Ok(Spot { gpa, address, word })
}

/// The hypervisor as something to probe.
pub struct Hypervisor {
    /// Its machine; [`Machine::vm`] is [`crate::machine::VmId::HYPERVISOR`].
    pub machine: &'static dyn Machine,
    /// Its symbols, if its image carries them.
    pub symbols: Option<Arc<dyn Symbols>>,
    /// What of it can be probed.
    pub probeable: Probeable,
    /// What makes programs run compiled; without, all are interpreted.
    pub compiler: Option<&'static dyn Compiler>,
    /// How much of its memory the maps of programs may take.
    pub map_memory: MapMemory,
}

/// Which functions of a hypervisor can be probed.
#[derive(Clone, Copy, Debug)]
pub struct Probeable {
    /// Crates whose functions can.
    pub crates: &'static [&'static str],
    /// Modules of these whose functions cannot, as paths: `hypervisor::heap`. What is below a module belongs to it.
    pub except: &'static [&'static str],
    /// Functions without a path, of `#[no_mangle]`, that can.
    pub unmangled: &'static [&'static str],
}

impl Probeable {
    /// Whether the function of this demangled name can be probed.
    pub fn allows(&self, function: &str) -> bool {
        let Some(origin) = origin(function) else {
            return self.unmangled.contains(&function);
        };
        let crate_name = origin.split("::").next().unwrap_or(origin);
        let is_in = |module: &&str| {
            let below = origin.strip_prefix(*module);
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        self.crates.contains(&crate_name) && !self.except.iter().any(is_in)
    }
}

/// The path that begins with a function's crate and modules, from its demangled name: its own, or for a method
/// (`<hypervisor::vm::Vm as probes::machine::RunControl>::hold`) its type's. `None` for a name that is no path.
fn origin(function: &str) -> Option<&str> {
    let path = function.strip_prefix('<').unwrap_or(function);
    let is_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let end = path.find(|c| !is_path(c)).unwrap_or(path.len());
    let path = path[..end].trim_end_matches("::");
    path.contains("::").then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Probeable = Probeable {
        crates: &["hypervisor", "devices"],
        except: &["hypervisor::heap", "devices::virtio"],
        unmangled: &["handle_guest_exit"],
    };

    #[test]
    fn crates_and_modules_decide() {
        let allowed = [
            "handle_guest_exit",
            "hypervisor::psci::call",
            "hypervisor::heaps::f",
            "<hypervisor::vcpu::Vcpu>::run",
            "<hypervisor::vm::Vm as probes::machine::RunControl>::hold",
            "hypervisor::interrupts::update::<hypervisor::exits::emulate::{closure#0}>",
            "<hypervisor::vm::Vm>::adopt::{closure#0}",
            "<devices::vgic::Vgic>::flush",
        ];
        for name in allowed {
            assert!(RULE.allows(name), "{name}");
        }
        let refused = [
            "memcpy",
            "el2_fault",
            "",
            "<",
            "hypervisor::heap::allocate_page",
            "hypervisor::heap::deep::f",
            "<hypervisor::heap::Page>::new",
            "<devices::virtio::queue::Queue<devices::mmio::MmioRegion>>::take",
            "probes::engine::run",
            "<probes::view::Views<hypervisor::stage2::Port>>::arm",
            "core::ptr::drop_in_place::<hypervisor::vm::Vm>",
            "<alloc::vec::Vec<hypervisor::vm::Vm>>::push",
            "<&hypervisor::vm::Vm as core::fmt::Debug>::fmt",
            "<<hypervisor::vm::Vm>::adopt::{closure#0} as core::ops::Fn>::call",
            "<u8 as hypervisor::B>::f",
        ];
        for name in refused {
            assert!(!RULE.allows(name), "{name}");
        }
    }
}
