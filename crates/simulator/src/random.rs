//! Chance and clocks, the same for the same seed.

use std::collections::VecDeque;
use std::time::Duration;

use leasehold::Time;
use leasehold::protocol::split_mix;

/// Numbers off a schedule of bytes while it lasts, then SplitMix64: its numbers are the same with every version of
/// every crate.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
    /// What is left of it.
    schedule: VecDeque<u8>,
}

impl Random {
    pub(super) const fn new(seed: u64) -> Random {
        Random { state: seed, schedule: VecDeque::new() }
    }

    pub(super) fn with_schedule(seed: u64, schedule: &[u8]) -> Random {
        Random { state: seed, schedule: schedule.to_vec().into() }
    }

    pub(super) fn next(&mut self) -> u64 {
        split_mix(&mut self.state)
    }

    /// A number below `bound`, which is not 0. Two bytes of the schedule say how large a part of it: the least for 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let Some(high) = self.schedule.pop_front() else { return self.next() % bound };
        let part = u16::from_be_bytes([high, self.schedule.pop_front().unwrap_or(0)]);
        ((u128::from(part) * u128::from(bound)) >> 16) as u64
    }

    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    pub(super) fn span(&mut self, least: Duration, most: Duration) -> Duration {
        let nanos = (most - least).as_nanos() as u64;
        least + Duration::from_nanos(self.below(nanos + 1))
    }

    pub(super) fn millis(&mut self, least: u64, most: u64) -> Duration {
        self.span(Duration::from_millis(least), Duration::from_millis(most))
    }
}

/// A host's boot-time clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) started: Time,
    pub(super) zero: Time,
    pub(super) ppm: i64,
}

impl Clock {
    /// What it shows at `now`, in the world's time.
    pub(super) fn local(&self, now: Time) -> Time {
        let elapsed = now.since(self.started).as_nanos() as i128;
        let counted = elapsed + elapsed * i128::from(self.ppm) / 1_000_000;
        self.zero + Duration::from_nanos(counted as u64)
    }

    /// When it shows at least `local`.
    pub(super) fn world(&self, local: Time) -> Time {
        let counted = local.since(self.zero).as_nanos() as i128;
        let elapsed = counted * 1_000_000 / (1_000_000 + i128::from(self.ppm));
        let mut at = self.started + Duration::from_nanos(elapsed as u64);
        while self.local(at) < local {
            at = at + Duration::from_nanos(1);
        }
        at
    }
}
