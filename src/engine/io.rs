//! Reads and writes with a timeout.
//!
//! A write that timed out is still in flight. Until the disk reports its end nothing else is written to its sectors:
//! [`Io::write`] refuses, and [`Io::settle`] waits. What must outlive such writes, the host-local lock, is kept here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::identity::LocalLock;
use crate::disk::{Clock, Disk, Lane, Op, Pending, Request, channel, channel_with};
use crate::error::{DiskCause, DiskError};
use crate::protocol::{Span, Written};
use crate::types::Time;

/// One disk as the engine uses it.
#[derive(Clone, Debug)]
pub(crate) struct Io {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    writes: Arc<Writes>,
}

#[derive(Debug, Default)]
struct Writes {
    state: Mutex<InFlight>,
    settled: Condvar,
}

#[derive(Debug, Default)]
struct InFlight {
    /// End of each write in flight, by its start.
    ranges: BTreeMap<u64, u64>,
    /// Dropped with the last write.
    lock: Option<LocalLock>,
}

impl InFlight {
    fn touches(&self, range: &Range<u64>) -> bool {
        self.ranges.range(..range.end).next_back().is_some_and(|(_, end)| *end > range.start)
    }
}

/// A write that was submitted.
#[derive(Debug)]
pub(crate) struct Writing {
    started: Time,
    pending: Pending,
    error: DiskError,
    timeout: Duration,
}

impl Io {
    pub(crate) fn new(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Io {
        Io { disk, clock, writes: Arc::default() }
    }

    /// The same disk with an account of writes of its own: for one membership.
    pub(crate) fn for_member(&self) -> Io {
        Io::new(self.disk.clone(), self.clock.clone())
    }

    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    pub(crate) fn device(&self) -> String {
        self.disk.describe()
    }

    fn error(&self, offset: u64, len: usize, write: bool, cause: DiskCause) -> DiskError {
        DiskError { device: self.device(), offset, len, write, cause }
    }

    pub(crate) fn read(
        &self,
        lane: Lane,
        offset: u64,
        len: usize,
        timeout: Duration,
    ) -> Result<(Span, Vec<u8>), DiskError> {
        let (reply, pending) = channel();
        let started = self.now();
        self.disk.submit(Request { offset, lane, op: Op::Read { len } }, reply);
        match pending.wait(timeout) {
            Some(Ok(bytes)) => Ok((Span { started, ended: self.now() }, bytes)),
            Some(Err(fault)) => Err(self.error(offset, len, false, fault.into())),
            None => Err(self.error(offset, len, false, DiskCause::TimedOut(timeout))),
        }
    }

    /// Submits a write, unless one is in flight for any of its sectors: then that one's timeout is reported.
    pub(crate) fn submit_write(
        &self,
        lane: Lane,
        offset: u64,
        data: Vec<u8>,
        timeout: Duration,
    ) -> Result<Writing, DiskError> {
        let len = data.len();
        let range = offset..offset + len as u64;
        {
            let mut state = self.writes.state.lock();
            if state.touches(&range) {
                return Err(self.error(offset, len, true, DiskCause::TimedOut(timeout)));
            }
            state.ranges.insert(range.start, range.end);
        }
        let writes = self.writes.clone();
        let (reply, pending) = channel_with(move |_| {
            writes.state.lock().ranges.remove(&range.start);
            writes.settled.notify_all();
        });
        let error = self.error(offset, len, true, DiskCause::TimedOut(timeout));
        let started = self.now();
        self.disk.submit(Request { offset, lane, op: Op::Write { data } }, reply);
        Ok(Writing { started, pending, error, timeout })
    }

    /// Waits for a write, at most its timeout.
    pub(crate) fn finish(&self, writing: &Writing) -> (Span, Result<(), DiskError>) {
        self.finish_within(writing, writing.timeout)
    }

    pub(crate) fn finish_within(&self, writing: &Writing, timeout: Duration) -> (Span, Result<(), DiskError>) {
        let result = match writing.pending.wait(timeout) {
            Some(Ok(_)) => Ok(()),
            Some(Err(fault)) => Err(DiskError { cause: fault.into(), ..writing.error.clone() }),
            None => Err(writing.error.clone()),
        };
        (Span { started: writing.started, ended: self.now() }, result)
    }

    /// Submits a write and waits for it.
    pub(crate) fn write(
        &self,
        lane: Lane,
        offset: u64,
        data: Vec<u8>,
        timeout: Duration,
    ) -> Result<Span, DiskError> {
        let writing = self.submit_write(lane, offset, data, timeout)?;
        let (span, result) = self.finish(&writing);
        result.map(|()| span)
    }

    /// Waits until no write is in flight within `range`; false when `timeout` passed before.
    pub(crate) fn settle(&self, range: Range<u64>, timeout: Duration) -> bool {
        let mut state = self.writes.state.lock();
        let waited = self.writes.settled.wait_while_for(&mut state, |state| state.touches(&range), timeout);
        !waited.timed_out() || !state.touches(&range)
    }

    pub(crate) fn writes_in_flight(&self) -> usize {
        self.writes.state.lock().ranges.len()
    }

    /// Keeps `lock` for as long as this disk, or a write that it began, is there.
    pub(crate) fn keep(&self, lock: LocalLock) {
        self.writes.state.lock().lock = Some(lock);
    }

    /// Gives the kept lock up.
    pub(crate) fn let_go(&self) {
        self.writes.state.lock().lock = None;
    }
}

/// What the protocol is told of a write.
pub(crate) fn outcome(result: &Result<(), DiskError>) -> Written {
    match result {
        Ok(()) => Written::Done,
        Err(DiskError { cause: DiskCause::TimedOut(_), .. }) => Written::InFlight,
        Err(_) => Written::Failed,
    }
}
