//! The eBPF objects in the executables of Debian's package `libbpf-tools`, built for arm64.

use super::directory;
use std::fs;
use std::path::{Path, PathBuf};

/// The ELF header of an eBPF object: 64 bits, little-endian, version 1.
const MAGIC: &[u8] = b"\x7fELF\x02\x01\x01";
const EM_BPF: u16 = 247;

/// Takes the object out of every tool. The directory is that of the unpacked package.
pub fn objects(package: &Path) -> Vec<PathBuf> {
    let tools = fs::read_dir(package.join("usr/sbin")).expect("the package has tools");
    let output = directory("tools");
    let mut objects = Vec::new();
    for tool in tools {
        let tool = tool.expect("the directory should be readable");
        // Some tools are another one by a second name.
        if tool.file_type().is_ok_and(|kind| !kind.is_file()) {
            continue;
        }
        let bytes = fs::read(tool.path()).expect("tools are readable");
        let name = tool.file_name().to_string_lossy().into_owned();
        for object in embedded(&bytes) {
            let name = name.trim_end_matches("-libbpf");
            let path = output.join(format!("{name}.bpf.o"));
            fs::write(&path, object).expect("the directory should be writable");
            objects.push(path);
        }
    }
    objects.sort();
    objects
}

/// eBPF objects somewhere in an executable. An object's section headers are its end.
fn embedded(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let places = bytes.windows(MAGIC.len()).enumerate();
    places.filter_map(|(at, window)| {
        let object = bytes.get(at..).filter(|_| window == MAGIC)?;
        let half = |at: usize| Some(u16::from_le_bytes(*object.get(at..)?.first_chunk()?));
        let headers = u64::from_le_bytes(*object.get(40..)?.first_chunk()?) as usize;
        let length = usize::from(half(58)?) * usize::from(half(60)?);
        object
            .get(..headers + length)
            .filter(|_| half(18) == Some(EM_BPF))
    })
}
