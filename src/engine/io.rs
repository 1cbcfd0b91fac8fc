//! Reads and writes with a timeout.
//!
//! A write that timed out is still in flight. Until the disk reports its end nothing else is written to its sectors:
//! [`Io::write`] refuses, and [`Io::settle`] waits. What must outlive such writes, the lock on the host id, is kept
//! here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::identity::HostLock;
use crate::disk::{Clock, Disk, Fault, Lane, Op, Pending, Request, channel, channel_with};
use crate::error::{DiskCause, DiskError};
use crate::protocol::{Defect, Span, Written};
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
    /// Nothing more is begun in the general lane.
    closed: bool,
    /// Dropped with the last write.
    lock: Option<HostLock>,
}

impl InFlight {
    fn touches(&self, range: &Range<u64>) -> bool {
        self.ranges.range(..range.end).next_back().is_some_and(|(_, end)| *end > range.start)
    }
}

/// Sectors as they were read.
#[derive(Debug)]
pub(crate) struct Sectors {
    size: usize,
    bytes: Vec<u8>,
    unreadable: BTreeSet<u64>,
}

impl Sectors {
    /// Every sector in turn, from the first one read on.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<&[u8], Defect>> {
        self.bytes.chunks_exact(self.size).zip(0..).map(|(bytes, number)| match self.unreadable.contains(&number) {
            true => Err(Defect::Unreadable),
            false => Ok(bytes),
        })
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

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(crate) fn device(&self) -> String {
        self.disk.describe()
    }

    pub(super) fn error(&self, offset: u64, len: usize, write: bool, cause: DiskCause) -> DiskError {
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

    /// Reads whole sectors. One read that takes too long is followed by another: a disk, or this machine, may stall for
    /// a moment. When the disk can't read all of them, each is read alone: one that can't be read doesn't keep the
    /// others from being seen.
    ///
    /// # Errors
    /// When none can be read, or not in time.
    pub(crate) fn read_sectors(
        &self,
        offset: u64,
        sectors: Range<u64>,
        size: usize,
        timeout: Duration,
    ) -> Result<(Span, Sectors), DiskError> {
        let count = (sectors.end - sectors.start) as usize;
        let at = |number: u64| offset + number * size as u64;
        let started = self.now();
        let read = || self.read(Lane::General, at(sectors.start), count * size, timeout);
        let first = match read() {
            Err(error) if error.is_timeout() => read(),
            first => first,
        };
        let failure = match first {
            Ok((span, bytes)) => return Ok((span, Sectors { size, bytes, unreadable: BTreeSet::new() })),
            Err(DiskError { cause: DiskCause::Fault(Fault::Os { source, .. }), .. }) if count > 1 => source,
            Err(error) => return Err(error),
        };
        let mut all = Sectors { size, bytes: vec![0; count * size], unreadable: BTreeSet::new() };
        for (number, slot) in sectors.clone().zip(all.bytes.chunks_exact_mut(size)) {
            let left = timeout.saturating_sub(self.now().since(started));
            match self.read(Lane::General, at(number), size, left) {
                Ok((_, bytes)) => slot.copy_from_slice(&bytes),
                Err(DiskError { cause: DiskCause::Fault(Fault::Os { .. }), .. }) => {
                    all.unreadable.insert(number - sectors.start);
                }
                Err(error) => return Err(error),
            }
        }
        if all.unreadable.len() == count {
            let fault = Fault::Os { doing: "reading", source: failure };
            return Err(self.error(at(sectors.start), count * size, false, fault.into()));
        }
        Ok((Span { started, ended: self.now() }, all))
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
            if state.closed && lane == Lane::General {
                return Err(self.error(offset, len, true, DiskCause::Over));
            }
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
    pub(crate) fn write(&self, lane: Lane, offset: u64, data: Vec<u8>, timeout: Duration) -> Result<Span, DiskError> {
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

    /// From now on no write of the general lane is begun. Who saw a moment ago that the host id is held, and has not
    /// submitted its write yet, would write beside the next one who has the id.
    pub(crate) fn close(&self) {
        self.writes.state.lock().closed = true;
    }

    /// Keeps `lock` for as long as this disk, or a write that it began, is there.
    pub(crate) fn keep(&self, lock: HostLock) {
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
        Err(error) if error.is_timeout() => Written::InFlight,
        Err(_) => Written::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{BootClock, MemoryDisk};

    /// A thread that has just seen the host id held may come with its write after all that was in flight has settled.
    #[test]
    fn once_closed_nothing_is_begun_but_the_record_of_the_host() {
        let disk = MemoryDisk::new(4096, None);
        let io = Io::new(Arc::new(disk.reopen()), Arc::new(BootClock));
        let write = |lane, at| io.write(lane, at, vec![1; 512], Duration::from_secs(60)).map_err(|error| error.cause);
        assert!(write(Lane::General, 512).is_ok());
        io.close();
        assert!(matches!(write(Lane::General, 1024), Err(DiskCause::Over)));
        assert_eq!(io.writes_in_flight(), 0);
        assert!(write(Lane::Renewal, 0).is_ok());
        let written = [0, 512, 1024].map(|at| disk.bytes()[at]);
        assert_eq!(written, [1, 1, 0]);
    }
}
