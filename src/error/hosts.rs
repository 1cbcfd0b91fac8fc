//! Joining a lockspace and leaving it.

use super::{Damage, DiskError, LossReason};
use crate::protocol::identity::Unidentified;
use crate::types::{HostId, Name, NameError};
use crate::watchdog::WatchdogError;

/// Why a host id was not acquired. Nothing is held. A host id that was written and not released stays with this
/// machine, which takes it again after D; joining again, with another id or the same, is safe.
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
    /// Another machine held the id and did not release it, or which machine this is can't be known. Only the machine
    /// that held the id may take it again.
    #[error("host id {host} of {device} was not released by {name} generation {generation}, {}", who(*unidentified))]
    NotReleased {
        /// Path of the device.
        device: String,
        /// The id that was asked for.
        host: HostId,
        /// The last holder's name.
        name: Name,
        /// The last holder's generation.
        generation: u64,
        /// Why this process has no [identity](crate::JoinOptions::machine), if it has none.
        unidentified: Option<Unidentified>,
    },
    /// The id is free because its holder was declared dead, or because its record was repaired, and the caller vouches
    /// for nobody: only a join that [names](crate::JoinOptions::host_id) the id takes it.
    #[error("host id {host} of {device} is free by somebody's word alone, after {name} generation {generation}")]
    Declared {
        /// Path of the device.
        device: String,
        /// The id that was asked for.
        host: HostId,
        /// The name of the holder that the record shows.
        name: Name,
        /// The generation that the record shows.
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
    /// No host id is free, or each that was tried was taken by another host at the same time. Those that are free by
    /// somebody's word alone are taken only by a join that [names](crate::JoinOptions::host_id) them.
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

/// Why a host id was not released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaveError {
    /// Leases are held, or being acquired or released; also those whose handles a panic has dropped
    /// ([`Membership::orphans`](crate::Membership::orphans)). Nothing has changed: the membership goes on.
    #[error("leases are still held: {}", list(resources))]
    LeasesHeld {
        /// Which.
        resources: Vec<Name>,
    },
    /// Another thread is leaving, or detaching: what becomes of the membership its answer says.
    #[error("another thread is leaving already")]
    UnderWay,
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

fn who(unidentified: Option<Unidentified>) -> String {
    match unidentified {
        None => "another machine".into(),
        Some(reason) => format!("and this process doesn't know its machine: {reason}"),
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
