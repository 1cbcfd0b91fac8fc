//! Waiting for a time or a change; and the watching thread, which tells of a loss though nobody asks.

use std::time::Duration;

use super::status::{LeaseLoss, Status};
use super::{Machine, Pulse};
use crate::error::LossReason;
use crate::protocol::member::{Key, Loss};
use crate::types::Time;

/// No wait is longer than this, because waits stand still in suspend while the clock that counts does not.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_millis(100);

impl Pulse {
    /// Sleeps until `time`; wakes early, and returns false, when the membership is lost or about to end.
    pub(crate) fn sleep(&self, time: Time) -> bool {
        if self.is_forked() {
            return false;
        }
        let left = time.since(self.io.now());
        let over = |machine: &mut Machine, now| {
            let over = machine.is_closing() || matches!(self.status_of(machine, now), Status::Lost { .. });
            over.then_some(())
        };
        self.wait_for(left, over).is_none()
    }

    /// Sleeps until `time`; wakes early, and returns false, when nothing is renewed any more, or the membership is
    /// lost.
    pub(crate) fn sleep_to_end(&self, time: Time) -> bool {
        if self.is_forked() {
            return false;
        }
        let left = time.since(self.io.now());
        let over = |machine: &mut Machine, now| {
            let over = self.is_stopped() || machine.is_abandoned() || machine.loss(now).is_some();
            over.then_some(())
        };
        self.wait_for(left, over).is_none()
    }

    /// Waits until the status differs from `seen`, at most `timeout`: a renewal moves the deadline, half of F passes,
    /// or the membership is lost.
    pub(crate) fn changed(&self, seen: &Status, timeout: Duration) -> Status {
        self.changed_from(seen, timeout, |machine, now| self.status_of(machine, now))
    }

    /// As [`Pulse::changed`], of one lease.
    pub(crate) fn hold_changed(&self, key: Key, seen: &Status, timeout: Duration) -> Status {
        self.changed_from(seen, timeout, |machine, now| self.hold_status_of(machine, key, now))
    }

    fn changed_from(&self, seen: &Status, timeout: Duration, look: impl Fn(&mut Machine, Time) -> Status) -> Status {
        if let Some(status) = self.forked() {
            return status;
        }
        let differs = |machine: &mut Machine, now| Some(look(machine, now)).filter(|status| status != seen);
        self.wait_for(timeout, differs).unwrap_or_else(|| look(&mut self.machine.lock(), self.io.now()))
    }

    /// Looks until there is something to see, at most for `timeout`: whenever something was changed or comes due.
    pub(crate) fn wait_for<T>(
        &self,
        timeout: Duration,
        mut look: impl FnMut(&mut Machine, Time) -> Option<T>,
    ) -> Option<T> {
        let end = self.io.now() + timeout;
        let mut machine = self.machine.lock();
        loop {
            let now = self.io.now();
            let found = look(&mut machine, now);
            if found.is_some() || now >= end {
                return found;
            }
            let next = next_due(&mut machine, now).min(end);
            let wait = next.since(now).min(LONGEST_WAIT).max(Duration::from_micros(100));
            self.changed.wait_for(&mut machine, wait);
        }
    }

    /// The watching thread: sees each loss at its deadline though nobody asks, and tells `tell` of every change of the
    /// membership, and `tell_loss` of leases that are lost alone. Ends when the membership is lost or nobody is to be
    /// told. Whoever leaves is answered, and not told.
    pub(crate) fn watch(&self, tell: impl Fn(&Status), tell_loss: impl Fn(&LeaseLoss)) {
        let is_answered =
            |now: &Status| matches!(now, Status::Lost { reason: LossReason::Left | LossReason::Detached });
        let mut seen = self.status();
        if is_answered(&seen) {
            return;
        }
        tell(&seen);
        while !matches!(seen, Status::Lost { .. }) && !self.is_stopped() {
            let change = self.wait_for(LONGEST_WAIT, |machine, now| {
                let status = self.status_of(machine, now);
                // A lease that ends with the membership is not lost alone.
                let losses = if let Status::Lost { .. } = status { Vec::new() } else { self.untold(machine, now) };
                (status != seen || !losses.is_empty()).then_some((status, losses))
            });
            let Some((now, losses)) = change else { continue };
            if is_answered(&now) {
                return;
            }
            if now != seen {
                tell(&now);
            }
            seen = now;
            for loss in &losses {
                tell_loss(loss);
            }
        }
    }

    fn untold(&self, machine: &mut Machine, now: Time) -> Vec<LeaseLoss> {
        let untold = machine.leases().untold(now);
        let told = untold.into_iter().map(|(key, resource, loss)| {
            let trouble = machine.trouble_of(key);
            let reason = self.reason(machine, Loss::Lease(loss), trouble);
            LeaseLoss { resource, version: key.1, reason }
        });
        told.collect()
    }
}

/// When something changes that nobody does: the membership or a lease becomes late, or is lost.
fn next_due(machine: &mut Machine, now: Time) -> Time {
    let timeouts = machine.terms().timeouts;
    let late_after = timeouts.fail() - timeouts.late();
    let deadline = machine.tenure().deadline();
    let ends = machine.leases().deadlines().chain([deadline]);
    ends.flat_map(|end| [end - late_after, end]).filter(|due| *due > now).min().unwrap_or(Time::MAX)
}
