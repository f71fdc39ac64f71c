//! Programs that call helpers of ours by the numbers that these had in the project that Periscope grew out of. Linux means
//! others by them, so a program has to say so: by a variable of the name [`MARK`].

use super::elf::Elf;
use ebpf::helper::Helper;
use ebpf::insn::{CALL, Insn};

/// The name of the variable.
pub(crate) const MARK: &str = "periscope_seed_helpers";

/// Whether the programs of an object mean the old numbers.
pub(super) fn is_marked(elf: &Elf<'_>) -> bool {
    let mut symbols = elf.symbols.iter();
    symbols.any(|symbol| symbol.name == MARK && symbol.section.is_some())
}

/// Puts today's numbers in place of the old ones.
pub(super) fn renumber(insns: &mut [Insn]) {
    for insn in insns {
        let is_helper = insn.code == CALL && insn.src == 0;
        if let Some(helper) = Helper::from_seed_number(insn.imm).filter(|_| is_helper) {
            insn.imm = helper as i32;
        }
    }
}
