//! The linked-program format: what `periscope link` writes and EL2 loads. EL2 never parses ELF.
//!
//! All numbers are little-endian; nothing is aligned. A *name* is a `u16` length and that many
//! bytes of printable ASCII.
//!
//! ```text
//! header   magic     8 bytes   "PSCPLINK"
//!          version   u32       3
//!          length    u32       bytes of the body, all that follows the header
//!          checksum  u32       CRC-32 of the body (IEEE 802.3, as zlib's crc32)
//! body     name      name      what users call the object
//!          license   name      may be empty
//!          maps      u16       how many map definitions follow
//!          programs  u16       how many programs follow them, at least 1
//!          …
//!          types     u32       bytes of types that end the body, in the BTF format; may be 0
//! map      name      name
//!          kind      u32       Linux' enum bpf_map_type, such as 1 hash or 2 array
//!          key       u32       bytes of a key
//!          value     u32       bytes of a value
//!          entries   u32       how many at most; of a ring buffer its bytes
//!          flags     u32       bit 0: read-only; the others are 0
//!          key type  u32       number of the keys' type; 0 if it is not known
//!          val type  u32       number of the values' type; 0 if it is not known
//!          initial   u32       bytes that follow. Entry 0 of an array: none or the value size. Of a
//!                              map of programs, a u32 for each of its first slots: the number of the
//!                              program that it holds plus 1, or 0
//! program  name      name      the function
//!          section   name      such as kprobe/vfs_read; may be empty
//!          context   u32       0 registers, or a tracepoint's fields; 1 the arguments of a function; 2
//!                              these and its result
//!          arguments u32       64-bit values that these arguments are; 0 where they are not there
//!          addresses u32       bit n: value n may be an address in the guest; 0 the same
//!          insns     u32       how many instructions of 8 bytes follow (RFC 9669)
//!          lines     u32       how many source lines of 16 bytes follow, by rising instruction
//! line     insn      u32       the first instruction that belongs to it
//!          file      u32       offset of the file's name among the strings of the types
//!          text      u32       offset of the line's text there
//!          position  u32       the line's number from bit 10 on, the column below
//! ```
//!
//! An instruction refers to a map by its index: the file descriptor of `BPF_PSEUDO_MAP_FD` and
//! `BPF_PSEUDO_MAP_VALUE`. Limits: [`MAX_SIZE`], [`MAX_NAME`], [`MAX_MAPS`], [`MAX_PROGRAMS`],
//! [`MAX_INSNS`], and those of [`crate::map`]. `docs/linking.md` has an example byte for byte.

use crate::btf::{Btf, BtfError};
use crate::helper::Helper;
use crate::insn::{CALL, Insn, PSEUDO_MAP};
use crate::map::{MapDef, MapDefError, MapKind, Mutability, initial_programs};
use crate::signature::Signature;
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
/// The version of the format. A reader takes no other.
pub const VERSION: u32 = 3;
const FLAG_FROZEN: u32 = 1;

/// Where some instructions of a program are in its source. Offsets are those of strings in
/// [`Types::btf`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// The first instruction that belongs to it.
    pub insn: u32,
    /// The offset of the file's name.
    pub file: u32,
    /// The offset of the line's text.
    pub text: u32,
    /// The line's number from bit 10 on, the column below, both counted from 1.
    pub position: u32,
}

impl Line {
    /// The line's number, counted from 1.
    pub const fn number(self) -> u32 {
        self.position >> 10
    }

    /// The column, counted from 1; 0 if it is not known.
    pub const fn column(self) -> u32 {
        self.position & 0x3ff
    }
}

/// Types for whoever shows maps and programs to a user. Programs run the same without.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Types {
    /// Types and strings in the BTF format ([`crate::btf`]); empty if there are none.
    pub btf: Vec<u8>,
    /// What the keys and values of each map are; a map behind the last has none, and the last has
    /// some.
    pub maps: Vec<MapTypes>,
}

impl Types {
    /// What the keys and values of map number `index` are.
    pub fn of_map(&self, index: usize) -> MapTypes {
        self.maps.get(index).copied().unwrap_or_default()
    }
}

/// The numbers of a map's types in [`Types::btf`]; 0 where one is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MapTypes {
    /// Of the keys.
    pub key: u32,
    /// Of the values.
    pub value: u32,
}

/// One program of a [`Linked`] object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProgramDef {
    /// The function's name.
    pub name: String,
    /// The section it came from, such as `kprobe/vfs_read`; empty for built-in programs.
    pub section: String,
    /// What its context is, where that is a function's arguments and not the registers.
    pub signature: Option<Signature>,
    /// The instructions: the program first, then the subprograms that it calls.
    pub insns: Vec<Insn>,
    /// Where they are in the source, by rising instruction; empty if that is not known.
    pub lines: Vec<Line>,
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

    /// The source line of an instruction, if it is known.
    pub fn line(&self, insn: usize) -> Option<Line> {
        let known = self
            .lines
            .partition_point(|line| line.insn as usize <= insn);
        Some(self.lines[known.checked_sub(1)?])
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
    /// What keys, values and source lines are called.
    pub types: Types,
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
    /// A context that there is not, or with more arguments than functions have in registers.
    Context,
    /// A program without instructions, or with more than [`MAX_INSNS`].
    Insns,
    /// A map of programs holds one that is not there.
    ProgramSlot,
    /// A map of programs holds, or is used by, programs that run at different kinds of places.
    Contexts,
    /// A program calls a helper that only agent expressions have ([`crate::agent`]).
    HelperOfExpressions(&'static str),
    /// Source lines that do not rise, or lie behind the program's end.
    Lines,
    /// The types are malformed.
    Types(BtfError),
    /// A map, or a source line, refers to a type or string that is not there.
    Reference,
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
            Self::Context => f.write_str("a program's context is of a kind that is not known"),
            Self::Insns => write!(f, "a program must have 1 to {MAX_INSNS} instructions"),
            Self::ProgramSlot => {
                f.write_str("a map of programs holds a program that the object does not have")
            }
            Self::Contexts => f.write_str(
                "programs that a tail call leads from one to the other run at different kinds of \
                 places: their sections must be of one kind, such as kprobe and kretprobe",
            ),
            Self::HelperOfExpressions(name) => write!(
                f,
                "a program calls {name}, which only the debugger's own expressions can"
            ),
            Self::Lines => f.write_str("the source lines of a program are not in its order"),
            Self::Types(error) => error.fmt(f),
            Self::Reference => {
                f.write_str("a map or a source line refers to a type or name that is not there")
            }
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
        linked.check_helpers()?;
        Ok(linked)
    }

    /// Writes the object. What has been written is always read back the same.
    pub fn encode(&self) -> Result<Vec<u8>, ParseError> {
        self.check()?;
        self.check_helpers()?;
        let mut body = Vec::new();
        put_name(&mut body, &self.name);
        put_name(&mut body, &self.license);
        // `check` has bounded every length that is narrowed here.
        body.extend((self.maps.len() as u16).to_le_bytes());
        body.extend((self.programs.len() as u16).to_le_bytes());
        for (index, map) in self.maps.iter().enumerate() {
            put_map(&mut body, map, self.map_types(index));
        }
        self.programs
            .iter()
            .for_each(|program| put_program(&mut body, program));
        put_block(&mut body, &self.types.btf);
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

    /// What the keys and values of map number `index` are.
    pub fn map_types(&self, index: usize) -> MapTypes {
        self.types.of_map(index)
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
            let is_rising = program.lines.is_sorted_by(|one, next| one.insn < next.insn);
            let last = program.lines.last().map_or(0, |line| line.insn as usize);
            if !is_rising || last >= program.insns.len() {
                return Err(ParseError::Lines);
            }
        }
        for index in 0..self.maps.len() {
            self.check_tail_calls(index)?;
        }
        self.check_types()?;
        check_distinct(self.maps.iter().map(|map| map.name.as_str()))?;
        check_distinct(self.programs.iter().map(|program| program.name.as_str()))
    }
}

/// What the context of a program with that section means: programs that can take each other's place have
/// the same.
fn context_of(section: &str) -> &str {
    let kind = section.split('/').next().unwrap_or_default();
    match kind {
        "kprobe" | "kretprobe" | "ksyscall" | "kretsyscall" => "kprobe",
        "hprobe" | "hretprobe" => "hprobe",
        // Every tracepoint, and whatever else there may be, has its own.
        _ => section,
    }
}

/// What a program is given: its section says where it runs, its signature what the arguments there are.
pub(crate) type Given<'a> = (&'a str, Option<Signature>);

/// Whether programs can take each other's place: their contexts mean the same.
pub(crate) fn run_alike(one: Given<'_>, other: Given<'_>) -> bool {
    context_of(one.0) == context_of(other.0) && one.1 == other.1
}

/// Whether a program refers to the map of that number.
pub(crate) fn uses_map(insns: &[Insn], map: usize) -> bool {
    let is_it = |insn: &Insn| {
        insn.is_wide() && insn.src == PSEUDO_MAP && usize::try_from(insn.imm) == Ok(map)
    };
    insns.iter().any(is_it)
}

impl Linked {
    /// The programs that a map of programs holds, and those that use it.
    fn check_tail_calls(&self, index: usize) -> Result<(), ParseError> {
        let map = &self.maps[index];
        if map.kind != MapKind::ProgArray {
            return Ok(());
        }
        let held = initial_programs(&map.initial);
        let held = held.map(|(_, number)| self.programs.get(number).ok_or(ParseError::ProgramSlot));
        let users = self.programs.iter();
        let users = users.filter(|program| uses_map(&program.insns, index));
        let mut first = None;
        for program in held.chain(users.map(Ok)) {
            let program = program?;
            let given = (program.section.as_str(), program.signature);
            if !run_alike(*first.get_or_insert(given), given) {
                return Err(ParseError::Contexts);
            }
        }
        Ok(())
    }

    /// What is linked has none of the helpers of agent expressions.
    fn check_helpers(&self) -> Result<(), ParseError> {
        let insns = self.programs.iter().flat_map(|program| &program.insns);
        let calls = insns.filter(|insn| insn.code == CALL && insn.src == 0);
        let mut helpers = calls.filter_map(|insn| Helper::from_number(insn.imm));
        match helpers.find(|helper| helper.is_of_expressions()) {
            Some(helper) => Err(ParseError::HelperOfExpressions(helper.name())),
            None => Ok(()),
        }
    }

    fn check_types(&self) -> Result<(), ParseError> {
        let lines = self.programs.iter().flat_map(|program| &program.lines);
        let mut strings = lines.flat_map(|line| [line.file, line.text]);
        let mut types = self.types.maps.iter().flat_map(|map| [map.key, map.value]);
        let fits = if self.types.btf.is_empty() {
            types.all(|id| id == 0) && strings.next().is_none()
        } else {
            let btf = Btf::parse(&self.types.btf).map_err(ParseError::Types)?;
            types.all(|id| id < btf.count()) && strings.all(|offset| btf.has_string(offset))
        };
        if fits && self.types.maps.len() <= self.maps.len() {
            Ok(())
        } else {
            Err(ParseError::Reference)
        }
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
        let maps: Vec<_> = (0..maps).map(|_| self.map()).collect::<Result<_, _>>()?;
        let (maps, mut map_types): (_, Vec<_>) = maps.into_iter().unzip();
        while map_types.last() == Some(&MapTypes::default()) {
            map_types.pop();
        }
        let programs = (0..programs).map(|_| self.program());
        let programs = programs.collect::<Result<_, _>>()?;
        Ok(Linked {
            name,
            license,
            maps,
            programs,
            types: Types {
                btf: self.block()?.to_vec(),
                maps: map_types,
            },
        })
    }

    /// A length and that many bytes.
    fn block(&mut self) -> Result<&'a [u8], ParseError> {
        let length = self.u32()?;
        self.bytes(length as usize)
    }

    fn map(&mut self) -> Result<(MapDef, MapTypes), ParseError> {
        let name = self.name()?;
        let kind = self.u32()?;
        let kind = MapKind::from_number(kind).ok_or(ParseError::MapKind(kind))?;
        let [key_size, value_size, max_entries] = [self.u32()?, self.u32()?, self.u32()?];
        let mutability = match self.u32()? {
            0 => Mutability::Mutable,
            FLAG_FROZEN => Mutability::Frozen,
            flags => return Err(ParseError::MapFlags(flags)),
        };
        let [key, value] = [self.u32()?, self.u32()?];
        let definition = MapDef {
            name,
            kind,
            key_size,
            value_size,
            max_entries,
            mutability,
            initial: self.block()?.to_vec(),
        };
        Ok((definition, MapTypes { key, value }))
    }

    fn program(&mut self) -> Result<ProgramDef, ParseError> {
        let name = self.name()?;
        let section = self.name()?;
        let words = [self.u32()?, self.u32()?, self.u32()?];
        let signature = Signature::from_words(words).ok_or(ParseError::Context)?;
        let count = self.u32()? as usize;
        if count > MAX_INSNS {
            return Err(ParseError::Insns);
        }
        let (insns, _) = self.bytes(count * Insn::SIZE)?.as_chunks();
        let insns = insns.iter().map(|&bytes| Insn::decode(bytes)).collect();
        let count = self.u32()? as usize;
        if count > MAX_INSNS {
            return Err(ParseError::Lines);
        }
        let lines = (0..count).map(|_| self.line());
        Ok(ProgramDef {
            name,
            section,
            signature,
            insns,
            lines: lines.collect::<Result<_, _>>()?,
        })
    }

    fn line(&mut self) -> Result<Line, ParseError> {
        Ok(Line {
            insn: self.u32()?,
            file: self.u32()?,
            text: self.u32()?,
            position: self.u32()?,
        })
    }
}

fn put_name(body: &mut Vec<u8>, name: &str) {
    body.extend((name.len() as u16).to_le_bytes());
    body.extend(name.as_bytes());
}

fn put_words(body: &mut Vec<u8>, words: impl IntoIterator<Item = u32>) {
    body.extend(words.into_iter().flat_map(u32::to_le_bytes));
}

fn put_block(body: &mut Vec<u8>, block: &[u8]) {
    put_words(body, [block.len() as u32]);
    body.extend(block);
}

fn put_map(body: &mut Vec<u8>, map: &MapDef, types: MapTypes) {
    let flags = match map.mutability {
        Mutability::Mutable => 0,
        Mutability::Frozen => FLAG_FROZEN,
    };
    let sizes = [map.key_size, map.value_size, map.max_entries];
    put_name(body, &map.name);
    put_words(body, [map.kind as u32]);
    put_words(body, sizes);
    put_words(body, [flags, types.key, types.value]);
    put_block(body, &map.initial);
}

fn put_program(body: &mut Vec<u8>, program: &ProgramDef) {
    put_name(body, &program.name);
    put_name(body, &program.section);
    put_words(body, Signature::to_words(program.signature));
    put_words(body, [program.insns.len() as u32]);
    body.extend(program.insns.iter().flat_map(|insn| insn.encode()));
    put_words(body, [program.lines.len() as u32]);
    for line in &program.lines {
        put_words(body, [line.insn, line.file, line.text, line.position]);
    }
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
