//! Guests that nobody has to bring: Debian's arm64 kernels and an initramfs around Debian's busybox, cached
//! under `target/guest`.

mod cpio;
mod initramfs;
mod kernel;
mod tools;

pub use initramfs::READY_MARKER;
pub use kernel::Release;
pub use tools::libbpf_tools;

use crate::report::Report;
use anyhow::Result;
use initramfs::Addition;
use std::path::PathBuf;

/// Whether the cached version will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// Take what is cached; download only what is missing.
    Cached,
    /// Look for a newer version.
    Newest,
}

/// A Linux guest, ready to boot.
#[derive(Clone, Debug)]
pub struct Linux {
    /// The kernel's release, such as `6.12.107+deb13-cloud-arm64`.
    pub version: String,
    /// The raw arm64 Image.
    pub kernel: PathBuf,
    /// An initramfs that prints [`READY_MARKER`] and starts a shell on the console.
    pub initrd: PathBuf,
}

/// Finds or downloads a Debian kernel and builds the initramfs.
pub fn linux(report: &Report, release: Release, freshness: Freshness) -> Result<Linux> {
    let (version, kernel) = kernel::find_or_download(report, release, freshness)?;
    let initrd = initramfs::find_or_build(report)?;
    Ok(Linux {
        version,
        kernel,
        initrd,
    })
}

impl Linux {
    /// The same with more programs in the guest's `/bin`, by the names of their files.
    pub fn with_programs(self, programs: &[PathBuf]) -> Result<Self> {
        Ok(Self {
            initrd: Addition::programs(programs)?.to(&self.initrd)?,
            ..self
        })
    }

    /// The same with its kernel and its root as files in the guest's `/boot`, for kexec.
    pub fn with_own_kernel(self) -> Result<Self> {
        Ok(Self {
            initrd: Addition::kernel(&self.kernel, &self.initrd)?.to(&self.initrd)?,
            ..self
        })
    }

    /// The same with a module of its kernel's, `drivers/net/dummy` for one, in the guest's `/lib`, compressed. Returns the
    /// module's file name too.
    pub fn with_module(
        self,
        report: &Report,
        release: Release,
        module: &str,
    ) -> Result<(Self, String)> {
        let file = kernel::find_or_download_module(report, release, &self.version, module)?;
        let name = file.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let initrd = Addition::module(&file)?.to(&self.initrd)?;
        Ok((Self { initrd, ..self }, name))
    }

    /// In words.
    pub fn describe(&self) -> Result<String> {
        let size = indicatif::HumanBytes(self.kernel.metadata()?.len());
        Ok(format!("linux {} (Debian)  {size}", self.version))
    }
}
