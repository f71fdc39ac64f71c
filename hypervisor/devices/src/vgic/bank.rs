//! The state of 32 interrupts, as words in which bit n stands for the n-th of them: what most GIC registers are.

/// 32 interrupts with consecutive INTIDs.
#[derive(Clone, Debug)]
pub(super) struct Bank {
    /// Enabled.
    pub(super) enabled: u32,
    /// In group 1. Interrupts of group 0 are never delivered.
    pub(super) group1: u32,
    /// Edge-triggered; the others are level-sensitive.
    pub(super) edge: u32,
    /// Pending by an edge, an SGI or `ISPENDR`, until the guest acknowledges it.
    pub(super) latch: u32,
    /// The input line is high.
    pub(super) level: u32,
    /// Active, as of the last exit of the vCPU that holds it.
    pub(super) active: u32,
    /// In a list register of a vCPU that has been flushed and not synced since.
    pub(super) in_lr: u32,
    /// The latch of an interrupt that is in a list register: `flush` moves it here so that a new edge is not lost.
    pub(super) lr_latch: u32,
    /// The guest wrote the active bit while the interrupt was in a list register: what `active` says counts.
    pub(super) active_written: u32,
    /// A physical interrupt is active on behalf of this one.
    pub(super) linked: u32,
    /// Priorities, the five bits that are implemented.
    pub(super) priority: [u8; 32],
}

/// The bits of a priority that are implemented: 32 priorities, as `ICH_VTR_EL2.PRIbits` of every supported CPU.
pub(super) const PRIORITY_BITS: u8 = 0xf8;

impl Bank {
    /// 32 interrupts out of reset, the ones in `edge` edge-triggered.
    pub(super) fn new(edge: u32) -> Self {
        Self {
            enabled: 0,
            group1: !0,
            edge,
            latch: 0,
            level: 0,
            active: 0,
            in_lr: 0,
            lr_latch: 0,
            active_written: 0,
            linked: 0,
            priority: [0; 32],
        }
    }

    /// What `ISPENDR` shows.
    pub(super) fn pending(&self) -> u32 {
        self.latch | self.lr_latch | self.level & !self.edge
    }

    /// Interrupts that the guest may take, were the distributor on. A level-sensitive interrupt that is active waits:
    /// its line is sampled again when the guest is through.
    pub(super) fn deliverable(&self) -> u32 {
        let pending = self.latch | self.level & !self.edge;
        pending & self.may_deliver()
    }

    /// Like `deliverable`, with the interrupts that are pending in a list register.
    pub(super) fn deliverable_or_listed(&self) -> u32 {
        self.pending() & self.may_deliver()
    }

    fn may_deliver(&self) -> u32 {
        self.enabled & self.group1 & !(self.active & !self.edge)
    }

    /// Sets the input lines in `bits` to `level`; an edge-triggered interrupt latches its rise.
    pub(super) fn set_level(&mut self, bits: u32, level: bool) {
        if level {
            self.latch |= bits & !self.level & self.edge;
            self.level |= bits;
        } else {
            self.level &= !bits;
        }
    }

    /// Notes that the interrupts in `bits` go into list registers.
    pub(super) fn enter_list(&mut self, bits: u32, pending: u32) {
        self.in_lr |= bits;
        self.lr_latch |= bits & pending & self.latch;
        self.latch &= !(bits & pending);
    }

    /// Forgets list registers that nobody read back: what was in them is as it was before.
    pub(super) fn reclaim(&mut self, bits: u32) {
        self.latch |= self.lr_latch & bits;
        self.leave_list(bits);
    }

    /// Notes that the interrupts in `bits` are in no list register any more.
    pub(super) fn leave_list(&mut self, bits: u32) {
        self.in_lr &= !bits;
        self.lr_latch &= !bits;
        self.active_written &= !bits;
    }

    /// The guest's write to `ICPENDR`. A line that is high keeps its interrupt pending.
    pub(super) fn clear_pending(&mut self, bits: u32) {
        self.latch &= !bits;
        self.lr_latch &= !bits;
    }

    /// The guest's write to `ISACTIVER`.
    pub(super) fn set_active(&mut self, bits: u32) {
        self.active |= bits;
        self.active_written |= bits & self.in_lr;
    }

    /// The guest's write to `ICACTIVER`. Returns the interrupts whose physical ones must be deactivated as well.
    pub(super) fn clear_active(&mut self, bits: u32) -> u32 {
        let physical = bits & self.active & self.linked;
        self.linked &= !physical;
        self.level &= !physical;
        self.active &= !bits;
        self.active_written |= bits & self.in_lr;
        physical
    }

    /// A word of `IPRIORITYR`: the priorities of four interrupts from `first`.
    pub(super) fn priorities(&self, first: usize) -> u32 {
        u32::from_le_bytes(core::array::from_fn(|byte| {
            self.priority[(first + byte) % 32]
        }))
    }

    /// Sets the priorities of four interrupts from `first`.
    pub(super) fn set_priorities(&mut self, first: usize, value: u32) {
        for (byte, priority) in value.to_le_bytes().into_iter().enumerate() {
            self.priority[(first + byte) % 32] = priority & PRIORITY_BITS;
        }
    }

    /// The `ICFGR` word of the upper or lower 16 interrupts: bit 2n+1 says that interrupt n is edge-triggered.
    pub(super) fn config(&self, half: usize) -> u32 {
        let edge = self.edge >> (16 * (half % 2));
        (0..16)
            .filter(|n| edge >> n & 1 == 1)
            .fold(0, |word, n| word | 2 << (2 * n))
    }

    /// Sets the `ICFGR` word of the upper or lower 16 interrupts.
    pub(super) fn set_config(&mut self, half: usize, value: u32) {
        let shift = 16 * (half % 2);
        let edge = (0..16)
            .filter(|n| value >> (2 * n + 1) & 1 == 1)
            .fold(0, |word, n| word | 1 << n);
        self.edge = self.edge & !(0xffff << shift) | edge << shift;
    }
}

/// The numbers of the bits that are set, from the lowest.
pub(super) fn bits(mut word: u32) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lowest = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(lowest)
    })
}
