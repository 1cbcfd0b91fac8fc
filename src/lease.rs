//! A lease that is held.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::member::Member;
use crate::engine::pulse::Status;
use crate::engine::resources::Resource;
use crate::error::ReleaseError;
use crate::types::{Owner, Version};

/// An exclusive lease on a resource. It lasts as long as its host's membership: until it is released, or the membership
/// is lost.
///
/// What it protects must be gone G after the deadline that [`Status`] shows, and before it is released. Dropping it has
/// it released in the background, as [`Lease::release`] does.
pub struct Lease {
    member: Arc<Member>,
    resource: Resource,
    version: Version,
    released: bool,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("resource", &self.resource)
            .field("version", &self.version)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Lease {
    pub(crate) const fn new(member: Arc<Member>, resource: Resource, version: Version) -> Lease {
        Lease { member, resource, version, released: false }
    }

    /// What is held.
    pub const fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The version of this ownership: the fencing token. Larger than that of every ownership before it.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Who holds it: this host.
    pub fn owner(&self) -> Owner {
        self.member.pulse.me()
    }

    /// Whether it is held at this moment. Judged by the clock: true never outlasts the deadline. Once false it stays so.
    pub fn is_held(&self) -> bool {
        self.member.pulse.held().is_ok()
    }

    /// How much longer it is held if no further renewal is confirmed. Zero once it is lost.
    pub fn remaining(&self) -> Duration {
        self.member.pulse.held().map_or(Duration::ZERO, |deadline| deadline.since(self.member.io.now()))
    }

    /// Whether it is held, late or lost, and until when.
    pub fn status(&self) -> Status {
        self.member.pulse.status()
    }

    /// Waits until the status is another than `seen`, at most `timeout`. Storage can't hold this up.
    pub fn status_change(&self, seen: &Status, timeout: Duration) -> Status {
        self.member.pulse.changed(seen, timeout)
    }

    /// Releases it. The caller has made sure that everything it protected has stopped. Waits at most F.
    ///
    /// # Errors
    /// See [`ReleaseError`]. The lease is gone in any case.
    pub fn release(mut self) -> Result<(), ReleaseError> {
        self.released = true;
        self.member.release(&self.resource, self.member.terms.timeouts.fail())
    }

    /// Has the engine release it once no write of this host is in flight, whatever it was for.
    pub(crate) fn release_when_settled(mut self) {
        self.released = true;
        self.member.release_when_settled(&self.resource);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.released {
            self.member.release_later(&self.resource);
        }
    }
}
