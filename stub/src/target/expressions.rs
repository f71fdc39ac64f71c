//! A client's agent expressions, compiled.

use super::arch::{RegisterId, RegisterSet};
use super::register_set;
use crate::server::Server;
use alloc::format;
use alloc::string::{String, ToString};
use ebpf::agent::{Expression, Register, Registers};
use probes::gdb_trace::Compile;
use probes::programs::{ProgramRef, ProgramStore};
use probes::regs::SysReg;
use probes::space::Space;

/// Compiles the expressions of a space's client.
pub(crate) struct Expressions {
    programs: &'static ProgramStore,
    registers: RegisterSet,
}

impl Expressions {
    /// For a space of `server`'s.
    pub(crate) fn new(server: &Server, space: &Space) -> Self {
        Self {
            programs: server.periscope().programs(),
            registers: register_set(space),
        }
    }
}

impl Compile for Expressions {
    fn compile(&self, name: &str, expressions: &[Expression<'_>]) -> Result<ProgramRef, String> {
        let compiled = self
            .programs
            .compile_expressions(name, expressions, &self.registers);
        compiled.map_err(|refused| refused.to_string())
    }
}

impl Registers for RegisterSet {
    fn register(&self, number: u16) -> Option<Register> {
        let id = RegisterId::from_number(number.into()).filter(|id| self.contains(*id))?;
        let context = |word, bits| Register::Context { word, bits };
        Some(match id {
            RegisterId::X(number) => context(number, 64),
            RegisterId::Sp => context(31, 64),
            RegisterId::Pc => context(32, 64),
            RegisterId::Cpsr => context(33, 32),
            RegisterId::System(register) if self.runs_on(register) => {
                Register::Machine(register as u16)
            }
            RegisterId::System(register) => Register::Unavailable(register.name().into()),
            RegisterId::V(number) => Register::Unavailable(format!("v{number}")),
            RegisterId::Fpsr => Register::Unavailable(String::from("fpsr")),
            RegisterId::Fpcr => Register::Unavailable(String::from("fpcr")),
            RegisterId::PointerMask(..) => Register::Unavailable(String::from("pauth_dmask")),
        })
    }
}

impl RegisterSet {
    /// Whether a register is in the hardware of the CPU on which a program runs, as its vCPU has it. What EL2 shows the
    /// guest instead of its own is not, and the hypervisor's own CPUs have their guests' there.
    fn runs_on(self, register: SysReg) -> bool {
        let is_kept_elsewhere = matches!(
            register,
            SysReg::MpidrEl1
                | SysReg::MidrEl1
                | SysReg::MdscrEl1
                | SysReg::IdAa64Mmfr0El1
                | SysReg::IdAa64Mmfr2El1
                | SysReg::IdAa64Pfr0El1
        );
        self == Self::Guest && !is_kept_elsewhere
    }
}
