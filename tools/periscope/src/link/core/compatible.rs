//! Which types of the kernel may stand for one of the object, for relocations of fields and types.

use super::work::Work;
use super::{essential, same_kind};
use anyhow::{Context, Result, ensure};
use ebpf::btf::{Btf, Int, Kind, Type};

/// How deep types are compared.
const MAX_DEPTH: u32 = 32;

fn resolve<'a>(btf: &Btf<'a>, id: u32) -> Result<(u32, Type<'a>)> {
    btf.resolve(id).context("an endless type")
}

/// Integers as compilers of today write them all are.
fn is_plain(int: Option<Int>) -> bool {
    int.is_some_and(|int| int.offset == 0)
}

/// Whether a field may stand for another: `bpf_core_fields_are_compat()`.
pub(super) fn fields(
    local: &Btf<'_>,
    mut local_id: u32,
    kernel: &Btf<'_>,
    mut kernel_id: u32,
    work: &Work,
) -> Result<bool> {
    for _ in 0..MAX_DEPTH {
        let (_, left) = resolve(local, local_id)?;
        let (_, right) = resolve(kernel, kernel_id)?;
        if left.kind.is_composite() && right.kind.is_composite() {
            return Ok(true);
        }
        if !same_kind(left.kind, right.kind) {
            return Ok(false);
        }
        if let (Some(left), Some(right)) = (left.array(), right.array()) {
            (local_id, kernel_id) = (left.element, right.element);
            continue;
        }
        return Ok(match left.kind {
            Kind::Ptr | Kind::Float => true,
            Kind::Fwd | Kind::Enum | Kind::Enum64 => {
                let left = essential(work.name(local, left.name)?);
                let right = essential(work.name(kernel, right.name)?);
                left.is_empty() || right.is_empty() || left == right
            }
            Kind::Int => is_plain(left.int()) && is_plain(right.int()),
            _ => false,
        });
    }
    Ok(false)
}

/// Whether a type may stand for another of the same name: `bpf_core_types_are_compat()`.
pub(super) fn types(
    local: &Btf<'_>,
    local_id: u32,
    kernel: &Btf<'_>,
    kernel_id: u32,
    work: &Work,
) -> Result<bool> {
    let left = local.ty(local_id).context("a type that is not there")?;
    let right = kernel.ty(kernel_id).context("a type that is not there")?;
    if !same_kind(left.kind, right.kind) {
        return Ok(false);
    }
    let pair = Pair {
        local,
        kernel,
        work,
    };
    pair.nested(local_id, kernel_id, MAX_DEPTH)
}

struct Pair<'p, 'a> {
    local: &'p Btf<'a>,
    kernel: &'p Btf<'a>,
    work: &'p Work,
}

impl Pair<'_, '_> {
    fn nested(&self, mut local_id: u32, mut kernel_id: u32, depth: u32) -> Result<bool> {
        ensure!(depth > 0, "types that are nested too deep");
        for _ in 0..MAX_DEPTH {
            self.work.spend(1)?;
            let (_, left) = resolve(self.local, local_id)?;
            let (_, right) = resolve(self.kernel, kernel_id)?;
            if !same_kind(left.kind, right.kind) {
                return Ok(false);
            }
            match left.kind {
                Kind::Void | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Fwd => {
                    return Ok(true);
                }
                Kind::Int => return Ok(is_plain(left.int()) && is_plain(right.int())),
                Kind::Ptr => {}
                Kind::Array => {
                    let arrays = left.array().zip(right.array());
                    let (left, right) = arrays.context("an array without a dimension")?;
                    (local_id, kernel_id) = (left.element, right.element);
                    continue;
                }
                Kind::FuncProto => {
                    if left.len() != right.len() {
                        return Ok(false);
                    }
                    for (left, right) in left.parameters().zip(right.parameters()) {
                        if !self.nested(left.ty, right.ty, depth - 1)? {
                            return Ok(false);
                        }
                    }
                }
                _ => return Ok(false),
            }
            (local_id, kernel_id) = (left.size_or_type, right.size_or_type);
        }
        anyhow::bail!("types that are nested too deep")
    }
}
