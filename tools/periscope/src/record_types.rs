//! Which types records may be, by their names: no definition of a map says what comes through it.

use ebpf::btf::{Btf, Kind, Type};
use std::collections::HashSet;

/// The structures of `btf` that are called as records are, each with how well its name fits: 0 is best. Those that the
/// kernel has too are its own.
pub(crate) fn named_as_records(btf: &Btf<'_>, kernel: Option<&Btf<'_>>) -> Vec<(u8, u32)> {
    let is_struct = |(_, ty): &(u32, Type<'_>)| ty.kind == Kind::Struct;
    let named: Vec<_> = btf
        .types()
        .filter(is_struct)
        .filter_map(|(id, ty)| {
            let name = btf.string(ty.name);
            Some((rank(str::from_utf8(name).ok()?)?, id, name))
        })
        .collect();
    if named.is_empty() {
        // Nobody need look through the kernel's.
        return Vec::new();
    }
    let kernels: HashSet<&[u8]> = kernel
        .into_iter()
        .flat_map(|kernel| {
            kernel
                .types()
                .filter(is_struct)
                .map(|(_, ty)| kernel.string(ty.name))
        })
        .collect();
    let own = named
        .into_iter()
        .filter(|(_, _, name)| !kernels.contains(name));
    own.map(|(rank, id, _)| (rank, id)).collect()
}

/// How well a name fits a record; `None` where it does not.
fn rank(name: &str) -> Option<u8> {
    match name {
        "event" => Some(0),
        "event_t" | "data_t" => Some(1),
        _ if ["_event", "_event_t", "_data_t"]
            .iter()
            .any(|end| name.ends_with(end)) =>
        {
            Some(2)
        }
        _ => None,
    }
}
