//! Operations on resources, in the words of the API.

use std::time::Duration;

use super::member::Member;
use crate::error::{AcquireError, ConvertError, DiskError, LossReason, ReleaseError};
use crate::protocol::member::{Answer, Command, Loss, Operated, Order, Over};
use crate::protocol::resource::{Basis, Outcome, Refusal, Wish};
use crate::types::{LeaseMode, Owner, Resource, Time, Version};

/// What an acquire has brought.
#[derive(Debug)]
pub(crate) struct Acquired {
    pub(crate) version: Version,
    /// Whom it was taken from by force, and until when they may still act.
    pub(crate) overridden: Vec<(Owner, Time)>,
}

impl Member {
    pub(super) fn operate(&self, resource: &Resource, order: Order) -> Operated {
        match self.ask(Command::Operate(*resource, order)) {
            Ok(Answer::Operated(operated)) => operated,
            // The thread is gone: the membership says why.
            _ => Operated::Lost(Loss::Left),
        }
    }

    /// As the membership says, where that is over; else why the lease is.
    pub(super) fn why(&self, loss: Loss) -> LossReason {
        self.pulse.held().err().unwrap_or_else(|| self.reason(loss))
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
        self.acquire_by(resource, Order::Acquire(wish, deadline))
    }

    /// As [`Member::acquire`], by any order that acquires.
    pub(super) fn acquire_by(&self, resource: &Resource, order: Order) -> Result<Acquired, AcquireError> {
        match self.operate(resource, order) {
            Operated::Over(over) => match *over {
                Over { outcome: Outcome::Held(version), overridden, .. } => Ok(Acquired { version, overridden }),
                Over { closing: true, .. } => Err(AcquireError::Lost(self.why(Loss::Left))),
                over => Err(self.explain(resource, over)),
            },
            Operated::Lost(loss) => Err(AcquireError::Lost(self.why(loss))),
            Operated::Unfinished { .. } => Err(AcquireError::Unknown { resource: resource.name }),
            Operated::Occupied | Operated::NotHeld | Operated::ValueInFlight => {
                Err(AcquireError::AlreadyHeld { resource: resource.name })
            }
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
        match self.operate(resource, Order::Convert { to, held, deadline }) {
            Operated::Over(over) => match *over {
                Over { outcome: Outcome::Held(version), .. } => Ok(version),
                Over { outcome: Outcome::Refused(Refusal::HandoverBegun), .. } => {
                    Err(ConvertError::HandoverBegun { resource: resource.name })
                }
                over => Err(ConvertError::NotAcquired(self.explain(resource, over))),
            },
            Operated::Lost(loss) => Err(ConvertError::Lost(self.why_of((resource.offset, held), loss))),
            Operated::ValueInFlight => Err(ConvertError::ValueInFlight { resource: resource.name }),
            Operated::Unfinished { .. } | Operated::Occupied | Operated::NotHeld => {
                self.pulse.held_here((resource.offset, held)).map_err(ConvertError::Lost)?;
                Err(ConvertError::Unknown { resource: resource.name })
            }
        }
    }

    /// As its status says, where that is over; else why the machine says so.
    pub(super) fn why_of(&self, key: (u64, Version), loss: Loss) -> LossReason {
        self.pulse.held_here(key).err().unwrap_or_else(|| self.reason(loss))
    }

    /// Releases a lease that is held. One that was taken by force is lost; that it is over is still written.
    pub(crate) fn release(&self, resource: &Resource, held: Version, timeout: Duration) -> Result<(), ReleaseError> {
        self.release_by(resource, held, Order::Release { held, timeout, settled: false })
    }

    /// As [`Member::release`], but not before no write of this host is in flight.
    pub(crate) fn release_when_settled(
        &self,
        resource: &Resource,
        held: Version,
        timeout: Duration,
    ) -> Result<(), ReleaseError> {
        self.release_by(resource, held, Order::Release { held, timeout, settled: true })
    }

    fn release_by(&self, resource: &Resource, held: Version, order: Order) -> Result<(), ReleaseError> {
        self.pulse.held().map_err(ReleaseError::Lost)?;
        match self.operate(resource, order) {
            Operated::Over(over) => match over.lost {
                Some(loss) => Err(ReleaseError::Lost(self.why_of((resource.offset, held), loss))),
                None => Ok(()),
            },
            Operated::Lost(loss) => Err(ReleaseError::Lost(self.why_of((resource.offset, held), loss))),
            Operated::Unfinished { .. } | Operated::Occupied | Operated::NotHeld | Operated::ValueInFlight => {
                Err(ReleaseError::Unknown { resource: resource.name })
            }
        }
    }

    /// Has a lease released; nobody waits for it.
    pub(crate) fn release_later(&self, resource: &Resource, held: Version) {
        let order = Order::Release { held, timeout: Duration::ZERO, settled: false };
        self.inbox.tell(Command::Operate(*resource, order));
    }

    /// What the last I/O of an operation failed with.
    pub(super) fn trouble(&self, over: &Over) -> Option<DiskError> {
        self.pulse.error(over.trouble)
    }
}
