//! The helpers that say where a program runs, as only a hypervisor knows it: `get_vm_id`, `get_vcpu_id`,
//! `get_exit_reason`, `get_tracepoint_name`.

use super::EINVAL;
use super::read::Target;
use crate::object::RunFault;
use crate::run::Run;

/// `long get_tracepoint_name(target, size)`: 0, or `-EINVAL` and zeros at no tracepoint. The name is `group:name`, padded
/// with zeros and cut so that one is left.
pub(super) fn tracepoint_name(run: &mut Run<'_>, target: u64, size: u64) -> Result<u64, RunFault> {
    let target = Target::check(run, target, size)?;
    let Some((group, name)) = run.host.tracepoint() else {
        return target.zero(run).map(|()| EINVAL);
    };
    let mut room = target.size.saturating_sub(1);
    let mut done = 0;
    for part in [group, ":", name] {
        let part = &part.as_bytes()[..part.len().min(room)];
        target.write(run, done, part)?;
        done += part.len();
        room -= part.len();
    }
    target.zero_from(run, done)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use crate::asm::reg::{FP, R0, R1, R2};
    use crate::asm::{alu_imm, call, exit, jump_imm, load, mov, mov_imm, store_imm};
    use crate::helper::Helper;
    use crate::insn::{alu, jmp};
    use crate::testing::{self, FakeHost, context};

    /// What the helper returns if it is an error, and the first 8 bytes of its target otherwise.
    fn name(size: i32, tracepoint: Option<(&'static str, &'static str)>) -> [u8; 8] {
        let insns = [
            store_imm(FP, -16, -1),
            store_imm(FP, -8, -1),
            mov(R1, FP),
            alu_imm(alu::ADD, R1, -16),
            mov_imm(R2, size),
            call(Helper::GetTracepointName),
            jump_imm(jmp::JNE, R0, 0, 1),
            load(R0, FP, -16),
            exit(),
        ];
        let mut host = FakeHost::new();
        host.tracepoint = tracepoint;
        let object = testing::load(&insns, &[]);
        let result = object.programs()[0].run(&context(), &host);
        result.expect("these do not fail").to_le_bytes()
    }

    #[test]
    fn a_tracepoint_has_a_name() {
        let point = Some(("psci", "on"));
        assert_eq!(&name(16, point), b"psci:on\0");
        assert_eq!(&name(8, point), b"psci:on\0");
        assert_eq!(&name(6, point), b"psci:\0\xff\xff");
        assert_eq!(&name(3, point), b"ps\0\xff\xff\xff\xff\xff");
        assert_eq!(name(16, None), super::EINVAL.to_le_bytes());
    }

    #[test]
    fn the_place_is_the_machines() {
        let host = FakeHost::new();
        for (helper, expected) in [
            (Helper::GetVmId, 1),
            (Helper::GetVcpuId, 2),
            (Helper::GetExitReason, 0x5a00_4000),
        ] {
            let object = testing::load(&[call(helper), exit()], &[]);
            assert_eq!(object.programs()[0].run(&context(), &host), Ok(expected));
        }
    }
}
