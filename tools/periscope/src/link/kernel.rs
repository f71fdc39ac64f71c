//! What a kernel's image says of itself: its types and its version.
//!
//! An arm64 `Image` holds both as they are, in `.rodata`; distributions pack it: with gzip, or in the
//! EFI application that unpacks itself (`drivers/firmware/efi/libstub/zboot-header.S`). A `vmlinux`
//! has the types in a section `.BTF`.

use super::externs::KernelVersion;
use crate::remote::Remote;
use anyhow::{Context, Result, bail, ensure};
use ebpf::btf::{Btf, HEADER, MAGIC};
use object::{Object, ObjectSection};
use std::borrow::Cow;
use std::io::Read;
use std::net::TcpStream;

/// Bytes of a kernel at most, unpacked. Real ones have up to 100 MB.
const MAX_IMAGE: u64 = 1 << 30;

/// Types that a kernel cannot do with less of.
const MIN_TYPES: u32 = 1000;

/// What is known of a kernel.
pub(crate) struct Kernel {
    /// Its types in the BTF format.
    pub(crate) btf: Vec<u8>,
    /// Its version, where it tells.
    pub(super) version: Option<KernelVersion>,
}

impl Kernel {
    /// Reads an image: vmlinux, Image, Image.gz or vmlinuz.efi.
    pub(crate) fn from_image(bytes: &[u8]) -> Result<Self> {
        let image = unpack(bytes)?;
        let btf = match section(&image)? {
            Some(btf) => btf,
            None => find_types(&image).context(
                "there are no types in this image: its kernel has no CONFIG_DEBUG_INFO_BTF",
            )?,
        };
        Ok(Self {
            btf: btf.to_vec(),
            version: find_version(&image),
        })
    }
}

impl Kernel {
    /// What the kernel that runs there carries in its memory. The VM stands still meanwhile.
    pub(crate) fn of_guest(address: &str) -> Result<Self> {
        let mut remote = Remote::connect(address)?;
        let kernel = Self::of_files(&mut remote, "").with_context(|| {
            format!(
                "{address} has no types: no Linux is up there, or one without CONFIG_DEBUG_INFO_BTF"
            )
        });
        remote.detach()?;
        kernel
    }

    /// The same by an endpoint's files; `directory` is empty, or `vm1/` where the endpoint is no VM's.
    pub(crate) fn of_files(remote: &mut Remote<TcpStream>, directory: &str) -> Result<Self> {
        let btf = remote.file(&format!("{directory}btf"))?;
        let banner = remote.file(&format!("{directory}linux_banner"))?;
        Ok(Self {
            btf,
            version: find_version(&banner),
        })
    }
}

/// The image as it is in memory.
fn unpack(bytes: &[u8]) -> Result<Cow<'_, [u8]>> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(Cow::Owned(gunzip(bytes)?));
    }
    // "MZ", then at 4 "zimg", offset and size of what is packed, and at 24 how.
    let is_zboot = bytes.starts_with(b"MZ") && bytes.get(4..8) == Some(b"zimg");
    if !is_zboot {
        return Ok(Cow::Borrowed(bytes));
    }
    let word = |at: usize| -> Option<usize> {
        let word = bytes.get(at..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*word)).ok()
    };
    let packed = word(8).zip(word(12));
    let packed = packed.and_then(|(start, size)| bytes.get(start..)?.get(..size));
    let packed = packed.context("the image is cut off")?;
    let how = bytes.get(24..56).unwrap_or_default();
    let how = how.split(|&byte| byte == 0).next().unwrap_or_default();
    ensure!(
        how == b"gzip",
        "the image is packed with {}, which is not known here: unpack it first",
        how.escape_ascii()
    );
    Ok(Cow::Owned(gunzip(packed)?))
}

fn gunzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut image = Vec::new();
    let unpacked = flate2::read::GzDecoder::new(bytes);
    unpacked
        .take(MAX_IMAGE)
        .read_to_end(&mut image)
        .context("the image cannot be unpacked")?;
    Ok(image)
}

/// The section `.BTF` of an ELF file.
fn section(image: &[u8]) -> Result<Option<&[u8]>> {
    if !image.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    let file = object::File::parse(image).context("this is no ELF file")?;
    match file.section_by_name(".BTF") {
        Some(section) => Ok(Some(section.data()?)),
        None => bail!("this ELF file has no section .BTF: is it a vmlinux?"),
    }
}

/// Types that lie somewhere in an image: where the header says something that makes sense. A kernel
/// may have those of its own eBPF programs too, so the most types count.
fn find_types(image: &[u8]) -> Option<&[u8]> {
    let [low, high] = MAGIC;
    // Magic, version 1, no flags, a header of 24 bytes, types behind it.
    let start = [low, high, 1, 0, HEADER as u8, 0, 0, 0, 0, 0, 0, 0];
    let places = memchr::memmem::find_iter(image, &start);
    let found = places.filter_map(|at| {
        let bytes = image.get(at..)?;
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let end = word(16)?.checked_add(word(20)?)?;
        let bytes = bytes.get(..HEADER.checked_add(end as usize)?)?;
        let count = Btf::parse(bytes).ok()?.count();
        (count >= MIN_TYPES).then_some((count, bytes))
    });
    found
        .max_by_key(|&(count, _)| count)
        .map(|(_, bytes)| bytes)
}

/// The version in the banner, "Linux version 6.12.1-arm64 (…) #1 SMP Debian 6.12.1-1 (…)". A release
/// need not have the patch level: Debian names it behind its own name, where libbpf looks since 1.2.
fn find_version(image: &[u8]) -> Option<KernelVersion> {
    let start = b"Linux version ";
    memchr::memmem::find_iter(image, start).find_map(|at| {
        let banner = &image[at + start.len()..];
        let banner = banner.split(|&byte| matches!(byte, 0 | b'\n')).next()?;
        let banner = str::from_utf8(banner).ok()?;
        let debian = banner
            .split_once(" Debian ")
            .and_then(|(_, rest)| version(rest));
        debian.or_else(|| version(banner))
    })
}

/// `KERNEL_VERSION(6, 12, 1)` of `6.12.1-arm64`.
fn version(text: &str) -> Option<KernelVersion> {
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.');
    let mut numbers = text[..end.unwrap_or(text.len())].split('.');
    let mut next = || numbers.next()?.parse::<u32>().ok();
    let (major, minor) = (next()?, next()?);
    let patch = next().unwrap_or(0).min(255);
    let fits = major < 0x1_0000 && minor < 0x100;
    fits.then_some(KernelVersion(major << 16 | minor << 8 | patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banners_have_versions() {
        for (banner, expected) in [
            (
                "Linux version 6.12.117+deb13-cloud-arm64 (x@y) #1 SMP",
                0x06_0c75,
            ),
            (
                "Linux version 6.1.0-56-arm64 (x) #1 SMP Debian 6.1.176-1 (d)",
                0x06_01b0,
            ),
            ("Linux version 6.17.300 (x)", 0x06_11ff),
        ] {
            let image = [b"\0\0", banner.as_bytes(), b"\n\0"].concat();
            assert_eq!(find_version(&image), Some(KernelVersion(expected)));
        }
        assert_eq!(find_version(b"Linux version %s"), None);
    }

    #[test]
    fn images_are_unpacked() {
        use flate2::{Compression, write::GzEncoder};
        use std::io::Write;
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(b"image").expect("memory takes all");
        let packed = packed.finish().expect("memory takes all");
        assert_eq!(*unpack(&packed).expect("gzip is known"), *b"image");
        let mut zboot = b"MZ\0\0zimg".to_vec();
        zboot.extend(
            [64_u32, packed.len() as u32, 0, 0]
                .map(u32::to_le_bytes)
                .as_flattened(),
        );
        zboot.extend(b"gzip");
        zboot.resize(64, 0);
        zboot.extend(&packed);
        assert_eq!(*unpack(&zboot).expect("gzip is known"), *b"image");
        zboot[24..28].copy_from_slice(b"zstd");
        let error = unpack(&zboot).expect_err("zstd is not known");
        assert!(error.to_string().contains("packed with zstd"), "{error}");
        assert!(unpack(&zboot[..20]).is_err());
    }
}
