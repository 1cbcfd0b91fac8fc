//! A lease that is held.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard};

use crate::acquire::Wait;
use crate::engine::member::Member;
use crate::engine::pulse::Status;
use crate::error::{ConvertError, ReleaseError};
use crate::lease_state::LeaseState;
use crate::supervision::{Protected, SuperviseError, Supervision};
use crate::types::{LeaseMode, Owner, Resource, Version};

/// A lease on a resource, exclusive or shared. It lasts as long as its host's membership: until it is released, or the
/// membership is lost; or, when it is exclusive, until another host takes it by force.
///
/// What it protects must be gone G after the deadline that [`Status`] shows, and before it is released. Dropping it has
/// it released in the background, as [`Lease::release`] does. But a panic that drops it releases nothing, because it
/// says nothing about what the lease protects: the lease stays held, renewed and supervised, until the membership ends,
/// and [`Membership::orphans`](crate::Membership::orphans) hands it out again. Then it runs out at the deadline.
///
/// A child process made by `fork` has a copy, which says that the lease is lost: see [`Membership`](crate::Membership).
pub struct Lease {
    member: Arc<Member>,
    resource: Resource,
    /// How it is held, and at which version.
    shared: AtomicBool,
    version: AtomicU64,
    /// Taken by a conversion, and by what relies on how the lease is held until it has ended.
    changing: RwLock<()>,
    released: bool,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("resource", &self.resource)
            .field("mode", &self.mode())
            .field("version", &self.version())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Lease {
    pub(crate) const fn new(member: Arc<Member>, resource: Resource, mode: LeaseMode, version: Version) -> Lease {
        let shared = AtomicBool::new(matches!(mode, LeaseMode::Shared));
        let version = AtomicU64::new(version.get());
        Lease { member, resource, shared, version, changing: RwLock::new(()), released: false }
    }

    pub(crate) fn key(&self) -> (u64, Version) {
        (self.resource.offset, self.version())
    }

    /// While this is there, no conversion begins.
    pub(crate) fn unchanging(&self) -> RwLockReadGuard<'_, ()> {
        self.changing.read()
    }

    /// Nothing is left to release.
    pub(crate) fn spent(&mut self) -> (Arc<Member>, Resource) {
        self.released = true;
        (self.member.clone(), self.resource)
    }

    pub(crate) fn member(&self) -> &Member {
        &self.member
    }

    /// What is held.
    pub const fn resource(&self) -> &Resource {
        &self.resource
    }

    /// Whether others may share it.
    pub fn mode(&self) -> LeaseMode {
        match self.shared.load(Ordering::Acquire) {
            true => LeaseMode::Shared,
            false => LeaseMode::Exclusive,
        }
    }

    /// The version of this ownership: the fencing token. Larger than that of every ownership before it. A shared lease
    /// has the version that its host owned to set it up.
    pub fn version(&self) -> Version {
        Version::new(self.version.load(Ordering::Acquire))
    }

    /// What to acquire it by again if nobody has owned it in between: see [`AcquireOptions::unchanged`].
    ///
    /// [`AcquireOptions::unchanged`]: crate::AcquireOptions::unchanged
    pub fn state(&self) -> LeaseState {
        LeaseState::new(self.resource.name(), self.version())
    }

    /// Who holds it: this host.
    pub fn owner(&self) -> Owner {
        self.member.pulse.me()
    }

    /// Whether it is held at this moment. Judged by the clock: true never outlasts the deadline. Once false it stays
    /// so.
    pub fn is_held(&self) -> bool {
        self.member.pulse.held_here(self.key()).is_ok()
    }

    /// How much longer it is held if no further renewal is confirmed. Zero once it is lost.
    pub fn remaining(&self) -> Duration {
        let held = self.member.pulse.held_here(self.key());
        held.map_or(Duration::ZERO, |deadline| deadline.since(self.member.io.now()))
    }

    /// Whether it is held, late or lost, and until when.
    pub fn status(&self) -> Status {
        self.member.pulse.hold_status(self.key())
    }

    /// Waits until the status is another than `seen`, at most `timeout`. Storage can't hold this up.
    pub fn status_change(&self, seen: &Status, timeout: Duration) -> Status {
        self.member.pulse.hold_changed(self.key(), seen, timeout)
    }

    /// Ends this program when the lease is lost, with the membership or alone, step by step, so that all of it is gone
    /// by the lease's deadline + G. A program that depends on several leases can be supervised by each. A conversion
    /// changes nothing of that.
    ///
    /// A lease that is released, handed over or dropped ends the program too, but then it is late: before that it is to
    /// be gone ([`Supervision::end`], [`Supervision::wait`]), or left alone ([`Supervision::stop`]). One that a panic
    /// drops stays held, and the program goes on as before.
    ///
    /// For the rest as [`Membership::supervise`](crate::Membership::supervise). The watchdog is fed as long as the
    /// membership is held: it is not for a program that outlives a lease lost alone.
    ///
    /// ```no_run
    /// # fn run(lease: leasehold::Lease) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::process::Command;
    /// use std::time::Duration;
    /// use leasehold::Protected;
    ///
    /// let mut program = Command::new("server").spawn()?;
    /// let supervision = lease.supervise(Protected::new(program.id()))?;
    /// while !supervision.wait(Duration::from_secs(60)) {}
    /// println!("{}, and the lease is {:?}", program.wait()?, lease.status());
    /// lease.release()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`SuperviseError`].
    pub fn supervise(&self, program: Protected) -> Result<Supervision, SuperviseError> {
        Supervision::start(&self.member, self.member.pulse.subject(self.key()), program)
    }

    /// Changes how it is held, without a moment in which it is not held at all. To the mode that it has: does nothing.
    ///
    /// To [`LeaseMode::Shared`], what it protects must first have stopped to rely on being alone; the version stays.
    /// `wait` is how long to wait for the storage only.
    ///
    /// To [`LeaseMode::Exclusive`] it waits for the others who share, as an acquire does, and gets a new version.
    ///
    /// Other threads may look at the lease meanwhile: its status holds for what it is converted from and to. A second
    /// conversion waits for the first, and so does a write of the value.
    ///
    /// # Errors
    /// See [`ConvertError`], which says what is held then.
    pub fn convert(&self, to: LeaseMode, wait: Wait) -> Result<(), ConvertError> {
        self.member.pulse.held_here(self.key()).map_err(ConvertError::Lost)?;
        let deadline = wait.deadline(self.member.io.now());
        let _alone = self.changing.write();
        let converted = self.member.convert(&self.resource, to, self.version(), deadline);
        match &converted {
            Ok(version) => {
                self.version.store(version.get(), Ordering::Release);
                self.shared.store(to == LeaseMode::Shared, Ordering::Release);
            }
            Err(ConvertError::Unknown { .. }) => self.shared.store(true, Ordering::Release),
            Err(_) => {}
        }
        converted.map(|_| ())
    }

    /// Releases it. The caller has made sure that everything it protected has stopped. Waits at most F.
    ///
    /// # Errors
    /// See [`ReleaseError`]. The lease is gone in any case.
    pub fn release(mut self) -> Result<(), ReleaseError> {
        self.released = true;
        self.member.release(&self.resource, self.version(), self.member.terms.timeouts.fail())
    }

    /// Releases it once no write of this host is in flight, whatever it was for. Waits at most F; then the engine goes
    /// on.
    pub(crate) fn release_after_writes(mut self) {
        self.released = true;
        // What is left of it the engine goes on with, and nobody has to know.
        let _ = self.member.release_when_settled(&self.resource, self.version(), self.member.terms.timeouts.fail());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.member.pulse.is_forked() {
            return;
        }
        if !self.released && thread::panicking() {
            self.member.orphans.lock().push((self.resource, self.mode(), self.version()));
            return;
        }
        if !self.released {
            self.member.release_later(&self.resource, self.version());
        }
        self.member.pulse.let_go(self.key());
    }
}
