//! Exceptions that EL2 takes from its own code (vectors.rs, "From EL2 itself").

use crate::panic;
use crate::vectors::Frame;

/// Where they all end up. Where it returns, the interrupted code goes on as `frame` says.
#[unsafe(no_mangle)]
extern "C" fn handle_el2_exception(frame: &mut Frame, which: u64) {
    panic::el2_fault(frame, which)
}
