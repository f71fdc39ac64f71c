//! Hypercalls that do nothing, for `cargo xtask bench`: what a trap to EL2 costs at least, what an exit costs, what a
//! change of the view costs, what tracepoints cost. Only with the word `bench` on our command line; else they are undefined to a guest, as every
//! hypercall but SMCCC's is.
//!
//! The trap floor is measured in a vector table of its own, which sends [`FLOOR`] back once all registers are saved, so
//! that the ordinary table has not one instruction more for it.

use crate::platform::Platform;
use crate::trace::{About, trace};
use crate::vcpu::Vcpu;
use crate::vectors;
use core::sync::atomic::{AtomicBool, Ordering};
use probes::view::View;

/// `HVC` immediate of an exit that has nothing to do.
const EXIT: u16 = 0x3f00;
/// To the step view and back.
const VIEWS: u16 = 0x3f01;
/// The CPU's vector table becomes the one that knows [`FLOOR`].
const FLOOR_ON: u16 = 0x3f02;
/// And the ordinary one again.
const FLOOR_OFF: u16 = 0x3f03;
/// To EL2 and back with all registers saved and restored, and nothing else (vectors.rs).
pub const FLOOR: u16 = 0x3f04;
/// Past 16 tracepoints.
const POINTS: u16 = 0x3f05;

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Looks whether we are to be measured.
pub fn init(platform: &Platform) {
    ENABLED.store(platform.flag("bench"), Ordering::Relaxed);
}

/// Serves `HVC #immediate`, where it is one of these. Returns whether it was. A function of its own, for probes on it.
#[inline(never)]
pub fn hypercall(vcpu: &Vcpu, immediate: u16) -> bool {
    if !ENABLED.load(Ordering::Relaxed) {
        return false;
    }
    match immediate {
        EXIT => {}
        VIEWS => {
            vcpu.switch_view(View::Step);
            vcpu.switch_view(View::Run);
        }
        POINTS => pass_tracepoints(vcpu),
        FLOOR_ON => vectors::install_floor(),
        FLOOR_OFF => vectors::install(),
        _ => return false,
    }
    true
}

/// In a row, as a loop would cost more than a tracepoint that is off.
fn pass_tracepoints(vcpu: &Vcpu) {
    macro_rules! four_times {
        ($statement:stmt) => {
            $statement
            $statement
            $statement
            $statement
        };
    }
    macro_rules! point {
        () => {
            trace!(
                About::Vcpu(vcpu),
                Hypercall {
                    function: POINTS.into(),
                    x1: 0,
                    x2: 0,
                    result: 0,
                }
            )
        };
    }
    four_times!(four_times!(point!()));
}
