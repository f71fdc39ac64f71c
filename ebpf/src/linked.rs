//! The linked-program format: what `periscope link` writes and EL2 loads.

use crate::map::MapDef;
use alloc::string::String;
use alloc::vec::Vec;

/// One program of a [`Linked`] object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramDef {
    /// The function's name.
    pub name: String,
    /// The section it came from, such as `kprobe/vfs_read`.
    pub section: String,
    /// The instructions: the program first, then the subprograms that it calls.
    pub insns: Vec<crate::insn::Insn>,
}

/// A linked object: what the bytes of a `.lp` file say, structurally checked but not yet verified.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Linked {
    /// What a user calls the object: the file's stem unless chosen otherwise.
    pub name: String,
    /// The license that the source declares; empty where it declares none.
    pub license: String,
    /// Map definitions. An instruction refers to a map by its index here.
    pub maps: Vec<MapDef>,
    /// The programs, at least one.
    pub programs: Vec<ProgramDef>,
}

/// Why bytes are not a linked program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParseError {
    /// They do not start with the magic.
    NotALinkedProgram,
}

impl Linked {
    /// Reads the bytes of a linked program. Total: any bytes give a [`Linked`] or an error.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let _ = bytes;
        Err(ParseError::NotALinkedProgram)
    }
}
