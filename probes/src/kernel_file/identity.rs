//! What tells the file of one kernel from those of others, known before it is made.

use super::NoFile;
use super::parts::Parts;
use crate::build_id;
use crate::symbols::Symbols;
use core::fmt;

/// Counts how the same kernel came to have another file: raise it where what is written here changes.
const FORMAT: u8 = 1;

/// What a host keeps a file by. Two files with the same build ID and contents differ by where the kernel is alone: all
/// addresses in one are as far from those in the other as `start` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The kernel's build ID.
    pub build_id: [u8; build_id::LENGTH],
    /// A hash of what else is in the file: modules, and where they are beside the kernel.
    pub contents: u64,
    /// Where the kernel begins.
    pub start: u64,
}

impl Identity {
    /// That of a kernel with no module.
    pub(crate) fn of(
        symbols: &dyn Symbols,
        build_id: [u8; build_id::LENGTH],
    ) -> Result<Self, NoFile> {
        let parts = Parts::of_kernel(symbols)?;
        let start = parts.iter().next().map_or(0, |part| part.range.start);
        let empty = Self {
            build_id,
            contents: 0xcbf2_9ce4_8422_2325,
            start,
        };
        Ok(empty.with(&[FORMAT]))
    }

    /// With a function of a module.
    pub(crate) fn with_function(self, module: &str, address: u64, name: &str) -> Self {
        let from_start = address.wrapping_sub(self.start).to_le_bytes();
        let named = self
            .with(module.as_bytes())
            .with(b":")
            .with(name.as_bytes());
        named.with(&[0]).with(&from_start)
    }

    /// FNV-1a.
    fn with(self, bytes: &[u8]) -> Self {
        let contents = bytes.iter().fold(self.contents, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { contents, ..self }
    }
}

/// Three words: build ID, contents, start.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.build_id {
            write!(f, "{byte:02x}")?;
        }
        writeln!(f, " {:016x} {:x}", self.contents, self.start)
    }
}
