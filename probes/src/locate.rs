//! From an address in a space's code to the word that can carry a probe.

use crate::a64::{Class, classify, exclusive_sequence_around};
use crate::addr::{Gpa, Gva, PAGE_SIZE};
use crate::machine::{Machine, PhysFault, Power, VcpuId};
use crate::options::ProbeMode;
use crate::own_code;
use crate::refusal::Refusal;
use crate::returns::Signature;
use crate::translate::{Translation, TranslationRegs, translate};
use alloc::vec;
use alloc::vec::Vec;

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

/// Finds words for probes in a VM.
#[derive(Default)]
pub(crate) struct Locator {
    /// What translated the last address of the kernel's half that was found.
    kernel: Option<TranslationRegs>,
}

impl Locator {
    /// Finds the word for a breakpoint at `address` as `vcpu` sees it; an address in the kernel's half
    /// is looked for everywhere, since a vCPU that is in user code may have the kernel unmapped
    /// (Linux' KPTI). `None`: not mapped for now. The VM is held.
    pub(crate) fn locate(
        &mut self,
        machine: &dyn Machine,
        address: Gva,
        vcpu: VcpuId,
    ) -> Result<Option<Spot>, Refusal> {
        if let Some(spot) = self.locate_on(machine, address, vcpu, ProbeMode::Hvc)? {
            return Ok(Some(spot));
        }
        if !in_kernel_half(address) {
            return Ok(None);
        }
        self.locate_anywhere(machine, address, ProbeMode::Hvc)
    }

    /// Finds the word for a probe of `mode` at `address` as any vCPU sees it, or, in the kernel's half, as
    /// one saw it that was in the kernel. The VM is held.
    pub(crate) fn locate_anywhere(
        &mut self,
        machine: &dyn Machine,
        address: Gva,
        mode: ProbeMode,
    ) -> Result<Option<Spot>, Refusal> {
        for vcpu in vcpus(machine) {
            if let Some(spot) = self.locate_on(machine, address, vcpu, mode)? {
                return Ok(Some(spot));
            }
        }
        // A vCPU that is in the kernel has said what there is now.
        match self.kernel {
            Some(regs) if in_kernel_half(address) && only_user_code_runs(machine) => {
                let code = Code {
                    machine,
                    regs,
                    mode,
                };
                code.spot(address)
            }
            _ => Ok(None),
        }
    }

    /// Reads the code at `address` and around it. `None`: not mapped for now. The VM is held.
    pub(crate) fn reader<'a>(&self, machine: &'a dyn Machine, address: Gva) -> Option<Reader<'a>> {
        if machine.vm().is_hypervisor() {
            return Some(Reader::new(Source::OwnCode(machine)));
        }
        let live = vcpus(machine).filter_map(|vcpu| translation_regs(machine, vcpu));
        let earlier = self
            .kernel
            .filter(|_| in_kernel_half(address) && only_user_code_runs(machine));
        let codes = live.chain(earlier).map(|regs| Code {
            machine,
            regs,
            mode: ProbeMode::Hvc,
        });
        let code = codes
            .into_iter()
            .find(|code| matches!(code.word(address), Ok(Some(_))))?;
        Some(Reader::new(Source::Guest(code)))
    }

    /// The guest starts anew: its tables are gone.
    pub(crate) fn guest_reset(&mut self) {
        self.kernel = None;
    }

    fn locate_on(
        &mut self,
        machine: &dyn Machine,
        address: Gva,
        vcpu: VcpuId,
        mode: ProbeMode,
    ) -> Result<Option<Spot>, Refusal> {
        if !address.0.is_multiple_of(WORD) {
            return Err(Refusal::Unaligned(address));
        }
        if machine.vm().is_hypervisor() {
            return own_code::locate(machine, address).map(Some);
        }
        let Some(regs) = translation_regs(machine, vcpu) else {
            return Ok(None);
        };
        let code = Code {
            machine,
            regs,
            mode,
        };
        let spot = code.spot(address)?;
        if spot.is_some() && in_kernel_half(address) {
            self.kernel = Some(regs);
        }
        Ok(spot)
    }
}

fn in_kernel_half(address: Gva) -> bool {
    address.0 >> 55 & 1 == 1
}

fn vcpus(machine: &dyn Machine) -> impl Iterator<Item = VcpuId> {
    let count = u8::try_from(machine.vcpu_count()).unwrap_or(u8::MAX);
    (0..count).map(VcpuId)
}

/// `None`: the vCPU is off.
fn translation_regs(machine: &dyn Machine, vcpu: VcpuId) -> Option<TranslationRegs> {
    if machine.power(vcpu) == Power::Off {
        return None;
    }
    let sys = machine.sys(vcpu).ok()?;
    Some(TranslationRegs::from(&sys))
}

/// Whether every vCPU that is on executes at EL0.
fn only_user_code_runs(machine: &dyn Machine) -> bool {
    let is_on = |vcpu: &VcpuId| machine.power(*vcpu) != Power::Off;
    vcpus(machine)
        .filter(is_on)
        .all(|vcpu| machine.core(vcpu).is_ok_and(|regs| regs.at_el0()))
}

/// The code around an address. Pages are read whole, and once as long as they are read in a row.
pub(crate) struct Reader<'a> {
    source: Source<'a>,
    page: Vec<u8>,
    /// Whose content `page` is.
    address: Option<Gva>,
    /// The page that could not be read the last time.
    unreadable: Option<Gva>,
}

/// Whose code a [`Reader`] reads.
enum Source<'a> {
    Guest(Code<'a>),
    /// The hypervisor's: its addresses are physical ones ([`crate::machine`]).
    OwnCode(&'a dyn Machine),
}

impl<'a> Reader<'a> {
    fn new(source: Source<'a>) -> Self {
        Self {
            source,
            page: vec![0; PAGE_SIZE as usize],
            address: None,
            unreadable: None,
        }
    }

    /// What of a code address may be a signature: the hypervisor signs none.
    pub(crate) fn signature(&self) -> Signature {
        match &self.source {
            Source::Guest(code) => Signature::from_tcr(code.regs.tcr),
            Source::OwnCode(_) => Signature::default(),
        }
    }

    /// The guest's instruction at `address`.
    pub(crate) fn word(&mut self, address: Gva) -> Option<u32> {
        if self.unreadable == Some(address.page()) {
            return None;
        }
        if self.address != Some(address.page()) {
            self.address = None;
            self.unreadable = Some(address.page());
            let (machine, first) = match &self.source {
                Source::Guest(code) => {
                    let word = code.word(address.page()).ok()??;
                    (code.machine, word.spot.gpa)
                }
                Source::OwnCode(machine) => (*machine, Gpa(address.page().0)),
            };
            machine.read_phys(first, &mut self.page).ok()?;
            self.address = Some(address.page());
            self.unreadable = None;
        }
        let offset = address.page_offset() as usize;
        let bytes = self.page.get(offset..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    }
}

/// A guest's code through the tables of one vCPU.
#[derive(Clone, Copy)]
struct Code<'a> {
    machine: &'a dyn Machine,
    regs: TranslationRegs,
    mode: ProbeMode,
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
    /// The word that can carry a probe at `address`; `None` where nothing is mapped.
    fn spot(&self, address: Gva) -> Result<Option<Spot>, Refusal> {
        let Some(first) = self.word(address)? else {
            return Ok(None);
        };
        let spot = if self.mode == ProbeMode::Hvc && first.is_guarded_landing_pad() {
            // HVC is no landing pad: in this place it would turn an indirect branch into an exception.
            let Some(next) = address.checked_add(WORD) else {
                return Ok(None);
            };
            match self.word(next)? {
                Some(second) => second.spot,
                None => return Ok(None),
            }
        } else {
            first.spot
        };
        let mut reader = Reader::new(Source::Guest(*self));
        let mut sequence_around =
            |address| exclusive_sequence_around(address, |near| reader.word(near));
        if let Some(after) = sequence_around(spot.address) {
            return Err(Refusal::ExclusiveSequence {
                address: spot.address,
                after,
            });
        }
        let page = spot.address.page();
        if self.mode == ProbeMode::Xn && sequence_around(page).is_some() {
            return Err(Refusal::PageInSequence { page });
        }
        Ok(Some(spot))
    }

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
        self.check_permissions(address, &page)?;
        let mut bytes = [0; WORD as usize];
        match self.machine.read_phys(page.gpa, &mut bytes) {
            Ok(()) => {}
            Err(PhysFault::Unmapped(_)) if !self.mmu_on() => return Ok(None),
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

    fn mmu_on(&self) -> bool {
        self.regs.sctlr & SCTLR_M != 0
    }

    /// Refuses what EL1 does not execute. A hardware breakpoint fires in user code too, and a
    /// kernel page that leaves UXN clear is no user code.
    fn check_permissions(&self, address: Gva, page: &Translation) -> Result<(), Refusal> {
        let permissions = &page.permissions;
        if !self.mmu_on() || permissions.el1.execute {
            return Ok(());
        }
        match (permissions.el0.execute, self.mode) {
            (true, ProbeMode::Hw) => Ok(()),
            (true, _) => Err(Refusal::UserCode(address)),
            (false, _) => Err(Refusal::NotExecutable(address)),
        }
    }
}
