//! What happens to a process, and what its I/Os are for.

use std::rc::Rc;

use crate::protocol::Written;
use crate::sim::storage::{Area, Sector};
use crate::types::{LeaseMode, Time, Version};

/// What happens to a process.
#[derive(Clone, Debug)]
pub(in crate::sim) enum Signal {
    /// A process starts, or tries again to join.
    Start,
    /// The wait of a procedure is over.
    ProcedureWoke(Tag),
    /// A renewal may be due.
    Renew,
    /// A scan is due.
    Scan,
    /// What is held is to be looked at.
    Verify { area: Area, version: Version },
    /// The wait of an operation is over.
    Woke { of: Begun, round: u32 },
    /// The caller's deadline.
    CallOff { of: Begun },
    /// The caller wants what comes next with a resource.
    Act { area: Area },
    /// The deadline of the host id may have passed.
    Deadline,
    /// An I/O was completed, or timed out.
    Io(Completion),
}

/// What an I/O is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Tag {
    Join,
    Renew,
    Leave,
    Declare,
    Resume,
    /// Looking for the lease that an earlier process had, as it is known to have held it.
    TakeUp {
        area: Area,
        listed: Option<(LeaseMode, Version)>,
    },
    Scan {
        known_from: Time,
        wanted_by: Option<Wanted>,
    },
    /// A look that was begun after that operation.
    Verify {
        of: Begun,
        version: Version,
    },
    /// What is written again of what is held at that version.
    Restore {
        area: Area,
        version: Version,
    },
    Operation {
        of: Begun,
        round: u32,
        disk: usize,
        since: Time,
    },
}

/// An operation: on which resource, and which one of those that the process began there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) struct Begun {
    pub(in crate::sim) area: Area,
    pub(in crate::sim) number: u32,
}

/// What waits for a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Wanted {
    /// A round of an operation.
    Operation(Begun, u32),
    /// A look at what is held at that version.
    Look(Area, Version),
}

impl Tag {
    /// Whether it is a write to the record of an id that its host does not hold: another one may, by the time it lands.
    pub(in crate::sim) const fn strays(self) -> bool {
        matches!(self, Tag::Join | Tag::Declare)
    }

    /// Whether it is one that puts the name of its host's machine on the id.
    pub(in crate::sim) const fn races(self) -> bool {
        matches!(self, Tag::Join)
    }
}

#[derive(Clone, Debug)]
pub(in crate::sim) struct Completion {
    pub(in crate::sim) tag: Tag,
    pub(in crate::sim) started: Time,
    /// Its time-out was signalled before.
    pub(in crate::sim) late: bool,
    /// It read a stale copy.
    pub(in crate::sim) stale: bool,
    pub(in crate::sim) answer: Answer,
}

#[derive(Clone, Debug)]
pub(in crate::sim) enum Answer {
    Read(Rc<[u64]>, Vec<Sector>),
    Failed,
    Wrote(Written),
    /// The write was not submitted.
    TooLate,
}
