//! The bare-metal target: `core` and `alloc` for the processor that the hypervisor and the tiny guest run on.

use super::apt::{self, PrivateApt};
use crate::process;
use crate::report::Report;
use crate::workspace::{self, BARE_TARGET};
use anyhow::{Context, Result, bail};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `debian` goes past what rustup installed or could install.
const SOURCE_VARIABLE: &str = "PERISCOPE_RUST_SRC";
/// Bound for rustup's download.
const RUSTUP_LIMIT: Duration = Duration::from_secs(180);
/// Suites that may hold `rust-src` of the compiler in use, with what they depend on left out: only this one package
/// is downloaded.
const RUST_SUITES: [&str; 4] = ["bookworm", "trixie", "trixie-backports", "sid"];

/// Where the target's `core` comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CoreLibrary {
    /// Compiled, in the sysroot.
    Installed,
    /// Source in the sysroot, compiled by cargo (`-Z build-std`).
    FromSource,
}

/// A toolchain that builds for [`BARE_TARGET`].
pub struct BareToolchain {
    /// Where `core` comes from.
    pub core_library: CoreLibrary,
    /// A linker other than the target's default `rust-lld`, where the toolchain does not ship that.
    pub linker: Option<&'static str>,
}

/// What the compiler says of itself.
struct Compiler {
    sysroot: PathBuf,
    host: String,
    /// Such as `1.95.0`.
    release: String,
}

impl BareToolchain {
    /// Takes what is installed, then rustup, then Debian's source package of the very compiler version.
    pub fn find_or_install(report: &Report) -> Result<Self> {
        let compiler = Compiler::ask()?;
        let linker = find_linker(&compiler)?;
        let debian_only = debian_is_forced()?;
        let core_library = if !debian_only && compiler.has_target() {
            CoreLibrary::Installed
        } else if compiler.has_source() {
            CoreLibrary::FromSource
        } else if !debian_only && add_with_rustup(report, &compiler) {
            CoreLibrary::Installed
        } else {
            install_debian_source(report, &compiler)?;
            CoreLibrary::FromSource
        };
        Ok(Self {
            core_library,
            linker,
        })
    }

    /// In words.
    pub fn describe(&self) -> String {
        let core = match self.core_library {
            CoreLibrary::Installed => "installed",
            CoreLibrary::FromSource => "core from source",
        };
        format!("{BARE_TARGET} ({core})")
    }
}

impl Compiler {
    fn ask() -> Result<Self> {
        // In the root, so that a toolchain file or an override there applies.
        let rustc = || {
            let mut command = Command::new("rustc");
            command.current_dir(workspace::root());
            command
        };
        let sysroot = process::output(rustc().args(["--print", "sysroot"]))?
            .trim()
            .into();
        let version = process::output(rustc().arg("-vV"))?;
        let field = |name: &str| {
            let value = version.lines().find_map(|line| line.strip_prefix(name));
            value
                .map(str::to_owned)
                .with_context(|| format!("`rustc -vV` says no {name}"))
        };
        Ok(Self {
            sysroot,
            host: field("host: ")?,
            release: field("release: ")?,
        })
    }

    fn has_target(&self) -> bool {
        self.sysroot
            .join("lib/rustlib")
            .join(BARE_TARGET)
            .join("lib")
            .is_dir()
    }

    fn source_dir(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust")
    }

    fn has_source(&self) -> bool {
        self.source_dir().join("library/core/src/lib.rs").is_file()
    }
}

fn debian_is_forced() -> Result<bool> {
    match env::var(SOURCE_VARIABLE) {
        Ok(value) if value == "debian" => Ok(true),
        Ok(value) if !value.is_empty() => {
            bail!("{SOURCE_VARIABLE}={value} means nothing: set it to `debian` or unset it")
        }
        _ => Ok(false),
    }
}

/// Debian's own rustc ships no `rust-lld`; any `ld.lld` serves.
fn find_linker(compiler: &Compiler) -> Result<Option<&'static str>> {
    let bundled = compiler
        .sysroot
        .join("lib/rustlib")
        .join(&compiler.host)
        .join("bin/rust-lld");
    if bundled.is_file() || process::find_program("rust-lld").is_some() {
        return Ok(None);
    }
    if process::find_program("ld.lld").is_some() {
        return Ok(Some("ld.lld"));
    }
    bail!("no linker for {BARE_TARGET}: install the package lld")
}

/// Whether rustup could add the target. A failure is no error: there is another way.
fn add_with_rustup(report: &Report, compiler: &Compiler) -> bool {
    if process::find_program("rustup").is_none() {
        return false;
    }
    let step = report.step("toolchain", &format!("rustup target add {BARE_TARGET}"));
    let mut rustup = Command::new("rustup");
    rustup
        .current_dir(workspace::root())
        .args(["target", "add", BARE_TARGET]);
    match process::output_bounded(&mut rustup, RUSTUP_LIMIT) {
        Ok(_) => compiler.has_target(),
        Err(error) => {
            drop(step);
            eprintln!("    {error}\n    trying Debian's rust-src instead");
            false
        }
    }
}

fn install_debian_source(report: &Report, compiler: &Compiler) -> Result<()> {
    let release = &compiler.release;
    let step = report.step(
        "toolchain",
        &format!("looking for Debian's rust-src {release}"),
    );
    let apt = PrivateApt::new(
        &workspace::apt_dir().join("rust-src"),
        "amd64",
        &RUST_SUITES,
    )?;
    apt.update().context("cannot read Debian's package lists")?;
    let versions = apt.versions("rust-src")?;
    let Some(version) = versions.iter().find(|version| is_release(version, release)) else {
        bail!(
            "Debian has no rust-src {release} (it has {}): install `rustup target add {BARE_TARGET}`, or use one of \
             those compiler versions",
            versions.join(", ")
        );
    };
    step.detail(&format!("downloading rust-src {version}"));
    let deb = apt.download("rust-src", version)?;
    step.detail(&format!("unpacking rust-src {version}"));
    let unpacked = workspace::apt_dir().join("rust-src/unpacked");
    apt::unpack(&deb, &unpacked)?;
    let library = unpacked.join(format!("usr/src/rustc-{release}/library"));
    install_library(&library, &compiler.source_dir())?;
    fs::remove_dir_all(&unpacked)?;
    step.done(&format!("rust-src {version} (Debian)"));
    Ok(())
}

/// Whether a Debian version is of a compiler release: `1.95.0+dfsg1-2~bpo13+1` of `1.95.0`.
fn is_release(version: &str, release: &str) -> bool {
    version
        .strip_prefix(release)
        .is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit() || next == '.'))
}

fn install_library(library: &Path, source_dir: &Path) -> Result<()> {
    let install = || -> Result<()> {
        fs::create_dir_all(source_dir)?;
        process::output(Command::new("cp").arg("-r").arg(library).arg(source_dir))?;
        Ok(())
    };
    install().with_context(|| {
        format!(
            "cannot put the library's source into {}: is the toolchain writable for you?",
            source_dir.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_versions_of_a_release() {
        assert!(is_release("1.95.0+dfsg1-2~bpo13+1", "1.95.0"));
        assert!(is_release("1.95.0-1", "1.95.0"));
        assert!(!is_release("1.95.01-1", "1.95.0"));
        assert!(!is_release("1.85.0+dfsg3-1", "1.95.0"));
    }
}
