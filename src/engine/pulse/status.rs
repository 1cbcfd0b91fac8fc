//! What is said of a membership and of its leases.

use crate::error::LossReason;
use crate::types::{Name, Time, Version};

/// The state of a membership and of all its leases, or of one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Held until this point if no further renewal is confirmed.
    Held {
        /// The deadline.
        until: Time,
    },
    /// As `Held`, and the renewal is overdue: half of F has passed. Prepare to stop.
    Late {
        /// The deadline.
        until: Time,
    },
    /// Not held any more, for good. What it protected must be gone within G of the deadline.
    Lost {
        /// Why.
        reason: LossReason,
    },
}

pub(super) fn until(status: Status) -> Result<Time, LossReason> {
    match status {
        Status::Held { until } | Status::Late { until } => Ok(until),
        Status::Lost { reason } => Err(reason),
    }
}

/// A lease that is lost though its host's membership is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseLoss {
    /// Of what.
    pub resource: Name,
    /// The version that was held.
    pub version: Version,
    /// Why.
    pub reason: LossReason,
}

/// What a supervised program depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    Membership,
    /// The lease at that place which began at that version; a conversion may have given it a later one since.
    Lease {
        offset: u64,
        began: Version,
    },
}

/// How it stands with what a program depends on.
#[derive(Debug)]
pub(crate) struct Standing {
    /// The last deadline, whether it has passed or not; now, of a lease that was given up.
    pub(crate) until: Time,
    /// Since when it is lost, as far as that is known, and why.
    pub(crate) loss: Option<(Time, LossReason)>,
}
