//! The two stage-2 views of a VM: what its vCPUs fetch where probes are, and what everything else
//! sees.
//!
//! Guest code is never patched in place. A VM has two trees of stage-2 tables:
//!
//! - the **step view** maps every page to itself, with all permissions. It never changes once the
//!   VM runs.
//! - the **run view** is the same, except that a page with probes is mapped to a *shadow*: a copy
//!   that holds the probe instructions and that the guest can execute but neither read nor write.
//!
//! vCPUs are in the run view. A data access to a page with probes, table walks of stage 1 and cache
//! maintenance included, is a permission fault; the vCPU that takes it moves to the step view,
//! executes the one instruction there, moves back, and, if it may have written,
//! [`Views::refresh`]es the shadow. The other vCPUs stay where they are and never see a window
//! without probes.
//!
//! # Switching views
//!
//! Both views have **the same VMID**, and CnP is clear in [`Roots::vttbr`]. One physical CPU moves
//! its vCPU from one to the other, at EL2, like this:
//!
//! 1. `MSR VTTBR_EL2, vttbr(view)`; `ISB`
//! 2. `TLBI VMALLS12E1` (this CPU only, all of the VMID's entries of both stages); `DSB NSH`; `ISB`
//!
//! In this order: what the CPU caches after step 1 comes from the new root, except for what it
//! derives from intermediate entries of the old one, and step 2 drops all of that; after it there
//! is nothing of the old view on this CPU. The guest executes neither between the two nor before,
//! so that nothing looks up the mixture.
//!
//! The obvious alternative, a VMID for each view, needs no invalidation at a switch, and is wrong:
//! a guest's `TLBI …IS` reaches only the VMID that the issuing vCPU has at that moment (Arm ARM
//! D8.16). A vCPU in the step view would then keep, or find at its next visit, stage-1 entries that
//! another vCPU's guest invalidated from the run view. With one VMID every TLBI of the guest
//! reaches all its vCPUs, whichever view they are in. CnP must be clear, because with it a CPU may
//! use entries that another CPU cached under the same VMID, and that CPU may be in the other view.
//!
//! # Who may call what
//!
//! [`Views::arm`] and [`Views::disarm`] are called with all vCPUs of the VM at EL2: a word is
//! replaced that a CPU could be executing (Arm ARM B2.7.4.1 allows that only for B, BL, BRK, HVC,
//! ISB, NOP, SMC, SVC), and a page changes its address. They do break-before-make all the same,
//! because a CPU at EL2 still has its TLB. [`Views::refresh`] runs while other vCPUs execute: it
//! replaces in the shadow the words that the guest itself has replaced, one store a word; that is
//! what the guest asked the hardware for, and the guest's own synchronisation makes it safe.
//!
//! The hit path takes no lock: [`Roots`] is a copy of the two roots that walks the tables by
//! itself. That is sound there, since the tables change only while no vCPU of the VM is on the hit
//! path.

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use crate::addr::{Gpa, Hpa, PAGE_SIZE};
use crate::machine::ArmError;
use crate::stage2::{Descriptor, Level, MapError, Memory, Port, Tables, walk};
use alloc::collections::BTreeMap;

const WORD: u64 = 4;

/// Which tree of tables a vCPU uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// Fetches see probes; data accesses to pages with probes fault.
    Run,
    /// The guest's memory as it is.
    Step,
}

/// What a stage-2 fault was trying to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// An instruction fetch.
    Fetch,
    /// Anything else: loads, stores, stage-1 walks, cache maintenance.
    Data,
}

/// What a stage-2 fault in the run view means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing is wrong now: the tables were being edited. Return to the guest and let it try
    /// again.
    Retry,
    /// A data access to a page with probes: execute the instruction in the step view.
    Probed,
    /// The VM has nothing at this address: an emulated device, or an external abort for the guest.
    Unmapped,
    /// The address is mapped but not for this: a fetch from a device. An external abort for the
    /// guest.
    Forbidden,
}

/// What a guest-physical address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Where it is. Never in a shadow.
    pub hpa: Hpa,
    /// What is there.
    pub memory: Memory,
}

/// The roots of the two trees of a VM, to be copied to where no lock may be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Roots {
    run: Hpa,
    step: Hpa,
}

impl Roots {
    /// `VTTBR_EL2` for a view: VMID in bits 55:48, BADDR, CnP clear. See the module's head for how
    /// to switch.
    pub fn vttbr(&self, view: View, vmid: u8) -> u64 {
        let root = match view {
            View::Run => self.run,
            View::Step => self.step,
        };
        u64::from(vmid) << 48 | root.0
    }

    /// What the guest's memory is at `gpa`, probes or not.
    pub fn translate(&self, port: &impl Port, gpa: Gpa) -> Option<Mapping> {
        let entry = walk(port, self.step, gpa);
        if !entry.value.is_valid() {
            return None;
        }
        let offset = gpa.0 & (entry.level.entry_size() - 1);
        let hpa = Hpa(entry.value.address().0 + offset);
        Some(Mapping {
            hpa,
            memory: entry.value.memory(),
        })
    }

    /// Whether the page of `gpa` carries a probe.
    pub fn is_shadowed(&self, port: &impl Port, gpa: Gpa) -> bool {
        walk(port, self.run, gpa).value.is_shadow()
    }

    /// What a translation or permission fault at `gpa` in the run view means.
    pub fn fault(&self, port: &impl Port, gpa: Gpa, access: Access) -> Fault {
        let Some(mapping) = self.translate(port, gpa) else {
            return Fault::Unmapped;
        };
        match (mapping.memory, access) {
            (Memory::Device, Access::Fetch) => Fault::Forbidden,
            (Memory::Ram, Access::Data) if self.is_shadowed(port, gpa) => Fault::Probed,
            _ => Fault::Retry,
        }
    }
}

/// What [`Views`] may take at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Pages with probes. Each takes a 4 KiB frame and, alone in its 2 MiB, one or two more for
    /// tables.
    pub shadows: usize,
    /// Armed words. Each takes some tens of bytes of heap.
    pub sites: usize,
}

/// An armed word.
#[derive(Clone, Copy, Debug)]
struct Site {
    /// What a fetch sees.
    probe: u32,
    /// What the guest's memory held when it was last looked at.
    original: u32,
}

/// A page with probes.
#[derive(Debug)]
struct Shadow {
    /// The copy.
    frame: Hpa,
    /// Armed words by their address.
    sites: BTreeMap<Gpa, Site>,
}

/// The two views of one VM.
#[derive(Debug)]
pub struct Views<P> {
    port: P,
    run: Tables,
    step: Tables,
    /// Pages with probes, by page address.
    shadows: BTreeMap<Gpa, Shadow>,
    sites: usize,
    limits: Limits,
}

impl<P: Port> Views<P> {
    /// Two views in which nothing is mapped.
    pub fn new(port: P, limits: Limits) -> Result<Self, MapError> {
        let run = Tables::new(&port)?;
        let step = Tables::new(&port)?;
        Ok(Self {
            port,
            run,
            step,
            shadows: BTreeMap::new(),
            sites: 0,
            limits,
        })
    }

    /// Maps RAM in both views, before the VM runs. After an error the VM is not usable.
    pub fn map_ram(&mut self, gpa: Gpa, hpa: Hpa, size: u64) -> Result<(), MapError> {
        self.map(gpa, hpa, size, Memory::Ram)
    }

    /// Maps a device in both views, before the VM runs. After an error the VM is not usable.
    pub fn map_device(&mut self, gpa: Gpa, hpa: Hpa, size: u64) -> Result<(), MapError> {
        self.map(gpa, hpa, size, Memory::Device)
    }

    fn map(&mut self, gpa: Gpa, hpa: Hpa, size: u64, memory: Memory) -> Result<(), MapError> {
        self.step.map(&self.port, gpa, hpa, size, memory)?;
        self.run.map(&self.port, gpa, hpa, size, memory)
    }

    /// The roots, for the hit path and for `VTTBR_EL2`. They stay the same for the life of the VM.
    pub fn roots(&self) -> Roots {
        Roots {
            run: self.run.root(),
            step: self.step.root(),
        }
    }

    /// [`Roots::vttbr`].
    pub fn vttbr(&self, view: View, vmid: u8) -> u64 {
        self.roots().vttbr(view, vmid)
    }

    /// [`Roots::translate`].
    pub fn translate(&self, gpa: Gpa) -> Option<Mapping> {
        self.roots().translate(&self.port, gpa)
    }

    /// The port that the views edit their tables through.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// Makes fetches of the word at `gpa` (a multiple of 4) in the run view see `probe`. Arming an
    /// armed word replaces its instruction. On an error nothing has changed. All vCPUs of the VM
    /// are at EL2.
    pub fn arm(&mut self, gpa: Gpa, probe: u32) -> Result<(), ArmError> {
        let Some(Mapping {
            hpa,
            memory: Memory::Ram,
        }) = self.translate(gpa)
        else {
            return Err(ArmError::NotRam(gpa));
        };
        if !gpa.0.is_multiple_of(WORD) {
            return Err(ArmError::NotRam(gpa));
        }
        let site = Site {
            probe,
            original: self.port.read_word(hpa),
        };
        let Some(shadow) = self.shadows.get_mut(&gpa.page()) else {
            return self.shadow(gpa, hpa.page(), site);
        };
        match shadow.sites.get_mut(&gpa) {
            Some(armed) => armed.probe = probe,
            None if self.sites >= self.limits.sites => return Err(ArmError::OutOfMemory),
            None => {
                shadow.sites.insert(gpa, site);
                self.sites += 1;
            }
        }
        let frame = shadow.frame;
        self.write_shadow(frame, gpa, probe);
        Ok(())
    }

    /// Makes fetches of the word at `gpa`, whose page has the shadow `frame`, see `word`.
    fn write_shadow(&self, frame: Hpa, gpa: Gpa, word: u32) {
        let at = Hpa(frame.0 + gpa.page_offset());
        self.port.write_word(at, word);
        self.port.sync_icache(at, WORD);
    }

    /// Gives the page of `gpa`, which is at `original`, a shadow with one site.
    fn shadow(&mut self, gpa: Gpa, original: Hpa, site: Site) -> Result<(), ArmError> {
        if self.shadows.len() >= self.limits.shadows || self.sites >= self.limits.sites {
            return Err(ArmError::OutOfMemory);
        }
        let frame = self.port.allocate().ok_or(ArmError::OutOfMemory)?;
        for offset in (0..PAGE_SIZE).step_by(WORD as usize) {
            let word = self.port.read_word(Hpa(original.0 + offset));
            self.port.write_word(Hpa(frame.0 + offset), word);
        }
        self.port
            .write_word(Hpa(frame.0 + gpa.page_offset()), site.probe);
        self.port.sync_icache(frame, PAGE_SIZE);
        if self
            .run
            .set_page(&self.port, gpa.page(), Descriptor::shadow(frame))
            .is_err()
        {
            self.port.free(frame);
            return Err(ArmError::OutOfMemory);
        }
        let sites = BTreeMap::from([(gpa, site)]);
        self.shadows.insert(gpa.page(), Shadow { frame, sites });
        self.sites += 1;
        Ok(())
    }

    /// Makes fetches of the word at `gpa` see the original again. With the last armed word of a
    /// page its shadow goes; with the last shadow under a block, the block is whole again. Nothing
    /// happens where nothing is armed. All vCPUs of the VM are at EL2.
    pub fn disarm(&mut self, gpa: Gpa) {
        let page = gpa.page();
        let Some(shadow) = self.shadows.get_mut(&page) else {
            return;
        };
        if shadow.sites.remove(&gpa).is_none() {
            return;
        }
        self.sites -= 1;
        let frame = shadow.frame;
        if shadow.sites.is_empty() {
            self.shadows.remove(&page);
            self.restore(page);
            self.port.free(frame);
            return;
        }
        let Some(mapping) = self.roots().translate(&self.port, gpa) else {
            return;
        };
        self.write_shadow(frame, gpa, self.port.read_word(mapping.hpa));
    }

    /// Maps `page`, which has no shadow any more, in the run view as it is in the step view: by the
    /// coarsest leaf under which no shadow is left.
    fn restore(&mut self, page: Gpa) {
        let whole = self.step.walk(&self.port, page);
        let mut level = whole.level;
        while let Some(below) = level.below()
            && self.has_shadow_under(level, page)
        {
            level = below;
        }
        let leaf = whole.value.part(whole.level, page, level);
        self.run.set_leaf(&self.port, page, level, leaf);
    }

    /// Whether any page has a shadow under the entry of `level` that covers `gpa`.
    fn has_shadow_under(&self, level: Level, gpa: Gpa) -> bool {
        let start = level.start(gpa);
        let end = Gpa(start.0 + level.entry_size());
        self.shadows.range(start..end).next().is_some()
    }

    /// Brings the shadow of the page of `gpa` up to date after the guest may have written to the
    /// page. `changed` is called for every armed word whose original is another one now, with its
    /// address and the new original; the word stays armed. Other vCPUs may run. No effect on a page
    /// without probes.
    pub fn refresh(&mut self, gpa: Gpa, changed: &mut dyn FnMut(Gpa, u32)) {
        let page = gpa.page();
        let Some(Mapping { hpa, .. }) = self.translate(page) else {
            return;
        };
        let Some(shadow) = self.shadows.get_mut(&page) else {
            return;
        };
        for offset in (0..PAGE_SIZE).step_by(WORD as usize) {
            let address = Gpa(page.0 + offset);
            let original = self.port.read_word(Hpa(hpa.0 + offset));
            if let Some(site) = shadow.sites.get_mut(&address) {
                if site.original != original {
                    site.original = original;
                    changed(address, original);
                }
                continue;
            }
            let at = Hpa(shadow.frame.0 + offset);
            if self.port.read_word(at) != original {
                self.port.write_word(at, original);
                self.port.sync_icache(at, WORD);
            }
        }
    }

    /// [`Views::refresh`] for every page with probes: a guest has written, nobody knows where.
    pub fn refresh_all(&mut self, changed: &mut dyn FnMut(Gpa, u32)) {
        let mut next = Gpa(0);
        while let Some((&page, _)) = self.shadows.range(next..).next() {
            self.refresh(page, changed);
            next = Gpa(page.0 + PAGE_SIZE);
        }
    }

    /// Whether the page of `gpa` carries a probe.
    pub fn is_shadowed(&self, gpa: Gpa) -> bool {
        self.shadows.contains_key(&gpa.page())
    }

    /// The probe instruction at `gpa`, if it is armed.
    pub fn armed(&self, gpa: Gpa) -> Option<u32> {
        self.shadows
            .get(&gpa.page())?
            .sites
            .get(&gpa)
            .map(|site| site.probe)
    }

    /// How many pages have a shadow.
    pub fn shadows(&self) -> usize {
        self.shadows.len()
    }

    /// How many words are armed.
    pub fn sites(&self) -> usize {
        self.sites
    }

    /// How many frames the tables of both views take.
    pub fn tables(&self) -> usize {
        self.run.tables() + self.step.tables()
    }
}
