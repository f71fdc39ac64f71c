//! How much comparing a link may take. Types are read from guests too, which are not trusted: nested
//! prototypes or one name of a megabyte would otherwise keep a link busy for years.

use anyhow::{Result, ensure};
use ebpf::btf::Btf;
use std::cell::Cell;

/// Members, types and names that are looked at for one object. Each of Debian's libbpf-tools needs
/// about 250,000 against Debian's kernel 6.12, nearly all of them to find that kernel's names.
const LIMIT: u64 = 1 << 22;

/// Bytes of a name that take as long as looking at one type.
const BYTES_PER_UNIT: usize = 8;

/// What is left of the limit.
pub(super) struct Work {
    left: Cell<u64>,
}

impl Work {
    /// For one object.
    pub(super) fn new() -> Self {
        Self {
            left: Cell::new(LIMIT),
        }
    }

    /// Takes `units` off, one for each member or type that is looked at.
    pub(super) fn spend(&self, units: usize) -> Result<()> {
        let left = self.left.get().checked_sub(units as u64);
        self.left.set(left.unwrap_or(0));
        ensure!(
            left.is_some(),
            "the types of the object and of the kernel are too intricate to compare"
        );
        Ok(())
    }

    /// A name among the strings of some types: long ones take longer.
    pub(super) fn name<'a>(&self, btf: &Btf<'a>, offset: u32) -> Result<&'a [u8]> {
        let name = btf.string(offset);
        self.spend(1 + name.len() / BYTES_PER_UNIT)?;
        Ok(name)
    }
}
