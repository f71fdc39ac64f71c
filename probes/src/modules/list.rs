//! The list of modules: where it is, and what is in it.

use super::module::{Module, has_kallsyms};
use crate::addr::Gva;
use crate::kernel_memory::{KernelMemory, kernel_regs};
use crate::machine::Machine;
use crate::symbols::Symbols;
use crate::translate::TranslationRegs;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Modules that a list may have. Distributions load fewer than 200.
const MAX_MODULES: usize = 1024;
/// The list, in a kernel with `CONFIG_KALLSYMS_ALL`.
const LIST: &str = "modules";
/// Functions that go through the list, in a kernel without.
const READERS: [&str; 3] = ["print_modules", "find_module_all", "module_get_kallsym"];
/// Instructions of such a function that are looked at.
const READ: usize = 96;
/// Addresses that they may mention.
const MAX_MENTIONED: usize = 64;

/// From `struct module` to its `list`, behind its `state` (`include/linux/module.h`).
const LIST_OFFSET: u64 = 8;
/// From its `list` to its `name`.
const NAME_FROM_LIST: u64 = 16;
/// `MODULE_NAME_LEN`.
const NAME_LENGTH: usize = 56;

/// `MODULE_STATE_LIVE`.
const LIVE: u32 = 0;
/// `MODULE_STATE_UNFORMED`: being set up, or being taken down.
const UNFORMED: u32 = 3;

/// Where the list is, and how to read it.
pub(super) struct Head {
    at: Gva,
    pub(super) regs: TranslationRegs,
}

/// One module of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Node {
    /// Its `struct module`.
    pub(super) module: Gva,
    pub(super) name: String,
    state: u32,
}

impl Node {
    /// Whether its code can run: not on its way in or out.
    pub(super) fn is_live(&self) -> bool {
        self.state == LIVE
    }

    /// Whether its code is about to go away (or not complete yet).
    pub(super) fn is_unformed(&self) -> bool {
        self.state == UNFORMED
    }

    /// Whether it is this module.
    pub(super) fn is(&self, module: &Module) -> bool {
        self.module == module.at && self.name == module.name
    }
}

/// Finds the list of the kernel whose symbols are `kernel`.
pub(super) fn find(machine: &dyn Machine, kernel: &dyn Symbols) -> Option<Head> {
    let list = kernel.by_name(LIST);
    let mut readers = READERS.iter().filter_map(|name| kernel.by_name(name));
    let anchor = list.or_else(|| readers.next())?;
    let regs = kernel_regs(machine, anchor)?;
    let memory = KernelMemory::new(machine, regs);
    let head = |at| Head { at, regs };
    if let Some(list) = list {
        return Some(head(list));
    }
    let readers = READERS.iter().filter_map(|name| kernel.by_name(name));
    let mentioned = readers.flat_map(|reader| mentioned(&memory, reader));
    // An empty list looks like any other; there is nothing in it anyway.
    let mut heads = mentioned.map(head);
    heads.find(|head| {
        // Other lists may hold things that begin alike.
        let nodes = head.nodes(&memory).unwrap_or_default();
        let mut live = nodes.iter().filter(|node| node.is_live());
        live.any(|node| has_kallsyms(&memory, node.module))
    })
}

impl Head {
    /// The first and the last node.
    pub(super) fn ends(&self, memory: &KernelMemory<'_>) -> Option<[Gva; 2]> {
        memory.words(self.at).map(|ends| ends.map(Gva))
    }

    /// All modules of the list. `None` where it does not hold together, which it may not for a
    /// moment while the guest changes it.
    pub(super) fn nodes(&self, memory: &KernelMemory<'_>) -> Option<Vec<Node>> {
        let mut nodes = Vec::new();
        let [mut at, _] = self.ends(memory)?;
        let mut before = self.at;
        while at != self.at {
            let is_plausible = at.0 >> 63 == 1 && at.0.is_multiple_of(8);
            if !is_plausible || nodes.len() == MAX_MODULES {
                return None;
            }
            let [next, previous] = memory.words(at)?;
            if Gva(previous) != before {
                return None;
            }
            nodes.push(node(memory, at)?);
            before = at;
            at = Gva(next);
        }
        Some(nodes)
    }
}

/// The module whose `list` is at `list`.
fn node(memory: &KernelMemory<'_>, list: Gva) -> Option<Node> {
    let module = Gva(list.0.checked_sub(LIST_OFFSET)?);
    let [state] = memory.words(module)?;
    let mut name = [0; NAME_LENGTH];
    memory.read(list.checked_add(NAME_FROM_LIST)?, &mut name)?;
    let name = module_name(&name)?.to_string();
    let state = state as u32;
    (state <= UNFORMED).then_some(Node {
        module,
        name,
        state,
    })
}

fn module_name(bytes: &[u8]) -> Option<&str> {
    let length = bytes.iter().position(|byte| *byte == 0)?;
    let name = core::str::from_utf8(&bytes[..length]).ok()?;
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    (!name.is_empty() && name.chars().all(valid)).then_some(name)
}

/// The addresses of data that the code at `function` mentions: by ADRP, and what is added to it in
/// further instructions and in the offsets of 64-bit loads (Arm ARM C6.2, "ADRP", "ADD
/// (immediate)", "LDR (immediate)"). Branches are not followed.
fn mentioned(memory: &KernelMemory<'_>, function: Gva) -> Vec<Gva> {
    let code = memory.read_some(function, READ * 4);
    let mut registers = [None; 32];
    let mut found = Vec::new();
    for (index, bytes) in code.chunks_exact(4).enumerate() {
        let word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let pc = function.0.wrapping_add(4 * index as u64);
        let (d, n) = ((word & 31) as usize, (word >> 5 & 31) as usize);
        let offset = u64::from(word >> 10 & 0xfff);
        if word & 0x9f00_0000 == 0x9000_0000 {
            registers[d] = Some((pc & !0xfff).wrapping_add(adrp_offset(word)));
        } else if word & 0xffc0_0000 == 0x9100_0000 {
            registers[d] = registers[n].map(|base: u64| base.wrapping_add(offset));
            found.extend(registers[d]);
        } else if word & 0xffc0_0000 == 0xf940_0000 {
            found.extend(registers[n].map(|base| base.wrapping_add(8 * offset)));
        }
        if found.len() >= MAX_MENTIONED {
            break;
        }
    }
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(Gva).collect()
}

/// The signed 21-bit page offset of an ADRP, in bytes.
fn adrp_offset(word: u32) -> u64 {
    let pages = word >> 29 & 3 | (word >> 5 & 0x7_ffff) << 2;
    let signed = (pages << 11) as i32 >> 11;
    (i64::from(signed) << 12) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_adrp() {
        // adrp x0, #0x1000; adrp x19, #-0x1000; adrp x1, #0x7fffffff000 as llvm-mc 14 has them.
        assert_eq!(adrp_offset(0xb000_0000), 0x1000);
        assert_eq!(adrp_offset(0xf0ff_fff3), 0u64.wrapping_sub(0x1000));
    }

    #[test]
    fn names() {
        assert_eq!(module_name(b"virtio_net\0\0"), Some("virtio_net"));
        for bad in [&b"\0"[..], b"no end", b"a b\0", b"\xff\0"] {
            assert_eq!(module_name(bad), None);
        }
    }
}
