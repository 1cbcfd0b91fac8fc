//! Being a host of a lockspace: until when, what follows from a loss, leaving.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::engine::feeding::Feeder;
use crate::engine::hosts::{HostInfo, infos};
use crate::engine::member::Member;
use crate::engine::pulse::{Status, Subject};
use crate::error::{LeaveError, LossReason};
use crate::lease::Lease;
use crate::lockspace::Lockspace;
use crate::supervision::{Ladder, Protected, SuperviseError, Supervision};
use crate::types::Owner;
use crate::watchdog::WatchdogError;

/// A host id that is held, and renewed until the membership is left or lost.
///
/// Dropping it leaves the lockspace as [`Membership::leave`] does, if no lease is held. Else renewing just stops, and
/// the leases run out at their deadline: until then each says that it is held, and can be released. The program is
/// [told](crate::JoinOptions::on_status) that they are late, and at the deadline that they are lost, though nothing of
/// the membership but its leases may be left by then. Dropping it returns when no renewal is in flight any more, at
/// the latest at that deadline.
///
/// A panic that drops it gives nothing back either, whether a lease is held or not: it says nothing about the programs
/// that depend on the host id, and a watchdog goes on counting. This machine takes the id again after D.
///
/// A child process made by `fork` without `exec` has copies of the membership and of its leases, and no part in them.
/// There each says that it is lost ([`LossReason::Forked`]), though its parent may hold it. No call there reads or
/// writes anything, and dropping a copy does nothing. Calls that neither tell a status nor can fail may wait for ever
/// in the child, for another thread of the parent that was just in such a call. As the child shares the open device and
/// its locks, no other process of this machine gets the host id before the child, too, has ended or called `exec`: it
/// is told [`JoinError::HeldHere`](crate::JoinError::HeldHere). So fork before the join, or start another program.
#[derive(Debug)]
pub struct Membership {
    pub(crate) member: Arc<Member>,
    pub(crate) lockspace: Lockspace,
}

impl Membership {
    pub(crate) fn of(member: Arc<Member>, lockspace: Lockspace) -> Membership {
        Membership { member, lockspace }
    }

    /// Host id and generation.
    pub fn owner(&self) -> Owner {
        self.member.pulse.me()
    }

    /// The lockspace.
    pub const fn lockspace(&self) -> &Lockspace {
        &self.lockspace
    }

    pub(crate) fn member(&self) -> &Member {
        &self.member
    }

    /// Whether it is held, late or lost, and until when.
    pub fn status(&self) -> Status {
        self.member.pulse.status()
    }

    /// Waits until the status is another than `seen`, at most `timeout`: the deadline has moved, the renewal is late,
    /// or the membership is lost. Storage can't hold this up.
    pub fn status_change(&self, seen: &Status, timeout: Duration) -> Status {
        self.member.pulse.changed(seen, timeout)
    }

    /// When a program that depends on the leases is warned, asked to end and killed: [`Ladder::new`] for the timeouts
    /// of the lockspace, and ahead of the watchdog if there is one.
    pub fn ladder(&self) -> Ladder {
        self.member.ladder()
    }

    /// Ends this program when the host id is lost, or given back, step by step, so that all of it is gone by the
    /// deadline + G: for a manager that starts programs of its own and names them. Any number can be supervised.
    ///
    /// A single lease that is lost alone, by force, ends nothing here: [`Lease::supervise`](crate::Lease::supervise)
    /// is for the program that depends on it.
    ///
    /// As the steps are taken by a thread of this process, nobody takes them while the process is stopped, or when it
    /// is gone: a [`Watchdog`](crate::Watchdog) is for that, or a process in between, as `leasehold run` has one.
    ///
    /// # Errors
    /// See [`SuperviseError`].
    pub fn supervise(&self, program: Protected) -> Result<Supervision, SuperviseError> {
        Supervision::start(&self.member, Subject::Membership, program)
    }

    /// Why the watchdog could not be fed the last time; `None` when it was, or there is none. One that is not fed for
    /// long fires before the deadline. A child made by `fork` is not told.
    pub fn watchdog_trouble(&self) -> Option<WatchdogError> {
        self.member.feeder().filter(|_| !self.member.pulse.is_forked()).and_then(Feeder::trouble)
    }

    /// Switches the watchdog off after a loss: the caller has made sure that everything which depended on the leases
    /// has stopped. To be called before the watchdog fires; [`Pace::earliest`](crate::Pace::earliest) says when that
    /// may be. Without a watchdog nothing happens. Waits at most G.
    ///
    /// # Errors
    /// `StillHeld` while the membership is held: then [`Membership::leave`] does it. After any other error the watchdog
    /// may fire.
    pub fn disarm_watchdog(&self) -> Result<(), WatchdogError> {
        match self.member.pulse.held() {
            Ok(_) | Err(LossReason::Forked) => Err(WatchdogError::StillHeld),
            Err(_) => self.member.disarm(),
        }
    }

    /// How long each of the latest renewals took, from the start of its read to its confirmed write; the oldest first,
    /// 1024 at most. None in a child made by `fork`.
    pub fn renewal_latencies(&self) -> Vec<Duration> {
        self.member.latencies()
    }

    /// The host ids that are or were in use, as this membership has watched them since it joined. Reads nothing. None
    /// in a child of its process, made by `fork`.
    pub fn hosts(&self) -> Vec<HostInfo> {
        if self.member.pulse.is_forked() {
            return Vec::new();
        }
        let (device, now) = (self.lockspace.device(), self.member.io.now());
        self.member.with_observer(|observer| infos(observer, self.lockspace.geometry(), &device, now))
    }

    /// The leases whose handles a panic has dropped since this was called last. They are held as before, if they say
    /// so: each may be gone on with, or released when what it protects has stopped.
    ///
    /// Until then each counts as held: an acquire of its resource is refused, and so is [`Membership::leave`].
    /// [`Membership::detach`] leaves them to the next process, which is handed them as all others. A child made by
    /// `fork` has none.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use leasehold::disk::MemoryDisk;
    /// # use leasehold::{FormatOptions, JoinOptions, Lockspace, Profile, Wait};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let timeouts = Profile::Balanced.with_io_timeout(std::time::Duration::from_millis(100))?;
    /// # let options = FormatOptions { timeouts, ..FormatOptions::default() };
    /// # let lockspace = leasehold::format(Arc::new(MemoryDisk::new(8 << 20, None)), &options)?;
    /// # let membership = lockspace.join(JoinOptions::new())?;
    /// # let resource = membership.create("database", Wait::No)?;
    /// let lease = membership.acquire(&resource, Wait::No)?;
    /// let worker = std::thread::spawn(move || {
    ///     let _held = lease;
    ///     panic!("the program goes on, and nobody looks after it");
    /// });
    /// assert!(worker.join().is_err());
    /// // Once the program was stopped:
    /// for lease in membership.orphans() {
    ///     lease.release()?;
    /// }
    /// membership.leave()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn orphans(&self) -> Vec<Lease> {
        if self.member.pulse.is_forked() {
            return Vec::new();
        }
        let index = self.lockspace.index_guard().offset;
        let mut orphans = self.member.orphans.lock();
        // What the guard of the index protects are writes of this engine, which may be in flight.
        let ended = orphans.extract_if(.., |(resource, ..)| resource.offset != index);
        ended.map(|(resource, mode, version)| Lease::new(self.member.clone(), resource, mode, version)).collect()
    }

    /// Gives the host id back. Acquires that wait in other threads end at once, and new ones are refused. Takes a few
    /// I/Os; at most F more when a renewal hangs.
    ///
    /// # Errors
    /// See [`LeaveError`]. After `LeasesHeld` the membership goes on, and after `UnderWay` it may; after any other
    /// error it is over.
    pub fn leave(&self) -> Result<(), LeaveError> {
        self.member.leave()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if self.member.pulse.is_forked() {
            return;
        }
        // The thread that watches the clock lives until it has told the loss, whatever that comes from.
        if thread::panicking() || self.member.leave().is_err() {
            self.member.abandon();
            self.member.sightings_are_kept();
        }
    }
}
