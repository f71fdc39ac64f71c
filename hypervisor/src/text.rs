//! The hypervisor's own text and the code of compiled programs (native.rs), and how words of them change while everything runs.
//!
//! Both are mapped R-X and stay so. Words are written through an *alias*: a page of virtual addresses that nothing else
//! uses, mapped read-write and execute-never onto the words' page for the moment of the write. No virtual address is ever
//! both writable and executable, and outside such a moment nothing can write to code.

use crate::masking::Masked;
use crate::mmu;
use crate::platform::Range;
use crate::sysreg;
use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

/// Entries of a translation table.
const ENTRIES: usize = 512;
/// Where the alias is: the last GiB that the hypervisor can address, where a machine has neither RAM nor devices of ours.
const ROOT_INDEX: usize = ENTRIES - 1;
const ALIAS: u64 = (ROOT_INDEX as u64) << 30;
const PAGE_MASK: u64 = 0xfff;
/// A descriptor that leads to a table, or at level 3 to a page.
const TABLE: u64 = 0b11;

#[repr(C, align(4096))]
struct Table([AtomicU64; ENTRIES]);

impl Table {
    const fn empty() -> Self {
        Self([const { AtomicU64::new(0) }; ENTRIES])
    }

    fn address(&self) -> u64 {
        ptr::from_ref(self) as u64
    }
}

static LEVEL2: Table = Table::empty();
/// Its first entry is the alias.
static LEVEL3: Table = Table::empty();

/// Where text lies.
pub fn range() -> Range {
    unsafe extern "C" {
        static __text_start: u8;
        static __text_end: u8;
    }
    Range {
        start: &raw const __text_start as u64,
        end: &raw const __text_end as u64,
    }
}

/// Links the tables of the alias, with nothing mapped. Boot CPU, once, after [`mmu::init`].
pub fn init() {
    LEVEL2.0[0].store(LEVEL3.address() | TABLE, Ordering::Relaxed);
    let root = mmu::ROOT_TABLE.load(Ordering::Acquire) as *mut u64;
    // SAFETY: the root table has 512 entries, is identity mapped, and lives for ever; no other CPU changes it.
    let entry = unsafe { AtomicU64::from_ptr(root.add(ROOT_INDEX)) };
    assert_eq!(
        entry.load(Ordering::Relaxed),
        0,
        "the last GiB of addresses is in use"
    );
    entry.store(LEVEL2.address() | TABLE, Ordering::Relaxed);
    publish();
}

/// Reads the word at `address`, a multiple of 4, as the CPUs fetch it.
pub fn read(address: u64) -> Option<u32> {
    if !range().contains(address) {
        return None;
    }
    // SAFETY: inside text, which is readable.
    Some(unsafe { ptr::read_volatile(address as *const u32) })
}

/// Replaces the word at `address`, a multiple of 4. Other CPUs execute the new word after their next context
/// synchronization.
///
/// # Safety
///
/// `address` lies in text, no other CPU executes the word or changes text, and the code is right with the new word.
pub unsafe fn write(address: u64, word: u32) {
    // SAFETY: forwarded to the caller.
    unsafe { write_words(address, &[word]) };
}

/// Replaces the words from `address`, a multiple of 4, on.
///
/// # Safety
///
/// As of [`write`], for each word; they may also lie in the region of compiled programs (native.rs).
pub unsafe fn write_words(address: u64, words: &[u32]) {
    let mut address = address;
    let mut words = words;
    while !words.is_empty() {
        let room = (PAGE_MASK + 1 - (address & PAGE_MASK)) / 4;
        let (now, rest) = words.split_at(words.len().min(room as usize));
        // SAFETY: forwarded to the caller; the words end with the page.
        unsafe { write_in_page(address, now) };
        address += 4 * now.len() as u64;
        words = rest;
    }
}

/// # Safety
///
/// As of [`write_words`], and the words lie in one page.
unsafe fn write_in_page(address: u64, words: &[u32]) {
    // The debugger may stop this CPU anywhere else, and has the alias for itself then.
    let _masked = Masked::new();
    let page = address & !PAGE_MASK;
    LEVEL3.0[0].store(page | mmu::DATA_BITS | TABLE, Ordering::Relaxed);
    publish();
    let alias = (ALIAS | address & PAGE_MASK) as *mut u32;
    for (index, &word) in words.iter().enumerate() {
        // SAFETY: the alias is mapped onto the words' page, and the caller answers for the words.
        unsafe { ptr::write_volatile(alias.add(index), word) };
    }
    LEVEL3.0[0].store(0, Ordering::Relaxed);
    publish();
    // SAFETY: TLB maintenance for the alias, through which nothing is accessed now.
    unsafe {
        asm!(
            "tlbi vae2is, {page}",
            "dsb ish",
            "isb",
            page = in(reg) ALIAS >> 12,
            options(nostack, preserves_flags)
        );
    }
    mmu::sync_icache(address, size_of_val(words) as u64);
}

/// Makes changed descriptors visible to table walks.
fn publish() {
    sysreg::dsb_ish();
    sysreg::isb();
}
