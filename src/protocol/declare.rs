//! Declaring a host dead: its record is made free by the word of somebody who fenced it by other means.
//!
//! Not in here: whether that word is true. Who gives it vouches that nothing of the generation acts any more, and that
//! no write of its will reach the device.
//!
//! Invariants:
//! - Only the generation that was named is ended. A record that shows another one is left alone.
//! - A host whose record changes while it is watched, for R + T of its own, was not fenced: it is left alone.
//! - A write that lands late, over the record of a later generation, ends only the one that was named: who takes the id
//!   then waits for D ([`delta`](super::delta)), and others judge by the exact generation.
//! - What a join has left that was never renewed may be over a holder of the same generation: that is counted.
//! - The write is justified by a read that started less than T before it.

use std::time::Duration;

use super::delta::Terms;
use super::procedure::Window;
use super::record::{Effect, Event, RecordProcedure};
use super::rules::Rule;
use super::{Defect, Seen, Span, Written};
use crate::format::{DeltaExtension, DeltaRecord};
use crate::timeouts::stretched;
use crate::types::{HostId, Owner, Time};

/// How a declaration succeeded: the generation is over on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Declared {
    /// By this declaration.
    Dead,
    /// It was over already: released, or declared dead before.
    WasOver,
}

/// Why a host was not declared dead. But after [`Refusal::Unknown`] nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The record shows another generation.
    Generation(Box<DeltaRecord>),
    /// The record changed while it was watched: its holder is alive.
    Live(Box<DeltaRecord>),
    /// The record is damaged: it names no generation.
    Damaged(Defect),
    /// The record belongs to another lockspace, or names another id.
    Foreign(Box<DeltaRecord>),
    /// Reading failed or took too long.
    Storage,
    /// The write failed or was not over in time: it may have landed, or may land at any later time.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    First,
    Watching { first: Box<DeltaRecord>, until: Time },
    Writing { first: Box<DeltaRecord>, until: Time },
    Over,
}

/// A declaration under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Declaration {
    by: HostId,
    target: Owner,
    terms: Terms,
    /// What an observer has seen of the record, and since when it is unchanged.
    known: Option<(DeltaRecord, Time)>,
    step: Step,
}

impl Declaration {
    /// Begins. `by` is the host that declares; `known` the record as an observer
    /// saw it last, and the end of the read that first showed it so.
    pub fn new(by: HostId, target: Owner, terms: Terms, known: Option<(DeltaRecord, Time)>) -> Declaration {
        Declaration { by, target, terms, known, step: Step::First }
    }

    fn judge(
        &mut self,
        span: Span,
        record: DeltaRecord,
        first: Box<DeltaRecord>,
        until: Time,
    ) -> Effect<Result<Declared, Refusal>> {
        if !self.terms.own(self.target.host, &record) {
            return refuse(Refusal::Foreign(Box::new(record)));
        }
        if record.generation != self.target.generation.get() && Rule::DeclarationNamesGeneration.is_in_force() {
            return refuse(Refusal::Generation(Box::new(record)));
        }
        if record.is_free() {
            return Effect::Done(Ok(Declared::WasOver));
        }
        if record != *first {
            return refuse(Refusal::Live(Box::new(record)));
        }
        if span.started < until {
            self.step = Step::Watching { first, until };
            return Effect::Wait(until.min(span.ended + self.terms.timeouts.renewal() / 2));
        }
        if span.ended.since(span.started) > self.terms.timeouts.io() {
            // Too old to justify a write.
            return refuse(Refusal::Storage);
        }
        self.step = Step::Writing { first, until };
        let io = self.terms.timeouts.io();
        Effect::Write(self.ended(record), Window { before: span.started + io, timeout: io })
    }

    /// The record as free, with who ended it. A sanlock host's has said its timeouts without an extension.
    fn ended(&self, record: DeltaRecord) -> DeltaRecord {
        let Terms { geometry, lockspace, nonce, timeouts } = self.terms;
        let none = DeltaRecord::free(geometry, lockspace, nonce, record.timeouts(timeouts.io())).extension;
        let declared_by = Some(self.by);
        // It can't say whether it was renewed.
        let none = none.map(|none| DeltaExtension { confirmed: true, ..none });
        let extension = record.extension.or(none);
        let extension = extension.map(|extension| DeltaExtension { session: 0, declared_by, ..extension });
        DeltaRecord { timestamp: 0, extension, ..record }
    }
}

impl RecordProcedure for Declaration {
    type Answer = Result<Declared, Refusal>;

    fn record(&self) -> (HostId, &Terms) {
        (self.target.host, &self.terms)
    }

    fn patience(&self) -> Duration {
        self.terms.timeouts.io()
    }

    fn step(&mut self, event: Event) -> Effect<Self::Answer> {
        match (std::mem::replace(&mut self.step, Step::Over), event) {
            (Step::First | Step::Watching { .. }, Event::Read(_, Seen::Bad(reason))) => {
                refuse(Refusal::Damaged(reason))
            }
            (Step::First, Event::Read(span, Seen::Good(record))) => {
                let known = self.known.take().filter(|(known, _)| *known == record);
                let since = known.map_or(span.ended, |(_, since)| since);
                let timeouts = record.timeouts(self.terms.timeouts.io());
                let until = since + stretched(timeouts.renewal() + timeouts.io());
                let first = Box::new(record.clone());
                self.judge(span, record, first, until)
            }
            (Step::Watching { first, until }, Event::Read(span, Seen::Good(record))) => {
                self.judge(span, record, first, until)
            }
            (step @ Step::Watching { .. }, Event::Woke(_)) => {
                self.step = step;
                Effect::Read
            }
            // It may have changed since.
            (Step::Writing { first, until }, Event::TooLate(_)) => {
                self.step = Step::Watching { first, until };
                Effect::Read
            }
            (Step::Writing { .. }, Event::Wrote(_, Written::Done)) => Effect::Done(Ok(Declared::Dead)),
            (Step::Writing { .. }, _) => refuse(Refusal::Unknown),
            _ => refuse(Refusal::Storage),
        }
    }
}

fn refuse(refusal: Refusal) -> Effect<Result<Declared, Refusal>> {
    Effect::Done(Err(refusal))
}

/// By whose word `record` is free: the host that declared its holder dead, or that mended it as free.
pub fn declared_by(record: &DeltaRecord) -> Option<HostId> {
    record.extension.as_ref()?.declared_by
}
