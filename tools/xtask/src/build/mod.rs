//! The bare-metal programs: cargo builds them, [`image`] makes boot images of them.

mod image;
mod symbols;

use crate::process;
use crate::setup::toolchain::{BareToolchain, CoreLibrary};
use crate::workspace::{self, BARE_TARGET};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Boot images, and the ELF files they come from.
pub struct Images {
    /// The hypervisor with DWARF, for a debugger.
    pub hypervisor_elf: PathBuf,
    /// The hypervisor as an arm64 Image, symbols behind it.
    pub hypervisor: PathBuf,
    /// The tiny guest with DWARF.
    pub tiny_guest_elf: PathBuf,
    /// The tiny guest as an arm64 Image.
    pub tiny_guest: PathBuf,
}

impl Images {
    /// Where the images are, built or not.
    pub fn paths() -> Self {
        let dir = workspace::image_dir();
        Self {
            hypervisor_elf: dir.join("hypervisor"),
            hypervisor: dir.join("hypervisor.img"),
            tiny_guest_elf: dir.join("tiny-guest"),
            tiny_guest: dir.join("tiny-guest.img"),
        }
    }
}

/// Builds both programs and their images.
pub fn all(toolchain: &BareToolchain) -> Result<Images> {
    compile(toolchain)?;
    let images = Images::paths();
    fs::create_dir_all(workspace::image_dir())?;
    let hypervisor = install("hypervisor", &images.hypervisor_elf)?;
    write(
        &images.hypervisor,
        image::with_symbols(&hypervisor).context("hypervisor")?,
    )?;
    let tiny_guest = install("tiny-guest", &images.tiny_guest_elf)?;
    write(
        &images.tiny_guest,
        image::plain(&tiny_guest).context("tiny-guest")?,
    )?;
    Ok(images)
}

fn compile(toolchain: &BareToolchain) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.args(["build", "--release", "--target", BARE_TARGET]);
    if let Some(linker) = toolchain.linker {
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_NONE_SOFTFLOAT_LINKER", linker);
    }
    cargo.args(["--package", "hypervisor", "--package", "tiny-guest"]);
    // The notice is about the standard library's own source, which is not ours to change.
    cargo.args(["--config", "future-incompat-report.frequency='never'"]);
    if toolchain.core_library == CoreLibrary::FromSource {
        cargo.env("RUSTC_BOOTSTRAP", "1");
        cargo.arg("-Zbuild-std=core,alloc,compiler_builtins");
        cargo.arg("-Zbuild-std-features=compiler-builtins-mem");
    }
    process::run(&mut cargo)
}

/// Copies a built program to its stable place and returns its bytes.
fn install(name: &str, to: &Path) -> Result<Vec<u8>> {
    let built = workspace::target_dir()
        .join(BARE_TARGET)
        .join("release")
        .join(name);
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    write(to, &bytes)?;
    Ok(bytes)
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
