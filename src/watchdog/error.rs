//! What can go wrong with a watchdog.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Why a watchdog could not be started, fed or switched off.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchdogError {
    /// The device counts whole seconds, and G has no room for that. Nothing was opened.
    #[error("{} counts whole seconds: a lockspace whose fence timeout is {fence:?} needs at least {least:?} for it", .device.display())]
    TooCoarse {
        /// Path of the device.
        device: PathBuf,
        /// G
        fence: Duration,
        /// The least G that would do.
        least: Duration,
    },
    /// Another process has it. Nothing was changed.
    #[error("the watchdog {} is in use by another process", .device.display())]
    InUse {
        /// Path of the device.
        device: PathBuf,
    },
    /// A process that had it ended without switching it off. It was not opened, since that would put a pending reset
    /// off.
    #[error(
        "a process left the watchdog {} counting, and the machine is about to be reset ({} says so): it is left alone", .device.display(), .mark.display()
    )]
    ResetPending {
        /// Path of the device.
        device: PathBuf,
        /// The file that tells. To be removed by whoever knows that the device doesn't count and that nothing is left
        /// of what that process protected.
        mark: PathBuf,
    },
    /// The file that says who has it could not be read or written. Nothing was opened.
    #[error("the file {}, which marks a watchdog in use, can't be used", .mark.display())]
    Mark {
        /// Its path.
        mark: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The device could not be opened. Nothing was changed.
    #[error("the watchdog {} can't be opened", .device.display())]
    Open {
        /// Path of the device.
        device: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The device is no watchdog.
    #[error("{} is not a watchdog", .device.display())]
    NotAWatchdog {
        /// Path of the device.
        device: PathBuf,
        /// What it answered.
        #[source]
        source: Arc<io::Error>,
    },
    /// The device lacks what is needed. It was switched off again.
    #[error("the watchdog {} has no {what}", .device.display())]
    Unsupported {
        /// Path of the device.
        device: PathBuf,
        /// What it lacks.
        what: &'static str,
    },
    /// The device can't be switched off once it was opened (`nowayout`), so that leaving would reset the machine. It
    /// was not opened.
    #[error("the watchdog {} can't be switched off once it is open (nowayout)", .device.display())]
    NoWayOut {
        /// Path of the device.
        device: PathBuf,
    },
    /// The device refused a time that is needed, or took another one instead.
    #[error("the watchdog {} can't be set to {asked:?}{}", .device.display(), got.map_or(String::new(), |got| format!(", only to {got:?}")))]
    Timeout {
        /// Path of the device.
        device: PathBuf,
        /// What it was to be set to.
        asked: Duration,
        /// What it was set to instead.
        got: Option<Duration>,
        /// What it answered.
        #[source]
        source: Option<Arc<io::Error>>,
    },
    /// It could not be fed, or switched off. It goes on counting.
    #[error("the watchdog {} can't be {what}", .device.display())]
    Device {
        /// Path of the device.
        device: PathBuf,
        /// What was to be done: fed, switched off.
        what: &'static str,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// It was to be fed after the deadline, or switched off when it may have fired already. Nothing was done: whatever
    /// is written to a device feeds it.
    #[error("it is too late for the watchdog to be {what}")]
    TooLate {
        /// What was to be done: fed, switched off.
        what: &'static str,
    },
    /// It was to be switched off as after a loss, but the membership is held: leave it instead. Nothing was changed.
    #[error("the membership is held: the watchdog is switched off by leaving it")]
    StillHeld,
    /// The watchdog has not answered for as long as anybody waits. It may still fire.
    #[error("the watchdog doesn't answer")]
    Stuck,
    /// The system refused a timer or a thread.
    #[error("{what}")]
    System {
        /// What was refused.
        what: &'static str,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
}
