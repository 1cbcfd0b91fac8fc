//! A carrier of the machine, and the program that it works for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use leasehold::protocol::delta::Tenure;
use leasehold::protocol::liveness::Observer;
use leasehold::protocol::member::{
    Answer, Command, CommandId, Coverage, Effect, Event, Finish, Member, Operated, Order,
};
use leasehold::protocol::resource::Outcome;
use leasehold::{LeaseMode, Time};

use super::disk::{Io, SECTOR, sectors};
use super::{Held, Holds, IDS, World, terms};

/// So much a machine wants done at most after one event.
const EFFECTS: usize = 200;

/// How far a process runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    On,
    /// It is paused before its next write is submitted.
    ToNextWrite,
    /// It is paused.
    Not,
    /// It was killed.
    Dead,
}

pub(super) struct Host {
    pub(super) machine: Member,
    runs: Runs,
    /// What the machine wants done.
    todo: VecDeque<Effect>,
    /// What the machine is to be told.
    events: VecDeque<Event>,
    /// Commands that are not answered.
    pub(super) asked: BTreeMap<CommandId, Command>,
    /// When those of them are answered at the latest that the machine was told of and have a deadline.
    due: BTreeMap<CommandId, Time>,
    pub(super) holds: Holds,
    /// The sectors that its commands so far are about, and the own record.
    pub(super) writable: BTreeSet<u64>,
    /// It may be left in this way: closing has succeeded.
    pub(super) may_finish: Option<Finish>,
    finishing: bool,
    /// How the last operation was answered, to explain a failure.
    pub(super) last: Option<Answer>,
}

impl Host {
    pub(super) fn new(tenure: Tenure, now: Time) -> Host {
        let (terms, own) = (terms(), terms().geometry.delta_offset(tenure.me().host));
        let (timeouts, nothing) = (terms.timeouts, Coverage { highest: 0, since: None });
        let seen = (Observer::new(timeouts), nothing);
        Host {
            machine: Member::new(terms, tenure, (IDS, 1), true, timeouts.renewal() / 2, seen, now),
            runs: Runs::On,
            todo: VecDeque::new(),
            events: VecDeque::new(),
            asked: BTreeMap::new(),
            due: BTreeMap::new(),
            holds: Holds::new(),
            writable: [own].into(),
            may_finish: None,
            finishing: false,
            last: None,
        }
    }

    pub(super) fn holds(&self) -> &Holds {
        &self.holds
    }

    pub(super) fn is_awake(&self) -> bool {
        matches!(self.runs, Runs::On | Runs::ToNextWrite)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.runs == Runs::Dead
    }

    /// Whether it is live, and nobody has begun to end it.
    pub(super) fn may_acquire(&mut self, now: Time) -> bool {
        let ends = self.machine.is_closing() || self.machine.is_abandoned();
        !self.is_dead() && !ends && self.machine.loss(now).is_none()
    }

    pub(super) fn stops(&mut self, runs: Runs) {
        if !self.is_dead() {
            self.runs = runs;
        }
    }

    /// Its process is killed, and all that it protects. What it has written may still land.
    pub(super) fn dies(&mut self) {
        self.runs = Runs::Dead;
        self.todo.clear();
        self.events.clear();
        self.asked.clear();
        self.due.clear();
        self.holds.clear();
    }

    /// What the machine may want.
    fn check(&mut self, now: Time, effect: &Effect) {
        let (offset, bytes, before) = match effect {
            Effect::Write { offset, bytes, before, .. } => (offset, bytes, before),
            Effect::Answer(command, _) => {
                self.due.remove(command);
                return;
            }
            _ => return,
        };
        let tenure = self.machine.tenure();
        assert!(tenure.held(now), "a write of {offset} is wanted after the loss");
        assert!(*before <= tenure.deadline(), "a write of {offset} before {before:?}: {:?}", tenure.deadline());
        assert!(!bytes.is_empty() && bytes.len().is_multiple_of(SECTOR));
        let own = terms().geometry.delta_offset(self.machine.me().host);
        assert!(!self.finishing || *offset == own, "a write of {offset} is wanted while it leaves");
        for sector in sectors(*offset, (bytes.len() / SECTOR) as u64) {
            assert!(self.writable.contains(&sector), "nobody has asked for a write of {sector}");
        }
    }

    /// What it may act on, and until when.
    fn observe(&mut self, now: Time) {
        // Who has lost the host id has been told until when to act, and learns of nothing more.
        if self.machine.loss(now).is_some() {
            return;
        }
        let (machine, fence) = (&mut self.machine, terms().timeouts.fence());
        self.holds.retain(|place, held| {
            let key = (*place, held.version);
            match machine.loss_of(key, now) {
                None => held.until = machine.held_until(key) + fence,
                Some((Some(since), _)) => held.until = held.until.min(since + fence),
                // It was handed over.
                Some((None, _)) => return false,
            }
            true
        });
    }
}

/// When an operation that begins now is answered at the latest.
fn answered_by(order: &Order, now: Time) -> Time {
    let timeouts = terms().timeouts;
    let deadline = match order {
        Order::Release { timeout, .. } => return now + *timeout,
        Order::Acquire(_, deadline) | Order::Regain { deadline, .. } => *deadline,
        Order::Convert { deadline, .. } | Order::HandOver { deadline, .. } => *deadline,
        Order::Repair(deadline) => Some(*deadline),
        Order::Complete(_) | Order::Rebuild(_) => None,
    };
    deadline.unwrap_or(now + timeouts.fail()) + timeouts.io() * 2
}

impl World {
    pub(super) fn tell(&mut self, host: usize, event: Event) {
        if !self.hosts[host].is_dead() {
            self.hosts[host].events.push_back(event);
            self.runs(host);
        }
    }

    pub(super) fn goes_on(&mut self, host: usize) {
        self.hosts[host].stops(Runs::On);
        self.runs(host);
    }

    /// Until it has nothing to do, or is paused.
    fn runs(&mut self, host: usize) {
        while self.hosts[host].is_awake() {
            self.carry_out(host);
            let it = &mut self.hosts[host];
            it.observe(self.now);
            let event = if it.is_awake() { it.events.pop_front() } else { None };
            self.excludes();
            let Some(event) = event else { return };
            self.step(host, event);
        }
    }

    fn step(&mut self, host: usize, event: Event) {
        let (it, now) = (&mut self.hosts[host], self.now);
        match &event {
            Event::Command(id, Command::Operate(_, order)) => {
                it.due.insert(*id, answered_by(order, now));
            }
            Event::Command(_, Command::Finish(_)) => it.finishing = true,
            _ => {}
        }
        self.random += 1;
        it.machine.step(event, now, self.random);
        let effects = it.machine.take_effects();
        assert!(effects.len() < EFFECTS, "{} effects of one event", effects.len());
        assert!(it.machine.wakes_at().is_none_or(|at| at > now), "what is due was left undone");
        effects.iter().for_each(|effect| it.check(now, effect));
        let late = it.due.iter().find(|(_, by)| **by <= now);
        assert!(late.is_none(), "{late:?} is not answered at {now:?}: {:?}", it.asked);
        it.todo.extend(effects);
    }

    fn carry_out(&mut self, host: usize) {
        while let Some(effect) = self.hosts[host].todo.pop_front() {
            let it = &mut self.hosts[host];
            match effect {
                Effect::Write { .. } if it.runs == Runs::ToNextWrite => {
                    it.runs = Runs::Not;
                    return it.todo.push_front(effect);
                }
                // As the contract says: right before the submission.
                Effect::Write { io, before, .. } if self.now >= before => it.events.push_back(Event::TooLate(io)),
                Effect::Write { io, offset, bytes, .. } => {
                    for sector in sectors(offset, (bytes.len() / SECTOR) as u64) {
                        let busy = self.ios.iter().any(|other| other.host == host && other.writes_to(sector));
                        assert!(!busy, "two writes are in flight to {sector}");
                    }
                    self.ios.push(Io::writes(host, io, offset, &bytes));
                }
                Effect::Read { io, extents, .. } => self.ios.push(self.disk.reads(host, io, &extents)),
                Effect::Answer(command, answer) => it.answered(command, answer),
                Effect::LetGo => {
                    let busy = self.ios.iter().any(|io| io.host == host && io.is_write());
                    assert!(!busy, "the host id is let go while a write is in flight");
                }
                Effect::Tell(_) | Effect::Renewed(_) => {}
            }
        }
    }
}

impl Host {
    fn answered(&mut self, command: CommandId, answer: Answer) {
        let Some(asked) = self.asked.remove(&command) else { panic!("a second answer: {answer:?}") };
        self.last = Some(answer.clone());
        match (asked, answer) {
            (Command::Operate(resource, order), Answer::Operated(Operated::Over(over))) => {
                let Outcome::Held(version) = over.outcome else { return };
                let mode = match order {
                    Order::Acquire(wish, _) => wish.mode,
                    Order::Convert { to, .. } => to,
                    _ => LeaseMode::Exclusive,
                };
                // Whoever has released it meanwhile does not act on it any more.
                if let Order::Convert { held, .. } = order
                    && self.holds.get(&resource.offset()).is_none_or(|it| it.version != held)
                {
                    return;
                }
                let until = self.machine.held_until((resource.offset(), version)) + terms().timeouts.fence();
                self.holds.insert(resource.offset(), Held { mode, version, until });
            }
            (Command::Close { but }, Answer::Closed(Ok(()))) => {
                self.may_finish = Some(if but.is_none() { Finish::Release } else { Finish::Detach });
            }
            (Command::Operate(..), Answer::Operated(_))
            | (Command::Declare(_), Answer::Declared(..))
            | (Command::Mend { .. }, Answer::Mended(..))
            | (Command::Create { .. }, Answer::Created(..))
            | (Command::WriteIndex { .. } | Command::WriteValue { .. } | Command::WriteRequest(..), Answer::Wrote(_))
            | (Command::Call(..), Answer::Called(_))
            | (Command::Close { .. }, Answer::Closed(_))
            | (Command::Finish(_), Answer::Finished(_)) => {}
            (asked, answer) => panic!("{asked:?} is answered {answer:?}"),
        }
    }
}
