//! The eBPF programs in Debian's arm64 package `libbpf-tools`: as people write them, embedded in executables.

use super::Freshness;
use super::kernel::{self, Release};
use crate::report::Report;
use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

const PACKAGE: &str = "libbpf-tools";
/// The ELF header of an eBPF object begins so: 64 bits, little-endian, version 1.
const MAGIC: &[u8] = b"\x7fELF\x02\x01\x01";
const EM_BPF: u16 = 247;

/// Finds or downloads the tools and returns the directory with their objects, `NAME.bpf.o`.
pub fn libbpf_tools(report: &Report, freshness: Freshness) -> Result<PathBuf> {
    let objects = workspace::guest_dir().join(PACKAGE);
    // Names the version; written last, so that it is never there with half of the objects.
    let stamp = objects.join("version");
    let cached = fs::read_to_string(&stamp).ok();
    let version = match cached.filter(|_| freshness == Freshness::Cached) {
        Some(version) => version,
        None => {
            let version = download(report, &objects)?;
            fs::write(&stamp, &version)?;
            version
        }
    };
    report.done("eBPF tools", &format!("{PACKAGE} {version} (Debian)"));
    Ok(objects)
}

/// Replaces what is in the directory by the newest version, and says which that is.
fn download(report: &Report, objects: &Path) -> Result<String> {
    let step = report.step("eBPF tools", "reading the package lists");
    let release = Release::Stable;
    let apt = release.apt()?;
    apt.update().context("cannot read Debian's package lists")?;
    let version = apt.field(PACKAGE, "Version")?;
    step.detail(&format!("downloading {PACKAGE} {version}"));
    let unpacked = kernel::download_and_unpack(&apt, release, PACKAGE, &version)?;
    if objects.is_dir() {
        fs::remove_dir_all(objects)?;
    }
    fs::create_dir_all(objects)?;
    let count = extract(&unpacked.join("usr/sbin"), objects)?;
    fs::remove_dir_all(&unpacked)?;
    ensure!(count > 0, "there is no eBPF program in {PACKAGE} {version}");
    Ok(version)
}

/// Takes the object out of every tool. Returns how many there are.
fn extract(tools: &Path, objects: &Path) -> Result<usize> {
    let mut count = 0;
    for tool in fs::read_dir(tools)? {
        let tool = tool?;
        // Some tools are another one by a second name.
        if !tool.file_type()?.is_file() {
            continue;
        }
        let name = tool.file_name().to_string_lossy().into_owned();
        let name = name.trim_end_matches("-libbpf");
        for object in embedded(&fs::read(tool.path())?) {
            fs::write(objects.join(format!("{name}.bpf.o")), object)?;
            count += 1;
        }
    }
    Ok(count)
}

/// eBPF objects somewhere in an executable. An object's section headers are its end.
fn embedded(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let places = bytes.windows(MAGIC.len()).enumerate();
    places.filter_map(|(at, window)| {
        let object = bytes.get(at..).filter(|_| window == MAGIC)?;
        let half = |at: usize| Some(u16::from_le_bytes(*object.get(at..)?.first_chunk()?));
        let headers = u64::from_le_bytes(*object.get(40..)?.first_chunk()?);
        let length = u64::from(half(58)?) * u64::from(half(60)?);
        let end = usize::try_from(headers.checked_add(length)?).ok()?;
        object.get(..end).filter(|_| half(18) == Some(EM_BPF))
    })
}
