//! Until when the host id, and each lease, is held. The one place that says so, and tells whoever watches.
//!
//! "Held" is always judged against the clock, so it never depends on a thread having run. The watching thread does no
//! I/O: it latches the loss at the deadline and wakes those who wait.
//!
//! `state.rs` is what it guards, `status.rs` what it says, `waiting.rs` how it is waited for.

mod state;
mod status;
mod waiting;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::disk::{Clock, Process};
use crate::error::{DiskError, LossReason};
use crate::protocol::delta::Tenure;
use crate::protocol::holding::{Holding, Loss, Restore, Task};
use crate::protocol::looks::{Look, Verdict};
use crate::supervision::wake;
use crate::types::{Owner, Resource, Time, Version};
use state::{Hold, State, from};
use status::until;

pub use status::{LeaseLoss, Status};
pub(crate) use status::{Standing, Subject};
pub(crate) use waiting::{LONGEST_WAIT, Until};

#[derive(Debug)]
pub(crate) struct Pulse {
    me: Owner,
    /// The one that holds the id. In a child of it nothing is held, and no lock of this is waited for: another thread
    /// may have held it when the child was made.
    process: Process,
    clock: Arc<dyn Clock>,
    /// Of the lockspace: when a renewal counts as late, from the last deadline's start.
    late: Duration,
    fail: Duration,
    state: Mutex<State>,
    changed: Condvar,
    /// Written to with each change, for those who wait for other descriptors too.
    wakes: Mutex<Vec<Weak<OwnedFd>>>,
}

impl Pulse {
    pub(crate) fn new(tenure: Tenure, clock: Arc<dyn Clock>, late: Duration, fail: Duration) -> Pulse {
        let (me, process) = (tenure.me(), Process::this());
        let holds = BTreeMap::new();
        let state = State { tenure, loss: None, trouble: None, ended: None, hurried: false, holds };
        let (state, changed, wakes) = (Mutex::new(state), Condvar::new(), Mutex::default());
        Pulse { me, process, clock, late, fail, state, changed, wakes }
    }

    pub(crate) const fn me(&self) -> Owner {
        self.me
    }

    /// Whether this process is a child of the one that holds the id, made by `fork`.
    pub(crate) fn is_forked(&self) -> bool {
        self.process.is_parent()
    }

    /// What a child of the process that holds the id is told.
    fn forked(&self) -> Option<Status> {
        self.is_forked().then_some(Status::Lost { reason: LossReason::Forked })
    }

    /// Has this descriptor written to with each change, as long as it is there.
    pub(crate) fn wake_by(&self, descriptor: &Arc<OwnedFd>) {
        let mut wakes = self.wakes.lock();
        wakes.retain(|descriptor| descriptor.strong_count() > 0);
        wakes.push(Arc::downgrade(descriptor));
    }

    fn tell_waiters(&self) {
        self.changed.notify_all();
        self.wakes.lock().iter().filter_map(Weak::upgrade).for_each(|descriptor| wake(&descriptor));
    }

    /// This lease, whatever its versions will be.
    pub(crate) fn subject(&self, key: (u64, Version)) -> Subject {
        if self.is_forked() {
            return Subject::Membership;
        }
        let state = self.state.lock();
        let began = state.holds.range(from(key)).next().map_or(key.1, |(_, hold)| hold.began);
        Subject::Lease { offset: key.0, began }
    }

    pub(crate) fn standing(&self, subject: Subject) -> Standing {
        if self.is_forked() {
            let now = self.clock.now();
            return Standing { until: now, loss: Some((now, LossReason::Forked)) };
        }
        let mut state = self.state.lock();
        let (now, late_after) = (self.clock.now(), self.fail - self.late);
        let (status, until, since) = match subject {
            Subject::Membership => (state.status(now, late_after), state.tenure.deadline(), None),
            Subject::Lease { offset, began } => match state.key(offset, began) {
                Some(key) => {
                    let status = state.hold_status(key, now, late_after);
                    let hold = &state.holds[&key];
                    (status, hold.deadline(&state.tenure), hold.lost_since())
                }
                None => (Status::Lost { reason: LossReason::Left }, now, None),
            },
        };
        let loss = self::until(status).err().map(|reason| (since.unwrap_or(now), reason));
        Standing { until, loss }
    }

    pub(crate) fn status(&self) -> Status {
        self.forked().unwrap_or_else(|| self.state.lock().status(self.clock.now(), self.fail - self.late))
    }

    /// Whether the host id is held right now.
    pub(crate) fn held(&self) -> Result<Time, LossReason> {
        until(self.status())
    }

    /// Works on the tenure; tells watchers afterwards, whatever changed.
    pub(crate) fn with_tenure<T>(&self, work: impl FnOnce(&mut Tenure) -> T) -> T {
        let mut state = self.state.lock();
        let result = work(&mut state.tenure);
        drop(state);
        self.tell_waiters();
        result
    }

    /// Keeps what a renewal failed with, to explain a loss; `None`: it did not.
    pub(crate) fn set_trouble(&self, error: Option<DiskError>) {
        self.state.lock().trouble = error.map(Arc::new);
    }

    /// A copy of what the tenure recognises as its own record now.
    pub(crate) fn tenure(&self) -> Tenure {
        self.state.lock().tenure.clone()
    }

    /// Latches a loss that the tenure can't know of.
    pub(crate) fn lose(&self, reason: LossReason) {
        let mut state = self.state.lock();
        state.loss.get_or_insert(reason);
        drop(state);
        self.tell_waiters();
    }

    /// Begins to answer for a lease.
    pub(crate) fn hold(&self, resource: &Resource, version: Version, holding: Holding) {
        self.state.lock().hold(resource, version, version, holding);
        self.tell_waiters();
    }

    /// As [`Pulse::hold`], going on with the lease that was held at version `before`.
    ///
    /// # Errors
    /// That one was lost, and stays so.
    pub(crate) fn hold_on(
        &self,
        resource: &Resource,
        before: Version,
        version: Version,
        converted: impl FnOnce(Holding, Time) -> Holding,
    ) -> Result<(), LossReason> {
        let mut state = self.state.lock();
        let (key, now) = ((resource.offset, before), self.clock.now());
        until(state.hold_status(key, now, Duration::ZERO))?;
        if let Some(hold) = state.holds.remove(&key) {
            state.hold(resource, hold.began, version, converted(hold.holding, now));
        }
        drop(state);
        self.tell_waiters();
        Ok(())
    }

    /// A lease that was shared is about to become exclusive.
    pub(crate) fn expose(&self, key: (u64, Version)) {
        self.with_hold(key, |hold, _| hold.holding.expose());
    }

    /// What is to be looked at or given back now.
    pub(crate) fn tasks(&self) -> Vec<(Resource, Version, Task)> {
        self.state.lock().tasks(self.clock.now())
    }

    /// What is known of a lease.
    pub(crate) fn holding(&self, key: (u64, Version)) -> Option<Holding> {
        self.state.lock().holds.get(&key).map(|hold| hold.holding.clone())
    }

    /// A look at the lease that began at `started` has shown that, and `reason` says why the lease is lost if it is.
    /// What is to be written.
    pub(crate) fn looked(
        &self,
        key: (u64, Version),
        started: Time,
        look: Look,
        reason: Option<LossReason>,
    ) -> Option<Restore> {
        let mut restore = None;
        // What could not be put right explains a loss, though a later look reads that it is still wrong.
        let is_good = look.verdict == Verdict::Good;
        self.with_hold(key, |hold, now| {
            restore = hold.holding.looked(started, look, now);
            if is_good {
                hold.trouble = None;
            }
            if hold.holding.is_lost() && hold.reason.is_none() {
                hold.reason = reason;
            }
        });
        restore
    }

    /// What was to be written for the lease is on disk.
    pub(crate) fn restored(&self, key: (u64, Version)) {
        self.with_hold(key, |hold, now| hold.holding.restored(now));
    }

    /// The release of a lease that was lost has begun.
    pub(crate) fn given_back(&self, key: (u64, Version)) {
        self.with_hold(key, |hold, _| hold.holding.given_back());
    }

    /// Keeps what a look at the lease failed with, to explain a loss.
    pub(crate) fn not_looked(&self, key: (u64, Version), error: DiskError) {
        self.with_hold(key, |hold, _| hold.trouble = Some(Arc::new(error)));
    }

    /// Latches the loss of one lease, which is `reason` in the words of the public errors.
    pub(crate) fn lose_hold(&self, key: (u64, Version), loss: Loss, reason: LossReason) {
        self.with_hold(key, |hold, now| {
            hold.holding.lose(loss, now);
            hold.reason.get_or_insert(reason);
        });
    }

    fn with_hold(&self, key: (u64, Version), work: impl FnOnce(&mut Hold, Time)) {
        let mut state = self.state.lock();
        // What is late latches first.
        let now = self.clock.now();
        state.hold_status(key, now, Duration::ZERO);
        if let Some(hold) = state.holds.get_mut(&key) {
            work(hold, now);
        }
        drop(state);
        self.tell_waiters();
    }

    /// Ceases to answer for a lease.
    pub(crate) fn let_go(&self, key: (u64, Version)) {
        self.state.lock().holds.remove(&key);
        self.tell_waiters();
    }

    /// Whether a lease is lost because the area is not what this host left there.
    pub(crate) fn has_lost_area(&self, key: (u64, Version)) -> bool {
        let state = self.state.lock();
        let loss = state.holds.get(&key).and_then(|hold| hold.holding.loss());
        loss.is_some_and(|(_, loss)| loss.is_of_the_area())
    }

    /// The status of a lease.
    pub(crate) fn hold_status(&self, key: (u64, Version)) -> Status {
        let status = || self.state.lock().hold_status(key, self.clock.now(), self.fail - self.late);
        self.forked().unwrap_or_else(status)
    }

    /// Whether a lease is held right now.
    pub(crate) fn held_here(&self, key: (u64, Version)) -> Result<Time, LossReason> {
        until(self.hold_status(key))
    }
}
