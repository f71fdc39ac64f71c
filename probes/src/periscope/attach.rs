//! Attaching all programs of an object, each where its section says.

use super::Periscope;
use crate::attach_point::{AttachPoint, NoAttachPoint};
use crate::options::{Moment, ProbeOptions};
use crate::programs::{Owner, ProgramRef, StoreError};
use crate::refusal::Refusal;
use crate::space::{Placement, ProbeId, Space};
use crate::target::Target;
use crate::tracepoint::{NoSuchTracepoint, Tracepoint, WrongProgram};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use ebpf::Program;

/// A program that now runs somewhere.
pub struct Attached {
    /// The program.
    pub program: ProgramRef,
    /// Where it runs.
    pub hook: Hook,
}

/// Where a program is attached.
#[derive(Clone)]
pub enum Hook {
    /// A probe.
    Probe {
        /// Whose code it is on.
        space: &'static Space,
        /// Its number.
        id: ProbeId,
        /// The place as the section names it.
        target: Target,
        /// Before an instruction, or at the return of a function.
        moment: Moment,
        /// Whether it is armed yet.
        placement: Placement,
    },
    /// A tracepoint.
    Tracepoint(&'static Tracepoint),
}

/// Why an object is not attached. Nothing of it is then.
#[derive(Debug)]
pub struct AttachError {
    program: String,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    NoPlace(NoAttachPoint),
    NotTheHypervisors,
    Busy(String),
    Probe(Refusal),
    NoTracepoint(NoSuchTracepoint),
    Tracepoint(WrongProgram),
    Unloaded(StoreError),
    NoHypervisor,
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.program)?;
        match &self.reason {
            Reason::NoPlace(error) => {
                write!(f, "{error}: `trace kprobe PLACE {}` does", self.program)?
            }
            Reason::NotTheHypervisors => {
                f.write_str("it is for code of a guest: say which VM, as vm1")?;
            }
            Reason::Busy(point) => write!(
                f,
                "tracepoint {point} is on already: `trace disable {point}` first"
            )?,
            Reason::Probe(error) => error.fmt(f)?,
            Reason::NoTracepoint(error) => error.fmt(f)?,
            Reason::Tracepoint(error) => error.fmt(f)?,
            Reason::Unloaded(error) => error.fmt(f)?,
            Reason::NoHypervisor => {
                f.write_str("the hypervisor's own code cannot be probed here")?
            }
        }
        f.write_str("\nNothing has been attached.")
    }
}

impl core::error::Error for AttachError {}

impl Periscope {
    /// Attaches a program, or all programs of an object, each where its section says: to the code of the VM `space`, to
    /// the hypervisor's own code, to tracepoints. All or none. `name` is `object` or `object:program`. Programs at
    /// probes get `cookie` from `bpf_get_attach_cookie()`.
    pub fn attach_object(
        &'static self,
        name: &str,
        space: &'static Space,
        cookie: u64,
    ) -> Result<Vec<Attached>, AttachError> {
        let programs = self.programs_of(name).map_err(|error| AttachError {
            program: name.to_string(),
            reason: Reason::Unloaded(error),
        })?;
        let mut attached = Vec::new();
        for program in programs {
            match self.attach_one(&program, space, cookie) {
                Ok(hook) => attached.push(Attached { program, hook }),
                Err(reason) => {
                    attached.iter().for_each(|one| self.undo(&one.hook));
                    let program = program.name().to_string();
                    return Err(AttachError { program, reason });
                }
            }
        }
        Ok(attached)
    }

    /// Detaches all programs of the object `name`, or one of them, wherever they run. Returns where that was.
    pub fn detach_object(&'static self, name: &str) -> Result<Vec<String>, StoreError> {
        let mut gone = Vec::new();
        for program in self.programs_of(name)? {
            for space in self.all_spaces() {
                for id in space.probes_running(&program) {
                    // The last hit that it wanted may have taken it away meanwhile.
                    if space.detach(id).is_ok() {
                        gone.push(alloc::format!("probe {id} of {}", space.vm()));
                    }
                }
            }
            for point in self.tracer.points_running(&program) {
                self.tracer.disable(point);
                gone.push(alloc::format!("tracepoint {point}"));
            }
        }
        Ok(gone)
    }

    /// Takes away all that a session has loaded, wherever it runs and whoever has attached it.
    pub fn forget_objects_of(&'static self, owner: Owner) {
        for name in self.programs.owned_by(owner) {
            // Somebody may have unloaded it meanwhile; then it runs nowhere either.
            let _ = self.detach_object(&name);
            let _ = self.programs.unload(&name);
        }
    }

    /// The programs that a user means by `object`, which are all of it, or by `object:program`.
    fn programs_of(&self, name: &str) -> Result<Vec<ProgramRef>, StoreError> {
        let object = match name.contains(':') {
            true => return Ok([self.programs.program(name)?].into()),
            false => self.programs.object(name)?,
        };
        let [_] = object.programs() else {
            let all = object.programs().iter();
            // What tail calls lead to needs no place of its own.
            let is_attached = |program: &&Arc<Program>| {
                !object.is_held(program.name())
                    || AttachPoint::of_section(program.section()).is_ok()
            };
            return all
                .filter(is_attached)
                .map(|program| {
                    self.programs
                        .program(&alloc::format!("{name}:{}", program.name()))
                })
                .collect();
        };
        Ok([self.programs.program(name)?].into())
    }

    fn attach_one(
        &'static self,
        program: &ProgramRef,
        space: &'static Space,
        cookie: u64,
    ) -> Result<Hook, Reason> {
        let section = program.program().section();
        let point = AttachPoint::of_section(section).map_err(Reason::NoPlace)?;
        let (space, target, moment) = match point {
            AttachPoint::Guest(..) if space.vm().is_hypervisor() => {
                return Err(Reason::NotTheHypervisors);
            }
            AttachPoint::Guest(target, moment) => (space, target, moment),
            AttachPoint::Hypervisor(target, moment) => {
                let own = self.hypervisor().ok_or(Reason::NoHypervisor)?;
                (own, target, moment)
            }
            AttachPoint::Tracepoint(name) => return self.attach_to_tracepoint(&name, program),
        };
        let options = ProbeOptions {
            moment,
            cookie,
            ..ProbeOptions::default()
        };
        let (id, placement) = space
            .attach_probe(&target, program.clone(), options)
            .map_err(Reason::Probe)?;
        Ok(Hook::Probe {
            space,
            id,
            target,
            moment,
            placement,
        })
    }

    fn attach_to_tracepoint(&self, name: &str, program: &ProgramRef) -> Result<Hook, Reason> {
        let points = self.tracer.find(name).map_err(Reason::NoTracepoint)?;
        // A group and a name mean one.
        let point = points[0];
        if point.is_on() {
            return Err(Reason::Busy(point.to_string()));
        }
        let enabled = self.tracer.enable(point, Some(program.clone()));
        enabled.map_err(Reason::Tracepoint)?;
        Ok(Hook::Tracepoint(point))
    }

    fn undo(&self, hook: &Hook) {
        match hook {
            // It may have gone with its code; then there is nothing to undo.
            Hook::Probe { space, id, .. } => drop(space.detach(*id)),
            Hook::Tracepoint(point) => self.tracer.disable(point),
        }
    }
}
