//! Guest kernels as users have them.

use crate::workspace;
use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};

/// First bytes of a gzip file.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
/// Offset of the magic number in the arm64 Image header.
const IMAGE_MAGIC_OFFSET: usize = 56;
/// The magic number itself.
const IMAGE_MAGIC: &[u8] = b"ARM\x64";
/// A kernel is smaller than this, in bytes; a gzip file that unpacks to more is not one.
const MAX_KERNEL: u64 = 512 << 20;

/// A raw arm64 Image: the given file where it is one (Debian's `vmlinuz` is), or what it unpacks to.
pub fn raw_kernel(path: &Path) -> Result<PathBuf> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !bytes.starts_with(GZIP_MAGIC) {
        check_image(&bytes).with_context(|| path.display().to_string())?;
        return Ok(path.to_owned());
    }
    let mut raw = Vec::new();
    GzDecoder::new(bytes.as_slice())
        .take(MAX_KERNEL)
        .read_to_end(&mut raw)
        .with_context(|| format!("{} is a damaged gzip file", path.display()))?;
    check_image(&raw).with_context(|| format!("{}, unpacked", path.display()))?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let unpacked = workspace::guest_dir().join(format!("unpacked-{:016x}", hasher.finish()));
    fs::create_dir_all(workspace::guest_dir())?;
    fs::write(&unpacked, raw).with_context(|| format!("cannot write {}", unpacked.display()))?;
    Ok(unpacked)
}

/// How much memory a boot module takes where QEMU loads it: its file, page by page.
pub(super) fn loaded_size(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(metadata.len().max(1))
}

fn check_image(bytes: &[u8]) -> Result<()> {
    if bytes.get(IMAGE_MAGIC_OFFSET..IMAGE_MAGIC_OFFSET + 4) != Some(IMAGE_MAGIC) {
        bail!("not an arm64 Image (Linux: `make Image`; Debian: /boot/vmlinuz-…-arm64)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn image() -> Vec<u8> {
        let mut image = vec![7; 4096];
        image[56..60].copy_from_slice(IMAGE_MAGIC);
        image
    }

    fn in_file(name: &str, bytes: &[u8]) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("periscope-image-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
        dir.join(name)
    }

    #[test]
    fn raw_and_packed_kernels() {
        let raw = in_file("raw", &image());
        assert_eq!(raw_kernel(&raw).unwrap(), raw);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&image()).unwrap();
        let packed = in_file("packed", &encoder.finish().unwrap());
        let unpacked = raw_kernel(&packed).unwrap();
        assert_eq!(fs::read(&unpacked).unwrap(), image());
        fs::remove_file(unpacked).unwrap();
    }

    #[test]
    fn other_files_are_refused() {
        let text = in_file("text", b"hello");
        assert!(format!("{:#}", raw_kernel(&text).unwrap_err()).contains("not an arm64 Image"));
        let damaged = in_file("damaged", &[0x1f, 0x8b, 8, 0, 1, 2, 3]);
        assert!(raw_kernel(&damaged).is_err());
        assert!(raw_kernel(Path::new("/nonexistent")).is_err());
    }
}
