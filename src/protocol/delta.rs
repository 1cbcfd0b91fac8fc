//! The delta lease: who holds a host id. After "Light-weight leases for storage-centric coordination" (Chockler and
//! Malkhi, 2004), with generations, and with the rules of a disk where a write may land late.
//!
//! Not in here: the local lock that keeps two processes of one machine from one host id (the caller holds it before it
//! begins), and the choice of the id.
//!
//! Invariants:
//! - The write of an attempt starts within T of the start of the read that justifies it and completes within T, or the
//!   attempt is over. An attempt that is over writes nothing more, not to clean up either.
//! - The lease is held until F after the *start* of the last confirmed write. Lost is latched.
//! - An id that was not released is taken again only by the machine that held it.
//! - A record that was freed by somebody's word may stand over that of a later holding, as its write may have landed at
//!   any time. It is taken only by the caller's word, when it has not changed for D, and the generations jump.

use std::time::Duration;

use super::declare::declared_by;
use super::procedure::Window;
use super::record::{Effect, Event, RecordProcedure};
use super::rules::Rule;
use super::{Defect, Seen, Span, Written};
use crate::format::{DeltaExtension, DeltaRecord, Geometry, numbers};
use crate::timeouts::{Timeouts, stretched};
use crate::types::{BootId, HostId, MachineId, Name, Owner, Time};

/// Who asks for a host id. What it may conclude from that: [`super::identity`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The host's name, for people.
    pub name: Name,
    /// Its machine, if that can be known.
    pub machine: Option<MachineId>,
    /// The boot of the machine, if that can be known.
    pub boot: Option<BootId>,
    /// Drawn at random for each holding.
    pub session: u32,
}

/// What a joiner knows of the lockspace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Sizes.
    pub geometry: Geometry,
    /// Its name.
    pub lockspace: Name,
    /// Drawn when it was formatted.
    pub nonce: u32,
    /// Its timeouts.
    pub timeouts: Timeouts,
}

impl Terms {
    /// Whether `record`, read from the sector of `host`, is one of this lockspace and of this id.
    pub(super) fn own(&self, host: HostId, record: &DeltaRecord) -> bool {
        let named = record.owner_id == host.get() || record.owner_id == 0 && record.is_free();
        named && (record.lockspace, record.geometry) == (self.lockspace, self.geometry)
    }
}

/// What a join asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bid {
    host: HostId,
    /// The longest D of any host in the lockspace.
    longest_dead: Duration,
    vouched: bool,
}

impl Bid {
    /// Asks for that id, unless a word of somebody's freed it. `longest_dead` is the longest D of any host in the
    /// lockspace.
    pub const fn new(host: HostId, longest_dead: Duration) -> Bid {
        Bid { host, longest_dead, vouched: false }
    }

    /// The caller vouches for all earlier holders of the id, also for those that no record shows any more: that no
    /// write of theirs will reach the device.
    #[must_use]
    pub const fn vouched(self) -> Bid {
        Bid { vouched: true, ..self }
    }
}

/// Why a host id was not acquired. After each of these nothing is held; whether the sector was written is said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Its holder renewed it while we watched. Nothing was written.
    Live(Box<DeltaRecord>),
    /// Another machine held it and did not release it, though it shows no life. Nothing was written.
    NotReleased(Box<DeltaRecord>),
    /// It is free by somebody's word, and nobody vouches for whoever held it since. Nothing was written.
    Declared(Box<DeltaRecord>),
    /// The record is damaged, or its generation is so large that no host may write the next one. Nothing was written.
    Damaged(Defect),
    /// Belongs to another lockspace, or names another id. Nothing was written.
    Foreign(Box<DeltaRecord>),
    /// Another host wrote the record after us and has it.
    Outrun,
    /// Reading failed, or an I/O took longer than an attempt may. The record may have been written.
    Storage,
    /// Who may take the id at the same time is allowed I/Os so slow that the wait for them is longer than F. Nothing
    /// was written.
    SlowPeer,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    First,
    Watching {
        first: DeltaRecord,
        until: Time,
        may_take: bool,
    },
    Writing {
        record: DeltaRecord,
    },
    Settling {
        record: DeltaRecord,
        write_started: Time,
        until: Time,
    },
    Checking {
        record: DeltaRecord,
        write_started: Time,
        until: Time,
    },
    /// Nothing more is read or written, whatever happens.
    Over,
}

/// An attempt to acquire one host id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acquire {
    bid: Bid,
    identity: Identity,
    terms: Terms,
    random: u64,
    /// The largest T of anyone who may write the sector.
    slowest_io: Duration,
    by_boot_time: bool,
    step: Step,
}

/// At most this is skipped between two generations, so that two hosts that start from one record differ.
const MAX_SKIP: u64 = 1_023;

/// At least this is skipped beyond a record over which others may have stood, and at most so much more: as many
/// holdings as nobody has while a write is in flight. A `u32` tells the distance.
pub const JUMP: u64 = 1 << 20;
const MAX_JUMP_SKIP: u64 = (1 << 30) - 1;

impl Acquire {
    /// Begins. The caller holds the local lock of this id. `random` is any number.
    pub fn new(bid: Bid, identity: Identity, terms: Terms, random: u64) -> Acquire {
        let slowest_io = terms.timeouts.io();
        Acquire { bid, identity, terms, random, slowest_io, by_boot_time: false, step: Step::First }
    }

    /// The caller's clock is that of its boot, which all processes have in common that know their boot.
    #[must_use]
    pub fn by_boot_time(self) -> Acquire {
        Acquire { by_boot_time: true, ..self }
    }

    fn first(&mut self, span: Span, record: DeltaRecord) -> Effect<Joined> {
        if !self.terms.own(self.bid.host, &record) {
            return refuse(Refusal::Foreign(Box::new(record)));
        }
        if record.is_free() {
            return self.freed(span, record);
        }
        let timeouts = record.timeouts(self.terms.timeouts.io());
        // The holder is gone for certain when its machine rebooted since; else, as the local lock is ours, when nothing
        // that it started can be active any more, which is after D: from its last renewal, if this clock tells when
        // that was.
        let until = match self.identity.rebooted_since(&record) {
            true => span.ended + stretched(timeouts.renewal() * 2 + timeouts.io() * 2),
            false => {
                let renewed = self.identity.renewed(&record).filter(|_| self.by_boot_time);
                renewed.map_or(span.ended, |renewed| renewed.min(span.ended)) + stretched(self.dead(&record))
            }
        };
        let may_take = self.identity.wrote(&record) || !Rule::SameMachineTakes.is_in_force();
        self.watched(span, record.clone(), record, until, may_take)
    }

    /// The record is free. Where it is so by somebody's word that may have landed late: over the record of a holder
    /// that does not know of it yet, and whose writes may be in flight.
    fn freed(&mut self, span: Span, record: DeltaRecord) -> Effect<Joined> {
        if declared_by(&record).is_none() {
            return self.write(span, &record);
        }
        if !self.bid.vouched && Rule::DeclaredIdIsNamed.is_in_force() {
            return refuse(Refusal::Declared(Box::new(record)));
        }
        if !Rule::DeclaredIsWatched.is_in_force() {
            return self.write(span, &record);
        }
        if span.ended.since(span.started) > self.terms.timeouts.io() {
            // Somebody may have come and been hit since the word was given.
            return refuse(Refusal::Storage);
        }
        let until = span.ended + stretched(self.dead(&record));
        self.step = Step::Watching { first: record, until, may_take: true };
        Effect::Wait(self.next_look(span.ended, until))
    }

    /// D of whoever may hold the id where `record` stands.
    fn dead(&self, record: &DeltaRecord) -> Duration {
        let shown = record.timeouts(self.terms.timeouts.io()).dead();
        if is_settled(record) { shown } else { shown.max(self.bid.longest_dead) }
    }

    fn watched(
        &mut self,
        span: Span,
        record: DeltaRecord,
        first: DeltaRecord,
        until: Time,
        may_take: bool,
    ) -> Effect<Joined> {
        if record != first {
            return match record.is_free() && self.terms.own(self.bid.host, &record) {
                true => self.freed(span, record),
                false => refuse(Refusal::Live(Box::new(record))),
            };
        }
        if span.started < until {
            self.step = Step::Watching { first, until, may_take };
            return Effect::Wait(self.next_look(span.ended, until));
        }
        match may_take {
            true => self.write(span, &record),
            false => refuse(Refusal::NotReleased(Box::new(record))),
        }
    }

    /// How long others who read the same record may still write.
    fn settling(&self) -> Duration {
        if Rule::JoinWaits.is_in_force() { stretched(self.slowest_io * 2) } else { Duration::ZERO }
    }

    fn next_look(&self, now: Time, until: Time) -> Time {
        until.min(now + self.terms.timeouts.renewal() / 2)
    }

    fn write(&mut self, read: Span, seen: &DeltaRecord) -> Effect<Joined> {
        // Others who read this record may write too, each within its own T.
        self.slowest_io = self.slowest_io.max(seen.timeouts(self.terms.timeouts.io()).io());
        if self.settling() > self.terms.timeouts.fail() - self.terms.timeouts.io() {
            return refuse(Refusal::SlowPeer);
        }
        let generation = match numbers::written("owner_generation", seen.generation.checked_add(1 + self.skip(seen))) {
            Ok(generation) => generation,
            Err(corrupt) => return refuse(Refusal::Damaged(corrupt.into())),
        };
        let superseded = u32::try_from(generation - seen.generation).unwrap_or(0);
        let terms = &self.terms;
        let mut record = DeltaRecord {
            geometry: terms.geometry,
            lockspace: terms.lockspace,
            owner_id: self.bid.host.get(),
            generation,
            host_name: self.identity.name,
            timestamp: 0,
            io_timeout: terms.timeouts.io_seconds(),
            extension: Some(DeltaExtension {
                nonce: terms.nonce,
                session: self.identity.session,
                boot: self.identity.boot,
                started_us: 0,
                machine: self.identity.machine,
                superseded: if seen.generation == 0 { 0 } else { superseded },
                confirmed: false,
                declared_by: None,
                left: 0,
                timeouts: terms.timeouts,
            }),
        };
        // Until the check nothing is held.
        record.begin_write(read.ended, read.ended);
        if read.ended.since(read.started) > terms.timeouts.io() {
            // Too old to justify a write.
            return refuse(Refusal::Storage);
        }
        self.step = Step::Writing { record: record.clone() };
        let timeout = match Rule::JoinWriteIsPrompt.is_in_force() {
            true => self.terms.timeouts.io(),
            false => self.terms.timeouts.dead() * 3,
        };
        Effect::Write(record, Window { before: read.started + self.terms.timeouts.io(), timeout })
    }

    /// How many generations are passed over.
    fn skip(&self, seen: &DeltaRecord) -> u64 {
        match is_settled(seen) || !Rule::GenerationsJump.is_in_force() {
            true => self.random % (MAX_SKIP + 1),
            false => JUMP + (self.random & MAX_JUMP_SKIP),
        }
    }

    fn checked(&mut self, span: Span, seen: &DeltaRecord, record: DeltaRecord, write_started: Time) -> Effect<Joined> {
        if *seen != record && Rule::JoinIsChecked.is_in_force() {
            return refuse(Refusal::Outrun);
        }
        let Some(me) = record.owner() else {
            return refuse(Refusal::Outrun);
        };
        let tenure = Tenure::new(me, self.terms.timeouts, record, write_started);
        match tenure.held(span.ended) {
            true => Effect::Done(Ok(Box::new(tenure))),
            false => refuse(Refusal::Storage),
        }
    }
}

/// How an attempt to acquire a host id ends.
pub type Joined = Result<Box<Tenure>, Refusal>;

impl RecordProcedure for Acquire {
    type Answer = Joined;

    fn record(&self) -> (HostId, &Terms) {
        (self.bid.host, &self.terms)
    }

    fn patience(&self) -> Duration {
        self.terms.timeouts.io()
    }

    fn step(&mut self, event: Event) -> Effect<Self::Answer> {
        match (std::mem::replace(&mut self.step, Step::Over), event) {
            (Step::First, Event::Read(span, Seen::Good(record))) => self.first(span, record),
            (Step::Watching { first, until, may_take }, Event::Read(span, Seen::Good(record))) => {
                self.watched(span, record, first, until, may_take)
            }
            (Step::Checking { record, write_started, until }, Event::Read(span, Seen::Good(seen)))
                if span.started >= until =>
            {
                self.checked(span, &seen, record, write_started)
            }
            (_, Event::Read(_, Seen::Bad(reason))) => refuse(Refusal::Damaged(reason)),
            (Step::Writing { record }, Event::Wrote(span, Written::Done))
                if span.ended.since(span.started) <= self.terms.timeouts.io()
                    || !Rule::JoinWriteIsPrompt.is_in_force() =>
            {
                let write_started = span.started;
                let until = span.ended + self.settling();
                self.step = Step::Settling { record, write_started, until };
                Effect::Wait(until)
            }
            (Step::Settling { record, write_started, until }, Event::Woke(_)) => {
                self.step = Step::Checking { record, write_started, until };
                Effect::Read
            }
            (step @ Step::Watching { .. }, Event::Woke(_)) => {
                self.step = step;
                Effect::Read
            }
            (_, Event::ReadFailed | Event::Wrote(..) | Event::TooLate(_) | Event::Woke(_) | Event::Read(..)) => {
                refuse(Refusal::Storage)
            }
        }
    }
}

/// Whether no later holding can have stood where `record` stands. The write of somebody's word may land at any time,
/// and so may that of a join which failed.
fn is_settled(record: &DeltaRecord) -> bool {
    declared_by(record).is_none() && !may_have_failed(record)
}

/// Whether `record` may be what a join has left that failed: nobody has renewed it, and at most somebody's word has
/// freed it since. It may have landed late, over a holder.
pub(super) fn may_have_failed(record: &DeltaRecord) -> bool {
    let was_held = !record.is_free() || declared_by(record).is_some();
    was_held && record.extension.as_ref().is_some_and(|extension| !extension.confirmed)
}

/// Whether a host id may be given back. `settled`: no write of its holder, to any sector, is in flight. One that landed
/// later could hit what the next holder of the id has written.
pub fn may_release(settled: bool) -> bool {
    settled || !Rule::WritesEndBeforeRelease.is_in_force()
}

fn refuse(refusal: Refusal) -> Effect<Joined> {
    Effect::Done(Err(refusal))
}

/// Why a held host id, and with it every lease, was lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// No renewal was confirmed for F.
    Expired,
    /// The own record showed something that this holder didn't write.
    Overwritten(Box<DeltaRecord>),
    /// The own record says that this host declared this holder dead.
    Declared(HostId),
    /// The own record is damaged.
    Damaged(Defect),
    /// Another lockspace stands on the device, with this nonce.
    FormattedOver(u32),
    /// No name leads any more to the medium that this path named.
    Gone(String),
    /// It was given back: the id may be anybody's.
    Released,
}

/// A host id that is held: decides what a renewal writes, and until when the id is held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenure {
    me: Owner,
    timeouts: Timeouts,
    last: DeltaRecord,
    /// The write of `last` did not begin before.
    last_since: Time,
    /// Written, but not known to have reached the disk; and since when.
    pending: Option<(Time, DeltaRecord)>,
    deadline: Time,
    lost: Option<Loss>,
}

impl Tenure {
    /// A holding whose `record` was durably written; the write began at `since`.
    pub(super) fn new(me: Owner, timeouts: Timeouts, record: DeltaRecord, since: Time) -> Tenure {
        let deadline = since + timeouts.fail();
        Tenure { me, timeouts, last: record, last_since: since, pending: None, deadline, lost: None }
    }

    /// Host id and generation.
    pub const fn me(&self) -> Owner {
        self.me
    }

    /// The record as this holder last knew it to be on disk.
    pub const fn record(&self) -> &DeltaRecord {
        &self.last
    }

    /// Until when the id is held if no further renewal is confirmed: F after the start of the last confirmed write.
    pub const fn deadline(&self) -> Time {
        self.deadline
    }

    /// Whether the id is held at `now`. Once untrue it stays so.
    pub fn held(&self, now: Time) -> bool {
        self.lost.is_none() && now < self.deadline
    }

    /// Why it was lost.
    pub const fn lost(&self) -> Option<&Loss> {
        self.lost.as_ref()
    }

    /// Latches the loss if the deadline has passed.
    pub fn tick(&mut self, now: Time) {
        if now >= self.deadline && Rule::LostIsLatched.is_in_force() {
            self.lost.get_or_insert(Loss::Expired);
        }
    }

    /// Whether `record` is one that this holder wrote last, and since when it may have been on disk: what a read shows
    /// beside it is no older.
    pub fn recognises(&self, record: &DeltaRecord) -> Option<Time> {
        let pending = self.pending.as_ref().filter(|(_, pending)| pending == record);
        pending.map(|(since, _)| *since).or((*record == self.last).then_some(self.last_since))
    }

    /// A renewal was told that no name leads to the medium any more, which `path` was: hosts that come from now on see
    /// nothing of what is written there.
    pub fn gone(&mut self, now: Time, path: &str) {
        self.tick(now);
        self.lost.get_or_insert_with(|| Loss::Gone(path.into()));
    }

    /// A scan has found another lockspace on the device, with this nonce.
    pub fn formatted_over(&mut self, now: Time, nonce: u32) {
        self.tick(now);
        self.lost.get_or_insert(Loss::FormattedOver(nonce));
    }

    /// A renewal has read the own sector: what to write.
    ///
    /// # Errors
    /// The id is lost: its deadline has passed, or the sector holds what this holder didn't write.
    pub fn renew(&mut self, now: Time, seen: &Seen<DeltaRecord>) -> Result<DeltaRecord, Loss> {
        if Rule::DeadlineBeforeWrite.is_in_force() {
            self.tick(now);
        }
        if self.lost.is_none() {
            match seen {
                Seen::Bad(reason) => self.lost = Some(Loss::Damaged(reason.clone())),
                Seen::Good(record) if self.recognises(record).is_none() && Rule::OwnRecordIsVerified.is_in_force() => {
                    let declared = declared_by(record).filter(|_| record.generation == self.me.generation.get());
                    let overwritten = || Loss::Overwritten(Box::new(record.clone()));
                    self.lost = Some(declared.map_or_else(overwritten, Loss::Declared));
                }
                // A release of ours has landed, whatever was reported of it: writing again could hit the next holder.
                Seen::Good(record) if record.is_free() => self.lost = Some(Loss::Released),
                Seen::Good(record) => {
                    self.last_since = self.recognises(record).unwrap_or(self.last_since);
                    self.last = record.clone();
                }
            }
        }
        if let Some(loss) = &self.lost {
            return Err(loss.clone());
        }
        let mut next = self.pending.take().map_or_else(|| self.last.clone(), |(_, pending)| pending);
        next.begin_write(now, self.deadline);
        if let Some(extension) = &mut next.extension {
            extension.confirmed = true;
        }
        self.pending = Some((now, next.clone()));
        Ok(next)
    }

    /// The renewal's write has ended, or its time has. Only a confirmed write that is known of before the deadline
    /// moves it.
    pub fn renewed(&mut self, span: Span, written: Written, now: Time) {
        self.tick(now);
        if written == Written::Done
            && let Some((since, record)) = self.pending.take()
        {
            self.last = record;
            self.last_since = since;
            if self.lost.is_none() {
                let from = if Rule::DeadlineFromStart.is_in_force() { span.started } else { span.ended };
                self.deadline = self.deadline.max(from + self.timeouts.fail());
            }
        }
    }

    /// What a release writes: the record with timestamp 0. The caller has made sure that it [may](may_release), and
    /// that everything that was protected has stopped.
    ///
    /// # Errors
    /// The id is lost: nothing may be written. [`Loss::Released`]: a release that was written before has landed.
    pub fn release(&mut self, now: Time, seen: &Seen<DeltaRecord>) -> Result<DeltaRecord, Loss> {
        let mut record = self.renew(now, seen)?;
        record.timestamp = 0;
        self.pending = Some((now, record.clone()));
        Ok(record)
    }
}
