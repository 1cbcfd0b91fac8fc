//! What callers want of a membership, and how they are answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Loss;
use super::account::Trouble;
use crate::format::{HostEvent, Leader, Request};
use crate::protocol::catalog::create;
use crate::protocol::catalog::index::Index;
use crate::protocol::resource::{Outcome, Wish};
use crate::protocol::{Defect, declare, mend};
use crate::types::{HostId, LeaseMode, Name, Owner, Resource, Time, Version};

/// Names a command of a caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// What a caller wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// An operation on a resource.
    Operate(Resource, Order),
    /// Declares that generation dead.
    Declare(Owner),
    /// Mends the damaged record of a host.
    Mend {
        /// Whose.
        host: HostId,
        /// The largest generation of the host that anything else on the device shows.
        shown: u64,
        /// The caller vouches that it was fenced.
        fenced: bool,
        /// Until when to wait until the host counts as dead.
        deadline: Time,
    },
    /// Makes a resource. The lease that guards the index is held at that version.
    Create {
        /// Its name.
        name: Name,
        /// The lease that guards the index, and its version.
        guard: (Resource, Version),
        /// The index as it was read under the guard.
        index: Index,
        /// The device's size in bytes.
        device_bytes: u64,
    },
    /// Writes a sector of the index, under the lease that guards it.
    WriteIndex {
        /// The lease that guards the index, and its version.
        guard: (Resource, Version),
        /// Bytes from the start of the device.
        offset: u64,
        /// The sector.
        sector: Vec<u8>,
    },
    /// Writes the value block of what is held exclusively.
    WriteValue {
        /// Of what.
        resource: Resource,
        /// The version that is held.
        version: Version,
        /// The sector.
        sector: Vec<u8>,
    },
    /// Writes the request record of a resource, unless it says so already.
    WriteRequest(Resource, Request),
    /// Calls these hosts with the next renewal.
    Call(Vec<HostId>, Option<HostEvent>),
    /// Begins to leave: acquires that wait end, and nothing new is begun. Where something is held or under way that may
    /// not be, the membership goes on.
    Close {
        /// Leases may be held, but the one at this place, which guards the index. `None`: none may be held.
        but: Option<u64>,
    },
    /// Ends the membership, after [`Command::Close`].
    Finish(Finish),
}

/// How a membership ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The host id is given back.
    Release,
    /// Another process goes on with it.
    Detach,
}

/// An operation on a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Acquires it; waits until the deadline for who is in the way. `None`: doesn't wait, but finishes what it begins.
    Acquire(Wish, Option<Time>),
    /// Completes the acquire of an earlier process of this generation that had claimed this version, or takes it back.
    Complete(Version),
    /// Acquires it though its leader is damaged, and writes that again. The leader: what can still be read of it and
    /// has its checksum.
    Rebuild(Option<Leader>),
    /// Acquires it though the own block is damaged, which is written again whoever holds the resource. Until when to
    /// wait for who does.
    Repair(Time),
    /// Acquires it again after it was handed over at this version to an owner who gave that up.
    Regain {
        /// Who.
        to: Owner,
        /// The version that was given up.
        version: Version,
        /// Until when to wait.
        deadline: Option<Time>,
    },
    /// Changes how it is held.
    Convert {
        /// To what.
        to: LeaseMode,
        /// The version that is held.
        held: Version,
        /// Until when to wait for those who share.
        deadline: Option<Time>,
    },
    /// Gives it back. One that was lost alone is given back, too.
    Release {
        /// The version that is held.
        held: Version,
        /// How long the caller waits.
        timeout: Duration,
        /// Not before no write of this host is in flight, whatever it was for.
        settled: bool,
    },
    /// Makes another host its owner.
    HandOver {
        /// The version that is held.
        held: Version,
        /// Whom.
        to: Owner,
        /// Until when.
        deadline: Option<Time>,
    },
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// An operation.
    Operated(Operated),
    /// A declaration.
    Declared(Result<Result<declare::Declared, declare::Refusal>, Loss>, Option<Trouble>),
    /// The mending of a record.
    Mended(Result<Result<mend::Mended, mend::Refusal>, Loss>, Option<Trouble>),
    /// A creation.
    Created(Result<create::End, Loss>, Option<Trouble>),
    /// A write. `Ok`: it is durable, and what it was written under was held to its end.
    Wrote(Result<(), Unwritten>),
    /// A call stands on disk.
    Called(Result<(), NotCalled>),
    /// Nothing new is begun any more; or the membership goes on.
    Closed(Result<(), NotClosed>),
    /// The membership is over.
    Finished(Result<(), NotFinished>),
}

/// How an operation on a resource ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operated {
    /// It is over.
    Over(Box<Over>),
    /// The host id is lost, or the lease that it was about: it stays lost, whatever the operation has brought.
    Lost(Loss),
    /// The caller's time is up. The operation goes on until nothing is left of it that others respect. Another host may
    /// have been proposed as the owner of this version.
    Unfinished {
        /// See above.
        proposed: Option<Version>,
    },
    /// Another operation on the resource is under way, or it is held already.
    Occupied,
    /// What it is about is not held at that version, or another operation on it took too long.
    NotHeld,
    /// The caller's time was up before anything was begun: a write of the value is in flight.
    ValueInFlight,
}

/// An operation that is over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Over {
    /// How.
    pub outcome: Outcome,
    /// The lease had been lost before it was released.
    pub lost: Option<Loss>,
    /// The live owners that were passed over by force, and until when each may act.
    pub overridden: Vec<(Owner, Time)>,
    /// The version that another host was proposed as the owner of.
    pub proposed: Option<Version>,
    /// The membership was about to end, so an acquire was called off.
    pub closing: bool,
    /// The last I/O that failed.
    pub trouble: Option<Trouble>,
    /// Damaged blocks, as read last.
    pub damaged: BTreeMap<HostId, Defect>,
    /// Who said that it shares the resource, active or not.
    pub sharers: BTreeSet<Owner>,
}

/// Why something was not written, or counts as not written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Unwritten {
    /// What it is written under is lost. It may have been written.
    Lost(Loss),
    /// The I/O failed, or took too long. It may have been written, or may still be.
    Failed(Option<Trouble>),
}

/// Why a host was not called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NotCalled {
    /// Another event stands for this long.
    Busy(Duration),
    /// The membership is over.
    Lost(Loss),
}

/// Why a membership goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NotClosed {
    /// These are held or under way.
    Held(Vec<Name>),
    /// It is being left already.
    UnderWay,
    /// It is lost.
    Lost(Loss),
}

/// Why a membership did not end in the orderly way. It is over all the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NotFinished {
    /// So many writes are in flight: the id stays taken, and locked.
    InFlight(usize),
    /// It was lost before.
    Lost(Loss),
    /// The record could not be read or written.
    Storage(Trouble),
}
