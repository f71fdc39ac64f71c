//! The helpers that say something of the guest's current task: `get_current_…`
//! (`kernel/bpf/helpers.c`, `kernel/bpf/cgroup.c`). Where the guest is no Linux whose types are known they say what
//! Linux says where there is no task: `-EINVAL`.

use super::EINVAL;
use super::read::Target;
use crate::host::Host;
use crate::object::RunFault;
use crate::run::Run;
use crate::task::TaskFields;

/// The guest's current task, and where its fields are.
struct Current<'a> {
    host: &'a dyn Host,
    task: u64,
    fields: TaskFields,
}

impl<'a> Current<'a> {
    fn of(host: &'a dyn Host) -> Option<Self> {
        Some(Self {
            host,
            task: host.current()?,
            fields: host.task_fields()?,
        })
    }

    fn bytes<const N: usize>(&self, base: u64, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let address = base.checked_add(offset.into())?;
        self.host.read_guest(address, &mut bytes).ok()?;
        Some(bytes)
    }

    fn number(&self, base: u64, offset: u32) -> Option<u64> {
        self.bytes(base, offset)
            .map(|bytes| u32::from_le_bytes(bytes).into())
    }

    fn pointer(&self, base: u64, offset: u32) -> Option<u64> {
        self.bytes(base, offset).map(u64::from_le_bytes)
    }

    fn pid_tgid(&self) -> Option<u64> {
        let pid = self.number(self.task, self.fields.pid)?;
        let tgid = self.number(self.task, self.fields.tgid)?;
        Some(tgid << 32 | pid)
    }

    fn uid_gid(&self) -> Option<u64> {
        let cred = self.pointer(self.task, self.fields.cred)?;
        let uid = self.number(cred, self.fields.uid)?;
        let gid = self.number(cred, self.fields.gid)?;
        Some(gid << 32 | uid)
    }

    fn cgroup_id(&self) -> Option<u64> {
        let fields = self.fields.cgroup?;
        let set = self.pointer(self.task, fields.cgroups)?;
        let cgroup = self.pointer(set, fields.dfl_cgrp)?;
        let node = self.pointer(cgroup, fields.kn)?;
        self.pointer(node, fields.id)
    }
}

/// `u64 get_current_pid_tgid()`: the process above, the thread below.
pub(super) fn pid_tgid(host: &dyn Host) -> u64 {
    let current = Current::of(host);
    current.and_then(|task| task.pid_tgid()).unwrap_or(EINVAL)
}

/// `u64 get_current_uid_gid()`: the group above, the user below, both as the initial user namespace has them.
pub(super) fn uid_gid(host: &dyn Host) -> u64 {
    let current = Current::of(host);
    current.and_then(|task| task.uid_gid()).unwrap_or(EINVAL)
}

/// `u64 get_current_cgroup_id()`: the inode number of the group's directory; 0 where there are none.
pub(super) fn cgroup_id(host: &dyn Host) -> u64 {
    let current = Current::of(host);
    current.and_then(|task| task.cgroup_id()).unwrap_or(0)
}

/// `long get_current_comm(target, size)`: 0, or `-EINVAL` and zeros. The name is padded with zeros, and cut so that
/// one is left.
pub(super) fn comm(run: &mut Run<'_>, target: u64, size: u64) -> Result<u64, RunFault> {
    let target = Target::check(run, target, size)?;
    let current = Current::of(run.host);
    let comm = current.and_then(|current| {
        current.bytes::<{ TaskFields::COMM }>(current.task, current.fields.comm)
    });
    let Some(comm) = comm else {
        return target.zero(run).map(|()| EINVAL);
    };
    let end = comm.iter().position(|&byte| byte == 0);
    let longest = target.size.saturating_sub(1).min(TaskFields::COMM);
    let length = end.unwrap_or(TaskFields::COMM).min(longest);
    target.write(run, 0, &comm[..length])?;
    target.zero_from(run, length)?;
    Ok(0)
}

#[cfg(test)]
mod tests;
