use super::*;
use crate::a64::{brk, hvc};
use crate::addr::Gva;
use crate::machine::GuestFault;
use core::cell::{Cell, RefCell};
use proptest::prelude::*;

/// Where the test memory lies: one readable and writable page.
const MEMORY: u64 = 0xffff_8000_1234_5000;
const PC: u64 = 0xffff_8000_8000_1000;

/// A page of memory, of which the first `writable` bytes can be written; everything else faults.
struct Page {
    bytes: RefCell<[u8; 4096]>,
    writable: usize,
    /// How many writes were done.
    writes: Cell<usize>,
}

impl Page {
    fn new() -> Self {
        let mut bytes = [0; 4096];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = (index * 7 + 0x81) as u8;
        }
        Self {
            bytes: RefCell::new(bytes),
            writable: 4096,
            writes: Cell::new(0),
        }
    }

    fn range(gva: Gva, length: usize) -> Result<core::ops::Range<usize>, GuestFault> {
        let fault = GuestFault { address: gva };
        let start = gva.0.checked_sub(MEMORY).ok_or(fault)?;
        let start = usize::try_from(start).map_err(|_| fault)?;
        let end = start.checked_add(length).ok_or(fault)?;
        if end > 4096 {
            Err(fault)
        } else {
            Ok(start..end)
        }
    }

    fn u64_at(&self, offset: usize) -> u64 {
        let bytes = self.bytes.borrow();
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }
}

impl LiveMemory for Page {
    fn task(&self) -> u64 {
        0
    }

    fn read(&self, gva: Gva, buffer: &mut [u8]) -> Result<(), GuestFault> {
        // On a fault nothing is promised about the buffer.
        buffer.fill(0xee);
        let range = Self::range(gva, buffer.len())?;
        buffer.copy_from_slice(&self.bytes.borrow()[range]);
        Ok(())
    }

    fn write(&self, gva: Gva, bytes: &[u8]) -> Result<(), GuestFault> {
        let range = Self::range(gva, bytes.len())?;
        if range.end > self.writable {
            return Err(GuestFault { address: gva });
        }
        self.bytes.borrow_mut()[range].copy_from_slice(bytes);
        self.writes.set(self.writes.get() + 1);
        Ok(())
    }
}

const PLAIN: SimulationFeatures = SimulationFeatures {
    bti: false,
    pauth: false,
    data: DataAccess::Simulated,
    branch_target: BranchTargetCheck::Passed,
};

const FULL: SimulationFeatures = SimulationFeatures {
    bti: true,
    pauth: true,
    ..PLAIN
};

/// Registers with a different value in each, all flags clear, stack and x1 in the page.
fn start() -> CoreRegs {
    let mut regs = CoreRegs {
        sp: MEMORY + 0x800,
        pc: PC,
        pstate: pstate::EL1H | pstate::I | pstate::D,
        ..CoreRegs::default()
    };
    for (number, value) in regs.x.iter_mut().enumerate() {
        *value = 0x0101_0101_8181_0101 * number as u64;
    }
    regs.x[1] = MEMORY + 0x400;
    regs.x[3] = MEMORY + 0x200;
    regs
}

/// Simulates on fresh memory what must be done, and gives the registers back.
fn done(instruction: u32, regs: CoreRegs) -> CoreRegs {
    done_in(instruction, regs, &Page::new(), &PLAIN)
}

fn done_in(
    instruction: u32,
    mut regs: CoreRegs,
    memory: &Page,
    features: &SimulationFeatures,
) -> CoreRegs {
    let simulated = simulate(instruction, &mut regs, memory, features);
    assert_eq!(simulated, Simulated::Done, "{instruction:#010x}");
    regs
}

/// Asserts that the instruction is stepped and that nothing has changed.
fn stepped(instruction: u32, regs: CoreRegs, features: &SimulationFeatures) {
    stepped_in(instruction, regs, &Page::new(), features);
}

fn stepped_in(instruction: u32, regs: CoreRegs, memory: &Page, features: &SimulationFeatures) {
    let writes = memory.writes.get();
    let mut after = regs;
    let simulated = simulate(instruction, &mut after, memory, features);
    assert_eq!(simulated, Simulated::Step, "{instruction:#010x}");
    assert_eq!(after, regs, "{instruction:#010x}");
    assert_eq!(memory.writes.get(), writes, "{instruction:#010x}");
}

/// `regs` as after an instruction that only advances, with changes.
fn next(regs: CoreRegs, change: impl FnOnce(&mut CoreRegs)) -> CoreRegs {
    let mut after = regs;
    after.pc += 4;
    change(&mut after);
    after
}

#[test]
fn hints() {
    // nop, yield, dgh, bti, bti c, bti j, bti jc.
    for word in [
        0xd503_201f,
        0xd503_203f,
        0xd503_20df,
        0xd503_241f,
        0xd503_245f,
        0xd503_249f,
        0xd503_24df,
    ] {
        assert_eq!(
            done_in(word, start(), &Page::new(), &FULL),
            next(start(), |_| {})
        );
    }
    // xpaclri, paciasp, pacibsp, autiasp, autibsp, pacia1716: without FEAT_PAuth only.
    for word in [
        0xd503_20ff,
        0xd503_233f,
        0xd503_237f,
        0xd503_23bf,
        0xd503_23ff,
        0xd503_211f,
    ] {
        assert_eq!(done(word, start()), next(start(), |_| {}));
        stepped(word, start(), &FULL);
    }
    // wfe, wfi, sev, esb, csdb, hint #40, hint #100.
    for word in [
        0xd503_205f,
        0xd503_207f,
        0xd503_209f,
        0xd503_221f,
        0xd503_229f,
        0xd503_251f,
        0xd503_2c9f,
    ] {
        stepped(word, start(), &PLAIN);
    }
}

#[test]
fn retiring_clears_btype_and_single_step() {
    let mut regs = start();
    regs.pstate |= pstate::SS | 0b10 << 10 | pstate::N | pstate::PAN;
    let kept = pstate::EL1H | pstate::I | pstate::D | pstate::N | pstate::PAN;
    assert_eq!(done(0xd503_201f, regs).pstate, kept);
    assert_eq!(done(0x1400_0010, regs).pstate, kept);
}

#[test]
fn a_pending_branch_target_check_is_left_to_the_cpu() {
    let pending = SimulationFeatures {
        branch_target: BranchTargetCheck::Pending,
        ..FULL
    };
    let mut regs = start();
    assert_eq!(
        done_in(0xd503_201f, regs, &Page::new(), &pending).pc,
        PC + 4
    );
    regs.pstate |= 0b10 << 10;
    stepped(0xd503_201f, regs, &pending);
    stepped(0xd503_245f, regs, &pending);
    assert_eq!(done_in(0xd503_201f, regs, &Page::new(), &FULL).pc, PC + 4);
}

#[test]
fn the_guests_own_breakpoints() {
    let mut regs = start();
    regs.pstate |= 0b10 << 10;
    let pending = SimulationFeatures {
        branch_target: BranchTargetCheck::Pending,
        ..FULL
    };
    let before = regs;
    let simulated = simulate(brk(0xf000), &mut regs, &Page::new(), &pending);
    assert_eq!(simulated, Simulated::Breakpoint { immediate: 0xf000 });
    assert_eq!(regs, before);
    stepped(hvc(3), start(), &FULL);
}

#[test]
fn moves() {
    let regs = start();
    // mov x9, x30; mov w9, w1; mov x0, xzr; mov x29, sp; mov sp, x3.
    assert_eq!(done(0xaa1e_03e9, regs), next(regs, |r| r.x[9] = regs.x[30]));
    assert_eq!(
        done(0x2a01_03e9, regs),
        next(regs, |r| r.x[9] = 0x1234_5400)
    );
    assert_eq!(done(0xaa1f_03e0, regs), next(regs, |r| r.x[0] = 0));
    assert_eq!(done(0x9100_03fd, regs), next(regs, |r| r.x[29] = regs.sp));
    assert_eq!(done(0x9100_007f, regs), next(regs, |r| r.sp = regs.x[3]));
    // movz x0, #0x1234, lsl #48; movz w0, #0xffff, lsl #16; movn x1, #0; movn w1, #1.
    let x = |word: u32, number: usize| done(word, regs).x[number];
    assert_eq!(x(0xd2e2_4680, 0), 0x1234_0000_0000_0000);
    assert_eq!(x(0x52bf_ffe0, 0), 0xffff_0000);
    assert_eq!(x(0x9280_0001, 1), u64::MAX);
    assert_eq!(x(0x1280_0021, 1), 0xffff_fffe);
    // movk x2, #0xbeef, lsl #32.
    assert_eq!(x(0xf2d7_dde2, 2), 0x0202_beef_0302_0202);
    // movz w0, #1, lsl #32 and opc 01 are unallocated; mvn, orr and a shifted mov are stepped.
    for word in [
        0x52c0_0020,
        0x3280_0000,
        0xaa21_03e0,
        0xaa02_0020,
        0xaa02_07e0,
    ] {
        stepped(word, regs, &PLAIN);
    }
}

#[test]
fn additions() {
    let regs = start();
    // sub sp, sp, #0x50; sub sp, sp, #1, lsl #12; add x29, sp, #0x10; add w1, w2, #0xfff.
    assert_eq!(done(0xd101_43ff, regs), next(regs, |r| r.sp -= 0x50));
    assert_eq!(done(0xd140_07ff, regs), next(regs, |r| r.sp -= 0x1000));
    assert_eq!(
        done(0x9100_43fd, regs),
        next(regs, |r| r.x[29] = r.sp + 0x10)
    );
    assert_eq!(
        done(0x113f_fc41, regs),
        next(regs, |r| r.x[1] = 0x0302_1201)
    );
    // add x0, x1, x2; add x0, x1, x2, lsl #12; neg x1, x2.
    let (x1, x2) = (regs.x[1], regs.x[2]);
    assert_eq!(done(0x8b02_0020, regs).x[0], x1.wrapping_add(x2));
    assert_eq!(done(0x8b02_3020, regs).x[0], x1.wrapping_add(x2 << 12));
    assert_eq!(done(0xcb02_03e1, regs).x[1], x2.wrapping_neg());
    // sub w0, w1, w2, asr #31; sub x0, x1, x2, lsr #63: of a negative x2.
    let mut negative = regs;
    negative.x[2] = 0xf000_0000_8000_0000;
    assert_eq!(done(0x4b82_7c20, negative).x[0], 0x1234_5401);
    assert_eq!(done(0xcb42_fc20, negative).x[0], x1 - 1);
    // A W shift of 32 and shift type 11 are unallocated; add x0, sp, x1, uxtx and addg are stepped.
    for word in [0x0b02_8020, 0x8bc2_0020, 0x8b21_63e0, 0x9181_0420] {
        stepped(word, regs, &PLAIN);
    }
}

#[test]
fn flags_at_the_edges() {
    let flags = |word, x0| {
        let mut regs = start();
        regs.x[0] = x0;
        regs.pstate |= pstate::V;
        done(word, regs).pstate >> 28 & 0xf
    };
    let (n, z, c, v) = (8, 4, 2, 1);
    // cmp x0, #3.
    assert_eq!(flags(0xf100_0c1f, 3), z | c);
    assert_eq!(flags(0xf100_0c1f, 2), n);
    assert_eq!(flags(0xf100_0c1f, 4), c);
    assert_eq!(flags(0xf100_0c1f, 1 << 63), c | v);
    // cmn w0, #3.
    assert_eq!(flags(0x3100_0c1f, 0xffff_fffd), z | c);
    assert_eq!(flags(0x3100_0c1f, 0x7fff_fffd), n | v);
    assert_eq!(flags(0x3100_0c1f, 0x1_0000_0000), 0);
}

#[test]
fn pc_relative_addresses() {
    let mut regs = start();
    regs.pc = PC + 0x234;
    // adr x0, #0x12345; adr x0, #-1; adrp x0, #0x3000; adrp x0, #-0x3000.
    assert_eq!(
        done(0x3009_1a20, regs),
        next(regs, |r| r.x[0] = PC + 0x234 + 0x12345)
    );
    assert_eq!(done(0x70ff_ffe0, regs), next(regs, |r| r.x[0] = PC + 0x233));
    assert_eq!(
        done(0xf000_0000, regs),
        next(regs, |r| r.x[0] = PC + 0x3000)
    );
    assert_eq!(
        done(0xb0ff_ffe0, regs),
        next(regs, |r| r.x[0] = PC - 0x3000)
    );
}

#[test]
fn direct_branches() {
    let regs = start();
    let target = |word: u32, regs: CoreRegs| done(word, regs).pc.wrapping_sub(PC) as i64;
    assert_eq!(target(0x1400_0010, regs), 0x40);
    assert_eq!(target(0x17ff_fff0, regs), -0x40);
    let after = done(0x95ff_ffff, regs);
    assert_eq!((after.pc, after.x[30]), (PC + 0x7ff_fffc, PC + 4));
    assert_eq!(target(0x9600_0000, regs), -0x800_0000);
    // cbz w3: only the low half counts; cbnz x3.
    let mut low_zero = regs;
    low_zero.x[3] = 0xdead_0000_0000;
    assert_eq!(target(0x3400_0043, low_zero), 8);
    assert_eq!(target(0x3400_0043, regs), 4);
    assert_eq!(target(0xb5ff_ffc3, low_zero), -8);
    // tbz x5, #40; tbnz w5, #3.
    let mut bits = regs;
    bits.x[5] = 1 << 3;
    assert_eq!(target(0xb640_0085, bits), 16);
    assert_eq!(target(0x371f_ff85, bits), -16);
    bits.x[5] = 1 << 40;
    assert_eq!(target(0xb640_0085, bits), 4);
    assert_eq!(target(0x371f_ff85, bits), 4);
    // bc.eq.
    stepped(0x5400_0010, regs, &PLAIN);
}

#[test]
fn all_conditions_by_all_flags() {
    for flags in 0..16u64 {
        let [n, z, c, v] = [8, 4, 2, 1].map(|bit| flags & bit != 0);
        // eq ne cs cc mi pl vs vc hi ls ge lt gt le al nv.
        let taken = [
            z,
            !z,
            c,
            !c,
            n,
            !n,
            v,
            !v,
            c && !z,
            !c || z,
            n == v,
            n != v,
            !z && n == v,
            z || n != v,
            true,
            true,
        ];
        for (condition, taken) in taken.into_iter().enumerate() {
            let mut regs = start();
            regs.pstate |= flags << 28;
            let after = done(0x5400_0100 | condition as u32, regs);
            assert_eq!(
                after.pc,
                if taken { PC + 0x20 } else { PC + 4 },
                "{flags} {condition}"
            );
            assert_eq!(after.pstate, regs.pstate);
        }
    }
}

#[test]
fn indirect_branches() {
    let mut regs = start();
    regs.x[9] = 0x1000;
    regs.x[16] = 0x2000;
    regs.x[30] = 0x3000;
    let go = |word, features| {
        let after = done_in(word, regs, &Page::new(), features);
        (after.pc, after.x[30], after.pstate >> 10 & 3)
    };
    let link = PC + 4;
    // br x9; br x16; blr x9; blr x30; ret; ret x3.
    assert_eq!(go(0xd61f_0120, &PLAIN), (0x1000, 0x3000, 0));
    assert_eq!(go(0xd61f_0200, &PLAIN), (0x2000, 0x3000, 0));
    assert_eq!(go(0xd61f_0200, &FULL), (0x2000, 0x3000, 0b01));
    assert_eq!(go(0xd63f_0120, &PLAIN), (0x1000, link, 0));
    assert_eq!(go(0xd63f_0120, &FULL), (0x1000, link, 0b10));
    assert_eq!(go(0xd63f_03c0, &FULL), (0x3000, link, 0b10));
    assert_eq!(go(0xd65f_03c0, &FULL), (0x3000, 0x3000, 0));
    assert_eq!(go(0xd65f_0060, &FULL), (regs.x[3], 0x3000, 0));
    // BTYPE after br x9 depends on the page.
    stepped(0xd61f_0120, regs, &FULL);
    // braaz, retaa, blraaz, eret, drps.
    for word in [
        0xd61f_093f,
        0xd65f_0bff,
        0xd63f_093f,
        0xd69f_03e0,
        0xd6bf_03e0,
    ] {
        stepped(word, regs, &PLAIN);
    }
}

#[test]
fn pairs() {
    let regs = start();
    let memory = Page::new();
    // stp x29, x30, [sp, #-0x60]!; stp x19, x20, [sp, #16]; stp xzr, xzr, [x3].
    let after = done_in(0xa9ba_7bfd, regs, &memory, &PLAIN);
    assert_eq!(after, next(regs, |r| r.sp -= 0x60));
    assert_eq!(memory.u64_at(0x7a0), regs.x[29]);
    assert_eq!(memory.u64_at(0x7a8), regs.x[30]);
    assert_eq!(
        done_in(0xa901_53f3, regs, &memory, &PLAIN),
        next(regs, |_| {})
    );
    assert_eq!(memory.u64_at(0x810), regs.x[19]);
    assert_eq!(memory.u64_at(0x818), regs.x[20]);
    assert_eq!(
        done_in(0xa900_7c7f, regs, &memory, &PLAIN),
        next(regs, |_| {})
    );
    assert_eq!((memory.u64_at(0x200), memory.u64_at(0x208)), (0, 0));
    // ldp x29, x30, [sp], #0x60.
    let loaded = done_in(0xa8c6_7bfd, regs, &memory, &PLAIN);
    let expected = next(regs, |r| {
        r.sp += 0x60;
        r.x[29] = memory.u64_at(0x800);
        r.x[30] = memory.u64_at(0x808);
    });
    assert_eq!(loaded, expected);
    // stp w1, w2, [x3, #-4]; ldp w1, w2, [x3], #8.
    done_in(0x293f_8861, regs, &memory, &PLAIN);
    let halves = memory.u64_at(0x1f8) >> 32 | memory.u64_at(0x200) << 32;
    assert_eq!(halves, regs.x[1] & 0xffff_ffff | regs.x[2] << 32);
    let loaded = done_in(0x28c1_0861, regs, &memory, &PLAIN);
    let words = memory.u64_at(0x200);
    let expected = next(regs, |r| {
        r.x[1] = words & 0xffff_ffff;
        r.x[2] = words >> 32;
        r.x[3] += 8;
    });
    assert_eq!(loaded, expected);
    // ldpsw, stnp, stp q0, stgp; ldp x1, x1; ldp x3, x2, [x3], #16; stp x3, x2, [x3, #16]!.
    for word in [
        0x6940_0861,
        0xa800_0861,
        0xad00_07e0,
        0x6900_0440,
        0xa940_0461,
        0xa8c1_0863,
        0xa981_0863,
    ] {
        stepped(word, regs, &PLAIN);
    }
}

#[test]
fn single_registers() {
    let regs = start();
    let memory = Page::new();
    let word_at = |offset: usize| memory.u64_at(offset) & 0xffff_ffff;
    // str x30, [sp, #-16]!; ldr x30, [sp], #16; str x30, [x18], #8; ldr x30, [x18, #-8]!.
    assert_eq!(
        done_in(0xf81f_0ffe, regs, &memory, &PLAIN),
        next(regs, |r| r.sp -= 16)
    );
    assert_eq!(memory.u64_at(0x7f0), regs.x[30]);
    let after = done_in(0xf841_07fe, regs, &memory, &PLAIN);
    let expected = next(regs, |r| {
        r.sp += 16;
        r.x[30] = memory.u64_at(0x800);
    });
    assert_eq!(after, expected);
    let mut based = regs;
    based.x[18] = MEMORY + 0x100;
    assert_eq!(
        done_in(0xf800_865e, based, &memory, &PLAIN),
        next(based, |r| r.x[18] += 8)
    );
    assert_eq!(memory.u64_at(0x100), regs.x[30]);
    let after = done_in(0xf85f_8e5e, based, &memory, &PLAIN);
    assert_eq!(
        (after.x[18], after.x[30]),
        (MEMORY + 0xf8, memory.u64_at(0xf8))
    );
    // str x0, [x1, #8]; str w0, [x1, #4]; ldr w0, [x1]; ldur x0, [x1, #-8]; stur w0, [x1, #-4].
    let mut valued = regs;
    valued.x[0] = 0x8899_aabb_ccdd_eeff;
    done_in(0xf900_0420, valued, &memory, &PLAIN);
    assert_eq!(memory.u64_at(0x408), valued.x[0]);
    done_in(0xb900_0420, valued, &memory, &PLAIN);
    assert_eq!(word_at(0x404), 0xccdd_eeff);
    assert_eq!(memory.u64_at(0x408), valued.x[0]);
    done_in(0xb81f_c020, valued, &memory, &PLAIN);
    assert_eq!(word_at(0x3fc), 0xccdd_eeff);
    let x0 = |word: u32| done_in(word, valued, &memory, &PLAIN).x[0];
    assert_eq!(x0(0xb940_0020), word_at(0x400));
    assert_eq!(x0(0xf85f_8020), memory.u64_at(0x3f8));
    // strb w0, [x1, #3]; strh w0, [x1, #2] beside what is there.
    let before = memory.u64_at(0x400);
    done_in(0x3900_0c20, valued, &memory, &PLAIN);
    assert_eq!(memory.u64_at(0x400), before & !0xff00_0000 | 0xff00_0000);
    done_in(0x7900_0420, valued, &memory, &PLAIN);
    assert_eq!(memory.u64_at(0x400), before & !0xffff_0000 | 0xeeff_0000);
    // ldrb, ldrh, ldrsw, ldrsb x and w, ldrsh w and x of negative values.
    memory.bytes.borrow_mut()[0x400..0x404].copy_from_slice(&[0x81, 0x92, 0xa3, 0xb4]);
    assert_eq!(x0(0x3940_0020), 0x81);
    assert_eq!(x0(0x7940_0020), 0x9281);
    assert_eq!(x0(0xb980_0020), 0xffff_ffff_b4a3_9281);
    assert_eq!(x0(0x3980_0020), 0xffff_ffff_ffff_ff81);
    assert_eq!(x0(0x39c0_0020), 0xffff_ff81);
    assert_eq!(x0(0x79c0_0020), 0xffff_9281);
    assert_eq!(x0(0x7980_0020), 0xffff_ffff_ffff_9281);
    // ldtr, register offset, simd, prfm, prfum, ldadd, swp, ldapr, ldraa; str x1, [x1], #8.
    for word in [
        0xf840_0820,
        0xf862_6820,
        0xfd40_0020,
        0xf980_0020,
        0xf89f_8020,
        0xf820_0041,
        0xf820_8041,
        0xf8bf_c020,
        0xf820_0420,
        0xf800_8421,
    ] {
        stepped(word, regs, &PLAIN);
    }
    // ldar, stlr, ldxr, stxr, cas, casp, stg, ldr x0, [x1, #32760] (unmapped).
    for word in [
        0xc8df_fc20,
        0xc89f_fc20,
        0x885f_7c20,
        0xc800_7c41,
        0xc8a0_7c41,
        0x4820_7c82,
        0xd920_0820,
        0xf97f_fc20,
    ] {
        stepped(word, regs, &PLAIN);
    }
}

#[test]
fn literals() {
    let mut regs = start();
    regs.pc = MEMORY + 0x80;
    let memory = Page::new();
    let x0 = |word: u32| done_in(word, regs, &memory, &PLAIN).x[0];
    // ldr x0, #8; ldr w0, #-8; ldrsw x0, #8.
    assert_eq!(x0(0x5800_0040), memory.u64_at(0x88));
    assert_eq!(x0(0x18ff_ffc0), memory.u64_at(0x78) & 0xffff_ffff);
    assert_eq!(x0(0x9800_0040), memory.u64_at(0x88) as i32 as i64 as u64);
    // prfm #8; ldr q0, #16; a 64-bit literal at an odd word.
    stepped(0xd800_0040, regs, &PLAIN);
    stepped(0x9c00_0080, regs, &PLAIN);
    regs.pc += 4;
    stepped(0x5800_0040, regs, &PLAIN);
}

#[test]
fn what_would_fault_is_stepped() {
    let mut regs = start();
    // Misaligned stack pointer, even where the address is aligned for the access.
    regs.sp += 8;
    stepped(0xa901_53f3, regs, &PLAIN);
    stepped(0xf81f_0ffe, regs, &PLAIN);
    // Arithmetic on it is no access: sub sp, sp, #0x50.
    done(0xd101_43ff, regs);
    // Misaligned address.
    regs = start();
    regs.x[1] += 4;
    stepped(0xf900_0420, regs, &PLAIN);
    regs.x[3] += 2;
    stepped(0x293f_8861, regs, &PLAIN);
    // The second register of a pair lies beyond the page, or where no store may go.
    regs = start();
    regs.x[3] = MEMORY + 4096 - 8;
    stepped(0xa900_7c7f, regs, &PLAIN);
    regs.x[3] = MEMORY + 0x800 - 8;
    let half = Page {
        writable: 0x800,
        ..Page::new()
    };
    stepped_in(0xa900_7c7f, regs, &half, &PLAIN);
    // The end of the address space.
    regs.x[3] = u64::MAX - 7;
    stepped(0xa900_7c7f, regs, &PLAIN);
    stepped(0xa8c1_7c62, regs, &PLAIN);
}

#[test]
fn data_accesses_can_be_switched_off() {
    let no_data = SimulationFeatures {
        data: DataAccess::Stepped,
        ..PLAIN
    };
    stepped(0xa9ba_7bfd, start(), &no_data);
    stepped(0xf900_0420, start(), &no_data);
    assert_eq!(
        done_in(0xd101_43ff, start(), &Page::new(), &no_data).pc,
        PC + 4
    );
    // EL0's permissions are not those of LiveMemory.
    let mut el0 = start();
    el0.pstate &= !pstate::MODE_MASK;
    stepped(0xa9ba_7bfd, el0, &PLAIN);
    done(0xd101_43ff, el0);
}

/// Any registers; most often with addresses in the page, so that loads and stores get through.
fn any_regs() -> impl Strategy<Value = CoreRegs> {
    let value = prop_oneof![
        4 => (0..512u64).prop_map(|slot| MEMORY + slot * 8),
        1 => any::<u64>(),
        1 => prop::sample::select(alloc::vec![0, 1, u64::MAX, 1 << 63, i32::MIN as u64]),
    ];
    let registers = prop::array::uniform32(value);
    (registers, any::<u64>(), any_flags()).prop_map(|(values, pc, flags)| {
        let mut regs = CoreRegs {
            sp: values[31] & !15,
            pc: pc & !3,
            pstate: pstate::EL1H | flags | pstate::SS,
            ..CoreRegs::default()
        };
        regs.x.copy_from_slice(&values[..31]);
        regs
    })
}

/// Any NZCV and BTYPE, in place.
pub(super) fn any_flags() -> impl Strategy<Value = u64> {
    (0..16u64, 0..4u64).prop_map(|(flags, btype)| flags << 28 | btype << 10)
}

/// Any word; most often one of the groups that are simulated.
pub(super) fn any_instruction() -> impl Strategy<Value = u32> {
    let group = prop::sample::select(alloc::vec![
        0x1000_0000,
        0x1100_0000,
        0x1280_0000,
        0x0b00_0000,
        0x1400_0000,
        0x3400_0000,
        0x3600_0000,
        0x5400_0000,
        0x2800_0000,
        0x2900_0000,
        0x3800_0000,
        0x3900_0000,
        0x1800_0000u32,
    ]);
    let indirect_branch = prop::sample::select(alloc::vec![0xd61f_0000, 0xd63f_0000, 0xd65f_0000]);
    prop_oneof![
        12 => (group, any::<u32>()).prop_map(|(group, rest)| group ^ rest & 0xe1ff_ffff),
        4 => any::<u32>(),
        // BR, BLR, RET; hints; MOV of a register.
        1 => (indirect_branch, 0..32u32).prop_map(|(branch, register)| branch | register << 5),
        1 => (0..128u32).prop_map(|hint| 0xd503_201f | hint << 5),
        1 => any::<u32>().prop_map(|rest| 0x2a00_03e0 | rest & 0x801f_001f),
    ]
}

/// Asserts what holds for every instruction, and tells whether it was simulated.
fn check_any(
    instruction: u32,
    regs: CoreRegs,
    memory: &Page,
    features: &SimulationFeatures,
) -> bool {
    let writes = memory.writes.get();
    let mut after = regs;
    let simulated = simulate(instruction, &mut after, memory, features);
    if simulated != Simulated::Done {
        assert_eq!(after, regs, "{instruction:#010x}");
        assert_eq!(memory.writes.get(), writes, "{instruction:#010x}");
        return false;
    }
    let mode_and_masks = pstate::MODE_MASK | pstate::I | pstate::PAN;
    assert_eq!(after.pstate & mode_and_masks, regs.pstate & mode_and_masks);
    assert_eq!(after.pstate & pstate::SS, 0);
    let registers = (0..31)
        .filter(|number| after.x[*number] != regs.x[*number])
        .count();
    assert!(
        registers <= 3,
        "{instruction:#010x} changed {registers} registers"
    );
    true
}

#[test]
fn strided_words_never_panic_and_steps_change_nothing() {
    let regs = start();
    let memory = Page::new();
    // Odd and far from a power of two: all fields take many values.
    let words = (0..1 << 20).map(|n: u32| n.wrapping_mul(4_099 * 1_023 + 2));
    let dense = (0..1 << 20).map(|n: u32| n.wrapping_mul(0x9e37_79b1));
    let simulated = words
        .chain(dense)
        .filter(|word| check_any(*word, regs, &memory, &PLAIN))
        .count();
    assert!(simulated > 100_000, "only {simulated} were simulated");
}

/// NZCV in place.
fn nzcv(negative: bool, zero: bool, carry: bool, overflow: bool) -> u64 {
    u64::from(negative) << 31
        | u64::from(zero) << 30
        | u64::from(carry) << 29
        | u64::from(overflow) << 28
}

/// Sum and flags by the arithmetic of Rust.
fn reference_add(width: Width, a: u64, b: u32) -> (u64, u64) {
    if width == Width::W64 {
        let b = u64::from(b);
        let (sum, carry) = a.overflowing_add(b);
        let (signed, overflow) = (a as i64).overflowing_add(b as i64);
        (sum, nzcv(signed < 0, sum == 0, carry, overflow))
    } else {
        let a = a as u32;
        let (sum, carry) = a.overflowing_add(b);
        let (signed, overflow) = (a as i32).overflowing_add(b as i32);
        (sum.into(), nzcv(signed < 0, sum == 0, carry, overflow))
    }
}

/// Difference and flags by the arithmetic of Rust; A64's carry is "no borrow".
fn reference_sub(width: Width, a: u64, b: u32) -> (u64, u64) {
    if width == Width::W64 {
        let b = u64::from(b);
        let (difference, borrow) = a.overflowing_sub(b);
        let (signed, overflow) = (a as i64).overflowing_sub(b as i64);
        (
            difference,
            nzcv(signed < 0, difference == 0, !borrow, overflow),
        )
    } else {
        let a = a as u32;
        let (difference, borrow) = a.overflowing_sub(b);
        let (signed, overflow) = (a as i32).overflowing_sub(b as i32);
        (
            difference.into(),
            nzcv(signed < 0, difference == 0, !borrow, overflow),
        )
    }
}

proptest! {
    #[test]
    fn the_short_way_is_the_long_way(
        x in prop::array::uniform31(any::<u64>()),
        pc in any::<u64>(),
        pstate in any::<u64>(),
        other in any::<u32>(),
    ) {
        let regs = CoreRegs { x, pc, pstate, ..CoreRegs::default() };
        let features = SimulationFeatures {
            bti: false,
            pauth: false,
            data: DataAccess::Simulated,
            branch_target: BranchTargetCheck::Passed,
        };
        for instruction in [NOP, MOV_X9_X30, other] {
            let (mut short, mut long) = (regs, regs);
            if let Some(simple) = Simple::of(instruction) {
                simple.execute(&mut short);
                let done = simulate(instruction, &mut long, &Page::new(), &features);
                prop_assert_eq!(done, Simulated::Done);
            }
            prop_assert_eq!(short, long);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn any_word_on_any_registers(
        instruction in any_instruction(),
        regs in any_regs(),
        bti in any::<bool>(),
        pauth in any::<bool>(),
    ) {
        let features = SimulationFeatures { bti, pauth, ..PLAIN };
        check_any(instruction, regs, &Page::new(), &features);
    }

    /// ADD and SUB of an immediate against the arithmetic of Rust.
    #[test]
    fn add_sub_immediate_is_arithmetic(
        a in prop_oneof![any::<u64>(), prop::sample::select(alloc::vec![
            0, 1, i32::MAX as u64, i32::MIN as u64, i64::MAX as u64, i64::MIN as u64, u64::MAX,
        ])],
        immediate in 0..4096u32,
        shifted in any::<bool>(),
        subtract in any::<bool>(),
        wide in any::<bool>(),
    ) {
        // adds/subs x0, x1, #immediate{, lsl #12}.
        let word = 0x3100_0020
            | immediate << 10
            | u32::from(shifted) << 22
            | u32::from(subtract) << 30
            | u32::from(wide) << 31;
        let mut regs = start();
        regs.x[1] = a;
        let after = done(word, regs);
        let b = if shifted { immediate << 12 } else { immediate };
        let width = if wide { Width::W64 } else { Width::W32 };
        let (result, flags) = if subtract {
            reference_sub(width, a, b)
        } else {
            reference_add(width, a, b)
        };
        prop_assert_eq!(after.x[0], result);
        prop_assert_eq!(after.pstate, regs.pstate | flags);

        // Without S: the same result, and the flags as they were.
        let plain = done(word & !(1 << 29), regs);
        prop_assert_eq!(plain.x[0], result);
        prop_assert_eq!(plain.pstate, regs.pstate);
    }
}
