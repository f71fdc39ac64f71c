//! What a client that comes to a trace run finds defined: `qTfP`, `qTsP`, `qTfV`, `qTsV`.

use super::Session;
use super::status::hex;
use crate::packet::hex_encode;
use crate::packet::request::tracing::{Listed, spell};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use probes::gdb_trace::{Definition, Origin, PointKind, PointStatus, Switch, VariableDefinition};

/// The packets of a listing that the client has not asked for yet.
pub(in crate::session) type Listing = VecDeque<Vec<u8>>;

impl Session {
    /// The first piece. All of them are made now: what is defined may change before the client asks for the last.
    pub(super) fn list_first(&mut self, listed: Listed) {
        self.tracer.listing = match listed {
            Listed::Points => {
                let experiment = self.space.experiment();
                let points = experiment.definitions().iter();
                let told = points.flat_map(|definition| {
                    let status = experiment.point_status(definition.id);
                    point(definition, status.unwrap_or_default())
                });
                told.collect()
            }
            Listed::Variables => {
                let variables = self.space.experiment().variables();
                variables.iter().map(variable).collect()
            }
            Listed::Markers => self.marker_pieces(),
        };
        self.list_next();
    }

    /// The next piece, or `l`: there are no more.
    pub(super) fn list_next(&mut self) {
        let piece = self.tracer.listing.pop_front();
        self.reply(&piece.unwrap_or_else(|| b"l".to_vec()));
    }
}

/// The pieces of a tracepoint.
fn point(definition: &Definition, status: PointStatus) -> Vec<Vec<u8>> {
    let id = definition.id;
    let place = format!("{:x}:{:x}", id.number, id.address.0);
    let switch = match definition.switch {
        Switch::Enabled => 'E',
        Switch::Disabled => 'D',
    };
    let (steps, passes) = (definition.steps, definition.passes);
    let mut head = format!("T{place}:{switch}:{steps:x}:{passes:x}").into_bytes();
    if definition.kind == PointKind::Marker {
        head.extend(b":S");
    }
    if let Some(condition) = &definition.condition {
        head.extend(format!(":X{:x},", condition.len()).bytes());
        hex_encode(condition, &mut head);
    }
    let mut pieces = Vec::from([head]);
    for saying in &definition.sayings {
        let (kind, text) = spell(saying);
        let mut piece = format!("{kind}{place}:").into_bytes();
        piece.extend_from_slice(text);
        pieces.push(piece);
    }
    let PointStatus { hits, usage } = status;
    pieces.push(format!("V{place}:{hits:x}:{usage:x}").into_bytes());
    pieces
}

fn variable(variable: &VariableDefinition) -> Vec<u8> {
    let builtin = match variable.origin {
        Origin::Client => 0,
        Origin::Target => 1,
    };
    let (number, initial): (u32, u64) = (variable.number, variable.initial as u64);
    let name: String = hex(&variable.name);
    format!("{number:x}:{initial:x}:{builtin}:{name}").into_bytes()
}
