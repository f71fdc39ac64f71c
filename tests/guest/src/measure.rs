//! Times of calls and of hypercalls, batch by batch, in counter increments.
//!
//! The hypercalls are those that the hypervisor serves with `bench` on its command line
//! (`hypervisor/src/cost.rs`); any other is undefined there.

use crate::subjects::{Alias, SUBJECTS};
use crate::timer;
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

/// How many batches a measurement has at most.
pub const MAX_BATCHES: usize = 4096;

/// Counter increments of each batch.
static TIMES: [AtomicU32; MAX_BATCHES] = [const { AtomicU32::new(0) }; MAX_BATCHES];

/// What a measurement repeats.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Calls of a subject, by its number.
    Subject(usize),
    /// A loop around a NOP, to take away from the loops around an HVC.
    Nop,
    /// The trap floor: to EL2 and back, with all registers saved and restored and nothing else.
    Floor,
    /// An ordinary exit of the hypervisor's that has nothing to do.
    Exit,
    /// The same, and to the step view and back on the way.
    Views,
    /// The same as `Exit`, and past tracepoints on the way.
    Points,
}

impl What {
    /// The word of the command for all but subjects.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "nop" => Some(Self::Nop),
            "floor" => Some(Self::Floor),
            "exit" => Some(Self::Exit),
            "views" => Some(Self::Views),
            "points" => Some(Self::Points),
            _ => None,
        }
    }

    /// As one word for [`run`].
    pub fn to_word(self) -> u64 {
        match self {
            Self::Subject(index) => index as u64,
            Self::Nop => u64::MAX,
            Self::Floor => u64::MAX - 1,
            Self::Exit => u64::MAX - 2,
            Self::Views => u64::MAX - 3,
            Self::Points => u64::MAX - 4,
        }
    }

    fn from_word(word: u64) -> Self {
        let specials = [
            Self::Nop,
            Self::Floor,
            Self::Exit,
            Self::Views,
            Self::Points,
        ];
        let special = specials.into_iter().find(|what| what.to_word() == word);
        special.unwrap_or(Self::Subject(word as usize))
    }
}

/// Immediates of the hypercalls (`hypervisor/src/cost.rs`).
mod immediate {
    pub const EXIT: u16 = 0x3f00;
    pub const VIEWS: u16 = 0x3f01;
    pub const FLOOR_ON: u16 = 0x3f02;
    pub const FLOOR_OFF: u16 = 0x3f03;
    pub const FLOOR: u16 = 0x3f04;
    pub const POINTS: u16 = 0x3f05;
}

/// A loop of `count` times an instruction.
macro_rules! repeat {
    ($count:expr, $instruction:literal $(, $operand:path)?) => {
        // SAFETY: a NOP or an HVC, which changes no register; the loop itself uses one of its own.
        unsafe {
            asm!(
                "2:",
                $instruction,
                "subs {count}, {count}, #1",
                "b.ne 2b",
                count = inout(reg) $count => _,
                $(immediate = const $operand,)?
                options(nostack)
            )
        }
    };
}

macro_rules! hvc {
    ($operand:path) => {
        // SAFETY: changes no register and no memory of the guest's.
        unsafe { asm!("hvc #{}", const $operand, options(nostack)) }
    };
}

/// Times `batches` times `calls` repetitions as work for any CPU. Returns how many batches.
pub fn run([what, batches, calls, _]: [u64; 4]) -> [u64; 4] {
    let what = What::from_word(what);
    let calls = calls.max(1);
    if what == What::Floor {
        hvc!(immediate::FLOOR_ON);
    }
    let times = TIMES.iter().take(batches as usize);
    let mut done = 0;
    for time in times {
        let start = timer::counter();
        match what {
            What::Subject(index) => {
                SUBJECTS[index].run(calls, Alias::Low);
            }
            What::Nop => repeat!(calls, "nop"),
            What::Floor => repeat!(calls, "hvc #{immediate}", immediate::FLOOR),
            What::Exit => repeat!(calls, "hvc #{immediate}", immediate::EXIT),
            What::Views => repeat!(calls, "hvc #{immediate}", immediate::VIEWS),
            What::Points => repeat!(calls, "hvc #{immediate}", immediate::POINTS),
        }
        let increments = timer::counter().wrapping_sub(start);
        time.store(
            u32::try_from(increments).unwrap_or(u32::MAX),
            Ordering::Relaxed,
        );
        done += 1;
    }
    if what == What::Floor {
        hvc!(immediate::FLOOR_OFF);
    }
    [done, 0, 0, 0]
}

/// The counter increments of the first `batches` batches of the last measurement.
pub fn times(batches: u64) -> impl Iterator<Item = u32> {
    let times = TIMES.iter().take(batches as usize);
    times.map(|time| time.load(Ordering::Relaxed))
}
