//! A watchdog that kills the process that holds the leases.

use std::io;
use std::sync::Arc;

use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;

use super::error::WatchdogError;
use super::{Armed, Pace, Watchdog};
use crate::timeouts::Timeouts;
use crate::types::Time;

/// Kills this process when the lease ends and nobody has switched it off: for what is protected inside the process, or
/// dies with it.
///
/// The kernel itself sends SIGKILL, by a timer on the clock that the deadline is counted on, and to a stopped process
/// too: no other process or thread has to run for it. The point in time is set, not a span, so a feeding that lands
/// late does not put it off. A child that is forked doesn't inherit it, and a program that this process becomes loses
/// it.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SelfKill;

impl SelfKill {
    /// Fires three quarters of G after the deadline, when the steps of a [`Ladder`](crate::Ladder) have been taken.
    pub const fn new() -> SelfKill {
        SelfKill
    }
}

impl Watchdog for SelfKill {
    fn start(self: Box<Self>, timeouts: &Timeouts) -> Result<Box<dyn Armed>, WatchdogError> {
        let kill = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
        let timer = Timer::new(ClockId::CLOCK_BOOTTIME, kill)
            .map_err(|errno| refused("no timer to end this process with", errno))?;
        let pace = Pace { every: timeouts.renewal() / 4, earliest: timeouts.fence() * 3 / 4 };
        Ok(Box::new(Deadly { timer, pace }))
    }
}

struct Deadly {
    timer: Timer,
    pace: Pace,
}

impl Armed for Deadly {
    fn pace(&self) -> Pace {
        self.pace
    }

    fn feed(&mut self, deadline: Time) -> Result<(), WatchdogError> {
        let at = TimeSpec::from_duration((deadline + self.pace.earliest).since(Time::ZERO));
        let set = self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME);
        set.map_err(|errno| refused("the timer that ends this process can't be set", errno))
    }

    fn disarm(self: Box<Self>) -> Result<(), WatchdogError> {
        Ok(())
    }
}

fn refused(what: &'static str, errno: nix::Error) -> WatchdogError {
    WatchdogError::System { what, source: Arc::new(io::Error::from(errno)) }
}
