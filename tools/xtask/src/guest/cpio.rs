//! The archive format of an initramfs: cpio "newc" (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).

use anyhow::{Context, Result};

/// What an entry is, with the file type bits of its mode.
enum Kind<'a> {
    Directory,
    File(&'a [u8]),
    Link(&'a str),
    Character { major: u32, minor: u32 },
}

/// An archive under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, 0o755, &Kind::Directory)
    }

    /// Adds an executable file.
    pub fn executable(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.entry(path, 0o755, &Kind::File(content))
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.entry(path, 0o644, &Kind::File(content))
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.entry(path, 0o777, &Kind::Link(target))
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(path, 0o600, &Kind::Character { major, minor })
    }

    /// The finished archive.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &Kind::File(&[]))?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, permissions: u32, kind: &Kind<'_>) -> Result<()> {
        let (kind_bits, content, device) = match kind {
            Kind::Directory => (0o040_000, [].as_slice(), (0, 0)),
            Kind::File(content) => (0o100_000, *content, (0, 0)),
            Kind::Link(target) => (0o120_000, target.as_bytes(), (0, 0)),
            Kind::Character { major, minor } => (0o020_000, [].as_slice(), (*major, *minor)),
        };
        self.entries += 1;
        let links = if matches!(kind, Kind::Directory) {
            2
        } else {
            1
        };
        let size = u32::try_from(content.len()).with_context(|| format!("{path} is too large"))?;
        let name_size = u32::try_from(path.len() + 1).context("a path is too long")?;
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name size, check.
        let mode = kind_bits | permissions;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
        Ok(())
    }

    /// Names and contents begin at multiples of 4.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_what_the_kernel_reads() {
        let mut archive = Archive::default();
        archive.executable("init", b"#!/bin/sh\n").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let expected = "0707010000000100008\u{31}ed";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(&text[6 + 6 * 8..6 + 7 * 8], "0000000a", "file size");
        assert_eq!(&text[110..115], "init\0");
        assert_eq!(&text[116..126], "#!/bin/sh\n");
        assert!(text[128..].starts_with("070701"));
        assert!(text.contains("00000005000000010000000c00000000dev/console\0"));
        assert!(text.contains("TRAILER!!!\0"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
