// Runs cases on a CPU, one instruction each, at EL1 with SP_EL0 and the MMU off: see oracle.rs.
//
// Loaded at 0x4100_0000: this code, the arena at +0x1_0000, at +0x2_0000 the address after the last
// case, and from +0x2_0010 the cases. A case is a record of 36 double words: PC, instruction, SPSR,
// SP, x0 to x30, padding. SP_EL1 points at the record all the time. The step exception after the
// instruction overwrites it with ELR, ESR, SPSR, SP, x0 to x30. In the end arena and records go out
// by the PL011, and PSCI switches the machine off.
        adr     x0, vectors
        msr     vbar_el1, x0
        msr     oslar_el1, xzr
        movz    x0, #0x2001             // MDSCR_EL1: KDE, SS
        msr     mdscr_el1, x0
        movz    x0, #0x4102, lsl #16
        add     x0, x0, #0x10
        mov     sp, x0
        isb
run:    ldr     x0, [sp]
        ldr     w1, [sp, #8]
        str     w1, [x0]
        dsb     sy
        ic      iallu
        dsb     sy
        isb
        msr     elr_el1, x0
        ldr     x1, [sp, #16]
        msr     spsr_el1, x1
        ldr     x1, [sp, #24]
        msr     sp_el0, x1
        ldp     x0, x1, [sp, #32]
        ldp     x2, x3, [sp, #48]
        ldp     x4, x5, [sp, #64]
        ldp     x6, x7, [sp, #80]
        ldp     x8, x9, [sp, #96]
        ldp     x10, x11, [sp, #112]
        ldp     x12, x13, [sp, #128]
        ldp     x14, x15, [sp, #144]
        ldp     x16, x17, [sp, #160]
        ldp     x18, x19, [sp, #176]
        ldp     x20, x21, [sp, #192]
        ldp     x22, x23, [sp, #208]
        ldp     x24, x25, [sp, #224]
        ldp     x26, x27, [sp, #240]
        ldp     x28, x29, [sp, #256]
        ldr     x30, [sp, #272]
        eret
        .balign 2048
vectors:                                // synchronous, from EL1 with SP_EL0
        stp     x0, x1, [sp, #32]
        stp     x2, x3, [sp, #48]
        stp     x4, x5, [sp, #64]
        stp     x6, x7, [sp, #80]
        b       save
        .balign 128
        b       .
        .balign 512                     // synchronous, from EL1 with SP_EL1: a fault of ours
        b       .
        .balign 512
save:   stp     x8, x9, [sp, #96]
        stp     x10, x11, [sp, #112]
        stp     x12, x13, [sp, #128]
        stp     x14, x15, [sp, #144]
        stp     x16, x17, [sp, #160]
        stp     x18, x19, [sp, #176]
        stp     x20, x21, [sp, #192]
        stp     x22, x23, [sp, #208]
        stp     x24, x25, [sp, #224]
        stp     x26, x27, [sp, #240]
        stp     x28, x29, [sp, #256]
        str     x30, [sp, #272]
        mrs     x0, elr_el1
        str     x0, [sp]
        mrs     x0, esr_el1
        str     x0, [sp, #8]
        mrs     x0, spsr_el1
        str     x0, [sp, #16]
        mrs     x0, sp_el0
        str     x0, [sp, #24]
        add     sp, sp, #288
        movz    x2, #0x4102, lsl #16
        ldr     x3, [x2]
        cmp     sp, x3
        b.ne    run
        movz    x2, #0x4101, lsl #16
        movz    x4, #0x0900, lsl #16
send:   ldrb    w5, [x2], #1
full:   ldr     w6, [x4, #0x18]
        tbnz    w6, #5, full
        str     w5, [x4]
        cmp     x2, x3
        b.ne    send
        movz    w0, #0x8400, lsl #16    // PSCI SYSTEM_OFF
        movk    w0, #8
        hvc     #0
        b       .
