//! Until when the host id is held. The one place that says so, and tells whoever watches.
//!
//! "Held" is always judged against the clock, so it never depends on a thread having run. The watching thread does no
//! I/O: it latches the loss at the deadline and wakes those who wait.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::disk::Clock;
use crate::error::{DiskError, LossReason};
use crate::protocol::delta::Tenure;
use crate::types::{Owner, Time};

/// The state of a membership and of all its leases.
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
}

/// How far the leaving of a membership has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Until {
    /// Nothing new is acquired.
    Closing,
    /// Nothing is renewed.
    Stopped,
}

#[derive(Debug)]
struct State {
    tenure: Tenure,
    loss: Option<LossReason>,
    /// What the last renewal failed with.
    trouble: Option<Arc<DiskError>>,
    ended: Option<Until>,
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
}

/// No wait is longer than this, because waits stand still in suspend while the clock that counts does not.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

impl Pulse {
    pub(crate) fn new(tenure: Tenure, clock: Arc<dyn Clock>, late: Duration, fail: Duration) -> Pulse {
        let state = State { tenure, loss: None, trouble: None, ended: None };
        Pulse { clock, late, fail, state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(crate) fn me(&self) -> Owner {
        self.state.lock().tenure.me()
    }

    pub(crate) fn status(&self) -> Status {
        let mut state = self.state.lock();
        state.status(self.clock.now(), self.fail - self.late)
    }

    /// Whether the host id is held right now.
    pub(crate) fn held(&self) -> Result<Time, LossReason> {
        match self.status() {
            Status::Held { until } | Status::Late { until } => Ok(until),
            Status::Lost { reason } => Err(reason),
        }
    }

    /// Works on the tenure; tells watchers afterwards, whatever changed.
    pub(crate) fn with_tenure<T>(&self, work: impl FnOnce(&mut Tenure) -> T) -> T {
        let mut state = self.state.lock();
        let result = work(&mut state.tenure);
        drop(state);
        self.changed.notify_all();
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
        self.changed.notify_all();
    }

    /// Ends every sleep of `until`'s kind from now on.
    pub(crate) fn end(&self, until: Until) {
        self.state.lock().ended = Some(until);
        self.changed.notify_all();
    }

    /// Takes [`Until::Closing`] back.
    pub(crate) fn reopen(&self) {
        self.state.lock().ended = None;
    }

    pub(crate) fn has_ended(&self, until: Until) -> bool {
        self.state.lock().ended.is_some_and(|ended| ended >= until)
    }

    /// Sleeps until `time`; wakes early, and returns false, when the membership is lost or in the state `until`.
    pub(crate) fn sleep(&self, time: Time, until: Until) -> bool {
        let mut state = self.state.lock();
        loop {
            let now = self.clock.now();
            let lost = matches!(state.status(now, self.fail - self.late), Status::Lost { .. });
            if lost || state.ended.is_some_and(|ended| ended >= until) {
                return false;
            }
            if now >= time {
                return true;
            }
            self.changed.wait_for(&mut state, time.since(now).min(LONGEST_WAIT));
        }
    }

    /// Waits until the status differs from `seen`, at most `timeout`: a renewal moves the deadline, half of F passes,
    /// or the membership is lost.
    pub(crate) fn changed(&self, seen: &Status, timeout: Duration) -> Status {
        let end = self.clock.now() + timeout;
        let mut state = self.state.lock();
        loop {
            let now = self.clock.now();
            let status = state.status(now, self.fail - self.late);
            if status != *seen || now >= end {
                return status;
            }
            let late_at = state.tenure.deadline() - (self.fail - self.late);
            let next = if late_at > now { late_at } else { state.tenure.deadline() };
            let wait = next.since(now).min(end.since(now)).min(LONGEST_WAIT).max(Duration::from_micros(100));
            self.changed.wait_for(&mut state, wait);
        }
    }

    /// The watching thread: latches the loss at the deadline though nobody asks, and tells `tell` of every change.
    /// Ends when the membership is lost or has stopped.
    pub(crate) fn watch(&self, tell: impl Fn(&Status)) {
        let mut seen = self.status();
        tell(&seen);
        while !matches!(seen, Status::Lost { .. }) && !self.has_ended(Until::Stopped) {
            let now = self.changed(&seen, LONGEST_WAIT);
            if now != seen {
                tell(&now);
            }
            seen = now;
        }
    }
}
