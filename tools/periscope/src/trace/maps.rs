//! What the maps hold, at the end.

use super::door::Door;
use super::printer::Format;
use anyhow::Result;
use ebpf::btf::{Btf, Kind};
use ebpf::linked::Linked;
use ebpf::map::{MapKind, Mutability};
use std::io::Write;

/// Shows the maps of an object that keep something, as the hypervisor shows them.
pub(super) fn write(
    door: &mut Door,
    object: &str,
    linked: &Linked,
    format: Format,
    out: &mut impl Write,
) -> Result<()> {
    for (index, map) in linked.maps.iter().enumerate() {
        let passes = matches!(
            map.kind,
            MapKind::PerfEventArray | MapKind::RingBuf | MapKind::CgroupArray
        );
        if passes || map.mutability == Mutability::Frozen {
            continue;
        }
        let name = &map.name;
        let command = format!("map dump {object} {name}");
        match format {
            Format::Json => {
                for mut row in door.ask(&command)? {
                    if let Some(fields) = row.as_object_mut() {
                        fields.insert("map".into(), name.as_str().into());
                    }
                    writeln!(out, "{row}")?;
                }
            }
            Format::Text => {
                let hist = if counts_slots(linked, index) {
                    " --hist"
                } else {
                    ""
                };
                write!(
                    out,
                    "\nmap {name}:\n{}",
                    door.say(&format!("{command}{hist}"))?
                )?;
            }
        }
    }
    Ok(out.flush()?)
}

/// Whether the values of a map are histograms: structures with slots, as libbpf's tools have them.
fn counts_slots(linked: &Linked, map: usize) -> bool {
    let value = linked.map_types(map).value;
    let slots = Btf::parse(&linked.types.btf).ok().and_then(|btf| {
        let (_, ty) = btf
            .resolve(value)
            .filter(|(_, ty)| ty.kind == Kind::Struct)?;
        let mut members = ty.members();
        members.find(|member| btf.string(member.name) == b"slots")
    });
    slots.is_some()
}
