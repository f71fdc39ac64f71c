// Lets a CPU translate addresses by tables in memory, at EL2 with stage 2 off: see oracle.rs.
//
// Loaded at 0x4100_0000: this code, at +0x1000 the address after the last case, and from +0x1010 the
// cases. A case is a record of eight double words: SCTLR_EL1, TCR_EL1, TTBR0_EL1, TTBR1_EL1, MAIR_EL1,
// the address, and two of padding. It is overwritten with PAR_EL1 after AT S1E1R, S1E1W, S1E0R and
// S1E0W (or F and the fault status where the instruction itself aborts), ID_AA64MMFR0_EL1 and ID_AA64MMFR2_EL1. In the end all goes out by the PL011 from +0x1000, and
// PSCI switches the machine off.
        movz    x0, #0x8000, lsl #16    // HCR_EL2: RW
        msr     hcr_el2, x0
        adr     x0, vectors
        msr     vbar_el2, x0
        movz    x20, #0x4100, lsl #16
        movk    x20, #0x1000
        ldr     x21, [x20]
        add     x22, x20, #0x10
        isb
next:   ldp     x0, x1, [x22]
        ldp     x2, x3, [x22, #16]
        ldp     x4, x5, [x22, #32]
        msr     sctlr_el1, x0
        msr     tcr_el1, x1
        msr     ttbr0_el1, x2
        msr     ttbr1_el1, x3
        msr     mair_el1, x4
        isb
        tlbi    alle1
        dsb     sy
        isb
        at      s1e1r, x5
        isb
        mrs     x6, par_el1
        at      s1e1w, x5
        isb
        mrs     x7, par_el1
        at      s1e0r, x5
        isb
        mrs     x8, par_el1
        at      s1e0w, x5
        isb
        mrs     x9, par_el1
        mrs     x10, id_aa64mmfr0_el1
        mrs     x11, id_aa64mmfr2_el1
        stp     x6, x7, [x22]
        stp     x8, x9, [x22, #16]
        stp     x10, x11, [x22, #32]
        add     x22, x22, #64
        cmp     x22, x21
        b.ne    next
        movz    x4, #0x0900, lsl #16
send:   ldrb    w5, [x20], #1
full:   ldr     w6, [x4, #0x18]
        tbnz    w6, #5, full
        str     w5, [x4]
        cmp     x20, x21
        b.ne    send
        movz    w0, #0x8400, lsl #16    // PSCI SYSTEM_OFF, by SMC where EL2 is the guest's
        movk    w0, #8
        smc     #0
        b       .
        .balign 2048
vectors:
        b       .
        .balign 512                     // synchronous, from EL2 with SP_EL2: an external abort of a walk
        mrs     x12, esr_el2
        and     x12, x12, #0x3f
        lsl     x12, x12, #1
        orr     x12, x12, #1
        msr     par_el1, x12
        mrs     x12, elr_el2
        add     x12, x12, #4
        msr     elr_el2, x12
        eret
