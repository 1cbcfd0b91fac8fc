//! Acquires, converts and releases, in the thread of the caller; what is left over when the caller's time is up goes on
//! in the membership's own.

use std::collections::BTreeSet;
use std::time::Duration;

use super::carry::Carried;
use super::drive::Limits;
use super::member::Member;
use super::pulse::Until;
use super::resources::Occupied;
use crate::error::{AcquireError, ConvertError, LossReason, ReleaseError};
use crate::format::Block;
use crate::protocol::resource::{Basis, Effect, Operation, Outcome, Refusal, Subject, Wish};
use crate::types::{LeaseMode, Owner, Resource, Time, Version};

/// What an acquire has brought.
#[derive(Debug)]
pub(crate) struct Acquired {
    pub(crate) version: Version,
    /// Whom it was taken from by force, and until when they may still act.
    pub(crate) overridden: Vec<(Owner, Time)>,
}

impl Member {
    /// Until when those may still act from whom something was taken by force before now.
    pub(super) fn act_until(&self, overridden: &BTreeSet<Owner>) -> Vec<(Owner, Time)> {
        let now = self.io.now();
        let until = |owner: &Owner| self.hosts.with_observer(|observer| observer.acts_until(owner.host, now));
        overridden.iter().map(|owner| (*owner, until(owner))).collect()
    }

    pub(super) fn subject(&self, resource: &Resource) -> Subject {
        Subject {
            me: self.pulse.me(),
            geometry: self.terms.geometry,
            lockspace: self.terms.lockspace,
            nonce: self.terms.nonce,
            resource: resource.name,
            timeouts: self.terms.timeouts,
            disks: 1,
        }
    }

    /// Acquires; waits until `deadline` for a resource that is held. `None`: doesn't wait, but finishes what it begins.
    pub(crate) fn acquire(
        &self,
        resource: &Resource,
        mode: LeaseMode,
        basis: Basis,
        deadline: Option<Time>,
    ) -> Result<Acquired, AcquireError> {
        let wish = Wish { mode, wait: deadline.is_some(), basis };
        self.acquire_by(resource, deadline, |subject, own, now| Operation::acquire(subject, own, wish, now))
    }

    /// Completes the acquire of an earlier process of this generation that had claimed `version`, or takes it back.
    pub(crate) fn complete(&self, resource: &Resource, version: Version) -> Result<Acquired, AcquireError> {
        self.acquire_by(resource, None, |subject, _, now| Operation::complete(subject, version, now))
    }

    /// As [`Member::acquire`], by an operation that `begin` makes of the own block as far as it is known.
    pub(crate) fn acquire_by(
        &self,
        resource: &Resource,
        deadline: Option<Time>,
        begin: impl FnOnce(Subject, Option<Block>, Time) -> (Operation, Effect),
    ) -> Result<Acquired, AcquireError> {
        let own = self.begin(resource, deadline)?;
        let begun = begin(self.subject(resource), own, self.io.now());
        match self.carry_out(resource, begun, self.limits(deadline)) {
            Carried::Over { outcome: Outcome::Held(version), operation, .. } => {
                Ok(Acquired { version, overridden: self.act_until(operation.overridden()) })
            }
            Carried::Over { .. } if self.pulse.has_ended(Until::Closing) => Err(AcquireError::Lost(LossReason::Left)),
            Carried::Over { outcome, trouble, .. } => Err(self.explain(resource, outcome, trouble)),
            Carried::Lost(reason) => Err(AcquireError::Lost(reason)),
            Carried::Left { .. } => Err(AcquireError::Unknown { resource: resource.name }),
        }
    }

    /// Begins an operation on a resource that this membership does not hold. One that is under way, as what is given
    /// back when its caller's time is up, is waited for.
    fn begin(&self, resource: &Resource, deadline: Option<Time>) -> Result<Option<Block>, AcquireError> {
        self.pulse.held().map_err(AcquireError::Lost)?;
        if self.pulse.has_ended(Until::Closing) {
            return Err(AcquireError::Lost(LossReason::Left));
        }
        let mut begun = Err(Occupied::UnderWay);
        let polled = self.poll(deadline, || {
            begun = self.resources.begin(resource);
            !matches!(begun, Err(Occupied::UnderWay))
        });
        polled.map_err(AcquireError::Lost)?;
        begun.map_err(|_| AcquireError::AlreadyHeld { resource: resource.name })
    }

    pub(super) fn limits(&self, deadline: Option<Time>) -> Limits {
        let timeouts = &self.terms.timeouts;
        let call_off = deadline.unwrap_or_else(|| self.io.now() + timeouts.fail());
        Limits { call_off, hand_over: call_off + timeouts.io() * 2 }
    }

    /// Changes how a lease is held. Waits until `deadline` for those who share.
    pub(crate) fn convert(
        &self,
        resource: &Resource,
        to: LeaseMode,
        held: Version,
        deadline: Option<Time>,
    ) -> Result<Version, ConvertError> {
        self.pulse.held_here((resource.offset, held)).map_err(ConvertError::Lost)?;
        let unknown = || ConvertError::Unknown { resource: resource.name };
        if to == LeaseMode::Shared && !self.settle_value(resource, self.terms.timeouts.fail()) {
            return Err(ConvertError::ValueInFlight { resource: resource.name });
        }
        let now = || self.io.now();
        let patience = now() + self.terms.timeouts.fail();
        let (own, mode) = self.resources.take_held(resource, held, patience, false, now).ok_or_else(unknown)?;
        if mode == to {
            self.put_back(resource, mode, held, Some(own));
            return Ok(held);
        }
        if to == LeaseMode::Exclusive {
            self.resources.upgrades(resource);
        }
        let begun = Operation::convert(self.subject(resource), own, to, deadline.is_some(), self.io.now());
        match self.carry_out(resource, begun, self.limits(deadline)) {
            Carried::Over { outcome: Outcome::Held(version), .. } => Ok(version),
            Carried::Over { outcome: Outcome::Refused(Refusal::HandoverBegun), .. } => {
                Err(ConvertError::HandoverBegun { resource: resource.name })
            }
            Carried::Over { outcome, trouble, .. } => {
                Err(ConvertError::NotAcquired(self.explain(resource, outcome, trouble)))
            }
            Carried::Lost(reason) => Err(ConvertError::Lost(reason)),
            Carried::Left { .. } => {
                self.pulse.held_here((resource.offset, held)).map_err(ConvertError::Lost)?;
                Err(unknown())
            }
        }
    }

    /// Releases a lease that is held. One that was taken by force is lost; that it is over is still written.
    pub(crate) fn release(&self, resource: &Resource, version: Version, timeout: Duration) -> Result<(), ReleaseError> {
        self.pulse.held().map_err(ReleaseError::Lost)?;
        let lost = self.pulse.held_here((resource.offset, version)).err();
        let end = self.io.now() + timeout;
        let unknown = ReleaseError::Unknown { resource: resource.name };
        if !self.settle_value(resource, timeout) {
            self.release_when_settled(resource, version);
            return Err(lost.map_or(unknown, ReleaseError::Lost));
        }
        let Some((own, _)) = self.resources.take_held(resource, version, end, true, || self.io.now()) else {
            return Err(lost.map_or(unknown, ReleaseError::Lost));
        };
        let begun = self.released(resource, version, own);
        match self.carry_out(resource, begun, Limits { call_off: Time::MAX, hand_over: end }) {
            Carried::Over { .. } => lost.map_or(Ok(()), |reason| Err(ReleaseError::Lost(reason))),
            Carried::Lost(reason) => Err(ReleaseError::Lost(reason)),
            Carried::Left { .. } => Err(unknown),
        }
    }
}
