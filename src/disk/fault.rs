//! A disk that misbehaves as told.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Claim, Disk, Fault, LockOutcome, Reply, Request, channel_with};
use crate::format::SectorSize;

/// What becomes of a request to a [`FaultDisk`].
#[derive(Clone, Debug)]
pub enum Plan {
    /// It passes.
    Pass,
    /// It fails, and never reaches the disk.
    Fail(Fault),
    /// It hangs on the way: nothing reaches the disk, and no answer comes, before [`FaultDisk::release`]. A held write
    /// lands late.
    Hold,
    /// It reaches the disk at once, and the answer is held back until [`FaultDisk::release`].
    HoldReply,
    /// It reaches the disk at once, and is then said to have failed.
    DoThenFail(Fault),
    /// It passes after this time.
    Delay(Duration),
}

/// The path of one host to a disk that others may reach by paths of their own. **For tests.** Each request passes
/// unless the rule says otherwise.
///
/// Dropping it abandons what it holds, as the death of a host does with what the host's adapter still holds.
pub struct FaultDisk {
    disk: Arc<dyn Disk>,
    rule: Mutex<Arc<Rule>>,
    held: Arc<Held>,
}

type Rule = dyn Fn(&Request) -> Plan + Send + Sync;

#[derive(Default)]
struct Held {
    queue: Mutex<VecDeque<HeldItem>>,
    grown: Condvar,
}

enum HeldItem {
    Request(Request, Reply),
    Answer(Result<Vec<u8>, Fault>, Reply),
}

impl Held {
    fn push(&self, item: HeldItem) {
        self.queue.lock().push_back(item);
        self.grown.notify_all();
    }
}

impl FaultDisk {
    /// A path to `disk` on which all goes well.
    pub fn new(disk: Arc<dyn Disk>) -> FaultDisk {
        FaultDisk { disk, rule: Mutex::new(Arc::new(|_: &Request| Plan::Pass)), held: Arc::default() }
    }

    /// Asks `rule` about each request from now on. What is held already stays held.
    pub fn set_rule(&self, rule: impl Fn(&Request) -> Plan + Send + Sync + 'static) {
        *self.rule.lock() = Arc::new(rule);
    }

    /// Lets all requests pass from now on. What is held stays held.
    pub fn clear_rule(&self) {
        self.set_rule(|_| Plan::Pass);
    }

    /// How many requests and answers are held back.
    pub fn held(&self) -> usize {
        self.held.queue.lock().len()
    }

    /// Waits until at least `count` are held; whether they were, within `timeout`.
    pub fn wait_held(&self, count: usize, timeout: Duration) -> bool {
        let mut queue = self.held.queue.lock();
        self.held.grown.wait_while_for(&mut queue, |queue| queue.len() < count, timeout);
        queue.len() >= count
    }

    /// Lets everything that is held now go on, in the order in which it was held. Returns how much that was.
    pub fn release(&self) -> usize {
        // Not under the lock: what goes on may complete at once, and its hook may submit again.
        let queue = std::mem::take(&mut *self.held.queue.lock());
        let count = queue.len();
        for item in queue {
            match item {
                HeldItem::Request(request, reply) => self.disk.submit(request, reply),
                HeldItem::Answer(outcome, reply) => reply.complete(outcome),
            }
        }
        count
    }
}

impl Disk for FaultDisk {
    fn describe(&self) -> String {
        self.disk.describe()
    }

    fn sector_size(&self) -> Option<SectorSize> {
        self.disk.sector_size()
    }

    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn is_shared(&self) -> bool {
        self.disk.is_shared()
    }

    fn submit(&self, request: Request, reply: Reply) {
        let rule = self.rule.lock().clone();
        match rule(&request) {
            Plan::Pass => self.disk.submit(request, reply),
            Plan::Fail(fault) => reply.complete(Err(fault)),
            Plan::Hold => self.held.push(HeldItem::Request(request, reply)),
            Plan::HoldReply => {
                let held = Arc::downgrade(&self.held);
                let (inner, _) = channel_with(move |outcome| {
                    // With the path gone the reply is dropped, which abandons it.
                    if let Some(held) = held.upgrade() {
                        held.push(HeldItem::Answer(outcome.clone(), reply));
                    }
                });
                self.disk.submit(request, inner);
            }
            Plan::DoThenFail(fault) => {
                let (inner, _) = channel_with(move |_| reply.complete(Err(fault)));
                self.disk.submit(request, inner);
            }
            Plan::Delay(span) => {
                let disk = self.disk.clone();
                thread::spawn(move || {
                    thread::sleep(span);
                    disk.submit(request, reply);
                });
            }
        }
    }

    fn lock(&self, offset: u64, len: u64) -> Result<LockOutcome, Fault> {
        self.disk.lock(offset, len)
    }

    fn unlock(&self, offset: u64, len: u64) -> Result<(), Fault> {
        self.disk.unlock(offset, len)
    }

    fn claim(&self) -> Result<Claim, Fault> {
        self.disk.claim()
    }
}

impl fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultDisk").field("disk", &self.disk).field("held", &self.held()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Lane, MemoryDisk, Op, Pending, channel};
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn start(disk: &dyn Disk, op: Op) -> Pending {
        let (reply, pending) = channel();
        disk.submit(Request { offset: 0, lane: Lane::General, op }, reply);
        pending
    }

    fn write(byte: u8) -> Op {
        Op::Write { data: vec![byte; 512] }
    }

    fn setup() -> (FaultDisk, MemoryDisk) {
        let memory = MemoryDisk::new(512, None);
        (FaultDisk::new(Arc::new(memory.reopen())), memory)
    }

    #[test]
    fn held_writes_land_late_and_in_order() {
        let (path, memory) = setup();
        path.set_rule(|request| if request.is_write() { Plan::Hold } else { Plan::Pass });
        let first = start(&path, write(1));
        let second = start(&path, write(2));
        assert!(start(&path, Op::Read { len: 512 }).is_done());
        assert!(path.wait_held(2, LONG));
        assert!(!first.is_done() && !second.is_done());
        path.clear_rule();
        assert!(start(&path, write(3)).is_done());
        assert_eq!(memory.bytes(), [3; 512]);
        assert_eq!(path.release(), 2);
        assert_eq!(memory.bytes(), [2; 512]);
        assert!(first.is_done() && second.is_done());
    }

    #[test]
    fn a_held_answer_belongs_to_a_write_that_is_there() {
        let (path, memory) = setup();
        path.set_rule(|_| Plan::HoldReply);
        let written = start(&path, write(1));
        assert_eq!(memory.bytes(), [1; 512]);
        assert!(!written.is_done());
        assert_eq!(path.release(), 1);
        assert!(matches!(written.wait(LONG), Some(Ok(_))));
    }

    #[test]
    fn failures_are_told_whether_the_write_was_done_or_not() {
        let (path, memory) = setup();
        path.set_rule(|_| Plan::Fail(Fault::errno("writing", 5)));
        let outcome = start(&path, write(1)).wait(LONG).expect("answered");
        assert_eq!(outcome.expect_err("EIO").raw_os_error(), Some(5));
        assert_eq!(memory.bytes(), [0; 512]);
        path.set_rule(|_| Plan::DoThenFail(Fault::errno("writing", 5)));
        assert!(start(&path, write(1)).wait(LONG).expect("answered").is_err());
        assert_eq!(memory.bytes(), [1; 512]);
    }

    #[test]
    fn a_delayed_write_arrives() {
        let (path, memory) = setup();
        path.set_rule(|_| Plan::Delay(Duration::from_millis(20)));
        assert!(matches!(start(&path, write(1)).wait(LONG), Some(Ok(_))));
        assert_eq!(memory.bytes(), [1; 512]);
    }

    #[test]
    fn dropping_the_path_abandons_what_it_holds() {
        let (path, memory) = setup();
        path.set_rule(|_| Plan::Hold);
        let written = start(&path, write(1));
        drop(path);
        assert!(matches!(written.wait(LONG), Some(Err(Fault::Abandoned))));
        assert_eq!(memory.bytes(), [0; 512]);
    }
}
