//! `map …`: the maps of programs, while they run.

mod dump;
mod entry;
mod list;
mod rows;
mod slots;
mod typed;
mod value;

pub(super) use dump::COMMAND as DUMP;
pub(super) use entry::{DELETE, LOOKUP, UPDATE};
pub(super) use list::COMMAND as LIST;

use super::{Invocation, Problem, refused};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use ebpf::Object;
use ebpf::map::Map;
use probes::similar::Suggestions;

/// A map that a user has named, with the object that keeps it.
struct Chosen {
    object: Arc<Object>,
    index: usize,
}

impl Chosen {
    fn find(invocation: &Invocation<'_>, program: &str, name: &str) -> Result<Self, Problem> {
        let programs = invocation.periscope().programs();
        let object = programs.object(program).map_err(refused)?;
        let is_called = |map: &Map| map.name() == name;
        match object.maps().iter().position(is_called) {
            Some(index) => Ok(Self { object, index }),
            None => Err(Problem::Refused(no_map(program, &object, name))),
        }
    }

    fn map(&self) -> &Map {
        &self.object.maps()[self.index]
    }
}

/// Names are the user's: an object can be stored under another than its own.
fn no_map(program: &str, object: &Object, name: &str) -> String {
    let names: Vec<&str> = object.maps().iter().map(Map::name).collect();
    let there = match names.is_empty() {
        true => "none".to_string(),
        false => names.join(", "),
    };
    let mut near = Suggestions::new(name, 1);
    names.iter().for_each(|name| near.offer(name));
    let near = near.into_names();
    let hint = near.first().map(|near| format!(" Did you mean {near}?"));
    let hint = hint.unwrap_or_default();
    format!("{program} has no map {name}. It has {there}.{hint}")
}
