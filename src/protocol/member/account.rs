//! What a membership has submitted and what is not over: reads and writes, each with what it is for.
//!
//! Invariants:
//! - At most one write is in flight for each sector of a disk. One that took too long stays in the account until its
//!   end is reported, whoever waits for it.
//! - Whoever an I/O is for is told of its end or of its timeout, once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::JobId;
use crate::protocol::procedure::Extent;
use crate::types::{Time, Version};

/// Names an I/O of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId(u64);

/// What an I/O that failed, or took too long, may be asked for: which it was, and the time that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trouble {
    /// Which.
    pub io: IoId,
    /// How long it was waited for.
    pub waited: Duration,
}

/// Who is told of the end of an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    Renewal,
    Scan,
    /// A look at what is held at that place and version.
    Look(u64, Version),
    /// Reads who asks for what is held at that place and version.
    Request(u64, Version),
    /// Writes again what is held at that place and version.
    Restore(u64, Version),
    Job(JobId),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pending {
    pub(super) purpose: Purpose,
    pub(super) disk: usize,
    pub(super) started: Time,
    pub(super) expires: Time,
    /// The bytes that it writes; `None`: it reads.
    writes: Option<Range<u64>>,
    /// A read that is begun once more when it takes too long: a disk, or this machine, may stall for a moment.
    pub(super) again: Option<Vec<Extent>>,
    /// Its timeout was told.
    late: bool,
}

impl Pending {
    pub(super) fn waited(&self) -> Duration {
        self.expires.since(self.started)
    }

    pub(super) const fn is_write(&self) -> bool {
        self.writes.is_some()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Account {
    next: u64,
    pending: BTreeMap<IoId, Pending>,
}

impl Account {
    pub(super) fn read(
        &mut self,
        purpose: Purpose,
        disk: usize,
        (started, expires): (Time, Time),
        again: Option<Vec<Extent>>,
    ) -> IoId {
        self.add(Pending { purpose, disk, started, expires, writes: None, again, late: false })
    }

    pub(super) fn write(
        &mut self,
        purpose: Purpose,
        disk: usize,
        (started, expires): (Time, Time),
        range: Range<u64>,
    ) -> IoId {
        self.add(Pending { purpose, disk, started, expires, writes: Some(range), again: None, late: false })
    }

    fn add(&mut self, pending: Pending) -> IoId {
        self.next += 1;
        let id = IoId(self.next);
        self.pending.insert(id, pending);
        id
    }

    /// The I/O is over; and whether whom it was for was told before that it took too long.
    pub(super) fn ends(&mut self, id: IoId) -> Option<(Pending, bool)> {
        let pending = self.pending.remove(&id)?;
        let late = pending.late;
        Some((pending, late))
    }

    /// The I/O has taken too long, if it is not over. A read is forgotten; a write stays in the account.
    pub(super) fn expires(&mut self, id: IoId, now: Time) -> Option<Pending> {
        let pending = self.pending.get_mut(&id).filter(|pending| !pending.late && pending.expires <= now)?;
        pending.late = true;
        match pending.is_write() {
            true => Some(pending.clone()),
            false => self.pending.remove(&id),
        }
    }

    /// Whether a write is in flight to any of these bytes.
    pub(super) fn writes(&self, disk: usize, range: &Range<u64>) -> bool {
        self.writes_to(range).any(|it| it.disk == disk)
    }

    /// Whether a write is in flight to any of these bytes of any disk.
    pub(super) fn writes_anywhere(&self, range: &Range<u64>) -> bool {
        self.writes_to(range).next().is_some()
    }

    fn writes_to(&self, range: &Range<u64>) -> impl Iterator<Item = &Pending> {
        let overlaps = |writes: &Range<u64>| writes.start < range.end && range.start < writes.end;
        self.pending.values().filter(move |it| it.writes.as_ref().is_some_and(overlaps))
    }

    pub(super) fn is_pending(&self, purpose: Purpose) -> bool {
        self.pending.values().any(|pending| pending.purpose == purpose)
    }

    /// How many writes are in flight.
    pub(super) fn writes_in_flight(&self) -> usize {
        self.pending.values().filter(|pending| pending.is_write()).count()
    }
}
