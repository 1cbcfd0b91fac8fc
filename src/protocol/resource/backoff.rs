//! When to look again: at random within bounds, so that hosts that want the same don't march in step.

use std::time::Duration;

use super::{Effect, Operation, Refusal, Step};
use crate::types::Time;

/// How often a host looks again at what another holds for a moment only, before it takes that for a longer one: by then
/// more time has passed than for which one backs off whose value others have committed.
pub(super) const MAX_SHORT_LOOKS: u32 = 11;

impl Operation {
    pub(super) fn pause(&mut self, until: Time) -> Effect {
        self.step = Step::Pausing;
        Effect::Wait(self.next_round(), until)
    }

    /// Another look after a time between one and two polls, so that those who wait don't march in step.
    pub(super) fn look_later(&mut self, now: Time, random: u64, until: Option<Time>) -> Effect {
        let poll = self.subject.timeouts.poll();
        let later = now + poll + fraction(poll, random);
        self.pause(until.filter(|until| *until > now).map_or(later, |until| until.min(later)))
    }

    /// Another look soon, then later and later, at what another holds for a moment only.
    pub(super) fn look_soon(&mut self, now: Time, random: u64) -> Effect {
        self.short_looks += 1;
        let bound = self.longest_back_off() / 2u32.pow(MAX_SHORT_LOOKS.saturating_sub(self.short_looks));
        self.pause(now + bound / 2 + fraction(bound, random))
    }

    /// An I/O failed on too many disks. Who waits goes on until called off, and so does an undoing.
    pub(super) fn retry(&mut self, now: Time, random: u64) -> Effect {
        match self.wants() && !self.wish.wait && !self.is_bound() {
            true => self.refuse(Refusal::Storage),
            false => self.look_later(now, random, None),
        }
    }

    /// After an abort: at random within the time an attempt takes, growing with every abort.
    pub(super) fn back_off(&mut self, now: Time, random: u64) -> Effect {
        let attempt = now.since(self.started).clamp(Duration::from_micros(100), self.subject.timeouts.io());
        let bound = (attempt * 2u32.saturating_pow(self.aborts.min(6))).min(self.longest_back_off());
        self.pause(now + fraction(bound, random))
    }

    fn longest_back_off(&self) -> Duration {
        self.subject.timeouts.poll() * 4
    }
}

/// `part` of a whole that `random` picks.
fn fraction(whole: Duration, random: u64) -> Duration {
    let nanos = (u128::from(random) * whole.as_nanos()) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
