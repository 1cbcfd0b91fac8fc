//! Carries out what the procedures of the protocol do.

use super::{Answer, Completion, Signal, Tag};
use crate::format::Geometry;
use crate::protocol::liveness::Observer;
use crate::protocol::procedure::{Effect, Event, Procedure, Sectors, Window};
use crate::protocol::{Span, Written};
use crate::sim::env::Env;
use crate::types::Time;

/// How far a procedure has come.
pub(super) enum Next<T> {
    /// It waits for a read or for a time.
    Waits,
    /// It waits for a write.
    Writes,
    Over(T),
}

impl Env {
    /// Goes on with a procedure of `host`, whose I/O is for `tag` and is submitted before `deadline`.
    pub(super) fn carry_out<P: Procedure>(
        &mut self,
        (host, tag): (usize, Tag),
        deadline: Time,
        procedure: &mut P,
        observer: &mut Observer,
        mut event: Event,
    ) -> Next<P::Answer> {
        let sector = Geometry::default().sector_bytes() as u64;
        loop {
            match procedure.step(event, observer) {
                Effect::Read { extents, timeout } => {
                    let offsets = extents
                        .iter()
                        .flat_map(|extent| (0..extent.sectors).map(|number| extent.offset + number * sector))
                        .collect();
                    self.read_within(host, tag, 0, offsets, Window { before: Time::MAX, timeout });
                    return Next::Waits;
                }
                Effect::Write(write) => {
                    let range = write.offset..write.offset + write.bytes.len() as u64;
                    if self.storage.writing(host, |disk, at| disk == 0 && range.contains(&at)) {
                        let now = self.local(host);
                        event = Event::Wrote(Span { started: now, ended: now }, Written::InFlight);
                        continue;
                    }
                    let window = Window { before: write.window.before.min(deadline), ..write.window };
                    self.write_within(host, tag, 0, write.offset, write.bytes, window);
                    return Next::Writes;
                }
                Effect::Wait(until) => {
                    self.signal(host, until, Signal::ProcedureWoke(tag));
                    return Next::Waits;
                }
                Effect::Done(answer) => return Next::Over(answer),
            }
        }
    }
}

impl Signal {
    /// What it says to the procedure whose I/O is for `tag`. It was told that an I/O timed out, and not of its end.
    pub(super) fn event_of(self, tag: Tag, now: Time) -> Option<Event> {
        match self {
            Signal::ProcedureWoke(woken) if woken == tag => Some(Event::Woke(now)),
            Signal::Io(Completion { tag: of, started, late: false, answer, .. }) if of == tag => {
                Some(answer.event(Span { started, ended: now }))
            }
            _ => None,
        }
    }
}

impl Answer {
    fn event(self, span: Span) -> Event {
        match self {
            Answer::Read(_, sectors) => {
                let mut read = Sectors::new(Geometry::default().sector_bytes());
                sectors
                    .iter()
                    .for_each(|sector| read.push(Some(sector).filter(|sector| !sector.is_empty()).map(|it| &**it)));
                if read.all_unreadable() { Event::ReadFailed } else { Event::Read(span, read) }
            }
            Answer::Failed => Event::ReadFailed,
            Answer::Wrote(written) => Event::Wrote(span, written),
            Answer::TooLate => Event::TooLate(span.ended),
        }
    }
}
