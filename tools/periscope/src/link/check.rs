//! What must hold of an object before aya-obj may have it.

use super::{Elf, TextSections};
use anyhow::{Context, Result, bail, ensure};
use ebpf::insn::{CALL, Insn, PSEUDO_CALL};
use object::elf::EM_BPF;
use object::{
    Endianness, Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SectionKind,
};
use std::collections::HashMap;

type Section<'data, 'file> = object::read::elf::ElfSection64<'data, 'file, Endianness>;
type Symbol<'data, 'file> = object::read::elf::ElfSymbol64<'data, 'file, Endianness>;

/// What a section is to the linker. The names are those that aya-obj goes by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Functions that programs call.
    Text,
    /// Programs.
    Program,
    /// Global data.
    Data,
    /// Map definitions.
    Maps,
    /// Everything else.
    Other,
}

fn role(section: &Section<'_, '_>) -> Result<Role> {
    let name = section.name()?;
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    Ok(if starts(&[".text"]) {
        Role::Text
    } else if starts(&[".data", ".rodata", ".bss"]) {
        Role::Data
    } else if starts(&[".maps", "maps"]) {
        Role::Maps
    } else if section.kind() == SectionKind::Text && section.size() > 0 {
        Role::Program
    } else {
        Role::Other
    })
}

/// Checks an object and returns the sections that hold functions but no programs.
pub(super) fn check(elf: &Elf<'_>) -> Result<TextSections> {
    let machine = elf.elf_header().e_machine.get(elf.endian());
    let is_bpf = elf.is_little_endian() && machine == EM_BPF;
    ensure!(
        is_bpf,
        "this is no eBPF object: compile it with `clang -O2 -g -target bpf -c`"
    );
    check_symbols(elf)?;
    let mut text = TextSections::new();
    for section in elf.sections() {
        match role(&section)? {
            Role::Text => {
                text.insert(section.index().0);
                check_code(elf, &section)?;
            }
            Role::Program => check_code(elf, &section)?,
            Role::Data | Role::Maps => check_data(elf, &section)?,
            Role::Other => {}
        }
    }
    check_functions(elf, &text)?;
    Ok(text)
}

fn name<'data>(symbol: &Symbol<'data, '_>) -> &'data str {
    symbol.name().unwrap_or("?")
}

/// Every symbol lies inside its section.
fn check_symbols(elf: &Elf<'_>) -> Result<()> {
    for symbol in elf.symbols() {
        let Some(index) = symbol.section_index() else {
            continue;
        };
        let section = elf.section_by_index(index)?;
        let end = symbol.address().checked_add(symbol.size());
        let is_inside = end.is_some_and(|end| end <= section.size());
        ensure!(
            is_inside,
            "symbol {} lies outside its section",
            name(&symbol)
        );
    }
    Ok(())
}

/// aya-obj finds a called function by its address alone: two in different sections must not share
/// one.
fn check_functions(elf: &Elf<'_>, text: &TextSections) -> Result<()> {
    let mut by_address = HashMap::new();
    let in_text = |index: SectionIndex| text.contains(&index.0);
    for symbol in elf
        .symbols()
        .filter(|symbol| symbol.kind() == object::SymbolKind::Text)
    {
        let Some(section) = symbol.section_index().filter(|&index| in_text(index)) else {
            continue;
        };
        let other = by_address.insert(symbol.address(), (section, name(&symbol)));
        if let Some((other_section, other)) = other
            && other_section != section
        {
            bail!(
                "functions {other} and {} are in sections of their own: compile without \
                 -ffunction-sections",
                name(&symbol)
            );
        }
    }
    Ok(())
}

/// Every reference in code is to something that can be linked, and every call goes to a function
/// that is no program.
fn check_code(elf: &Elf<'_>, section: &Section<'_, '_>) -> Result<()> {
    let (insns, rest) = section.data()?.as_chunks::<{ Insn::SIZE }>();
    ensure!(rest.is_empty(), "section {} is cut off", section.name()?);
    let relocated = check_references(elf, section, insns)?;
    if role(section)? == Role::Text {
        // Calls inside of .text need no relocation.
        return Ok(());
    }
    for (index, &bytes) in insns.iter().enumerate() {
        let insn = Insn::decode(bytes);
        let calls_here = insn.code == CALL && insn.src == PSEUDO_CALL && !relocated[index];
        ensure!(
            !calls_here,
            "section {} calls a function that has a section of its own: what is called must be \
             a function without SEC()",
            section.name()?
        );
    }
    Ok(())
}

/// Returns which instructions have a relocation.
fn check_references(
    elf: &Elf<'_>,
    section: &Section<'_, '_>,
    insns: &[[u8; Insn::SIZE]],
) -> Result<Vec<bool>> {
    let mut relocated = vec![false; insns.len()];
    for (offset, relocation) in section.relocations() {
        let index = usize::try_from(offset)
            .ok()
            .map(|offset| offset / Insn::SIZE);
        let index = index.filter(|&index| index < insns.len() && offset % 8 == 0);
        let index = index.with_context(|| format!("a relocation at {offset} is outside code"))?;
        relocated[index] = true;
        let RelocationTarget::Symbol(target) = relocation.target() else {
            bail!("a relocation at {offset} refers to no symbol");
        };
        let symbol = elf.symbol_by_index(target)?;
        check_reference(elf, &symbol, Insn::decode(insns[index]))?;
        let has_second_slot = Insn::decode(insns[index]).code == CALL || index + 1 < insns.len();
        ensure!(
            has_second_slot,
            "a reference to {} is cut off",
            name(&symbol)
        );
    }
    Ok(relocated)
}

fn check_reference(elf: &Elf<'_>, symbol: &Symbol<'_, '_>, insn: Insn) -> Result<()> {
    let is_call = insn.code == CALL;
    let Some(index) = symbol.section_index() else {
        return Err(undefined(elf, symbol, is_call));
    };
    let target = elf.section_by_index(index)?;
    let target_name = target.name()?;
    // References to static things are to their section, plus an offset.
    let shown = Some(name(symbol))
        .filter(|name| !name.is_empty())
        .unwrap_or(target_name);
    match (role(&target)?, is_call) {
        (Role::Text, true) => Ok(()),
        (Role::Data | Role::Maps, false) => Ok(()),
        (Role::Text | Role::Program, false) => {
            bail!("the address of function {shown} is taken, which is not supported")
        }
        (Role::Program, true) => bail!(
            "function {shown} is called but is a program (section {target_name}): what is called \
             must be a function without SEC()"
        ),
        _ => bail!("{shown} is in section {target_name}, which cannot be linked"),
    }
}

/// Why a symbol without a definition cannot be had.
fn undefined(elf: &Elf<'_>, symbol: &Symbol<'_, '_>, is_call: bool) -> anyhow::Error {
    let name = name(symbol);
    if is_call {
        return anyhow::anyhow!(
            "{name} is not defined: kernel functions (kfuncs) cannot be called from the hypervisor"
        );
    }
    let is_kconfig = name.starts_with("CONFIG_") || name.starts_with("LINUX_");
    if is_kconfig && has_btf(elf) {
        return anyhow::anyhow!("{name} is a __kconfig extern, which is not supported");
    }
    anyhow::anyhow!("{name} is not defined (__kconfig and __ksym externs are not supported)")
}

fn has_btf(elf: &Elf<'_>) -> bool {
    elf.section_by_name(".BTF").is_some()
}

/// Data may not hold addresses: nothing would fill them in.
fn check_data(elf: &Elf<'_>, section: &Section<'_, '_>) -> Result<()> {
    let Some((offset, relocation)) = section.relocations().next() else {
        return Ok(());
    };
    let target = match relocation.target() {
        RelocationTarget::Symbol(index) => elf.symbol_by_index(index)?.name()?.to_owned(),
        _ => String::new(),
    };
    let holder = elf
        .symbols()
        .filter(|symbol| symbol.section_index() == Some(section.index()))
        .find(|symbol| (symbol.address()..symbol.address() + symbol.size()).contains(&offset));
    let holder = holder.map_or(section.name()?, |symbol| name(&symbol));
    bail!(
        "{holder} holds the address of {target}: maps of maps and pointers in data are not \
         supported"
    )
}
