//! Sites: the words that trap, and what runs there.
//!
//! A site is a guest-physical word. Its number in the [`Table`] is the immediate of its `HVC`, so
//! the way from a trap to its site is one index.

use crate::addr::{Gpa, Gva, PAGE_SIZE};
use crate::engine::HVC_BASE;
use crate::event::{EventKind, Template};
use crate::fixed::filled;
use crate::gdb_trace::recorder::Recorder;
use crate::machine::{FetchTrap, Machine, VcpuId};
use crate::options::{Moment, Orders, ProbeOptions};
use crate::programs::ProgramRef;
use crate::returns::{Keep, Pairing, Role};
use crate::space::MAX_SITES;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What happens at a site, and how often it has. Lives as long as its breakpoint or probe, through
/// every change of the site.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// The probe's or action's number; `None` for a breakpoint of GDB's.
    pub(crate) probe: Option<u32>,
    /// What a hit leaves behind.
    pub(crate) trace: Trace,
    /// What runs at a hit.
    pub(crate) program: Option<ProgramRef>,
    pub(crate) options: ProbeOptions,
    /// The calls under way, where returns are what is asked for.
    pub(crate) pairing: Option<Pairing>,
    /// The entry of the function whose entry or returns are probed, where it is armed; 0 elsewhere.
    function: AtomicU64,
    pub(crate) hits: AtomicU64,
    /// Hits whose program ended with an error, hits from inside a probe, which run nothing and do
    /// not count in `hits`, and calls whose return went by unseen.
    pub(crate) missed: AtomicU64,
    /// How many hits it still takes, where it has a limit.
    left: AtomicU64,
    /// Whether it takes some hits only, or steps after a hit.
    restricted: bool,
}

/// What a hit is to leave behind.
pub(crate) enum HitTrace {
    /// An event of that kind.
    Event(EventKind),
    /// A frame.
    Frame(Arc<Recorder>),
    /// Nothing, as a breakpoint's.
    Nothing,
}

/// What a hit leaves behind, as the hit path wants it.
#[derive(Debug)]
pub(crate) enum Trace {
    /// An event with this record.
    Event(EventKind, Template),
    /// A frame.
    Frame(Arc<Recorder>),
    /// Nothing.
    Nothing,
}

/// Whether a trap is a hit of an attachment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// No: of another vCPU, or one too many.
    Refused,
    /// Yes.
    Hit,
    /// Yes, and the last that it takes.
    LastHit,
}

impl Attachment {
    pub(crate) fn new(
        probe: Option<u32>,
        trace: HitTrace,
        program: Option<ProgramRef>,
        options: ProbeOptions,
    ) -> Arc<Self> {
        let steps = matches!(&trace, HitTrace::Frame(recorder) if recorder.steps != 0);
        let left = AtomicU64::new(options.limit.map_or(0, |limit| limit.get()));
        let pairing = match options.moment {
            Moment::Before => None,
            Moment::Return { max_active } => {
                let signature = program.as_ref().and_then(|it| it.program().signature());
                let keep = signature.map_or(Keep::Calls, |_| Keep::Arguments);
                Some(Pairing::new(max_active.into(), keep))
            }
        };
        Arc::new(Self {
            probe,
            trace: match trace {
                HitTrace::Event(kind) => {
                    Trace::Event(kind, Template::new(kind, probe.unwrap_or(0)))
                }
                HitTrace::Frame(recorder) => Trace::Frame(recorder),
                HitTrace::Nothing => Trace::Nothing,
            },
            program,
            options,
            pairing,
            function: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            left,
            restricted: options.vcpu.is_some() || options.limit.is_some() || steps,
        })
    }

    /// What kind of event a hit writes, if any.
    pub(crate) fn event(&self) -> Option<EventKind> {
        match &self.trace {
            Trace::Event(kind, _) => Some(*kind),
            Trace::Frame(_) | Trace::Nothing => None,
        }
    }

    /// Of a breakpoint of GDB's.
    pub(crate) fn of_breakpoint(orders: &Orders) -> Arc<Self> {
        Self::new(
            None,
            HitTrace::Nothing,
            Some(orders.program.clone()),
            orders.after.into(),
        )
    }

    /// The same with other orders: a breakpoint of GDB's keeps its hits when its condition changes.
    pub(crate) fn with_orders(&self, orders: &Orders) -> Arc<Self> {
        let new = Self::of_breakpoint(orders);
        let counts = [(&new.hits, &self.hits), (&new.missed, &self.missed)];
        for (new, old) in counts {
            new.store(old.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        new
    }

    /// Whether that is the program.
    pub(crate) fn runs(&self, program: &ProgramRef) -> bool {
        self.program.as_ref().is_some_and(|own| own.is(program))
    }

    /// Counts a trap of `vcpu`, if it is a hit.
    #[inline]
    pub(crate) fn admit(&self, vcpu: VcpuId) -> Admission {
        let admission = if self.restricted {
            self.choose(vcpu)
        } else {
            Admission::Hit
        };
        if admission != Admission::Refused {
            self.count();
        }
        admission
    }

    /// The entry of the function whose entry or returns are probed, where it is armed.
    pub(crate) fn function(&self) -> Option<u64> {
        let function = self.function.load(Ordering::Relaxed);
        (function != 0).then_some(function)
    }

    /// Says which function's entry or returns are probed.
    pub(crate) fn set_function(&self, entry: Option<Gva>) {
        let entry = entry.map_or(0, |entry| entry.0);
        self.function.store(entry, Ordering::Relaxed);
    }

    /// Counts a hit that needs no admission.
    #[inline]
    pub(crate) fn count(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Apart from [`Attachment::admit`], which most probes need nothing else of.
    #[inline(never)]
    fn choose(&self, vcpu: VcpuId) -> Admission {
        if self.options.vcpu.is_some_and(|only| only != vcpu) {
            return Admission::Refused;
        }
        if self.options.limit.is_none() {
            return Admission::Hit;
        }
        let one_less = |left: u64| left.checked_sub(1);
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        match taken {
            Ok(1) => Admission::LastHit,
            Ok(_) => Admission::Hit,
            Err(_) => Admission::Refused,
        }
    }

    /// Whether it has had all the hits that it takes.
    pub(crate) fn is_done(&self) -> bool {
        self.options.limit.is_some() && self.left.load(Ordering::Relaxed) == 0
    }

    /// Lets it take as many hits as at first.
    pub(crate) fn refill(&self) {
        if let Some(limit) = self.options.limit {
            self.left.store(limit.get(), Ordering::Relaxed);
        }
    }
}

/// Who says whether a hit stops the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It never does.
    Go,
    /// It always does.
    Stop,
    /// The program: by a result other than 0, and by an error, because a breakpoint must not pass
    /// unseen.
    Program,
}

/// An attachment at a site.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) attachment: Arc<Attachment>,
    pub(crate) verdict: Verdict,
    pub(crate) role: Role,
}

impl Bound {
    /// Whether every trap here is a hit, and one that stops only if the program says so.
    #[inline]
    pub(crate) fn takes_all(&self) -> bool {
        self.role == Role::Here && self.verdict != Verdict::Stop && !self.attachment.restricted
    }
}

/// A word that traps.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) gpa: Gpa,
    /// How it is armed.
    pub(crate) trap: FetchTrap,
    /// The guest's own instruction. Atomic because the guest may write it while it runs. Not kept
    /// up to date while the page is not executable.
    pub(crate) displaced: AtomicU32,
    /// What runs at a hit, in this order.
    pub(crate) bound: Vec<Bound>,
}

/// A hardware breakpoint: a probe that asked for one, or in the place of a site whose page is not
/// mapped yet.
#[derive(Debug)]
pub(crate) struct Cover {
    pub(crate) address: Gva,
    pub(crate) bound: Vec<Bound>,
}

/// All sites of a VM. Changes only while the VM is held.
pub(crate) struct Table {
    slots: Box<[Option<Site>; MAX_SITES]>,
    by_gpa: BTreeMap<Gpa, u16>,
    /// At most [`MAX_COVERS`].
    pub(crate) covers: Vec<Cover>,
}

/// The architecture has at most 16 hardware breakpoints (Arm ARM D2.8.1, `ID_AA64DFR0_EL1.BRPs`).
pub(crate) const MAX_COVERS: usize = 16;

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            slots: filled(|| None),
            by_gpa: BTreeMap::new(),
            covers: Vec::new(),
        }
    }

    /// The site in a slot.
    pub(crate) fn get(&self, slot: u16) -> Option<&Site> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u16) -> Option<&mut Site> {
        self.slots.get_mut(usize::from(slot))?.as_mut()
    }

    /// The site of which `HVC #immediate` at `pc` is the probe instruction.
    #[inline]
    pub(crate) fn trapped(&self, immediate: u16, pc: Gva) -> Option<&Site> {
        let site = self.get(immediate.checked_sub(HVC_BASE)?)?;
        // The page may be mapped anywhere, but the word keeps its place in it.
        (pc.page_offset() == site.gpa.page_offset()).then_some(site)
    }

    /// The site at `gpa`.
    pub(crate) fn at(&self, gpa: Gpa) -> Option<&Site> {
        self.get(self.slot_at(gpa)?)
    }

    /// The slot of the site at `gpa`.
    pub(crate) fn slot_at(&self, gpa: Gpa) -> Option<u16> {
        self.by_gpa.get(&gpa).copied()
    }

    /// How many sites there are.
    pub(crate) fn count(&self) -> usize {
        self.by_gpa.len()
    }

    /// Takes a free slot for a new site at `gpa`, which is yet to be armed; `None` where all are
    /// taken.
    pub(crate) fn allocate(&mut self, gpa: Gpa, displaced: u32) -> Option<u16> {
        let index = self.slots.iter().position(Option::is_none)?;
        let slot = u16::try_from(index).ok()?;
        self.slots[index] = Some(Site {
            gpa,
            trap: FetchTrap::NoExecute,
            displaced: AtomicU32::new(displaced),
            bound: Vec::new(),
        });
        self.by_gpa.insert(gpa, slot);
        Some(slot)
    }

    /// Takes note of how a site is armed.
    pub(crate) fn set_trap(&mut self, slot: u16, trap: FetchTrap) {
        if let Some(site) = self.get_mut(slot) {
            site.trap = trap;
        }
    }

    /// Gives a slot back.
    pub(crate) fn free(&mut self, slot: u16) {
        if let Some(site) = self.slots.get_mut(usize::from(slot)).and_then(Option::take) {
            self.by_gpa.remove(&site.gpa);
        }
    }

    /// Makes every site and cover run nothing.
    pub(crate) fn unbind_all(&mut self) {
        self.covers.clear();
        for site in self.slots.iter_mut().flatten() {
            site.bound.clear();
        }
    }

    /// The cover at `address`.
    pub(crate) fn cover(&self, address: Gva) -> Option<&Cover> {
        self.covers.iter().find(|cover| cover.address == address)
    }

    pub(crate) fn cover_mut(&mut self, address: Gva) -> Option<&mut Cover> {
        self.covers
            .iter_mut()
            .find(|cover| cover.address == address)
    }

    /// Whether the page of `gpa` has a site that makes it not executable.
    pub(crate) fn is_no_execute(&self, gpa: Gpa) -> bool {
        let mut sites = self.on_page(gpa);
        sites.any(|site| site.trap == FetchTrap::NoExecute)
    }

    /// The sites on the page of `gpa`.
    fn on_page(&self, gpa: Gpa) -> impl Iterator<Item = &Site> {
        let last = Gpa(gpa.page().0 | (PAGE_SIZE - 1));
        let slots = self.by_gpa.range(gpa.page()..=last);
        slots.filter_map(|(_, slot)| self.get(*slot))
    }

    /// Looks at the guest's own instructions on the page of `gpa` again. The VM is held.
    pub(crate) fn reload(&self, machine: &dyn Machine, gpa: Gpa) {
        for site in self.on_page(gpa) {
            let mut word = [0; 4];
            if machine.read_phys(site.gpa, &mut word).is_ok() {
                site.displaced
                    .store(u32::from_le_bytes(word), Ordering::Release);
            }
        }
    }

    /// The slots that are taken.
    pub(crate) fn taken(&self) -> Vec<u16> {
        self.by_gpa.values().copied().collect()
    }

    /// The sites where nothing runs.
    pub(crate) fn unused(&self) -> Vec<(u16, Gpa)> {
        let unused = |(gpa, slot): (&Gpa, &u16)| {
            self.get(*slot).filter(|site| site.bound.is_empty())?;
            Some((*slot, *gpa))
        };
        self.by_gpa.iter().filter_map(unused).collect()
    }
}
