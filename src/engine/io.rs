//! Reads and writes with a timeout.
//!
//! A write that timed out is still in flight. Until the disk reports its end nothing else is written to its sectors:
//! [`Io::submit_within`] refuses. What must outlive such writes, the lock on the host id, is kept here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::identity::HostLock;
use crate::disk::{Clock, Disk, Fault, Lane, Op, Pending, Process, Request, channel, channel_with};
use crate::error::{DiskCause, DiskError};
use crate::protocol::procedure::{Extent, Sectors, Window};
use crate::protocol::{Span, Written};
use crate::types::Time;

/// One disk as the engine uses it.
#[derive(Clone, Debug)]
pub(crate) struct Io {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    writes: Arc<Writes>,
    /// The one that opened the disk.
    process: Process,
}

#[derive(Debug, Default)]
struct Writes {
    state: Mutex<InFlight>,
}

#[derive(Debug, Default)]
struct InFlight {
    /// End of each write in flight, by its start.
    ranges: BTreeMap<u64, u64>,
    /// Dropped with the last write.
    lock: Option<HostLock>,
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

/// Why a write was not submitted.
#[derive(Debug)]
pub(crate) enum Unsubmitted {
    /// The disk was opened by the process from which this one was forked.
    Forked(DiskError),
    /// Another write is in flight to its sectors.
    Busy(DiskError),
    /// It was too late for it, by this clock.
    TooLate(Time, DiskError),
}

impl Io {
    pub(crate) fn new(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Io {
        Io { disk, clock, writes: Arc::default(), process: Process::this() }
    }

    /// The same disk with an account of writes of its own: for one membership.
    pub(crate) fn for_member(&self) -> Io {
        Io { writes: Arc::default(), ..self.clone() }
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

    /// In a child of the process that opened the disk nothing is submitted, and no lock of this is waited for: another
    /// thread may have held it when the child was made.
    fn own(&self, offset: u64, len: usize, write: bool) -> Result<(), DiskError> {
        match self.process.is_parent() {
            true => Err(self.error(offset, len, write, Fault::Forked.into())),
            false => Ok(()),
        }
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
        self.own(offset, len, false)?;
        let (reply, pending) = channel();
        let started = self.now();
        self.disk.submit(Request { offset, lane, op: Op::Read { len } }, reply);
        match pending.wait(timeout) {
            Some(Ok(bytes)) => Ok((Span { started, ended: self.now() }, bytes)),
            Some(Err(fault)) => Err(self.error(offset, len, false, fault.into())),
            None => Err(self.error(offset, len, false, DiskCause::TimedOut(timeout))),
        }
    }

    /// Reads at several places at once: at each so many bytes.
    ///
    /// # Errors
    /// When one fails, or has not ended in time.
    pub(crate) fn read_at_once(
        &self,
        lane: Lane,
        places: &[(u64, usize)],
        timeout: Duration,
    ) -> Result<Vec<Vec<u8>>, DiskError> {
        let started = self.now();
        let mut reads = Vec::new();
        for (offset, len) in places.iter().copied() {
            self.own(offset, len, false)?;
            let (reply, pending) = channel();
            self.disk.submit(Request { offset, lane, op: Op::Read { len } }, reply);
            reads.push((offset, len, pending));
        }
        let read = |(offset, len, pending): (u64, usize, Pending)| {
            let left = timeout.saturating_sub(self.now().since(started));
            match pending.wait(left) {
                Some(Ok(bytes)) => Ok(bytes),
                Some(Err(fault)) => Err(self.error(offset, len, false, fault.into())),
                None => Err(self.error(offset, len, false, DiskCause::TimedOut(timeout))),
            }
        };
        reads.into_iter().map(read).collect()
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
        let offset = offset + sectors.start * size as u64;
        let extents = [Extent { offset, sectors: sectors.end - sectors.start }];
        let read = || self.read_extents(Lane::General, &extents, size, timeout);
        let (span, sectors, _) = match read() {
            Err(error) if error.is_timeout() => read(),
            first => first,
        }?;
        Ok((span, sectors))
    }

    /// Reads the sectors of all `extents`, once. When the disk can't read all of an extent, each of its sectors is read
    /// alone. Says why one can't be read.
    ///
    /// # Errors
    /// When none can be read, or not in time.
    pub(crate) fn read_extents(
        &self,
        lane: Lane,
        extents: &[Extent],
        size: usize,
        timeout: Duration,
    ) -> Result<(Span, Sectors, Option<DiskError>), DiskError> {
        let started = self.now();
        let left = || timeout.saturating_sub(self.now().since(started));
        let (mut all, mut trouble) = (Sectors::new(size), None);
        for extent in extents {
            match self.read(lane, extent.offset, extent.sectors as usize * size, left()) {
                Ok((_, bytes)) => all.append(Sectors::whole(size, bytes)),
                Err(error) if error.is_of_medium() => {
                    trouble = Some(error);
                    if extent.sectors == 1 {
                        all.push(None);
                        continue;
                    }
                    for number in 0..extent.sectors {
                        match self.read(lane, extent.offset + number * size as u64, size, left()) {
                            Ok((_, bytes)) => all.push(Some(&bytes)),
                            Err(error) if error.is_of_medium() => all.push(None),
                            Err(error) => return Err(error),
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        match trouble {
            Some(error) if all.all_unreadable() => Err(error),
            trouble => Ok((Span { started, ended: self.now() }, all, trouble)),
        }
    }

    /// Submits a write within its window, unless one is in flight for any of its sectors.
    pub(crate) fn submit_within(
        &self,
        lane: Lane,
        offset: u64,
        data: Vec<u8>,
        window: Window,
    ) -> Result<Writing, Unsubmitted> {
        let (len, timeout) = (data.len(), window.timeout);
        let range = offset..offset + len as u64;
        let error = |cause| self.error(offset, len, true, cause);
        self.own(offset, len, true).map_err(Unsubmitted::Forked)?;
        {
            let mut state = self.writes.state.lock();
            if state.touches(&range) {
                return Err(Unsubmitted::Busy(error(DiskCause::TimedOut(timeout))));
            }
            state.ranges.insert(range.start, range.end);
        }
        let (start, writes) = (range.start, self.writes.clone());
        let ends = move || {
            writes.state.lock().ranges.remove(&start);
        };
        let started = self.now();
        if !window.is_open(started) {
            ends();
            return Err(Unsubmitted::TooLate(started, error(DiskCause::TooLate)));
        }
        let (reply, pending) = channel_with(move |_| ends());
        self.disk.submit(Request { offset, lane, op: Op::Write { data } }, reply);
        Ok(Writing { started, pending, error: error(DiskCause::TimedOut(timeout)), timeout })
    }

    /// Waits for a write, at most its timeout.
    pub(crate) fn finish(&self, writing: &Writing) -> (Span, Result<(), DiskError>) {
        let result = match writing.pending.wait(writing.timeout) {
            Some(Ok(_)) => Ok(()),
            Some(Err(fault)) => Err(DiskError { cause: fault.into(), ..writing.error.clone() }),
            None => Err(writing.error.clone()),
        };
        (Span { started: writing.started, ended: self.now() }, result)
    }

    pub(crate) fn writes_in_flight(&self) -> usize {
        self.writes.state.lock().ranges.len()
    }

    /// Keeps `lock` for as long as this disk, or a write that it began, is there.
    pub(crate) fn keep(&self, lock: HostLock) {
        self.writes.state.lock().lock = Some(lock);
    }

    /// What is to outlive a write that was submitted past this account.
    pub(super) fn kept(&self) -> impl Send + 'static {
        self.writes.clone()
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

    #[test]
    fn what_comes_too_late_is_not_submitted_and_is_in_nobodys_way() {
        let disk = MemoryDisk::new(4096, None);
        let io = Io::new(Arc::new(disk.reopen()), Arc::new(BootClock));
        let timeout = Duration::from_secs(60);
        let submit = |before| io.submit_within(Lane::General, 512, vec![1; 512], Window { before, timeout });
        assert!(matches!(submit(io.now()), Err(Unsubmitted::TooLate(..))));
        assert_eq!((io.writes_in_flight(), disk.bytes()[512]), (0, 0));
        let writing = submit(io.now() + timeout);
        assert!(writing.is_ok_and(|writing| io.finish(&writing).1.is_ok()));
        assert_eq!(disk.bytes()[512], 1);
    }

    /// Whatever disk it is.
    #[test]
    fn a_child_of_the_process_that_opened_the_disk_submits_nothing() {
        let disk = MemoryDisk::new(4096, None);
        let parent = Io::new(Arc::new(disk.reopen()), Arc::new(BootClock));
        let child = Io { process: Process::another(), ..parent }.for_member();
        let refused = |error: &DiskError| matches!(error.cause, DiskCause::Fault(Fault::Forked));
        let window = Window { before: Time::MAX, timeout: Duration::MAX };
        for lane in [Lane::General, Lane::Renewal] {
            let submitted = child.submit_within(lane, 0, vec![1; 512], window);
            assert!(matches!(submitted, Err(Unsubmitted::Forked(error)) if refused(&error)));
            assert!(child.read(lane, 0, 512, Duration::MAX).is_err_and(|error| refused(&error)));
        }
        assert_eq!(disk.bytes(), [0; 4096]);
    }
}
