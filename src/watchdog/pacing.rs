//! To how many seconds a timer is set, so that the machine is reset in time whatever becomes of this process. Pure.
//!
//! A kernel watchdog counts whole seconds from the last time that it was fed, and it is fed by more than is meant to
//! be:
//! - a feeding may land late, when this process was paused after it had looked at the clock;
//! - the kernel feeds it once more when its device is closed without being switched off, as when this process is
//!   killed.
//!
//! Either comes while the timer still runs, and starts the same time anew. So the timer is set to *half* of what is
//! left until deadline + G: it has then fired by deadline + G if either of them happens at the last moment.
//! docs/design/watchdog.md has the proof.

use std::time::Duration;

use crate::timeouts::{CLOCK_RATE_ERROR_PPM, Timeouts};
use crate::types::Time;

/// In what a watchdog device counts.
pub(super) const GRANULARITY: Duration = Duration::from_secs(1);
/// How often the timer is set anew.
pub(super) const EVERY: Duration = Duration::from_millis(250);
/// A feeding that takes longer than this, from the look at the clock on, counts as paused.
const PROMPT: Duration = Duration::from_millis(20);

/// The timeouts of one lockspace, as a watchdog needs them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacing {
    fail: Duration,
    fence: Duration,
}

impl Pacing {
    /// `Err` with the least G that would do.
    pub(super) fn new(timeouts: &Timeouts) -> Result<Pacing, Duration> {
        let pacing = Pacing { fail: timeouts.fail(), fence: timeouts.fence() };
        if pacing.shortest() >= GRANULARITY {
            return Ok(pacing);
        }
        // What a clock that is slow by rho takes for twice the granularity, in whole milliseconds.
        let least = (GRANULARITY * 2).as_micros() * (1_000_000 + u128::from(CLOCK_RATE_ERROR_PPM));
        let least = least.div_ceil(1_000 * (1_000_000 - u128::from(CLOCK_RATE_ERROR_PPM)));
        Err(Duration::from_millis(u64::try_from(least).unwrap_or(u64::MAX)) + PROMPT)
    }

    /// What the timer is set to at `now`. `None` once the deadline has passed: then it is not fed.
    pub(super) fn timeout(&self, now: Time, deadline: Time) -> Option<Duration> {
        (now < deadline).then(|| half((deadline + self.fence).since(now)))
    }

    /// The shortest and the longest that it is ever set to.
    pub(super) fn shortest(&self) -> Duration {
        half(self.fence)
    }

    pub(super) fn longest(&self) -> Duration {
        half(self.fail + self.fence)
    }

    /// The last feeding is at most [`EVERY`] before the deadline.
    pub(super) fn earliest(&self) -> Duration {
        self.shortest().saturating_sub(EVERY)
    }
}

/// Half of what is left, as a timer counts that may be slow by rho, in whole units.
fn half(left: Duration) -> Duration {
    const MILLION: u128 = 1_000_000;
    let rho = u128::from(CLOCK_RATE_ERROR_PPM);
    let counted = left.saturating_sub(PROMPT).as_nanos() * (MILLION - rho) / (MILLION + rho) / 2;
    let whole = counted / GRANULARITY.as_nanos();
    GRANULARITY * u32::try_from(whole).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::timeouts::{Profile, stretched};

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_lockspace_whose_fence_is_too_short_is_refused_with_what_would_do() {
        let with = |fence: Duration| Timeouts::new(ms(200), ms(250), ms(2_000), fence, ms(9_000)).expect("valid");
        let least = Pacing::new(&Profile::Fast.timeouts()).expect_err("G is 250 ms");
        assert!(Pacing::new(&with(least)).is_ok());
        assert_eq!(Pacing::new(&with(least - ms(1))).err(), Some(least));
        let balanced = Pacing::new(&Profile::Balanced.timeouts()).expect("G is 3 s");
        assert_eq!((balanced.shortest(), balanced.longest(), balanced.earliest()), (ms(1_000), ms(4_000), ms(750)));
        let sanlock = Pacing::new(&Profile::Sanlock.timeouts()).expect("G is 60 s");
        assert_eq!((sanlock.shortest(), sanlock.longest()), (ms(29_000), ms(69_000)));
    }

    #[test]
    fn nothing_is_fed_after_the_deadline() {
        let pacing = Pacing::new(&Profile::Balanced.timeouts()).expect("valid");
        let deadline = Time::ZERO + ms(60_000);
        assert!(pacing.timeout(deadline - ms(1), deadline).is_some());
        assert_eq!(pacing.timeout(deadline, deadline), None);
    }

    proptest! {
        /// In milliseconds. A renewal is confirmed `renewed` after the one before; the feedings look at the clock at
        /// `first` and `second` after the two renewals' starts. The second one lands late, at any moment before the
        /// timer of the first has run out; or the process is killed then, and the close of the device feeds it.
        #[test]
        fn it_fires_by_the_deadline_and_the_fence_whatever_becomes_of_the_process(
            fence in 2_100u64..70_000,
            fail in 1_000u64..80_000,
            renewed in 1u64..20_000,
            first in 0.0f64..1.0,
            second in 0.0f64..1.0,
            late in 0.0f64..1.0,
        ) {
            let pacing = Pacing { fail: ms(fail), fence: ms(fence) };
            let part = |of: Duration, share: f64| of.mul_f64(share);
            let start = Time::ZERO + ms(1_000_000);
            // Each timer may be slow by rho.
            let fires = |landed: Time, timeout: Duration| landed + stretched(timeout);

            let looked = start + part(ms(fail), first);
            let Some(timeout) = pacing.timeout(looked, start + ms(fail)) else { return Ok(()) };
            let armed = fires(looked + PROMPT, timeout);

            let killed = looked + part(armed.since(looked), late);
            prop_assert!(fires(killed, timeout) <= start + ms(fail + fence), "killed");

            let deadline = start + ms(renewed + fail);
            let looked_again = looked + part(deadline.since(looked), second);
            prop_assume!(looked_again < armed && looked_again >= start + ms(renewed));
            let Some(timeout) = pacing.timeout(looked_again, deadline) else { return Ok(()) };
            let landed = looked_again + part(armed.since(looked_again), late);
            prop_assert!(fires(landed, timeout) <= deadline + ms(fence), "fed late");
        }

        #[test]
        fn it_does_not_fire_before_the_deadline_while_it_is_fed(fence in 2_100u64..70_000, before in 0u64..250) {
            let pacing = Pacing { fail: ms(10_000), fence: ms(fence) };
            let deadline = Time::ZERO + ms(1_000_000);
            let looked = deadline - ms(before + 1);
            let timeout = pacing.timeout(looked, deadline).expect("before the deadline");
            prop_assert!(looked + timeout >= deadline + pacing.earliest() - ms(1));
        }
    }
}
