//! Functions: their references, and how a program and all that it calls become one.

use super::core::Relocator;
use super::elf::{Elf, Relocation, Role, Symbol};
use super::ext::{Ext, Line};
use super::externs::Externs;
use super::maps::Maps;
use anyhow::{Context, Result, anyhow, bail, ensure};
use ebpf::insn::{CALL, Insn, LD_IMM64, PSEUDO_CALL, PSEUDO_MAP, PSEUDO_MAP_VALUE};
use ebpf::linked::MAX_INSNS;
use object::SymbolKind;
use std::collections::{BTreeMap, HashMap};

/// `src` of [`LD_IMM64`]: the immediate is the distance to a function (`BPF_PSEUDO_FUNC`).
const PSEUDO_FUNC: u8 = 4;

/// Section and first instruction of a function.
pub(super) type Key = (usize, usize);

/// A function with all references filled in but those to functions.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) insns: Vec<Insn>,
    /// By the instruction from the beginning of the function.
    lines: Vec<Line>,
    /// Instructions that call a function or take its address.
    calls: BTreeMap<usize, Key>,
    /// What could not be filled in: no matter where the function is not used.
    error: Option<String>,
}

/// All functions of an object.
pub(super) struct Functions {
    by_key: BTreeMap<Key, Function>,
}

/// A program with all that it calls.
pub(super) struct Linked {
    pub(super) insns: Vec<Insn>,
    pub(super) lines: Vec<Line>,
}

/// What references are to.
pub(super) struct Targets<'t> {
    pub(super) maps: &'t Maps,
    pub(super) externs: &'t Externs,
}

impl Functions {
    /// The functions as they are in the object, with CO-RE relocations filled in by `relocator`.
    pub(super) fn new(
        elf: &Elf<'_>,
        ext: &Ext,
        targets: &Targets<'_>,
        mut relocator: Option<&mut Relocator<'_>>,
    ) -> Result<Self> {
        let mut by_key = BTreeMap::new();
        for (index, section) in elf.sections.iter().enumerate() {
            if !section.role.is_code() {
                continue;
            }
            let mut code = Code::new(elf, index)?;
            if let Some(relocator) = relocator.as_deref_mut() {
                let relocations = ext.core.get(section.name).into_iter().flatten();
                for &relocation in relocations {
                    let result = relocator.apply(relocation, &mut code.insns, relocation.insn);
                    code.note(relocation.insn, result);
                }
            }
            for &relocation in &section.relocations {
                let at = code.place(relocation)?;
                let result = code.refer(at, relocation, targets);
                code.note(at, result);
            }
            code.find_local_calls();
            let lines = ext.lines.get(section.name).map_or(&[][..], Vec::as_slice);
            code.split(lines, &mut by_key)?;
        }
        Ok(Self { by_key })
    }

    /// The functions of a section, by their first instruction.
    pub(super) fn of_section(&self, section: usize) -> impl Iterator<Item = (Key, &Function)> {
        let all = self.by_key.range((section, 0)..=(section, usize::MAX));
        all.map(|(&key, function)| (key, function))
    }

    /// A program followed by the functions that it calls, each behind the first that calls it: the
    /// order is libbpf's.
    pub(super) fn link(&self, elf: &Elf<'_>, program: Key) -> Result<Linked> {
        let mut linker = Linker {
            elf,
            functions: self,
            starts: HashMap::new(),
            linked: Linked {
                insns: Vec::new(),
                lines: Vec::new(),
            },
        };
        let function = self
            .by_key
            .get(&program)
            .context("there is no such program")?;
        linker.append(function)?;
        linker.resolve(program)?;
        Ok(linker.linked)
    }
}

struct Linker<'l, 'd> {
    elf: &'l Elf<'d>,
    functions: &'l Functions,
    /// Where functions begin in the program. That of the program itself is not there: nobody calls
    /// it.
    starts: HashMap<Key, usize>,
    linked: Linked,
}

impl<'l> Linker<'l, '_> {
    /// Puts a function at the end and returns where it begins.
    fn append(&mut self, function: &Function) -> Result<usize> {
        if let Some(error) = &function.error {
            bail!("{error}");
        }
        let Linked { insns, lines } = &mut self.linked;
        let start = insns.len();
        insns.extend(&function.insns);
        lines.extend(function.lines.iter().map(|line| Line {
            insn: line.insn + start,
            ..*line
        }));
        ensure!(
            insns.len() <= MAX_INSNS,
            "it has more than {MAX_INSNS} instructions"
        );
        Ok(start)
    }

    /// Fills in the calls of the program and of all that is called. What a function calls first comes
    /// right behind it, with all that it calls in turn. A stack of our own: nesting is the object's
    /// choice.
    fn resolve(&mut self, program: Key) -> Result<()> {
        let functions = self.functions;
        let calls = |key: &Key| {
            functions
                .by_key
                .get(key)
                .map(|function| function.calls.iter())
        };
        let mut nested = vec![(0, calls(&program).context("there is no such program")?)];
        while let Some((start, rest)) = nested.last_mut() {
            let start = *start;
            let Some((&at, callee)) = rest.next() else {
                nested.pop();
                continue;
            };
            let target = match self.starts.get(callee) {
                Some(&target) => target,
                None => {
                    let function = self.callee(*callee)?;
                    let target = self.append(function)?;
                    self.starts.insert(*callee, target);
                    nested.push((target, function.calls.iter()));
                    target
                }
            };
            // Both are below MAX_INSNS.
            self.linked.insns[start + at].imm = target as i32 - (start + at) as i32 - 1;
        }
        Ok(())
    }

    fn callee(&self, key: Key) -> Result<&'l Function> {
        let (section, insn) = key;
        let role = self.elf.sections.get(section).map(|section| section.role);
        let function = self.functions.by_key.get(&key);
        match (function, role) {
            (Some(function), Some(Role::Text)) => Ok(function),
            (Some(function), _) => bail!(
                "function {0} is called but is a program (section {1}): what is called must be a \
                 function without SEC()",
                function.name,
                self.elf.sections[section].name
            ),
            (None, Some(Role::Text)) => bail!("no function begins at instruction {insn}"),
            _ => bail!(
                "section {} calls a function that has a section of its own: what is called must be \
                 a function without SEC()",
                self.elf.sections[section].name
            ),
        }
    }
}

/// The instructions of a section.
struct Code<'e, 'd> {
    elf: &'e Elf<'d>,
    section: usize,
    insns: Vec<Insn>,
    calls: BTreeMap<usize, Key>,
    /// Instructions that could not be filled in.
    errors: BTreeMap<usize, anyhow::Error>,
}

impl<'e, 'd> Code<'e, 'd> {
    fn new(elf: &'e Elf<'d>, section: usize) -> Result<Self> {
        Ok(Self {
            elf,
            section,
            insns: elf.sections[section].insns()?,
            calls: BTreeMap::new(),
            errors: BTreeMap::new(),
        })
    }

    fn note(&mut self, at: usize, result: Result<()>) {
        if let Err(error) = result {
            self.errors.entry(at).or_insert(error);
        }
    }

    /// The instruction that a relocation is for.
    fn place(&self, relocation: Relocation) -> Result<usize> {
        let offset = relocation.offset;
        let at = usize::try_from(offset).map(|offset| offset / Insn::SIZE);
        let at = at
            .ok()
            .filter(|&at| at < self.insns.len() && offset.is_multiple_of(8));
        at.with_context(|| format!("a relocation at {offset} is outside code"))
    }

    /// Fills in a reference, or remembers it where it is to a function.
    fn refer(&mut self, at: usize, relocation: Relocation, targets: &Targets<'_>) -> Result<()> {
        let elf = self.elf;
        let symbol = elf.target(relocation)?;
        let shown = elf.shown(symbol);
        let insn = self.insns[at];
        if insn.code == CALL {
            let callee = self.callee(at, symbol)?;
            self.calls.insert(at, callee);
            return Ok(());
        }
        ensure!(
            insn.code == LD_IMM64 && at + 1 < self.insns.len(),
            "a reference to {shown} is cut off"
        );
        if let Some(value) = targets
            .externs
            .offset(symbol.name)
            .zip(targets.maps.kconfig)
            && symbol.section.is_none()
        {
            self.load(at, PSEUDO_MAP_VALUE, value.1, Some(value.0 as i32));
            return Ok(());
        }
        let section = symbol.section.ok_or_else(|| undefined(symbol))?;
        let place = symbol.value.wrapping_add_signed(insn.imm.into());
        match elf.sections.get(section).map(|section| section.role) {
            Some(role) if role.is_data() => {
                let map = targets.maps.of_section(section);
                let map = map.with_context(|| format!("{shown} has no data"))?;
                // Programs compute with addresses: one may well be outside.
                let value = (symbol.value as i32).wrapping_add(insn.imm);
                self.load(at, PSEUDO_MAP_VALUE, map, Some(value));
            }
            Some(Role::BtfMaps | Role::LegacyMaps) => {
                let map = targets.maps.at(section, place);
                let map = map.with_context(|| format!("{shown} is no map"))?;
                self.load(at, PSEUDO_MAP, map, None);
            }
            Some(role) if role.is_code() => {
                ensure!(
                    role == Role::Text,
                    "the address of function {shown} is taken, which is a program"
                );
                self.insns[at].src = PSEUDO_FUNC;
                self.calls
                    .insert(at, (section, place as usize / Insn::SIZE));
            }
            _ => bail!("{shown} is in a section that cannot be linked"),
        }
        Ok(())
    }

    fn load(&mut self, at: usize, src: u8, map: usize, offset: Option<i32>) {
        self.insns[at].src = src;
        // There are fewer maps than sections and symbols.
        self.insns[at].imm = map as i32;
        if let Some(offset) = offset {
            self.insns[at + 1].imm = offset;
        }
    }

    /// The function that a call with a relocation is for.
    fn callee(&self, at: usize, symbol: &Symbol<'_>) -> Result<Key> {
        let Some(section) = symbol.section else {
            bail!(
                "{} is not defined: kernel functions (kfuncs) cannot be called from the hypervisor",
                symbol.name
            );
        };
        let start = i64::try_from(symbol.value / Insn::SIZE as u64)?;
        // Of a global function it is -1, of a static one its place in the section before the next.
        let insn = start + i64::from(self.insns[at].imm) + 1;
        let insn = usize::try_from(insn).context("a call to something before its section")?;
        Ok((section, insn))
    }

    /// Calls inside of a section have no relocation.
    fn find_local_calls(&mut self) {
        for (at, insn) in self.insns.iter().enumerate() {
            let is_call = insn.code == CALL && insn.src == PSEUDO_CALL;
            let target = usize::try_from(at as i64 + i64::from(insn.imm) + 1);
            if let Ok(target) = target
                && is_call
            {
                self.calls.entry(at).or_insert((self.section, target));
            }
        }
    }

    /// Cuts the section into functions.
    fn split(self, lines: &[Line], into: &mut BTreeMap<Key, Function>) -> Result<()> {
        let is_here = |symbol: &&Symbol<'_>| {
            symbol.section == Some(self.section) && symbol.kind == SymbolKind::Text
        };
        for symbol in self.elf.symbols.iter().filter(is_here) {
            let name = symbol.name;
            // Symbols lie inside their sections.
            let start = symbol.value as usize / Insn::SIZE;
            let end = (symbol.value + symbol.size) as usize / Insn::SIZE;
            let is_whole = symbol.value % 8 == 0 && symbol.size % 8 == 0 && end > start;
            let insns = self.insns.get(start..end).filter(|_| is_whole);
            let insns = insns.with_context(|| format!("function {name} is cut off"))?;
            let from_start = |line: &Line| {
                (start..end).contains(&line.insn).then(|| Line {
                    insn: line.insn - start,
                    ..*line
                })
            };
            let calls = self.calls.range(start..end);
            let error = self.errors.range(start..end).next();
            let function = Function {
                name: name.into(),
                insns: insns.to_vec(),
                lines: lines.iter().filter_map(from_start).collect(),
                calls: calls.map(|(&at, &callee)| (at - start, callee)).collect(),
                error: error.map(|(_, error)| format!("{error:#}")),
            };
            let other = into.insert((self.section, start), function);
            if let Some(other) = other {
                bail!("functions {} and {name} are at the same place", other.name);
            }
        }
        Ok(())
    }
}

/// Why a symbol without a definition cannot be had.
fn undefined(symbol: &Symbol<'_>) -> anyhow::Error {
    anyhow!(
        "{} is not defined (__ksym externs are not supported)",
        symbol.name
    )
}
