//! Acquiring, converting and releasing.

use super::{Damage, DiskError, Holder, LossReason, Taker};
use crate::lease_state::LeaseState;
use crate::types::{HostId, Name, Version};

/// Why a lease was not acquired. After each of these but `Unknown` it is not held, and nothing of the attempt is left
/// on disk that another host would respect. Trying again is safe.
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
    /// This membership holds it already; or was still acquiring it, or giving it back, when the time to wait was up.
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
    /// used. The engine goes on, and gives it back if it was; until then another acquire waits, or answers
    /// `AlreadyHeld`.
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
    /// The own block holds what this engine did not write: the area was wiped or set back, another process acts under
    /// the same host id, or the storage returned another sector. The next acquire goes by what is there then.
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
    /// To shared: a handover was begun, and nothing came of it. It is held alone as before, and can't be shared any
    /// more: release it and acquire it shared, or hand it over.
    #[error("{resource}: a handover was begun; it is held alone as before")]
    HandoverBegun {
        /// The resource.
        resource: Name,
    },
    /// The deadline has passed while a write is in flight. It is held shared; the engine goes on to make that true on
    /// disk, and until then another conversion, or the release, waits. To shared: when that takes F the lease is lost,
    /// as its status says.
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

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
