//! System registers, barriers and what the CPU can do.

/// Reads a system register.
macro_rules! read_sysreg {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading a system register at EL1 changes nothing that Rust knows of.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack));
        }
        value
    }};
}

/// Writes a system register and synchronises. Unsafe: the caller says why the change is sound.
macro_rules! write_sysreg {
    ($name:literal, $value:expr) => {
        core::arch::asm!(
            concat!("msr ", $name, ", {}"),
            "isb",
            in(reg) $value as u64,
            options(nostack),
        )
    };
}

pub(crate) use {read_sysreg, write_sysreg};

/// A four-bit field of an identification register.
fn id_field(register: u64, shift: u32) -> u64 {
    (register >> shift) & 0xf
}

/// Whether the CPU signs pointers with an address key (FEAT_PAuth, any algorithm).
pub fn has_pauth() -> bool {
    let isar1 = read_sysreg!("ID_AA64ISAR1_EL1");
    // ID_AA64ISAR2_EL1, which assemblers before Armv8.7 do not know.
    let isar2 = read_sysreg!("S3_0_C0_C6_2");
    id_field(isar1, 4) != 0 || id_field(isar1, 8) != 0 || id_field(isar2, 12) != 0
}

/// Whether the CPU guards branch targets (FEAT_BTI).
pub fn has_bti() -> bool {
    id_field(read_sysreg!("ID_AA64PFR1_EL1"), 0) != 0
}

/// Whether the CPU has the atomic instructions (FEAT_LSE).
pub fn has_lse() -> bool {
    id_field(read_sysreg!("ID_AA64ISAR0_EL1"), 20) >= 2
}

/// Sets the instruction keys and switches signing on where the CPU has it. Constant keys: every CPU
/// signs alike.
pub fn enable_pauth() {
    if !has_pauth() {
        return;
    }
    const SCTLR_ENIA: u64 = 1 << 31;
    let control = read_sysreg!("SCTLR_EL1");
    // SAFETY: compiled code holds no signed pointer; only the subjects sign, and they authenticate
    // before they return.
    unsafe {
        write_sysreg!("S3_0_C2_C1_0", 0x0123_4567_89ab_cdefu64); // APIAKeyLo_EL1
        write_sysreg!("S3_0_C2_C1_1", 0xfedc_ba98_7654_3210u64); // APIAKeyHi_EL1
        write_sysreg!("SCTLR_EL1", control | SCTLR_ENIA);
    }
}

/// Masks interrupts.
pub fn mask_interrupts() {
    // SAFETY: masking only delays handlers.
    unsafe { core::arch::asm!("msr daifset, #2", options(nostack)) }
}

/// Unmasks interrupts.
pub fn unmask_interrupts() {
    // SAFETY: vectors are set, and handlers save all they change.
    unsafe { core::arch::asm!("msr daifclr, #2", options(nostack)) }
}

/// Unmasks debug exceptions, SError and interrupts: the state in which everything but start-up
/// runs.
pub fn unmask_all() {
    // SAFETY: as for `unmask_interrupts`.
    unsafe { core::arch::asm!("msr daifclr, #0xe", options(nostack)) }
}

/// Waits for an interrupt until `done` says so. Interrupts are masked while it looks, so that none
/// slips between the look and the WFI.
pub fn wait_until(mut done: impl FnMut() -> bool) {
    loop {
        mask_interrupts();
        let finished = done();
        if !finished {
            // SAFETY: WFI changes nothing; a masked interrupt ends it too.
            unsafe { core::arch::asm!("wfi", options(nostack)) }
        }
        unmask_interrupts();
        if finished {
            return;
        }
    }
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    mask_interrupts();
    loop {
        // SAFETY: WFI changes nothing.
        unsafe { core::arch::asm!("wfi", options(nostack)) }
    }
}

/// In a loop that waits for somebody else. YIELD, not the ISB of `spin_loop`: an emulator that runs its CPUs in turn goes
/// on with the next one here, and so not while we hold what that one waits for.
pub fn relax() {
    // SAFETY: a hint.
    unsafe { core::arch::asm!("yield", options(nomem, nostack, preserves_flags)) };
}
