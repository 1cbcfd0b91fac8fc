//! What tests with real devices and real processes share. All of it is undone in `Drop`, also when a test fails.
//!
//! Needs root, `losetup`, `mkfs.ext4`, `mount` and `fsfreeze`; a test that lacks one of them fails and says so.

#![allow(dead_code)] // Each test program uses a part of it.

pub(crate) mod answers;
pub(crate) mod devices;
pub(crate) mod fuse;
pub(crate) mod host_path;
pub(crate) mod memory;
pub(crate) mod processes;

use std::time::{Duration, Instant};

use leasehold::disk::{BootClock, Clock};
use leasehold::{HostId, JoinError, JoinOptions, Lockspace, Membership, ResumeError, ResumeToken, Resumed, Timeouts};

/// For what must come at some time. Only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until it is so. It looks less often the longer it waits: many tests wait at once, and some look at every
/// process.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_some(what, || condition().then_some(()));
}

/// Waits until there is one, as [`until`].
#[track_caller]
pub(crate) fn until_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        let waited = start.elapsed();
        assert!(waited < PATIENCE, "waited in vain: {what}");
        std::thread::sleep((waited / 64).clamp(Duration::from_millis(2), Duration::from_millis(50)));
    }
}

/// Joins; again when the machine is too busy for an I/O, and while a process that another test starts has not closed
/// its copy of the local lock.
pub(crate) fn join(lockspace: &Lockspace, options: impl Fn() -> JoinOptions) -> Result<Membership, JoinError> {
    until_some("a join", || match lockspace.join(options()) {
        Err(JoinError::Disk(_) | JoinError::Attempt { .. } | JoinError::HeldHere { .. }) => None,
        outcome => Some(outcome),
    })
}

/// Resumes; again while a process that another test starts has not closed its copy of the local lock.
pub(crate) fn resume(
    lockspace: &Lockspace,
    token: &ResumeToken,
    options: impl Fn() -> JoinOptions,
) -> Result<Resumed, ResumeError> {
    until_some("the local lock", || match lockspace.resume(token, options()) {
        Err(ResumeError::HeldHere { .. }) => None,
        outcome => Some(outcome),
    })
}

/// What the environment says in numbers: how long a test runs, or from which seed.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

pub(crate) fn id(number: u64) -> HostId {
    HostId::new(number).unwrap()
}

/// Now, on the clock that all processes of this machine share, in nanoseconds.
pub(crate) fn boottime() -> u64 {
    BootClock.now().as_nanos()
}

/// In milliseconds: renewal, io, fail, fence, dead.
pub(crate) fn timeouts(millis: [u64; 5]) -> Timeouts {
    let [renewal, io, fail, fence, dead] = millis.map(Duration::from_millis);
    Timeouts::new(renewal, io, fail, fence, dead).expect("a valid set of timeouts")
}
