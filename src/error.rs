//! One error enum for each operation. Each variant says what is held after it and what may be repeated; the I/O error
//! below is kept as the source.

use std::sync::Arc;
use std::time::Duration;

use crate::disk::Fault;
use crate::format::{Corrupt, Geometry, Value};
use crate::lease_state::LeaseState;
use crate::protocol::Defect;
use crate::protocol::resource::Blocker;
use crate::timeouts::TimeoutsError;
use crate::types::{HostId, Name, NameError, Owner, Version};
use crate::watchdog::WatchdogError;

/// A read or a write that did not succeed. It says nothing about what is on the disk: a write that failed may have
/// landed, and one that timed out may land at any later time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} {len} bytes at offset {offset} of {device}", if *.write { "writing" } else { "reading" })]
pub struct DiskError {
    /// Path of the device.
    pub device: String,
    /// Where, in bytes from its start.
    pub offset: u64,
    /// How many bytes.
    pub len: usize,
    /// Whether it was a write.
    pub write: bool,
    /// Why.
    #[source]
    pub cause: DiskCause,
}

impl DiskError {
    /// Whether it did not end in time, and is still in flight.
    pub(crate) const fn is_timeout(&self) -> bool {
        matches!(self.cause, DiskCause::TimedOut(_))
    }
}

/// Why a read or a write did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DiskCause {
    /// It did not end within the I/O timeout. It is still in flight.
    #[error("it did not end within {0:?} and is still in flight")]
    TimedOut(Duration),
    /// The disk reported a failure.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Bytes on a disk that are not the record which belongs there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} at offset {offset} of {device} is damaged: {reason}")]
pub struct Damage {
    /// Path of the device.
    pub device: String,
    /// Where the record stands, in bytes from the device's start.
    pub offset: u64,
    /// What belongs there.
    pub what: &'static str,
    /// What is wrong.
    pub reason: Defect,
}

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
    /// The device has no room for the lockspace, its index, and the lease that guards it. Nothing was written.
    #[error("{device} has {len} bytes, a lockspace with an index needs at least {needed}")]
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

/// Why a host id was not acquired. Nothing is held. A host id that was written and not released stays with this machine,
/// which takes it again after D; joining again, with another id or the same, is safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A process on this machine holds the host id.
    #[error("host id {host} of {device} is held by another process on this machine")]
    HeldHere {
        /// Path of the device.
        device: String,
        /// The id that was asked for.
        host: HostId,
    },
    /// Another host holds the host id: it was seen to renew it.
    #[error("host id {host} of {device} is held by the live host {name} generation {generation}")]
    Live {
        /// Path of the device.
        device: String,
        /// The id that was asked for.
        host: HostId,
        /// The holder's name.
        name: Name,
        /// The holder's generation.
        generation: u64,
    },
    /// Another machine held the id and did not release it. Only that machine may take it again.
    #[error("host id {host} of {device} was not released by {name} generation {generation}, another machine")]
    NotReleased {
        /// Path of the device.
        device: String,
        /// The id that was asked for.
        host: HostId,
        /// The last holder's name.
        name: Name,
        /// The last holder's generation.
        generation: u64,
    },
    /// The lockspace has room for fewer hosts.
    #[error("host id {host} is above {max}, the largest that {device} has room for")]
    TooLarge {
        /// Path of the device.
        device: String,
        /// The id that was asked for.
        host: u64,
        /// The largest there is.
        max: u64,
    },
    /// No host id is free, or each that was tried was taken by another host at the same time.
    #[error("no host id of {device} is free")]
    NoneFree {
        /// Path of the device.
        device: String,
    },
    /// The delta record of the id is damaged.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The delta record belongs to another lockspace or another id.
    #[error("the record of host id {host} on {device} belongs to host id {found} of lockspace {lockspace}")]
    Foreign {
        /// Path of the device.
        device: String,
        /// The id that was asked for.
        host: HostId,
        /// The id that the record names.
        found: u64,
        /// The lockspace that the record names.
        lockspace: Name,
    },
    /// Another host took the id at the same time, or the storage was too slow for a join.
    #[error("host id {host} of {device} was not acquired: {reason}")]
    Attempt {
        /// Path of the device.
        device: String,
        /// The id that was tried.
        host: HostId,
        /// What went wrong.
        reason: &'static str,
    },
    /// The host name is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The join was cancelled.
    #[error("the join was cancelled")]
    Cancelled,
    /// An I/O failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The watchdog could not be started or fed. The host id was given back, if it can be written.
    #[error(transparent)]
    Watchdog(#[from] WatchdogError),
    /// The system refused what a membership needs: a lock, a thread.
    #[error("{what}")]
    System {
        /// What was refused.
        what: &'static str,
        /// The error.
        #[source]
        source: std::io::Error,
    },
}

/// Who holds a resource that could not be acquired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its host id.
    pub host: HostId,
    /// The generation that owns, if known.
    pub generation: Option<u64>,
    /// The host's name, from its delta record, if that is readable.
    pub name: Option<Name>,
    /// The version that it has or may have.
    pub version: Version,
    /// How long from now until the lease could be taken over if its host shows no further life. `None` while it isn't
    /// known.
    pub takeover_in: Option<Duration>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "host {}", self.host)?;
        if let Some(name) = &self.name {
            write!(f, " ({name})")?;
        }
        if let Some(generation) = self.generation {
            write!(f, " generation {generation}")?;
        }
        write!(f, " at version {}", self.version)
    }
}

/// Why a lease was not acquired. After each of these but `Unknown` it is not held, and nothing of the attempt is left on
/// disk that another host would respect. Trying again is safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// Another host holds it, or may hold it, and did so until the deadline.
    #[error("{resource} is held by {holder}")]
    Held {
        /// The resource.
        resource: Name,
        /// Who.
        holder: Holder,
    },
    /// Hosts that share it hold it, or may hold it, and did so until the deadline.
    #[error("{resource} is shared by {}", list(holders))]
    Shared {
        /// The resource.
        resource: Name,
        /// Who; at least one.
        holders: Vec<Holder>,
    },
    /// The block of a host that may be active is damaged: what it holds can't be known until it writes it anew or is
    /// gone.
    #[error("{resource}: the block of {holder} can't be read: {damage}")]
    BlockDamaged {
        /// The resource.
        resource: Name,
        /// Whose block.
        holder: Holder,
        /// Where and why.
        damage: Damage,
    },
    /// The state that it was to be acquired from is another resource's.
    #[error("the lease state {state} is not of {resource}")]
    OtherResource {
        /// The resource.
        resource: Name,
        /// The state.
        state: LeaseState,
    },
    /// It is not at the version from which alone it was to be acquired: somebody has owned it since, or may have.
    #[error("{resource} is at version {found}")]
    VersionChanged {
        /// The resource.
        resource: Name,
        /// The version that it is at.
        found: Version,
    },
    /// To be handed it: nobody is there who could do that, for it is free, or its owner is gone. It may be acquired.
    #[error("{resource} is not handed over: nobody holds it; it is at version {version}")]
    NotHandedOver {
        /// The resource.
        resource: Name,
        /// The version that it is at.
        version: Version,
    },
    /// It can't be taken by force: its owner is a sanlock host, which would go on. Stop that host by other means.
    #[error("{resource} can't be taken by force from the sanlock {holder}")]
    NotForced {
        /// The resource.
        resource: Name,
        /// Who has it.
        holder: Holder,
    },
    /// This host and another one share it, and both wait to hold it alone. This one gives in.
    #[error("{resource} is shared by {holder}, which waits to hold it alone, too")]
    WouldDeadlock {
        /// The resource.
        resource: Name,
        /// The other one.
        holder: Holder,
    },
    /// It was taken by force while it was being shared.
    #[error("{resource} was taken by {by}")]
    Overtaken {
        /// The resource.
        resource: Name,
        /// By whom.
        by: Taker,
    },
    /// This membership holds it already, or is acquiring or releasing it.
    #[error("{resource} is already held, or being acquired or released, by this host")]
    AlreadyHeld {
        /// The resource.
        resource: Name,
    },
    /// Contention or slow storage went on until the deadline.
    #[error("{resource} was not acquired in time")]
    TimedOut {
        /// The resource.
        resource: Name,
        /// The last I/O that failed, if any did.
        #[source]
        source: Option<DiskError>,
    },
    /// The deadline has passed while a write is in flight: whether the lease was acquired is not known. It is not to be
    /// used. The engine goes on, and gives it back if it was; until then another acquire answers `AlreadyHeld`.
    #[error("{resource}: the outcome is not known yet, a write is still in flight; it will be given back")]
    Unknown {
        /// The resource.
        resource: Name,
    },
    /// The leader record is damaged.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// There is no resource at that place any more.
    #[error("there is no resource {resource} at offset {offset} of {device}: it was deleted")]
    Deleted {
        /// Path of the device.
        device: String,
        /// The resource.
        resource: Name,
        /// Its place.
        offset: u64,
    },
    /// The area belongs to another resource or lockspace.
    #[error("offset {offset} of {device} belongs to resource {found} of lockspace {lockspace}, not to {resource}")]
    Foreign {
        /// Path of the device.
        device: String,
        /// What was asked for.
        resource: Name,
        /// The place.
        offset: u64,
        /// The resource that the leader names.
        found: Name,
        /// The lockspace that the leader names.
        lockspace: Name,
    },
    /// The resource was made for fewer hosts.
    #[error("{resource} has room for {max} hosts, this is host {host}")]
    HostIdTooLarge {
        /// The resource.
        resource: Name,
        /// The own id.
        host: HostId,
        /// The largest it has room for.
        max: u64,
    },
    /// The own block holds what this engine did not write: another process acts under the same host id, or the
    /// storage returned another sector.
    #[error("{resource}: the block of host {host} was changed by somebody else")]
    BlockChanged {
        /// The resource.
        resource: Name,
        /// The own id.
        host: HostId,
    },
    /// A version or ballot number on disk is so large that it can't grow.
    #[error("{resource}: the version or ballot numbers on disk are exhausted")]
    Exhausted {
        /// The resource.
        resource: Name,
    },
    /// The membership is lost or was left.
    #[error("this host's membership is lost")]
    Lost(#[source] LossReason),
    /// An I/O failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why a lease was not converted. What is held then differs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// To exclusive: it was not acquired. It is held shared as before.
    #[error("not held alone, but shared as before")]
    NotAcquired(#[source] AcquireError),
    /// To shared: a write of the value is still in flight, which others must not see land. It is held alone as before.
    #[error("{resource}: a write of its value is still in flight; it is held alone as before")]
    ValueInFlight {
        /// The resource.
        resource: Name,
    },
    /// To shared: a handover was begun, and nothing came of it. It is held alone as before, and can't be shared any more:
    /// release it and acquire it shared, or hand it over.
    #[error("{resource}: a handover was begun; it is held alone as before")]
    HandoverBegun {
        /// The resource.
        resource: Name,
    },
    /// The deadline has passed while a write is in flight. It is held shared; the engine goes on to make that true on
    /// disk, and until then another conversion, or the release, waits. To shared: when that takes F the lease is lost, as
    /// its status says.
    #[error("{resource}: the outcome is not known yet, a write is still in flight; it will be shared")]
    Unknown {
        /// The resource.
        resource: Name,
    },
    /// It was lost before, or meanwhile: taken by force, or for F nobody could tell whether it was; to exclusive, also
    /// when the deadline has passed while the write that gives up sharing is in flight. Stop what it protects, then
    /// release it.
    #[error("the lease was lost")]
    Lost(#[source] LossReason),
}

/// Who took a resource by force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taker {
    /// The host that owns it now, if it is known.
    pub owner: Option<Owner>,
    /// Its name, if its record was read.
    pub name: Option<Name>,
    /// The version that it owns.
    pub version: Version,
}

impl std::fmt::Display for Taker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.owner, &self.name) {
            (Some(owner), Some(name)) => write!(f, "host {} ({name}) generation {}", owner.host, owner.generation)?,
            (Some(owner), None) => write!(f, "{owner}")?,
            (None, _) => write!(f, "an unknown host")?,
        }
        write!(f, " at version {}", self.version)
    }
}

/// Why a lease was not released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// It was not confirmed in time. The lease is not to be used any more; the engine goes on releasing it.
    #[error("{resource}: the release is not confirmed yet, the engine goes on with it")]
    Unknown {
        /// The resource.
        resource: Name,
    },
    /// The lease was lost before. If it was lost alone it has been released on disk, or is being released; if with the
    /// membership, nothing was written, and others take it when D has passed.
    #[error("the lease was lost before it was released")]
    Lost(#[source] LossReason),
}

/// Why a request was not made, or not announced. Nothing is held by it; to ask again is safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// This host itself holds the resource, and nobody else does. Nothing was written.
    #[error("{resource} is held by this host itself")]
    HeldHere {
        /// The resource.
        resource: Name,
    },
    /// The leader record is damaged, or another's: who holds the resource can't be told. Nothing was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The membership is lost or was left. Nobody is called by it any more; the request may stand on disk.
    #[error("this host's membership is lost")]
    Lost(#[source] LossReason),
    /// An I/O failed. The request may stand on disk, but nobody was called for it.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why a value was not read or written. The lease is held as before, except after `Lost`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// Areas of these sizes have no value block: its place would be in a neighbour's. Nothing was read or written.
    #[error("resources have no value block with {geometry}: it needs areas of 8 MiB with sectors of 4096 bytes")]
    NoRoom {
        /// The sizes.
        geometry: Geometry,
    },
    /// The lease is shared: only who holds the resource alone writes its value. Nothing was written.
    #[error("{resource} is shared: only who holds it alone writes its value")]
    Shared {
        /// The resource.
        resource: Name,
    },
    /// More data than there is room for. Nothing was written.
    #[error("a value of {bytes} bytes, there is room for {max}")]
    TooLong {
        /// What was to be written.
        bytes: usize,
        /// The most there can be.
        max: usize,
    },
    /// What was written under this lease is not there any more: a late write of an earlier owner, or a damaged disk, has
    /// replaced it. It is to be written again.
    #[error("the value of {resource} that was written under this lease was replaced by another")]
    Overwritten {
        /// The resource.
        resource: Name,
        /// What is there now.
        found: Option<Value>,
    },
    /// The leader is damaged, or another resource's. Nothing was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The lease was lost. A value that was to be written was written or not.
    #[error("the lease is lost")]
    Lost(#[source] LossReason),
    /// An I/O failed. A value that was to be written was written or not; if the write did not end in time it may still be.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why an event was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// Event and data are both zero, which stands for no event. Nothing was sent.
    #[error("an event of zeros is none")]
    Empty,
    /// No other host holds that id, or not in that generation, as far as this host has seen. Nothing was sent.
    #[error("host {host} is not there{}", if *.generation == 0 { String::new() } else { format!(" in generation {generation}") })]
    NotThere {
        /// Whom it was for.
        host: HostId,
        /// The generation that it was for; 0: any.
        generation: u64,
    },
    /// Another event stands in this host's record, which has room for one. Nothing was sent.
    #[error("another event stands for {left:?} still; then this one can be sent")]
    Busy {
        /// How long still.
        left: Duration,
    },
    /// The membership is lost or was left. The event was seen or not.
    #[error("this host's membership is lost")]
    Lost(#[source] LossReason),
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
    #[error("{device} has no room for another resource: {used} of {max} entries are used, {len} bytes in all")]
    Full {
        /// Path of the device.
        device: String,
        /// Entries in use.
        used: u32,
        /// Entries that the index has and the device has room for.
        max: u32,
        /// Size of the device in bytes.
        len: u64,
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

/// Why a host id was not released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaveError {
    /// Leases are held, or being acquired or released. Nothing has changed: the membership goes on.
    #[error("leases are still held: {}", list(resources))]
    LeasesHeld {
        /// Which.
        resources: Vec<Name>,
    },
    /// A write of this host is still in flight, so the host id can't be given back. Renewing has stopped: others take
    /// the id's leases when D has passed, and this machine may take the id again.
    #[error("{writes} writes are still in flight: host id {host} stays taken")]
    InFlight {
        /// The own id.
        host: HostId,
        /// How many.
        writes: usize,
    },
    /// The membership was lost before. Nothing was written.
    #[error("the membership was lost before")]
    Lost(#[source] LossReason),
    /// The release could not be written or confirmed. Renewing has stopped, as after `InFlight`.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The host id was given back, but the watchdog may fire.
    #[error("the host id was given back, but the watchdog may reset this machine or end this process")]
    Watchdog(#[source] WatchdogError),
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// Why a membership, and with it every lease, is no more.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LossReason {
    /// No renewal was confirmed for F.
    #[error("no renewal was confirmed in time")]
    Expired {
        /// What the last attempt to renew failed with. `None`: nothing failed, but this host did not run.
        #[source]
        cause: Option<Arc<DiskError>>,
    },
    /// The own delta record shows another holder, or an older state.
    #[error("the host's record was overwritten by {name} generation {generation}")]
    Overwritten {
        /// The name that it shows.
        name: Name,
        /// The generation that it shows.
        generation: u64,
    },
    /// Another host declared this one dead: somebody vouched that it was fenced.
    #[error("this host was declared dead by host {by}")]
    DeclaredDead {
        /// Who.
        by: HostId,
    },
    /// The own delta record is damaged.
    #[error("the host's record is damaged: {0}")]
    Damaged(Defect),
    /// Another host has taken the lease by force. Its other leases are not concerned.
    #[error("fenced by {0}")]
    Fenced(Taker),
    /// Whether the lease was taken by force could not be looked at for F. Other leases are not concerned.
    #[error("the lease could not be verified in time")]
    Unverified {
        /// What the last look failed with. `None`: nothing failed, but this host did not run.
        #[source]
        cause: Option<Arc<DiskError>>,
    },
    /// A thread of the engine panicked: what it left undone can't be known.
    #[error("the engine panicked")]
    Panicked,
    /// The membership was left.
    #[error("the membership was left")]
    Left,
    /// The membership was detached, for another process to go on with it.
    #[error("the membership was detached")]
    Detached,
}

/// The same reason, whatever the I/O error below it was.
impl PartialEq for LossReason {
    fn eq(&self, other: &LossReason) -> bool {
        match (self, other) {
            (LossReason::Overwritten { name, generation }, LossReason::Overwritten { name: n, generation: g }) => {
                (name, generation) == (n, g)
            }
            (LossReason::DeclaredDead { by: a }, LossReason::DeclaredDead { by: b }) => a == b,
            (LossReason::Damaged(a), LossReason::Damaged(b)) => a == b,
            (LossReason::Fenced(a), LossReason::Fenced(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}

impl Eq for LossReason {}

impl From<crate::protocol::delta::Loss> for LossReason {
    fn from(loss: crate::protocol::delta::Loss) -> LossReason {
        use crate::protocol::delta::Loss;
        match loss {
            Loss::Expired => LossReason::Expired { cause: None },
            Loss::Overwritten(record) => {
                LossReason::Overwritten { name: record.host_name, generation: record.generation }
            }
            Loss::Declared(by) => LossReason::DeclaredDead { by },
            Loss::Damaged(reason) => LossReason::Damaged(reason),
            Loss::Released => LossReason::Left,
        }
    }
}

impl Holder {
    pub(crate) fn new(blocker: &Blocker, name: Option<Name>, now: crate::types::Time) -> Holder {
        Holder {
            host: blocker.host,
            generation: blocker.owner.map(|owner| owner.generation.get()),
            name,
            version: blocker.version,
            takeover_in: blocker.free_at.map(|at| at.since(now)),
        }
    }
}
