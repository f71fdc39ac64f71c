//! Files: `remote put` is how linked programs get here, `remote get` how events and other things get out. There is no file
//! system behind this. What is put lives in memory until it is closed; then it is verified and loaded under its stem, or,
//! called `System.map`, `vmlinux`, `NAME.map` or `NAME.elf`, kept until `trace loadsyms` takes it. What can be got,
//! [`super::readable`] says.

use super::{Commands, DebugTarget, Role};
use crate::events::Stream;
use crate::packet::request::FileWindow;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use gdbstub::target::ext::host_io::{
    FsKind, HostIo, HostIoClose, HostIoCloseOps, HostIoErrno, HostIoError, HostIoFstat,
    HostIoFstatOps, HostIoOpen, HostIoOpenFlags, HostIoOpenMode, HostIoOpenOps, HostIoPwrite,
    HostIoPwriteOps, HostIoResult, HostIoSetfs, HostIoSetfsOps, HostIoStat, HostIoUnlink,
    HostIoUnlinkOps,
};
use probes::kernel_file::KernelFile;
use probes::programs::StoreError;
use spin::Mutex;

/// Files that can be open at once.
const MAX_OPEN: usize = 4;
/// Bytes of a program at most. Those of real tools have some ten thousand.
const MAX_PROGRAM: usize = 1 << 20;
/// Bytes of a file with symbols at most. Debian's `System.map` has 5 million, and so has what `periscope symbols` makes; a
/// `vmlinux` with its code and debugging information has hundreds.
const MAX_MAP: usize = 16 << 20;
/// Bytes of a file name at most.
const MAX_NAME: usize = 256;

/// A file that is being written.
pub(super) struct Upload {
    purpose: Purpose,
    bytes: Vec<u8>,
}

/// What a file is for, by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Purpose {
    /// A linked program of this name.
    Program(String),
    /// Symbols for `trace loadsyms`, under this name.
    Map(String),
}

impl Purpose {
    fn of(path: &[u8]) -> Result<Self, HostIoErrno> {
        let name = file_name(path)?;
        let is_map = name.ends_with(".map") || name.starts_with("System.map");
        let is_elf = name.ends_with(".elf") || name.starts_with("vmlinux");
        if is_map || is_elf {
            return Ok(Self::Map(name.to_string()));
        }
        stem(name).map(Self::Program)
    }

    fn limit(&self) -> usize {
        match self {
            Self::Program(_) => MAX_PROGRAM,
            Self::Map(_) => MAX_MAP,
        }
    }
}

/// An open file.
pub(super) enum File {
    /// Being written.
    Upload(Upload),
    /// Being read.
    Download(Vec<u8>),
    /// The kernel's, being read.
    Kernel(Arc<KernelFile>),
    /// Being read on and on.
    Stream(Arc<Mutex<Stream>>),
}

impl File {
    /// How many bytes it has. One that is read on and on has no size.
    fn size(&self) -> Result<usize, HostIoErrno> {
        match self {
            Self::Upload(upload) => Ok(upload.bytes.len()),
            Self::Download(bytes) => Ok(bytes.len()),
            Self::Kernel(file) => file.length().map_err(|_| HostIoErrno::EIO),
            Self::Stream(_) => Ok(0),
        }
    }
}

/// The files that are open; a descriptor is the index.
#[derive(Default)]
pub(super) struct Files([Option<File>; MAX_OPEN]);

impl Files {
    fn open(&mut self, file: File) -> Option<u32> {
        let free = self.0.iter().position(Option::is_none)?;
        self.0[free] = Some(file);
        u32::try_from(free).ok()
    }

    fn slot(&mut self, descriptor: u32) -> Option<&mut Option<File>> {
        self.0.get_mut(usize::try_from(descriptor).ok()?)
    }

    fn get(&mut self, descriptor: u32) -> Option<&mut File> {
        self.slot(descriptor)?.as_mut()
    }

    fn close(&mut self, descriptor: u32) -> Option<File> {
        self.slot(descriptor)?.take()
    }
}

impl Upload {
    /// Writes at `offset`; a hole before it is zeros.
    fn write(&mut self, offset: u64, data: &[u8]) -> Option<()> {
        let start = usize::try_from(offset).ok()?;
        let end = start
            .checked_add(data.len())
            .filter(|end| *end <= self.purpose.limit())?;
        if end > self.bytes.len() {
            self.bytes.try_reserve(end - self.bytes.len()).ok()?;
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(data);
        Some(())
    }
}

/// The name of a file without directories.
fn file_name(path: &[u8]) -> Result<&str, HostIoErrno> {
    Ok(split(text(path)?).1)
}

/// A path as text.
fn text(path: &[u8]) -> Result<&str, HostIoErrno> {
    if path.len() > MAX_NAME {
        return Err(HostIoErrno::ENAMETOOLONG);
    }
    core::str::from_utf8(path).map_err(|_| HostIoErrno::EINVAL)
}

/// A path's directory, where it has one, and the name of the file.
pub(super) fn split(path: &str) -> (Option<&str>, &str) {
    path.rsplit_once('/')
        .map_or((None, path), |(directory, name)| (Some(directory), name))
}

/// The name of a file without what follows its last dot.
fn stem(file: &str) -> Result<String, HostIoErrno> {
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    if stem.is_empty() {
        Err(HostIoErrno::EINVAL)
    } else {
        Ok(stem.to_string())
    }
}

fn errno<T>(errno: HostIoErrno) -> HostIoResult<T, DebugTarget> {
    Err(HostIoError::Errno(errno))
}

impl DebugTarget {
    /// Whether the server is free to look at files.
    fn check_free(&mut self) -> Result<(), HostIoErrno> {
        match self.commands {
            Commands::Allowed => Ok(()),
            Commands::Refused(why) => {
                self.notice(why.to_string());
                Err(HostIoErrno::EBUSY)
            }
        }
    }

    /// Reads of an open file. `take` gets what there is, at most `room` bytes, and says how many of them it has taken.
    pub(crate) fn read_file(
        &mut self,
        window: FileWindow,
        room: usize,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Result<usize, HostIoErrno> {
        let count = window.count.min(room);
        match self.files.get(window.descriptor) {
            Some(File::Stream(stream)) => {
                let stream = stream.clone();
                self.check_free()?;
                // What is read of a stream is gone: it has to fit with all its escapes.
                let mut bytes = alloc::vec![0; count.min(room / 2)];
                let read = self.server.read_stream(&stream, window.offset, &mut bytes);
                let read = read.ok_or(HostIoErrno::EINVAL)?;
                Ok(take(&bytes[..read]))
            }
            Some(File::Kernel(file)) => {
                let start = usize::try_from(window.offset).unwrap_or(usize::MAX);
                let read = file.read(start, count, take);
                read.map_err(|_| HostIoErrno::EIO)
            }
            Some(File::Download(bytes) | File::Upload(Upload { bytes, .. })) => {
                let start = usize::try_from(window.offset).unwrap_or(usize::MAX);
                let rest = bytes.get(start..).unwrap_or_default();
                Ok(take(&rest[..rest.len().min(count)]))
            }
            None => Err(HostIoErrno::EBADF),
        }
    }

    /// Whether there is a kernel to make a file of.
    pub(crate) fn offers_kernel_file(&self) -> bool {
        self.commands == Commands::Allowed && self.space.has_kernel_file()
    }

    /// Says why a request about a file is refused: to a tool at once, to a debugger, which shows but the number of an
    /// error, when its VM runs.
    pub(super) fn explain(&mut self, why: String) {
        match self.role {
            Role::Debugger => self.notice(why),
            Role::Tool => self.refusal = Some(why),
        }
    }
}

impl HostIo for DebugTarget {
    fn support_open(&mut self) -> Option<HostIoOpenOps<'_, Self>> {
        Some(self)
    }

    fn support_close(&mut self) -> Option<HostIoCloseOps<'_, Self>> {
        Some(self)
    }

    fn support_pwrite(&mut self) -> Option<HostIoPwriteOps<'_, Self>> {
        Some(self)
    }

    fn support_fstat(&mut self) -> Option<HostIoFstatOps<'_, Self>> {
        Some(self)
    }

    fn support_unlink(&mut self) -> Option<HostIoUnlinkOps<'_, Self>> {
        Some(self)
    }

    fn support_setfs(&mut self) -> Option<HostIoSetfsOps<'_, Self>> {
        Some(self)
    }
}

impl HostIoOpen for DebugTarget {
    fn open(
        &mut self,
        filename: &[u8],
        flags: HostIoOpenFlags,
        _mode: HostIoOpenMode,
    ) -> HostIoResult<u32, Self> {
        self.check_free().map_err(HostIoError::Errno)?;
        let file = if flags.contains(HostIoOpenFlags::O_CREAT) {
            File::Upload(Upload {
                purpose: Purpose::of(filename).map_err(HostIoError::Errno)?,
                bytes: Vec::new(),
            })
        } else {
            let path = text(filename).map_err(HostIoError::Errno)?;
            match self.open_to_read(path) {
                Some(file) => file,
                None => return errno(HostIoErrno::ENOENT),
            }
        };
        self.files
            .open(file)
            .map_or_else(|| errno(HostIoErrno::EMFILE), Ok)
    }
}

impl HostIoClose for DebugTarget {
    fn close(&mut self, fd: u32) -> HostIoResult<(), Self> {
        let upload = match self.files.close(fd) {
            Some(File::Upload(upload)) => upload,
            Some(File::Download(_) | File::Kernel(_) | File::Stream(_)) => return Ok(()),
            None => return errno(HostIoErrno::EBADF),
        };
        self.check_free().map_err(HostIoError::Errno)?;
        let name = match upload.purpose {
            Purpose::Program(name) => name,
            Purpose::Map(name) => {
                self.server.keep_map(name, upload.bytes);
                return Ok(());
            }
        };
        match self.server.load_program(&name, &upload.bytes, self.owner) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.explain(alloc::format!("{name}: {error}"));
                errno(match error {
                    StoreError::Full
                    | StoreError::NoMapMemory { .. }
                    | StoreError::SessionQuota { .. } => HostIoErrno::ENOSPC,
                    StoreError::InUse { .. } => HostIoErrno::EBUSY,
                    StoreError::Builtin(_) | StoreError::NotYours(_) => HostIoErrno::EPERM,
                    _ => HostIoErrno::EINVAL,
                })
            }
        }
    }
}

impl HostIoPwrite for DebugTarget {
    fn pwrite(&mut self, fd: u32, offset: u64, data: &[u8]) -> HostIoResult<u64, Self> {
        let Some(File::Upload(upload)) = self.files.get(fd) else {
            return errno(HostIoErrno::EBADF);
        };
        match upload.write(offset, data) {
            Some(()) => Ok(data.len() as u64),
            None => errno(HostIoErrno::EFBIG),
        }
    }
}

impl HostIoFstat for DebugTarget {
    fn fstat(&mut self, fd: u32) -> HostIoResult<HostIoStat, Self> {
        let Some(file) = self.files.get(fd) else {
            return errno(HostIoErrno::EBADF);
        };
        let size = file.size().map_err(HostIoError::Errno)? as u64;
        Ok(HostIoStat {
            st_dev: 0,
            st_ino: 0,
            st_mode: HostIoOpenMode::S_IFREG | HostIoOpenMode::S_IRUSR | HostIoOpenMode::S_IWUSR,
            st_nlink: 1,
            st_uid: 0,
            st_gid: 0,
            st_rdev: 0,
            st_size: size,
            st_blksize: 512,
            st_blocks: size.div_ceil(512),
            st_atime: 0,
            st_mtime: 0,
            st_ctime: 0,
        })
    }
}

impl HostIoUnlink for DebugTarget {
    fn unlink(&mut self, filename: &[u8]) -> HostIoResult<(), Self> {
        let stem = self
            .check_free()
            .and_then(|()| file_name(filename))
            .and_then(stem)
            .map_err(HostIoError::Errno)?;
        match self.server.periscope().unload_program(&stem) {
            Ok(()) => Ok(()),
            Err(StoreError::InUse { .. }) => errno(HostIoErrno::EBUSY),
            Err(StoreError::Builtin(_)) => errno(HostIoErrno::EPERM),
            Err(_) => errno(HostIoErrno::ENOENT),
        }
    }
}

impl HostIoSetfs for DebugTarget {
    fn setfs(&mut self, fs: FsKind) -> HostIoResult<(), Self> {
        match fs {
            // Whichever it is, they are the same files.
            FsKind::Stub | FsKind::Pid(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_a_file_is_for() {
        let purpose = |path: &[u8]| Purpose::of(path).ok();
        let program = |name: &str| Some(Purpose::Program(name.to_string()));
        assert_eq!(purpose(b"count.lp"), program("count"));
        assert_eq!(purpose(b"/tmp/my.tool.lp"), program("my.tool"));
        assert_eq!(purpose(b"count"), program("count"));
        let map = |name: &str| Some(Purpose::Map(name.to_string()));
        assert_eq!(purpose(b"/boot/System.map-6.1"), map("System.map-6.1"));
        assert_eq!(purpose(b"vmlinux.map"), map("vmlinux.map"));
        assert_eq!(purpose(b"/boot/vmlinux-6.1"), map("vmlinux-6.1"));
        assert_eq!(purpose(b"kernel.sym.elf"), map("kernel.sym.elf"));
        for bad in [&b".lp"[..], b"/", b"\xff", &[b'a'; MAX_NAME + 1]] {
            assert_eq!(purpose(bad), None);
        }
    }

    #[test]
    fn an_upload_is_bounded() {
        let mut upload = Upload {
            purpose: Purpose::Program(String::new()),
            bytes: Vec::new(),
        };
        assert!(upload.write(2, b"ab").is_some());
        assert_eq!(upload.bytes, [0, 0, b'a', b'b']);
        assert!(upload.write(MAX_PROGRAM as u64 - 1, b"ab").is_none());
        assert!(upload.write(u64::MAX, b"ab").is_none());
    }
}
