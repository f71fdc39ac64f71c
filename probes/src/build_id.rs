//! The build ID of a kernel: the note that the linker puts into its `.notes` (`NT_GNU_BUILD_ID`; ELF, "Note Section"). A
//! running kernel shows its notes as `/sys/kernel/notes`.

use crate::kernel_memory::{KernelMemory, kernel_regs};
use crate::kernel_types::{TEXT, find_bytes};
use crate::machine::Machine;
use crate::symbols::Symbols;

/// What the note begins with: the lengths of its name and of an ID made with SHA-1, its type 3, its name.
pub const NOTE: [u8; 16] = *b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
/// Bytes of the ID.
pub const LENGTH: usize = 20;
/// Notes are aligned to so many bytes.
pub const ALIGN: usize = 4;

/// Where the notes begin and end (`include/asm-generic/vmlinux.lds.h`). Kernels without `CONFIG_KALLSYMS_ALL` do not name
/// them.
const START: &str = "__start_notes";
/// Where the notes end.
const STOP: &str = "__stop_notes";
/// Bytes of notes at most.
const MOST: u64 = 64 << 10;

/// The ID of the kernel whose symbols these are, from its memory. `None` where it cannot be read now, or there is none.
pub(crate) fn read(machine: &dyn Machine, symbols: &dyn Symbols) -> Option<[u8; LENGTH]> {
    let start = symbols.by_name(START);
    let anchor = start.or_else(|| symbols.by_name(TEXT))?;
    let memory = KernelMemory::new(machine, kernel_regs(machine, anchor)?);
    let read_some = |at, length| memory.read_some(at, length);
    let notes = match (start, symbols.by_name(STOP)) {
        (Some(start), Some(stop)) => {
            read_some(start, stop.0.checked_sub(start.0)?.min(MOST) as usize)
        }
        _ => read_some(find_bytes(anchor, &NOTE, &read_some)?, NOTE.len() + LENGTH),
    };
    find(&notes)?.try_into().ok()
}

/// The ID, where the note is somewhere in these bytes. Zeros are none: what looks for notes has such to compare with.
pub fn find(bytes: &[u8]) -> Option<&[u8]> {
    let notes = bytes.windows(NOTE.len() + LENGTH).step_by(ALIGN);
    let mut ids = notes.filter_map(|note| note.strip_prefix(&NOTE));
    ids.find(|id| id.iter().any(|byte| *byte != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_found_among_others() {
        let id: [u8; LENGTH] = core::array::from_fn(|index| index as u8);
        let other = b"\x06\0\0\0\x04\0\0\0\x01\x01\0\0Linux\0\0\0\0\0\0\0";
        let notes = [&other[..], &NOTE, &[0; LENGTH], &NOTE, &id].concat();
        assert_eq!(find(&notes), Some(&id[..]));
        assert_eq!(find(&notes[..notes.len() - 1]), None);
        // Not aligned.
        assert_eq!(find(&[&[0, 0][..], &NOTE, &id].concat()), None);
        assert_eq!(find(&[]), None);
    }
}
