//! Procedures on one host's delta record: they are told the record, and write it. As a [`Procedure`] each of them works
//! on the record's sector.

use std::time::Duration;

use super::delta::Terms;
use super::liveness::Observer;
use super::procedure::{self, Extent, Procedure, Window, Write};
use super::{Seen, Span, Written, reading};
use crate::format::DeltaRecord;
use crate::types::{HostId, Time};

/// A machine that works on the delta record of one host.
pub trait RecordProcedure {
    /// What it ends with.
    type Answer;

    /// Whose record it is, and of which lockspace.
    fn record(&self) -> (HostId, &Terms);

    /// How long a read may take.
    fn patience(&self) -> Duration;

    /// Takes in what happened and says what to do next. The first effect, before any event, is [`Effect::Read`].
    fn step(&mut self, event: Event) -> Effect<Self::Answer>;
}

/// What the caller of a [`RecordProcedure`] does next, and reports back as an [`Event`].
#[expect(clippy::large_enum_variant, reason = "one for each I/O, which costs far more than moving it")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect<T> {
    /// Read the record.
    Read,
    /// Write it.
    Write(DeltaRecord, Window),
    /// Do nothing until then.
    Wait(Time),
    /// It is over.
    Done(T),
}

/// What became of the last [`Effect`].
#[expect(clippy::large_enum_variant, reason = "one for each I/O, which costs far more than moving it")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The record was read.
    Read(Span, Seen<DeltaRecord>),
    /// The sector could not be read (or not in time).
    ReadFailed,
    /// The write ended, or its time did.
    Wrote(Span, Written),
    /// It was too late for the write, which was not submitted.
    TooLate(Time),
    /// The wait is over.
    Woke(Time),
}

impl<P: RecordProcedure> Procedure for P {
    type Answer = P::Answer;

    fn step(&mut self, event: procedure::Event, _: &mut Observer) -> procedure::Effect<P::Answer> {
        let (host, &Terms { geometry, nonce, .. }) = self.record();
        let (offset, timeout) = (geometry.delta_offset(host), self.patience());
        let read = || procedure::Effect::Read { extents: vec![Extent { offset, sectors: 1 }], timeout };
        let event = match event {
            procedure::Event::Begun(_) => return read(),
            procedure::Event::Read(span, sectors) => Event::Read(span, reading::record(sectors.first(), offset, nonce)),
            procedure::Event::ReadFailed => Event::ReadFailed,
            procedure::Event::Wrote(span, written) => Event::Wrote(span, written),
            procedure::Event::TooLate(now) => Event::TooLate(now),
            procedure::Event::Woke(now) => Event::Woke(now),
        };
        match RecordProcedure::step(self, event) {
            Effect::Read => read(),
            Effect::Write(record, window) => {
                procedure::Effect::Write(Write { offset, bytes: record.encode(offset), window })
            }
            Effect::Wait(until) => procedure::Effect::Wait(until),
            Effect::Done(answer) => procedure::Effect::Done(answer),
        }
    }
}
