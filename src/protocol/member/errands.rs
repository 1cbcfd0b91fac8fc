//! Procedures that a member carries out for a caller: declaring a host dead, mending a record, making a resource.

use super::account::{Purpose, Trouble};
use super::command::{Answer, CommandId};
use super::effect::Effect;
use super::leases::Key;
use super::{Happened, JobId, Member, Phase, Submitted, Timer};
use crate::protocol::catalog::create::Create;
use crate::protocol::declare::Declaration;
use crate::protocol::mend::Mending;
use crate::protocol::procedure::{self, Event, Procedure, Window};
use crate::protocol::{Span, Written};
use crate::types::Time;

/// A procedure under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Errand {
    id: JobId,
    command: CommandId,
    work: Work,
    /// The lease that it needs beside the host id.
    under: Option<Key>,
    /// It begins when all records have been read: whoever was not watched yet may be live.
    begins: bool,
    /// Until when it does nothing.
    waits: Option<Time>,
    trouble: Option<Trouble>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Work {
    Declare(Box<Declaration>),
    Mend(Box<Mending>),
    Create(Box<Create>),
}

impl Work {
    fn step(&mut self, event: Event, member: &mut Member, trouble: Option<Trouble>) -> procedure::Effect<Answer> {
        let observer = &mut member.scans.observer;
        match self {
            Work::Declare(it) => it.step(event, observer).map(|end| Answer::Declared(Ok(end), trouble)),
            Work::Mend(it) => it.step(event, observer).map(|end| Answer::Mended(Ok(end), trouble)),
            Work::Create(it) => it.step(event, observer).map(|end| Answer::Created(Ok(end), trouble)),
        }
    }

    fn lost(&self, member: &mut Member) -> Answer {
        let loss = member.why();
        match self {
            Work::Declare(_) => Answer::Declared(Err(loss), None),
            Work::Mend(_) => Answer::Mended(Err(loss), None),
            Work::Create(_) => Answer::Created(Err(loss), None),
        }
    }
}

impl Member {
    /// Begins a procedure, under the lease `under` if it needs one.
    pub(super) fn begin_errand(&mut self, command: CommandId, work: Work, under: Option<Key>) {
        let id = self.next_job();
        let errand = Errand { id, command, work, under, begins: true, waits: None, trouble: None };
        self.keep_errand(errand);
        self.want_scan(id);
    }

    /// Until when something may be written by the right of a lease, beside that of the host id. `None`: it is lost.
    pub(super) fn right(&mut self, under: Option<Key>) -> Option<Time> {
        let host = self.tenure.deadline();
        match under {
            _ if !self.may_write() => None,
            None => Some(host),
            Some(key) if self.lease_loss(key).is_some() => None,
            Some(key) => Some(self.leases.deadline(key).map_or(host, |own| own.min(host))),
        }
    }
}

impl Errand {
    pub(super) const fn id(&self) -> JobId {
        self.id
    }

    pub(super) fn happened(mut self, member: &mut Member, what: Happened) {
        let event = match what {
            Happened::Scanned if std::mem::take(&mut self.begins) => Event::Begun(member.now),
            Happened::Read(_, span, sectors) => Event::Read(span, sectors),
            Happened::Failed(_, trouble) => {
                self.trouble = Some(trouble);
                Event::ReadFailed
            }
            Happened::Wrote(_, span, written, trouble) => {
                self.trouble = trouble;
                Event::Wrote(span, written)
            }
            Happened::TooLate => Event::TooLate(member.now),
            Happened::Time | Happened::Nudge if self.waits.is_some_and(|until| until <= member.now) => {
                Event::Woke(member.now)
            }
            _ if (self.waits.is_some() || self.begins) && member.phase != Phase::Open => {
                return self.ends_with_loss(member);
            }
            Happened::Time | Happened::Nudge | Happened::Turn | Happened::Scanned => return member.keep_errand(self),
        };
        self.waits = None;
        self.step(member, event);
    }

    pub(super) fn ends_with_loss(self, member: &mut Member) {
        let answer = self.work.lost(member);
        member.effects.push(Effect::Answer(self.command, answer));
    }

    fn step(mut self, member: &mut Member, mut event: Event) {
        loop {
            let trouble = self.trouble;
            let effect = self.work.step(event, member, trouble);
            event = match effect {
                procedure::Effect::Done(answer) => {
                    member.effects.push(Effect::Answer(self.command, answer));
                    return;
                }
                procedure::Effect::Wait(until) => {
                    self.waits = Some(until);
                    member.wakes(until, Timer::Job(self.id));
                    return member.keep_errand(self);
                }
                procedure::Effect::Read { extents, timeout } => {
                    if member.right(self.under).is_none() {
                        return self.ends_with_loss(member);
                    }
                    let expires = member.now + timeout;
                    member.read(Purpose::Job(self.id), 0, false, extents, expires, true);
                    return member.keep_errand(self);
                }
                procedure::Effect::Write(write) => {
                    let Some(until) = member.right(self.under) else { return self.ends_with_loss(member) };
                    let window = Window { before: write.window.before.min(until), ..write.window };
                    if !window.is_open(member.now) {
                        Event::TooLate(member.now)
                    } else {
                        let times = (window.before, member.now + window.timeout);
                        let job = Purpose::Job(self.id);
                        match member.write(job, 0, false, write.offset, write.bytes, times) {
                            Submitted::Yes(_) => return member.keep_errand(self),
                            Submitted::Busy | Submitted::Over => {
                                let now = Span { started: member.now, ended: member.now };
                                Event::Wrote(now, Written::InFlight)
                            }
                        }
                    }
                }
            };
        }
    }
}
