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
    /// A hash of what else is in the file: which parts of the kernel the symbols tell, the modules, and where all these are from
    /// `start`.
    pub contents: u64,
    /// Where the kernel's code begins (`_stext`).
    pub start: u64,
}

impl Identity {
    /// That of a kernel with no module.
    pub(crate) fn of(
        symbols: &dyn Symbols,
        build_id: [u8; build_id::LENGTH],
    ) -> Result<Self, NoFile> {
        let start = symbols
            .by_name("_stext")
            .ok_or(NoFile::NoSymbol("_stext"))?;
        let empty = Self {
            build_id,
            contents: 0xcbf2_9ce4_8422_2325,
            start: start.0,
        };
        let mut identity = empty.with(&[FORMAT]);
        for part in Parts::of_kernel(symbols)?.iter() {
            identity = identity
                .with_address(part.range.start)
                .with_address(part.range.end);
        }
        Ok(identity)
    }

    /// With a function of a module.
    pub(crate) fn with_function(self, module: &str, address: u64, name: &str) -> Self {
        self.with(module.as_bytes())
            .with(b":")
            .with(name.as_bytes())
            .with(&[0])
            .with_address(address)
    }

    /// With how far an address is from the start.
    fn with_address(self, address: u64) -> Self {
        self.with(&address.wrapping_sub(self.start).to_le_bytes())
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
