//! What a user can ask of a probe beyond its place.

use crate::machine::VcpuId;
use crate::programs::ProgramRef;
use core::num::NonZeroU64;

/// How a probe traps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ProbeMode {
    /// By an `HVC` in the execute view.
    #[default]
    Hvc,
    /// Its page is not executable in the execute view: no probe instruction anywhere.
    Xn,
    /// By a hardware breakpoint.
    Hw,
}

/// What a hit does after the program has run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AfterRun {
    /// Goes on. On a GDB breakpoint: the breakpoint lets pass.
    #[default]
    Go,
    /// Stops the VM. On a GDB breakpoint: the breakpoint stops, as it does without a program.
    Stop,
}

/// How many calls of a function whose returns are probed can be under way at most.
pub const MAX_CALLS: u16 = 4096;

/// When a probe's program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Moment {
    /// Before the instruction at the probe's place executes.
    #[default]
    Before,
    /// When the function returns whose first instruction is the probe's place.
    Return {
        /// How many calls can be under way at the same time. Where there are more, the oldest is
        /// given up and counts as missed. At least 1, at most [`MAX_CALLS`].
        max_active: u16,
    },
}

impl Moment {
    /// At the return, with room for as many calls as most functions ever have under way.
    pub const RETURN: Self = Self::Return { max_active: 256 };
}

/// What a user wants of a probe besides its place and its program. The default takes every hit and
/// goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProbeOptions {
    /// What a hit does after the program has run.
    pub after: AfterRun,
    /// When the program runs.
    pub moment: Moment,
    /// How it traps.
    pub mode: ProbeMode,
    /// The only vCPU whose hits it takes; `None`: all.
    pub vcpu: Option<VcpuId>,
    /// After how many hits it is done; `None`: never.
    pub limit: Option<NonZeroU64>,
    /// What its program gets from `bpf_get_attach_cookie()`.
    pub cookie: u64,
}

impl From<AfterRun> for ProbeOptions {
    fn from(after: AfterRun) -> Self {
        Self {
            after,
            ..Self::default()
        }
    }
}

/// How long a client's breakpoint stays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Lifetime {
    /// As long as the client.
    #[default]
    Client,
    /// Longer: nobody stops at it (GDB's `set disconnected-dprintf on`).
    Space,
}

/// What is to be done where a breakpoint of a client's is hit: conditions and commands of its own, compiled.
#[derive(Clone, Debug)]
pub struct Orders {
    /// Evaluates them. It stops by a result other than 0, and by an error.
    pub program: ProgramRef,
    /// Whether the breakpoint is there to stop, or only for its commands.
    pub after: AfterRun,
    /// How long they hold.
    pub lifetime: Lifetime,
}
