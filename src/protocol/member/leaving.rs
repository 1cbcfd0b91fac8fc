//! Ending a membership in the orderly way.
//!
//! The order is what matters. Nothing new is acquired; nothing is held or under way; then no write but that of the
//! record is begun any more; then nothing is in flight; then the record says that the id is free. Whoever takes the id
//! next writes to the same sectors.

use super::account::Purpose;
use super::command::{Answer, CommandId, Finish, NotClosed, NotFinished};
use super::effect::Effect;
use super::{Happened, JobId, Loss, Member, Submitted, Timer};
use crate::protocol::Written;
use crate::protocol::delta::may_release;
use crate::protocol::procedure::Extent;
use crate::types::Time;

/// How far the leaving of a membership has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Phase {
    /// It was not begun.
    Open,
    /// Nothing new is acquired.
    Closing,
    /// Nothing is renewed, and nothing is written but the record.
    Stopped,
}

/// Who waits until nothing is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Closing {
    command: CommandId,
    but: Option<u64>,
    until: Time,
}

/// The last steps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Finishing {
    id: JobId,
    command: CommandId,
    how: Finish,
    step: Step,
    until: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Waits until nothing is in flight.
    Settling,
    Reading,
    Writing,
}

impl Member {
    pub(super) fn close(&mut self, command: CommandId, but: Option<u64>) {
        if !self.held() {
            let loss = self.why();
            return self.closed(command, Err(NotClosed::Lost(loss)));
        }
        if self.phase != Phase::Open {
            return self.closed(command, Err(NotClosed::UnderWay));
        }
        self.phase = Phase::Closing;
        // Acquires that wait end at once; one that is writing ends within a few I/Os.
        let until = self.now + self.terms.timeouts.io() * 4;
        self.closing = Some(Closing { command, but, until });
        self.wakes(until, Timer::Closing);
        self.nudge_all();
        self.close_if_idle();
    }

    fn closed(&mut self, command: CommandId, result: Result<(), NotClosed>) {
        self.effects.push(Effect::Answer(command, Answer::Closed(result)));
    }

    /// Answers who begins to leave, when it is known whether that may be.
    pub(super) fn close_if_idle(&mut self) {
        let Some(Closing { command, but, until }) = self.closing else { return };
        if !self.held() {
            self.closing = None;
            let loss = self.why();
            return self.closed(command, Err(NotClosed::Lost(loss)));
        }
        let busy = self.leases.not_idle().any(|(_, _, busy)| busy) || self.has_errands();
        if busy && self.now < until {
            return;
        }
        self.closing = None;
        let in_the_way = |(offset, _, busy): &(u64, _, bool)| *busy || but.is_none_or(|guard| *offset == guard);
        let held: Vec<_> = self.leases.not_idle().filter(in_the_way).map(|(_, name, _)| name).collect();
        if held.is_empty() {
            return self.closed(command, Ok(()));
        }
        if self.phase == Phase::Closing {
            self.phase = Phase::Open;
        }
        self.closed(command, Err(NotClosed::Held(held)));
    }

    pub(super) fn finish(&mut self, command: CommandId, how: Finish) {
        self.phase = Phase::Stopped;
        self.stop_renewing();
        self.stop_scanning();
        let patience = match how {
            Finish::Release => self.terms.timeouts.io(),
            Finish::Detach => self.terms.timeouts.fail(),
        };
        let until = self.now + patience;
        let finishing = Finishing { id: self.next_job(), command, how, step: Step::Settling, until };
        self.wakes(until, Timer::Job(finishing.id));
        finishing.settle(self);
    }
}

impl Finishing {
    pub(super) const fn id(&self) -> JobId {
        self.id
    }

    pub(super) fn happened(self, member: &mut Member, what: Happened) {
        match (self.step, what) {
            (Step::Settling, _) => self.settle(member),
            (Step::Reading, Happened::Read(_, _, sectors)) => {
                let offset = member.terms.geometry.delta_offset(member.me().host);
                let seen = member.record(sectors.first(), offset);
                let record = match member.tenure.release(member.now, &seen) {
                    Ok(record) => record,
                    Err(loss) => return self.ends(member, Err(NotFinished::Lost(Loss::Host(loss)))),
                };
                let window = (member.tenure.deadline(), member.now + member.terms.timeouts.io());
                let job = Purpose::Job(self.id);
                match member.write(job, 0, true, offset, record.encode(offset), window) {
                    Submitted::Yes(_) => member.keep_finishing(Finishing { step: Step::Writing, ..self }),
                    Submitted::Busy | Submitted::Over => self.in_flight(member),
                }
            }
            (Step::Writing, Happened::Wrote(_, _, Written::Done, _)) => {
                // Nothing is in flight: the id is anybody's.
                member.effects.push(Effect::LetGo);
                self.ends(member, Ok(()));
            }
            (Step::Writing, Happened::Wrote(_, _, Written::InFlight, _)) => self.in_flight(member),
            (Step::Reading | Step::Writing, Happened::Failed(_, trouble)) => {
                self.ends(member, Err(NotFinished::Storage(trouble)));
            }
            (Step::Writing, Happened::Wrote(_, _, Written::Failed, Some(trouble))) => {
                self.ends(member, Err(NotFinished::Storage(trouble)));
            }
            (Step::Writing, Happened::TooLate) => {
                let loss = member.why();
                self.ends(member, Err(NotFinished::Lost(loss)));
            }
            _ => member.keep_finishing(self),
        }
    }

    /// Everything that this generation wrote must be over before others may have its id.
    fn settle(self, member: &mut Member) {
        let settled = member.account.writes_in_flight() == 0;
        if !may_release(settled) && member.now < self.until {
            return member.keep_finishing(self);
        }
        match (self.how, settled || may_release(settled)) {
            (_, false) => self.in_flight(member),
            (Finish::Detach, true) => {
                let result = if member.held() { Ok(()) } else { Err(NotFinished::Lost(member.why())) };
                member.effects.push(Effect::LetGo);
                self.ends(member, result);
            }
            (Finish::Release, true) => {
                let offset = member.terms.geometry.delta_offset(member.me().host);
                let expires = member.now + member.terms.timeouts.io();
                member.read(Purpose::Job(self.id), 0, true, vec![Extent { offset, sectors: 1 }], expires, false);
                member.keep_finishing(Finishing { step: Step::Reading, ..self });
            }
        }
    }

    fn in_flight(self, member: &mut Member) {
        let writes = member.account.writes_in_flight();
        self.ends(member, Err(NotFinished::InFlight(writes)));
    }

    fn ends(self, member: &mut Member, result: Result<(), NotFinished>) {
        member.end(match self.how {
            Finish::Release => Loss::Left,
            Finish::Detach => Loss::Detached,
        });
        member.effects.push(Effect::Answer(self.command, Answer::Finished(result)));
    }

    pub(super) fn ends_with_loss(self, member: &mut Member) {
        let loss = member.why();
        self.ends(member, Err(NotFinished::Lost(loss)));
    }
}
