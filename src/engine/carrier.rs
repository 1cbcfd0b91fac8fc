//! Carries out what a membership wants done. One thread owns the machine of [`crate::protocol::member`]: it submits the
//! machine's I/O, tells it how that ended and what callers want, and wakes it when time has passed. It waits for no
//! disk.
//!
//! Nothing is decided here. The one thing that is checked, right before a submission, is that the clock has not passed
//! the moment which the write names.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::member::{LostOnPanic, Member};
use super::pulse::LONGEST_WAIT;
use crate::disk::{Fault, Lane, Op, Pending, Request, channel_with};
use crate::error::DiskError;
use crate::protocol::member::{Answer, Command, CommandId, Effect, Event, IoId, Notice};
use crate::protocol::procedure::{Extent, Sectors};

/// What reaches the thread that owns the machine.
#[derive(Debug)]
pub(super) enum Message {
    /// An I/O has ended, or a part of one.
    Ended(IoId),
    Command(Box<Command>, Sender<Answer>),
    /// The membership is over: nothing more is done.
    Stop,
}

/// How callers reach it.
#[derive(Debug)]
pub(crate) struct Inbox(Sender<Message>);

impl Inbox {
    pub(super) fn new() -> (Inbox, Receiver<Message>) {
        let (sender, receiver) = channel();
        (Inbox(sender), receiver)
    }

    /// Has a command carried out; `None`: the thread is gone.
    pub(super) fn ask(&self, command: Command) -> Option<Answer> {
        let (answer, answered) = channel();
        self.0.send(Message::Command(Box::new(command), answer)).ok()?;
        answered.recv().ok()
    }

    /// Has a command carried out whose answer nobody waits for.
    pub(super) fn tell(&self, command: Command) {
        let (answer, _) = channel();
        // Without the thread nothing is carried out any more.
        let _ = self.0.send(Message::Command(Box::new(command), answer));
    }

    pub(super) fn stop(&self) {
        let _ = self.0.send(Message::Stop);
    }
}

/// A read under way.
#[derive(Debug)]
struct Reading {
    part: Option<Pending>,
    urgent: bool,
    /// The one that is being read comes first.
    extents: VecDeque<Extent>,
    done: Sectors,
    /// Where the disk can't read all of an extent, each sector is read alone: one that can't be read doesn't keep the
    /// others from being seen.
    alone: bool,
    failure: Option<DiskError>,
}

/// A write under way.
#[derive(Debug)]
struct Writing {
    pending: Pending,
    urgent: bool,
}

pub(super) struct Carrier {
    member: Arc<Member>,
    inbox: Receiver<Message>,
    notices: Option<Sender<Notice>>,
    reads: BTreeMap<IoId, Reading>,
    writes: BTreeMap<IoId, Writing>,
    answers: BTreeMap<CommandId, Sender<Answer>>,
    commands: u64,
    /// What is to be told next.
    events: VecDeque<Event>,
}

impl Carrier {
    pub(super) fn new(member: Arc<Member>, inbox: Receiver<Message>, notices: Option<Sender<Notice>>) -> Carrier {
        let (reads, writes, answers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Carrier { member, inbox, notices, reads, writes, answers, commands: 0, events: VecDeque::new() }
    }

    /// Until the membership is over.
    pub(super) fn run(mut self) {
        let member = self.member.clone();
        let _guard = LostOnPanic(&member.pulse);
        self.step(Event::Ticked);
        loop {
            let now = self.member.io.now();
            let (over, wakes_at) =
                self.member.pulse.with_machine(|machine| (machine.has_ended(now), machine.wakes_at()));
            if over {
                return;
            }
            // Waits stand still in suspend while the clock that counts does not.
            let wait = wakes_at.map_or(LONGEST_WAIT, |at| at.since(now).min(LONGEST_WAIT));
            match self.inbox.recv_timeout(wait) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => self.events.push_back(Event::Ticked),
            }
            while let Some(event) = self.events.pop_front() {
                self.step(event);
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Ended(io) if self.writes.contains_key(&io) => self.wrote(io),
            Message::Ended(io) => self.read_part(io),
            Message::Command(command, answer) => {
                self.commands += 1;
                let id = CommandId(self.commands);
                self.answers.insert(id, answer);
                self.events.push_back(Event::Command(id, *command));
            }
            Message::Stop => {}
        }
    }

    fn step(&mut self, event: Event) {
        let (now, random) = (self.member.io.now(), rand::random());
        let (effects, changed) = self.member.pulse.with_machine(|machine| {
            let before = machine.revision();
            machine.step(event, now, random);
            (machine.take_effects(), machine.revision() != before)
        });
        if changed {
            self.member.pulse.tell_waiters();
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Read { io, urgent, extents, .. } => {
                let done = Sectors::new(self.member.terms.geometry.sector_bytes());
                let (extents, part, failure) = (extents.into(), None, None);
                self.reads.insert(io, Reading { part, urgent, extents, done, alone: false, failure });
                self.read_next(io);
            }
            Effect::Write { io, urgent, offset, bytes, before, .. } => {
                let member = &self.member;
                member.pulse.troubles.began(io, member.io.now(), offset, bytes.len(), true);
                // What must outlive the write is kept with it.
                let kept = member.io.kept();
                let inbox = member.inbox.0.clone();
                let (reply, pending) = channel_with(move |_| {
                    drop(kept);
                    // Nobody is left to be told once the membership is over.
                    let _ = inbox.send(Message::Ended(io));
                });
                let request = Request { offset, lane: lane(urgent), op: Op::Write { data: bytes } };
                if member.io.now() >= before {
                    self.ends(io);
                    return self.events.push_back(Event::TooLate(io));
                }
                member.io.disk().submit(request, reply);
                self.writes.insert(io, Writing { pending, urgent });
            }
            // Whoever has gone has no use for it.
            Effect::Answer(id, answer) => drop(self.answers.remove(&id).map(|caller| caller.send(answer))),
            Effect::Tell(notice) => drop(self.notices.as_ref().map(|notices| notices.send(notice))),
            Effect::Renewed(latency) => self.member.keep_latency(latency),
            Effect::LetGo => self.member.io.let_go(),
        }
    }

    fn wrote(&mut self, io: IoId) {
        let Some(Writing { pending, urgent }) = self.writes.remove(&io) else { return };
        let Some(result) = pending.wait(REPORTED) else { return };
        match result {
            Ok(_) => {
                self.ends(io);
                self.events.push_back(Event::Written(io));
            }
            Err(fault) => {
                self.fails(io, urgent, fault);
                self.events.push_back(Event::WriteFailed(io));
            }
        }
    }

    /// Submits the next part of a read, or reports it.
    fn read_next(&mut self, io: IoId) {
        let Some(reading) = self.reads.get_mut(&io) else { return };
        let size = self.member.terms.geometry.sector_bytes();
        let Some(Extent { offset, sectors }) = reading.extents.front().copied() else {
            let Some(reading) = self.reads.remove(&io) else { return };
            let event = match reading.failure {
                Some(error) if reading.done.all_unreadable() => {
                    self.member.pulse.troubles.failed(io, error);
                    Event::ReadFailed(io)
                }
                _ => {
                    self.ends(io);
                    Event::Read(io, reading.done)
                }
            };
            return self.events.push_back(event);
        };
        let len = if reading.alone { 1 } else { sectors } as usize * size;
        let inbox = self.member.inbox.0.clone();
        let (reply, pending) = channel_with(move |_| drop(inbox.send(Message::Ended(io))));
        reading.part = Some(pending);
        let lane = lane(reading.urgent);
        self.member.pulse.troubles.began(io, self.member.io.now(), offset, len, false);
        self.member.io.disk().submit(Request { offset, lane, op: Op::Read { len } }, reply);
    }

    fn read_part(&mut self, io: IoId) {
        let Some(reading) = self.reads.get_mut(&io) else { return };
        let Some(part) = reading.part.take().and_then(|pending| pending.wait(REPORTED)) else { return };
        let size = self.member.terms.geometry.sector_bytes();
        let Some(extent) = reading.extents.front_mut() else { return };
        match part {
            Ok(bytes) if reading.alone => reading.done.push(Some(&bytes)),
            Ok(bytes) => {
                reading.done.append(Sectors::whole(size, bytes));
                extent.sectors = 1;
            }
            Err(fault @ Fault::Os { .. }) => {
                let len = extent.sectors as usize * size;
                reading.failure = Some(self.member.io.error(extent.offset, len, false, fault.into()));
                if !reading.alone && extent.sectors > 1 {
                    reading.alone = true;
                    return self.read_next(io);
                }
                reading.done.push(None);
            }
            Err(fault) => {
                let urgent = reading.urgent;
                self.reads.remove(&io);
                self.fails(io, urgent, fault);
                return self.events.push_back(Event::ReadFailed(io));
            }
        }
        extent.sectors -= 1;
        extent.offset += size as u64;
        if extent.sectors == 0 {
            reading.extents.pop_front();
            reading.alone = false;
        }
        self.read_next(io);
    }

    fn ends(&self, io: IoId) {
        let member = &self.member;
        member.pulse.troubles.ended(io, member.io.now(), member.terms.timeouts.io() / 8);
    }

    /// Only a renewal takes a disk that says it is gone for the loss.
    fn fails(&mut self, io: IoId, urgent: bool, fault: Fault) {
        if urgent && matches!(fault, Fault::Gone) {
            self.events.push_back(Event::Gone(self.member.io.device()));
        }
        self.member.pulse.troubles.faulted(io, fault);
    }
}

/// How long the disk may take from saying that a request has ended to handing its outcome over.
const REPORTED: Duration = Duration::from_secs(60);

const fn lane(urgent: bool) -> Lane {
    if urgent { Lane::Renewal } else { Lane::General }
}
