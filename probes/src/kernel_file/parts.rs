//! The parts of a kernel in memory, by the names of its own that say where they begin and end.

use super::NoFile;
use crate::addr::PAGE_SIZE;
use crate::symbols::{Symbol, Symbols};
use crate::target::Target;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// What is in a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holds {
    Code,
    Constants,
    Variables,
}

/// A part of the kernel, or the code of a module: a section of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) holds: Holds,
    pub(super) range: Range<u64>,
}

/// The parts by address.
pub(super) struct Parts(Vec<Part>);

impl Parts {
    /// Those of a kernel and its modules.
    pub(super) fn of(symbols: &dyn Symbols) -> Result<Self, NoFile> {
        let mut parts = Self::of_kernel(symbols)?;
        parts.0.extend(modules(symbols));
        parts.0.sort_by_key(|part| part.range.start);
        Ok(parts)
    }

    /// Those of a kernel.
    pub(super) fn of_kernel(symbols: &dyn Symbols) -> Result<Self, NoFile> {
        let address = |name: &'static str| {
            let found = symbols.by_name(name).map(|address| address.0);
            found.ok_or(NoFile::NoSymbol(name))
        };
        let text = address("_stext")?..address("_etext")?;
        let init = address("_sinittext")?..address("_einittext")?;
        let part = |name: &str, holds, range| Part {
            name: name.to_string(),
            holds,
            range,
        };
        let mut parts = vec![];
        // Without CONFIG_KALLSYMS_ALL there are no symbols outside of code.
        if let (Ok(start), Ok(end)) = (address("_text"), address("_end")) {
            parts = vec![
                part(".head.text", Holds::Code, start..text.start),
                part(".rodata", Holds::Constants, text.end..init.start),
                part(".data", Holds::Variables, init.end..end),
            ];
        }
        parts.push(part(".text", Holds::Code, text));
        parts.push(part(".init.text", Holds::Code, init));
        parts.retain(|part| part.range.start < part.range.end);
        parts.sort_by_key(|part| part.range.start);
        Ok(Self(parts))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Part> + Clone {
        self.0.iter()
    }

    /// Where code is.
    pub(super) fn code(&self) -> Vec<Range<u64>> {
        let code = self.iter().filter(|part| part.holds == Holds::Code);
        code.map(|part| part.range.clone()).collect()
    }

    /// The index of the part that an address is in, and the part.
    pub(super) fn at(&self, address: u64) -> Option<(usize, &Part)> {
        let after = self.0.partition_point(|part| part.range.start <= address);
        let index = after.checked_sub(1)?;
        let part = &self.0[index];
        part.range.contains(&address).then_some((index, part))
    }
}

/// The code of each module. Where a module's last function ends is not known: its page does at the latest.
fn modules(symbols: &dyn Symbols) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    symbols.each_symbol(&mut |Symbol { address, name, .. }| {
        let Some((module, _)) = Target::split_module(name) else {
            return true;
        };
        let name = format!(".text.{module}");
        let Some(end) = address.checked_add(1) else {
            return true;
        };
        let end = end.0.next_multiple_of(PAGE_SIZE);
        match parts.last_mut() {
            Some(last) if last.name == name => last.range.end = last.range.end.max(end),
            _ => parts.push(Part {
                name,
                holds: Holds::Code,
                range: address.0..end,
            }),
        }
        true
    });
    parts
}
