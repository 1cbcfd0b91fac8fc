//! Hands what is held over to another host that asks for it.

use super::areas::whole_view;
use super::member::Member;
use crate::error::{AcquireError, DiskError, LossReason, Taker};
use crate::protocol::area::AreaView;
use crate::protocol::member::{Operated, Order};
use crate::protocol::resource::{Outcome, Refusal};
use crate::types::{Name, Owner, Resource, Time, Version};

/// A host that asks to be handed a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Destination {
    /// The host, and its holding of the id: another process of it would have to ask anew.
    pub owner: Owner,
    /// Its name, if its record was read.
    pub name: Option<Name>,
    /// The version that it would own.
    pub version: Version,
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "host {} ({name}) generation {}", self.owner.host, self.owner.generation),
            None => write!(f, "{}", self.owner),
        }
    }
}

/// What has become of a handover.
#[derive(Debug)]
pub(crate) enum Ceded {
    /// The other host owns this version.
    Done(Version),
    /// The other host was not there any more, and this one holds the resource at this version.
    Back(Version),
    /// Nothing was proposed, and the lease is held as before.
    Kept(Kept),
    /// It was lost before anything was proposed; or another host came in between.
    Lost(LossReason),
    /// The other host was proposed as the owner of this version. Nothing is held here, and this operation finds out
    /// nothing more.
    Unknown(Version),
}

/// Why what is held was not handed over.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each handover that fails")]
pub(crate) enum Kept {
    /// The other host does not ask for it.
    NotAsked,
    /// It is shared.
    Shared,
    /// Storage, or damage.
    Failed(AcquireError),
}

/// How far the other host has come with a version that it was made the owner of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It has not shown yet that it knows.
    Open,
    /// It owns the version, or did.
    Taken,
    /// It gave the version up before it knew that it had it.
    Withdrawn,
    /// It has not shown that it knew, and a later version has an owner.
    Passed(Taker),
}

impl Member {
    /// Who asks to be handed what is held at version `held`, but for those that are known to be gone. Reads the blocks
    /// of all hosts that there is room for: who has just joined may ask.
    pub(crate) fn destinations(&self, resource: &Resource, held: Version) -> Result<Vec<Destination>, DiskError> {
        let me = self.pulse.me().host;
        let view = self.whole_area(resource)?;
        let others = view.destinations(held).filter(|(owner, _)| owner.host != me && self.may_be_there(*owner));
        let known = |(owner, version)| Destination { owner, name: self.name_of(owner), version };
        Ok(others.map(known).collect())
    }

    /// Whether that process may still be a host of the lockspace, and heed what its block asks for.
    pub(super) fn may_be_there(&self, owner: Owner) -> bool {
        let now = self.io.now();
        !self.with_observer(|observer| observer.judge(owner, now)).is_gone()
    }

    fn whole_area(&self, resource: &Resource) -> Result<AreaView, DiskError> {
        whole_view(&self.io, &self.terms, resource, self.terms.timeouts.io())
    }

    /// Makes `to` the owner in the place of this host, which holds the resource at version `held`.
    pub(crate) fn hand_over(&self, resource: &Resource, held: Version, to: Owner, deadline: Option<Time>) -> Ceded {
        // What was taken, or not looked at for too long, meanwhile is not held as before.
        let kept = |kept: Kept| match self.pulse.held_here((resource.offset, held)) {
            Ok(_) => Ceded::Kept(kept),
            Err(reason) => Ceded::Lost(reason),
        };
        let timed_out = || kept(Kept::Failed(AcquireError::TimedOut { resource: resource.name, source: None }));
        match self.operate(resource, Order::HandOver { held, to, deadline }) {
            Operated::Over(over) => match (&over.outcome, over.proposed) {
                (Outcome::HandedOver(version), _) => Ceded::Done(*version),
                (Outcome::Held(version), _) => Ceded::Back(*version),
                (Outcome::Refused(Refusal::Overtaken { owner, version }), _) => {
                    Ceded::Lost(LossReason::Fenced(self.taker(*owner, *version)))
                }
                (_, Some(version)) => Ceded::Unknown(version),
                (Outcome::Refused(Refusal::NotAsked), None) => kept(Kept::NotAsked),
                (Outcome::Refused(Refusal::NotAlone), None) => kept(Kept::Shared),
                (_, None) => kept(Kept::Failed(self.explain(resource, *over))),
            },
            Operated::Lost(loss) => Ceded::Lost(self.why_of((resource.offset, held), loss)),
            Operated::Unfinished { proposed: Some(version) } => Ceded::Unknown(version),
            Operated::Unfinished { proposed: None }
            | Operated::Occupied
            | Operated::NotHeld
            | Operated::ValueInFlight => timed_out(),
        }
    }

    /// Acquires the resource again that `to` was made the owner of at `version`, and gave up; `None`: it did not give
    /// it up after all.
    pub(crate) fn regain(
        &self,
        resource: &Resource,
        to: Owner,
        version: Version,
        deadline: Option<Time>,
    ) -> Result<Option<Version>, AcquireError> {
        match self.acquire_by(resource, Order::Regain { to, version, deadline }) {
            Ok(acquired) => Ok(Some(acquired.version)),
            Err(_) if matches!(self.arrival(resource, to, version), Ok(Arrival::Taken)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether `owner` shows that it knows that it owns `version`.
    pub(crate) fn arrival(&self, resource: &Resource, owner: Owner, version: Version) -> Result<Arrival, DiskError> {
        let view = self.whole_area(resource)?;
        let leader = view.leader_of(self.terms.lockspace, resource.name).ok();
        let later = leader.filter(|leader| leader.version > version && leader.owner != Some(owner));
        Ok(match later {
            _ if view.took(owner, version) => Arrival::Taken,
            Some(leader) => Arrival::Passed(self.taker(leader.owner, leader.version)),
            None if view.withdrew(owner, version) => Arrival::Withdrawn,
            None => Arrival::Open,
        })
    }
}
