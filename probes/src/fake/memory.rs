//! RAM, and memory as a vCPU sees it.

use super::{FakeMachine, PageView};
use crate::addr::{Gpa, Gva, PAGE_SIZE};
use crate::machine::{GuestFault, HwPoint, LiveMemory, PhysFault, PhysMemory, WatchKind};
use crate::regs::{CoreRegs, FpRegs, SysReg, SysRegs, pstate};
use crate::translate::{Access, SCTLR_M, TranslationRegs, translate};
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

/// An access to RAM.
pub(super) enum PhysicalAccess<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl FakeMachine {
    /// Puts instructions into RAM; what lies outside is left out.
    pub(super) fn store_words(&self, gpa: Gpa, words: &[u32]) {
        for (index, word) in words.iter().enumerate() {
            let word_gpa = Gpa(gpa.0 + 4 * index as u64);
            let _ = self.write_phys(word_gpa, &word.to_le_bytes());
        }
    }

    pub(super) fn access_phys(
        &self,
        gpa: Gpa,
        access: PhysicalAccess<'_>,
    ) -> Result<(), PhysFault> {
        let length = match &access {
            PhysicalAccess::Read(buffer) => buffer.len(),
            PhysicalAccess::Write(bytes) => bytes.len(),
        };
        if gpa.page() == Self::DEVICE {
            return Err(PhysFault::Device(gpa));
        }
        let mut ram = self.ram.lock();
        let start = gpa
            .0
            .checked_sub(Self::RAM_BASE.0)
            .and_then(|start| usize::try_from(start).ok());
        let range = start.and_then(|start| Some(start..start.checked_add(length)?));
        let bytes = range.and_then(|range| ram.get_mut(range));
        let bytes = bytes.ok_or(PhysFault::Unmapped(gpa))?;
        match access {
            PhysicalAccess::Read(buffer) => buffer.copy_from_slice(bytes),
            PhysicalAccess::Write(new) => {
                bytes.copy_from_slice(new);
                drop(ram);
                self.written(gpa, length);
            }
        }
        Ok(())
    }

    /// What a write means to others: exclusive monitors are lost, and sites adopt what the guest
    /// wrote.
    fn written(&self, gpa: Gpa, length: usize) {
        let first = Gpa(gpa.0 & !7);
        let end = gpa.0 + length as u64;
        let touched = |word: Gpa| (first.0..end).contains(&word.0);
        let armed: alloc::vec::Vec<Gpa> = {
            let mut state = self.state.lock();
            for vcpu in &mut state.vcpus {
                vcpu.monitor = vcpu.monitor.filter(|watched| !touched(*watched));
            }
            state
                .armed
                .keys()
                .copied()
                .filter(|word| touched(*word))
                .collect()
        };
        // Stores to a page that is its own in the execute view are nobody's business.
        let armed = armed
            .into_iter()
            .filter(|word| self.page_view(*word) == PageView::Shadow);
        for word in armed {
            let mut bytes = [0; 4];
            if let (Some(space), Ok(())) = (self.space(), self.read_phys(word, &mut bytes)) {
                space.adopt(word, u32::from_le_bytes(bytes));
            }
        }
    }
}

/// A watchpoint that an access ran into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Watched {
    pub(super) address: Gva,
    pub(super) kind: WatchKind,
}

/// Whether an access looks at the watchpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// The hit path's: refuses what is watched and pages that carry probes, so that the store is
    /// stepped.
    Simulation,
    /// The CPU's own: an access to what is watched is not done, but remembered.
    Cpu,
    /// The CPU's own, with the watchpoints switched off for one instruction.
    Unwatched,
}

/// Memory as a vCPU sees it, at the exception level that it has now.
pub(super) struct VcpuMemory<'a> {
    machine: &'a FakeMachine,
    regs: TranslationRegs,
    task: u64,
    pstate: u64,
    role: Role,
    sys: SysRegs,
    /// The watchpoint that an access ran into.
    pub(super) watched: Cell<Option<Watched>>,
    /// The address that faulted last.
    pub(super) fault: Cell<Option<Gva>>,
}

impl<'a> VcpuMemory<'a> {
    /// `pstate` is the vCPU's.
    pub(super) fn new(machine: &'a FakeMachine, sys: &SysRegs, pstate: u64, role: Role) -> Self {
        Self {
            machine,
            regs: TranslationRegs::from(sys),
            task: sys.get(SysReg::SpEl0),
            pstate,
            role,
            sys: *sys,
            watched: Cell::new(None),
            fault: Cell::new(None),
        }
    }

    /// The GPA of an access that `allowed` permits.
    pub(super) fn translate(
        &self,
        gva: Gva,
        allowed: impl Fn(&Access) -> bool,
    ) -> Result<Gpa, GuestFault> {
        let fault = || {
            self.fault.set(Some(gva));
            GuestFault { address: gva }
        };
        let page = translate(&self.regs, self.machine, gva).map_err(|_| fault())?;
        let permissions = &page.permissions;
        // Loads and stores are simulated at EL1 only.
        let is_user = self.role != Role::Simulation && self.pstate & pstate::MODE_MASK == 0;
        let level = if is_user {
            &permissions.el0
        } else {
            &permissions.el1
        };
        if allowed(level) {
            Ok(page.gpa)
        } else {
            Err(fault())
        }
    }

    /// Refuses what EL0 may read where `PSTATE.PAN` keeps EL1 from it.
    fn check_pan(&self, gva: Gva, length: usize) -> Result<(), GuestFault> {
        let is_on = self.pstate & pstate::PAN != 0 && self.sys.get(SysReg::SctlrEl1) & SCTLR_M != 0;
        if !is_on {
            return Ok(());
        }
        pages(gva, length, |address, _, _| {
            let page = translate(&self.regs, self.machine, address);
            if page.is_ok_and(|page| page.permissions.el0.read) {
                self.fault.set(Some(address));
                return Err(GuestFault { address });
            }
            Ok(())
        })
    }

    /// Refuses an access of kind `access` to what is watched.
    fn check_watchpoints(
        &self,
        gva: Gva,
        length: usize,
        access: WatchKind,
    ) -> Result<(), GuestFault> {
        if self.role == Role::Unwatched {
            return Ok(());
        }
        let last = gva.0.saturating_add(length as u64 - 1);
        for point in self.machine.points() {
            let HwPoint::Watch {
                address,
                length,
                kind,
            } = point
            else {
                continue;
            };
            let overlaps = gva.0 <= address.0.saturating_add(length - 1) && address.0 <= last;
            if overlaps && (kind == WatchKind::Access || kind == access) {
                let address = Gva(address.0.max(gva.0));
                self.watched.set(Some(Watched { address, kind }));
                return Err(GuestFault { address });
            }
        }
        Ok(())
    }

    /// Whether the page is a copy in the execute view.
    fn is_shadowed(&self, gpa: Gpa) -> bool {
        self.machine.page_view(gpa) == PageView::Shadow
    }
}

/// Calls `each` for the parts of `gva..gva + length` that lie in one page each: address, start,
/// end.
fn pages(
    gva: Gva,
    length: usize,
    mut each: impl FnMut(Gva, usize, usize) -> Result<(), GuestFault>,
) -> Result<(), GuestFault> {
    let mut start = 0;
    while start < length {
        let address = gva
            .checked_add(start as u64)
            .ok_or(GuestFault { address: gva })?;
        let end = length.min(start + (PAGE_SIZE - address.page_offset()) as usize);
        each(address, start, end)?;
        start = end;
    }
    Ok(())
}

fn store(places: &[AtomicU64], words: &[u64]) {
    for (place, word) in places.iter().zip(words) {
        place.store(*word, Ordering::Relaxed);
    }
}

impl LiveMemory for VcpuMemory<'_> {
    fn task(&self) -> u64 {
        self.task
    }

    fn store_fp(&self, place: &[AtomicU64; FpRegs::WORDS]) {
        let fp = self.machine.with_turn(|vcpu| vcpu.fp);
        store(place, &fp.as_words());
    }

    fn store_sys(&self, core: &CoreRegs, place: &[AtomicU64]) {
        let mut sys = self.machine.with_turn(|vcpu| vcpu.sys);
        sys.set(SysReg::SpEl1, core.sp);
        let registers = SysReg::ALL.iter().map(|register| sys.get(*register));
        store(place, &registers.collect::<Vec<_>>());
    }

    fn system(&self, register: SysReg) -> Option<u64> {
        Some(self.sys.get(register))
    }

    fn read(&self, gva: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        if buffer.is_empty() {
            return Ok(());
        }
        self.check_watchpoints(gva, buffer.len(), WatchKind::Read)?;
        self.check_pan(gva, buffer.len())?;
        self.inspect(gva, buffer)
    }

    fn inspect(&self, gva: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        pages(gva, buffer.len(), |address, start, end| {
            let gpa = self.translate(address, |access| access.read)?;
            let part = &mut buffer[start..end];
            self.machine
                .read_phys(gpa, part)
                .map_err(|_| GuestFault { address })
        })
    }

    fn write(&self, gva: Gva, bytes: &[u8]) -> Result<(), GuestFault> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.check_watchpoints(gva, bytes.len(), WatchKind::Write)?;
        self.check_pan(gva, bytes.len())?;
        // All or nothing: first look, then write.
        pages(gva, bytes.len(), |address, _, _| {
            let gpa = self.translate(address, |access| access.write)?;
            let refused = self.role == Role::Simulation && self.is_shadowed(gpa);
            let mut byte = [0];
            let is_ram = self.machine.read_phys(gpa, &mut byte).is_ok();
            if refused || !is_ram {
                Err(GuestFault { address })
            } else {
                Ok(())
            }
        })?;
        pages(gva, bytes.len(), |address, start, end| {
            let gpa = self.translate(address, |access| access.write)?;
            self.machine
                .write_phys(gpa, &bytes[start..end])
                .map_err(|_| GuestFault { address })
        })
    }
}
