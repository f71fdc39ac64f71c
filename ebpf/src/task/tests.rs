use super::*;
use crate::btf::tests::btf;
use alloc::vec::Vec;

/// Types as a compiler writes them, of structures only.
struct Types {
    records: Vec<u32>,
    strings: Vec<u8>,
    count: u32,
}

impl Types {
    fn new() -> Self {
        Self {
            records: Vec::new(),
            strings: [0].to_vec(),
            count: 0,
        }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        at
    }

    /// Members are a name, an offset in bits, and the number of a type. Returns the structure's number.
    fn structure(&mut self, name: &str, members: &[(&str, u32, u32)]) -> u32 {
        let name = self.name(name);
        let info = (Kind::Struct as u32) << 24 | members.len() as u32;
        self.records.extend([name, info, 0x1000]);
        for &(name, offset, ty) in members {
            let name = self.name(name);
            self.records.extend([name, ty, offset]);
        }
        self.count += 1;
        self.count
    }

    fn fields(&self) -> Result<TaskFields, NoField> {
        let bytes = btf(&self.records, &self.strings);
        TaskFields::find(&Btf::parse(&bytes).expect("well-made types"))
    }
}

/// Offsets that no kernel has.
fn kernel() -> Types {
    let mut types = Types::new();
    types.structure("cred", &[("gid", 8 * 0x24, 0), ("uid", 8 * 0x14, 0)]);
    let inner = types.structure("", &[("comm", 8 * 0x8, 0), ("stack", 8 * 0x18, 0)]);
    let outer = types.structure("", &[("", 8 * 0x10, inner)]);
    let members = [
        ("pid", 8 * 0x100, 0),
        ("tgid", 8 * 0x104, 0),
        ("", 8 * 0x300, outer),
        ("cred", 8 * 0x208, 0),
        ("cgroups", 8 * 0x400, 0),
    ];
    types.structure("task_struct", &members);
    types
}

#[test]
fn fields_are_found_also_in_unnamed_structures() {
    let expected = TaskFields {
        pid: 0x100,
        tgid: 0x104,
        comm: 0x318,
        cred: 0x208,
        uid: 0x14,
        gid: 0x24,
        stack: 0x328,
        cgroup: None,
    };
    assert_eq!(kernel().fields(), Ok(expected));
}

#[test]
fn control_groups_are_found_where_there_are_any() {
    let mut types = kernel();
    types.structure("css_set", &[("dfl_cgrp", 8 * 0x30, 0)]);
    types.structure("cgroup", &[("self", 0, 0), ("kn", 8 * 0x50, 0)]);
    types.structure("kernfs_node", &[("id", 8 * 0x60, 0)]);
    let expected = CgroupFields {
        cgroups: 0x400,
        dfl_cgrp: 0x30,
        kn: 0x50,
        id: 0x60,
    };
    let fields = types.fields().expect("all fields are there");
    assert_eq!(fields.cgroup, Some(expected));
}

#[test]
fn what_is_missing_is_named() {
    let named = |types: &Types| types.fields().map_err(|error| error.name);
    let mut types = Types::new();
    assert_eq!(named(&types), Err("task_struct".into()));
    types.structure("cred", &[("uid", 0, 0), ("gid", 32, 0)]);
    // A bit field is no number of 32 bits.
    types.structure("task_struct", &[("pid", 3, 0)]);
    assert_eq!(named(&types), Err("task_struct.pid".into()));
}

#[test]
fn a_structure_in_itself_ends() {
    let mut types = Types::new();
    types.structure("cred", &[("uid", 0, 0), ("gid", 32, 0)]);
    types.structure("task_struct", &[("", 0, 2)]);
    assert!(types.fields().is_err());
}
