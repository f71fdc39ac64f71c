//! The programs that do not run here: cargo builds them, [`image`] makes boot images of those that are booted.

mod image;
mod symbols;

use crate::process;
use crate::setup::toolchain::{BareToolchain, CoreLibrary};
use crate::workspace::{self, BARE_TARGET};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A program of this workspace that is built for the bare-metal target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// The EL2 program.
    Hypervisor,
    /// The guest that counts exactly.
    TinyGuest,
    /// What single-steps itself inside a Linux guest: an ELF file, not booted.
    SingleStep,
    /// What starts another kernel inside a Linux guest: an ELF file, not booted.
    Kexec,
    /// What times itself inside a Linux guest: an ELF file, not booted.
    SystemCost,
    /// What compares compiled programs with interpreted ones: an ELF file for Linux, not booted.
    JitCheck,
    /// The EL2 program without the debug server and all that probes need, for comparison: not in [`Program::ALL`].
    HypervisorAlone,
}

impl Program {
    /// What everything is built of.
    pub const ALL: [Self; 6] = [
        Self::Hypervisor,
        Self::TinyGuest,
        Self::SingleStep,
        Self::Kexec,
        Self::SystemCost,
        Self::JitCheck,
    ];

    /// Its cargo package.
    pub fn package(self) -> &'static str {
        match self {
            Program::Hypervisor | Program::HypervisorAlone => "hypervisor",
            Program::TinyGuest => "tiny-guest",
            Program::SingleStep | Program::Kexec | Program::SystemCost | Program::JitCheck => {
                "guest-programs"
            }
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Program::HypervisorAlone => "hypervisor-alone",
            _ => self.binary(),
        }
    }

    /// The name that cargo gives its file.
    fn binary(self) -> &'static str {
        match self {
            Program::Hypervisor | Program::HypervisorAlone | Program::TinyGuest => self.package(),
            Program::SingleStep => "single-step",
            Program::Kexec => "kexec",
            Program::SystemCost => "system-cost",
            Program::JitCheck => "jit-check",
        }
    }

    /// Where its ELF file with DWARF is, built or not.
    pub fn elf(self) -> PathBuf {
        workspace::image_dir().join(self.name())
    }

    /// Where its boot image is, built or not: an arm64 Image. An ELF file where nothing boots it.
    pub fn image(self) -> PathBuf {
        match self {
            Program::Hypervisor | Program::HypervisorAlone | Program::TinyGuest => {
                workspace::image_dir().join(format!("{}.img", self.name()))
            }
            Program::SingleStep | Program::Kexec | Program::SystemCost | Program::JitCheck => {
                self.elf()
            }
        }
    }

    /// Its functions, by name and address, from its ELF file.
    pub fn functions(self) -> Result<Vec<(String, u64)>> {
        symbols::of_file(&self.elf())
    }

    /// Compiles it, gives the hypervisor its symbol table, and makes its boot image if it has one.
    pub fn build(self, toolchain: &BareToolchain) -> Result<()> {
        compile(self, toolchain)?;
        fs::create_dir_all(workspace::image_dir())?;
        let built = workspace::target_dir()
            .join(BARE_TARGET)
            .join("release")
            .join(self.binary());
        if self == Program::Hypervisor {
            symbols::inject(&built).with_context(|| built.display().to_string())?;
        }
        let elf = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
        if self.image() != self.elf() {
            let image = image::flatten(&elf).with_context(|| built.display().to_string())?;
            write(&self.image(), image)?;
        }
        write(&self.elf(), elf)?;
        make_executable(&self.elf())
    }
}

/// Lets `path` be executed, as cargo does: an emulator of a user's programs wants that.
fn make_executable(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}

fn compile(program: Program, toolchain: &BareToolchain) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.args([
        "build",
        "--release",
        "--target",
        BARE_TARGET,
        "--package",
        program.package(),
        "--bin",
        program.binary(),
    ]);
    if program == Program::HypervisorAlone {
        cargo.arg("--no-default-features");
    }
    if let Some(linker) = toolchain.linker {
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_NONE_SOFTFLOAT_LINKER", linker);
    }
    // The notice is about the standard library's own source, which is not ours to change.
    cargo.args(["--config", "future-incompat-report.frequency='never'"]);
    if toolchain.core_library == CoreLibrary::FromSource {
        cargo.env("RUSTC_BOOTSTRAP", "1");
        cargo.arg("-Zbuild-std=core,alloc,compiler_builtins");
        cargo.arg("-Zbuild-std-features=compiler-builtins-mem");
    }
    process::run(&mut cargo)
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
