//! The root: all spaces, all programs, all events.

pub mod attach;

use crate::event::{EventKind, EventSource, Rings};
use crate::machine::{Machine, VmId, VmState};
use crate::no_machine::NoMachine;
use crate::own_code::Hypervisor;
use crate::programs::{MapMemory, Owner, ProgramStore, StoreError};
use crate::space::{ProbeId, Space};
use crate::target::{BadTarget, Target};
use crate::tracepoint::{Field, Tracer};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use ebpf::LoadError;

/// Why a name leads to no space. `Display` tells the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoSpace {
    /// `vm0`, or `hyp` where it has no space: the hypervisor itself.
    Hypervisor(String),
    /// No VM has that name.
    Unknown {
        /// The name.
        name: String,
        /// The VMs that there are, such as `vm1 (running)`.
        known: Vec<String>,
    },
}

impl fmt::Display for NoSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hypervisor(name) => write!(
                f,
                "{name} is the hypervisor itself. Where it can be probed, it is called hyp."
            ),
            Self::Unknown { name, known } => {
                write!(f, "no such VM: {name}. There are {}.", known.join(", "))
            }
        }
    }
}

impl core::error::Error for NoSpace {}

/// Why the name of a place leads nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadPlace {
    /// Its space.
    Space(NoSpace),
    /// Its address or symbol.
    Target(BadTarget),
}

impl fmt::Display for BadPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Space(error) => error.fmt(f),
            Self::Target(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for BadPlace {}

/// The root of the debugger: what the hypervisor and the servers share.
pub struct Periscope {
    spaces: Vec<Space>,
    hypervisor: Option<Space>,
    nowhere: Space,
    programs: ProgramStore,
    tracer: Arc<Tracer>,
}

impl Periscope {
    /// A debugger over `machines` (`vm1`, `vm2`, … in order) and, where it can be probed itself, the hypervisor. Events
    /// go the way of `tracer`'s.
    pub fn new(
        machines: &[&'static dyn Machine],
        hypervisor: Option<Hypervisor>,
        tracer: Arc<Tracer>,
    ) -> Result<Self, LoadError> {
        let compiler = hypervisor.as_ref().and_then(|own| own.compiler);
        let map_memory = hypervisor
            .as_ref()
            .map_or(MapMemory::DEFAULT, |own| own.map_memory);
        let programs = ProgramStore::with(tracer.cpus(), compiler, map_memory)?;
        let stop = programs.builtin("stop")?;
        let events = tracer.rings();
        let space =
            |machine: &&'static dyn Machine| Space::new(*machine, events.clone(), stop.clone());
        let spaces = machines.iter().map(space).collect();
        let nowhere = space(&(&NoMachine as &dyn Machine));
        let hypervisor =
            hypervisor.map(|own| Space::of_hypervisor(own, events.clone(), stop.clone()));
        Ok(Self {
            spaces,
            hypervisor,
            nowhere,
            programs,
            tracer,
        })
    }

    /// The spaces of the VMs, `vm1` first.
    pub fn spaces(&self) -> &[Space] {
        &self.spaces
    }

    /// The hypervisor's own space, where it can be probed.
    pub fn hypervisor(&self) -> Option<&Space> {
        self.hypervisor.as_ref()
    }

    /// A space with nothing in it, for sessions that debug nothing. It is in no listing, and no name leads to it.
    pub fn nowhere(&self) -> &Space {
        &self.nowhere
    }

    /// The spaces of the VMs, then the hypervisor's own.
    pub fn all_spaces(&self) -> impl Iterator<Item = &Space> {
        self.spaces.iter().chain(&self.hypervisor)
    }

    /// The loaded programs.
    pub fn programs(&self) -> &ProgramStore {
        &self.programs
    }

    /// The events of all CPUs.
    pub fn events(&self) -> &Rings {
        self.tracer.rings()
    }

    /// The tracepoints.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// What users call a source of events: `vm1:vfs_read`, `vmm:page_fault`. `None` for what is no probe (any more).
    pub fn name_of(&self, source: &EventSource) -> Option<String> {
        if source.kind == EventKind::Tracepoint {
            return self.tracer.tracepoint(source.id).map(ToString::to_string);
        }
        let space = self.space_of(source.vm)?;
        let site = space.probe_site(ProbeId(source.id))?;
        Some(format!("{}:{site}", source.vm))
    }

    /// The fields of a source that is a tracepoint; nothing for any other.
    pub fn fields_of(&self, source: &EventSource) -> &'static [Field] {
        match source.kind {
            EventKind::Tracepoint => self
                .tracer
                .tracepoint(source.id)
                .map_or(&[], |p| p.fields()),
            _ => &[],
        }
    }

    /// Whether hits may write events now.
    pub fn is_probed(&self) -> bool {
        self.tracer.is_tracing() || self.all_spaces().any(Space::is_probed)
    }

    /// The space of a VM, or of the hypervisor.
    pub fn space_of(&self, vm: VmId) -> Option<&Space> {
        self.all_spaces().find(|space| space.vm() == vm)
    }

    /// The space that a user calls `name`: `vm1`, `vm2`, …, `hyp`.
    pub fn space(&self, name: &str) -> Result<&Space, NoSpace> {
        if name == "vm0" {
            return Err(NoSpace::Hypervisor(name.to_string()));
        }
        if name == "hyp" {
            let own = self.hypervisor();
            return own.ok_or_else(|| NoSpace::Hypervisor(name.to_string()));
        }
        let found = self
            .spaces
            .iter()
            .find(|space| space.vm().to_string() == name);
        found.ok_or_else(|| NoSpace::Unknown {
            name: name.to_string(),
            known: self.spaces.iter().map(describe).collect(),
        })
    }

    /// The place that a user calls `text`: `vm1:vfs_read`, `vm2:0xffff800080012340`; without a
    /// space's name, in `here`.
    pub fn place<'a>(
        &'a self,
        text: &str,
        here: &'a Space,
    ) -> Result<(&'a Space, Target), BadPlace> {
        let (space, rest) = match Target::split_space(text) {
            (Some(name), rest) => (self.space(name).map_err(BadPlace::Space)?, rest),
            (None, rest) => (here, rest),
        };
        Ok((space, Target::parse(rest).map_err(BadPlace::Target)?))
    }

    /// Verifies the linked program `bytes` (`periscope link` makes one) and keeps it as `name`, in
    /// place of an earlier object of that name and owner that nobody uses.
    pub fn load_program(&self, name: &str, bytes: &[u8], owner: Owner) -> Result<(), StoreError> {
        self.check_unused(name)?;
        self.programs.load(name, bytes, owner)
    }

    /// Forgets the object `name`, unless probes use it.
    pub fn unload_program(&self, name: &str) -> Result<(), StoreError> {
        self.check_unused(name)?;
        self.programs.unload(name)
    }

    fn check_unused(&self, name: &str) -> Result<(), StoreError> {
        // A name without object has no users.
        let Ok(object) = self.programs.object(name) else {
            return Ok(());
        };
        let users: Vec<String> = self
            .all_spaces()
            .flat_map(|space| space.users_of(&object))
            .chain(self.tracer.users_of(&object))
            .collect();
        if users.is_empty() {
            return Ok(());
        }
        Err(StoreError::InUse {
            name: name.to_string(),
            users,
        })
    }
}

fn describe(space: &Space) -> String {
    let machine = space.machine();
    let state = match machine.state() {
        VmState::Off => "off",
        VmState::Ready => "ready",
        VmState::Running if machine.held() => "stopped",
        VmState::Running => "running",
    };
    format!("{} ({state})", space.vm())
}
