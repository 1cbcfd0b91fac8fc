//! How to acquire a lease.

use std::time::Duration;

use crate::error::{AcquireError, Holder};
use crate::lease::Lease;
use crate::lease_state::LeaseState;
use crate::membership::Membership;
use crate::protocol::resource::Basis;
use crate::types::{LeaseMode, Resource, Time, Version};

/// Until when an acquire waits for a resource that another host holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: it fails at once with who holds it.
    No,
    /// For this long. The answer comes at most three I/O timeouts later.
    For(Duration),
    /// Until it is acquired or the membership ends.
    Forever,
}

impl Wait {
    /// Until when to wait, from `now` on; `None`: not at all.
    pub(crate) fn deadline(self, now: Time) -> Option<Time> {
        match self {
            Wait::No => None,
            Wait::For(span) => Some(now + span),
            Wait::Forever => Some(Time::MAX),
        }
    }
}

/// How to acquire a lease: exclusive and without waiting, if nothing else is said. A [`Wait`] alone will do for an
/// exclusive one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct AcquireOptions {
    mode: LeaseMode,
    wait: Wait,
    unchanged: Option<LeaseState>,
}

impl Default for AcquireOptions {
    fn default() -> AcquireOptions {
        AcquireOptions { mode: LeaseMode::Exclusive, wait: Wait::No, unchanged: None }
    }
}

impl From<Wait> for AcquireOptions {
    fn from(wait: Wait) -> AcquireOptions {
        AcquireOptions::default().wait(wait)
    }
}

impl AcquireOptions {
    /// Exclusive, without waiting.
    pub fn new() -> AcquireOptions {
        AcquireOptions::default()
    }

    /// Exclusive or shared.
    pub const fn mode(mut self, mode: LeaseMode) -> AcquireOptions {
        self.mode = mode;
        self
    }

    /// Until when to wait for a resource that others hold.
    pub const fn wait(mut self, wait: Wait) -> AcquireOptions {
        self.wait = wait;
        self
    }

    /// Only if nobody has owned the resource since it was held in `state`, which [`Lease::state`] gave; where that
    /// can't be told, because a record is damaged, neither.
    pub const fn unchanged(mut self, state: LeaseState) -> AcquireOptions {
        self.unchanged = Some(state);
        self
    }
}

/// A lease that was taken by force.
#[derive(Debug)]
#[non_exhaustive]
pub struct Taken {
    /// The lease.
    pub lease: Lease,
    /// Who had it and lived, and for how long from now on it may still act: until then it learns that the lease is
    /// lost, or has lost it by itself, and stops what it protects. Empty: nobody had it any more. More than one: it had
    /// been taken by force before.
    pub previous: Vec<(Holder, Duration)>,
}

impl Membership {
    /// Acquires a lease on a resource.
    ///
    /// A shared lease is held together with any number of others; while it is, nobody acquires the resource
    /// exclusively.
    ///
    /// # Errors
    /// See [`AcquireError`]: who holds it, or what is wrong. Except after `Unknown`, nothing is left behind, and
    /// acquiring again is safe.
    pub fn acquire(&self, resource: &Resource, options: impl Into<AcquireOptions>) -> Result<Lease, AcquireError> {
        let AcquireOptions { mode, wait, unchanged } = options.into();
        let basis = match unchanged {
            Some(state) if state.resource() != resource.name() => {
                return Err(AcquireError::OtherResource { resource: resource.name(), state });
            }
            Some(state) => Basis::Unchanged(state.version()),
            None => Basis::Any,
        };
        self.acquire_by(resource, mode, basis, wait.deadline(self.member.io.now()))
    }

    /// Acquires a lease, waiting until `deadline`; `None`: not at all.
    pub(crate) fn acquire_by(
        &self,
        resource: &Resource,
        mode: LeaseMode,
        basis: Basis,
        deadline: Option<Time>,
    ) -> Result<Lease, AcquireError> {
        let acquired = self.member.acquire(resource, mode, basis, deadline)?;
        Ok(Lease::new(self.member.clone(), *resource, mode, acquired.version))
    }

    /// Takes an exclusive lease by force: though its owner lives, or can't be reached. Only if the resource is at
    /// `version`, so that of several hosts that are told to take it one succeeds, and nobody who has taken it since is
    /// hurt.
    ///
    /// The owner learns of it when it next looks at the lease, which it does every R, and has lost the lease F after
    /// its last look, whatever becomes of its storage; what the lease protected is stopped G later. Until then both may
    /// act: wait for [`Taken::previous`], or have the resource check the version as a fencing token.
    ///
    /// Hosts that share the resource are waited for as in an acquire.
    ///
    /// # Errors
    /// See [`AcquireError`]; `VersionChanged` names the version that the resource is at, and nothing was written.
    /// `NotForced`: the owner is a sanlock host.
    pub fn take(&self, resource: &Resource, version: Version, wait: Wait) -> Result<Taken, AcquireError> {
        let deadline = wait.deadline(self.member.io.now());
        let acquired = self.member.acquire(resource, LeaseMode::Exclusive, Basis::Forced(version), deadline)?;
        let lease = Lease::new(self.member.clone(), *resource, LeaseMode::Exclusive, acquired.version);
        Ok(Taken { lease, previous: self.member.previous(&acquired) })
    }
}
