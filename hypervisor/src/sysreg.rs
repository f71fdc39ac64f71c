//! System registers that `aarch64-cpu` has no name for, and the barriers around them.

/// Reads a system register by its assembler name.
macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading a system register changes neither memory nor the stack. Registers that do not exist on a CPU
        // are guarded by the identification registers where they are named.
        #[allow(unused_unsafe, reason = "also used inside unsafe blocks")]
        unsafe {
            core::arch::asm!(
                concat!("mrs {}, ", $name), out(reg) value,
                options(nostack, preserves_flags)
            );
        }
        value
    }};
}

/// Reads a system register that no code changes after the first read on this CPU: two reads may become one.
macro_rules! read_constant {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: as `read`; and the value is the same at every read.
        unsafe {
            core::arch::asm!(
                concat!("mrs {}, ", $name), out(reg) value,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        value
    }};
}

/// Writes a system register by its assembler name. Belongs into an `unsafe` block that says why the new value cannot
/// break what Rust relies on.
macro_rules! write {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
    }};
}

pub(crate) use {read, read_constant, write};

/// Instruction synchronization barrier: what follows is fetched under the system registers as they are now.
pub fn isb() {
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
}

/// Data synchronization barrier, inner shareable.
pub fn dsb_ish() {
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::ISH);
}
