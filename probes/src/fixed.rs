//! Arrays of a fixed length on the heap: an index that is masked to the length needs no check, which is something on the
//! way of a hit.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// An array full of what `element` makes. Never on the stack as a whole.
pub(crate) fn filled<T, const N: usize>(element: impl FnMut() -> T) -> Box<[T; N]> {
    let elements: Vec<T> = core::iter::repeat_with(element).take(N).collect();
    match elements.into_boxed_slice().try_into() {
        Ok(array) => array,
        Err(_) => unreachable!("exactly N elements were taken"),
    }
}
