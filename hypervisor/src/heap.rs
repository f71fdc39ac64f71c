//! The heap. Page tables and shadow pages come from it too: talc honours page alignment.

use crate::lock::MaskedSpin;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use talc::TalcLock;
use talc::source::Manual;

#[global_allocator]
static HEAP: TalcLock<MaskedSpin, Manual> = TalcLock::new(Manual);

/// First memory, for what must be allocated before the device tree has been read.
const EARLY: usize = 256 * 1024;
static mut EARLY_HEAP: [u8; EARLY] = [0; EARLY];

/// Gives the heap its first memory. Called once, first of all.
pub fn init_early() {
    // SAFETY: nothing else names EARLY_HEAP, and this runs once.
    unsafe { HEAP.lock().claim((&raw mut EARLY_HEAP).cast(), EARLY) };
}

/// Gives the heap more.
///
/// # Safety
///
/// `range` is mapped RAM that nothing else uses, now or later.
pub unsafe fn add(range: crate::platform::Range) {
    // SAFETY: forwarded to the caller.
    unsafe {
        HEAP.lock()
            .claim(range.start as *mut u8, range.size() as usize)
    };
}

/// Its size is its alignment.
#[repr(align(4096))]
struct Page {
    _first: u8,
}

/// A zeroed 4 KiB page, or `None` where memory is out.
pub fn allocate_page() -> Option<NonNull<u8>> {
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { HEAP.alloc_zeroed(Layout::new::<Page>()) })
}

/// Takes a page back.
///
/// # Safety
///
/// `page` came from [`allocate_page`] and nobody uses it any more.
pub unsafe fn free_page(page: NonNull<u8>) {
    // SAFETY: forwarded to the caller.
    unsafe { HEAP.dealloc(page.as_ptr(), Layout::new::<Page>()) };
}
