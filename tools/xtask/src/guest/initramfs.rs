//! The root of a Linux guest: busybox, an inittab, and a workload to trace.

use super::cpio::Archive;
use super::kernel::Release;
use crate::report::Report;
use crate::setup::apt;
use crate::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The line that a guest prints when its shell is about to start.
pub const READY_MARKER: &str = "periscope-guest: ready";

/// What busybox' init runs. `cttyhack` gives the shell a controlling terminal, and with it job control and Ctrl-C.
const INITTAB: &str = "\
::sysinit:/etc/rc
::respawn:/bin/cttyhack /bin/sh -l
::ctrlaltdel:/bin/reboot
";

/// Set-up before the shell.
const RC: &str = "\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tracefs tracefs /sys/kernel/tracing
mount -t tmpfs tmpfs /tmp
hostname guest
echo \"periscope-guest: ready\"
";

/// The shell's settings.
const PROFILE: &str = "export PS1='guest# '\n";

/// `load [SECONDS]`: process creation and file I/O on every CPU at once.
const LOAD: &str = "\
#!/bin/sh
# load [SECONDS]: process creation and file I/O on every CPU; prints how many rounds each CPU made.
# Ends early when there is a file /tmp/load.stop.
end=$(( $(date +%s) + ${1:-10} ))
round() {
    dir=/tmp/load.$1
    mkdir \"$dir\"
    echo \"$2\" > \"$dir/file\"
    cat \"$dir/file\" | cat > \"$dir/copy\"
    chmod 600 \"$dir/copy\"
    ln \"$dir/copy\" \"$dir/hard\"
    ln -s copy \"$dir/soft\"
    mv \"$dir/copy\" \"$dir/moved\"
    rm -r \"$dir\"
}
worker() {
    rounds=0
    while [ ! -e /tmp/load.stop ] && [ \"$(date +%s)\" -lt \"$end\" ]; do
        rounds=$((rounds + 1))
        round \"$1\" \"$rounds\"
    done
    echo \"load: cpu$1 $rounds rounds\"
}
for cpu in $(seq 0 $(( $(nproc) - 1 ))); do
    worker \"$cpu\" &
    taskset -p $((1 << cpu)) $! > /dev/null
done
wait
echo 'load: done'
";

/// The cached initramfs, or a new one.
pub(super) fn find_or_build(report: &Report) -> Result<PathBuf> {
    let dir = workspace::guest_dir();
    let busybox = find_or_download_busybox(report, &dir)?;
    let archive = build(&busybox)?;
    let path = dir.join("initramfs.cpio");
    write(&path, &archive)?;
    Ok(path)
}

/// What more there is in an initramfs.
pub(super) struct Addition {
    /// Part of the name of the new initramfs' file.
    pub(super) name: String,
    archive: Archive,
}

impl Addition {
    /// Programs in `/bin`.
    pub(super) fn programs(programs: &[PathBuf]) -> Result<Self> {
        let mut archive = Archive::default();
        let mut names = Vec::new();
        for program in programs {
            let name = program.file_name().context("a program without a name")?;
            let name = name.to_string_lossy();
            archive.executable(&format!("bin/{name}"), &read(program)?)?;
            names.push(name.into_owned());
        }
        Ok(Self {
            name: names.join("-"),
            archive,
        })
    }

    /// A kernel and its root in `/boot`, for kexec.
    pub(super) fn kernel(kernel: &Path, initramfs: &Path) -> Result<Self> {
        let mut archive = Archive::default();
        archive.directory("boot")?;
        archive.file("boot/Image", &read(kernel)?)?;
        archive.file("boot/initrd", &read(initramfs)?)?;
        let name = kernel.file_name().context("a kernel without a name")?;
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            archive,
        })
    }

    /// A kernel module in `/lib`.
    pub(super) fn module(module: &Path) -> Result<Self> {
        let mut archive = Archive::default();
        let name = module.file_name().context("a module without a name")?;
        let name = name.to_string_lossy().into_owned();
        archive.directory("lib")?;
        archive.file(&format!("lib/{name}"), &read(module)?)?;
        Ok(Self { name, archive })
    }

    /// An initramfs with this too: Linux unpacks one archive behind another.
    pub(super) fn to(self, initramfs: &Path) -> Result<PathBuf> {
        let mut bytes = read(initramfs)?;
        bytes.extend(self.archive.finish()?);
        let stem = initramfs
            .file_stem()
            .context("an initramfs without a name")?;
        let name = format!("{}-{}.cpio", stem.to_string_lossy(), self.name);
        let path = workspace::guest_dir().join(name);
        write(&path, &bytes)?;
        Ok(path)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("no {}: `cargo xtask build`", path.display()))
}

/// Archives are built anew each time, which takes milliseconds, but files touched only where they changed.
fn write(path: &Path, archive: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == archive) {
        return Ok(());
    }
    fs::write(path, archive).with_context(|| format!("cannot write {}", path.display()))
}

fn build(busybox: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        archive.directory(dir)?;
    }
    // The kernel opens it for init before devtmpfs is there.
    archive.character_device("dev/console", 5, 1)?;
    archive.executable("bin/busybox", busybox)?;
    archive.link("bin/sh", "busybox")?;
    archive.link("init", "bin/busybox")?;
    archive.file("etc/inittab", INITTAB.as_bytes())?;
    archive.executable("etc/rc", RC.as_bytes())?;
    archive.file("etc/profile", PROFILE.as_bytes())?;
    archive.executable("bin/load", LOAD.as_bytes())?;
    archive.finish()
}

fn find_or_download_busybox(report: &Report, dir: &Path) -> Result<Vec<u8>> {
    let cached = dir.join("busybox");
    if let Ok(busybox) = fs::read(&cached) {
        return Ok(busybox);
    }
    let step = report.step("guest root", "downloading busybox-static");
    let apt = Release::Stable.apt()?;
    let mut versions = apt.versions("busybox-static")?;
    if versions.is_empty() {
        apt.update().context("cannot read Debian's package lists")?;
        versions = apt.versions("busybox-static")?;
    }
    let version = versions.first().context("Debian has no busybox-static")?;
    let deb = apt.download("busybox-static", version)?;
    let unpacked = dir.join("busybox-unpacked");
    apt::unpack(&deb, &unpacked)?;
    let program = ["usr/bin/busybox", "bin/busybox"]
        .iter()
        .find_map(|path| fs::read(unpacked.join(path)).ok())
        .context("busybox-static holds no busybox")?;
    fs::remove_dir_all(&unpacked)?;
    fs::write(&cached, &program)?;
    step.done(&format!("busybox {version} (Debian)"));
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_is_what_the_guest_prints() {
        assert!(RC.contains(&format!("echo \"{READY_MARKER}\"")));
    }
}
