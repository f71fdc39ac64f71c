//! `__kconfig` externs: what a program asks of the kernel's version and configuration.
//!
//! libbpf puts the answers into a map `.kconfig` that nobody may write. What is not known here is an
//! error, unless the extern is weak: then it is 0, as libbpf has it.

use super::elf::{Elf, Symbol};
use super::maps::{KCONFIG, data_section, text};
use anyhow::{Context, Result, bail, ensure};
use ebpf::btf::{Btf, Kind};
use std::cmp::Reverse;
use std::collections::HashMap;

/// A kernel's version as `LINUX_KERNEL_VERSION` has it: major, minor and patch level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct KernelVersion(pub(super) u32);

/// The answers.
#[derive(Default)]
pub(super) struct Externs {
    /// What the map holds.
    pub(super) data: Vec<u8>,
    /// Where the answer of each extern is.
    offsets: HashMap<String, u32>,
}

struct Extern {
    name: String,
    size: u32,
    alignment: u32,
    value: u64,
}

impl Externs {
    pub(super) fn new(
        elf: &Elf<'_>,
        btf: Option<&Btf<'_>>,
        version: Option<KernelVersion>,
    ) -> Result<Self> {
        let Some(btf) = btf else {
            return Ok(Self::default());
        };
        let Some((_, section)) = data_section(btf, KCONFIG) else {
            return Ok(Self::default());
        };
        let mut externs = Vec::new();
        for variable in section.variables() {
            let var = btf.ty(variable.ty).filter(|ty| ty.kind == Kind::Var);
            let var = var.context("the section .kconfig has no variables")?;
            let name = text(btf, var.name);
            let symbol = elf.symbols.iter().find(|symbol| {
                symbol.section.is_none() && symbol.name.as_bytes() == name.as_bytes()
            });
            let symbol = symbol.with_context(|| format!("{name} has no symbol"))?;
            externs.push(answer(btf, symbol, var.size_or_type, version)?);
        }
        // As libbpf sorts them, so that there are no gaps.
        externs.sort_by(|left, right| {
            let rank = |one: &Extern| (Reverse(one.alignment), Reverse(one.size));
            (rank(left), &left.name).cmp(&(rank(right), &right.name))
        });
        let mut answers = Self::default();
        for one in externs {
            let start = answers.data.len().next_multiple_of(one.alignment as usize);
            answers.data.resize(start, 0);
            let value = one.value.to_le_bytes();
            let value = value.into_iter().chain(std::iter::repeat(0));
            answers.data.extend(value.take(one.size as usize));
            answers.offsets.insert(one.name, start as u32);
        }
        Ok(answers)
    }

    /// Where the answer of an extern is in the map.
    pub(super) fn offset(&self, name: &str) -> Option<u32> {
        self.offsets.get(name).copied()
    }
}

fn answer(
    btf: &Btf<'_>,
    symbol: &Symbol<'_>,
    ty: u32,
    version: Option<KernelVersion>,
) -> Result<Extern> {
    let name = symbol.name;
    let size = btf.size(ty).filter(|size| (1..=4096).contains(size));
    let size = size.with_context(|| format!("{name} has no size"))?;
    let known = match (name, version) {
        ("LINUX_KERNEL_VERSION", Some(KernelVersion(version))) => Some(version.into()),
        ("LINUX_KERNEL_VERSION", None) => None,
        // arm64 has it since Linux 4.19.
        ("LINUX_HAS_SYSCALL_WRAPPER", _) => Some(1),
        ("LINUX_HAS_BPF_COOKIE", _) => Some(1),
        _ => None,
    };
    let value = match known {
        Some(value) => value,
        None if symbol.is_weak => 0,
        None if name == "LINUX_KERNEL_VERSION" => bail!(
            "{name} is a __kconfig extern, and nobody has said which version the kernel has: give \
             its image with --kernel"
        ),
        None => bail!(
            "{name} is a __kconfig extern, and the kernel's configuration is not known: declare it \
             __weak, and it is 0"
        ),
    };
    ensure!(
        size >= 8 || value >> (8 * size) == 0,
        "{name} has {size} bytes, which are too few for {value}"
    );
    Ok(Extern {
        name: name.into(),
        size,
        alignment: alignment(btf, ty, size),
        value,
    })
}

/// Arrays are aligned as their elements, all else as its size.
fn alignment(btf: &Btf<'_>, ty: u32, size: u32) -> u32 {
    let array = btf.resolve(ty).and_then(|(_, ty)| ty.array());
    let element = array.and_then(|array| btf.size(array.element));
    let alignment = element.unwrap_or(size).clamp(1, 8);
    if alignment.is_power_of_two() {
        alignment
    } else {
        1
    }
}
