//! The two stage-2 views of a VM: what its vCPUs fetch where probes are, and what everything else
//! sees.
//!
//! Guest code is never patched in place. A VM has two trees of stage-2 tables:
//!
//! - the **step view** maps every page to itself, with all permissions. It never changes once the
//!   VM runs.
//! - the **run view** is the same, except that a page with probes is mapped to a *shadow*: a copy
//!   that holds the probe instructions and that the guest can execute but neither read nor write.
//!   Or, where a user wants no probe instruction anywhere, to itself and **not executable**: then
//!   every fetch from the page faults, and the address tells whether it is a hit or an instruction
//!   to be executed in the step view. One such site makes the whole page so, whatever the others
//!   want.
//!
//! vCPUs are in the run view. A data access to a page with a shadow, table walks of stage 1 and cache
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
use crate::machine::{ArmError, FetchTrap};
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
    /// A data access to a page with a shadow: execute the instruction in the step view.
    Probed,
    /// A fetch from a page that is not executable because of a probe on it: a hit, or an
    /// instruction beside one, to be executed in the step view.
    NoExecute,
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

    /// Whether the page of `gpa` has a shadow.
    pub fn is_shadowed(&self, port: &impl Port, gpa: Gpa) -> bool {
        walk(port, self.run, gpa).value.is_shadow()
    }

    fn is_no_execute(&self, port: &impl Port, gpa: Gpa) -> bool {
        walk(port, self.run, gpa).value.is_no_execute()
    }

    /// What a translation or permission fault at `gpa` in the run view means.
    pub fn fault(&self, port: &impl Port, gpa: Gpa, access: Access) -> Fault {
        let Some(mapping) = self.translate(port, gpa) else {
            return Fault::Unmapped;
        };
        match (mapping.memory, access) {
            (Memory::Device, Access::Fetch) => Fault::Forbidden,
            (Memory::Ram, Access::Data) if self.is_shadowed(port, gpa) => Fault::Probed,
            (Memory::Ram, Access::Fetch) if self.is_no_execute(port, gpa) => Fault::NoExecute,
            _ => Fault::Retry,
        }
    }
}

/// What [`Views`] may take at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Pages with probes. Each takes a 4 KiB frame, unless it is only made not executable, and,
    /// alone in its 2 MiB, one or two more for tables.
    pub pages: usize,
    /// Armed words. Each takes some tens of bytes of heap.
    pub sites: usize,
}

/// An armed word.
#[derive(Clone, Copy, Debug)]
struct Site {
    /// How its fetch traps.
    trap: FetchTrap,
    /// What the guest's memory held when it was last looked at. Not kept up to date while the page
    /// is [`PageKind::NoExecute`].
    original: u32,
}

/// What the run view has in the place of a page with probes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PageKind {
    /// A copy with the probe instructions, in this frame: executable, and neither readable nor
    /// writable.
    Shadow(Hpa),
    /// The page itself, not executable. Every fetch from it faults, and the exact address tells
    /// whether it is a site.
    NoExecute,
}

/// A page with probes.
#[derive(Debug)]
struct ProbedPage {
    kind: PageKind,
    /// Armed words by their address.
    sites: BTreeMap<Gpa, Site>,
}

impl ProbedPage {
    fn wants_no_execute(&self) -> bool {
        let mut sites = self.sites.values();
        sites.any(|site| site.trap == FetchTrap::NoExecute)
    }
}

/// The two views of one VM.
#[derive(Debug)]
pub struct Views<P> {
    port: P,
    run: Tables,
    step: Tables,
    /// Pages with probes, by page address.
    pages: BTreeMap<Gpa, ProbedPage>,
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
            pages: BTreeMap::new(),
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

    /// Makes fetches of the word at `gpa` (a multiple of 4) in the run view trap as `trap` says.
    /// Arming an armed word replaces how it traps. On an error nothing has changed. All vCPUs of
    /// the VM are at EL2.
    pub fn arm(&mut self, gpa: Gpa, trap: FetchTrap) -> Result<(), ArmError> {
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
            trap,
            original: self.port.read_word(hpa),
        };
        let page = gpa.page();
        let known = self.pages.get(&page);
        let is_new = known.is_none_or(|page| !page.sites.contains_key(&gpa));
        if is_new && self.sites >= self.limits.sites {
            return Err(ArmError::OutOfMemory);
        }
        match known.map(|page| page.kind) {
            None => self.begin_page(page, hpa.page(), trap)?,
            Some(PageKind::Shadow(_)) if trap == FetchTrap::NoExecute => {
                self.set_kind(page, hpa.page(), PageKind::NoExecute)?;
            }
            Some(_) => {}
        }
        self.sites += usize::from(is_new);
        let Some(probed) = self.pages.get_mut(&page) else {
            return Ok(());
        };
        probed.sites.insert(gpa, site);
        match (probed.kind, trap) {
            (PageKind::Shadow(frame), FetchTrap::Instruction(probe)) => {
                self.write_shadow(frame, gpa, probe);
            }
            _ => self.make_executable(page),
        }
        Ok(())
    }

    /// Makes fetches of the word at `gpa`, whose page has the shadow `frame`, see `word`.
    fn write_shadow(&self, frame: Hpa, gpa: Gpa, word: u32) {
        let at = Hpa(frame.0 + gpa.page_offset());
        self.port.write_word(at, word);
        self.port.sync_icache(at, WORD);
    }

    /// Prepares a page, which is at `original` and has no probes, for a site of `trap`.
    fn begin_page(&mut self, page: Gpa, original: Hpa, trap: FetchTrap) -> Result<(), ArmError> {
        if self.pages.len() >= self.limits.pages {
            return Err(ArmError::OutOfMemory);
        }
        let sites = BTreeMap::new();
        let kind = match trap {
            FetchTrap::Instruction(_) => PageKind::Shadow(self.copy(original, &sites)?),
            FetchTrap::NoExecute => PageKind::NoExecute,
        };
        if let Err(error) = self.show(page, original, kind) {
            self.release(kind);
            return Err(error);
        }
        self.pages.insert(page, ProbedPage { kind, sites });
        Ok(())
    }

    /// A copy of the page at `original`, with the probe instructions of `sites`.
    fn copy(&self, original: Hpa, sites: &BTreeMap<Gpa, Site>) -> Result<Hpa, ArmError> {
        let frame = self.port.allocate().ok_or(ArmError::OutOfMemory)?;
        for offset in (0..PAGE_SIZE).step_by(WORD as usize) {
            let word = self.port.read_word(Hpa(original.0 + offset));
            self.port.write_word(Hpa(frame.0 + offset), word);
        }
        for (gpa, site) in sites {
            if let FetchTrap::Instruction(probe) = site.trap {
                self.port
                    .write_word(Hpa(frame.0 + gpa.page_offset()), probe);
            }
        }
        self.port.sync_icache(frame, PAGE_SIZE);
        Ok(frame)
    }

    /// Maps a page, which is at `original`, in the run view as `kind` says.
    fn show(&mut self, page: Gpa, original: Hpa, kind: PageKind) -> Result<(), ArmError> {
        let leaf = match kind {
            PageKind::Shadow(frame) => Descriptor::shadow(frame),
            PageKind::NoExecute => Descriptor::no_execute(original),
        };
        let shown = self.run.set_page(&self.port, page, leaf);
        shown.map_err(|_| ArmError::OutOfMemory)
    }

    /// Changes how a page with probes, which is at `original`, is mapped.
    fn set_kind(&mut self, page: Gpa, original: Hpa, kind: PageKind) -> Result<(), ArmError> {
        self.show(page, original, kind)?;
        if let Some(probed) = self.pages.get_mut(&page) {
            let before = core::mem::replace(&mut probed.kind, kind);
            self.release(before);
        }
        Ok(())
    }

    /// Gives back the frame of a page that is not mapped that way any more.
    fn release(&self, kind: PageKind) {
        if let PageKind::Shadow(frame) = kind {
            self.port.free(frame);
        }
    }

    /// Gives a page a shadow that no site wants not executable any more. Where no frame is left for
    /// it, the page stays as it is: it traps all the same, and costs more.
    fn make_executable(&mut self, page: Gpa) {
        let Some(Mapping { hpa, .. }) = self.translate(page) else {
            return;
        };
        let Some(probed) = self.pages.get_mut(&page) else {
            return;
        };
        if probed.kind != PageKind::NoExecute || probed.wants_no_execute() {
            return;
        }
        for (gpa, site) in &mut probed.sites {
            site.original = self.port.read_word(Hpa(hpa.0 + gpa.page_offset()));
        }
        let sites = core::mem::take(&mut probed.sites);
        if let Ok(frame) = self.copy(hpa, &sites)
            && self.set_kind(page, hpa, PageKind::Shadow(frame)).is_err()
        {
            self.port.free(frame);
        }
        if let Some(probed) = self.pages.get_mut(&page) {
            probed.sites = sites;
        }
    }

    /// Makes fetches of the word at `gpa` see the original again. With the last armed word of a
    /// page its shadow goes; with the last probed page under a block, the block is whole again.
    /// Nothing happens where nothing is armed. All vCPUs of the VM are at EL2.
    pub fn disarm(&mut self, gpa: Gpa) {
        let page = gpa.page();
        let Some(probed) = self.pages.get_mut(&page) else {
            return;
        };
        if probed.sites.remove(&gpa).is_none() {
            return;
        }
        self.sites -= 1;
        let kind = probed.kind;
        if probed.sites.is_empty() {
            self.pages.remove(&page);
            self.restore(page);
            self.release(kind);
            return;
        }
        match (kind, self.roots().translate(&self.port, gpa)) {
            (PageKind::Shadow(frame), Some(mapping)) => {
                self.write_shadow(frame, gpa, self.port.read_word(mapping.hpa));
            }
            _ => self.make_executable(page),
        }
    }

    /// Maps `page`, which has no probes any more, in the run view as it is in the step view: by the
    /// coarsest leaf under which no probed page is left.
    fn restore(&mut self, page: Gpa) {
        let whole = self.step.walk(&self.port, page);
        let mut level = whole.level;
        while let Some(below) = level.below()
            && self.is_probed_under(level, page)
        {
            level = below;
        }
        let leaf = whole.value.part(whole.level, page, level);
        self.run.set_leaf(&self.port, page, level, leaf);
    }

    /// Whether any page has probes under the entry of `level` that covers `gpa`.
    fn is_probed_under(&self, level: Level, gpa: Gpa) -> bool {
        let start = level.start(gpa);
        let end = Gpa(start.0 + level.entry_size());
        self.pages.range(start..end).next().is_some()
    }

    /// Brings the shadow of the page of `gpa` up to date after the guest may have written to the
    /// page. `changed` is called for every armed word whose original is another one now, with its
    /// address and the new original; the word stays armed. Other vCPUs may run. No effect on a page
    /// without shadow.
    pub fn refresh(&mut self, gpa: Gpa, changed: &mut dyn FnMut(Gpa, u32)) {
        let page = gpa.page();
        let Some(Mapping { hpa, .. }) = self.translate(page) else {
            return;
        };
        let Some(ProbedPage {
            kind: PageKind::Shadow(frame),
            sites,
        }) = self.pages.get_mut(&page)
        else {
            return;
        };
        for offset in (0..PAGE_SIZE).step_by(WORD as usize) {
            let address = Gpa(page.0 + offset);
            let original = self.port.read_word(Hpa(hpa.0 + offset));
            if let Some(site) = sites.get_mut(&address) {
                if site.original != original {
                    site.original = original;
                    changed(address, original);
                }
                continue;
            }
            let at = Hpa(frame.0 + offset);
            if self.port.read_word(at) != original {
                self.port.write_word(at, original);
                self.port.sync_icache(at, WORD);
            }
        }
    }

    /// [`Views::refresh`] for every page with probes: a guest has written, nobody knows where.
    pub fn refresh_all(&mut self, changed: &mut dyn FnMut(Gpa, u32)) {
        let mut next = Gpa(0);
        while let Some((&page, _)) = self.pages.range(next..).next() {
            self.refresh(page, changed);
            next = Gpa(page.0 + PAGE_SIZE);
        }
    }

    /// Whether the page of `gpa` has a shadow.
    pub fn is_shadowed(&self, gpa: Gpa) -> bool {
        let page = self.pages.get(&gpa.page());
        page.is_some_and(|page| matches!(page.kind, PageKind::Shadow(_)))
    }

    /// How a fetch of the word at `gpa` traps, if it is armed.
    pub fn armed(&self, gpa: Gpa) -> Option<FetchTrap> {
        let page = self.pages.get(&gpa.page())?;
        let site = page.sites.get(&gpa)?;
        match page.kind {
            PageKind::Shadow(_) => Some(site.trap),
            PageKind::NoExecute => Some(FetchTrap::NoExecute),
        }
    }

    /// How many pages have a shadow.
    pub fn shadows(&self) -> usize {
        let is_shadow = |page: &&ProbedPage| matches!(page.kind, PageKind::Shadow(_));
        self.pages.values().filter(is_shadow).count()
    }

    /// How many pages are not executable.
    pub fn no_execute(&self) -> usize {
        self.pages.len() - self.shadows()
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
