//! The hypervisor's own symbols, which the build puts into the section `.ksyms` after linking.

use probes::ksyms::KsymTable;
use spin::Once;

unsafe extern "C" {
    static __ksyms_start: u8;
    static __ksyms_end: u8;
}

static TABLE: Once<Option<KsymTable<'static>>> = Once::new();

/// The table; `None` where the build has not filled it in: `cargo build` alone does not, `cargo xtask build` does.
pub fn table() -> Option<&'static KsymTable<'static>> {
    TABLE.call_once(|| KsymTable::parse(section())).as_ref()
}

fn section() -> &'static [u8] {
    let start = &raw const __ksyms_start;
    let size = &raw const __ksyms_end as usize - start as usize;
    // SAFETY: the linker script reserves these bytes in read-only memory.
    unsafe { core::slice::from_raw_parts(start, size) }
}
