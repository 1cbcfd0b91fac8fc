//! Acquires, converts and releases, in the thread of the caller; what is left over when the caller's time is up goes on in
//! the membership's own.

use std::collections::BTreeSet;
use std::time::Duration;

use super::drive::{Driven, Limits};
use super::explain::Trouble;
use super::member::Member;
use super::pulse::Until;
use super::resources::{Occupied, Resource, SlotState, Unfinished};
use crate::error::{AcquireError, ConvertError, LossReason, ReleaseError};
use crate::format::Block;
use crate::protocol::resource::{After, Basis, Effect, Operation, Outcome, Refusal, Subject, Wish};
use crate::types::{LeaseMode, Owner, Time, Version};

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
        let limits = self.limits(deadline);
        let (mut operation, effect) = begin(self.subject(resource), own, self.io.now());
        let mut trouble = Trouble::default();
        match self.drive(resource, &mut operation, effect, limits, &mut trouble) {
            Driven::Done(outcome) => {
                self.ended(resource, &operation, &outcome).map_err(AcquireError::Lost)?;
                match outcome {
                    Outcome::Held(version) => {
                        Ok(Acquired { version, overridden: self.act_until(operation.overridden()) })
                    }
                    _ if self.pulse.has_ended(Until::Closing) => Err(AcquireError::Lost(LossReason::Left)),
                    outcome => Err(self.explain(resource, outcome, trouble)),
                }
            }
            Driven::Lost(reason) => {
                self.forget(resource);
                Err(AcquireError::Lost(reason))
            }
            Driven::Unfinished(effect) => {
                self.leave_to_undo(*resource, operation, effect);
                Err(AcquireError::Unknown { resource: resource.name })
            }
        }
    }

    /// Begins an operation on a resource that this membership does not hold. One that is under way, as what is given back
    /// when its caller's time is up, is waited for.
    fn begin(&self, resource: &Resource, deadline: Option<Time>) -> Result<Option<Block>, AcquireError> {
        loop {
            self.pulse.held().map_err(AcquireError::Lost)?;
            if self.pulse.has_ended(Until::Closing) {
                return Err(AcquireError::Lost(LossReason::Left));
            }
            let now = self.io.now();
            match (self.resources.begin(resource), deadline) {
                (Ok(own), _) => return Ok(own),
                (Err(Occupied::UnderWay), Some(end)) if now < end => {
                    self.pulse.sleep(end.min(now + self.terms.timeouts.poll()), Until::Closing);
                }
                (Err(_), _) => return Err(AcquireError::AlreadyHeld { resource: resource.name }),
            }
        }
    }

    /// The membership is lost: nothing is held.
    pub(super) fn forget(&self, resource: &Resource) {
        self.resources.end(resource, SlotState::Idle, None);
    }

    pub(super) fn limits(&self, deadline: Option<Time>) -> Limits {
        let timeouts = &self.terms.timeouts;
        let call_off = deadline.unwrap_or_else(|| self.io.now() + timeouts.fail());
        Limits { call_off, hand_over: call_off + timeouts.io() * 2 }
    }

    /// An operation is over: keeps what is held then. What was given up meanwhile is released.
    ///
    /// # Errors
    /// The lease was lost meanwhile, and stays lost under the version that its holder knows, whatever the operation has
    /// brought: what is on disk keeps others away until it is released.
    pub(super) fn ended(
        &self,
        resource: &Resource,
        operation: &Operation,
        outcome: &Outcome,
    ) -> Result<(), LossReason> {
        let own = operation.own_block().cloned();
        // What was handed over is not gone on with, though it may have been acquired anew.
        let before = self.resources.version_before(resource).filter(|_| !operation.has_ceded());
        let (mode, version) = match (operation.leaves(outcome), outcome, before) {
            (After::Held(mode), Outcome::Held(version), _) => (mode, *version),
            (After::Held(mode), _, Some(version)) => (mode, version),
            (After::Lost, outcome, Some(version)) => {
                self.pulse.lose_hold((resource.offset, version), self.why_too_late(outcome));
                (LeaseMode::Shared, version)
            }
            (After::Nothing, ..) | (_, _, None) => {
                self.resources.end(resource, SlotState::Idle, own);
                return Ok(());
            }
        };
        let held = match before {
            Some(before) if matches!(outcome, Outcome::Held(_)) => {
                self.pulse.hold_on(resource, before, mode, version, operation.looked())
            }
            // As before, and no longer than its looks say.
            Some(before) => self.pulse.held_here((resource.offset, before)).map(drop),
            None => {
                self.pulse.hold(resource, mode, version, operation.looked());
                Ok(())
            }
        };
        let version = before.filter(|_| held.is_err()).unwrap_or(version);
        self.put_back(resource, mode, version, own);
        held
    }

    /// Ends work on what is held, which stays held; unless it was given up meanwhile: then nobody waits for its release.
    pub(super) fn put_back(&self, resource: &Resource, mode: LeaseMode, version: Version, own: Option<Block>) {
        if self.resources.end(resource, SlotState::Held(mode, version), own) {
            self.pulse.let_go((resource.offset, version));
            self.release_when_settled(resource, version);
        }
    }

    fn why_too_late(&self, outcome: &Outcome) -> LossReason {
        match outcome {
            Outcome::Refused(Refusal::Overtaken { owner, version }) => LossReason::Fenced(self.taker(*owner, *version)),
            _ => LossReason::Unverified { cause: None },
        }
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
        let (mut operation, effect) =
            Operation::convert(self.subject(resource), own, to, deadline.is_some(), self.io.now());
        let mut trouble = Trouble::default();
        match self.drive(resource, &mut operation, effect, self.limits(deadline), &mut trouble) {
            Driven::Done(outcome) => {
                self.ended(resource, &operation, &outcome).map_err(ConvertError::Lost)?;
                match outcome {
                    Outcome::Held(version) => Ok(version),
                    Outcome::Refused(Refusal::HandoverBegun) => {
                        Err(ConvertError::HandoverBegun { resource: resource.name })
                    }
                    outcome => Err(ConvertError::NotAcquired(self.explain(resource, outcome, trouble))),
                }
            }
            Driven::Lost(reason) => {
                self.forget(resource);
                Err(ConvertError::Lost(reason))
            }
            Driven::Unfinished(effect) => {
                // It may be held alone by then, at a version that nobody is told of.
                if operation.is_exposed() {
                    self.pulse.lose_hold((resource.offset, held), LossReason::Unverified { cause: None });
                }
                self.leave_to_undo(*resource, operation, effect);
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
        let (mut operation, effect) = Operation::release(self.subject(resource), own, self.io.now());
        let limits = Limits { call_off: Time::MAX, hand_over: end };
        match self.drive(resource, &mut operation, effect, limits, &mut Trouble::default()) {
            Driven::Done(outcome) => {
                self.ended(resource, &operation, &outcome).map_err(ReleaseError::Lost)?;
                lost.map_or(Ok(()), |reason| Err(ReleaseError::Lost(reason)))
            }
            Driven::Lost(reason) => {
                self.forget(resource);
                Err(ReleaseError::Lost(reason))
            }
            Driven::Unfinished(effect) => {
                self.leave_to_undo(*resource, operation, effect);
                Err(unknown)
            }
        }
    }

    /// Has the undoing thread release a lease once no write of this host is in flight.
    pub(crate) fn release_when_settled(&self, resource: &Resource, version: Version) {
        let now = self.io.now();
        let Some((own, _)) = self.resources.take_held(resource, version, now, true, || now) else { return };
        let (operation, effect) = Operation::release(self.subject(resource), own, now);
        let unfinished = Unfinished { resource: *resource, when_settled: true, operation, effect };
        self.resources.unfinished.lock().push_back(unfinished);
    }

    /// Has the undoing thread release a lease.
    pub(crate) fn release_later(&self, resource: &Resource, version: Version) {
        // With no time at all it only ever hands over; that, and a loss, need no answer.
        let _ = self.release(resource, version, Duration::ZERO);
    }

    pub(super) fn leave_to_undo(&self, resource: Resource, mut operation: Operation, effect: Effect) {
        operation.call_off();
        self.resources.unfinished.lock().push_back(Unfinished { resource, when_settled: false, operation, effect });
    }

    /// One round of the undoing thread: moves every unfinished operation on, without waiting long for any.
    pub(crate) fn undo_pending(&self) {
        let count = self.resources.unfinished.lock().len();
        for _ in 0..count {
            let Some(mut job) = self.resources.unfinished.lock().pop_front() else { return };
            if job.when_settled && !self.io.settle(0..u64::MAX, self.terms.timeouts.io()) {
                self.resources.unfinished.lock().push_back(job);
                continue;
            }
            let now = self.io.now();
            let limits = Limits { call_off: now, hand_over: now + self.terms.timeouts.io() };
            let mut trouble = Trouble::default();
            match self.drive(&job.resource, &mut job.operation, job.effect, limits, &mut trouble) {
                Driven::Done(outcome) => {
                    // Whoever still has the lease is told by its status.
                    let _ = self.ended(&job.resource, &job.operation, &outcome);
                }
                Driven::Lost(_) => self.forget(&job.resource),
                Driven::Unfinished(effect) => {
                    self.resources.unfinished.lock().push_back(Unfinished { effect, ..job });
                }
            }
        }
    }
}
