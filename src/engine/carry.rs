//! Carries an operation to its end, and keeps what is held then; what its caller doesn't wait for any more goes on in
//! the undoing thread.

use std::time::Duration;

use super::drive::{Driven, Limits};
use super::explain::Trouble;
use super::member::Member;
use super::resources::{SlotState, Unfinished};
use crate::error::LossReason;
use crate::format::Block;
use crate::protocol::holding::{Holding, Loss};
use crate::protocol::resource::{After, Effect, Operation, Outcome};
use crate::types::{LeaseMode, Resource, Version};

/// How far an operation has come.
#[expect(clippy::large_enum_variant, reason = "one for each operation, and nearly always the large one")]
pub(super) enum Carried {
    /// It is over.
    Over { outcome: Outcome, operation: Operation, trouble: Trouble },
    /// The membership is lost, or the lease that the operation was about: it stays lost, whatever the operation has
    /// brought.
    Lost(LossReason),
    /// It goes on in the undoing thread. Another host may have been proposed as the owner of this version.
    Left { proposed: Option<Version> },
}

impl Member {
    pub(super) fn carry_out(
        &self,
        resource: &Resource,
        (mut operation, effect): (Operation, Effect),
        limits: Limits,
    ) -> Carried {
        let mut trouble = Trouble::default();
        match self.drive(resource, &mut operation, effect, limits, &mut trouble) {
            Driven::Done(outcome) => match self.ended(resource, &operation, &outcome) {
                Ok(()) => Carried::Over { outcome, operation, trouble },
                Err(reason) => Carried::Lost(reason),
            },
            Driven::Lost(reason) => {
                self.resources.end(resource, SlotState::Idle, None);
                Carried::Lost(reason)
            }
            Driven::Unfinished(effect) => {
                // It may be held alone by then, at a version that nobody is told of.
                if operation.is_exposed()
                    && let Some(held) = self.resources.version_before(resource)
                {
                    self.lose_hold(resource, held, Loss::Unverified);
                }
                let proposed = operation.proposed();
                operation.call_off();
                let left = Unfinished { resource: *resource, when_settled: false, operation, effect };
                self.resources.unfinished.lock().push_back(left);
                Carried::Left { proposed }
            }
        }
    }

    /// An operation is over: keeps what is held then. What was given up meanwhile is released.
    ///
    /// # Errors
    /// The lease was lost meanwhile, and stays lost under the version that its holder knows, whatever the operation has
    /// brought: what is on disk keeps others away until it is released.
    fn ended(&self, resource: &Resource, operation: &Operation, outcome: &Outcome) -> Result<(), LossReason> {
        let own = operation.own_block().cloned();
        // What was handed over is not gone on with, though it may have been acquired anew.
        let before = self.resources.version_before(resource).filter(|_| !operation.has_ceded());
        let (mode, version) = match (operation.leaves(outcome), outcome, before) {
            (After::Held(mode), Outcome::Held(version), _) => (mode, *version),
            (After::Held(mode), _, Some(version)) => (mode, version),
            (After::Lost, outcome, Some(version)) => {
                self.lose_hold(resource, version, outcome.why_lost());
                (LeaseMode::Shared, version)
            }
            (After::Nothing, ..) | (_, _, None) => {
                self.resources.end(resource, SlotState::Idle, own);
                return Ok(());
            }
        };
        let held = match before {
            Some(before) if matches!(outcome, Outcome::Held(_)) => {
                let (subject, looked) = (self.subject(resource), operation.looked());
                self.pulse.hold_on(resource, before, version, |held, now| held.converted(&subject, looked, now))
            }
            // As before, and no longer than its looks say.
            Some(before) => self.pulse.held_here((resource.offset, before)).map(drop),
            None => {
                let holding = Holding::new(&self.subject(resource), operation.looked(), operation.passed().clone());
                self.pulse.hold(resource, version, holding);
                Ok(())
            }
        };
        let version = before.filter(|_| held.is_err()).unwrap_or(version);
        self.put_back(resource, mode, version, own);
        held
    }

    /// Ends work on what is held, which stays held; unless it was given up meanwhile: then nobody waits for its
    /// release.
    pub(super) fn put_back(&self, resource: &Resource, mode: LeaseMode, version: Version, own: Option<Block>) {
        if let Some(own) = self.resources.end(resource, SlotState::Held(mode, version), own) {
            let begun = self.released(resource, version, own);
            self.pulse.let_go((resource.offset, version));
            self.queue_release(resource, begun);
        }
    }

    /// Has the undoing thread release a lease once no write of this host is in flight.
    pub(crate) fn release_when_settled(&self, resource: &Resource, version: Version) {
        let now = self.io.now();
        if let Some((own, _)) = self.resources.take_held(resource, version, now, true, || now) {
            self.queue_release(resource, self.released(resource, version, own));
        }
    }

    /// Begins a release of what was held at `version`.
    pub(super) fn released(&self, resource: &Resource, version: Version, own: Block) -> (Operation, Effect) {
        match self.pulse.has_lost_area((resource.offset, version)) {
            true => Operation::disown(self.subject(resource), own, self.io.now()),
            false => Operation::release(self.subject(resource), own, self.io.now()),
        }
    }

    fn queue_release(&self, resource: &Resource, (operation, effect): (Operation, Effect)) {
        let unfinished = Unfinished { resource: *resource, when_settled: true, operation, effect };
        self.resources.unfinished.lock().push_back(unfinished);
    }

    /// Has the undoing thread release a lease.
    pub(crate) fn release_later(&self, resource: &Resource, version: Version) {
        // With no time at all it only ever hands over; that, and a loss, need no answer.
        let _ = self.release(resource, version, Duration::ZERO);
    }

    /// One round of the undoing thread: moves every unfinished operation on, without waiting long for any.
    pub(crate) fn undo_pending(&self) {
        let count = self.resources.unfinished.lock().len();
        for _ in 0..count {
            let Some(job) = self.resources.unfinished.lock().pop_front() else { return };
            if job.when_settled && !self.io.settle(0..u64::MAX, self.terms.timeouts.io()) {
                self.resources.unfinished.lock().push_back(job);
                continue;
            }
            let now = self.io.now();
            // Enough for a read that is slow and begun again.
            let limits = Limits { call_off: now, hand_over: now + self.terms.timeouts.io() * 2 };
            // Whoever still has the lease is told by its status.
            self.carry_out(&job.resource, (job.operation, job.effect), limits);
        }
    }
}
