//! Debian's arm64 kernels: found through metapackages, because versions in the archive change often.

use super::Freshness;
use crate::report::Report;
use crate::setup::apt::{self, PrivateApt};
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// A kernel of a Debian release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Release {
    /// Debian 13's for clouds, Linux 6.12.
    Stable,
    /// Debian 13's with pages of 16 KiB, Linux 6.12. A large download: there is none for clouds.
    Stable16K,
    /// Debian 12's for clouds, Linux 6.1.
    Oldstable,
}

impl Release {
    fn codename(self) -> &'static str {
        match self {
            Release::Stable | Release::Stable16K => "trixie",
            Release::Oldstable => "bookworm",
        }
    }

    /// Depends on the current version.
    fn metapackage(self) -> &'static str {
        match self {
            Release::Stable | Release::Oldstable => "linux-image-cloud-arm64",
            Release::Stable16K => "linux-image-arm64-16k",
        }
    }

    /// The file that names the version that is cached; written last, so that it never names half a download.
    fn stamp(self) -> String {
        let pages = match self {
            Release::Stable | Release::Oldstable => "",
            Release::Stable16K => "-16k",
        };
        format!("kernel-{}{pages}", self.codename())
    }

    /// An apt for this release's arm64 packages.
    pub(super) fn apt(self) -> Result<PrivateApt> {
        let codename = self.codename();
        let suites = [codename.to_owned(), format!("{codename}-security")];
        let suites: Vec<&str> = suites.iter().map(String::as_str).collect();
        PrivateApt::new(&workspace::apt_dir().join(codename), "arm64", &suites)
    }
}

/// The kernel of a release: its version and its raw Image.
pub(super) fn find_or_download(
    report: &Report,
    release: Release,
    freshness: Freshness,
) -> Result<(String, PathBuf)> {
    let dir = workspace::guest_dir();
    let stamp = dir.join(release.stamp());
    if freshness == Freshness::Cached
        && let Ok(version) = fs::read_to_string(&stamp)
        && image_path(&dir, &version).is_file()
    {
        let image = image_path(&dir, &version);
        return Ok((version, image));
    }
    let version = download(report, release, &dir)?;
    fs::write(&stamp, &version)?;
    let image = image_path(&dir, &version);
    Ok((version, image))
}

fn image_path(dir: &Path, version: &str) -> PathBuf {
    dir.join(format!("vmlinuz-{version}"))
}

fn download(report: &Report, release: Release, dir: &Path) -> Result<String> {
    let codename = release.codename();
    let step = report.step(
        "guest kernel",
        &format!("reading the package lists of {codename}"),
    );
    let apt = release.apt()?;
    apt.update().context("cannot read Debian's package lists")?;
    let metapackage = release.metapackage();
    let depends = apt.field(metapackage, "Depends")?;
    let (package, package_version) = image_dependency(&depends)
        .with_context(|| format!("{metapackage} of {codename} depends on no kernel: {depends}"))?;
    let version = package.trim_start_matches("linux-image-").to_owned();
    let image = image_path(dir, &version);
    if !image.is_file() {
        step.detail(&format!("downloading {package} {package_version}"));
        let unpacked = download_and_unpack(&apt, release, package, package_version)?;
        install_image(&unpacked.join(format!("boot/vmlinuz-{version}")), &image)?;
        fs::remove_dir_all(&unpacked)?;
    }
    step.done(&format!("linux {version} (Debian)"));
    Ok(version)
}

/// A module of the kernel of that version, as its package has it.
pub(super) fn find_or_download_module(
    report: &Report,
    release: Release,
    version: &str,
    module: &str,
) -> Result<PathBuf> {
    let dir = workspace::guest_dir().join(format!("modules-{version}"));
    let name = module.rsplit('/').next().unwrap_or(module);
    // How Debian 13 and Debian 12 install them.
    let forms = [format!("{name}.ko.xz"), format!("{name}.ko")];
    let cached = forms.iter().map(|form| dir.join(form));
    if let Some(cached) = cached.into_iter().find(|path| path.is_file()) {
        return Ok(cached);
    }
    let package = format!("linux-image-{version}");
    let step = report.step("guest module", &format!("downloading {package}"));
    let apt = release.apt()?;
    let mut versions = apt.versions(&package)?;
    if versions.is_empty() {
        apt.update().context("cannot read Debian's package lists")?;
        versions = apt.versions(&package)?;
    }
    let package_version = versions.first().with_context(|| {
        format!("Debian has no {package} any more: `cargo xtask setup` takes a newer kernel")
    })?;
    let unpacked = download_and_unpack(&apt, release, &package, package_version)?;
    let modules = Path::new("lib/modules").join(version).join("kernel");
    // Since Debian 13 below /usr.
    let roots = [unpacked.join(&modules), unpacked.join("usr").join(&modules)];
    let places = roots.iter().flat_map(|root| {
        let parent = root.join(module).parent().map(Path::to_path_buf);
        let parent = parent.unwrap_or_default();
        forms.iter().map(move |form| parent.join(form))
    });
    let found = places.into_iter().find(|path| path.is_file());
    let found = found.with_context(|| format!("{package} has no module {module}"))?;
    fs::create_dir_all(&dir)?;
    let file = dir.join(found.file_name().unwrap_or_default());
    fs::copy(&found, &file).with_context(|| format!("cannot write {}", file.display()))?;
    fs::remove_dir_all(&unpacked)?;
    step.done(&format!("{name} of linux {version} (Debian)"));
    Ok(file)
}

/// What a package holds, in a directory of its own.
pub(super) fn download_and_unpack(
    apt: &PrivateApt,
    release: Release,
    package: &str,
    version: &str,
) -> Result<PathBuf> {
    let deb = apt.download(package, version)?;
    let unpacked = workspace::apt_dir()
        .join(release.codename())
        .join("unpacked");
    apt::unpack(&deb, &unpacked)?;
    fs::remove_file(&deb)?;
    Ok(unpacked)
}

/// The package and version of `linux-image-… (= version)` in a Depends field.
fn image_dependency(depends: &str) -> Option<(&str, &str)> {
    depends.split(',').find_map(|dependency| {
        let (package, rest) = dependency.trim().split_once(" (= ")?;
        package
            .starts_with("linux-image-")
            .then_some((package, rest.strip_suffix(')')?))
    })
}

fn install_image(from: &Path, to: &Path) -> Result<()> {
    let image = fs::read(from).with_context(|| format!("the package has no {}", from.display()))?;
    if image.get(56..60) != Some(b"ARM\x64".as_slice()) {
        bail!("{} is not a raw arm64 Image", from.display());
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(to, image).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metapackage_names_the_kernel() {
        let depends = "linux-image-6.12.107+deb13-cloud-arm64 (= 6.12.107-1)";
        let expected = Some(("linux-image-6.12.107+deb13-cloud-arm64", "6.12.107-1"));
        assert_eq!(image_dependency(depends), expected);
        assert_eq!(
            image_dependency(&format!("initramfs-tools (= 1), {depends}, x")),
            expected
        );
        assert_eq!(image_dependency("linux-base (>= 4.3~)"), None);
    }
}
