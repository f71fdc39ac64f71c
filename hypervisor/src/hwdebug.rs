//! The debug registers of a CPU: the guest's, or ours while we need them.
//!
//! Ordinarily they are the guest's: `MDCR_EL2.TDE` and `TDA` are off and its breakpoints, watchpoints, single-steps and
//! BRKs work as on bare hardware. While the debugger has hardware points, or steps this vCPU, debug exceptions come to
//! EL2 (TDE), the guest's accesses to debug registers trap (TDA) and act on a copy, and the registers hold ours beside
//! the guest's. What fires and is not ours is handed on to the guest (exits.rs).
//!
//! Only the OS lock is ours for good (TDOSA): a guest that leaves it locked, as it is after reset, would switch our
//! steps and breakpoints off.

use crate::sysreg;
use crate::vm::Vm;
use alloc::vec::Vec;
use probes::addr::Gva;
use probes::machine::{HwError, HwPoint, WatchKind};

/// Architectural maximum of breakpoints, and of watchpoints.
const MAX: usize = 16;

/// Bits of `MDSCR_EL1`.
pub mod mdscr {
    /// Software step.
    pub const SS: u64 = 1 << 0;
    /// Debug exceptions from EL1 to EL1.
    pub const KDE: u64 = 1 << 13;
    /// Breakpoints and watchpoints on.
    pub const MDE: u64 = 1 << 15;
}

/// Bits of `MDCR_EL2`.
mod mdcr {
    /// Number of event counters that EL1 may use.
    pub const HPMN: u64 = 0x1f;
    /// Debug exceptions come to EL2.
    pub const TDE: u64 = 1 << 8;
    /// Debug register accesses trap.
    pub const TDA: u64 = 1 << 9;
    /// OS lock accesses trap.
    pub const TDOSA: u64 = 1 << 10;
}

/// `DBGBCR`/`DBGWCR`: enabled.
const ENABLE: u64 = 1;
/// Match at EL1 and EL0.
const EL1_AND_EL0: u64 = 0b11 << 1;
/// `DBGBCR.BAS`: all four bytes of an A64 instruction.
const WHOLE_INSTRUCTION: u64 = 0xf << 5;
const BREAK: u64 = ENABLE | EL1_AND_EL0 | WHOLE_INSTRUCTION;

/// Who may use the debug registers now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Owner {
    /// The registers hold the guest's values and the guest uses them directly.
    #[default]
    Guest,
    /// The guest's values are in `guest`; the registers hold a mixture of ours and the guest's.
    Us,
}

/// The registers of a guest while they are not in the hardware.
#[derive(Clone, Copy, Debug, Default)]
struct Registers {
    mdscr: u64,
    bvr: [u64; MAX],
    bcr: [u64; MAX],
    wvr: [u64; MAX],
    wcr: [u64; MAX],
}

/// A watchpoint register pair of ours, and what it watches.
#[derive(Clone, Copy, Debug)]
struct Watch {
    value: u64,
    control: u64,
    kind: WatchKind,
    first: u64,
    last: u64,
}

/// The debug registers of one vCPU, on its own CPU.
#[derive(Debug, Default)]
pub struct HwDebug {
    owner: Owner,
    guest: Registers,
    breaks: Vec<Gva>,
    watches: Vec<Watch>,
}

/// Whether the debugger's watchpoints are on while an instruction is stepped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watches {
    /// They are.
    On,
    /// They are not: the instruction's access has been seen, and does not stop.
    Off,
}

/// What a hardware step needs.
#[derive(Clone, Copy, Debug)]
pub enum StepKind<'a> {
    /// One instruction.
    Single,
    /// Freely up to one of these.
    Until(&'a [Gva]),
}

macro_rules! registers {
    ($read:ident, $write:ident, $name:literal) => {
        registers! { @ $read, $write, $name, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 }
    };
    (@ $read:ident, $write:ident, $name:literal, $($index:literal)*) => {
        fn $read(index: usize) -> u64 {
            let value: u64;
            // SAFETY: reads a debug register that exists (`index` below the number the CPU states).
            unsafe {
                match index {
                    $($index => core::arch::asm!(concat!("mrs {}, ", $name, $index, "_el1"), out(reg) value,
                        options(nostack, preserves_flags)),)*
                    _ => value = 0,
                }
            }
            value
        }

        fn $write(index: usize, value: u64) {
            // SAFETY: breakpoints and watchpoints never fire at EL2 as they are set here (EL1 and EL0, or as the guest
            // could set them itself).
            unsafe {
                match index {
                    $($index => core::arch::asm!(concat!("msr ", $name, $index, "_el1, {}"), in(reg) value,
                        options(nostack, preserves_flags)),)*
                    _ => {}
                }
            }
        }
    };
}

registers! { read_bvr, write_bvr, "dbgbvr" }
registers! { read_bcr, write_bcr, "dbgbcr" }
registers! { read_wvr, write_wvr, "dbgwvr" }
registers! { read_wcr, write_wcr, "dbgwcr" }

/// How many breakpoints this CPU has.
fn break_count() -> usize {
    (sysreg::read!("id_aa64dfr0_el1") >> 12 & 0xf) as usize + 1
}

/// How many watchpoints this CPU has.
fn watch_count() -> usize {
    (sysreg::read!("id_aa64dfr0_el1") >> 20 & 0xf) as usize + 1
}

/// Sets this CPU's `MDCR_EL2` to what holds while nobody debugs.
pub fn init_controls() {
    let counters = sysreg::read!("pmcr_el0") >> 11 & 0x1f;
    // SAFETY: controls the guest's debug and performance registers only.
    unsafe { sysreg::write!("mdcr_el2", counters & mdcr::HPMN | mdcr::TDOSA) };
}

fn set_traps(bits: u64) {
    let others = sysreg::read!("mdcr_el2") & !(mdcr::TDE | mdcr::TDA);
    // SAFETY: as above.
    unsafe { sysreg::write!("mdcr_el2", others | bits) };
}

fn write_mdscr(value: u64) {
    // SAFETY: with EL2 masked (PSTATE.D) and no KDE-like control for EL2 set, no debug exception is taken from EL2.
    unsafe { sysreg::write!("mdscr_el1", value) };
}

/// Checks that the hardware can hold `points`.
pub fn check(points: &[HwPoint]) -> Result<(), HwError> {
    let mut breaks = 0;
    let mut watches = 0;
    for point in points {
        match *point {
            HwPoint::Break(_) => breaks += 1,
            HwPoint::Watch {
                address,
                length,
                kind,
            } => {
                watches += watch_registers(address, length, kind)?.len();
            }
        }
    }
    if breaks > break_count() {
        return Err(HwError::TooMany {
            available: break_count() as u8,
        });
    }
    if watches > watch_count() {
        return Err(HwError::TooMany {
            available: watch_count() as u8,
        });
    }
    Ok(())
}

/// The register pairs that watch `length` bytes from `address`: within eight bytes one with byte selects, otherwise
/// one for each aligned block of a power of two (Arm ARM D2.10.5).
fn watch_registers(address: Gva, length: u64, kind: WatchKind) -> Result<Vec<Watch>, HwError> {
    /// No more pieces than any CPU has registers.
    const MAX_PIECES: usize = MAX;
    let last = address
        .0
        .checked_add(length.wrapping_sub(1))
        .filter(|_| length != 0);
    let last = last.ok_or(HwError::BadRange)?;
    let access = match kind {
        WatchKind::Read => 0b01 << 3,
        WatchKind::Write => 0b10 << 3,
        WatchKind::Access => 0b11 << 3,
    };
    let mut pieces = Vec::new();
    let mut start = address.0;
    loop {
        if pieces.len() == MAX_PIECES {
            return Err(HwError::BadRange);
        }
        let left = last - start + 1;
        let word = start & !7;
        let (value, control, end) = if start != word || left < 8 {
            let end = last.min(word + 7);
            let bytes = (0xffu64 >> (7 - (end - start))) << (start - word);
            (word, bytes << 5, end)
        } else {
            // The largest block that begins here and does not reach past the end; the architecture stops at 2 GiB.
            let size_bits = left.ilog2().min(start.trailing_zeros()).min(31);
            let mask = if size_bits > 3 {
                u64::from(size_bits) << 24
            } else {
                0
            };
            (start, mask | 0xff << 5, start + ((1 << size_bits) - 1))
        };
        pieces.push(Watch {
            value,
            control: ENABLE | EL1_AND_EL0 | access | control,
            kind,
            first: address.0,
            last,
        });
        if end == last {
            return Ok(pieces);
        }
        start = end + 1;
    }
}

impl HwDebug {
    /// As after a reset: no guest breakpoints, lock open; the debugger's points are loaded again by [`HwDebug::load`].
    pub fn reset(&mut self) {
        *self = Self::default();
        for index in 0..break_count() {
            write_bcr(index, 0);
        }
        for index in 0..watch_count() {
            write_wcr(index, 0);
        }
        write_mdscr(0);
        set_traps(0);
    }

    /// `MDSCR_EL1` as the guest sees it.
    pub fn guest_mdscr(&self) -> u64 {
        match self.owner {
            Owner::Guest => sysreg::read!("mdscr_el1"),
            Owner::Us => self.guest.mdscr,
        }
    }

    /// Takes over the points of `vm`, which may have changed.
    pub fn load(&mut self, vm: &Vm) {
        let points = vm.points().lock();
        self.breaks.clear();
        self.watches.clear();
        for point in points.iter() {
            match *point {
                HwPoint::Break(address) => self.breaks.push(address),
                HwPoint::Watch {
                    address,
                    length,
                    kind,
                } => {
                    self.watches
                        .extend(watch_registers(address, length, kind).unwrap_or_default());
                }
            }
        }
        drop(points);
        self.settle();
    }

    fn has_points(&self) -> bool {
        !self.breaks.is_empty() || !self.watches.is_empty()
    }

    /// Whether the debugger has a hardware breakpoint at `pc`.
    pub fn breaks_at(&self, pc: Gva) -> bool {
        self.breaks.contains(&pc)
    }

    /// Which watchpoint of the debugger's an access to `address` means. The address may lie a little before what is
    /// watched, when a wide access reaches into it (Arm ARM D2.10.6).
    pub fn watch_at(&self, address: Gva) -> Option<WatchKind> {
        const WIDEST_ACCESS: u64 = 64;
        self.watches
            .iter()
            .find(|watch| {
                address.0 <= watch.last && address.0.saturating_add(WIDEST_ACCESS) > watch.first
            })
            .map(|watch| watch.kind)
    }

    /// Puts into the registers what holds between steps.
    fn settle(&mut self) {
        if self.has_points() {
            self.take();
            let breaks = core::mem::take(&mut self.breaks);
            self.program(&breaks, GuestBreaks::Kept, Watches::On);
            self.breaks = breaks;
            let guest = self.guest.mdscr & mdscr::SS;
            write_mdscr(mdscr::MDE | guest);
        } else {
            self.give_back();
        }
        sysreg::isb();
    }

    /// Begins a step. The caller sets SPSR.SS for a [`StepKind::Single`].
    pub fn begin_step(&mut self, kind: StepKind<'_>, watches: Watches) {
        let guest_mdscr = self.guest_mdscr();
        let light = matches!(kind, StepKind::Single)
            && self.owner == Owner::Guest
            && guest_mdscr & mdscr::MDE == 0;
        if light {
            // The breakpoint registers can stay where they are: with MDE clear they do nothing.
            self.guest.mdscr = guest_mdscr;
            set_traps(mdcr::TDE | mdcr::TDA);
            write_mdscr(mdscr::SS);
            return;
        }
        self.take();
        match kind {
            StepKind::Single => {
                self.program(&[], GuestBreaks::Off, watches);
                write_mdscr(mdscr::MDE | mdscr::SS);
            }
            StepKind::Until(ends) => {
                self.program(ends, GuestBreaks::Off, watches);
                write_mdscr(mdscr::MDE);
            }
        }
    }

    /// Ends a step.
    pub fn end_step(&mut self) {
        if self.owner == Owner::Guest {
            write_mdscr(self.guest.mdscr);
            set_traps(0);
            sysreg::isb();
            return;
        }
        self.settle();
    }

    /// Moves the guest's values out of the registers.
    fn take(&mut self) {
        if self.owner == Owner::Us {
            return;
        }
        self.guest.mdscr = sysreg::read!("mdscr_el1");
        for index in 0..break_count() {
            self.guest.bvr[index] = read_bvr(index);
            self.guest.bcr[index] = read_bcr(index);
        }
        for index in 0..watch_count() {
            self.guest.wvr[index] = read_wvr(index);
            self.guest.wcr[index] = read_wcr(index);
        }
        self.owner = Owner::Us;
        set_traps(mdcr::TDE | mdcr::TDA);
    }

    /// Moves them back.
    fn give_back(&mut self) {
        if self.owner == Owner::Guest {
            return;
        }
        for index in 0..break_count() {
            write_bvr(index, self.guest.bvr[index]);
            write_bcr(index, self.guest.bcr[index]);
        }
        for index in 0..watch_count() {
            write_wvr(index, self.guest.wvr[index]);
            write_wcr(index, self.guest.wcr[index]);
        }
        write_mdscr(self.guest.mdscr);
        self.owner = Owner::Guest;
        set_traps(0);
    }

    /// Ours from the top, the guest's below where it has enabled them and there is room.
    fn program(&mut self, breaks: &[Gva], guest_breaks: GuestBreaks, watches: Watches) {
        let guest_on = self.guest.mdscr & mdscr::MDE != 0;
        let keep_breaks = guest_on && guest_breaks == GuestBreaks::Kept;
        let count = break_count();
        let ours = breaks.len().min(count);
        for index in 0..count {
            if let Some(address) = breaks
                .get(count - 1 - index)
                .filter(|_| index >= count - ours)
            {
                write_bvr(index, address.0);
                write_bcr(index, BREAK);
            } else {
                write_bvr(index, self.guest.bvr[index]);
                write_bcr(
                    index,
                    if keep_breaks {
                        self.guest.bcr[index]
                    } else {
                        0
                    },
                );
            }
        }
        let count = watch_count();
        let ours = match watches {
            Watches::On => self.watches.len().min(count),
            Watches::Off => 0,
        };
        for index in 0..count {
            if let Some(watch) = self
                .watches
                .get(count - 1 - index)
                .filter(|_| index >= count - ours)
            {
                write_wvr(index, watch.value);
                write_wcr(index, watch.control);
            } else {
                write_wvr(index, self.guest.wvr[index]);
                write_wcr(index, if guest_on { self.guest.wcr[index] } else { 0 });
            }
        }
    }

    /// A trapped read of a debug register by the guest. `None`: not one that exists.
    pub fn guest_read(&self, register: DebugRegister) -> Option<u64> {
        let mdscr = self.guest_mdscr();
        match register {
            DebugRegister::Mdscr => Some(mdscr),
            DebugRegister::Oslsr => Some(0b1000),
            DebugRegister::Breakpoint(part, index) if index < break_count() => Some(match part {
                Part::Value => self.guest.bvr[index],
                Part::Control => self.guest.bcr[index],
            }),
            DebugRegister::Watchpoint(part, index) if index < watch_count() => Some(match part {
                Part::Value => self.guest.wvr[index],
                Part::Control => self.guest.wcr[index],
            }),
            DebugRegister::Ignored => Some(0),
            _ => None,
        }
    }

    /// A trapped write. Returns whether there is such a register.
    pub fn guest_write(&mut self, register: DebugRegister, value: u64) -> bool {
        if self.owner == Owner::Guest {
            // Trapped during a light step, or for the OS lock alone.
            return match register {
                DebugRegister::Mdscr => {
                    self.guest.mdscr = value;
                    true
                }
                DebugRegister::Breakpoint(Part::Value, index) => {
                    write_if(index, break_count(), value, write_bvr)
                }
                DebugRegister::Breakpoint(Part::Control, index) => {
                    write_if(index, break_count(), value, write_bcr)
                }
                DebugRegister::Watchpoint(Part::Value, index) => {
                    write_if(index, watch_count(), value, write_wvr)
                }
                DebugRegister::Watchpoint(Part::Control, index) => {
                    write_if(index, watch_count(), value, write_wcr)
                }
                DebugRegister::Oslsr | DebugRegister::Ignored => true,
            };
        }
        let place = match register {
            DebugRegister::Mdscr => &mut self.guest.mdscr,
            DebugRegister::Breakpoint(part, index) if index < break_count() => match part {
                Part::Value => &mut self.guest.bvr[index],
                Part::Control => &mut self.guest.bcr[index],
            },
            DebugRegister::Watchpoint(part, index) if index < watch_count() => match part {
                Part::Value => &mut self.guest.wvr[index],
                Part::Control => &mut self.guest.wcr[index],
            },
            DebugRegister::Oslsr | DebugRegister::Ignored => return true,
            _ => return false,
        };
        *place = value;
        if self.has_points() {
            self.settle();
        }
        true
    }
}

fn write_if(index: usize, count: usize, value: u64, write: fn(usize, u64)) -> bool {
    if index < count {
        write(index, value);
    }
    index < count
}

/// Whether the guest's own breakpoints stay in the registers beside ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum GuestBreaks {
    Kept,
    Off,
}

/// Half of a register pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// `DBGBVR`, `DBGWVR`.
    Value,
    /// `DBGBCR`, `DBGWCR`.
    Control,
}

/// A debug register as a trapped `MSR` or `MRS` names it (op0 = 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugRegister {
    /// `MDSCR_EL1`.
    Mdscr,
    /// `OSLSR_EL1`: the OS lock reads as open.
    Oslsr,
    /// `DBGBVR<n>_EL1`, `DBGBCR<n>_EL1`.
    Breakpoint(Part, usize),
    /// `DBGWVR<n>_EL1`, `DBGWCR<n>_EL1`.
    Watchpoint(Part, usize),
    /// `OSLAR_EL1`, `OSDLR_EL1` and the debug communication channel: reads as zero, writes ignored.
    Ignored,
}

impl DebugRegister {
    /// From op1, CRn, CRm and op2 of an access with op0 = 2.
    pub fn decode(op1: u64, crn: u64, crm: u64, op2: u64) -> Option<Self> {
        let index = crm as usize;
        Some(match (op1, crn, crm, op2) {
            (0, 0, 2, 2) => Self::Mdscr,
            (0, 0, _, 4) => Self::Breakpoint(Part::Value, index),
            (0, 0, _, 5) => Self::Breakpoint(Part::Control, index),
            (0, 0, _, 6) => Self::Watchpoint(Part::Value, index),
            (0, 0, _, 7) => Self::Watchpoint(Part::Control, index),
            (0, 1, 1, 4) => Self::Oslsr,
            (0, 1, 0 | 3, 4) => Self::Ignored,
            (0, 0, 0 | 2 | 3, 0 | 2) | (3, 0, 1 | 4 | 5, 0) | (0, 1, 4, 4) | (0, 7, _, 6) => {
                Self::Ignored
            }
            _ => return None,
        })
    }
}
