//! What stops this host when nothing else can: when the process that holds the leases is paused, stuck or gone.
//!
//! A watchdog counts by itself and has to be fed. The engine feeds it, from a thread of its own, while the host id is
//! held, and never again after that. docs/design/watchdog.md derives when it fires.

mod device;
mod error;
mod kernel;
mod mark;
mod pacing;
mod process;

use std::time::Duration;

pub use error::WatchdogError;
pub use kernel::KernelWatchdog;
pub use process::SelfKill;

use crate::timeouts::Timeouts;
use crate::types::Time;

/// Something that stops what the leases protect when it is not fed: no earlier than the deadline, unless whoever feeds
/// it doesn't run, and by the deadline + G whatever happens.
pub trait Watchdog: Send {
    /// Starts it. Called once, by the join, when the host id is held and before the join returns; in the thread that
    /// feeds it afterwards. One that blocks holds up nothing else.
    ///
    /// # Errors
    /// It can't be had, or can't keep to these timeouts. Nothing counts then.
    fn start(self: Box<Self>, timeouts: &Timeouts) -> Result<Box<dyn Armed>, WatchdogError>;
}

/// A [`Watchdog`] that counts. Dropping it without having it switched off leaves it counting, if it can.
pub trait Armed {
    /// How it is to be fed.
    fn pace(&self) -> Pace;

    /// The host id is held until `deadline` if no further renewal is confirmed. Called again and again while that is
    /// so, at least as often as [`Pace::every`] says unless this process doesn't run.
    ///
    /// # Errors
    /// It may not have been fed. It is tried again.
    fn feed(&mut self, deadline: Time) -> Result<(), WatchdogError>;

    /// Switches it off: everything that the leases protected has stopped.
    ///
    /// # Errors
    /// It may still fire.
    fn disarm(self: Box<Self>) -> Result<(), WatchdogError>;
}

/// How a [`Watchdog`] is to be fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The longest time from one feeding to the next.
    pub every: Duration,
    /// How long after the deadline it may fire at the earliest. What SIGKILL can end should be gone by then, and the
    /// watchdog switched off.
    pub earliest: Duration,
}
