//! Where a guest's Linux keeps what helpers say of the current task. It differs from kernel to
//! kernel, and the kernel's own types ([`crate::btf`]) tell.

use crate::btf::{Btf, Kind, Member, Type};
use alloc::string::String;
use core::fmt;

/// Unnamed structures in each other, at most. `task_struct` has three (`randomized_struct_fields`).
const MAX_NESTED: usize = 8;

/// Offsets in bytes, each in the structure that its comment names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskFields {
    /// `task_struct.pid`, a `pid_t`: what user space calls a thread.
    pub(crate) pid: u32,
    /// `task_struct.tgid`, a `pid_t`: what user space calls a process.
    pub(crate) tgid: u32,
    /// `task_struct.comm`, 16 bytes of name.
    pub(crate) comm: u32,
    /// `task_struct.cred`, a pointer.
    pub(crate) cred: u32,
    /// `cred.uid`, a `kuid_t`.
    pub(crate) uid: u32,
    /// `cred.gid`, a `kgid_t`.
    pub(crate) gid: u32,
    /// `task_struct.stack`, a pointer to the kernel's stack of the task.
    pub(crate) stack: u32,
    /// How to get to the control group, where the kernel has any.
    pub(crate) cgroup: Option<CgroupFields>,
}

/// The way from a task to the number of its control group in the unified hierarchy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CgroupFields {
    /// `task_struct.cgroups`, a pointer to a `css_set`.
    pub(crate) cgroups: u32,
    /// `css_set.dfl_cgrp`, a pointer to a `cgroup`.
    pub(crate) dfl_cgrp: u32,
    /// `cgroup.kn`, a pointer to a `kernfs_node`.
    pub(crate) kn: u32,
    /// `kernfs_node.id`, 64 bits.
    pub(crate) id: u32,
}

/// The kernel's types have no such field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoField {
    /// `struct.field`.
    pub name: String,
}

impl fmt::Display for NoField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel's types have no {}", self.name)
    }
}

impl core::error::Error for NoField {}

impl TaskFields {
    /// Bytes of `task_struct.comm` (`TASK_COMM_LEN`, `include/linux/sched.h`).
    pub const COMM: usize = 16;

    /// Finds them in the types of a kernel.
    pub fn find(kernel: &Btf<'_>) -> Result<Self, NoField> {
        let task = Structure::find(kernel, "task_struct")?;
        let cred = Structure::find(kernel, "cred")?;
        Ok(Self {
            pid: task.offset("pid")?,
            tgid: task.offset("tgid")?,
            comm: task.offset("comm")?,
            cred: task.offset("cred")?,
            uid: cred.offset("uid")?,
            gid: cred.offset("gid")?,
            stack: task.offset("stack")?,
            cgroup: CgroupFields::find(kernel, &task).ok(),
        })
    }
}

impl CgroupFields {
    fn find(kernel: &Btf<'_>, task: &Structure<'_>) -> Result<Self, NoField> {
        let cgroups = task.offset("cgroups")?;
        Ok(Self {
            cgroups,
            dfl_cgrp: Structure::find(kernel, "css_set")?.offset("dfl_cgrp")?,
            kn: Structure::find(kernel, "cgroup")?.offset("kn")?,
            id: Structure::find(kernel, "kernfs_node")?.offset("id")?,
        })
    }
}

/// A structure of the kernel's.
struct Structure<'a> {
    kernel: &'a Btf<'a>,
    name: &'a str,
    ty: Type<'a>,
}

impl<'a> Structure<'a> {
    fn find(kernel: &'a Btf<'a>, name: &'a str) -> Result<Self, NoField> {
        let mut types = kernel.types().map(|(_, ty)| ty);
        let is_it =
            |ty: &Type<'_>| ty.kind == Kind::Struct && kernel.string(ty.name) == name.as_bytes();
        match types.find(is_it) {
            Some(ty) => Ok(Self { kernel, name, ty }),
            None => Err(NoField { name: name.into() }),
        }
    }

    /// The offset of a field in bytes.
    fn offset(&self, field: &str) -> Result<u32, NoField> {
        let bits = self.bits_to(&self.ty, field, 0);
        let bytes = bits.filter(|bits| bits.is_multiple_of(8));
        bytes.map(|bits| bits / 8).ok_or_else(|| NoField {
            name: alloc::format!("{}.{field}", self.name),
        })
    }

    /// Bits to a field, also one of a structure without a name inside this one.
    fn bits_to(&self, ty: &Type<'a>, field: &str, depth: usize) -> Option<u32> {
        let is_it = |member: &Member| self.kernel.string(member.name) == field.as_bytes();
        if let Some(member) = ty.members().find(is_it) {
            return Some(member.bit_offset);
        }
        if depth == MAX_NESTED {
            return None;
        }
        let unnamed = ty.members().filter(|member| member.name == 0);
        unnamed.into_iter().find_map(|member| {
            let (_, inner) = self.kernel.resolve(member.ty)?;
            let inside = self.bits_to(&inner, field, depth + 1)?;
            inside.checked_add(member.bit_offset)
        })
    }
}

#[cfg(test)]
mod tests;
