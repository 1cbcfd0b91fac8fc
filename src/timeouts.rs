//! The timeouts of a lockspace, and the inequalities between them on which safety rests.
//!
//! They are chosen once, when a lockspace is formatted, and stored in each of its records. A host that joins uses what
//! it reads there. DESIGN.md, "Timing", derives the inequalities.

use std::time::Duration;

/// Bound on the rate error of a host's clock, in parts per million. NTP slews by at most 500.
pub const CLOCK_RATE_ERROR_PPM: u64 = 1_000;

/// `span` as the slowest clock must count it, so that the fastest clock has counted all of it:
/// multiplied by (1 + rho) / (1 - rho), rounded up.
pub fn stretched(span: Duration) -> Duration {
    const MILLION: u128 = 1_000_000;
    let rho = CLOCK_RATE_ERROR_PPM as u128;
    let nanos = (span.as_nanos() * (MILLION + rho)).div_ceil(MILLION - rho);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A set of timeouts that keeps every inequality. Whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeouts {
    renewal: Duration,
    io: Duration,
    fail: Duration,
    fence: Duration,
    dead: Duration,
}

/// Which inequality a set of timeouts fails. All values are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeoutsError {
    /// One of the five is zero, not a whole number of milliseconds, or above a day.
    #[error("the {which} timeout is {value:?}: it must be a whole number of milliseconds from 1 ms to a day")]
    Range {
        /// Its name: renewal, io, fail, fence or dead.
        which: &'static str,
        /// What was given.
        value: Duration,
    },
    /// R + 2T > F: one renewal whose read and write both take as long as they may would lose the lease.
    #[error(
        "renewal {renewal_ms} ms + 2 x io {io_ms} ms is more than fail {fail_ms} ms: a slow renewal would lose the lease"
    )]
    RenewalTooSlow {
        /// R
        renewal_ms: u64,
        /// T
        io_ms: u64,
        /// F
        fail_ms: u64,
    },
    /// 4T > F: a join (a write, a wait of 2T and a read) could end after its own deadline.
    #[error("4 x io {io_ms} ms is more than fail {fail_ms} ms: a join could end after its own deadline")]
    JoinTooSlow {
        /// T
        io_ms: u64,
        /// F
        fail_ms: u64,
    },
    /// F + G > D: a holder could still be active when others take it for dead.
    #[error(
        "fail {fail_ms} ms + fence {fence_ms} ms is more than dead {dead_ms} ms: a holder could act after others take its leases"
    )]
    DeadTooSoon {
        /// F
        fail_ms: u64,
        /// G
        fence_ms: u64,
        /// D
        dead_ms: u64,
    },
    /// F + G > 8 x T (in seconds, rounded up) + 60 s: a sanlock host in the same lockspace counts only that long.
    #[error("fail + fence is {active_ms} ms, more than the {counted_ms} ms that a sanlock host would wait")]
    PeerTooSoon {
        /// F + G
        active_ms: u64,
        /// 8 x T rounded up to seconds + 60 s
        counted_ms: u64,
    },
}

/// A named set of timeouts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Profile {
    /// A killed owner is replaced in under a second. For storage whose writes reliably end within a tenth of a second.
    Fast,
    /// A killed owner is replaced in about ten seconds.
    #[default]
    Balanced,
    /// What a sanlock host assumes of every peer: R = 2T, F = 8T, D = 8T + 60 s; with T = 10 s, 140 s.
    Sanlock,
}

impl Profile {
    /// The I/O timeout T that the profile stands for when nothing else is said.
    pub const fn io_timeout(self) -> Duration {
        match self {
            Profile::Fast => Duration::from_millis(120),
            Profile::Balanced => Duration::from_secs(1),
            Profile::Sanlock => Duration::from_secs(10),
        }
    }

    /// The profile's timeouts for its own T.
    pub fn timeouts(self) -> Timeouts {
        match self.with_io_timeout(self.io_timeout()) {
            Ok(timeouts) => timeouts,
            Err(error) => unreachable!("a built-in profile is valid: {error}"),
        }
    }

    /// The profile with another T; the other timeouts keep their proportion to it (for `Sanlock`, sanlock's rule).
    ///
    /// # Errors
    /// When the result fails an inequality, or isn't in whole seconds where the profile counts in seconds.
    pub fn with_io_timeout(self, io: Duration) -> Result<Timeouts, TimeoutsError> {
        // A bound before the multiplications, which could overflow.
        if io > MAX {
            return Err(TimeoutsError::Range { which: "io", value: io });
        }
        let in_proportion = |millis: u32| {
            let whole = io * millis / u32::try_from(self.io_timeout().as_millis()).unwrap_or(u32::MAX);
            Duration::from_millis(u64::try_from(whole.as_millis()).unwrap_or(u64::MAX))
        };
        match self {
            Profile::Fast => {
                Timeouts::new(in_proportion(100), io, in_proportion(550), in_proportion(250), in_proportion(800))
            }
            Profile::Balanced => Timeouts::new(
                in_proportion(1_000),
                io,
                in_proportion(6_000),
                in_proportion(3_000),
                in_proportion(9_000),
            ),
            Profile::Sanlock if io.subsec_nanos() != 0 || io.is_zero() || io.as_secs() > 255 => {
                Err(TimeoutsError::Range { which: "io", value: io })
            }
            Profile::Sanlock => Ok(Timeouts::from_sanlock_io_timeout(io)),
        }
    }
}

const MAX: Duration = Duration::from_secs(86_400);
/// What sanlock's watchdog rule adds to 8T before a host counts as dead.
const SANLOCK_FENCE: Duration = Duration::from_secs(60);
/// The shortest join of a sanlock host, whose T is its own and a second at least: 2T, less what clocks may differ by.
const SHORTEST_SANLOCK_JOIN: Duration = Duration::from_millis(1_990);

impl Timeouts {
    /// Checks a set of timeouts: renewal interval R, I/O timeout T, fail F, fence G, dead D.
    ///
    /// # Errors
    /// The first inequality that fails.
    pub fn new(
        renewal: Duration,
        io: Duration,
        fail: Duration,
        fence: Duration,
        dead: Duration,
    ) -> Result<Timeouts, TimeoutsError> {
        let timeouts = Timeouts { renewal, io, fail, fence, dead };
        for (which, value) in [("renewal", renewal), ("io", io), ("fail", fail), ("fence", fence), ("dead", dead)] {
            if value.is_zero() || value > MAX || value.subsec_nanos() % 1_000_000 != 0 {
                return Err(TimeoutsError::Range { which, value });
            }
        }
        let [renewal_ms, io_ms, fail_ms, fence_ms, dead_ms] = timeouts.millis().map(u64::from);
        if renewal_ms + 2 * io_ms > fail_ms {
            return Err(TimeoutsError::RenewalTooSlow { renewal_ms, io_ms, fail_ms });
        }
        if 4 * io_ms > fail_ms {
            return Err(TimeoutsError::JoinTooSlow { io_ms, fail_ms });
        }
        if fail_ms + fence_ms > dead_ms {
            return Err(TimeoutsError::DeadTooSoon { fail_ms, fence_ms, dead_ms });
        }
        let active_ms = fail_ms + fence_ms;
        let counted_ms = 8_000 * u64::from(timeouts.io_seconds()) + 60_000;
        if active_ms > counted_ms {
            return Err(TimeoutsError::PeerTooSoon { active_ms, counted_ms });
        }
        Ok(timeouts)
    }

    /// The timeouts that a record without the leasehold extension stands for: R = 2T, F = 8T, G = 60 s, D = 8T + 60 s.
    /// `io` is T in whole seconds, 1 to 65535 as the field on disk has it.
    pub(crate) fn from_sanlock_io_timeout(io: Duration) -> Timeouts {
        let fail = io * 8;
        Timeouts { renewal: io * 2, io, fail, fence: SANLOCK_FENCE, dead: fail + SANLOCK_FENCE }
    }

    /// From five fields on disk, in milliseconds.
    pub(crate) fn from_millis([renewal, io, fail, fence, dead]: [u32; 5]) -> Result<Timeouts, TimeoutsError> {
        let span = |millis: u32| Duration::from_millis(u64::from(millis));
        Timeouts::new(span(renewal), span(io), span(fail), span(fence), span(dead))
    }

    /// R, T, F, G, D in milliseconds, the order in which they stand on disk. A day fits.
    pub(crate) fn millis(&self) -> [u32; 5] {
        [self.renewal, self.io, self.fail, self.fence, self.dead]
            .map(|span| u32::try_from(span.as_millis()).unwrap_or(u32::MAX))
    }

    /// T in whole seconds, rounded up: the field that a sanlock host reads.
    pub fn io_seconds(&self) -> u16 {
        u16::try_from(self.io.as_millis().div_ceil(1_000)).unwrap_or(u16::MAX)
    }

    /// R: the time from the start of one renewal to the start of the next.
    pub const fn renewal(&self) -> Duration {
        self.renewal
    }

    /// T: how long one I/O may take before it counts as timed out.
    pub const fn io(&self) -> Duration {
        self.io
    }

    /// How long who waits for another host lets pass between two looks at the disk.
    pub(crate) fn poll(&self) -> Duration {
        (self.renewal / 8).clamp(Duration::from_millis(5), Duration::from_millis(500))
    }

    /// The shortest time in which anybody may join the lockspace: 2T, or what a sanlock host with a shorter T takes.
    pub(crate) fn shortest_join(&self) -> Duration {
        SHORTEST_SANLOCK_JOIN.min(self.io * 2)
    }

    /// F: the holder must stop when its last confirmed renewal started this long ago.
    pub const fn fail(&self) -> Duration {
        self.fail
    }

    /// G: how long the holder may take to stop everything that its lease protects.
    pub const fn fence(&self) -> Duration {
        self.fence
    }

    /// D: how long an observer must see no change before the holder counts as dead. Before [`stretched`].
    pub const fn dead(&self) -> Duration {
        self.dead
    }

    /// When the holder is told that its renewal is late, counted like F: halfway.
    pub fn late(&self) -> Duration {
        self.fail / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn profiles_are_valid_and_keep_their_promises() {
        let fast = Profile::Fast.timeouts();
        assert!(stretched(fast.dead()) < ms(900));
        assert_eq!(Profile::Balanced.timeouts().dead(), ms(9_000));
        let sanlock = Profile::Sanlock.timeouts();
        assert_eq!(sanlock.millis(), [20_000, 10_000, 80_000, 60_000, 140_000]);
        for profile in [Profile::Fast, Profile::Balanced, Profile::Sanlock] {
            let timeouts = profile.timeouts();
            assert_eq!(Timeouts::from_millis(timeouts.millis()), Ok(timeouts));
            assert!(timeouts.late() > timeouts.renewal(), "a renewal in time must not count as late");
        }
    }

    #[test]
    fn each_inequality_is_named_when_it_fails() {
        let of = |r, t, f, g, d| Timeouts::new(ms(r), ms(t), ms(f), ms(g), ms(d));
        assert!(of(100, 100, 400, 100, 500).is_ok());
        assert!(matches!(of(0, 100, 400, 100, 500), Err(TimeoutsError::Range { which: "renewal", .. })));
        assert!(matches!(of(201, 100, 400, 100, 500), Err(TimeoutsError::RenewalTooSlow { .. })));
        assert!(matches!(of(10, 101, 400, 100, 500), Err(TimeoutsError::JoinTooSlow { .. })));
        assert!(matches!(of(100, 100, 400, 101, 500), Err(TimeoutsError::DeadTooSoon { .. })));
        assert!(matches!(of(100, 100, 60_000, 8_001, 90_000), Err(TimeoutsError::PeerTooSoon { .. })));
        assert!(matches!(
            Timeouts::new(Duration::from_micros(100_500), ms(100), ms(400), ms(100), ms(500)),
            Err(TimeoutsError::Range { which: "renewal", .. })
        ));
    }

    #[test]
    fn another_io_timeout_scales_the_rest() {
        let slow = Profile::Fast.with_io_timeout(ms(240)).map(|timeouts| timeouts.millis());
        assert_eq!(slow, Ok([200, 240, 1_100, 500, 1_600]));
        assert!(Profile::Sanlock.with_io_timeout(ms(1_500)).is_err());
        assert!(Profile::Fast.with_io_timeout(Duration::MAX).is_err());
    }

    #[test]
    fn stretching_outlasts_the_fastest_clock() {
        // A second counted by a clock that is fast by rho, against one that is slow by rho.
        assert_eq!(stretched(Duration::from_secs(1)), Duration::from_nanos(1_002_002_003));
    }
}
