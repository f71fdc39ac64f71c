//! `bpf_core_type_matches()`: whether the kernel has all that the object says of a type.

use super::essential;
use super::work::Work;
use anyhow::{Context, Result, ensure};
use ebpf::btf::{Btf, Int, Kind, Type};

/// How deep types are compared.
const MAX_DEPTH: u32 = 32;

/// Whether a structure is reached through a pointer: then only its name counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    Directly,
    ByPointer,
}

/// Whether a type of the kernel matches one of the object: `bpf_core_types_match()`.
pub(super) fn types(
    local: &Btf<'_>,
    local_id: u32,
    kernel: &Btf<'_>,
    kernel_id: u32,
    work: &Work,
) -> Result<bool> {
    let pair = Pair {
        local,
        kernel,
        work,
    };
    pair.types(local_id, kernel_id, Reached::Directly, MAX_DEPTH)
}

struct Pair<'p, 'a> {
    local: &'p Btf<'a>,
    kernel: &'p Btf<'a>,
    work: &'p Work,
}

impl Pair<'_, '_> {
    fn names(&self, local: u32, kernel: u32) -> Result<bool> {
        let local = self.work.name(self.local, local)?;
        let kernel = self.work.name(self.kernel, kernel)?;
        Ok(essential(local) == essential(kernel))
    }

    fn types(
        &self,
        mut local_id: u32,
        mut kernel_id: u32,
        mut reached: Reached,
        depth: u32,
    ) -> Result<bool> {
        ensure!(depth > 0, "types that are nested too deep");
        for _ in 0..MAX_DEPTH {
            let (_, left) = self.local.resolve(local_id).context("an endless type")?;
            let (_, right) = self.kernel.resolve(kernel_id).context("an endless type")?;
            if !self.names(left.name, right.name)? {
                return Ok(false);
            }
            let is_same = left.kind == right.kind;
            (local_id, kernel_id) = (left.size_or_type, right.size_or_type);
            match left.kind {
                Kind::Void => return Ok(is_same),
                Kind::Fwd => return Ok(declaration(&left, &right, reached)),
                Kind::Enum | Kind::Enum64 => return self.enumerations(&left, &right),
                Kind::Struct | Kind::Union if reached == Reached::ByPointer => {
                    let is_declared =
                        right.kind == Kind::Fwd && (left.kind == Kind::Union) == right.flag;
                    return Ok(is_same || is_declared);
                }
                Kind::Struct | Kind::Union => {
                    return Ok(is_same && self.composites(&left, &right, depth)?);
                }
                Kind::Int => return Ok(is_same && integers(&left, &right)),
                _ if !is_same => return Ok(false),
                Kind::Ptr => reached = Reached::ByPointer,
                Kind::Array => {
                    let arrays = left.array().zip(right.array());
                    let (left, right) = arrays.context("an array without a dimension")?;
                    if left.count != right.count {
                        return Ok(false);
                    }
                    (local_id, kernel_id) = (left.element, right.element);
                }
                Kind::FuncProto => {
                    if left.len() != right.len() {
                        return Ok(false);
                    }
                    for (left, right) in left.parameters().zip(right.parameters()) {
                        if !self.types(left.ty, right.ty, reached, depth - 1)? {
                            return Ok(false);
                        }
                    }
                }
                _ => return Ok(false),
            }
        }
        anyhow::bail!("types that are nested too deep")
    }

    /// Every name of the object's enumeration is in the kernel's.
    fn enumerations(&self, local: &Type<'_>, kernel: &Type<'_>) -> Result<bool> {
        let fits = kernel.kind.is_enum()
            && local.size_or_type == kernel.size_or_type
            && local.len() <= kernel.len();
        if !fits {
            return Ok(false);
        }
        for wanted in local.enumerators() {
            let mut is_there = false;
            for one in kernel.enumerators() {
                if self.names(wanted.name, one.name)? {
                    is_there = true;
                    break;
                }
            }
            if !is_there {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Every member of the object's structure is in the kernel's, with a type that matches.
    fn composites(&self, local: &Type<'_>, kernel: &Type<'_>, depth: u32) -> Result<bool> {
        if local.len() > kernel.len() {
            return Ok(false);
        }
        for wanted in local.members() {
            let mut is_there = false;
            for one in kernel.members() {
                if self.names(wanted.name, one.name)?
                    && self.types(wanted.ty, one.ty, Reached::Directly, depth - 1)?
                {
                    is_there = true;
                    break;
                }
            }
            if !is_there {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What a declaration without members matches. Its flag says that it is a union.
fn declaration(local: &Type<'_>, kernel: &Type<'_>, reached: Reached) -> bool {
    match kernel.kind {
        Kind::Fwd => local.flag == kernel.flag,
        Kind::Struct => reached == Reached::ByPointer && !local.flag,
        Kind::Union => reached == Reached::ByPointer && local.flag,
        _ => false,
    }
}

fn integers(local: &Type<'_>, kernel: &Type<'_>) -> bool {
    let is_signed = |ty: &Type<'_>| ty.int().map(|int| int.encoding & Int::SIGNED);
    local.size_or_type == kernel.size_or_type && is_signed(local) == is_signed(kernel)
}
