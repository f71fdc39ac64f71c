//! What the hypervisor's own session may ask for.
//!
//! It speaks while the physical CPUs stand. Whoever runs guests stands as well, perhaps with a lock of its VM's: a command
//! that waits for a VM would wait for ever.

use super::{Caller, Command, Problem};
use alloc::format;

/// Refuses a command that reaches into a VM, where the hypervisor's own session gives it.
pub(super) fn check(caller: &Caller, command: &Command, arguments: &[&str]) -> Result<(), Problem> {
    let Caller::Monitor { space, .. } = caller else {
        return Ok(());
    };
    let reaches_vm = command.path[0] == "vm" || arguments.iter().any(|word| names_vm(word));
    if !space.vm().is_hypervisor() || !reaches_vm {
        return Ok(());
    }
    Err(Problem::Refused(format!(
        "{command}: the VMs stand with the hypervisor. Use the shell, or a VM's own endpoint, after `continue`."
    )))
}

/// Whether a word is `vm1` or begins with `vm1:`.
fn names_vm(word: &str) -> bool {
    let name = word.split(':').next().unwrap_or(word);
    let number = name.strip_prefix("vm").unwrap_or_default();
    !number.is_empty() && number != "0" && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::names_vm;

    #[test]
    fn names_of_vms() {
        assert!(["vm1", "vm12", "vm1:vfs_read"].into_iter().all(names_vm));
        let others = [
            "vm", "vm0", "vm0:f", "hyp:vm1", "vmlinux", "vm1x", "", ":vm1",
        ];
        assert!(!others.into_iter().any(names_vm));
    }
}
