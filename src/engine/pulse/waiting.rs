//! Waiting for a time, a change or the end; and the watching thread, which sees a loss though nobody asks.

use std::time::Duration;

use super::Pulse;
use super::state::State;
use super::status::{LeaseLoss, Status};
use crate::types::{Time, Version};

/// No wait is longer than this, because waits stand still in suspend while the clock that counts does not.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// How far the leaving of a membership has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Until {
    /// Nothing new is acquired.
    Closing,
    /// Nothing is renewed. What is held runs out at its deadline.
    Stopped,
    /// Nobody is told anything any more.
    Over,
}

impl Pulse {
    /// Begins to leave; false when that was begun already, by another thread.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.state.lock();
        let first = state.ended.is_none();
        state.ended.get_or_insert(Until::Closing);
        drop(state);
        self.tell_waiters();
        first
    }

    /// Has the membership come as far as `until`, for good.
    pub(crate) fn end(&self, until: Until) {
        let mut state = self.state.lock();
        state.ended = state.ended.max(Some(until));
        drop(state);
        self.tell_waiters();
    }

    /// Takes [`Pulse::close`] back: only for who did that.
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

    /// Sleeps until `time`; wakes early, and returns false, when the membership is lost or in the state `until`.
    pub(crate) fn sleep(&self, time: Time, until: Until) -> bool {
        self.sleep_unless(until, |_| time)
    }

    /// As [`Pulse::sleep`] for the next renewal, which [`Pulse::hurry`] has made early.
    pub(crate) fn sleep_to_renewal(&self, time: Time) -> bool {
        self.sleep_unless(Until::Stopped, |state| if std::mem::take(&mut state.hurried) { Time::ZERO } else { time })
    }

    /// As [`Pulse::sleep`] until a lease is to be looked at or given back.
    pub(crate) fn sleep_to_look(&self) -> bool {
        let due = |state: &mut State| state.holds.values().map(|hold| hold.holding.due()).min();
        self.sleep_unless(Until::Stopped, |state| due(state).unwrap_or(Time::MAX))
    }

    fn sleep_unless(&self, until: Until, mut due: impl FnMut(&mut State) -> Time) -> bool {
        if self.is_forked() {
            return false;
        }
        let mut state = self.state.lock();
        loop {
            let now = self.clock.now();
            let lost = matches!(state.status(now, self.fail - self.late), Status::Lost { .. });
            if lost || state.ended.is_some_and(|ended| ended >= until) {
                return false;
            }
            let due = due(&mut state);
            if now >= due {
                return true;
            }
            self.changed.wait_for(&mut state, due.since(now).min(LONGEST_WAIT));
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
        if let Some(status) = self.forked() {
            return status;
        }
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
    /// the membership, and `tell_loss` of leases that are lost alone. Ends when it has told the loss of the membership,
    /// or when that is over. One that has only stopped is still to be lost.
    pub(crate) fn watch(&self, tell: impl Fn(&Status), tell_loss: impl Fn(&LeaseLoss)) {
        let mut seen = self.status();
        tell(&seen);
        while !matches!(seen, Status::Lost { .. }) && !self.has_ended(Until::Over) {
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
