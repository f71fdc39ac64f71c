//! Loading a linked object and running its programs.

use crate::host::{Context, Host};
use crate::linked::Linked;
use crate::map::Map;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// Why an object was refused. `Display` tells a user which program and instruction, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LoadError {
    /// There is no built-in object of that name.
    NoSuchBuiltin,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchBuiltin => f.write_str("no such built-in program"),
        }
    }
}

impl core::error::Error for LoadError {}

/// Why a run ended without a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunError {
    /// The program used up its instruction budget.
    Budget,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget => f.write_str("the program used up its instruction budget"),
        }
    }
}

impl core::error::Error for RunError {}

/// One verified program, ready to run.
#[derive(Debug)]
pub struct Program {
    name: String,
    section: String,
    maps: Arc<[Map]>,
}

impl Program {
    /// The function's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The section it came from, such as `kprobe/vfs_read`; empty for built-in programs.
    pub fn section(&self) -> &str {
        &self.section
    }

    /// Runs the program and returns its r0. May run on several CPUs at once.
    pub fn run(&self, context: &Context, host: &dyn Host) -> Result<u64, RunError> {
        let _ = (context, host, &self.maps);
        todo!()
    }
}

/// A loaded object: verified programs and the maps that they share. Send and sync; put it into an `Arc` to attach its
/// programs to several probes.
#[derive(Debug)]
pub struct Object {
    name: String,
    programs: Vec<Program>,
    maps: Arc<[Map]>,
}

impl Object {
    /// Verifies the programs and allocates the maps, for a machine with `cpus` physical CPUs.
    pub fn load(linked: &Linked, cpus: usize) -> Result<Self, LoadError> {
        let _ = (linked, cpus);
        todo!()
    }

    /// What a user calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its programs, at least one.
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// The program whose function has that name.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|program| program.name == name)
    }

    /// Its maps.
    pub fn maps(&self) -> &[Map] {
        &self.maps
    }

    /// The map of that name.
    pub fn map(&self, name: &str) -> Option<&Map> {
        self.maps.iter().find(|map| map.name() == name)
    }
}
