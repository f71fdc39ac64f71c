//! The registers as a client counts them.
//!
//! gdbstub_arch's AArch64 does not serve: its `g` packet has FPSR and FPCR swapped against its XML, and its 72 KB of
//! system registers have numbers up to 65535, which break `collect $regs`. Here the order of [`RegisterId::from_number`],
//! of the `g` packet and of [`super::description`] is one: x0 to x30, SP, PC, CPSR, V0 to V31, FPSR, FPCR, the masks of
//! pointers, then [`SysReg::ALL`], numbered without a gap. A guest's vCPU has [`SysReg::GUEST`] of these.

use super::pointer_masks::{Half, PointerKind, authentication_mask};
use core::num::NonZeroUsize;
use gdbstub::arch::{Arch, RegId, Registers};
use probes::regs::{CoreRegs, FpRegs, SysReg, SysRegAccess, SysRegs};

/// The number of SP: x0 to x30 come before it.
const SP: usize = 31;
const PC: usize = 32;
const CPSR: usize = 33;
const V0: usize = 34;
const FPSR: usize = 66;
const FPCR: usize = 67;
const MASKS: usize = 68;
const SYSTEM: usize = MASKS + POINTER_MASKS.len();

/// What GDB 14 and later know as `pauth_dmask`, `pauth_cmask`, `pauth_dmask_high`, `pauth_cmask_high`, in this order.
const POINTER_MASKS: [(PointerKind, Half); 4] = [
    (PointerKind::Data, Half::Low),
    (PointerKind::Code, Half::Low),
    (PointerKind::Data, Half::High),
    (PointerKind::Code, Half::High),
];

/// Whose registers: their numbers are dense, and those of a guest are the first of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum RegisterSet {
    /// A guest's vCPU.
    #[default]
    Guest,
    /// A CPU of the hypervisor.
    Hypervisor,
}

impl RegisterSet {
    /// How many registers.
    pub(crate) const fn count(self) -> usize {
        SYSTEM
            + match self {
                Self::Guest => SysReg::GUEST.len(),
                Self::Hypervisor => SysReg::ALL.len(),
            }
    }

    /// All of them, by number.
    pub(crate) fn registers(self) -> impl Iterator<Item = RegisterId> {
        (0..self.count()).filter_map(RegisterId::from_number)
    }

    /// Whether a register is one of them.
    pub(crate) fn contains(self, register: RegisterId) -> bool {
        match register {
            RegisterId::System(register) => SYSTEM + (register as usize) < self.count(),
            _ => true,
        }
    }
}

/// AArch64.
pub(crate) enum Aarch64 {}

impl Arch for Aarch64 {
    type Usize = u64;
    type Registers = VcpuRegisters;
    type BreakpointKind = usize;
    type RegId = RegisterId;
}

/// One register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RegisterId {
    /// x0 to x30.
    X(u8),
    /// The stack pointer.
    Sp,
    /// The program counter.
    Pc,
    /// The low 32 bits of PSTATE, which is what GDB's `cpsr` holds.
    Cpsr,
    /// V0 to V31.
    V(u8),
    /// Floating-point status.
    Fpsr,
    /// Floating-point control.
    Fpcr,
    /// Which bits of a pointer are an authentication code. Made from `TCR_EL1` and `SCTLR_EL1`; it cannot be written.
    PointerMask(PointerKind, Half),
    /// A system register.
    System(SysReg),
}

impl RegisterId {
    /// The register of a number of the protocol.
    pub(crate) fn from_number(number: usize) -> Option<Self> {
        Some(match number {
            0..SP => Self::X(number as u8),
            SP => Self::Sp,
            PC => Self::Pc,
            CPSR => Self::Cpsr,
            V0..FPSR => Self::V((number - V0) as u8),
            FPSR => Self::Fpsr,
            FPCR => Self::Fpcr,
            MASKS..SYSTEM => {
                let (kind, half) = POINTER_MASKS[number - MASKS];
                Self::PointerMask(kind, half)
            }
            _ => Self::System(*SysReg::ALL.get(number - SYSTEM)?),
        })
    }

    /// Its number in the protocol.
    pub(crate) fn number(self) -> usize {
        match self {
            Self::X(n) => usize::from(n),
            Self::Sp => SP,
            Self::Pc => PC,
            Self::Cpsr => CPSR,
            Self::V(n) => V0 + usize::from(n),
            Self::Fpsr => FPSR,
            Self::Fpcr => FPCR,
            Self::PointerMask(kind, half) => {
                let mut masks = POINTER_MASKS.iter();
                MASKS + masks.position(|mask| *mask == (kind, half)).unwrap_or(0)
            }
            Self::System(register) => SYSTEM + register as usize,
        }
    }

    /// Bytes of the register in the protocol.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::Cpsr | Self::Fpsr | Self::Fpcr => 4,
            Self::V(_) => 16,
            Self::X(_) | Self::Sp | Self::Pc | Self::PointerMask(..) | Self::System(_) => 8,
        }
    }
}

impl RegId for RegisterId {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        let register = Self::from_number(id)?;
        Some((register, NonZeroUsize::new(register.size())))
    }
}

/// All registers of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct VcpuRegisters {
    /// Which these are.
    pub(crate) set: RegisterSet,
    /// Core registers.
    pub(crate) core: CoreRegs,
    /// SIMD and floating point.
    pub(crate) fp: FpRegs,
    /// System registers.
    pub(crate) sys: SysRegs,
}

/// A value does not fit its register, or the register cannot be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NotWritable;

impl VcpuRegisters {
    /// The value of a register, zero-extended.
    pub(crate) fn get(&self, register: RegisterId) -> u128 {
        match register {
            RegisterId::X(n) => self.core.x[usize::from(n)].into(),
            RegisterId::Sp => self.core.sp.into(),
            RegisterId::Pc => self.core.pc.into(),
            RegisterId::Cpsr => (self.core.pstate & u64::from(u32::MAX)).into(),
            RegisterId::V(n) => self.fp.v[usize::from(n)],
            RegisterId::Fpsr => self.fp.fpsr.into(),
            RegisterId::Fpcr => self.fp.fpcr.into(),
            RegisterId::PointerMask(kind, half) => {
                authentication_mask(&self.sys, kind, half).into()
            }
            RegisterId::System(register) => self.sys.get(register).into(),
        }
    }

    /// Sets a register from its bytes in the protocol, which are in the order of the target.
    pub(crate) fn set(&mut self, register: RegisterId, bytes: &[u8]) -> Result<(), NotWritable> {
        let value = little_endian(bytes, register.size()).ok_or(NotWritable)?;
        match register {
            RegisterId::X(n) => self.core.x[usize::from(n)] = value as u64,
            RegisterId::Sp => self.core.sp = value as u64,
            RegisterId::Pc => self.core.pc = value as u64,
            RegisterId::Cpsr => {
                let upper = self.core.pstate & !u64::from(u32::MAX);
                self.core.pstate = upper | value as u64;
            }
            RegisterId::V(n) => self.fp.v[usize::from(n)] = value,
            RegisterId::Fpsr => self.fp.fpsr = value as u32,
            RegisterId::Fpcr => self.fp.fpcr = value as u32,
            RegisterId::PointerMask(..) => return Err(NotWritable),
            RegisterId::System(register) => match register.access() {
                SysRegAccess::ReadWrite => self.sys.set(register, value as u64),
                SysRegAccess::ReadOnly => return Err(NotWritable),
            },
        }
        Ok(())
    }
}

/// The value of exactly `size` bytes, at most 16.
fn little_endian(bytes: &[u8], size: usize) -> Option<u128> {
    let mut buffer = [0; 16];
    if bytes.len() != size {
        return None;
    }
    buffer.get_mut(..size)?.copy_from_slice(bytes);
    Some(u128::from_le_bytes(buffer))
}

impl Registers for VcpuRegisters {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.core.pc
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for register in self.set.registers() {
            for byte in &self.get(register).to_le_bytes()[..register.size()] {
                write_byte(Some(*byte));
            }
        }
    }

    /// A `G` packet holds every register. A read-only one keeps its value, which is what the client read before.
    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let sets = [RegisterSet::Guest, RegisterSet::Hypervisor];
        let fits = |set: &RegisterSet| {
            let sizes = set.registers().map(RegisterId::size);
            sizes.sum::<usize>() == bytes.len()
        };
        self.set = sets.into_iter().find(fits).ok_or(())?;
        let mut rest = bytes;
        for register in self.set.registers() {
            let (value, later) = rest.split_at_checked(register.size()).ok_or(())?;
            rest = later;
            match (register, self.set(register, value)) {
                (_, Ok(())) => {}
                (RegisterId::PointerMask(..) | RegisterId::System(_), Err(NotWritable)) => {}
                (_, Err(NotWritable)) => return Err(()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn serialize(registers: &VcpuRegisters) -> Vec<u8> {
        let mut bytes = Vec::new();
        registers.gdb_serialize(|byte| bytes.extend(byte));
        bytes
    }

    #[test]
    fn fpsr_comes_before_fpcr() {
        let mut registers = VcpuRegisters::default();
        registers.fp.fpsr = 0x1111_1111;
        registers.fp.fpcr = 0x2222_2222;
        let bytes = serialize(&registers);
        let fpsr = 33 * 8 + 4 + 32 * 16;
        assert_eq!(
            bytes[fpsr..fpsr + 8],
            [0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x22, 0x22]
        );
        let rest = POINTER_MASKS.len() + SysReg::GUEST.len();
        assert_eq!(bytes.len(), fpsr + 8 + 8 * rest);
    }

    #[test]
    fn a_g_packet_fits() {
        let registers = RegisterSet::Hypervisor.registers();
        let digits = 2 * registers.map(RegisterId::size).sum::<usize>();
        assert!(digits + 5 <= crate::packet::PACKET_SIZE);
    }

    #[test]
    fn what_is_serialized_comes_back() {
        let mut registers = VcpuRegisters::default();
        registers.core.x[30] = u64::MAX;
        registers.core.pstate = 0x3c5;
        registers.fp.v[31] = u128::MAX - 1;
        registers.sys.set(SysReg::VbarEl1, 0x1234);
        for set in [RegisterSet::Guest, RegisterSet::Hypervisor] {
            registers.set = set;
            let mut copy = VcpuRegisters::default();
            copy.gdb_deserialize(&serialize(&registers)).unwrap();
            assert_eq!(copy, registers);
            assert!(copy.gdb_deserialize(&[0; 16]).is_err());
        }
    }

    #[test]
    fn cpsr_keeps_the_upper_half_of_pstate() {
        let mut registers = VcpuRegisters::default();
        registers.core.pstate = 0x1_0000_03c5;
        registers
            .set(RegisterId::Cpsr, &0x6000_03c4_u32.to_le_bytes())
            .unwrap();
        assert_eq!(registers.core.pstate, 0x1_6000_03c4);
    }

    #[test]
    fn numbers_are_dense() {
        let all = RegisterSet::Hypervisor;
        assert_eq!(all.registers().count(), all.count());
        assert!(all.registers().map(RegisterId::number).eq(0..all.count()));
        assert_eq!(RegisterId::from_number(all.count()), None);
        assert_eq!(RegisterId::from_number(usize::MAX), None);
    }
}
