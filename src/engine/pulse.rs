//! Until when the host id, and each lease, is held. The one place that says so, and tells whoever watches.
//!
//! "Held" is always judged against the clock, so it never depends on a thread having run. The watching thread does no
//! I/O: it latches the loss at the deadline and wakes those who wait.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::resources::Resource;
use crate::disk::Clock;
use crate::error::{DiskError, LossReason, Taker};
use crate::protocol::delta::Tenure;
use crate::protocol::holding::Holding;
use crate::supervision::wake;
use crate::types::{LeaseMode, Name, Owner, Time, Version};

/// The state of a membership and of all its leases, or of one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Held until this point if no further renewal is confirmed.
    Held {
        /// The deadline.
        until: Time,
    },
    /// As `Held`, and the renewal is overdue: half of F has passed. Prepare to stop.
    Late {
        /// The deadline.
        until: Time,
    },
    /// Not held any more, for good. What it protected must be gone within G of the deadline.
    Lost {
        /// Why.
        reason: LossReason,
    },
}

#[derive(Debug)]
pub(crate) struct Pulse {
    clock: Arc<dyn Clock>,
    /// Of the lockspace: when a renewal counts as late, from the last deadline's start.
    late: Duration,
    fail: Duration,
    state: Mutex<State>,
    changed: Condvar,
    /// Written to with each change, for those who wait for other descriptors too.
    wakes: Mutex<Vec<Weak<OwnedFd>>>,
}

/// How far the leaving of a membership has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Until {
    /// Nothing new is acquired.
    Closing,
    /// Nothing is renewed.
    Stopped,
}

/// What a supervised program depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    Membership,
    /// The lease at that place which began at that version; a conversion may have given it a later one since.
    Lease {
        offset: u64,
        began: Version,
    },
}

/// How it stands with what a program depends on.
#[derive(Debug)]
pub(crate) struct Standing {
    /// The last deadline, whether it has passed or not; now, of a lease that was given up.
    pub(crate) until: Time,
    /// Since when it is lost, as far as that is known, and why.
    pub(crate) loss: Option<(Time, LossReason)>,
}

#[derive(Debug)]
struct State {
    tenure: Tenure,
    loss: Option<LossReason>,
    /// What the last renewal failed with.
    trouble: Option<Arc<DiskError>>,
    ended: Option<Until>,
    /// The next renewal is to be made at once.
    hurried: bool,
    /// What is held, by the place of the resource and the version.
    holds: BTreeMap<(u64, Version), Hold>,
}

/// A lease that is held, or that was lost and not given back yet.
#[derive(Debug)]
struct Hold {
    name: Name,
    /// The version that it had before it was converted for the first time.
    began: Version,
    holding: Holding,
    /// What the last look failed with.
    trouble: Option<Arc<DiskError>>,
    /// Since when, and why.
    loss: Option<(Time, LossReason)>,
    /// Whether the loss was told.
    told: bool,
}

/// A lease that is lost though its host's membership is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseLoss {
    /// Of what.
    pub resource: Name,
    /// The version that was held.
    pub version: Version,
    /// Why.
    pub reason: LossReason,
}

impl Hold {
    /// The last deadline: its own, or that of the host id.
    fn deadline(&self, tenure: &Tenure) -> Time {
        let host = tenure.deadline();
        self.holding.deadline().map_or(host, |own| own.min(host))
    }
}

impl State {
    fn status(&mut self, now: Time, late_after: Duration) -> Status {
        self.tenure.tick(now);
        if self.loss.is_none()
            && let Some(loss) = self.tenure.lost()
        {
            self.loss = Some(match loss.clone().into() {
                LossReason::Expired { .. } => LossReason::Expired { cause: self.trouble.take() },
                reason => reason,
            });
        }
        let until = self.tenure.deadline();
        match &self.loss {
            Some(reason) => Status::Lost { reason: reason.clone() },
            None if now + late_after >= until => Status::Late { until },
            None => Status::Held { until },
        }
    }

    fn hold(&mut self, resource: &Resource, began: Version, version: Version, holding: Holding) {
        let hold = Hold { name: resource.name, began, holding, trouble: None, loss: None, told: false };
        self.holds.insert((resource.offset, version), hold);
    }

    /// The status of a lease: it ends with the membership, or by its own deadline.
    fn hold_status(&mut self, key: (u64, Version), now: Time, late_after: Duration) -> Status {
        let whole = self.status(now, late_after);
        let Some((_, hold)) = self.holds.range_mut(from(key)).next() else {
            return Status::Lost { reason: LossReason::Left };
        };
        if let Some((_, reason)) = &hold.loss {
            return Status::Lost { reason: reason.clone() };
        }
        if let Status::Lost { .. } = whole {
            return whole;
        }
        let until = hold.deadline(&self.tenure);
        hold.holding.tick(now);
        if hold.holding.is_lost() {
            let reason = LossReason::Unverified { cause: hold.trouble.take() };
            hold.loss = Some((until, reason.clone()));
            return Status::Lost { reason };
        }
        match now + late_after >= until {
            true => Status::Late { until },
            false => Status::Held { until },
        }
    }

    /// The lease that began like this, as it is called now, if it is answered for.
    fn key(&self, offset: u64, began: Version) -> Option<(u64, Version)> {
        let mut later = self.holds.range(from((offset, began)));
        later.find(|(_, hold)| hold.began == began).map(|(key, _)| *key)
    }

    /// When something changes that nobody does: a lease becomes late, or is lost.
    fn next_due(&self, now: Time, late_after: Duration) -> Time {
        let held = self.holds.values().filter(|hold| hold.loss.is_none());
        let ends = held.filter_map(|hold| hold.holding.deadline()).chain([self.tenure.deadline()]);
        ends.flat_map(|end| [end - late_after, end]).filter(|due| *due > now).min().unwrap_or(Time::MAX)
    }

    /// The losses of single leases that were not told yet.
    fn untold(&mut self, now: Time) -> Vec<LeaseLoss> {
        let keys: Vec<(u64, Version)> = self.holds.keys().copied().collect();
        for key in keys {
            self.hold_status(key, now, Duration::ZERO);
        }
        let untold = self.holds.iter_mut().filter(|(_, hold)| hold.loss.is_some() && !hold.told);
        let tell = |(&(_, version), hold): (&(u64, Version), &mut Hold)| {
            hold.told = true;
            let (_, reason) = hold.loss.clone()?;
            Some(LeaseLoss { resource: hold.name, version, reason })
        };
        untold.filter_map(tell).collect()
    }
}

/// No wait is longer than this, because waits stand still in suspend while the clock that counts does not.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_millis(100);

impl Pulse {
    pub(crate) fn new(tenure: Tenure, clock: Arc<dyn Clock>, late: Duration, fail: Duration) -> Pulse {
        let holds = BTreeMap::new();
        let state = State { tenure, loss: None, trouble: None, ended: None, hurried: false, holds };
        Pulse { clock, late, fail, state: Mutex::new(state), changed: Condvar::new(), wakes: Mutex::default() }
    }

    pub(crate) fn me(&self) -> Owner {
        self.state.lock().tenure.me()
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
        let state = self.state.lock();
        let began = state.holds.range(from(key)).next().map_or(key.1, |(_, hold)| hold.began);
        Subject::Lease { offset: key.0, began }
    }

    pub(crate) fn standing(&self, subject: Subject) -> Standing {
        let mut state = self.state.lock();
        let (now, late_after) = (self.clock.now(), self.fail - self.late);
        let (status, until, since) = match subject {
            Subject::Membership => (state.status(now, late_after), state.tenure.deadline(), None),
            Subject::Lease { offset, began } => match state.key(offset, began) {
                Some(key) => {
                    let status = state.hold_status(key, now, late_after);
                    let hold = &state.holds[&key];
                    (status, hold.deadline(&state.tenure), hold.loss.as_ref().map(|(since, _)| *since))
                }
                None => (Status::Lost { reason: LossReason::Left }, now, None),
            },
        };
        let loss = self::until(status).err().map(|reason| (since.unwrap_or(now), reason));
        Standing { until, loss }
    }

    pub(crate) fn status(&self) -> Status {
        let mut state = self.state.lock();
        state.status(self.clock.now(), self.fail - self.late)
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

    /// Begins to answer for a lease. The read that showed it to be held began at `looked`.
    pub(crate) fn hold(&self, resource: &Resource, mode: LeaseMode, version: Version, looked: Time) {
        self.state.lock().hold(resource, version, version, Holding::new(mode, looked, self.fail));
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
        mode: LeaseMode,
        version: Version,
        looked: Time,
    ) -> Result<(), LossReason> {
        let mut state = self.state.lock();
        let (key, now) = ((resource.offset, before), self.clock.now());
        until(state.hold_status(key, now, Duration::ZERO))?;
        if let Some(hold) = state.holds.remove(&key) {
            state.hold(resource, hold.began, version, hold.holding.converted(mode, looked, now));
        }
        drop(state);
        self.tell_waiters();
        Ok(())
    }

    /// A lease that was shared may be taken by force from now on: the last read began at `looked`.
    pub(crate) fn expose(&self, key: (u64, Version), looked: Time) {
        self.with_hold(key, |hold, _| hold.holding.expose(looked));
    }

    /// A look at the lease that began at `started` has shown by whom it was taken, if it was.
    pub(crate) fn looked(&self, key: (u64, Version), started: Time, taker: Option<Taker>) {
        self.with_hold(key, |hold, now| {
            hold.holding.looked(started, taker.is_some(), now);
            hold.trouble = None;
            if let Some(taker) = taker.filter(|_| hold.holding.is_lost()) {
                hold.loss.get_or_insert((now, LossReason::Fenced(taker)));
            }
        });
    }

    /// Keeps what a look at the lease failed with, to explain a loss.
    pub(crate) fn not_looked(&self, key: (u64, Version), error: DiskError) {
        self.with_hold(key, |hold, _| hold.trouble = Some(Arc::new(error)));
    }

    /// Latches the loss of one lease.
    pub(crate) fn lose_hold(&self, key: (u64, Version), reason: LossReason) {
        self.with_hold(key, |hold, now| {
            hold.holding.lose();
            hold.loss.get_or_insert((now, reason));
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

    /// Whether a lease was lost alone for at least `span`.
    pub(crate) fn lost_for(&self, key: (u64, Version), span: Duration) -> bool {
        let state = self.state.lock();
        let loss = state.holds.get(&key).and_then(|hold| hold.loss.as_ref());
        loss.is_some_and(|(since, _)| self.clock.now().since(*since) >= span)
    }

    /// The status of a lease.
    pub(crate) fn hold_status(&self, key: (u64, Version)) -> Status {
        self.state.lock().hold_status(key, self.clock.now(), self.fail - self.late)
    }

    /// Whether a lease is held right now.
    pub(crate) fn held_here(&self, key: (u64, Version)) -> Result<Time, LossReason> {
        until(self.hold_status(key))
    }

    /// Ends every sleep of `until`'s kind from now on.
    pub(crate) fn end(&self, until: Until) {
        self.state.lock().ended = Some(until);
        self.tell_waiters();
    }

    /// Takes [`Until::Closing`] back.
    pub(crate) fn reopen(&self) {
        self.state.lock().ended = None;
    }

    pub(crate) fn has_ended(&self, until: Until) -> bool {
        self.state.lock().ended.is_some_and(|ended| ended >= until)
    }

    /// Ends the present or the next [`Pulse::sleep_to_renewal`].
    pub(crate) fn hurry(&self) {
        self.state.lock().hurried = true;
        self.tell_waiters();
    }

    /// As [`Pulse::sleep`] for the next renewal, which [`Pulse::hurry`] has made early.
    pub(crate) fn sleep_to_renewal(&self, time: Time) -> bool {
        self.sleep_unless(time, Until::Stopped, |state| std::mem::take(&mut state.hurried))
    }

    /// Sleeps until `time`; wakes early, and returns false, when the membership is lost or in the state `until`.
    pub(crate) fn sleep(&self, time: Time, until: Until) -> bool {
        self.sleep_unless(time, until, |_| false)
    }

    fn sleep_unless(&self, time: Time, until: Until, mut early: impl FnMut(&mut State) -> bool) -> bool {
        let mut state = self.state.lock();
        loop {
            let now = self.clock.now();
            let lost = matches!(state.status(now, self.fail - self.late), Status::Lost { .. });
            if lost || state.ended.is_some_and(|ended| ended >= until) {
                return false;
            }
            if early(&mut state) || now >= time {
                return true;
            }
            self.changed.wait_for(&mut state, time.since(now).min(LONGEST_WAIT));
        }
    }

    /// Waits until the status differs from `seen`, at most `timeout`: a renewal moves the deadline, half of F passes,
    /// or the membership is lost.
    pub(crate) fn changed(&self, seen: &Status, timeout: Duration) -> Status {
        let late_after = self.fail - self.late;
        self.changed_from(seen, timeout, |state, now| state.status(now, late_after))
    }

    /// As [`Pulse::changed`], of one lease.
    pub(crate) fn hold_changed(&self, key: (u64, Version), seen: &Status, timeout: Duration) -> Status {
        let late_after = self.fail - self.late;
        self.changed_from(seen, timeout, |state, now| state.hold_status(key, now, late_after))
    }

    fn changed_from(&self, seen: &Status, timeout: Duration, look: impl Fn(&mut State, Time) -> Status) -> Status {
        let differs = |state: &mut State, now| Some(look(state, now)).filter(|status| status != seen);
        self.wait_for(timeout, differs).unwrap_or_else(|| look(&mut self.state.lock(), self.clock.now()))
    }

    /// Looks until there is something to see, at most for `timeout`: whenever something was changed or comes due.
    fn wait_for<T>(&self, timeout: Duration, mut look: impl FnMut(&mut State, Time) -> Option<T>) -> Option<T> {
        let end = self.clock.now() + timeout;
        let mut state = self.state.lock();
        loop {
            let now = self.clock.now();
            let found = look(&mut state, now);
            if found.is_some() || now >= end {
                return found;
            }
            let next = state.next_due(now, self.fail - self.late).min(end);
            let wait = next.since(now).min(LONGEST_WAIT).max(Duration::from_micros(100));
            self.changed.wait_for(&mut state, wait);
        }
    }

    /// The watching thread: latches each loss at its deadline though nobody asks, and tells `tell` of every change of
    /// the membership, and `tell_loss` of leases that are lost alone. Ends when the membership is lost or has stopped.
    pub(crate) fn watch(&self, tell: impl Fn(&Status), tell_loss: impl Fn(&LeaseLoss)) {
        let mut seen = self.status();
        tell(&seen);
        while !matches!(seen, Status::Lost { .. }) && !self.has_ended(Until::Stopped) {
            let change = self.wait_for(LONGEST_WAIT, |state, now| {
                let status = state.status(now, self.fail - self.late);
                let losses = state.untold(now);
                (status != seen || !losses.is_empty()).then_some((status, losses))
            });
            let Some((now, losses)) = change else { continue };
            if now != seen {
                tell(&now);
            }
            seen = now;
            for loss in &losses {
                tell_loss(loss);
            }
        }
    }
}

/// Where a lease stands among what is held: a conversion moves it to a later version before its holder knows of that.
fn from((offset, version): (u64, Version)) -> RangeInclusive<(u64, Version)> {
    (offset, version)..=(offset, Version::new(u64::MAX))
}

fn until(status: Status) -> Result<Time, LossReason> {
    match status {
        Status::Held { until } | Status::Late { until } => Ok(until),
        Status::Lost { reason } => Err(reason),
    }
}
