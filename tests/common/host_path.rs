//! The path of one host to a disk that others reach by paths of their own: a FUSE file that passes everything on, and
//! can be made to hang for this host alone.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fuser::{
    BackgroundSession, Config, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, LockOwner, OpenFlags, ReplyAttr,
    ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use parking_lot::{Condvar, Mutex};

use super::fuse::{FILE, attributes, unmount};
use super::until;

const NAME: &str = "disk";
const DSYNC: i32 = rustix::fs::OFlags::DSYNC.bits() as i32;
/// More than one host has in flight: all of them may hang.
const THREADS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hangs {
    Nothing,
    /// Finding the file.
    Lookups,
    /// Writes at this offset and after it.
    WritesFrom(u64),
    Everything,
}

impl Hangs {
    const fn has_write(self, offset: u64) -> bool {
        match self {
            Hangs::Nothing | Hangs::Lookups => false,
            Hangs::WritesFrom(first) => offset >= first,
            Hangs::Everything => true,
        }
    }
}

struct Shared {
    disk: File,
    hangs: Mutex<Hangs>,
    thawed: Condvar,
    /// Writes and lookups that hang.
    held_back: AtomicUsize,
    /// How often the file is open.
    opened: AtomicUsize,
}

impl Shared {
    fn pass_read(&self) {
        self.thawed.wait_while(&mut self.hangs.lock(), |hangs| *hangs == Hangs::Everything);
    }

    fn pass_counted(&self, hanging: impl Fn(Hangs) -> bool) {
        let mut hangs = self.hangs.lock();
        if hanging(*hangs) {
            self.held_back.fetch_add(1, Ordering::SeqCst);
            self.thawed.wait_while(&mut hangs, |hangs| hanging(*hangs));
            self.held_back.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn set(&self, hangs: Hangs) {
        *self.hangs.lock() = hangs;
        self.thawed.notify_all();
    }
}

/// What a worker does that is to be killed in a write that hangs: its first thread ends, and the one that writes does
/// not.
pub(crate) fn write_beside(file: &Path) {
    let file = File::options().write(true).open(file).unwrap();
    std::thread::spawn(move || file.write_all_at(&[0; 512], 0).unwrap()).join().unwrap();
}

/// Unmounted at the end.
pub(crate) struct HostPath {
    shared: Arc<Shared>,
    /// The file to open.
    pub(crate) file: PathBuf,
    session: Option<BackgroundSession>,
}

impl HostPath {
    /// A path to `disk`, mounted as a folder `name` of `folder`.
    pub(crate) fn new(folder: &Path, name: &str, disk: &Path) -> HostPath {
        let point = folder.join(name);
        fs::create_dir(&point).unwrap();
        // What a write has reached, every path shows.
        let disk = OpenOptions::new().read(true).write(true).custom_flags(DSYNC).open(disk).unwrap();
        let (hangs, thawed) = (Mutex::new(Hangs::Nothing), Condvar::new());
        let shared =
            Arc::new(Shared { disk, hangs, thawed, held_back: AtomicUsize::new(0), opened: AtomicUsize::new(0) });
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(Server(shared.clone()), &point, &config).unwrap();
        HostPath { shared, file: point.join(NAME), session: Some(session) }
    }

    /// From now on nothing is answered, and no write lands. At least one hangs when this returns.
    #[track_caller]
    pub(crate) fn hang(&self) {
        self.hang_writes_from(0);
        self.await_write();
        self.shared.set(Hangs::Everything);
    }

    /// From now on no write at this offset or after it lands.
    pub(crate) fn hang_writes_from(&self, offset: u64) {
        self.shared.set(Hangs::WritesFrom(offset));
    }

    /// From now on nobody finds the file who has not opened it yet.
    pub(crate) fn hang_lookups(&self) {
        self.shared.set(Hangs::Lookups);
    }

    /// Waits until a write hangs.
    #[track_caller]
    pub(crate) fn await_write(&self) {
        until("a write that hangs", || self.held_back() > 0);
    }

    /// What was held back lands now.
    pub(crate) fn thaw(&self) {
        self.shared.set(Hangs::Nothing);
    }

    /// How many writes, or lookups, hang.
    pub(crate) fn held_back(&self) -> usize {
        self.shared.held_back.load(Ordering::SeqCst)
    }
}

impl Drop for HostPath {
    fn drop(&mut self) {
        self.thaw();
        unmount(&mut self.session, self.file.parent().unwrap(), || self.shared.opened.load(Ordering::SeqCst) > 0);
    }
}

struct Server(Arc<Shared>);

impl Server {
    fn len(&self) -> u64 {
        self.0.disk.metadata().unwrap().len()
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some(NAME) => {
                self.0.pass_counted(|hangs| hangs == Hangs::Lookups);
                reply.entry(&Duration::ZERO, &attributes(FILE, self.len()), fuser::Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &attributes(ino, self.len()));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.0.opened.fetch_add(1, Ordering::SeqCst);
        // One that hangs holds up no other one.
        reply.opened(FileHandle(1), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.opened.fetch_sub(1, Ordering::SeqCst);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.pass_read();
        let mut bytes = vec![0; size as usize];
        match self.0.disk.read_at(&mut bytes, offset) {
            Ok(count) => reply.data(&bytes[..count]),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.0.pass_counted(|hangs| hangs.has_write(offset));
        match self.0.disk.write_all_at(data, offset) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap()),
            Err(_) => reply.error(Errno::EIO),
        }
    }
}
