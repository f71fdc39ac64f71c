//! Linked programs in files.

use anyhow::{Context, Result};
use ebpf::linked::Linked;
use std::fs;
use std::path::Path;

/// Reads a linked program.
pub(crate) fn read(path: &Path) -> Result<Linked> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Linked::parse(&bytes).with_context(|| path.display().to_string())
}

/// Writes a linked program.
pub(crate) fn write(linked: &Linked, path: &Path) -> Result<()> {
    let bytes = linked.encode()?;
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// `1 map`, `2 maps`.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
