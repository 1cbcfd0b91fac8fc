//! One error enum for each operation. Each variant says what is held after it and what may be repeated; the I/O error
//! below is kept as the source.

mod hosts;
mod leases;
mod lockspaces;
mod messages;

use std::sync::Arc;
use std::time::Duration;

use crate::disk::Fault;
use crate::protocol::resource::Blocker;
use crate::protocol::{Defect, delta};
use crate::types::{HostId, Name, Owner, Version};

pub use hosts::{JoinError, LeaveError};
pub use leases::{AcquireError, ConvertError, ReleaseError};
pub use lockspaces::{CreateError, FindError, FormatError, OpenError};
pub use messages::{EventError, RequestError, ValueError};

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

    /// Whether the system reported it: other sectors may still be readable.
    pub(crate) const fn is_of_medium(&self) -> bool {
        matches!(self.cause, DiskCause::Fault(Fault::Os { .. }))
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
    /// It was not begun: by then what it rests on was over, or could have been.
    #[error("it was not begun, it would have been too late")]
    TooLate,
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

/// Why a membership, and with it every lease, is no more.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LossReason {
    /// No renewal was confirmed for F.
    #[error("no renewal was confirmed in time")]
    Expired {
        /// What the last attempt to renew failed with. `None`: nothing failed, but this host did not run, or the
        /// membership was dropped while leases were held.
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
    /// The device was formatted again: most host records are of another lockspace.
    #[error("another lockspace stands on the device, with the nonce {nonce:#010x}: it was formatted again")]
    FormattedOver {
        /// The nonce of that lockspace.
        nonce: u32,
    },
    /// The lease file has no name any more. Hosts that open the path find another file or none.
    #[error("{path} was deleted, or another file has taken its place")]
    Gone {
        /// Its path.
        path: String,
    },
    /// Another host has taken the lease by force. Its other leases are not concerned.
    #[error("fenced by {0}")]
    Fenced(Taker),
    /// This host's block in the resource's area is empty: somebody has wiped the area or made it again, and hosts that
    /// came since saw nothing of the lease. Other leases are not concerned.
    #[error("its block in the resource's area was erased: the area was wiped or made again")]
    BlockErased,
    /// This host's block in the resource's area is not the one that it wrote: somebody has set the area back to an
    /// earlier state, or something else writes there. Other leases are not concerned.
    #[error("its block in the resource's area was replaced: the area was set back, or something else wrote there")]
    BlockReplaced,
    /// For F no look at the resource's area has shown that the lease is held: the area could not be read, or what was
    /// wrong there could not be put right. Other leases are not concerned.
    #[error("the lease could not be verified in time")]
    Unverified {
        /// What failed last, a read or a write. `None`: nothing failed, but this host did not run.
        #[source]
        cause: Option<Arc<DiskError>>,
    },
    /// This process was forked from the one that holds it, which may hold it still. Nothing of this process's copy
    /// counts.
    #[error("this process was forked from the one that holds it")]
    Forked,
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
            (LossReason::FormattedOver { nonce: a }, LossReason::FormattedOver { nonce: b }) => a == b,
            (LossReason::Gone { path: a }, LossReason::Gone { path: b }) => a == b,
            (LossReason::Fenced(a), LossReason::Fenced(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}

impl Eq for LossReason {}

impl LossReason {
    /// Why a host id is lost. `cause`: what an I/O failed with, if one did.
    pub(crate) fn of_host(loss: delta::Loss, cause: impl FnOnce() -> Option<Arc<DiskError>>) -> LossReason {
        use delta::Loss;

        match loss {
            Loss::Expired => LossReason::Expired { cause: cause() },
            Loss::Overwritten(record) => {
                LossReason::Overwritten { name: record.host_name, generation: record.generation }
            }
            Loss::Declared(by) => LossReason::DeclaredDead { by },
            Loss::Damaged(reason) => LossReason::Damaged(reason),
            Loss::FormattedOver(nonce) => LossReason::FormattedOver { nonce },
            Loss::Gone(path) => LossReason::Gone { path },
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
