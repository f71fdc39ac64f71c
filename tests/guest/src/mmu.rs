//! Stage 1 of the guest: 4 KiB granule, 48-bit addresses, three views of the same memory.
//!
//! * `PA` (TTBR0): identity. Devices in the first GiB, RAM in the second, text read-only.
//! * [`HIGH`]` + PA` (TTBR1): the same tables once more; code runs there too.
//! * [`WRITABLE`]` + PA` (TTBR1): the image writable and not executable, for patching.

use crate::cpu::{self, read_sysreg, write_sysreg};
use crate::platform::Platform;
use core::arch::asm;
use core::cell::UnsafeCell;

/// Offset of the alias through which code can run at a second address.
pub const HIGH: u64 = 0xffff_0000_0000_0000;
/// Offset of the alias through which text can be written.
pub const WRITABLE: u64 = 0xffff_8000_0000_0000;

const PAGE: u64 = 4096;
const BLOCK: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

const VALID: u64 = 1;
/// Bit 1: a table at levels 0 to 2, a page at level 3; clear for a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
const NORMAL: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const ACCESSED: u64 = 1 << 10;
const GUARDED: u64 = 1 << 50;
const NEVER_EXECUTE: u64 = 1 << 53 | 1 << 54;
const EL0_NEVER_EXECUTE: u64 = 1 << 54;

const MEMORY: u64 = VALID | NORMAL | INNER_SHAREABLE | ACCESSED;
const DEVICE: u64 = VALID | ACCESSED | NEVER_EXECUTE;

/// MAIR_EL1: index 0 Device-nGnRE, index 1 Normal write-back.
const MAIR: u64 = 0xff04;
/// TCR_EL1: 48-bit halves, 4 KiB granules, write-back inner-shareable walks.
const TCR: u64 = 16 | 1 << 8 | 1 << 10 | 3 << 12 | 16 << 16 | 1 << 24 | 1 << 26 | 3 << 28 | 2 << 30;
const TCR_IPS_SHIFT: u32 = 32;
/// Largest IPS without 52-bit descriptors: 48 bits.
const IPS_48: u64 = 5;
/// SCTLR_EL1: the bits that are one in Armv8.0, and SP alignment checks.
const SCTLR_BASE: u64 = 0x30d0_0800 | 1 << 3;
const SCTLR_MMU: u64 = 1;
const SCTLR_DATA_CACHE: u64 = 1 << 2;
const SCTLR_INSTRUCTION_CACHE: u64 = 1 << 12;

type Entries = [u64; 512];

#[repr(C, align(4096))]
struct Tables {
    low_level0: Entries,
    level1: Entries,
    level2: Entries,
    level3: Entries,
    high_level0: Entries,
    writable_level1: Entries,
    writable_level2: Entries,
    writable_level3: Entries,
}

struct Global(UnsafeCell<Tables>);

// SAFETY: only `init` writes, before the MMU and any second CPU is on.
unsafe impl Sync for Global {}

static TABLES: Global = Global(UnsafeCell::new(Tables {
    low_level0: [0; 512],
    level1: [0; 512],
    level2: [0; 512],
    level3: [0; 512],
    high_level0: [0; 512],
    writable_level1: [0; 512],
    writable_level2: [0; 512],
    writable_level3: [0; 512],
}));

/// Addresses that the linker script defines.
macro_rules! linker_symbols {
    ($($(#[$doc:meta])* $name:ident = $symbol:ident,)*) => {
        unsafe extern "C" { $(static $symbol: u8;)* }
        $($(#[$doc])* pub fn $name() -> u64 { (&raw const $symbol) as u64 })*
    };
}

linker_symbols! {
    /// First byte of the image.
    image_start = __image_start,
    /// First byte of text.
    text_start = __text_start,
    /// First byte after text.
    text_end = __text_end,
    /// First byte of the page with guarded branch targets.
    guarded_start = __guarded_start,
    /// First byte after it.
    guarded_end = __guarded_end,
    /// First byte of data.
    data_start = __data_start,
    /// First byte after the image, uninitialised data included.
    image_end = __image_end,
}

/// Fills the tables. Once, on CPU 0, with the MMU off.
pub fn init(platform: &Platform) {
    // SAFETY: nobody else is there yet.
    let tables = unsafe { &mut *TABLES.0.get() };
    let image_block = image_start() & !(BLOCK - 1);

    tables.low_level0[0] = table(&tables.level1);
    tables.high_level0[0] = table(&tables.level1);
    tables.level1[0] = DEVICE;
    tables.level1[1] = table(&tables.level2);
    let ram_end = platform.ram_end.min(2 * GIB);
    let mut block = platform.ram_start.max(GIB);
    while block + BLOCK <= ram_end {
        tables.level2[index(block, 2)] = block | MEMORY | NEVER_EXECUTE;
        block += BLOCK;
    }
    tables.level2[index(image_block, 2)] = table(&tables.level3);
    for (number, entry) in tables.level3.iter_mut().enumerate() {
        let page = image_block + number as u64 * PAGE;
        *entry = page | TABLE_OR_PAGE | MEMORY | permissions(page);
    }

    tables.high_level0[index(WRITABLE, 0)] = table(&tables.writable_level1);
    tables.writable_level1[index(image_block, 1)] = table(&tables.writable_level2);
    tables.writable_level2[index(image_block, 2)] = table(&tables.writable_level3);
    for (number, entry) in tables.writable_level3.iter_mut().enumerate() {
        let page = image_block + number as u64 * PAGE;
        *entry = page | TABLE_OR_PAGE | MEMORY | NEVER_EXECUTE;
    }
    // What was written with the caches off must not be hidden by lines from before.
    invalidate_data(data_start(), image_end());
}

/// A descriptor of the next-level table `entries`.
fn table(entries: &Entries) -> u64 {
    entries.as_ptr() as u64 | TABLE_OR_PAGE | VALID
}

/// Index of `address` in a table of `level`.
fn index(address: u64, level: u32) -> usize {
    (address >> (39 - 9 * level) & 0x1ff) as usize
}

/// What the identity map and its high alias allow on a page of the image.
fn permissions(page: u64) -> u64 {
    let guarded = (guarded_start()..guarded_end()).contains(&page) && cpu::has_bti();
    if guarded {
        READ_ONLY | EL0_NEVER_EXECUTE | GUARDED
    } else if (text_start()..text_end()).contains(&page) {
        READ_ONLY | EL0_NEVER_EXECUTE
    } else if (text_end()..data_start()).contains(&page) {
        READ_ONLY | NEVER_EXECUTE
    } else {
        NEVER_EXECUTE
    }
}

/// Switches this CPU's MMU and caches on. [`init`] has run.
pub fn enable() {
    let tables = TABLES.0.get();
    let range = (read_sysreg!("ID_AA64MMFR0_EL1") & 0xf).min(IPS_48);
    // SAFETY: the identity map holds this code, its stack and data at their present addresses.
    unsafe {
        write_sysreg!("MAIR_EL1", MAIR);
        write_sysreg!("TCR_EL1", TCR | range << TCR_IPS_SHIFT);
        write_sysreg!("TTBR0_EL1", (&raw const (*tables).low_level0) as u64);
        write_sysreg!("TTBR1_EL1", (&raw const (*tables).high_level0) as u64);
        asm!(
            "dsb ish",
            "tlbi vmalle1",
            "ic iallu",
            "dsb nsh",
            "isb",
            options(nostack)
        );
        let on = SCTLR_MMU | SCTLR_DATA_CACHE | SCTLR_INSTRUCTION_CACHE;
        write_sysreg!("SCTLR_EL1", SCTLR_BASE | on);
    }
}

/// Runs `work` on this CPU with MMU and data cache off. The other CPUs do nothing meanwhile, and
/// `work` uses no exclusives: without the MMU all memory is Device memory.
pub fn with_mmu_off<T>(work: impl FnOnce() -> T) -> T {
    let (start, end) = (data_start(), image_end());
    cpu::mask_interrupts();
    // SAFETY: the code is identity-mapped, and what is dirty goes to memory before the cache is
    // off.
    unsafe { mmu_off(start, end) };
    let result = work();
    // SAFETY: as above; the cache holds nothing newer than what was written to memory meanwhile.
    unsafe { mmu_on(start, end) };
    cpu::unmask_interrupts();
    result
}

unsafe extern "C" {
    /// Cleans `start..end` to memory and clears SCTLR_EL1.M and C, without a store in between.
    fn mmu_off(start: u64, end: u64);
    /// Drops `start..end` from the cache and sets SCTLR_EL1.M and C.
    fn mmu_on(start: u64, end: u64);
}

core::arch::global_asm!(
    r#"
    .pushsection .text, "ax"
    .global mmu_off, mmu_on
mmu_off:
    mrs     x2, ctr_el0
    ubfx    x2, x2, #16, #4         // DminLine: log2 of the words of a line
    mov     x3, #4
    lsl     x2, x3, x2
1:  dc      civac, x0
    add     x0, x0, x2
    cmp     x0, x1
    b.lo    1b
    dsb     sy
    mrs     x2, sctlr_el1
    bic     x2, x2, #1
    bic     x2, x2, #4
    msr     sctlr_el1, x2
    isb
    ret
mmu_on:
    mrs     x2, ctr_el0
    ubfx    x2, x2, #16, #4
    mov     x3, #4
    lsl     x2, x3, x2
2:  dc      ivac, x0
    add     x0, x0, x2
    cmp     x0, x1
    b.lo    2b
    dsb     sy
    mrs     x2, sctlr_el1
    orr     x2, x2, #1
    orr     x2, x2, #4
    msr     sctlr_el1, x2
    isb
    ret
    .popsection
    "#
);

/// Bytes of the smallest data cache line.
fn data_line() -> u64 {
    4 << (read_sysreg!("CTR_EL0") >> 16 & 0xf)
}

/// Drops `start..end` from the data cache, to the point of coherency. Both lie on line boundaries.
fn invalidate_data(start: u64, end: u64) {
    let mut line = start;
    while line < end {
        // SAFETY: called with the cache off: every line in it is older than memory.
        unsafe { asm!("dc ivac, {}", in(reg) line, options(nostack)) };
        line += data_line();
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}

/// Writes the instruction word at `address` (of the identity map) through the writable alias, and
/// makes every CPU fetch it (Arm ARM B2.4.4). `address` is a multiple of 4 in text.
pub fn patch_word(address: u64, word: u32) {
    let alias = WRITABLE | address;
    // SAFETY: the alias maps the image writable; the callers patch words made for it.
    unsafe {
        (alias as *mut u32).write_volatile(word);
        asm!(
            "dc cvau, {alias}",
            "dsb ish",
            "ic ivau, {address}",
            "dsb ish",
            "isb",
            alias = in(reg) alias,
            address = in(reg) address,
            options(nostack),
        );
    }
}
