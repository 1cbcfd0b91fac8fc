//! What is written in the place of a damaged delta record, and when that may be done.
//!
//! Invariants:
//! - A record is mended when its host counts as dead: its holder has found the damage at its next renewal, and is lost;
//!   who mends it must not be what costs it the id. It need not be waited for where the end of the holder is known
//!   otherwise.
//! - The write is justified by a read that started less than T before it.
//! - What is mended is not released, unless its own checksum says that it was, or somebody vouches for its holder as
//!   for a host that is declared dead. So nobody takes it for a proof that a generation is over.
//! - Nobody proves to be the machine that held it: the id is taken again only after it was declared dead.
//! - Its generation is not below any that is known of this host, nor 0: a block that stands is always read.
//! - What is mended as free is so by somebody's word, as after a declaration: the write may land late, over the record
//!   of a later generation.

use super::delta::Terms;
use super::liveness::{Observer, Verdict};
use super::procedure::{Effect, Event, Extent, Procedure, Sectors, Window, Write};
use super::rules::Rule;
use super::{Defect, Seen, Span, Written, reading};
use crate::format::numbers::{self, Numbers};
use crate::format::{DeltaExtension, DeltaRecord};
use crate::timeouts::stretched;
use crate::types::{HostId, Name, Time};

/// How the mending of a record succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Mended {
    /// The record is valid; nothing was written.
    Sound,
    /// This was written.
    Written(Box<DeltaRecord>),
}

/// Why a record was not mended. But after [`Refusal::Unknown`] nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Its host may be alive.
    MayLive {
        /// When it will count as dead, if it shows no life; `None`: that is not known yet.
        gone_at: Option<Time>,
    },
    /// Reading failed or took too long.
    Storage,
    /// The write failed or was not over in time: it may have landed, or may land at any later time.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Watching,
    Writing(Box<DeltaRecord>),
    Over,
}

/// The mending of a record under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mending {
    by: HostId,
    host: HostId,
    terms: Terms,
    shown: u64,
    fenced: bool,
    deadline: Time,
    step: Step,
}

impl Mending {
    /// Begins: the host `by` mends the record of `host`. `shown` is the largest generation of `host` that anything but
    /// the record shows on the device. `fenced`: the caller vouches that its holder was fenced. Until `deadline` it is
    /// waited for that the record may be mended.
    pub fn new(by: HostId, host: HostId, terms: Terms, shown: u64, fenced: bool, deadline: Time) -> Mending {
        Mending { by, host, terms, shown, fenced, deadline, step: Step::Watching }
    }

    /// The own record is read with it: where that can be read, and not the other one, the other one is damaged.
    fn read(&mut self) -> Effect<<Mending as Procedure>::Answer> {
        self.step = Step::Watching;
        let at = |host| Extent { offset: self.terms.geometry.delta_offset(host), sectors: 1 };
        Effect::Read { extents: vec![at(self.by), at(self.host)], timeout: self.terms.timeouts.io() }
    }

    fn watched(
        &mut self,
        span: Span,
        sectors: &Sectors,
        observer: &Observer,
    ) -> Effect<<Mending as Procedure>::Answer> {
        let offset = self.terms.geometry.delta_offset(self.host);
        let sector = sectors.iter().nth(1).unwrap_or(Err(Defect::Unreadable));
        let seen = reading::record(sector.clone(), offset, self.terms.nonce);
        let defect = seen.bad().zip(sector.ok());
        let rest = defect.and_then(|(defect, sector)| reading::rest(defect, sector, DeltaRecord::decode_base));
        let (by, host) = ((self.by, self.fenced), (self.host, self.shown));
        let Some(damaged) = Damaged::new(by, host, self.terms.clone(), seen, rest) else {
            return Effect::Done(Ok(Mended::Sound));
        };
        let gone_at = match damaged.may_mend(span, observer) {
            Ok(()) => {
                let (record, io) = (damaged.mended(), self.terms.timeouts.io());
                self.step = Step::Writing(Box::new(record.clone()));
                let window = Window { before: span.started + io, timeout: io };
                return Effect::Write(Write { offset, bytes: record.encode(offset), window });
            }
            Err(gone_at) => gone_at,
        };
        if span.ended >= self.deadline {
            return Effect::Done(Err(Refusal::MayLive { gone_at }));
        }
        self.step = Step::Watching;
        Effect::Wait(self.deadline.min(span.ended + self.terms.timeouts.renewal() / 2))
    }
}

impl Procedure for Mending {
    type Answer = Result<Mended, Refusal>;

    fn step(&mut self, event: Event, observer: &mut Observer) -> Effect<Self::Answer> {
        match (std::mem::replace(&mut self.step, Step::Over), event) {
            (Step::Watching, Event::Begun(_) | Event::Woke(_)) => self.read(),
            (Step::Watching, Event::Read(span, sectors)) => self.watched(span, &sectors, observer),
            // It may have changed since.
            (Step::Writing(_), Event::TooLate(_)) => self.read(),
            (Step::Writing(record), Event::Wrote(_, Written::Done)) => Effect::Done(Ok(Mended::Written(record))),
            (Step::Writing(_), _) => Effect::Done(Err(Refusal::Unknown)),
            _ => Effect::Done(Err(Refusal::Storage)),
        }
    }
}

/// A damaged record as one read showed it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Damaged {
    by: HostId,
    fenced: bool,
    host: HostId,
    shown: u64,
    terms: Terms,
    /// As an observer sees it.
    seen: Seen<DeltaRecord>,
    rest: Option<DeltaRecord>,
}

impl Damaged {
    /// The record of `host`, which a read has shown as `seen`; `None` if nothing is wrong with it. `shown` is the
    /// largest generation of the host that anything else on the device shows; one that no host reaches is nobody's.
    /// `rest` is what sanlock would read of the record, if it has its checksum; of another host or lockspace it says
    /// nothing, nor with a generation that no host reaches. The host `by` mends it, and may vouch that its holder was
    /// fenced.
    pub fn new(
        (by, fenced): (HostId, bool),
        (host, shown): (HostId, u64),
        terms: Terms,
        seen: Seen<DeltaRecord>,
        rest: Option<DeltaRecord>,
    ) -> Option<Damaged> {
        reading::within_reach(seen.clone()).bad()?;
        let rest = rest.filter(|rest| terms.own(host, rest) && rest.beyond_reach().is_none());
        let shown = if numbers::is_reached(shown) { shown } else { 0 };
        Some(Damaged { by, fenced, host, shown, terms, seen, rest })
    }

    /// Whether the holder is known to have ended: it says so itself, and no later one is known of; or somebody vouches
    /// for it.
    fn is_free(&self) -> bool {
        let released = |rest: &DeltaRecord| rest.is_free() && rest.generation >= self.shown;
        self.fenced || self.rest.as_ref().is_some_and(released)
    }

    /// Whether the record may be mended on account of the read that showed it so, which took `span`.
    ///
    /// # Errors
    /// From when on a read may show that, if the record doesn't change. `None`: that is not known yet.
    pub fn may_mend(&self, span: Span, observer: &Observer) -> Result<(), Option<Time>> {
        let since = observer.first_seen(self.host).filter(|_| observer.record(self.host) == Some(&self.seen));
        let since = since.ok_or(None)?;
        let at = match observer.judge_host(self.host) {
            _ if self.is_free() => since + stretched(observer.longest_renewal()),
            Verdict::Over | Verdict::Dead => since,
            // Unless it has passed, and only a scan that confirms it is missing.
            Verdict::Active { dead_at } => dead_at.ok_or(None)?.max(span.ended + self.terms.timeouts.renewal() / 2),
        };
        match at <= span.started && span.ended.since(span.started) <= self.terms.timeouts.io() {
            true => Ok(()),
            false => Err(Some(at)),
        }
    }

    /// The record that takes its place.
    pub fn mended(&self) -> DeltaRecord {
        let free = self.is_free();
        let known = self.rest.as_ref().map_or(0, |rest| rest.generation).max(self.shown);
        let Terms { geometry, lockspace, nonce, timeouts } = self.terms;
        let never_held = DeltaRecord::free(geometry, lockspace, nonce, timeouts);
        let declared_by = Some(self.by).filter(|_| free && Rule::MendedIsDeclared.is_in_force());
        DeltaRecord {
            owner_id: self.host.get(),
            generation: known.max(1),
            host_name: self.rest.as_ref().map_or(Name::EMPTY, |rest| rest.host_name),
            // When it was renewed last nobody knows, and nobody asks.
            timestamp: if free { 0 } else { 1 },
            // The word is for whoever held the id.
            extension: never_held.extension.map(|extension| {
                let confirmed = declared_by.is_some();
                DeltaExtension { declared_by, confirmed, ..extension }
            }),
            ..never_held
        }
    }
}
