//! QEMU as an oracle for unit tests: small programs of ours run bare on a CPU that is not ours.

extern crate std;

use alloc::vec::Vec;
use core::time::Duration;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, format, fs, process};

/// How long a program may run.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Assembles a source of this crate and takes the code out of the object: it must need no linker.
pub(crate) fn assemble(source: &str) -> Vec<u8> {
    let scratch = Scratch::new();
    let object = scratch.0.join("object");
    let status = Command::new("clang")
        .args(["--target=aarch64-none-elf", "-march=armv8.2-a", "-c", "-o"])
        .args([&object, &Path::new(env!("CARGO_MANIFEST_DIR")).join(source)])
        .status();
    assert!(status.expect("clang is needed").success());
    text_section(&fs::read(object).unwrap())
}

/// The executable section of an ELF object of 64 bits.
fn text_section(elf: &[u8]) -> Vec<u8> {
    const SHF_EXECINSTR: u64 = 4;
    let u64_at = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
    let u16_at = |at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().unwrap());
    let sections = u64_at(0x28) as usize;
    let (entry_size, count) = (u16_at(0x3a) as usize, u16_at(0x3c) as usize);
    let header = (0..count)
        .map(|index| sections + index * entry_size)
        .find(|header| u64_at(header + 8) & SHF_EXECINSTR != 0)
        .expect("a section of code");
    let offset = u64_at(header + 0x18) as usize;
    let size = u64_at(header + 0x20) as usize;
    elf[offset..offset + size].to_vec()
}

/// Runs an image, loaded and entered at `address`, on the machine `virt` with 128 MiB of memory
/// until it switches the machine off; gives what it sent by the PL011.
pub(crate) fn run(arguments: &[&str], address: u64, image: &[u8]) -> Vec<u8> {
    let scratch = Scratch::new();
    let (blob, output) = (scratch.0.join("image"), scratch.0.join("output"));
    fs::write(&blob, image).unwrap();
    let load = format!(
        "loader,file={},addr={address:#x},force-raw=on",
        blob.display()
    );
    let mut qemu = Command::new("qemu-system-aarch64")
        .args(["-M", "virt", "-m", "128", "-nodefaults", "-display", "none"])
        .args(arguments)
        .args(["-serial", &format!("file:{}", output.display())])
        .args(["-device", &load])
        .args(["-device", &format!("loader,addr={address:#x},cpu-num=0")])
        .spawn()
        .expect("qemu-system-aarch64 is needed");
    let poll = Duration::from_millis(50);
    for _ in 0..TIME_LIMIT.as_millis() / poll.as_millis() {
        if let Some(status) = qemu.try_wait().unwrap() {
            assert!(status.success());
            return fs::read(output).unwrap();
        }
        std::thread::sleep(poll);
    }
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    panic!("QEMU does not end");
}

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("periscope-oracle-{}-{number}", process::id());
        let directory = env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
