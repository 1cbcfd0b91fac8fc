//! Handing a lease over to another host while the programs of both run, in three steps, so that a manager can drive it.
//!
//! The destination waits in [`Membership::receive`]. On the source [`Lease::prepare_handover`] waits until the
//! destination has announced itself, while the program goes on; the program is stopped, or paused for good;
//! [`Lease::hand_over`] makes the destination the owner; and [`Handover::finish`] waits until the destination shows
//! that it knows.

use std::sync::Arc;

use crate::acquire::Wait;
use crate::engine::handover::{Arrival, Ceded, Destination, Kept};
use crate::engine::member::Member;
use crate::error::{AcquireError, DiskError, LossReason, Taker};
use crate::lease::Lease;
use crate::membership::Membership;
use crate::protocol::resource::Basis;
use crate::types::{HostId, LeaseMode, Name, Resource, Time, Version};

/// Why a handover is not prepared. The lease is held as before, but for `Lost`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// It did not ask in time. Does it wait in [`Membership::receive`], for this resource?
    #[error("host {to} does not ask to be handed {resource}")]
    NotAsked {
        /// The resource.
        resource: Name,
        /// The host.
        to: HostId,
    },
    /// It is shared, and others may hold it, too. Convert it first.
    #[error("{resource} is shared: only what one host holds alone is handed over")]
    Shared {
        /// The resource.
        resource: Name,
    },
    /// It is lost.
    #[error("the lease was lost")]
    Lost(#[source] LossReason),
    /// The area could not be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why a lease was not handed over, or is not known to have been. Each says what is held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoverError {
    /// The destination no longer asks. The lease is held as before: what was stopped may go on.
    #[error("{to} does not ask to be handed {} any more", .lease.resource().name())]
    NotAsked {
        /// The lease.
        lease: Lease,
        /// The destination.
        to: Destination,
    },
    /// It is shared, as before. Convert it first.
    #[error("{} is shared: only what one host holds alone is handed over", .lease.resource().name())]
    Shared {
        /// The lease.
        lease: Lease,
    },
    /// Nothing was proposed: storage failed, or a block is damaged. The lease is held as before: what was stopped may
    /// go on, or hand over again.
    #[error("{} was not handed over", .lease.resource().name())]
    Kept {
        /// The lease.
        lease: Lease,
        /// Why.
        source: AcquireError,
    },
    /// The destination gave up while it was made the owner. This host has acquired the resource again, at a later
    /// version: what was stopped may go on with that one.
    #[error("the destination withdrew: {} is held here again, at version {}", .lease.resource().name(), .lease.version())]
    TakenBack {
        /// The lease, with its new version.
        lease: Lease,
    },
    /// The destination gave up after it was made the owner, and this host has not acquired the resource again. Nothing
    /// is held.
    #[error("the destination withdrew, and the resource was not acquired again")]
    NotTakenBack {
        /// To try again with.
        handover: Handover,
        /// Why.
        source: AcquireError,
    },
    /// The destination has not shown that it knew of its version before another host owned a later one: it died, or
    /// gave up. What was stopped must not go on: others may have changed what the lease protects. Nothing is held.
    #[error("{to} never confirmed that it owned version {}, and {by} has come since", .to.version)]
    Passed {
        /// The destination.
        to: Destination,
        /// Who has the resource now.
        by: Taker,
    },
    /// Another host took it meanwhile, or the membership is lost. Nothing is held.
    #[error("the lease was lost")]
    Lost(#[source] LossReason),
    /// The deadline has passed, or the host leaves, after it was proposed. Nothing is held here. The destination owns
    /// the resource now or soon, or finds that nobody hands it over and gives up; if it has died the resource can be
    /// acquired as that of any other dead owner.
    #[error("the outcome is not known: {} may have been made the owner of {}", .handover.to, .handover.resource.name())]
    Unknown {
        /// To find out with.
        handover: Handover,
    },
    /// The destination has not shown in time that it knows that it owns the resource. It may have died.
    #[error("{} has not confirmed that it owns version {}", .handover.to, .handover.version())]
    Unconfirmed {
        /// To go on waiting with.
        handover: Handover,
    },
    /// The area could not be read.
    #[error("whether the destination knows could not be read")]
    Disk {
        /// To go on waiting with.
        handover: Handover,
        /// Why.
        source: DiskError,
    },
}

/// A lease that was handed over: the destination is its owner, or was proposed as that.
#[derive(Debug)]
pub struct Handover {
    member: Arc<Member>,
    resource: Resource,
    to: Destination,
}

impl Membership {
    /// Asks for a resource that another host holds, and waits until its owner hands it over to this one. Nothing that
    /// the lease protects may run before this returns; then its owner has stopped it.
    ///
    /// It waits through changes of the owner, and ends when nobody holds the resource any more: `NotHandedOver`. It
    /// never acquires in any other way.
    ///
    /// # Errors
    /// See [`AcquireError`]. Except after `Unknown` nothing is left behind: a source that hands over at the same moment
    /// finds that this host withdrew.
    pub fn receive(&self, resource: &Resource, wait: Wait) -> Result<Lease, AcquireError> {
        let deadline = wait.deadline(self.member.io.now());
        self.acquire_by(resource, LeaseMode::Exclusive, Basis::HandedOver, deadline)
    }
}

impl Lease {
    /// The hosts that ask to be handed this lease, in the order of their ids, but for those that are known to be dead
    /// or to have left. Takes one read.
    ///
    /// # Errors
    /// The area can't be read.
    pub fn destinations(&self) -> Result<Vec<Destination>, DiskError> {
        self.member().destinations(self.resource(), self.version())
    }

    /// The first step of a handover: waits until the host `to` asks for this lease. Nothing changes, and the protected
    /// program goes on.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub fn prepare_handover(&self, to: HostId, wait: Wait) -> Result<Destination, PrepareError> {
        let resource = self.resource().name();
        if self.mode() == LeaseMode::Shared {
            return Err(PrepareError::Shared { resource });
        }
        let deadline = wait.deadline(self.member().io.now());
        let (mut found, mut trouble) = (None, None);
        let asked = self.member().poll(deadline, || {
            match self.destinations() {
                Ok(all) => {
                    trouble = None;
                    found = all.into_iter().find(|destination| destination.owner.host == to);
                }
                Err(error) => trouble = Some(error),
            }
            found.is_some() || !self.is_held()
        });
        self.member().pulse.held_here(self.key()).map_err(PrepareError::Lost)?;
        match (found, trouble) {
            (Some(destination), _) => Ok(destination),
            (None, Some(error)) => Err(error.into()),
            (None, None) if asked.is_err() => Err(PrepareError::Lost(LossReason::Left)),
            (None, None) => Err(PrepareError::NotAsked { resource, to }),
        }
    }

    /// The second step: makes `to` the owner. The caller has made sure that everything the lease protects has stopped,
    /// and that it stays so unless this fails in a way that says otherwise.
    ///
    /// From the moment in which the destination is proposed this host has no right any more, whatever becomes of it.
    ///
    /// # Errors
    /// See [`HandoverError`], which says what is held then.
    pub fn hand_over(mut self, to: Destination, wait: Wait) -> Result<Handover, HandoverError> {
        let deadline = wait.deadline(self.member().io.now());
        match self.member().hand_over(self.resource(), self.version(), to.owner, deadline) {
            Ceded::Done(version) => {
                let (member, resource) = self.spent();
                Ok(Handover { member, resource, to: Destination { version, ..to } })
            }
            Ceded::Back(version) => {
                let (member, resource) = self.spent();
                let lease = Lease::new(member, resource, LeaseMode::Exclusive, version);
                Err(HandoverError::TakenBack { lease })
            }
            Ceded::Kept(Kept::NotAsked) => Err(HandoverError::NotAsked { lease: self, to }),
            Ceded::Kept(Kept::Shared) => Err(HandoverError::Shared { lease: self }),
            Ceded::Kept(Kept::Failed(source)) => Err(HandoverError::Kept { lease: self, source }),
            Ceded::Lost(reason) => Err(HandoverError::Lost(reason)),
            Ceded::Unknown(version) => {
                let (member, resource) = self.spent();
                Err(HandoverError::Unknown {
                    handover: Handover { member, resource, to: Destination { version, ..to } },
                })
            }
        }
    }
}

impl Handover {
    /// What was handed over.
    pub const fn resource(&self) -> &Resource {
        &self.resource
    }

    /// To whom.
    pub const fn destination(&self) -> &Destination {
        &self.to
    }

    /// The version that the destination owns.
    pub const fn version(&self) -> Version {
        self.to.version
    }

    /// The third step: waits until the destination shows that it knows that it is the owner. What is left of the
    /// program on this side, such as a paused guest, may be thrown away then; before that, the destination may still
    /// give up, and this side acquire again.
    ///
    /// # Errors
    /// `TakenBack` or `NotTakenBack` when the destination gave the version up, `Passed` when it did and another host
    /// was faster, or when it died; `Unconfirmed` when it has not shown anything in time, and `Disk` when nothing could
    /// be read. With all but `TakenBack` and `Passed` it can be called again.
    pub fn finish(self, wait: Wait) -> Result<(), HandoverError> {
        let deadline = wait.deadline(self.member.io.now());
        let mut arrival = Ok(Arrival::Open);
        let watched = self.member.poll(deadline, || {
            arrival = self.member.arrival(&self.resource, self.to.owner, self.to.version);
            matches!(&arrival, Ok(seen) if *seen != Arrival::Open)
        });
        match (arrival, watched) {
            (Ok(Arrival::Taken), _) => Ok(()),
            (Ok(Arrival::Passed(by)), _) => Err(HandoverError::Passed { to: self.to, by }),
            (Ok(Arrival::Withdrawn), _) => self.take_back(deadline),
            (Ok(Arrival::Open), Ok(())) => Err(HandoverError::Unconfirmed { handover: self }),
            (Ok(Arrival::Open), Err(reason)) => Err(HandoverError::Lost(reason)),
            (Err(source), _) => Err(HandoverError::Disk { handover: self, source }),
        }
    }

    fn take_back(self, deadline: Option<Time>) -> Result<(), HandoverError> {
        match self.member.regain(&self.resource, self.to.owner, self.to.version, deadline) {
            Ok(None) => Ok(()),
            Ok(Some(version)) => {
                let lease = Lease::new(self.member, self.resource, LeaseMode::Exclusive, version);
                Err(HandoverError::TakenBack { lease })
            }
            Err(AcquireError::Overtaken { by, .. }) => Err(HandoverError::Passed { to: self.to, by }),
            Err(source) => Err(HandoverError::NotTakenBack { handover: self, source }),
        }
    }
}
