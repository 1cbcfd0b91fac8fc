//! A disk in memory.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, Fault, LockOutcome, Op, Reply, Request};
use crate::format::SectorSize;

/// A disk of fixed length in memory, for tests and examples. Requests complete inside [`Disk::submit`], each as one
/// step.
///
/// ```
/// use leasehold::disk::{Disk, Lane, MemoryDisk, Op, Request, channel};
/// use std::time::Duration;
///
/// let host_a = MemoryDisk::new(1 << 20, None);
/// let host_b = host_a.reopen();
/// let (reply, written) = channel();
/// host_a.submit(Request { offset: 512, lane: Lane::General, op: Op::Write { data: vec![7; 512] } }, reply);
/// assert!(written.is_done());
/// let (reply, read) = channel();
/// host_b.submit(Request { offset: 512, lane: Lane::General, op: Op::Read { len: 512 } }, reply);
/// assert_eq!(read.wait(Duration::ZERO).unwrap()?, [7; 512]);
/// # Ok::<(), leasehold::disk::Fault>(())
/// ```
pub struct MemoryDisk {
    medium: Arc<Mutex<Medium>>,
    description: u64,
    sector_size: Option<SectorSize>,
}

struct Medium {
    bytes: Vec<u8>,
    locks: Vec<Lock>,
    descriptions: u64,
}

struct Lock {
    description: u64,
    range: Range<u64>,
}

impl Medium {
    /// Takes `range` away from the locks of `description`, which may leave a piece on either side.
    fn unlock(&mut self, description: u64, range: &Range<u64>) {
        let mut kept = Vec::with_capacity(self.locks.len() + 1);
        for lock in self.locks.drain(..) {
            if lock.description != description || !overlap(&lock.range, range) {
                kept.push(lock);
                continue;
            }
            for piece in [lock.range.start..range.start, range.end..lock.range.end] {
                if piece.start < piece.end {
                    kept.push(Lock { description, range: piece });
                }
            }
        }
        self.locks = kept;
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

fn span(offset: u64, len: u64) -> Range<u64> {
    offset..if len == 0 { u64::MAX } else { offset.saturating_add(len) }
}

impl MemoryDisk {
    /// `len` zero bytes. `sector_size` is what [`Disk::sector_size`] says; requests must keep to it, or to 512 bytes
    /// when it is `None`.
    pub fn new(len: usize, sector_size: Option<SectorSize>) -> MemoryDisk {
        MemoryDisk::with_bytes(vec![0; len], sector_size)
    }

    /// As [`MemoryDisk::new`], with these bytes.
    pub fn with_bytes(bytes: Vec<u8>, sector_size: Option<SectorSize>) -> MemoryDisk {
        let medium = Medium { bytes, locks: Vec::new(), descriptions: 1 };
        MemoryDisk { medium: Arc::new(Mutex::new(medium)), description: 0, sector_size }
    }

    /// Another open file description of the same bytes, as another host or process has it.
    #[must_use]
    pub fn reopen(&self) -> MemoryDisk {
        let mut medium = self.medium.lock();
        let description = medium.descriptions;
        medium.descriptions += 1;
        MemoryDisk { medium: self.medium.clone(), description, sector_size: self.sector_size }
    }

    /// A copy of all bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.medium.lock().bytes.clone()
    }

    /// Changes the bytes behind the protocol's back, to damage them.
    pub fn edit(&self, change: impl FnOnce(&mut [u8])) {
        change(&mut self.medium.lock().bytes);
    }

    fn perform(&self, request: Request) -> Result<Vec<u8>, Fault> {
        request.check_alignment(self.sector_size)?;
        let mut medium = self.medium.lock();
        let available = medium.bytes.len();
        let beyond = Fault::BeyondEnd { len: available as u64 };
        let Ok(start) = usize::try_from(request.offset) else { return Err(beyond) };
        let Some(end) = start.checked_add(request.len()).filter(|end| *end <= available) else { return Err(beyond) };
        match request.op {
            Op::Read { .. } => Ok(medium.bytes[start..end].to_vec()),
            Op::Write { data } => {
                medium.bytes[start..end].copy_from_slice(&data);
                Ok(Vec::new())
            }
        }
    }
}

impl Disk for MemoryDisk {
    fn describe(&self) -> String {
        "memory".into()
    }

    fn sector_size(&self) -> Option<SectorSize> {
        self.sector_size
    }

    fn len(&self) -> u64 {
        self.medium.lock().bytes.len() as u64
    }

    fn submit(&self, request: Request, reply: Reply) {
        let outcome = self.perform(request);
        reply.complete(outcome);
    }

    fn lock(&self, offset: u64, len: u64) -> Result<LockOutcome, Fault> {
        let range = span(offset, len);
        let mut medium = self.medium.lock();
        let taken = |lock: &Lock| lock.description != self.description && overlap(&lock.range, &range);
        if medium.locks.iter().any(taken) {
            return Ok(LockOutcome::HeldByAnother);
        }
        medium.unlock(self.description, &range);
        medium.locks.push(Lock { description: self.description, range });
        Ok(LockOutcome::Locked)
    }

    fn unlock(&self, offset: u64, len: u64) -> Result<(), Fault> {
        self.medium.lock().unlock(self.description, &span(offset, len));
        Ok(())
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        self.medium.lock().locks.retain(|lock| lock.description != self.description);
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDisk")
            .field("len", &self.len())
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Lane, channel};
    use super::*;

    fn run(disk: &MemoryDisk, offset: u64, op: Op) -> Result<Vec<u8>, Fault> {
        let (reply, pending) = channel();
        disk.submit(Request { offset, lane: Lane::General, op }, reply);
        pending.wait(Duration::ZERO).expect("memory completes inline")
    }

    #[test]
    fn bytes_are_shared_between_descriptions() {
        let a = MemoryDisk::new(4096, None);
        let b = a.reopen();
        run(&a, 512, Op::Write { data: vec![3; 512] }).expect("write");
        assert_eq!(run(&b, 512, Op::Read { len: 512 }).expect("read"), [3; 512]);
        assert_eq!(run(&b, 1024, Op::Read { len: 512 }).expect("read"), [0; 512]);
    }

    #[test]
    fn requests_outside_or_across_sectors_are_refused() {
        let disk = MemoryDisk::new(8192, Some(SectorSize::B4096));
        assert!(matches!(run(&disk, 512, Op::Read { len: 4096 }), Err(Fault::Unaligned { sector: 4096, .. })));
        assert!(matches!(run(&disk, 4096, Op::Read { len: 8192 }), Err(Fault::BeyondEnd { len: 8192 })));
        let far = u64::MAX - 4095;
        assert!(matches!(run(&disk, far, Op::Write { data: vec![1; 4096] }), Err(Fault::BeyondEnd { .. })));
        assert_eq!(disk.bytes(), vec![0; 8192]);
    }

    #[test]
    fn locks_conflict_between_descriptions_only_and_by_range() {
        let a = MemoryDisk::new(8192, None);
        let b = a.reopen();
        assert_eq!(a.lock(0, 512).expect("lock"), LockOutcome::Locked);
        assert_eq!(a.lock(0, 1024).expect("lock"), LockOutcome::Locked);
        assert_eq!(b.lock(512, 512).expect("lock"), LockOutcome::HeldByAnother);
        assert_eq!(b.lock(1024, 0).expect("lock"), LockOutcome::Locked);
        b.unlock(0, 0).expect("unlock");
        assert_eq!(b.lock(0, 512).expect("lock"), LockOutcome::HeldByAnother, "b unlocked what a holds");
        drop(a);
        assert_eq!(b.lock(0, 0).expect("lock"), LockOutcome::Locked);
    }

    #[test]
    fn unlocking_the_middle_keeps_both_sides() {
        let a = MemoryDisk::new(8192, None);
        let b = a.reopen();
        a.lock(0, 3072).expect("lock");
        a.unlock(1024, 1024).expect("unlock");
        assert_eq!(b.lock(1024, 1024).expect("lock"), LockOutcome::Locked);
        assert_eq!(b.lock(1023, 1).expect("lock"), LockOutcome::HeldByAnother);
        assert_eq!(b.lock(2048, 1).expect("lock"), LockOutcome::HeldByAnother);
    }
}
