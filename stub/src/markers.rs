//! Static tracepoint markers (GDB manual, 13.1 "Set Tracepoints": `strace`): the hypervisor's own tracepoints, and the maps
//! through which programs put out records. GDB sees them as places, and what they say as `$_sdata`.
//!
//! They are no places in a guest's code, so their addresses are made up, where no guest has any: bits 54 to 52 of an address
//! of 48 or 52 bits are its sign. What a marker has said is collected where events come out of the rings.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use ebpf::map::MapId;
use probes::addr::Gva;
use probes::event::{EventKind, TraceEvent};
use probes::gdb_trace::{Definition, Mark, PointKind};
use probes::machine::VmId;
use probes::periscope::Periscope;
use probes::space::Space;
use probes::tracepoint::{Field, Tracepoint};

/// Where the markers of tracepoints are, by number.
const TRACEPOINTS: u64 = 0x0065_7269_7300_0000;
/// Where those of maps are.
const MAPS: u64 = 0x0065_7269_7400_0000;
/// From one to the next.
const STRIDE: u64 = 16;

/// A marker.
pub(crate) struct Marker {
    /// Where clients see it.
    pub(crate) address: Gva,
    /// `vmm:page_fault`, `opens:events`.
    pub(crate) id: String,
    /// What it says.
    pub(crate) extra: String,
}

/// All that there are.
pub(crate) fn all(periscope: &Periscope) -> Vec<Marker> {
    let points = periscope.tracer().tracepoints().iter();
    let points = points.map(|point| Marker {
        address: of_tracepoint(point.number()),
        id: point.to_string(),
        extra: describe(point),
    });
    let programs = periscope.programs();
    let maps = programs.lost_records().into_iter();
    let maps = maps.filter_map(|(map, _)| {
        Some(Marker {
            address: of_map(map),
            id: programs.map_path(map)?,
            extra: String::from("records that programs put out"),
        })
    });
    points.chain(maps).collect()
}

fn of_tracepoint(number: u32) -> Gva {
    Gva(TRACEPOINTS + STRIDE * u64::from(number))
}

fn of_map(map: MapId) -> Gva {
    Gva(MAPS + STRIDE * u64::from(map.0))
}

/// The fields of a tracepoint with their types.
fn describe(point: &Tracepoint) -> String {
    let fields = point.fields().iter();
    let fields = fields.map(|field| format!("{} {}", field.kind.name(), field.name));
    fields.collect::<Vec<_>>().join(", ")
}

/// The tracepoint at a marker.
fn tracepoint_at(periscope: &Periscope, address: Gva) -> Option<&'static Tracepoint> {
    let points = periscope.tracer().tracepoints().iter();
    let mut points = points.filter(|point| of_tracepoint(point.number()) == address);
    points.next().copied()
}

/// Switches on the tracepoints that GDB tracepoints are at. Returns those that were off.
pub(crate) fn switch_on(
    periscope: &Periscope,
    definitions: &[Definition],
) -> Vec<&'static Tracepoint> {
    let wanted = definitions
        .iter()
        .filter(|definition| definition.kind == PointKind::Marker);
    let points = wanted.filter_map(|definition| tracepoint_at(periscope, definition.id.address));
    let off: Vec<_> = points.filter(|point| !point.is_on()).collect();
    for point in &off {
        // Without a program there is none that expects another tracepoint.
        let _ = periscope.tracer().enable(point, None);
    }
    off
}

/// Lets the GDB tracepoints of all spaces that it concerns collect what an event says.
pub(crate) fn mark(periscope: &Periscope, event: &TraceEvent, text: &[u8]) {
    let marked = periscope.all_spaces().filter(|space| space.is_marked());
    for space in marked.filter(|space| concerns(space, event.vm)) {
        let (marker, line);
        let data = match event.kind {
            EventKind::Tracepoint => {
                marker = of_tracepoint(event.id);
                let point = periscope.tracer().tracepoint(event.id);
                line = values(point.map_or(&[], |point| point.fields()), event);
                line.as_bytes()
            }
            EventKind::Record => {
                marker = of_map(MapId(event.args[0] as u32));
                text
            }
            _ => return,
        };
        let mark = Mark {
            vcpu: event.vcpu,
            time_ns: event.time_ns,
            data,
        };
        space.mark(marker, &mark);
    }
}

/// Events of a VM are its own; the hypervisor sees all.
fn concerns(space: &Space, vm: VmId) -> bool {
    space.vm().is_hypervisor() || space.vm() == vm
}

/// `vector=0 class=22 pc=0xffff8000800101d4`.
fn values(fields: &[Field], event: &TraceEvent) -> String {
    let fields = fields.iter().zip(event.args);
    let shown = fields.map(|(field, value)| format!("{}={}", field.name, field.kind.show(value)));
    shown.collect::<Vec<_>>().join(" ")
}
