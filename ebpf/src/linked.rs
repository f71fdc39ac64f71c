//! The linked-program format: what `periscope link` writes and EL2 loads. EL2 never parses ELF.
//!
//! All numbers are little-endian; nothing is aligned. A *name* is a `u16` length and that many
//! bytes of printable ASCII.
//!
//! ```text
//! header   magic     8 bytes   "PSCPLINK"
//!          version   u32       1
//!          length    u32       bytes of the body, all that follows the header
//!          checksum  u32       CRC-32 of the body (IEEE 802.3, as zlib's crc32)
//! body     name      name      what users call the object
//!          license   name      may be empty
//!          maps      u16       how many map definitions follow
//!          programs  u16       how many programs follow them, at least 1
//! map      name      name
//!          kind      u32       Linux' enum bpf_map_type: 1 hash, 2 array, 6 per-CPU array
//!          key       u32       bytes of a key
//!          value     u32       bytes of a value
//!          entries   u32       how many at most
//!          flags     u32       bit 0: read-only; the others are 0
//!          initial   u32       bytes that follow, entry 0 of an array: none or the value size
//! program  name      name      the function
//!          section   name      such as kprobe/vfs_read; may be empty
//!          insns     u32       how many instructions of 8 bytes follow (RFC 9669)
//! ```
//!
//! An instruction refers to a map by its index: the file descriptor of `BPF_PSEUDO_MAP_FD` and
//! `BPF_PSEUDO_MAP_VALUE`. The body ends with its last program. Limits: [`MAX_SIZE`], [`MAX_NAME`],
//! [`MAX_MAPS`], [`MAX_PROGRAMS`], [`MAX_INSNS`], and those of [`crate::map`].

use crate::insn::Insn;
use crate::map::{MapDef, MapDefError, MapKind, Mutability};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Bytes of a linked object at most.
pub const MAX_SIZE: usize = 4 << 20;
/// Bytes of a name at most.
pub const MAX_NAME: usize = 255;
/// Maps of an object at most.
pub const MAX_MAPS: usize = crate::address::MAX_MAPS;
/// Programs of an object at most.
pub const MAX_PROGRAMS: usize = 64;
/// Instructions of a program at most.
pub const MAX_INSNS: usize = 65_536;

const MAGIC: [u8; 8] = *b"PSCPLINK";
const VERSION: u32 = 1;
const FLAG_FROZEN: u32 = 1;

/// One program of a [`Linked`] object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramDef {
    /// The function's name.
    pub name: String,
    /// The section it came from, such as `kprobe/vfs_read`; empty for built-in programs.
    pub section: String,
    /// The instructions: the program first, then the subprograms that it calls.
    pub insns: Vec<Insn>,
}

impl ProgramDef {
    /// What a message calls the program: its section, or its name where it has none.
    pub fn label(&self) -> &str {
        if self.section.is_empty() {
            &self.name
        } else {
            &self.section
        }
    }
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

/// What bytes do not agree with the format in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParseError {
    /// They do not start with the magic.
    Magic,
    /// The format has a version that this reader does not know.
    Version(u32),
    /// There are more bytes than [`MAX_SIZE`].
    TooLarge,
    /// The bytes are fewer or more than the header or a count says.
    Length,
    /// The checksum does not match: the bytes were damaged on their way.
    Checksum,
    /// A name is too long, empty where it must not be, or has bytes that are not printable ASCII.
    Name,
    /// Two maps, or two programs, have the same name.
    Duplicate,
    /// More maps than [`MAX_MAPS`].
    TooManyMaps,
    /// A kind of map that there is not.
    MapKind(u32),
    /// Unknown flags of a map.
    MapFlags(u32),
    /// A map definition that is not possible.
    Map(MapDefError),
    /// No program, or more than [`MAX_PROGRAMS`].
    Programs,
    /// A program without instructions, or with more than [`MAX_INSNS`].
    Insns,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => {
                f.write_str("this is not a linked program: make one with `periscope link`")
            }
            Self::Version(version) => write!(
                f,
                "the linked program has format version {version}, but version {VERSION} is what \
                 is understood here: link it again with a matching `periscope`"
            ),
            Self::TooLarge => write!(f, "the linked program is larger than {MAX_SIZE} bytes"),
            Self::Length => f.write_str("the linked program is cut off or has too many bytes"),
            Self::Checksum => {
                f.write_str("the linked program was damaged on its way: its checksum is wrong")
            }
            Self::Name => write!(
                f,
                "a name is empty, longer than {MAX_NAME} bytes or not printable ASCII"
            ),
            Self::Duplicate => f.write_str("two maps or two programs have the same name"),
            Self::TooManyMaps => write!(f, "there are more than {MAX_MAPS} maps"),
            Self::MapKind(kind) => write!(f, "maps of kind {kind} are not supported"),
            Self::MapFlags(flags) => write!(f, "map flags {flags:#x} are not known"),
            Self::Map(error) => write!(f, "a map has {error}"),
            Self::Programs => write!(f, "there must be 1 to {MAX_PROGRAMS} programs"),
            Self::Insns => write!(f, "a program must have 1 to {MAX_INSNS} instructions"),
        }
    }
}

impl core::error::Error for ParseError {}

impl Linked {
    /// Reads the bytes of a linked object. Total: any bytes give a [`Linked`] or an error, and what
    /// is allocated is never more than a few times their length.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > MAX_SIZE {
            return Err(ParseError::TooLarge);
        }
        let body = bytes.strip_prefix(&MAGIC).ok_or(ParseError::Magic)?;
        let mut reader = Reader { rest: body };
        let version = reader.u32()?;
        if version != VERSION {
            return Err(ParseError::Version(version));
        }
        let length = reader.u32()?;
        let checksum = reader.u32()?;
        if u32::try_from(reader.rest.len()) != Ok(length) {
            return Err(ParseError::Length);
        }
        if crc32(reader.rest) != checksum {
            return Err(ParseError::Checksum);
        }
        let linked = reader.object()?;
        if !reader.rest.is_empty() {
            return Err(ParseError::Length);
        }
        linked.check()?;
        Ok(linked)
    }

    /// Writes the object. What has been written is always read back the same.
    pub fn encode(&self) -> Result<Vec<u8>, ParseError> {
        self.check()?;
        let mut body = Vec::new();
        put_name(&mut body, &self.name);
        put_name(&mut body, &self.license);
        // `check` has bounded every length that is narrowed here.
        body.extend((self.maps.len() as u16).to_le_bytes());
        body.extend((self.programs.len() as u16).to_le_bytes());
        self.maps.iter().for_each(|map| put_map(&mut body, map));
        self.programs
            .iter()
            .for_each(|program| put_program(&mut body, program));
        let mut bytes = Vec::from(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(crc32(&body).to_le_bytes());
        bytes.extend(body);
        if bytes.len() > MAX_SIZE {
            Err(ParseError::TooLarge)
        } else {
            Ok(bytes)
        }
    }

    /// Every limit of the format.
    pub fn check(&self) -> Result<(), ParseError> {
        check_name(&self.name, Emptiness::Refused)?;
        check_name(&self.license, Emptiness::Allowed)?;
        if self.maps.len() > MAX_MAPS {
            return Err(ParseError::TooManyMaps);
        }
        if !(1..=MAX_PROGRAMS).contains(&self.programs.len()) {
            return Err(ParseError::Programs);
        }
        for map in &self.maps {
            check_name(&map.name, Emptiness::Refused)?;
            map.check().map_err(ParseError::Map)?;
        }
        for program in &self.programs {
            check_name(&program.name, Emptiness::Refused)?;
            check_name(&program.section, Emptiness::Allowed)?;
            if !(1..=MAX_INSNS).contains(&program.insns.len()) {
                return Err(ParseError::Insns);
            }
        }
        check_distinct(self.maps.iter().map(|map| map.name.as_str()))?;
        check_distinct(self.programs.iter().map(|program| program.name.as_str()))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Emptiness {
    Allowed,
    Refused,
}

/// Names are printed to terminals and typed into commands: nothing in them may be a control
/// character.
fn check_name(name: &str, emptiness: Emptiness) -> Result<(), ParseError> {
    let printable = name
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let filled = !name.is_empty() || emptiness == Emptiness::Allowed;
    if printable && filled && name.len() <= MAX_NAME {
        Ok(())
    } else {
        Err(ParseError::Name)
    }
}

/// At most [`MAX_MAPS`] or [`MAX_PROGRAMS`] names: comparing each with each is cheap.
fn check_distinct<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Result<(), ParseError> {
    let repeated = names
        .clone()
        .enumerate()
        .any(|(index, name)| names.clone().take(index).any(|other| other == name));
    if repeated {
        Err(ParseError::Duplicate)
    } else {
        Ok(())
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], ParseError> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(ParseError::Length)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(ParseError::Length)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn u16(&mut self) -> Result<u16, ParseError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, ParseError> {
        self.array().map(u32::from_le_bytes)
    }

    fn name(&mut self) -> Result<String, ParseError> {
        let length = self.u16()?;
        let bytes = self.bytes(length.into())?;
        core::str::from_utf8(bytes)
            .map(String::from)
            .map_err(|_| ParseError::Name)
    }

    fn object(&mut self) -> Result<Linked, ParseError> {
        let name = self.name()?;
        let license = self.name()?;
        let maps = self.u16()?;
        let programs = self.u16()?;
        Ok(Linked {
            name,
            license,
            maps: (0..maps).map(|_| self.map()).collect::<Result<_, _>>()?,
            programs: (0..programs)
                .map(|_| self.program())
                .collect::<Result<_, _>>()?,
        })
    }

    fn map(&mut self) -> Result<MapDef, ParseError> {
        let name = self.name()?;
        let kind = self.u32()?;
        let kind = MapKind::from_number(kind).ok_or(ParseError::MapKind(kind))?;
        let [key_size, value_size, max_entries] = [self.u32()?, self.u32()?, self.u32()?];
        let mutability = match self.u32()? {
            0 => Mutability::Mutable,
            FLAG_FROZEN => Mutability::Frozen,
            flags => return Err(ParseError::MapFlags(flags)),
        };
        let length = self.u32()?;
        let initial = self.bytes(length as usize)?.to_vec();
        Ok(MapDef {
            name,
            kind,
            key_size,
            value_size,
            max_entries,
            mutability,
            initial,
        })
    }

    fn program(&mut self) -> Result<ProgramDef, ParseError> {
        let name = self.name()?;
        let section = self.name()?;
        let count = self.u32()? as usize;
        if count > MAX_INSNS {
            return Err(ParseError::Insns);
        }
        let (insns, _) = self.bytes(count * Insn::SIZE)?.as_chunks();
        let insns = insns.iter().map(|&bytes| Insn::decode(bytes)).collect();
        Ok(ProgramDef {
            name,
            section,
            insns,
        })
    }
}

fn put_name(body: &mut Vec<u8>, name: &str) {
    body.extend((name.len() as u16).to_le_bytes());
    body.extend(name.as_bytes());
}

fn put_map(body: &mut Vec<u8>, map: &MapDef) {
    let flags = match map.mutability {
        Mutability::Mutable => 0,
        Mutability::Frozen => FLAG_FROZEN,
    };
    put_name(body, &map.name);
    let numbers = [
        map.kind as u32,
        map.key_size,
        map.value_size,
        map.max_entries,
        flags,
    ];
    numbers
        .iter()
        .for_each(|number| body.extend(number.to_le_bytes()));
    body.extend((map.initial.len() as u32).to_le_bytes());
    body.extend(&map.initial);
}

fn put_program(body: &mut Vec<u8>, program: &ProgramDef) {
    put_name(body, &program.name);
    put_name(body, &program.section);
    body.extend((program.insns.len() as u32).to_le_bytes());
    program
        .insns
        .iter()
        .for_each(|insn| body.extend(insn.encode()));
}

/// CRC-32 as in IEEE 802.3: reflected polynomial 0xedb88320, all ones before and inverted after.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests;
