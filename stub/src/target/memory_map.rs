//! The memory map. A client counts in guest-virtual addresses, and any of them can be RAM: which are is for the guest's
//! tables to say. So the map calls everything RAM, which also keeps GDB from refusing an address on its own.

use super::DebugTarget;
use super::description::window;
use gdbstub::target::TargetResult;
use gdbstub::target::ext::memory_map::MemoryMap;

/// Two halves: one region cannot have 2⁶⁴ bytes.
const MAP: &str = "<?xml version=\"1.0\"?>\n\
<!DOCTYPE memory-map PUBLIC \"+//IDN gnu.org//DTD GDB Memory Map V1.0//EN\" \
\"http://sourceware.org/gdb/gdb-memory-map.dtd\">\n\
<memory-map>\n\
<memory type=\"ram\" start=\"0x0\" length=\"0x8000000000000000\"/>\n\
<memory type=\"ram\" start=\"0x8000000000000000\" length=\"0x8000000000000000\"/>\n\
</memory-map>\n";

impl MemoryMap for DebugTarget {
    fn memory_map_xml(
        &self,
        offset: u64,
        length: usize,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        Ok(window(MAP.as_bytes(), offset, length, buffer))
    }
}
