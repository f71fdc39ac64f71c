//! Debian's arm64 package `libbpf-tools`: eBPF programs as people write them, embedded in executables.

use super::Freshness;
use super::kernel::Release;
use crate::report::Report;
use crate::setup::apt;
use crate::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

const PACKAGE: &str = "libbpf-tools";

/// Finds or downloads the package and returns the directory that it is unpacked in.
pub fn libbpf_tools(report: &Report, freshness: Freshness) -> Result<PathBuf> {
    let unpacked = workspace::guest_dir().join(PACKAGE);
    // Names the version; written last, so that it is never there with half a package.
    let stamp = workspace::guest_dir().join(format!("{PACKAGE}.version"));
    let cached = fs::read_to_string(&stamp).ok();
    let version = match cached.filter(|_| freshness == Freshness::Cached && unpacked.is_dir()) {
        Some(version) => version,
        None => {
            let version = download(report, &unpacked)?;
            fs::write(&stamp, &version)?;
            version
        }
    };
    report.done("eBPF tools", &format!("{PACKAGE} {version} (Debian)"));
    Ok(unpacked)
}

/// Replaces what is in the directory by the newest version, and says which that is.
fn download(report: &Report, unpacked: &Path) -> Result<String> {
    let step = report.step("eBPF tools", "reading the package lists");
    let apt = Release::Stable.apt()?;
    apt.update().context("cannot read Debian's package lists")?;
    let version = apt.field(PACKAGE, "Version")?;
    step.detail(&format!("downloading {PACKAGE} {version}"));
    let deb = apt.download(PACKAGE, &version)?;
    if unpacked.is_dir() {
        fs::remove_dir_all(unpacked)?;
    }
    apt::unpack(&deb, unpacked)?;
    fs::remove_file(&deb)?;
    Ok(version)
}
