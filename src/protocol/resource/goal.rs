//! What an operation is for, and which step of that it is at.

use std::collections::BTreeSet;

use super::{Operation, Outcome};
use crate::protocol::ballot::Ballot;
use crate::types::{Owner, Version};

/// What an operation began as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// With nothing held.
    Acquire,
    /// From shared to exclusive: whatever becomes of it, at least shared.
    Upgrade,
    /// From exclusive to shared.
    Downgrade,
    Release,
    /// From exclusive to nothing: another host is to own it.
    HandOver {
        held: Version,
        to: Owner,
    },
}

/// What the operation is to achieve. It only ever moves down this list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Goal {
    Acquire,
    /// Leave nothing on disk that others respect, then end with this.
    Leave(Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Reading, to judge anew.
    Looking,
    /// Running a ballot: writing its block, then reading.
    Writing(Ballot),
    /// With the disks where the block is durable: only they count.
    Reading(Ballot, BTreeSet<usize>),
    /// Writing what was decided into the leader; then look again, or hold.
    Committing { version: Version, hold: bool },
    /// Writing the own block with a waiting mark, or the claim in it anew.
    Marking,
    /// Writing into the own block how the version that it owns is held.
    Noting,
    /// Writing the released flag.
    Resigning,
    /// Freeing the leader.
    Freeing,
    /// Waiting for time, a scan or the end of a late write; then look again.
    Pausing,
}

impl Operation {
    pub(super) const fn wants(&self) -> bool {
        matches!(self.goal, Goal::Acquire)
    }

    /// Whether the host holds the resource while this goes on.
    pub(super) const fn holds(&self) -> bool {
        match self.kind {
            Kind::Upgrade | Kind::Downgrade => true,
            Kind::HandOver { .. } => self.open.is_none(),
            Kind::Acquire | Kind::Release => false,
        }
    }
}
