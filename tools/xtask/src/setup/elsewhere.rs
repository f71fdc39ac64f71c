//! Programs of other Debian releases, for tests with older and newer clients than this machine has: fetched with all that
//! they need, unpacked below `target/`, and run by their own dynamic loader. Nothing of it is installed.

use super::apt::{self, PrivateApt};
use crate::report::Report;
use crate::{process, workspace};
use anyhow::{Context, Result};
use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The dynamic loader's name (System V ABI of each architecture).
const LOADER: &str = if cfg!(target_arch = "aarch64") {
    "ld-linux-aarch64.so.1"
} else {
    "ld-linux-x86-64.so.2"
};

/// A package of another release, unpacked with what it depends on.
pub struct Elsewhere {
    root: PathBuf,
}

impl Elsewhere {
    /// `package` as `suite` (such as `trixie`) has it; from the cache where it has been fetched before.
    pub fn fetch(report: &Report, suite: &str, package: &str) -> Result<Self> {
        let root = workspace::apt_dir().join(format!("{suite}-{package}"));
        let complete = root.join("complete");
        if !complete.is_file() {
            let step = report.step(package, &format!("fetching Debian {suite}'s"));
            fetch(&root, suite, package)
                .with_context(|| format!("cannot fetch {package} of Debian {suite}"))?;
            fs::write(&complete, "")?;
            step.done("unpacked");
        }
        Ok(Self {
            root: root.join("root"),
        })
    }

    /// A command that runs its program at `path`, such as `usr/bin/gdb-multiarch`.
    pub fn command(&self, path: &str) -> Command {
        // Before Debian 13 a few packages, the C library among them, have files outside of `usr`.
        let places = ["usr/lib", "lib"].map(|place| format!("{place}/{ARCH}-linux-gnu"));
        let libraries = places.map(|place| self.root.join(place));
        let loader = libraries.iter().map(|directory| directory.join(LOADER));
        let loader = loader.into_iter().find(|loader| loader.is_file());
        let mut command = Command::new(loader.unwrap_or_else(|| LOADER.into()));
        command
            .arg("--library-path")
            .arg(libraries.map(|path| path.display().to_string()).join(":"))
            .arg(self.root.join(path))
            // Its Python is not this machine's.
            .env("PYTHONHOME", self.root.join("usr"));
        command
    }

    /// A file of it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

fn fetch(root: &Path, suite: &str, package: &str) -> Result<()> {
    let architecture = process::output(Command::new("dpkg").arg("--print-architecture"))?;
    let apt = PrivateApt::new(root, architecture.trim(), &[suite])?;
    apt.update().context("cannot read Debian's package lists")?;
    for deb in apt.download_with_dependencies(package)? {
        apt::unpack(&deb, &root.join("root"))?;
        fs::remove_file(deb)?;
    }
    Ok(())
}
