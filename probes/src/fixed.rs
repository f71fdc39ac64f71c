//! Arrays of a fixed length on the heap: an index that is masked to the length needs no check, which is something on the
//! way of a hit.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

/// An array full of what `element` makes. Never on the stack as a whole.
pub(crate) fn filled<T, const N: usize>(element: impl FnMut() -> T) -> Box<[T; N]> {
    let elements: Vec<T> = core::iter::repeat_with(element).take(N).collect();
    match elements.into_boxed_slice().try_into() {
        Ok(array) => array,
        Err(_) => unreachable!("exactly N elements were taken"),
    }
}

/// Words on the heap, all 0; `None` where there is no memory for them.
pub(crate) fn try_words(count: usize) -> Option<Box<[AtomicU64]>> {
    let mut words = Vec::new();
    words.try_reserve_exact(count).ok()?;
    words.resize_with(count, || AtomicU64::new(0));
    Some(words.into_boxed_slice())
}
