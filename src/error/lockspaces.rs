//! Formatting and opening a lockspace, finding and creating resources.

use super::{AcquireError, Damage, DiskError, LossReason};
use crate::disk::Fault;
use crate::format::Corrupt;
use crate::timeouts::TimeoutsError;
use crate::types::{HostId, Name, NameError};

/// Why a lockspace was not formatted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The device already holds a lockspace, and overwriting it was not asked for. Nothing was written.
    #[error("{device} already holds the lockspace {lockspace}")]
    Exists {
        /// Path of the device.
        device: String,
        /// The name of the lockspace that is there.
        lockspace: Name,
    },
    /// There is something on the device that is no lockspace, and overwriting it was not asked for. Nothing was
    /// written.
    #[error("{device} is not blank: there is {} at offset {offset}", what.unwrap_or("something"))]
    NotBlank {
        /// Path of the device.
        device: String,
        /// Where the first byte stands that is not zero, of those that were looked at.
        offset: u64,
        /// What it is, if it is known: what is left of a lockspace, or a lease.
        what: Option<&'static str>,
    },
    /// Something on this machine has the device for itself: it is mounted, swapped to, or part of an array or a volume.
    /// Nothing was written, also where overwriting was asked for.
    #[error(
        "{device} is in use on this machine: mounted, swapped to, part of something, or claimed by another program"
    )]
    Busy {
        /// Path of the device.
        device: String,
    },
    /// The system refused to say whether the device is in use on this machine. Nothing was written.
    #[error("{device} can't be claimed")]
    Claim {
        /// Path of the device.
        device: String,
        /// Why.
        #[source]
        source: Fault,
    },
    /// A host uses the lockspace that is there. Nothing was written.
    #[error("host {host} ({name}) is live in the lockspace on {device}")]
    InUse {
        /// Path of the device.
        device: String,
        /// The host that was seen to renew its lease.
        host: HostId,
        /// Its name.
        name: Name,
    },
    /// A host, or another format, wrote to the host records meanwhile. There is no lockspace now, unless that one has
    /// made it; formatting again is safe.
    #[error("something else wrote to {device} at offset {offset} while it was formatted")]
    Overtaken {
        /// Path of the device.
        device: String,
        /// The first byte that was found changed.
        offset: u64,
    },
    /// All was written, and what is there now is something else: the device does not keep what it confirms, or somebody
    /// else writes to it.
    #[error("what was written to {device} does not read back")]
    NotReadBack {
        /// Path of the device.
        device: String,
        /// What is there.
        #[source]
        source: OpenError,
    },
    /// The device, or this machine, is too slow for the I/O timeout of the lockspace that was there: what was read was
    /// too old each time to justify a write. Formatting again is safe.
    #[error("{device} is too slow for the I/O timeout of the lockspace that is there")]
    Slow {
        /// Path of the device.
        device: String,
    },
    /// The device has no room for the lockspace, its index, the lease that guards it, and one resource. Nothing was
    /// written.
    #[error("{device} has {len} bytes, a lockspace with room for one resource needs at least {needed}")]
    TooSmall {
        /// Path of the device.
        device: String,
        /// Its size.
        len: u64,
        /// The least that is needed.
        needed: u64,
    },
    /// The sector size doesn't go with the device, or the area size not with the sector size. Nothing was written.
    #[error("{0}")]
    Geometry(String),
    /// The timeouts fail an inequality. Nothing was written.
    #[error(transparent)]
    Timeouts(#[from] TimeoutsError),
    /// The name is no name. Nothing was written.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The index can't have that many entries. Nothing was written.
    #[error("an index of areas of this size has room for 1 to {max} resources, not {asked}")]
    MaxResources {
        /// What was asked for.
        asked: u32,
        /// The most there can be.
        max: u32,
    },
    /// An I/O failed. There may be no lockspace on the device now; formatting again is safe.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why a lockspace could not be opened. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There are no delta records at the start of the device.
    #[error("{device} holds no lockspace")]
    NotALockspace {
        /// Path of the device.
        device: String,
        /// What is wrong with its first sector.
        #[source]
        reason: Corrupt,
        /// Whether all that was read of it is zero: what there is elsewhere is not known.
        blank: bool,
    },
    /// Formatting was begun and not completed.
    #[error("the lockspace on {device} was not completely formatted")]
    Incomplete {
        /// Path of the device.
        device: String,
    },
    /// The device is smaller than its lockspace says.
    #[error("{device} has {len} bytes, too few for a lockspace of {needed}")]
    TooSmall {
        /// Path of the device.
        device: String,
        /// Its size.
        len: u64,
        /// What the lockspace's area needs.
        needed: u64,
    },
    /// The device has other sectors than the lockspace was formatted for.
    #[error("the lockspace on {device} is for sectors of {formatted} bytes, the device has {actual}")]
    SectorSize {
        /// Path of the device.
        device: String,
        /// What the records say.
        formatted: usize,
        /// What the device says.
        actual: usize,
    },
    /// An I/O failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why a resource was not found, or the index not read. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// The index has no such name.
    #[error("there is no resource {name} on {device}")]
    NotFound {
        /// Path of the device.
        device: String,
        /// What was looked for.
        name: Name,
        /// The names that are there.
        known: Vec<Name>,
    },
    /// The lockspace has no index: sanlock's tools make one only when asked to. Resources are named with their offsets.
    #[error("the lockspace on {device} has no resource index")]
    NoIndex {
        /// Path of the device.
        device: String,
    },
    /// The index is damaged.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The offset is no multiple of the area size, or beyond the device's end.
    #[error("offset {offset} of {device} can't be a resource: areas of {area} bytes, {len} bytes in all")]
    Offset {
        /// Path of the device.
        device: String,
        /// What was asked for.
        offset: u64,
        /// The area size in bytes.
        area: u64,
        /// The device's size in bytes.
        len: u64,
    },
    /// The name is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An I/O failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why a resource was not created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The name is taken. Nothing was written.
    #[error("{device} already has a resource {name}")]
    Exists {
        /// Path of the device.
        device: String,
        /// The name.
        name: Name,
    },
    /// The index has no free entry, or the device no room for another area. Nothing was written.
    #[error(
        "{device} has no room for another resource: {used} of {max} entries are used, {passed_over} places are not \
         free yet, {len} bytes in all"
    )]
    Full {
        /// Path of the device.
        device: String,
        /// Entries in use.
        used: u32,
        /// Entries that the index has and the device has room for.
        max: u32,
        /// Size of the device in bytes.
        len: u64,
        /// Places without an entry that are left alone: a host that may still be active has something there, or one
        /// that did not end in the orderly way may have a write in flight.
        passed_over: u32,
    },
    /// The lease that guards the index was not acquired. Nothing was written.
    #[error("the index is busy")]
    Guard(#[source] AcquireError),
    /// The index is missing or damaged, or can't be read.
    #[error(transparent)]
    Index(#[from] FindError),
    /// The membership was lost on the way. The resource exists or not; creating it again is safe.
    #[error("this host's membership is lost")]
    Lost(#[source] LossReason),
    /// A write failed. The resource exists or not; creating it again is safe.
    #[error(transparent)]
    Disk(#[from] DiskError),
}
