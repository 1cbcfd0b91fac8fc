//! A process that goes on with the generation of the one before it, and with its leases.
//!
//! To every other host the successor is the predecessor, a renewal later: same host id, same generation, same versions.
//! That is safe only while the predecessor itself could still hold, so it is counted exactly as long as it counted
//! itself.
//!
//! Not in here: the local lock, which the caller holds before it begins. It says that the predecessor has ended and
//! that none of its writes is in flight any more, so that what is read stays as it is.
//!
//! Invariants:
//! - Nothing is held before the write of the new session is confirmed, and that begins and ends before
//!   [`DeltaRecord::held_until`] of the record that was read. The start of that record's own write does not count: it
//!   may have landed late, when others had counted D from the one before, and its holder was never told.
//! - A lease is taken up only at the version that its own block claims, and only when it is known that this version was
//!   decided: the leader shows it, or the predecessor is known to have held it.

use std::time::Duration;

use super::area::{AreaView, claim};
use super::delta::{Identity, Tenure, Terms};
use super::liveness::Observer;
use super::procedure::Window;
use super::record::{Effect, Event, RecordProcedure};
use super::rules::Rule;
use super::{Defect, Seen, Span, Written};
use crate::format::{Block, DeltaRecord, Leader};
use crate::types::{HostId, LeaseMode, Owner, Time, Version};

/// Why a generation is not continued. After each of these nothing is held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The predecessor's deadline has passed, or would have before a write was confirmed.
    TooLate {
        /// When it was.
        deadline: Time,
        /// When that was found.
        now: Time,
    },
    /// The predecessor was never renewed: it is not certain that it ever held the id.
    NeverRenewed,
    /// The id was given back.
    Released,
    /// The id has another holding since.
    Replaced(Box<DeltaRecord>),
    /// The record is not known to be of this boot of this machine, or was begun in the future: its times mean nothing
    /// on this clock.
    OtherClock,
    /// The record is damaged.
    Damaged(Defect),
    /// The record belongs to another lockspace or another id, or its holder is no leasehold host.
    Foreign(Box<DeltaRecord>),
    /// Reading or writing failed. The record may have been written, which changes nothing for the next attempt.
    Storage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Reading,
    Writing {
        record: Box<DeltaRecord>,
        deadline: Time,
    },
    /// Nothing more is read or written, whatever happens.
    Over,
}

/// An attempt to continue one generation of a host id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resume {
    me: Owner,
    identity: Identity,
    terms: Terms,
    step: Step,
}

impl Resume {
    /// Begins. The caller holds the local lock of `me`'s host id. The identity's
    /// session is a new one; its name is not used: the record keeps the one it has.
    pub fn new(me: Owner, identity: Identity, terms: Terms) -> Resume {
        Resume { me, identity, terms, step: Step::Reading }
    }

    /// The record that continues the one that was read, and until when it must be confirmed.
    fn continued(&self, span: Span, mut record: DeltaRecord) -> Result<(DeltaRecord, Time), Refusal> {
        let now = span.ended;
        let Some(extension) = &record.extension else {
            return Err(Refusal::Foreign(Box::new(record)));
        };
        if !self.terms.own(self.me.host, &record) {
            return Err(Refusal::Foreign(Box::new(record)));
        }
        if record.generation != self.me.generation.get() {
            return Err(Refusal::Replaced(Box::new(record)));
        }
        if record.is_free() {
            return Err(Refusal::Released);
        }
        if !self.identity.wrote(&record) || self.identity.same_boot(&record) != Some(true) {
            return Err(Refusal::OtherClock);
        }
        if !extension.confirmed {
            return Err(Refusal::NeverRenewed);
        }
        // Where the clock is younger than a second, records say that it is a second old.
        let by_now = |started: &Time| *started <= now.max(Time::from_nanos(1_000_000_000));
        let Some(started) = record.started().filter(by_now) else {
            return Err(Refusal::OtherClock);
        };
        let deadline = match Rule::UnconfirmedGivesNothing.is_in_force() {
            true => record.held_until().unwrap_or(started.min(now)),
            false => started + self.terms.timeouts.fail(),
        };
        if now >= deadline && Rule::ResumeInTime.is_in_force() {
            return Err(Refusal::TooLate { deadline, now });
        }
        record.begin_write(now, deadline);
        if let Some(extension) = &mut record.extension {
            extension.session = self.identity.session;
        }
        Ok((record, deadline))
    }
}

impl RecordProcedure for Resume {
    type Answer = Result<Box<Tenure>, Refusal>;

    fn record(&self) -> (HostId, &Terms) {
        (self.me.host, &self.terms)
    }

    fn patience(&self) -> Duration {
        self.terms.timeouts.fail()
    }

    fn step(&mut self, event: Event) -> Effect<Self::Answer> {
        match (std::mem::replace(&mut self.step, Step::Over), event) {
            (Step::Reading, Event::Read(span, Seen::Good(record))) => match self.continued(span, record) {
                Ok((record, deadline)) => {
                    self.step = Step::Writing { record: Box::new(record.clone()), deadline };
                    // The process may be paused before it is submitted.
                    let window = match Rule::ResumeInTime.is_in_force() {
                        true => Window { before: deadline, timeout: deadline.since(span.ended) },
                        false => Window { before: Time::MAX, timeout: self.terms.timeouts.fail() },
                    };
                    Effect::Write(record, window)
                }
                Err(refusal) => Effect::Done(Err(refusal)),
            },
            (Step::Reading, Event::Read(_, Seen::Bad(reason))) => Effect::Done(Err(Refusal::Damaged(reason))),
            (Step::Writing { deadline, .. }, Event::Wrote(Span { ended: now, .. }, Written::Done))
                if now >= deadline && Rule::ResumeInTime.is_in_force() =>
            {
                Effect::Done(Err(Refusal::TooLate { deadline, now }))
            }
            (Step::Writing { record, .. }, Event::Wrote(span, Written::Done)) => {
                Effect::Done(Ok(Box::new(Tenure::new(self.me, self.terms.timeouts, *record, span.started))))
            }
            (Step::Writing { deadline, .. }, Event::TooLate(now)) => {
                Effect::Done(Err(Refusal::TooLate { deadline, now }))
            }
            (_, Event::ReadFailed | Event::Wrote(..) | Event::TooLate(_) | Event::Woke(_) | Event::Read(..)) => {
                Effect::Done(Err(Refusal::Storage))
            }
        }
    }
}

/// What the generation that is continued has of a resource, as its own block and the others show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It holds it so, at this version.
    Held(LeaseMode, Version),
    /// It shares it at this version, and its block has more that nobody answers for: a change to exclusive was cut
    /// short.
    Upgrading(Version),
    /// It claims this version for itself alone, and whether that was ever decided is not known: an acquire was cut
    /// short.
    Open(Version),
    /// It holds this version no more: another owner came after it, or may have without seeing that it shares.
    Superseded {
        /// Whether its block claims the version or shares it.
        mode: LeaseMode,
        /// What its block says.
        version: Version,
        /// What came after it.
        by: Version,
        /// Whose that is.
        owner: Option<Owner>,
    },
    /// It was held so, and nothing readable says whether somebody has taken it since.
    Unverified(LeaseMode, Version),
    /// Its block says what was never held, that it waits or owns for a moment in order to share; or what is not held
    /// any more, because the block was set back.
    Leftover,
    /// Its block says nothing that others respect.
    Nothing,
}

impl Standing {
    /// Whether the own block says anything that others respect: it claims, shares or waits.
    pub fn speaks(me: Owner, own: &Block) -> bool {
        claimed(me, own).is_some() || own.shared == Some(me.generation) || waits(me, own)
    }

    /// As `view` shows it, and the own block in there. `listed` is what the predecessor is known to have held; the
    /// `observer` has looked at all ids in use.
    ///
    /// # Errors
    /// The own block is damaged: it may say anything.
    pub fn of(
        me: Owner,
        view: &AreaView,
        listed: Option<(LeaseMode, Version)>,
        observer: &Observer,
    ) -> Result<(Standing, Block), Defect> {
        let own = match view.blocks.get(&me.host) {
            Some(Seen::Good(own)) => own.clone(),
            Some(Seen::Bad(defect)) => return Err(defect.clone()),
            None => Block::default(),
        };
        let hidden = view.unread(observer).next().is_some();
        Ok((Standing::by(me, (view, hidden), &own, listed), own))
    }

    /// `hidden`: a damaged block may be that of somebody who has taken the resource.
    fn by(me: Owner, (view, hidden): (&AreaView, bool), own: &Block, listed: Option<(LeaseMode, Version)>) -> Standing {
        let claims = claimed(me, own);
        let shares = own.shared == Some(me.generation);
        let mine = own.extension.as_ref().filter(|extension| extension.generation == me.generation.get());
        let waits = waits(me, own);
        // Blocks only ever go on: somebody has set the area back, and what was held later is lost.
        let set_back = listed.is_some_and(|(_, version)| version > own.instance);
        match (claims, shares) {
            (None, false) if !waits => Standing::Nothing,
            _ if set_back && Rule::OwnBlockIsLookedAt.is_in_force() => Standing::Leftover,
            (Some(_), false) if mine.is_some_and(|extension| extension.shares) => Standing::Leftover,
            (Some(version), false) => Standing::alone(me, (view, hidden), version, listed),
            (claims, true) => {
                let version = listed.filter(|(mode, _)| *mode == LeaseMode::Shared).map(|(_, version)| version);
                // A block that has the flag says that it is there to share, but for one that a ballot has begun in.
                let begun = mine.is_some_and(|extension| !extension.shares);
                // Of a version for which a ballot has only begun nobody has accepted anything.
                let before = view.leader.good().map(|leader| leader.version.min(own.instance));
                let before = before.filter(|_| own.bal == 0).unwrap_or(own.instance);
                match (claims.is_some() || waits || begun, version) {
                    // It shared before it began to change that, so its flag was looked after.
                    (true, version) => Standing::Upgrading(version.unwrap_or(before)),
                    (false, Some(version)) if version == own.instance => Standing::Held(LeaseMode::Shared, version),
                    (false, version) => Standing::sharing(me, (view, hidden), own.instance, version),
                }
            }
            (None, false) => Standing::Leftover,
        }
    }

    /// The own block claims `version`.
    fn alone(
        me: Owner,
        (view, hidden): (&AreaView, bool),
        version: Version,
        listed: Option<(LeaseMode, Version)>,
    ) -> Standing {
        let superseded = |by, owner| Standing::Superseded { mode: LeaseMode::Exclusive, version, by, owner };
        if let Some((owner, by)) = view.fenced(me, version) {
            return superseded(by, owner);
        }
        match view.leader.good() {
            Some(leader) if leader.version == version && !leader.is_free() => {
                Standing::Held(LeaseMode::Exclusive, version)
            }
            Some(&Leader { version: by, owner, .. }) if by >= version => superseded(by, owner),
            // It is not shown, or a late write has set the leader back. Who is known to have held it holds it: a
            // version that was decided stays so, and nobody but by force goes beyond one that a live host claims.
            _ if listed != Some((LeaseMode::Exclusive, version)) => Standing::Open(version),
            _ if hidden => Standing::Unverified(LeaseMode::Exclusive, version),
            _ => Standing::Held(LeaseMode::Exclusive, version),
        }
    }

    /// The own block has its flag. Whether it was looked at once more after it was set is not known: that is done now.
    fn sharing(me: Owner, (view, hidden): (&AreaView, bool), instance: Version, listed: Option<Version>) -> Standing {
        match view.leader.good() {
            Some(leader) if view.overtakes(me, leader, instance) => {
                let (by, owner) = (leader.version, leader.owner);
                Standing::Superseded { mode: LeaseMode::Shared, version: instance, by, owner }
            }
            Some(_) if !hidden => Standing::Held(LeaseMode::Shared, listed.unwrap_or(instance)),
            _ => Standing::Unverified(LeaseMode::Shared, instance),
        }
    }
}

/// The version that `own` says `me` owns.
fn claimed(me: Owner, own: &Block) -> Option<Version> {
    claim(me.host, own).filter(|(_, owner)| *owner == me).map(|(version, _)| version)
}

/// Whether it waits for the resource, or to be handed it.
fn waits(me: Owner, own: &Block) -> bool {
    let mine = own.extension.as_ref().filter(|extension| extension.generation == me.generation.get());
    mine.is_some_and(|extension| extension.waiting.is_some() || extension.receives.is_some())
}
