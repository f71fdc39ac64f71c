//! From an address in a guest's code to the word that can carry a probe.

use crate::a64::{Class, SEQUENCE_LENGTH, classify, inside_exclusive_sequence};
use crate::addr::{Gpa, Gva};
use crate::machine::{Machine, PhysFault, Power, VcpuId};
use crate::refusal::Refusal;
use crate::regs::SysReg;
use crate::translate::{Translation, TranslationRegs, translate};

/// Bytes of an instruction.
const WORD: u64 = 4;
/// `SCTLR_EL1.M`: stage 1 is on.
const SCTLR_M: u64 = 1;

/// A word that can carry a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Spot {
    pub(crate) gpa: Gpa,
    /// The word's own address: not the one that was asked for where that is a landing pad.
    pub(crate) address: Gva,
    /// The guest's instruction there.
    pub(crate) word: u32,
}

/// Finds the word for a probe at `address` as `vcpu` sees it; an address in the kernel's half is
/// looked for through the other vCPUs too, since one that is in user code may have the kernel
/// unmapped (Linux' KPTI). `None`: not mapped for now. The VM is held.
pub(crate) fn locate(
    machine: &dyn Machine,
    address: Gva,
    vcpu: VcpuId,
) -> Result<Option<Spot>, Refusal> {
    if let Some(spot) = locate_on(machine, address, vcpu)? {
        return Ok(Some(spot));
    }
    let kernel_half = address.0 >> 55 & 1 == 1;
    if !kernel_half {
        return Ok(None);
    }
    locate_anywhere(machine, address)
}

/// Finds the word for a probe at `address` as any vCPU sees it. The VM is held.
pub(crate) fn locate_anywhere(
    machine: &dyn Machine,
    address: Gva,
) -> Result<Option<Spot>, Refusal> {
    let count = u8::try_from(machine.vcpu_count()).unwrap_or(u8::MAX);
    for vcpu in (0..count).map(VcpuId) {
        if let Some(spot) = locate_on(machine, address, vcpu)? {
            return Ok(Some(spot));
        }
    }
    Ok(None)
}

fn locate_on(machine: &dyn Machine, address: Gva, vcpu: VcpuId) -> Result<Option<Spot>, Refusal> {
    if !address.0.is_multiple_of(WORD) {
        return Err(Refusal::Unaligned(address));
    }
    if machine.power(vcpu) == Power::Off {
        return Ok(None);
    }
    let Ok(sys) = machine.sys(vcpu) else {
        return Ok(None);
    };
    let code = Code {
        machine,
        regs: TranslationRegs::from(&sys),
        mmu_on: sys.get(SysReg::SctlrEl1) & SCTLR_M != 0,
    };
    let Some(first) = code.word(address)? else {
        return Ok(None);
    };
    let spot = if first.is_guarded_landing_pad() {
        // HVC is no landing pad: in this place it would turn an indirect branch into an exception.
        let Some(next) = address.checked_add(WORD) else {
            return Ok(None);
        };
        match code.word(next)? {
            Some(second) => second.spot,
            None => return Ok(None),
        }
    } else {
        first.spot
    };
    if inside_exclusive_sequence(spot.address, |gva| code.peek(gva)) {
        return Err(Refusal::ExclusiveSequence {
            address: spot.address,
            after: code.after_store_exclusive(spot.address),
        });
    }
    Ok(Some(spot))
}

/// A guest's code through the tables of one vCPU.
struct Code<'a> {
    machine: &'a dyn Machine,
    regs: TranslationRegs,
    mmu_on: bool,
}

/// A word and what its page is.
struct Word {
    spot: Spot,
    guarded: bool,
}

impl Word {
    fn is_guarded_landing_pad(&self) -> bool {
        self.guarded && matches!(classify(self.spot.word), Class::LandingPad(_))
    }
}

impl Code<'_> {
    /// The word at `address`; `None` where nothing is mapped.
    fn word(&self, address: Gva) -> Result<Option<Word>, Refusal> {
        let not_ram = |gpa| Refusal::NotRam {
            vm: self.machine.vm(),
            address,
            gpa,
        };
        // Whatever the fault says now, the guest may map the address later.
        let Ok(page) = translate(&self.regs, self.machine, address) else {
            return Ok(None);
        };
        if self.is_user_code(&page) {
            return Err(Refusal::UserCode(address));
        }
        let mut bytes = [0; WORD as usize];
        match self.machine.read_phys(page.gpa, &mut bytes) {
            Ok(()) => {}
            Err(PhysFault::Unmapped(_)) if !self.mmu_on => return Ok(None),
            Err(PhysFault::Unmapped(gpa) | PhysFault::Device(gpa)) => return Err(not_ram(gpa)),
        }
        let spot = Spot {
            gpa: page.gpa,
            address,
            word: u32::from_le_bytes(bytes),
        };
        Ok(Some(Word {
            spot,
            guarded: page.guarded,
        }))
    }

    /// Whether only EL0 executes the page. A kernel page that leaves UXN clear is no user code.
    fn is_user_code(&self, page: &Translation) -> bool {
        self.mmu_on && page.permissions.el0.execute && !page.permissions.el1.execute
    }

    fn peek(&self, address: Gva) -> Option<u32> {
        self.word(address).ok()?.map(|word| word.spot.word)
    }

    /// The address after the store-exclusive that follows `address`.
    fn after_store_exclusive(&self, address: Gva) -> Gva {
        (0..=SEQUENCE_LENGTH as u64)
            .map(|index| Gva(address.0.wrapping_add(index * WORD)))
            .find(|gva| {
                self.peek(*gva)
                    .is_some_and(|word| classify(word) == Class::StoreExclusive)
            })
            .map_or(address, |store| Gva(store.0.wrapping_add(WORD)))
    }
}
