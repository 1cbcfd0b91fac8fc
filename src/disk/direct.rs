//! Block devices and regular files, past the page cache.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::{Errno, retry_on_intr};

use super::pool::{Buffer, Job, Pool, Refused};
use super::{Claim, Disk, Fault, LockOutcome, Op, Process, Reply, Request};
use crate::format::SectorSize;

/// The most bytes moved by one system call: bounds what a worker's buffer keeps.
const CHUNK_BYTES: usize = 1 << 20;

/// What a disk is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reading and writing.
    ReadWrite,
    /// Reading. Writes and locks are refused.
    ReadOnly,
}

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Nothing is there.
    #[error("{} does not exist", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The process may not open it.
    #[error("permission to open {} is denied", path.display())]
    PermissionDenied {
        /// The path.
        path: PathBuf,
    },
    /// It is a directory.
    #[error("{} is a directory", path.display())]
    Directory {
        /// The path.
        path: PathBuf,
    },
    /// It is a FIFO.
    #[error("{} is a FIFO", path.display())]
    Fifo {
        /// The path.
        path: PathBuf,
    },
    /// It is something else that is neither a block device nor a regular file.
    #[error("{} is a {kind}, neither a block device nor a regular file", path.display())]
    WrongKind {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The device, or the file system of the file, is read-only, and it was to be opened for writing.
    #[error("{} is read-only", path.display())]
    ReadOnly {
        /// The path.
        path: PathBuf,
    },
    /// The file system has no direct I/O (`O_DIRECT`): others would not see what this host writes.
    #[error("the file system of {} has no direct I/O", path.display())]
    NoDirectIo {
        /// The path.
        path: PathBuf,
    },
    /// The device has logical sectors of neither 512 nor 4096 bytes.
    #[error("{} has sectors of {bytes} bytes: only 512 and 4096 are supported", path.display())]
    SectorSize {
        /// The path.
        path: PathBuf,
        /// Its logical sector size.
        bytes: u32,
    },
    /// The system reported another error.
    #[error("can't open {}", path.display())]
    Os {
        /// The path.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// A block device or a regular file, read and written with `O_DIRECT | O_DSYNC`.
///
/// A file without a name fails every request with [`Fault::Gone`]: it was deleted, or another file was renamed over
/// it. One that has another link left is not gone, though its path may name another file by now: whoever moves a file
/// away under its holders and puts another in its place makes two lockspaces of one. Nor is a file gone that had no
/// link when it was opened (`O_TMPFILE`, a file system that counts none). On NFS a file that this client deletes keeps
/// a hidden name while it is open, and is not gone; one that another client deletes fails every request with `ESTALE`.
/// A block device that is gone fails them, too, whether its node is there or not.
///
/// Requests block in threads of their own, named `leasehold-io`: up to 4 for [`Lane::Renewal`](super::Lane::Renewal)
/// and 64 for [`Lane::General`](super::Lane::General), started as they are needed; up to 4096 more requests wait in
/// each lane. Requests of more than 1 MiB are done in steps.
///
/// When it is dropped, requests that no thread has begun are abandoned. Those begun end when the kernel ends them, and
/// the file stays open, with its locks, until then.
///
/// In a child process made by `fork` every request and every lock fails with [`Fault::Forked`]. The child keeps the
/// file open, with the locks that were taken on it, until it ends or calls `exec`.
#[derive(Debug)]
pub struct DirectDisk {
    medium: Arc<Medium>,
    pool: Arc<Pool<Io>>,
}

/// What a request needs of the disk. Whoever works on one shares it: the description must outlive the request.
#[derive(Debug)]
struct Medium {
    file: OwnedFd,
    path: PathBuf,
    access: Access,
    /// `None` for a regular file.
    sector_size: Option<SectorSize>,
    /// Whether it had a name that it can lose.
    named: bool,
    len: AtomicU64,
    process: Process,
}

impl DirectDisk {
    /// Opens a block device or a regular file; never creates one. A FIFO or a device of another kind is refused
    /// without being opened. The call itself may block, as long as the device or the file system below hangs.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<DirectDisk, OpenError> {
        let path = path.as_ref();
        let medium = Medium::open(path, access)?;
        Ok(DirectDisk { medium: Arc::new(medium), pool: Pool::new() })
    }
}

impl Disk for DirectDisk {
    fn describe(&self) -> String {
        self.medium.path.display().to_string()
    }

    fn sector_size(&self) -> Option<SectorSize> {
        self.medium.sector_size
    }

    fn len(&self) -> u64 {
        self.medium.len.load(Ordering::Relaxed)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn submit(&self, request: Request, reply: Reply) {
        if let Err(fault) = self.medium.check(&request) {
            return reply.complete(Err(fault));
        }
        let lane = request.lane;
        match self.pool.submit(lane, Io { medium: self.medium.clone(), request, reply }) {
            Ok(()) => {}
            Err(Refused::QueueFull(io)) => io.reply.complete(Err(Fault::QueueFull)),
            Err(Refused::NoThread(io, error)) => io.reply.complete(Err(Fault::os("starting a thread", error))),
        }
    }

    fn lock(&self, offset: u64, len: u64) -> Result<LockOutcome, Fault> {
        self.medium.fcntl_lock(libc::F_WRLCK, offset, len)
    }

    fn unlock(&self, offset: u64, len: u64) -> Result<(), Fault> {
        self.medium.fcntl_lock(libc::F_UNLCK, offset, len).map(|_| ())
    }

    fn claim(&self) -> Result<Claim, Fault> {
        self.medium.claim()
    }
}

impl Drop for DirectDisk {
    fn drop(&mut self) {
        // The threads are the parent's; one of them may have been in here when the child was made.
        if !self.medium.process.is_parent() {
            self.pool.close();
        }
    }
}

/// A request on its way to the kernel.
#[derive(Debug)]
struct Io {
    medium: Arc<Medium>,
    request: Request,
    reply: Reply,
}

impl Job for Io {
    fn run(self, buffer: &mut Buffer) {
        let outcome = self.medium.perform(&self.request, buffer);
        // Before the reply: who has all replies and drops the disk has then closed it, and given up its locks.
        drop(self.medium);
        self.reply.complete(outcome);
    }
}

impl Medium {
    fn open(path: &Path, access: Access) -> Result<Medium, OpenError> {
        let os = |errno: Errno| match errno {
            Errno::NOENT => OpenError::NotFound { path: path.into() },
            Errno::ACCESS | Errno::PERM => OpenError::PermissionDenied { path: path.into() },
            Errno::ROFS => OpenError::ReadOnly { path: path.into() },
            errno => OpenError::Os { path: path.into(), source: errno.into() },
        };
        // Opening can have effects: a tape rewinds, a watchdog starts, a FIFO waits for its other end.
        let before = rustix::fs::stat(path).map_err(os)?;
        refuse_kind(path, &before)?;
        let mode = match access {
            Access::ReadWrite => OFlags::RDWR,
            Access::ReadOnly => OFlags::RDONLY,
        };
        // NONBLOCK in case that it has become a FIFO meanwhile.
        let flags = mode | OFlags::DIRECT | OFlags::DSYNC | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let opened = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()));
        let file = opened.map_err(|errno| match errno {
            Errno::INVAL => OpenError::NoDirectIo { path: path.into() },
            Errno::ACCESS | Errno::PERM if is_read_only_device(&before) => OpenError::ReadOnly { path: path.into() },
            errno => os(errno),
        })?;
        let stat = rustix::fs::fstat(&file).map_err(os)?;
        let is_device = refuse_kind(path, &stat)?;
        if is_device && access == Access::ReadWrite && is_read_only_device(&stat) {
            return Err(OpenError::ReadOnly { path: path.into() });
        }
        let flags = rustix::fs::fcntl_getfl(&file).map_err(os)?;
        rustix::fs::fcntl_setfl(&file, flags & !OFlags::NONBLOCK).map_err(os)?;
        let sector_size = if is_device {
            match rustix::fs::ioctl_blksszget(&file).map_err(os)? {
                512 => Some(SectorSize::B512),
                4096 => Some(SectorSize::B4096),
                bytes => return Err(OpenError::SectorSize { path: path.into(), bytes }),
            }
        } else {
            None
        };
        let medium = Medium {
            file,
            path: path.into(),
            access,
            sector_size,
            // As the path was looked up: it may have been deleted since.
            named: before.st_nlink > 0,
            len: AtomicU64::new(0),
            process: Process::this(),
        };
        medium.look().map_err(os)?;
        Ok(medium)
    }

    fn fcntl_lock(&self, kind: libc::c_int, offset: u64, len: u64) -> Result<LockOutcome, Fault> {
        if self.process.is_parent() {
            return Err(Fault::Forked);
        }
        if self.access == Access::ReadOnly {
            return Err(Fault::ReadOnly);
        }
        let (Ok(l_start), Ok(l_len)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) else {
            return Err(Fault::BeyondEnd { len: self.len.load(Ordering::Relaxed) });
        };
        let range = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start,
            l_len,
            l_pid: 0,
        };
        use nix::errno::Errno;
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&range)) {
            Ok(_) => Ok(LockOutcome::Locked),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(LockOutcome::HeldByAnother),
            Err(Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => Ok(LockOutcome::Unsupported),
            Err(errno) => Err(Fault::os("locking", errno)),
        }
    }

    /// Opens a block device once more, exclusively.
    fn claim(&self) -> Result<Claim, Fault> {
        if self.process.is_parent() {
            return Err(Fault::Forked);
        }
        if self.sector_size.is_none() {
            return Ok(Claim::default());
        }
        let os = |errno: Errno| match errno {
            Errno::BUSY => Fault::InUse,
            errno => Fault::os("claiming", errno),
        };
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let claimed = retry_on_intr(|| rustix::fs::open(&self.path, flags, Mode::empty())).map_err(os)?;
        let device = |file: &OwnedFd| rustix::fs::fstat(file).map(|stat| stat.st_rdev).map_err(os);
        match device(&claimed)? == device(&self.file)? {
            true => Ok(Claim { _held: Some(claimed) }),
            false => Err(Fault::Gone),
        }
    }

    /// Asks the system for the length, and whether a name leads to it.
    fn look(&self) -> Result<(u64, bool), Errno> {
        let (len, gone) = match self.sector_size {
            Some(_) => (rustix::fs::seek(&self.file, SeekFrom::End(0))?, false),
            None => {
                let stat = rustix::fs::fstat(&self.file)?;
                (u64::try_from(stat.st_size).unwrap_or(0), self.named && stat.st_nlink == 0)
            }
        };
        self.len.store(len, Ordering::Relaxed);
        Ok((len, gone))
    }

    /// What can be told without asking the medium.
    fn check(&self, request: &Request) -> Result<(), Fault> {
        if self.process.is_parent() {
            return Err(Fault::Forked);
        }
        request.check_alignment(self.sector_size)?;
        if request.is_write() && self.access == Access::ReadOnly {
            return Err(Fault::ReadOnly);
        }
        Ok(())
    }

    fn perform(&self, request: &Request, buffer: &mut Buffer) -> Result<Vec<u8>, Fault> {
        let doing = if request.is_write() { "writing" } else { "reading" };
        let beyond = |len| Fault::BeyondEnd { len };
        let look = || self.look().map_err(|errno| Fault::os(doing, errno));
        let known = self.len.load(Ordering::Relaxed);
        let end = request.offset.checked_add(request.len() as u64).ok_or(beyond(known))?;
        // A write beyond the end would make a regular file longer, also one that was cut short since: what comes
        // after is then holes, which read as records that are free.
        if end > known || self.sector_size.is_none() {
            match look()? {
                (_, true) => return Err(Fault::Gone),
                (len, false) if end > len => return Err(beyond(len)),
                (_, false) => {}
            }
        }
        let failed = |errno: Errno, done: usize| match errno {
            Errno::INVAL if self.sector_size.is_none() && done == 0 => {
                Fault::LargerSectors { offset: request.offset, len: request.len() }
            }
            errno => Fault::os(doing, errno),
        };
        let wanted = request.len();
        match &request.op {
            Op::Read { .. } => {
                let mut data = Vec::with_capacity(wanted);
                while data.len() < wanted {
                    let space = buffer.bytes(CHUNK_BYTES.min(wanted - data.len()));
                    let offset = request.offset + data.len() as u64;
                    let got = retry_on_intr(|| rustix::io::pread(&self.file, &mut *space, offset))
                        .map_err(|errno| failed(errno, data.len()))?;
                    data.extend_from_slice(&space[..got]);
                    if !advanced(got) {
                        let (len, _) = look()?;
                        return Err(if len < end { beyond(len) } else { Fault::Short { got: data.len(), wanted } });
                    }
                }
                Ok(data)
            }
            Op::Write { data } => {
                let mut done = 0;
                while done < wanted {
                    let rest = &data[done..];
                    let rest = &rest[..rest.len().min(CHUNK_BYTES)];
                    let space = buffer.bytes(rest.len());
                    space.copy_from_slice(rest);
                    let offset = request.offset + done as u64;
                    let got = retry_on_intr(|| rustix::io::pwrite(&self.file, space, offset))
                        .map_err(|errno| failed(errno, done))?;
                    done += got;
                    if !advanced(got) && done < wanted {
                        return Err(Fault::Short { got: done, wanted });
                    }
                }
                Ok(Vec::new())
            }
        }
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        // Closing does not end the locks while a child process that is just about to call exec has the file open too.
        // A child that drops its copy of this must leave its parent's locks alone.
        if self.access == Access::ReadWrite {
            // An error leaves it to the closing.
            let _ = self.fcntl_lock(libc::F_UNLCK, 0, 0);
        }
    }
}

/// Whether a transfer of `bytes` leaves an offset from which the next one can start.
fn advanced(bytes: usize) -> bool {
    bytes > 0 && bytes.is_multiple_of(512)
}

/// Whether it is a block device, or else a regular file.
fn refuse_kind(path: &Path, stat: &Stat) -> Result<bool, OpenError> {
    let path = path.into();
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => return Ok(true),
        FileType::RegularFile => return Ok(false),
        FileType::Directory => return Err(OpenError::Directory { path }),
        FileType::Fifo => return Err(OpenError::Fifo { path }),
        FileType::CharacterDevice => "character device",
        FileType::Socket => "socket",
        _ => "file of unknown kind",
    };
    Err(OpenError::WrongKind { path, kind })
}

/// Whether it is a block device that the kernel calls read-only. Some kernels let such a one be opened for writing.
fn is_read_only_device(stat: &Stat) -> bool {
    if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
        return false;
    }
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let flag = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro"));
    flag.is_ok_and(|flag| flag.trim() == "1")
}
