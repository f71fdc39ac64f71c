//! The registers of a vCPU.

use zerocopy::{Immutable, IntoBytes};

/// The core registers of a vCPU. The layout is Linux' arm64 `struct user_pt_regs`
/// (`arch/arm64/include/uapi/asm/ptrace.h`), so a reference to it is the context of an eBPF program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub struct CoreRegs {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The stack pointer in use: `SP_EL1` or `SP_EL0`, by PSTATE.
    pub sp: u64,
    /// The next instruction to execute (a GVA).
    pub pc: u64,
    /// PSTATE in SPSR format (Arm ARM C5.2.19, `SPSR_EL2` from AArch64).
    pub pstate: u64,
}

/// PSTATE bits in SPSR format.
pub mod pstate {
    /// `M[3:0]`: exception level and stack pointer selection.
    pub const MODE_MASK: u64 = 0xf;
    /// EL0 with `SP_EL0`.
    pub const EL0T: u64 = 0b0000;
    /// EL1 with `SP_EL0`.
    pub const EL1T: u64 = 0b0100;
    /// EL1 with `SP_EL1`.
    pub const EL1H: u64 = 0b0101;
    /// `M[4]`: AArch32 state.
    pub const AARCH32: u64 = 1 << 4;
    /// FIQ mask.
    pub const F: u64 = 1 << 6;
    /// IRQ mask.
    pub const I: u64 = 1 << 7;
    /// SError mask.
    pub const A: u64 = 1 << 8;
    /// Debug exception mask.
    pub const D: u64 = 1 << 9;
    /// `BTYPE`, bits 11:10.
    pub const BTYPE: u64 = 0b11 << 10;
    /// Illegal execution state.
    pub const IL: u64 = 1 << 20;
    /// Software step.
    pub const SS: u64 = 1 << 21;
    /// Privileged access never.
    pub const PAN: u64 = 1 << 22;
    /// User access override.
    pub const UAO: u64 = 1 << 23;
    /// Overflow flag.
    pub const V: u64 = 1 << 28;
    /// Carry flag.
    pub const C: u64 = 1 << 29;
    /// Zero flag.
    pub const Z: u64 = 1 << 30;
    /// Negative flag.
    pub const N: u64 = 1 << 31;
}

impl CoreRegs {
    /// The registers in the order of `struct user_pt_regs`: x0 to x30, SP, PC, PSTATE.
    pub fn as_words(&self) -> &[u64; 34] {
        zerocopy::transmute_ref!(self)
    }

    /// Which of [`CoreRegs::as_words`] is the PC.
    pub const PC_WORD: usize = 32;

    /// The registers of [`CoreRegs::as_words`].
    pub fn from_words(words: &[u64; 34]) -> Self {
        let [x @ .., sp, pc, pstate] = *words;
        Self { x, sp, pc, pstate }
    }

    /// Whether the vCPU executes at EL0.
    pub fn at_el0(&self) -> bool {
        self.pstate & 0b1100 == 0
    }

    /// Whether the vCPU executes in AArch32 state.
    pub fn aarch32(&self) -> bool {
        self.pstate & pstate::AARCH32 != 0
    }

    /// What retiring one instruction does to PSTATE: BTYPE and SS become 0 (Arm ARM D2.12.4, B1.5).
    #[inline]
    pub fn retire(&mut self) {
        self.pstate &= !(pstate::BTYPE | pstate::SS);
    }
}

/// The SIMD and floating-point registers of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FpRegs {
    /// V0 to V31.
    pub v: [u128; 32],
    /// Floating-point status register.
    pub fpsr: u32,
    /// Floating-point control register.
    pub fpcr: u32,
}

impl FpRegs {
    /// How many words hold them: two for each of V0 to V31, lower half first, and one with FPSR in its lower half and FPCR
    /// in its upper one. That is also how they lie in memory.
    pub const WORDS: usize = 65;

    /// The registers as words.
    pub fn as_words(&self) -> [u64; Self::WORDS] {
        core::array::from_fn(|index| match self.v.get(index / 2) {
            Some(v) => (v >> (64 * (index % 2))) as u64,
            None => u64::from(self.fpsr) | u64::from(self.fpcr) << 32,
        })
    }

    /// The registers of such words.
    pub fn from_words(words: &[u64; Self::WORDS]) -> Self {
        let [pairs @ .., status] = words;
        let pair =
            |index: usize| u128::from(pairs[2 * index]) | u128::from(pairs[2 * index + 1]) << 64;
        Self {
            v: core::array::from_fn(pair),
            fpsr: *status as u32,
            fpcr: (status >> 32) as u32,
        }
    }
}

macro_rules! sys_regs {
    (
        guest: { $($(#[$doc:meta])* $variant:ident $name:literal $access:ident,)* }
        hypervisor: { $($(#[$own_doc:meta])* $own:ident $own_name:literal,)* }
    ) => {
        /// System registers that the debugger shows, in the order of GDB's `system` group: those of a vCPU, and behind
        /// them those that only the hypervisor's own CPUs have. These are [`SysRegAccess::ReadOnly`].
        #[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
        #[repr(usize)]
        pub enum SysReg {
            $($(#[$doc])* #[doc = concat!("`", $name, "`.")] $variant,)*
            $($(#[$own_doc])* #[doc = concat!("`", $own_name, "`.")] $own,)*
        }

        impl SysReg {
            /// All of them, by number.
            pub const ALL: &'static [SysReg] = &[$(SysReg::$variant,)* $(SysReg::$own),*];
            /// Those of a vCPU, which come first.
            pub const GUEST: &'static [SysReg] = &[$(SysReg::$variant),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The architectural name, in lower case as GDB shows it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(SysReg::$variant => $name,)*
                    $(SysReg::$own => $own_name,)*
                }
            }

            /// Whether the debugger may change it.
            pub const fn access(self) -> SysRegAccess {
                match self {
                    $(SysReg::$variant => SysRegAccess::$access,)*
                    $(SysReg::$own)|* => SysRegAccess::ReadOnly,
                }
            }
        }
    };
}

/// What the debugger may do with a system register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SysRegAccess {
    /// Read and write.
    ReadWrite,
    /// Read only: an identification register, or one whose change would confuse the hypervisor.
    ReadOnly,
}

sys_regs! {
    guest: {
        SpEl0 "sp_el0" ReadWrite,
        SpEl1 "sp_el1" ReadWrite,
        ElrEl1 "elr_el1" ReadWrite,
        SpsrEl1 "spsr_el1" ReadWrite,
        EsrEl1 "esr_el1" ReadWrite,
        FarEl1 "far_el1" ReadWrite,
        VbarEl1 "vbar_el1" ReadWrite,
        SctlrEl1 "sctlr_el1" ReadWrite,
        TcrEl1 "tcr_el1" ReadWrite,
        Ttbr0El1 "ttbr0_el1" ReadWrite,
        Ttbr1El1 "ttbr1_el1" ReadWrite,
        MairEl1 "mair_el1" ReadWrite,
        AmairEl1 "amair_el1" ReadWrite,
        CpacrEl1 "cpacr_el1" ReadWrite,
        ContextidrEl1 "contextidr_el1" ReadWrite,
        TpidrEl0 "tpidr_el0" ReadWrite,
        TpidrroEl0 "tpidrro_el0" ReadWrite,
        TpidrEl1 "tpidr_el1" ReadWrite,
        Afsr0El1 "afsr0_el1" ReadWrite,
        Afsr1El1 "afsr1_el1" ReadWrite,
        ParEl1 "par_el1" ReadWrite,
        CntkctlEl1 "cntkctl_el1" ReadWrite,
        CntvCtlEl0 "cntv_ctl_el0" ReadWrite,
        CntvCvalEl0 "cntv_cval_el0" ReadWrite,
        /// As a guest sees it: `VMPIDR_EL2`. Of the hypervisor's own CPUs the real one.
        MpidrEl1 "mpidr_el1" ReadOnly,
        /// As a guest sees it: `VPIDR_EL2`. Of the hypervisor's own CPUs the real one.
        MidrEl1 "midr_el1" ReadOnly,
        MdscrEl1 "mdscr_el1" ReadOnly,
        IdAa64Mmfr0El1 "id_aa64mmfr0_el1" ReadOnly,
        IdAa64Mmfr2El1 "id_aa64mmfr2_el1" ReadOnly,
        IdAa64Pfr0El1 "id_aa64pfr0_el1" ReadOnly,
    }
    hypervisor: {
        /// Of the exception by which the CPU stopped, like the next four.
        EsrEl2 "esr_el2",
        FarEl2 "far_el2",
        HpfarEl2 "hpfar_el2",
        ElrEl2 "elr_el2",
        SpsrEl2 "spsr_el2",
        HcrEl2 "hcr_el2",
        VttbrEl2 "vttbr_el2",
        VtcrEl2 "vtcr_el2",
        Ttbr0El2 "ttbr0_el2",
        TcrEl2 "tcr_el2",
        MairEl2 "mair_el2",
        SctlrEl2 "sctlr_el2",
        VbarEl2 "vbar_el2",
        TpidrEl2 "tpidr_el2",
        CptrEl2 "cptr_el2",
        MdcrEl2 "mdcr_el2",
        VmpidrEl2 "vmpidr_el2",
        VpidrEl2 "vpidr_el2",
        CnthctlEl2 "cnthctl_el2",
        CntvoffEl2 "cntvoff_el2",
        CnthpCtlEl2 "cnthp_ctl_el2",
        CnthpCvalEl2 "cnthp_cval_el2",
        IchHcrEl2 "ich_hcr_el2",
        IchVmcrEl2 "ich_vmcr_el2",
        CurrentEl "currentel",
    }
}

/// The values of all [`SysReg`]s of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SysRegs([u64; SysReg::COUNT]);

impl Default for SysRegs {
    fn default() -> Self {
        Self([0; SysReg::COUNT])
    }
}

impl SysRegs {
    /// The value of one register.
    pub const fn get(&self, reg: SysReg) -> u64 {
        self.0[reg as usize]
    }

    /// The registers of a space that has so many of them, the others 0.
    pub fn from_words(words: &[u64]) -> Self {
        let mut regs = Self::default();
        for (place, word) in regs.0.iter_mut().zip(words) {
            *place = *word;
        }
        regs
    }

    /// Sets one register.
    pub const fn set(&mut self, reg: SysReg, value: u64) {
        self.0[reg as usize] = value;
    }
}
