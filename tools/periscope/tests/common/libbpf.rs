//! libbpf as an oracle (`tests/libbpf/oracle.c`): what it makes of an object's programs before a
//! kernel gets them.

use super::{argument, directory};
use ebpf::insn::{Insn, LD_IMM64, PSEUDO_MAP, PSEUDO_MAP_VALUE};
use ebpf::linked::Linked;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A kernel whose types are given.
pub struct Kernel {
    /// A file with its BTF.
    pub btf: PathBuf,
    /// What `uname -r` begins with. libbpf since 1.2 would find the patch level of Debian's kernels in
    /// `uname -v`; Debian 12 has an older one.
    pub version: String,
}

/// What libbpf makes of one program.
pub struct Program {
    pub name: String,
    /// `None` where libbpf refuses it.
    pub relocated: Option<Relocated>,
}

pub struct Relocated {
    /// Names of maps by their descriptors.
    maps: HashMap<i32, String>,
    /// What maps of global data begin with.
    values: HashMap<i32, Vec<u8>>,
    insns: Vec<u8>,
}

/// Asks libbpf for each program of an object.
pub fn programs(object: &Path, kernel: &Kernel) -> Vec<Program> {
    let output = Command::new(oracle())
        .args([argument(object), argument(&kernel.btf), &kernel.version])
        .output()
        .expect("the oracle was just compiled");
    assert!(output.status.success(), "{object:?}: {:?}", output.status);
    let text = String::from_utf8(output.stdout).expect("it prints ASCII");
    let mut programs = Vec::new();
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "program" {
            programs.push(Program {
                name: rest.into(),
                relocated: Some(Relocated {
                    maps: HashMap::new(),
                    values: HashMap::new(),
                    insns: Vec::new(),
                }),
            });
            continue;
        }
        let program = programs.last_mut().expect("the object should be accepted");
        if word == "refused" {
            program.relocated = None;
        }
        let Some(relocated) = &mut program.relocated else {
            continue;
        };
        let numbered = || {
            let (fd, rest) = rest.split_once(' ').expect("a number and more");
            (fd.parse().expect("a number"), rest)
        };
        match word {
            "map" => {
                let (fd, name) = numbered();
                relocated.maps.insert(fd, name.into());
            }
            "value" => {
                let (fd, value) = numbered();
                relocated.values.insert(fd, bytes(value));
            }
            "insns" => relocated.insns = bytes(rest),
            _ => panic!("{line:?}"),
        }
    }
    programs
}

fn bytes(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let bytes = digits.map(byte).collect::<Option<_>>();
    bytes.expect("hexadecimal digits")
}

impl Relocated {
    /// Compares with a program that we have linked: every instruction, and what the maps begin with
    /// that it refers to.
    pub fn assert_same(&self, linked: &Linked, name: &str) {
        let program = linked.programs.iter().find(|program| program.name == name);
        let program = program.unwrap_or_else(|| panic!("{name} should be linked"));
        let (chunks, _) = self.insns.as_chunks::<{ Insn::SIZE }>();
        let mut expected: Vec<_> = chunks.iter().map(|&chunk| Insn::decode(chunk)).collect();
        let mut at = 0;
        while let Some(insn) = expected.get_mut(at) {
            let is_wide = insn.code == LD_IMM64;
            if is_wide && matches!(insn.src, PSEUDO_MAP | PSEUDO_MAP_VALUE) {
                insn.imm = self.index(insn.imm, linked);
            }
            at += if is_wide { 2 } else { 1 };
        }
        for (at, (ours, theirs)) in program.insns.iter().zip(&expected).enumerate() {
            assert_eq!(ours, theirs, "{} {name}, instruction {at}", linked.name);
        }
        assert_eq!(program.insns.len(), expected.len(), "{name}");
    }

    /// Our number of a map that libbpf refers to by a descriptor.
    fn index(&self, fd: i32, linked: &Linked) -> i32 {
        let name = &self.maps[&fd];
        // libbpf puts the object's name before those of global data.
        let name = &name[name.find('.').unwrap_or(0)..];
        let index = linked.maps.iter().position(|map| map.name == name);
        let index = index.unwrap_or_else(|| panic!("{} should have a map {name}", linked.name));
        if let Some(value) = self.values.get(&fd) {
            let ours = &linked.maps[index].initial;
            let is_zero = ours.is_empty() && value.iter().all(|&byte| byte == 0);
            assert!(is_zero || ours == value, "{}: {name}", linked.name);
        }
        index as i32
    }
}

/// The program, compiled once.
fn oracle() -> &'static Path {
    static ORACLE: OnceLock<PathBuf> = OnceLock::new();
    ORACLE.get_or_init(|| {
        let output = directory("libbpf").join(format!("oracle-{}", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libbpf/oracle.c");
        let status = Command::new("cc")
            .args(["-Wall", "-Werror", "-O1", "-o"])
            .args([&output, &source])
            .arg("-lbpf")
            .status()
            .expect("a C compiler should be installed");
        assert!(status.success(), "libbpf-dev should be installed");
        output
    })
}
