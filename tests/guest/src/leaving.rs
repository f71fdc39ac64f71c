//! Functions that are left in every way: by returns at every depth of a recursion, by a tail call,
//! and not at all.

use core::arch::{asm, global_asm};

global_asm!(
    r#"
    .pushsection .text, "ax"
    .balign 16
    .global tree, relay, relay_end, bolt

    // Calls itself twice with x0 - 1, unless that is 0. Returns how many calls that makes.
    .type   tree, %function
tree:
    stp     x29, x30, [sp, #-32]!
    mov     x29, sp
    stp     x19, x20, [sp, #16]
    cbz     x0, 1f
    sub     x19, x0, #1
    mov     x0, x19
    bl      tree
    mov     x20, x0
    mov     x0, x19
    bl      tree
    add     x0, x0, x20
    add     x0, x0, #1
    ldp     x19, x20, [sp, #16]
    ldp     x29, x30, [sp], #32
    ret
1:  mov     x0, #1
    ldp     x19, x20, [sp, #16]
    ldp     x29, x30, [sp], #32
    ret
    .size   tree, . - tree

    // Returns (x0 + 1) * 2: `relay_end` doubles. It lies before, so that it is no part of `relay`.
    .type   relay_end, %function
relay_end:
    lsl     x0, x0, #1
    ret
    .size   relay_end, . - relay_end

    .type   relay, %function
relay:
    stp     x29, x30, [sp, #-16]!
    add     x0, x0, #1
    ldp     x29, x30, [sp], #16
    b       relay_end
    .size   relay, . - relay

    // Returns 1 if x0 is odd; otherwise drops its frame and goes to x6 for good.
    .type   bolt, %function
bolt:
    stp     x29, x30, [sp, #-16]!
    tbz     x0, #0, 1f
    mov     x0, #1
    ldp     x29, x30, [sp], #16
    ret
1:  mov     sp, x7
    br      x6
    .size   bolt, . - bolt
    .popsection
    "#
);

unsafe extern "C" {
    fn tree(depth: u64) -> u64;
    fn relay(value: u64) -> u64;
}

/// Calls `tree` with `depth`. Returns how many calls that made: `2^(depth + 1) - 1`.
pub fn run_tree([depth, ..]: [u64; 4]) -> [u64; 4] {
    // Each level takes 32 bytes of stack.
    let depth = depth.min(20);
    // SAFETY: keeps the procedure call standard.
    [unsafe { tree(depth) }, 0, 0, 0]
}

/// Calls `relay` with 1 to `count`. Returns the sum of the results: `count * (count + 3)`.
pub fn run_relay([count, ..]: [u64; 4]) -> [u64; 4] {
    let (mut value, mut sum) = (0, 0u64);
    // An iterator over `1..=count` would make two calls of this one.
    while value < count {
        value += 1;
        // SAFETY: keeps the procedure call standard.
        sum = sum.wrapping_add(unsafe { relay(value) });
    }
    [sum, 0, 0, 0]
}

/// Calls `bolt` with 1 to `count`. Returns how many calls returned: every other.
pub fn run_bolt([count, ..]: [u64; 4]) -> [u64; 4] {
    let returned = (1..=count).map(|value| {
        let result: u64;
        // SAFETY: `bolt` changes what is declared, and comes back behind the BL or, with SP as it
        // is here, at the label.
        unsafe {
            asm!(
                "adr x6, 2f",
                "mov x7, sp",
                "mov x9, x29",
                "bl bolt",
                "b 3f",
                "2: mov x0, #0",
                "3: mov x29, x9",
                inout("x0") value => result,
                out("x6") _,
                out("x7") _,
                out("x9") _,
                out("x30") _,
            );
        }
        result
    });
    [returned.sum(), 0, 0, 0]
}
