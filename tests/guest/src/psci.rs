//! PSCI 1.x over HVC (Arm DEN 0022), the conduit of QEMU `virt` without EL2 and of Periscope's VMs.

/// Function identifiers: 64-bit ones where addresses are passed.
pub const VERSION: u64 = 0x8400_0000;
const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;
const AFFINITY_INFO: u64 = 0xc400_0004;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;

/// `AFFINITY_INFO` of a CPU that is off.
pub const AFFINITY_OFF: u64 = 1;

/// One call. Returns x0.
fn call(function: u64, a: u64, b: u64, c: u64) -> u64 {
    let result;
    // SAFETY: SMCCC 1.1: a call changes x0 to x17 at most, and memory as its own documentation
    // says.
    unsafe {
        core::arch::asm!(
            "hvc #0",
            inout("x0") function => result,
            inout("x1") a => _, inout("x2") b => _, inout("x3") c => _,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
            out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
            out("x15") _, out("x16") _, out("x17") _,
            options(nostack),
        );
    }
    result
}

/// Version: major in bits 31:16, minor in 15:0.
pub fn version() -> u64 {
    call(VERSION, 0, 0, 0)
}

/// Starts the CPU `affinity` at the physical address `entry` with `context` in x0. 0 is success.
pub fn cpu_on(affinity: u64, entry: u64, context: u64) -> i32 {
    call(CPU_ON, affinity, entry, context) as i32
}

/// Whether the CPU `affinity` is on (0), off (1) or on its way (2).
pub fn affinity_info(affinity: u64) -> u64 {
    call(AFFINITY_INFO, affinity, 0, 0)
}

/// Switches this CPU off. Returns only if that is refused, with the error.
pub fn cpu_off() -> i32 {
    call(CPU_OFF, 0, 0, 0) as i32
}

/// Powers the machine off. Returns only if that fails.
pub fn system_off() -> i32 {
    call(SYSTEM_OFF, 0, 0, 0) as i32
}

/// Resets the machine. Returns only if that fails.
pub fn system_reset() -> i32 {
    call(SYSTEM_RESET, 0, 0, 0) as i32
}
