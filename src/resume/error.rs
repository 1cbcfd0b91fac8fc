//! Why a membership is not continued, or one of its leases.

use std::time::Duration;

use crate::error::{AcquireError, Damage, DiskError, FindError};
use crate::protocol::identity::Unidentified;
use crate::types::{HostId, Name, Owner, Resource, Version};
use crate::watchdog::WatchdogError;

/// Why a membership was not continued. This process holds nothing then, and what the leases protected is to be stopped,
/// unless the variant says otherwise: it must be gone by G after the predecessor's deadline. The leases stay on disk
/// until other hosts take them, or this machine joins again, after D.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// The predecessor still runs or is paused, or a write of it is still in flight, or another successor was faster.
    /// Nothing was read or written. What it protects is that process's concern; once that has ended, trying again is
    /// safe.
    #[error("host id {host} of {device} is held by another process on this machine")]
    HeldHere {
        /// Path of the device.
        device: String,
        /// The host id of the token.
        host: HostId,
    },
    /// The predecessor's deadline has passed. Nothing was written, or what was written changes nothing.
    #[error("host id {host} of {device} was held until {late:?} ago: it is too late to go on with it")]
    TooLate {
        /// Path of the device.
        device: String,
        /// The host id of the token.
        host: HostId,
        /// How long after the deadline.
        late: Duration,
    },
    /// The predecessor ended before its first renewal. Nothing was written.
    #[error("host id {host} of {device} was never renewed: it is not certain that it was ever held")]
    NeverRenewed {
        /// Path of the device.
        device: String,
        /// The host id of the token.
        host: HostId,
    },
    /// The host id was given back, and all its leases before. Nothing was written.
    #[error("host id {host} of {device} was given back")]
    Released {
        /// Path of the device.
        device: String,
        /// The host id of the token.
        host: HostId,
    },
    /// The host id has another holding than that of the token. Nothing was written.
    #[error("host id {host} of {device} is held by {name} generation {generation} now")]
    Replaced {
        /// Path of the device.
        device: String,
        /// The host id of the token.
        host: HostId,
        /// The name that the record shows.
        name: Name,
        /// The generation that it shows.
        generation: u64,
    },
    /// The token is for another lockspace, or this one was formatted anew. Nothing was read or written.
    #[error("the token is for lockspace {lockspace}, {device} holds another one, {found}")]
    OtherLockspace {
        /// Path of the device.
        device: String,
        /// The lockspace on the device.
        found: Name,
        /// That of the token.
        lockspace: Name,
    },
    /// Which machine this is can't be known, so neither whether the token is of it; [`JoinOptions::machine`] says it.
    /// Nothing was written.
    ///
    /// [`JoinOptions::machine`]: crate::JoinOptions::machine
    #[error("host id {host} of {device}: this process doesn't know its machine: {reason}")]
    Unidentified {
        /// Path of the device.
        device: String,
        /// The host id of the token.
        host: HostId,
        /// Why.
        reason: Unidentified,
    },
    /// The predecessor did not know its machine or its boot, so nobody can be known to be its successor. Nothing was
    /// written.
    #[error("the process that held host id {host} of {device} did not know its machine or boot")]
    UnknownPredecessor {
        /// Path of the device.
        device: String,
        /// The host id of the token.
        host: HostId,
    },
    /// Whether the machine was rebooted since can't be known: the boot id can't be read, or is a container's own.
    /// Nothing was written.
    #[error("whether the machine was rebooted since it held host id {host} of {device} can't be known")]
    UnknownBoot {
        /// Path of the device.
        device: String,
        /// The host id of the token.
        host: HostId,
    },
    /// The token is another machine's. What it protects runs there, or nowhere. Nothing was read or written.
    #[error("host id {host} of {device} is another machine's")]
    OtherMachine {
        /// Path of the device.
        device: String,
        /// The host id of the token.
        host: HostId,
    },
    /// The machine was rebooted since: nothing that was protected runs any more. Joining is quick then.
    #[error("the machine was rebooted since it held host id {host} of {device}")]
    Rebooted {
        /// Path of the device.
        device: String,
        /// The host id of the token.
        host: HostId,
    },
    /// The record of the host id is of another machine or boot than the token, or its times are not of this clock: this
    /// process may be in another time namespace. Nothing was written.
    #[error("the record of host id {host} of {device} was not written on this machine's clock")]
    OtherClock {
        /// Path of the device.
        device: String,
        /// The host id of the token.
        host: HostId,
    },
    /// The record of the host id belongs to another lockspace or id, or was written by a sanlock host. Nothing was
    /// written.
    #[error("the record of host id {host} on {device} belongs to host id {found} of lockspace {lockspace}")]
    Foreign {
        /// Path of the device.
        device: String,
        /// The host id of the token.
        host: HostId,
        /// The id that the record names.
        found: u64,
        /// The lockspace that the record names.
        lockspace: Name,
    },
    /// The record of the host id is damaged. Nothing was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// An I/O failed. As long as the predecessor's deadline has not passed, trying again is safe, and there is no
    /// reason yet to stop what the leases protect.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Where the resources are could not be read. As for `Disk`.
    #[error(transparent)]
    Index(#[from] FindError),
    /// The watchdog that the options ask for could not be started. As for `Disk`.
    #[error(transparent)]
    Watchdog(#[from] WatchdogError),
    /// The system refused what a membership needs: a lock, a thread. As for `Disk`.
    #[error("{what}")]
    System {
        /// What was refused.
        what: &'static str,
        /// The error.
        #[source]
        source: std::io::Error,
    },
}

/// A lease that was not continued with its membership.
#[derive(Debug)]
pub struct Gone {
    /// What it was on.
    pub resource: Resource,
    /// The version that was held; of an acquire that was cut short, the one that it was after.
    pub version: Version,
    /// Why.
    pub reason: GoneReason,
}

/// Why a lease was not continued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoneReason {
    /// The predecessor released it after the token was taken. It may hold a later version: then that is continued.
    #[error("it was released")]
    Released,
    /// This host's block in the resource's area is empty: somebody has wiped the area or made it again, and hosts that
    /// came since saw nothing of the lease.
    #[error("its block in the resource's area was erased: the area was wiped or made again")]
    BlockErased,
    /// Another ownership came after it, as when it was taken by force; of a shared lease that the token doesn't list,
    /// it may have come without respecting it. It is given back G from now, and counts as held here until then.
    #[error("version {version} came after it{}", owner.map_or(String::new(), |owner| format!(", owned by {owner}")))]
    Superseded {
        /// The version that the leader shows.
        version: Version,
        /// Its owner, if the leader names one.
        owner: Option<Owner>,
    },
    /// The leader does not show that it is held alone, or nothing but the area itself says that it is shared, and what
    /// would show that somebody has taken it is damaged: the block of a host that may be alive, or for a shared lease
    /// the leader. It is given back as after `Superseded`.
    #[error("what would show whether another host has taken it is damaged")]
    Unverified,
    /// Its acquire was cut short, and could not be completed. Nothing of it is left, or, after `Unknown`, the engine
    /// goes on giving it back.
    #[error("its acquire was cut short and could not be completed")]
    CutShort(#[source] AcquireError),
    /// The device has no room for an area where the token says that it is.
    #[error(transparent)]
    Place(#[from] FindError),
    /// The leader, or the own block, is damaged or another's. What it says can't be known: if the lease was held, other
    /// hosts respect it as long as this membership lasts, or until the resource is acquired anew.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Its sectors could not be read. As for `Damaged`.
    #[error(transparent)]
    Disk(#[from] DiskError),
}
