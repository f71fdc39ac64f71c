//! Filling the list registers and reading them back.

use super::bank::bits;
use super::lr::{ListReg, MAX_LIST_REGS, OnDeactivation, hcr};
use super::{BankId, FIRST_SPI, ListRegs, VTIMER, VTIMER_INTID, VcpuMask, Vgic, spi_position};

/// Whether [`Vgic::flush`] gives pending interrupts to the vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// It does.
    Normal,
    /// It gives active ones only: the vCPU executes one instruction that no interrupt gets ahead of, and may end an
    /// interrupt with it.
    Withheld,
}

/// What the caller of [`Vgic::flush`] does to the physical virtual-timer interrupt of its CPU before the guest runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a timer interrupt that is not deactivated never fires again"]
pub enum PhysicalTimer {
    /// Nothing.
    Keep,
    /// Deactivates it: writes INTID 27 to `ICC_DIR_EL1`.
    Deactivate,
}

/// An interrupt that wants a list register. Derived order: the one to be served first is the smallest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    priority: u8,
    intid: u32,
}

/// The best few of many candidates, in order.
struct Best {
    items: [Candidate; MAX_LIST_REGS],
    len: usize,
    total: usize,
}

impl Best {
    const fn new() -> Self {
        Self {
            items: [Candidate {
                priority: 0,
                intid: 0,
            }; MAX_LIST_REGS],
            len: 0,
            total: 0,
        }
    }

    fn insert(&mut self, candidate: Candidate) {
        self.total += 1;
        let at = self.items[..self.len].partition_point(|item| *item <= candidate);
        if at == MAX_LIST_REGS {
            return;
        }
        self.len = (self.len + 1).min(MAX_LIST_REGS);
        self.items[at..self.len].rotate_right(1);
        self.items[at] = candidate;
    }

    /// The first `limit`.
    fn first(&self, limit: usize) -> &[Candidate] {
        &self.items[..self.len.min(limit)]
    }
}

impl Vgic {
    /// Fills the list registers of the CPU that is about to enter `vcpu`, and sets `regs.hcr`. The registers that were
    /// in use before have been through [`Vgic::sync`], or were never loaded.
    pub fn flush(&mut self, vcpu: usize, regs: &mut ListRegs, delivery: Delivery) -> PhysicalTimer {
        let count = regs.present().len();
        *regs = ListRegs::new(count);
        if vcpu >= self.vcpus.len() {
            return PhysicalTimer::Keep;
        }
        self.reclaim(vcpu);
        let (active, pending) = self.candidates(vcpu, delivery);
        // One register for a pending interrupt, or NPIE would fire for ever.
        let kept_for_pending = usize::from(pending.total != 0);
        let active_fit = active.first(count - kept_for_pending);
        let pending_fit = pending.first(count - active_fit.len());
        for (lr, candidate) in regs.lr.iter_mut().zip(active_fit.iter().chain(pending_fit)) {
            *lr = self.list(vcpu, *candidate, delivery).encode();
        }
        if active.total > active_fit.len() {
            regs.hcr |= hcr::LRENPIE;
        }
        if pending.total > pending_fit.len() {
            regs.hcr |= hcr::NPIE;
        }
        match core::mem::take(&mut self.vcpus[vcpu].deactivate_timer) {
            true => PhysicalTimer::Deactivate,
            false => PhysicalTimer::Keep,
        }
    }

    /// Folds the list registers of a CPU that has left `vcpu` back. Returns the other vCPUs that now have something to take.
    pub fn sync(&mut self, vcpu: usize, regs: &ListRegs) -> VcpuMask {
        if vcpu >= self.vcpus.len() {
            return VcpuMask::NONE;
        }
        for _ in 0..regs.eoi_count() {
            self.deactivate_unlisted(vcpu);
        }
        let mut kick = VcpuMask::NONE;
        for lr in regs.present().iter().filter(|lr| **lr != 0) {
            kick |= self.unlist(vcpu, ListReg::decode(*lr));
        }
        kick.without(vcpu)
    }

    /// Takes back what a flush gave and nobody synced.
    fn reclaim(&mut self, vcpu: usize) {
        self.vcpus[vcpu].bank.reclaim(!0);
        for word in 0..self.spis.len() {
            let held = self.held(word, vcpu);
            self.spis[word].reclaim(held);
        }
    }

    /// The SPIs of a bank that `vcpu` holds.
    fn held(&self, word: usize, vcpu: usize) -> u32 {
        let bank = &self.spis[word];
        bits(bank.in_lr | bank.active)
            .filter(|bit| self.routes[32 * word + bit].holder == vcpu)
            .fold(0, |held, bit| held | 1 << bit)
    }

    /// What wants a list register of `vcpu`: active interrupts, and pending ones that are not active.
    fn candidates(&self, vcpu: usize, delivery: Delivery) -> (Best, Best) {
        let (mut active, mut pending) = (Best::new(), Best::new());
        let delivers = self.enabled && delivery == Delivery::Normal;
        let private = &self.vcpus[vcpu].bank;
        for bit in bits(private.active) {
            active.insert(Candidate {
                priority: private.priority[bit],
                intid: bit as u32,
            });
        }
        for bit in bits(private.deliverable() & !private.active).take_while(|_| delivers) {
            pending.insert(Candidate {
                priority: private.priority[bit],
                intid: bit as u32,
            });
        }
        for (word, bank) in self.spis.iter().enumerate() {
            let candidate = |bit: usize| Candidate {
                priority: bank.priority[bit],
                intid: FIRST_SPI + (32 * word + bit) as u32,
            };
            for bit in bits(self.held(word, vcpu) & bank.active) {
                active.insert(candidate(bit));
            }
            for bit in bits(bank.deliverable() & !bank.active).take_while(|_| delivers) {
                if self.recipient(word, bit) == Some(vcpu) {
                    pending.insert(candidate(bit));
                }
            }
        }
        (active, pending)
    }

    /// Moves an interrupt into a list register.
    fn list(&mut self, vcpu: usize, candidate: Candidate, delivery: Delivery) -> ListReg {
        let (id, bit) = self.position(vcpu, candidate.intid);
        let delivers = self.enabled && delivery == Delivery::Normal;
        if let BankId::Spi(_) = id {
            self.routes[(candidate.intid - FIRST_SPI) as usize].holder = vcpu;
        }
        let bank = self.bank_mut(id);
        let pending = if delivers {
            bank.deliverable() & bit
        } else {
            0
        };
        let on_deactivation = if bank.linked & bit != 0 {
            OnDeactivation::Physical(VTIMER_INTID)
        } else if bank.edge & bit != 0 {
            OnDeactivation::Nothing
        } else {
            OnDeactivation::Maintenance
        };
        bank.enter_list(bit, pending);
        ListReg {
            intid: candidate.intid,
            priority: candidate.priority,
            pending: pending != 0,
            active: bank.active & bit != 0,
            on_deactivation,
        }
    }

    /// Takes an interrupt out of a list register. Returns whom it concerns now.
    fn unlist(&mut self, vcpu: usize, lr: ListReg) -> VcpuMask {
        if lr.intid >= FIRST_SPI && spi_position(lr.intid).is_none() {
            return VcpuMask::NONE;
        }
        let (id, bit) = self.position(vcpu, lr.intid);
        if self.bank(id).in_lr & bit == 0 {
            return VcpuMask::NONE;
        }
        let bank = self.bank_mut(id);
        if lr.pending {
            bank.latch |= bank.lr_latch & bit;
        }
        if bank.active_written & bit == 0 {
            bank.active = if lr.active {
                bank.active | bit
            } else {
                bank.active & !bit
            };
        }
        bank.leave_list(bit);
        if let OnDeactivation::Physical(_) = lr.on_deactivation {
            self.unlist_timer(vcpu, lr);
        }
        self.appeared(id, bit)
    }

    /// What became of the physical timer interrupt behind a list register.
    fn unlist_timer(&mut self, vcpu: usize, lr: ListReg) {
        let private = &mut self.vcpus[vcpu];
        let bank = &mut private.bank;
        if lr.pending {
            return;
        }
        // Acknowledged: the line is looked at again when the physical interrupt fires again.
        bank.level &= !VTIMER;
        if bank.active & VTIMER != 0 {
            return;
        }
        // Not active any more. Where the guest ended it, the hardware has deactivated the physical one; where another
        // vCPU wrote ICACTIVER meanwhile, nobody has.
        private.deactivate_timer |= lr.active && bank.linked & VTIMER != 0;
        bank.linked &= !VTIMER;
    }

    /// A deactivation found no list register: ends the active interrupt of the highest priority that has none.
    fn deactivate_unlisted(&mut self, vcpu: usize) {
        let mut best = Best::new();
        let private = &self.vcpus[vcpu].bank;
        for bit in bits(private.active & !private.in_lr) {
            best.insert(Candidate {
                priority: private.priority[bit],
                intid: bit as u32,
            });
        }
        for (word, bank) in self.spis.iter().enumerate() {
            for bit in bits(self.held(word, vcpu) & bank.active & !bank.in_lr) {
                let intid = FIRST_SPI + (32 * word + bit) as u32;
                best.insert(Candidate {
                    priority: bank.priority[bit],
                    intid,
                });
            }
        }
        let Some(ended) = best.first(1).first() else {
            return;
        };
        let (id, bit) = self.position(vcpu, ended.intid);
        let physical = self.bank_mut(id).clear_active(bit);
        self.vcpus[vcpu].deactivate_timer |= physical != 0;
    }

    /// Where the interrupt `intid` of `vcpu` is. It exists.
    fn position(&self, vcpu: usize, intid: u32) -> (BankId, u32) {
        spi_position(intid).unwrap_or((BankId::Private(vcpu), 1 << (intid % FIRST_SPI)))
    }
}
