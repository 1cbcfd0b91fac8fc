//! The seam between the engine and what it runs on: storage and the clock.
//!
//! A [`Disk`] takes a [`Request`] together with a [`Reply`] and never blocks. The reply is completed when the medium
//! reports the end of the request, however late that is: a request can't be cancelled, and one that nobody waits for
//! any more may still reach the medium. Whoever gives up waiting keeps account of it through [`channel_with`].
//!
//! | implementation | for |
//! |---|---|
//! | [`DirectDisk`] | block devices and regular files, past the page cache |
//! | [`MemoryDisk`] | tests and examples |
//! | [`FaultDisk`] | tests: holds back, fails and delays what passes to another disk |
//!
//! Nothing here knows what the bytes mean.

mod clock;
mod direct;
mod fault;
mod memory;
mod pool;
mod process;
mod reply;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::format::SectorSize;

pub use clock::{BootClock, Clock, ManualClock};
pub use direct::{Access, DirectDisk, OpenError};
pub use fault::{FaultDisk, Plan};
pub use memory::MemoryDisk;
pub(crate) use process::Process;
pub use reply::{Pending, Reply, channel, channel_with};

/// Storage that is read and written in whole sectors.
///
/// One value stands for one open file description: locks taken through it exclude those of every other value, also of
/// one for the same medium in this process.
pub trait Disk: Send + Sync + fmt::Debug {
    /// What messages call it: the path.
    fn describe(&self) -> String;

    /// The logical sector size of a block device. `None` when the medium has none of its own (a regular file,
    /// memory): then both sizes are possible.
    fn sector_size(&self) -> Option<SectorSize>;

    /// Bytes on the medium, as last seen.
    fn len(&self) -> u64;

    /// Whether the medium has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether other processes of this machine may have the same medium.
    fn is_shared(&self) -> bool {
        false
    }

    /// Starts `request` and returns at once. `reply` is completed exactly once: with the bytes of a read, with no
    /// bytes for a write that is durable, or with a [`Fault`]; from any thread, and possibly before this returns.
    ///
    /// Requests are not ordered among each other, even those for one sector.
    ///
    /// A disk that others reach by a name says [`Fault::Gone`] to every request when it has none any more, at the cost
    /// of no I/O. A holder of leases loses them by that at its next renewal. Where the medium can't lose its name, as
    /// memory, there is nothing to do.
    fn submit(&self, request: Request, reply: Reply);

    /// Locks `len` bytes from `offset` (0: all from there on) against every other open file description on this host
    /// that locks the same inode. Never waits for a holder. The lock ends with [`Disk::unlock`], or when this value
    /// is dropped and the last request submitted to it has ended, so that it outlives every write in flight.
    ///
    /// Locking what this value has locked already succeeds.
    ///
    /// # Errors
    /// [`Fault::ReadOnly`] when the disk is open for reading only, [`Fault::Os`] for what the system reports.
    fn lock(&self, offset: u64, len: u64) -> Result<LockOutcome, Fault>;

    /// Claims the medium against whatever on this machine would have it for itself: until the claim is dropped nothing
    /// mounts it, swaps to it, or makes it part of an array or a volume. It keeps no other host and no reader away.
    /// Where the system knows no such claims, as for regular files and memory, there is nothing to do. A disk that
    /// wraps another one forwards it.
    ///
    /// # Errors
    /// [`Fault::InUse`] when something has it, [`Fault::Os`] for what the system reports.
    fn claim(&self) -> Result<Claim, Fault> {
        Ok(Claim::default())
    }

    /// Gives up the lock on a range, or on a part of one. A range that is not locked is no error.
    ///
    /// # Errors
    /// As for [`Disk::lock`].
    fn unlock(&self, offset: u64, len: u64) -> Result<(), Fault>;
}

/// What [`Disk::claim`] has claimed, for as long as it is kept.
#[derive(Debug, Default)]
#[must_use]
pub struct Claim {
    /// A description of a block device that was opened exclusively.
    _held: Option<OwnedFd>,
}

/// One read or write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where it starts, in bytes: a multiple of the sector size.
    pub offset: u64,
    /// Which requests it may have to wait behind.
    pub lane: Lane,
    /// What to do there.
    pub op: Op,
}

impl Request {
    /// Bytes read or written.
    pub fn len(&self) -> usize {
        match &self.op {
            Op::Read { len } => *len,
            Op::Write { data } => data.len(),
        }
    }

    /// Whether there is nothing to read or write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is a write.
    pub fn is_write(&self) -> bool {
        matches!(self.op, Op::Write { .. })
    }

    /// Whether it is of whole sectors; of 512 bytes where the medium doesn't say.
    fn check_alignment(&self, size: Option<SectorSize>) -> Result<(), Fault> {
        let sector = size.unwrap_or(SectorSize::B512).bytes() as u64;
        let (offset, len) = (self.offset, self.len());
        match offset.is_multiple_of(sector) && (len as u64).is_multiple_of(sector) {
            true => Ok(()),
            false => Err(Fault::Unaligned { offset, len, sector }),
        }
    }
}

/// What a [`Request`] does. Lengths are in bytes, and multiples of the sector size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read `len` bytes.
    Read {
        /// How many.
        len: usize,
    },
    /// Write `data`; complete when it is durable.
    Write {
        /// The bytes.
        data: Vec<u8>,
    },
}

/// Requests of one lane never wait behind those of the other: a renewal must go out on time while acquisitions hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Renewals and what they need.
    Renewal,
    /// Everything else.
    General,
}

/// What came of [`Disk::lock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockOutcome {
    /// This value holds the range now.
    Locked,
    /// Another description holds a part of the range.
    HeldByAnother,
    /// The medium has no such locks.
    Unsupported,
}

/// Why a request failed. It says nothing about what is on the medium: a write that failed may have been done, in part
/// or in full, unless the variant says otherwise.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The system reported an error, which is the source.
    #[error("{doing} failed")]
    Os {
        /// What was being done: reading, writing, locking.
        doing: &'static str,
        /// The error.
        #[source]
        source: Arc<io::Error>,
    },
    /// The request ends beyond the end of the medium. Nothing was written.
    #[error("the request ends beyond the {len} bytes that are there")]
    BeyondEnd {
        /// Bytes on the medium.
        len: u64,
    },
    /// Offset or length is no multiple of the sector size. Nothing was done.
    #[error("{len} bytes at offset {offset} are not whole sectors of {sector} bytes")]
    Unaligned {
        /// The request's offset.
        offset: u64,
        /// The request's length.
        len: usize,
        /// The sector size, or 512 where the medium has none of its own.
        sector: u64,
    },
    /// The medium refused whole sectors of 512 bytes. Nothing was done.
    #[error("{len} bytes at offset {offset} were refused: the device below has larger sectors, use 4096 bytes")]
    LargerSectors {
        /// The request's offset.
        offset: u64,
        /// The request's length.
        len: usize,
    },
    /// The system did less than asked for, and gave no reason.
    #[error("only {got} of {wanted} bytes were done")]
    Short {
        /// Bytes done.
        got: usize,
        /// Bytes asked for.
        wanted: usize,
    },
    /// A write or a lock on a disk that is open for reading only. Nothing was done.
    #[error("the disk is open for reading only")]
    ReadOnly,
    /// Too many requests wait already. Nothing was done.
    #[error("too many requests wait for the disk")]
    QueueFull,
    /// No name leads to the medium any more: a file that was deleted, or that another file was renamed over. Hosts that
    /// open the path find another file or none. Nothing was done.
    #[error("it was deleted, or another file has taken its place")]
    Gone,
    /// Something on this machine has the device for itself: it is mounted, swapped to, or part of an array or a volume.
    /// Nothing was done.
    #[error("it is in use on this machine: mounted, swapped to, or part of an array or a volume")]
    InUse,
    /// This process was forked from the one that opened the disk. Nothing was done.
    #[error("this process was forked from the one that opened the disk")]
    Forked,
    /// The request was given up: its reply was dropped without an answer.
    #[error("the request was abandoned")]
    Abandoned,
}

impl Fault {
    /// A [`Fault::Os`].
    pub fn os(doing: &'static str, error: impl Into<io::Error>) -> Fault {
        Fault::Os { doing, source: Arc::new(error.into()) }
    }

    /// A [`Fault::Os`] with the error number `errno`, which tests inject.
    pub fn errno(doing: &'static str, errno: i32) -> Fault {
        Fault::os(doing, io::Error::from_raw_os_error(errno))
    }

    /// The error number, where the system gave one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Fault::Os { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
