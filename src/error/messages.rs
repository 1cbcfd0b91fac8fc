//! What hosts say to each other: requests, events, values.

use std::time::Duration;

use super::{Damage, DiskError, LossReason};
use crate::format::{Geometry, Value};
use crate::types::{HostId, Name};

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
    /// What was written under this lease is not there any more: a late write of an earlier owner, or a damaged disk,
    /// has replaced it. It is to be written again.
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
    /// An I/O failed. A value that was to be written was written or not; if the write did not end in time it may still
    /// be.
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
