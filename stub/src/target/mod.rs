//! One VM as gdbstub sees it. One file per extension of gdbstub.

pub(crate) mod arch;
mod base;
mod breakpoints;
pub(crate) mod description;
mod expressions;
mod host_io;
mod memory_map;
mod monitor;
mod orders;
pub(crate) mod pointer_masks;
pub(crate) mod readable;
mod registers;
mod resume;
mod thread_extra_info;
mod trace_frame;

pub(crate) use expressions::Expressions;
pub(crate) use resume::ResumePlan;
pub(crate) use trace_frame::{TraceFrame, file_bytes};

use crate::server::Server;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use arch::{Aarch64, RegisterSet};
use core::convert::Infallible;
use core::num::NonZeroUsize;
use gdbstub::common::Tid;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::breakpoints::BreakpointsOps;
use gdbstub::target::ext::host_io::HostIoOps;
use gdbstub::target::ext::memory_map::MemoryMapOps;
use gdbstub::target::ext::monitor_cmd::MonitorCmdOps;
use gdbstub::target::ext::target_description_xml_override::TargetDescriptionXmlOverrideOps;
use gdbstub::target::{Target, TargetError};
use host_io::Files;
use orders::OrderBook;
use probes::machine::{Machine, Power, VcpuId};
use probes::programs::Owner;
use probes::space::Space;

/// The most notices that wait for the target to run.
const MAX_NOTICES: usize = 32;

/// What gdbstub works on. Its methods are called while the VM is held.
pub(crate) struct DebugTarget {
    server: &'static Server,
    space: &'static Space,
    role: Role,
    /// Whose the programs are that the session loads.
    owner: Owner,
    description: String,
    plan: ResumePlan,
    files: Files,
    /// The vCPU that the client looks at. Breakpoint packets name none, so they mean this one.
    focus: VcpuId,
    /// Lines for the user that can be shown only while the target runs.
    notices: Vec<String>,
    /// Addresses whose breakpoints wait for their page, so that the user is told once.
    told_pending: BTreeSet<u64>,
    /// Breakpoints that sit one instruction after where the client set them: site to client's address.
    behind_pads: BTreeMap<u64, u64>,
    /// What breakpoints are to do.
    orders: OrderBook,
    /// Why the last request was refused, where that has more words than a number.
    refusal: Option<String>,
    commands: Commands,
}

/// What a session is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// A debugger of its space. What it loads stays when it goes, and serves the probes that stay.
    Debugger,
    /// A tool that brings programs and takes events, beside any debugger. What it loads goes with it.
    Tool,
}

/// Whether `monitor` commands run, and files are read and written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Commands {
    /// Yes.
    Allowed,
    /// No, because what they need may be in use below the code that serves the session. The text says so to the user.
    Refused(&'static str),
}

impl DebugTarget {
    /// A target over a space of `server`'s, for a session.
    pub(crate) fn new(
        server: &'static Server,
        space: &'static Space,
        role: Role,
        owner: Owner,
    ) -> Self {
        Self {
            server,
            space,
            role,
            owner,
            description: description::target_xml(register_set(space)),
            plan: ResumePlan::default(),
            files: Files::default(),
            focus: VcpuId(0),
            notices: Vec::new(),
            told_pending: BTreeSet::new(),
            behind_pads: BTreeMap::new(),
            orders: OrderBook::default(),
            refusal: None,
            commands: Commands::Allowed,
        }
    }

    /// Forgets what belongs to a client.
    pub(crate) fn forget_client(&mut self) {
        *self = Self {
            commands: self.commands,
            ..Self::new(self.server, self.space, self.role, self.owner)
        };
        if self.role == Role::Tool {
            self.server.periscope().forget_objects_of(self.owner);
        }
    }

    /// Says whether `monitor` commands run.
    pub(crate) fn set_commands(&mut self, commands: Commands) {
        self.commands = commands;
    }

    /// Why `monitor` commands and what they list cannot be had now.
    pub(crate) fn why_no_commands(&self) -> Option<&'static str> {
        match self.commands {
            Commands::Allowed => None,
            Commands::Refused(reason) => Some(reason),
        }
    }

    /// Takes events out of the rings, unless that could wait for what the server holds below this code: naming a source looks
    /// into its space.
    pub(crate) fn collect_events(&self) {
        if self.commands == Commands::Allowed {
            self.server.collect_events();
        }
    }

    /// Whose the programs are that the session loads.
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// What the session is for.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// The VM.
    pub(crate) fn machine(&self) -> &'static dyn Machine {
        self.space.machine()
    }

    /// The vCPUs that are on.
    pub(crate) fn active(&self) -> impl Iterator<Item = VcpuId> + use<> {
        let machine = self.machine();
        let count = u8::try_from(machine.vcpu_count()).unwrap_or(u8::MAX);
        (0..count)
            .map(VcpuId)
            .filter(move |vcpu| machine.power(*vcpu) == Power::On)
    }

    /// The vCPU that is the thread `tid`, if it is on.
    pub(crate) fn vcpu(&self, tid: Tid) -> Option<VcpuId> {
        self.active().find(|vcpu| self::tid(*vcpu) == tid)
    }

    /// The vCPU that the client looks at.
    pub(crate) fn focus(&self) -> VcpuId {
        self.focus
    }

    /// Changes what the client looks at.
    pub(crate) fn set_focus(&mut self, vcpu: VcpuId) {
        self.focus = vcpu;
    }

    /// How the client wants the vCPUs to go on.
    pub(crate) fn plan(&self) -> &ResumePlan {
        &self.plan
    }

    /// Keeps a line for the user until the target runs.
    pub(crate) fn notice(&mut self, line: String) {
        if self.notices.len() < MAX_NOTICES {
            self.notices.push(line);
        }
    }

    /// The lines that wait.
    pub(crate) fn take_notices(&mut self) -> Vec<String> {
        core::mem::take(&mut self.notices)
    }

    /// Why the last request was refused, where there are words for it.
    pub(crate) fn take_refusal(&mut self) -> Option<String> {
        self.refusal.take()
    }
}

/// The registers that a client of this space sees.
fn register_set(space: &Space) -> RegisterSet {
    if space.vm().is_hypervisor() {
        RegisterSet::Hypervisor
    } else {
        RegisterSet::Guest
    }
}

/// The thread of a vCPU: thread numbers start at 1.
pub(crate) fn tid(vcpu: VcpuId) -> Tid {
    NonZeroUsize::MIN.saturating_add(usize::from(vcpu.0))
}

/// The error for a vCPU that is off: ESRCH.
fn no_thread<T>(_: T) -> TargetError<Infallible> {
    TargetError::Errno(crate::packet::request::Errno::Srch as u8)
}

impl Target for DebugTarget {
    type Arch = Aarch64;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::MultiThread(self)
    }

    fn use_rle(&self) -> bool {
        false
    }

    /// LLDB takes the registers from `target.xml`.
    fn use_lldb_register_info(&self) -> bool {
        false
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_host_io(&mut self) -> Option<HostIoOps<'_, Self>> {
        Some(self)
    }

    fn support_memory_map(&mut self) -> Option<MemoryMapOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}
