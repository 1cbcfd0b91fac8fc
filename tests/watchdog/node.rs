//! A watchdog device without a machine to reset: a FUSE file that does what Linux says of `/dev/watchdog`, and keeps
//! account of it.
//!
//! Opening it starts it, one process at a time has it, every write and setting feeds it, and closing it feeds it too
//! unless the last thing written was the character V, which switches it off.

use std::ffi::{OsStr, c_int};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    BackgroundSession, Config, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags, LockOwner, OpenFlags,
    ReplyAttr, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use leasehold::Time;
use leasehold::disk::{BootClock, Clock};
use parking_lot::Mutex;

use crate::common::until;

use super::common::fuse::{FILE, attributes, unmount};

/// Of opcodes, as `linux/watchdog.h` makes them: the letter W and a number.
const GET_SUPPORT: u32 = 0x8028_5700;
const KEEP_ALIVE: u32 = 0x8004_5705;
const SET_TIMEOUT: u32 = 0xc004_5706;
pub(crate) const CAN_SET_TIMEOUT: u32 = 0x80;
pub(crate) const HAS_MAGIC_CLOSE: u32 = 0x100;

/// What the device can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    pub(crate) options: u32,
    /// The seconds that it is set to when it is asked for so many.
    pub(crate) takes: fn(u64) -> u64,
}

impl Default for Model {
    fn default() -> Model {
        Model { options: CAN_SET_TIMEOUT | HAS_MAGIC_CLOSE, takes: |asked| asked }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Account {
    pub(crate) opened: usize,
    pub(crate) open: bool,
    /// When it was fed last, by whatever.
    pub(crate) fed: Option<Time>,
    /// How often it was set or kept alive.
    pub(crate) feedings: usize,
    pub(crate) timeout: Duration,
    /// It would have reset the machine before it was fed again, or switched off.
    pub(crate) fired: bool,
    pub(crate) counts: bool,
    magic: bool,
}

impl Account {
    /// When it fires unless it is fed; `None` when it is off.
    pub(crate) fn fires_at(&self) -> Option<Time> {
        self.fed.filter(|_| self.counts).map(|fed| fed + self.timeout)
    }

    fn feed(&mut self) {
        let now = BootClock.now();
        self.fired |= self.fires_at().is_some_and(|fires| now >= fires);
        self.fed = Some(now);
    }
}

#[derive(Debug, Default)]
struct Shared {
    account: Mutex<Account>,
}

/// Unmounted at the end.
pub(crate) struct Node {
    shared: Arc<Shared>,
    pub(crate) path: PathBuf,
    session: Option<BackgroundSession>,
}

impl Node {
    pub(crate) fn new(folder: &Path, model: Model) -> Node {
        let point = folder.join("dev");
        fs::create_dir(&point).unwrap();
        let shared = Arc::new(Shared::default());
        shared.account.lock().timeout = Duration::from_secs(60);
        let server = Server { shared: shared.clone(), model };
        let session = fuser::spawn_mount(server, &point, &Config::default()).unwrap();
        Node { shared, path: point.join("watchdog"), session: Some(session) }
    }

    pub(crate) fn account(&self) -> Account {
        *self.shared.account.lock()
    }

    /// The kernel closes behind the back of who closed.
    pub(crate) fn await_closed(&self) {
        until("the close of the device", || !self.account().open);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        unmount(&mut self.session, self.path.parent().unwrap(), || self.shared.account.lock().open);
    }
}

struct Server {
    shared: Arc<Shared>,
    model: Model,
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some("watchdog") => reply.entry(&Duration::ZERO, &attributes(FILE, 0), fuser::Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &attributes(ino, 0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut account = self.shared.account.lock();
        if account.open {
            return reply.error(Errno::EBUSY);
        }
        account.feed();
        account.opened += 1;
        account.open = true;
        account.counts = true;
        account.magic = false;
        reply.opened(FileHandle(1), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut account = self.shared.account.lock();
        account.feed();
        account.magic = data.contains(&b'V');
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        data: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        let mut account = self.shared.account.lock();
        match command {
            GET_SUPPORT => {
                let mut info = [0; 40];
                info[..4].copy_from_slice(&self.model.options.to_ne_bytes());
                reply.ioctl(0, &info);
            }
            SET_TIMEOUT => {
                let asked = u64::try_from(c_int::from_ne_bytes(data.try_into().unwrap())).unwrap();
                let seconds = (self.model.takes)(asked);
                account.feed();
                account.timeout = Duration::from_secs(seconds);
                account.feedings += 1;
                reply.ioctl(0, &c_int::try_from(seconds).unwrap().to_ne_bytes());
            }
            KEEP_ALIVE => {
                account.feed();
                account.feedings += 1;
                reply.ioctl(0, &c_int::to_ne_bytes(0));
            }
            _ => reply.error(Errno::ENOTTY),
        }
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
        let mut account = self.shared.account.lock();
        account.feed();
        account.open = false;
        if account.magic {
            account.counts = false;
        }
        reply.ok();
    }
}
