//! Carries out what the procedures of the protocol do, in the thread of the caller.

use std::convert::Infallible;

use super::hosts::Hosts;
use super::io::{Io, Unsubmitted, outcome};
use crate::disk::Lane;
use crate::error::DiskError;
use crate::format::Geometry;
use crate::protocol::procedure::{Effect, Event, Procedure, Window};
use crate::protocol::{Span, Written};
use crate::types::Time;

/// What a procedure runs under. It ends early when that does.
pub(crate) trait Warrant {
    /// Why it has ended.
    type End;

    /// Until when something may be submitted.
    fn until(&self) -> Result<Time, Self::End>;

    /// Sleeps until `time`.
    fn sleep(&self, io: &Io, time: Time) -> Result<(), Self::End>;
}

/// Nothing: the procedure always goes on to its end, and does not wait.
impl Warrant for () {
    type End = Infallible;

    fn until(&self) -> Result<Time, Infallible> {
        Ok(Time::MAX)
    }

    fn sleep(&self, io: &Io, time: Time) -> Result<(), Infallible> {
        std::thread::sleep(time.since(io.now()));
        Ok(())
    }
}

/// What a driver works with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver<'driver> {
    pub(crate) io: &'driver Io,
    pub(crate) lane: Lane,
    pub(crate) geometry: Geometry,
    /// What the procedure judges hosts by.
    pub(crate) hosts: &'driver Hosts,
}

impl Driver<'_> {
    /// Carries a procedure to its end. Says what its last I/O failed with, too.
    ///
    /// # Errors
    /// What it runs under has ended, and the procedure with it. A write may be in flight.
    pub(crate) fn carry_out<P: Procedure, W: Warrant>(
        &self,
        mut procedure: P,
        warrant: &W,
    ) -> Result<(P::Answer, Option<DiskError>), W::End> {
        let (io, lane) = (self.io, self.lane);
        let mut event = Event::Begun(io.now());
        let mut trouble = None;
        loop {
            let effect = self.hosts.with_observer(|observer| procedure.step(event, observer));
            event = match effect {
                Effect::Read { extents, timeout } => {
                    warrant.until()?;
                    match io.read_extents(lane, &extents, self.geometry.sector_bytes(), timeout) {
                        Ok((span, sectors, failure)) => {
                            trouble = failure;
                            Event::Read(span, sectors)
                        }
                        Err(error) => {
                            trouble = Some(error);
                            Event::ReadFailed
                        }
                    }
                }
                Effect::Write(write) => {
                    let window = Window { before: write.window.before.min(warrant.until()?), ..write.window };
                    match io.submit_within(lane, write.offset, write.bytes, window) {
                        Ok(writing) => {
                            let (span, result) = io.finish(&writing);
                            let written = outcome(&result);
                            trouble = result.err();
                            Event::Wrote(span, written)
                        }
                        Err(Unsubmitted::TooLate(now, error)) => {
                            trouble = Some(error);
                            Event::TooLate(now)
                        }
                        // Nothing was written, and nothing will be.
                        Err(Unsubmitted::Forked(error)) => {
                            trouble = Some(error);
                            Event::Wrote(instant(io.now()), Written::Failed)
                        }
                        Err(Unsubmitted::Busy(error)) => {
                            trouble = Some(error);
                            Event::Wrote(instant(io.now()), Written::InFlight)
                        }
                    }
                }
                Effect::Wait(until) => {
                    warrant.sleep(io, until)?;
                    Event::Woke(io.now())
                }
                Effect::Done(answer) => return Ok((answer, trouble)),
            };
        }
    }
}

fn instant(now: Time) -> Span {
    Span { started: now, ended: now }
}
