//! Where the time comes from.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::types::Time;

/// A clock that never goes back.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present point in time.
    fn now(&self) -> Time;

    /// Whether it is the boot-time clock of this machine, which all its processes have in common.
    fn is_boot_time(&self) -> bool {
        false
    }
}

/// The host's `CLOCK_BOOTTIME`. It goes on in suspend, which `CLOCK_MONOTONIC` does not: a lease must run out then
/// too. It stops, as every clock of a guest does, while a virtual machine is paused.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Time {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
        Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    fn is_boot_time(&self) -> bool {
        true
    }
}

/// A clock that moves only when told to, for tests.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that stands at `start`.
    pub const fn new(start: Time) -> ManualClock {
        ManualClock(AtomicU64::new(start.as_nanos()))
    }

    /// Moves the clock on by `span`, and returns the new time.
    pub fn advance(&self, span: Duration) -> Time {
        let moved = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |nanos| {
            Some((Time::from_nanos(nanos) + span).as_nanos())
        });
        let (Ok(before) | Err(before)) = moved;
        Time::from_nanos(before) + span
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_is_the_hosts_uptime_and_does_not_go_back() {
        let uptime = std::fs::read_to_string("/proc/uptime").expect("/proc/uptime");
        let uptime: f64 = uptime.split(' ').next().expect("a number").parse().expect("seconds");
        let first = BootClock.now();
        // The file has hundredths of seconds, cut off.
        assert!(first.as_nanos() as f64 / 1e9 >= uptime - 0.02, "{first:?} is before {uptime}");
        assert!(BootClock.now() >= first);
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(Time::from_nanos(5));
        assert_eq!(clock.now(), Time::from_nanos(5));
        assert_eq!(clock.advance(Duration::from_nanos(3)), Time::from_nanos(8));
        assert_eq!(clock.now(), Time::from_nanos(8));
        assert_eq!(clock.advance(Duration::MAX), Time::MAX);
    }
}
