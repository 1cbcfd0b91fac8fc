//! A watchdog device of the kernel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::device::{Device, Support};
use super::error::WatchdogError;
use super::mark::Mark;
use super::pacing::{EVERY, Pacing};
use super::{Armed, Pace, Watchdog};
use crate::disk::{BootClock, Clock};
use crate::timeouts::Timeouts;
use crate::types::Time;

/// Where marks stand: gone after a reset, as what they tell is.
const MARKS: &str = "/run/leasehold";
const SYSTEM: &str = "/sys/class/watchdog";

/// A hardware watchdog or the kernel's `softdog`: resets the machine.
///
/// Opened when the host id is held, with a mark in `/run/leasehold` which outlives this process; set to half of what is
/// left until the deadline + G, four times a second; switched off by [`Membership::leave`](crate::Membership::leave) or
/// [`Membership::disarm_watchdog`](crate::Membership::disarm_watchdog) alone. A process that ends otherwise leaves it
/// counting, and no other process opens it until the machine was reset.
///
/// Counts whole seconds, so that G must have two of them. One process at a time can have the device, for one
/// membership.
#[derive(Clone, Debug)]
pub struct KernelWatchdog {
    path: PathBuf,
    marks: PathBuf,
}

impl KernelWatchdog {
    /// The device of that path, such as `/dev/watchdog`. Nothing is opened yet.
    pub fn new(path: impl Into<PathBuf>) -> KernelWatchdog {
        KernelWatchdog { path: path.into(), marks: MARKS.into() }
    }

    /// Another folder for the marks than `/run/leasehold`. It must be one that all processes which use the device share
    /// and that outlives them.
    #[must_use]
    pub fn marks(mut self, folder: impl Into<PathBuf>) -> KernelWatchdog {
        self.marks = folder.into();
        self
    }

    /// Whether the device can keep to these timeouts, as far as can be told without opening it.
    ///
    /// # Errors
    /// `TooCoarse`, `NoWayOut`.
    pub fn check(&self, timeouts: &Timeouts) -> Result<(), WatchdogError> {
        self.pacing(timeouts)?;
        match has_no_way_out(Path::new(SYSTEM), &self.path) {
            true => Err(WatchdogError::NoWayOut { device: self.path.clone() }),
            false => Ok(()),
        }
    }

    fn pacing(&self, timeouts: &Timeouts) -> Result<Pacing, WatchdogError> {
        Pacing::new(timeouts).map_err(|least| WatchdogError::TooCoarse {
            device: self.path.clone(),
            fence: timeouts.fence(),
            least,
        })
    }

    fn open(&self) -> Result<(Device, Support), WatchdogError> {
        let device = Device::open(&self.path).map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::BUSY) => WatchdogError::InUse { device: self.path.clone() },
            _ => WatchdogError::Open { device: self.path.clone(), source: Arc::new(source) },
        })?;
        // What is no watchdog is closed without a word: it may be a file of somebody's.
        match device.support() {
            Ok(support) => Ok((device, support)),
            Err(source) => Err(WatchdogError::NotAWatchdog { device: self.path.clone(), source: Arc::new(source) }),
        }
    }

    /// Whether an open device can do what is needed.
    fn try_out(&self, device: &Device, support: &Support, pacing: &Pacing) -> Result<(), WatchdogError> {
        for (supported, what) in
            [(support.has_magic_close(), "orderly close"), (support.can_set_timeout(), "timeout that can be set")]
        {
            if !supported {
                return Err(WatchdogError::Unsupported { device: self.path.clone(), what });
            }
        }
        for asked in [pacing.shortest(), pacing.longest()] {
            let got = self.set(device, asked)?;
            // One that is shorter would fire while the host id is held.
            if got != asked {
                return Err(self.refused(asked, Some(got), None));
            }
        }
        Ok(())
    }

    /// Returns the time that the device has taken: this one, or a shorter one.
    fn set(&self, device: &Device, asked: Duration) -> Result<Duration, WatchdogError> {
        match device.set_timeout(asked) {
            Ok(got) if got > asked => Err(self.refused(asked, Some(got), None)),
            Ok(got) => Ok(got),
            Err(source) => Err(self.refused(asked, None, Some(source))),
        }
    }

    fn refused(&self, asked: Duration, got: Option<Duration>, source: Option<io::Error>) -> WatchdogError {
        WatchdogError::Timeout { device: self.path.clone(), asked, got, source: source.map(Arc::new) }
    }

    fn failed(&self, what: &'static str, source: io::Error) -> WatchdogError {
        WatchdogError::Device { device: self.path.clone(), what, source: Arc::new(source) }
    }
}

impl Watchdog for KernelWatchdog {
    fn start(self: Box<Self>, timeouts: &Timeouts) -> Result<Box<dyn Armed>, WatchdogError> {
        self.check(timeouts)?;
        let pacing = self.pacing(timeouts)?;
        // Before the device is opened, by which it starts to count, or goes on to.
        let mark = Mark::set(&self.marks, &self.path)?;
        let (device, support) = match self.open() {
            Ok(opened) => opened,
            Err(error) => {
                mark.clear()?;
                return Err(error);
            }
        };
        if let Err(error) = self.try_out(&device, &support, &pacing) {
            device.close().map_err(|source| self.failed("switched off", source))?;
            mark.clear()?;
            return Err(error);
        }
        Ok(Box::new(Counting { watchdog: *self, device, mark, pacing, fires_from: None }))
    }
}

/// The device is open. When it is closed otherwise than by [`Armed::disarm`], the mark stays.
struct Counting {
    watchdog: KernelWatchdog,
    device: Device,
    mark: Mark,
    pacing: Pacing,
    /// When it fires at the earliest; none before it is fed for the first time.
    fires_from: Option<Time>,
}

impl Armed for Counting {
    fn pace(&self) -> Pace {
        Pace { every: EVERY, earliest: self.pacing.earliest() }
    }

    fn feed(&mut self, deadline: Time) -> Result<(), WatchdogError> {
        let now = BootClock.now();
        let timeout = self.pacing.timeout(now, deadline).ok_or(WatchdogError::TooLate { what: "fed" })?;
        let got = self.watchdog.set(&self.device, timeout)?;
        self.device.keep_alive().map_err(|source| self.watchdog.failed("fed", source))?;
        self.fires_from = Some(now + got);
        Ok(())
    }

    fn disarm(self: Box<Self>) -> Result<(), WatchdogError> {
        if self.fires_from.is_some_and(|fires| BootClock.now() >= fires) {
            // Not even closed, which would feed it as well.
            std::mem::forget(self);
            return Err(WatchdogError::TooLate { what: "switched off" });
        }
        let Counting { watchdog, device, mark, .. } = *self;
        device.close().map_err(|source| watchdog.failed("switched off", source))?;
        mark.clear()
    }
}

/// Whether the system says that the device can't be switched off. It says nothing of what it doesn't list.
fn has_no_way_out(system: &Path, device: &Path) -> bool {
    let device = fs::canonicalize(device).unwrap_or_else(|_| device.into());
    let Some(name) = device.file_name().and_then(|name| name.to_str()) else { return false };
    let name = if name == "watchdog" { "watchdog0" } else { name };
    fs::read_to_string(system.join(name).join("nowayout")).is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_cannot_be_switched_off_is_known_before_it_is_opened() {
        let system = tempfile::tempdir().expect("a folder");
        fs::create_dir(system.path().join("watchdog0")).expect("made");
        let file = system.path().join("watchdog0/nowayout");
        fs::write(&file, "0\n").expect("written");
        assert!(!has_no_way_out(system.path(), Path::new("/dev/watchdog0")));
        fs::write(&file, "1\n").expect("written");
        assert!(has_no_way_out(system.path(), Path::new("/dev/watchdog0")));
        assert!(has_no_way_out(system.path(), Path::new("/dev/watchdog")));
        assert!(!has_no_way_out(system.path(), Path::new("/dev/watchdog1")));
    }
}
