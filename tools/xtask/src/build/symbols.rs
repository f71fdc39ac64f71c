//! The symbol table that EL2 uses for its own backtraces and probes.

use anyhow::{Context, Result};
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSymbol, SymbolKind};

/// First bytes of the blob.
const MAGIC: &[u8; 4] = b"PSYM";

/// One function.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    address: u64,
    size: u32,
    name: String,
}

/// The functions of a program by address, one for each address, names demangled without their hash.
pub fn functions(file: &ElfFile64<'_, Endianness>) -> Vec<Function> {
    let mut functions: Vec<Function> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .filter_map(|symbol| {
            let name = symbol.name().ok().filter(|name| !name.is_empty())?;
            Some(Function {
                address: symbol.address(),
                size: u32::try_from(symbol.size()).unwrap_or(u32::MAX),
                name: format!("{:#}", rustc_demangle::demangle(name)),
            })
        })
        .collect();
    // Of several names for one address the one that covers most comes first and stays.
    functions.sort_by(|a, b| (a.address, b.size, &a.name).cmp(&(b.address, a.size, &b.name)));
    functions.dedup_by_key(|function| function.address);
    functions
}

/// The blob, little-endian: magic `PSYM`, u32 count, `count` times {u64 address, u32 offset of the name, u32 size in
/// bytes}, u32 length of the names, the names, each ended by a zero byte.
pub fn blob(functions: &[Function]) -> Result<Vec<u8>> {
    let count = u32::try_from(functions.len()).context("too many functions")?;
    let mut blob = MAGIC.to_vec();
    blob.extend(count.to_le_bytes());
    let mut names = Vec::new();
    for function in functions {
        let name_offset = u32::try_from(names.len()).context("too many names")?;
        blob.extend(function.address.to_le_bytes());
        blob.extend(name_offset.to_le_bytes());
        blob.extend(function.size.to_le_bytes());
        names.extend(function.name.bytes());
        names.push(0);
    }
    blob.extend(
        u32::try_from(names.len())
            .context("too many names")?
            .to_le_bytes(),
    );
    blob.extend(names);
    Ok(blob)
}
