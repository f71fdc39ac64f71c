//! The hypervisor's own memory map: VA = PA, W^X, stacks with guard holes.

use crate::platform::Range;
use crate::{cpu, native};
use aarch64_paging::descriptor::{El23Attributes as Attr, PhysicalAddress};
use aarch64_paging::idmap::IdMap;
use aarch64_paging::paging::{El2, MemoryRegion};
use core::sync::atomic::{AtomicUsize, Ordering};
use spin::Once;

/// `MAIR_EL2`: index 0 is Device-nGnRE, index 1 normal write-back, read- and write-allocate.
pub const MAIR: u64 = 0x04 | 0xff << 8;
/// `TCR_EL2` without PS: 39 bits of VA (T0SZ 25), 4 KiB granule, walks inner shareable and write-back cacheable.
pub const TCR: u64 = 25 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12 | 1 << 23 | 1 << 31;
/// `SCTLR_EL2`: MMU (M), data and instruction caches (C, I), stack alignment check (SA), and the RES1 bits. WXN stays
/// off: the first map of `boot.rs` is writable and executable for a moment.
pub const SCTLR: u64 = 0x30c5_0830 | 1 | 1 << 2 | 1 << 3 | 1 << 12;
/// With WXN: no mapping that can be written can be executed.
const SCTLR_WXN: u64 = SCTLR | 1 << 19;

/// Physical address of the root table, for CPUs that start later with their MMU off.
pub static ROOT_TABLE: AtomicUsize = AtomicUsize::new(0);

static MAP: Once<spin::Mutex<IdMap<El2>>> = Once::new();

const NORMAL: Attr = Attr::ATTRIBUTE_INDEX_1
    .union(Attr::INNER_SHAREABLE)
    .union(Attr::ACCESSED)
    .union(Attr::VALID)
    .union(Attr::USER_RES1);
const DATA: Attr = NORMAL.union(Attr::XN);
/// The same as a descriptor's bits.
pub const DATA_BITS: u64 = DATA.bits() as u64;
const READ_ONLY: Attr = DATA.union(Attr::READ_ONLY);
const CODE: Attr = NORMAL.union(Attr::READ_ONLY);
const DEVICE: Attr = Attr::ATTRIBUTE_INDEX_0
    .union(Attr::ACCESSED)
    .union(Attr::VALID)
    .union(Attr::USER_RES1)
    .union(Attr::XN);

/// The sections of the image, from the linker script.
struct Image {
    text: Range,
    rodata: Range,
    stacks: Range,
}

fn image() -> Image {
    unsafe extern "C" {
        static __text_start: u8;
        static __text_end: u8;
        static __rodata_end: u8;
        static __stacks_start: u8;
        static __stacks_end: u8;
    }
    let address = |symbol: *const u8| symbol as u64;
    let (text_start, text_end) = (
        address(&raw const __text_start),
        address(&raw const __text_end),
    );
    Image {
        text: Range {
            start: text_start,
            end: text_end,
        },
        rodata: Range {
            start: text_end,
            end: address(&raw const __rodata_end),
        },
        stacks: Range {
            start: address(&raw const __stacks_start),
            end: address(&raw const __stacks_end),
        },
    }
}

/// Builds the final map over `ram` and `devices` and switches to it. Called once, on the boot CPU.
///
/// # Panics
///
/// Where a table cannot be built: nothing can go on without one.
pub fn init(ram: &[Range], devices: &[Range]) {
    let mut map = IdMap::new(1, El2);
    let mut add = |range: Range, attributes| {
        if range.start < range.end {
            let region = MemoryRegion::new(range.start as usize, range.end as usize);
            map.map_range(&region, attributes)
                .expect("a page of the hypervisor's own map");
        }
    };

    let image = image();
    for range in ram {
        // Everything around the image is data; inside, each section gets its own rights.
        let inside = range.contains(image.text.start);
        if !inside {
            add(*range, DATA);
            continue;
        }
        add(
            Range {
                start: range.start,
                end: image.text.start,
            },
            DATA,
        );
        add(image.text, CODE);
        add(image.rodata, READ_ONLY);
        add(
            Range {
                start: image.rodata.end,
                end: image.stacks.start,
            },
            DATA,
        );
        for cpu in 0..=cpu::DEBUGGER_STACK {
            add(cpu::stack(cpu), DATA);
        }
        let native = native::range();
        add(
            Range {
                start: image.stacks.end,
                end: native.start,
            },
            DATA,
        );
        add(native, CODE);
        add(
            Range {
                start: native.end,
                end: range.end,
            },
            DATA,
        );
    }
    for range in devices {
        add(*range, DEVICE);
    }

    ROOT_TABLE.store(map.root_address().0, Ordering::Release);
    MAP.call_once(|| spin::Mutex::new(map));
    switch();
}

/// Moves this CPU to the final map, with WXN.
pub fn switch() {
    let root: PhysicalAddress = MAP.get().expect("mmu::init has run").lock().root_address();
    // SAFETY: the new map is the identity over all that Rust uses (image, heap, stacks, devices), with at least the
    // rights each part needs; the guard holes hold nothing. `MAP` keeps the tables alive for ever.
    unsafe {
        core::arch::asm!(
            "msr ttbr0_el2, {root}",
            "isb",
            "tlbi alle2",
            "dsb nsh",
            "isb",
            "msr sctlr_el2, {sctlr}",
            "isb",
            root = in(reg) root.0 as u64,
            sctlr = in(reg) SCTLR_WXN,
            options(nostack, preserves_flags),
        );
    }
}

/// Makes `bytes` that were written as data visible to instruction fetches of all CPUs (Arm ARM B2.7.4.2).
pub fn sync_icache(start: u64, bytes: u64) {
    let ctr = crate::sysreg::read!("ctr_el0");
    let line = 4u64 << (ctr & 0xf).min(ctr >> 16 & 0xf);
    // SAFETY: cache maintenance by VA of memory that is mapped changes no memory contents.
    unsafe {
        for_each_line(start, bytes, line, |address| {
            core::arch::asm!("dc cvau, {}", in(reg) address, options(nostack, preserves_flags));
        });
        crate::sysreg::dsb_ish();
        for_each_line(start, bytes, line, |address| {
            core::arch::asm!("ic ivau, {}", in(reg) address, options(nostack, preserves_flags));
        });
        crate::sysreg::dsb_ish();
        crate::sysreg::isb();
    }
}

/// Makes all that was written and cleaned visible to instruction fetches of all CPUs: for much of it at once.
pub fn sync_all_icaches() {
    // SAFETY: invalidates instruction caches, which hold nothing of their own.
    unsafe { core::arch::asm!("ic ialluis", options(nostack, preserves_flags)) };
    crate::sysreg::dsb_ish();
    crate::sysreg::isb();
}

/// Writes `bytes` back to the point of coherency and drops them from the caches: a guest with its caches off sees
/// what we wrote, and we what it wrote.
pub fn clean_and_invalidate(start: u64, bytes: u64) {
    let line = 4u64 << (crate::sysreg::read!("ctr_el0") >> 16 & 0xf);
    // SAFETY: as above; clean and invalidate loses no data.
    unsafe {
        for_each_line(start, bytes, line, |address| {
            core::arch::asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags));
        });
    }
    crate::sysreg::dsb_ish();
}

fn for_each_line(start: u64, bytes: u64, line: u64, operation: impl Fn(u64)) {
    let mut address = start & !(line - 1);
    while address < start + bytes {
        operation(address);
        address += line;
    }
}
