//! Operations on resources: acquires, conversions, handovers, releases. Each goes on until nothing is left of it that
//! others respect, also when its caller's time is up.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use super::account::{IoId, Purpose, Trouble};
use super::command::{Answer, CommandId, Operated, Order, Over};
use super::effect::Effect;
use super::leases::{State, Take};
use super::{Happened, JobId, Loss, Member, Phase, Submitted, Timer};
use crate::format::Block;
use crate::protocol::area::AreaView;
use crate::protocol::holding::{self, Holding};
use crate::protocol::resource::{self, After, Event, Operation, Outcome, Subject};
use crate::protocol::rules::Rule;
use crate::protocol::{Defect, Seen, Written};
use crate::types::{HostId, LeaseMode, Owner, Resource, Time, Version};

/// An operation of a caller's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Running {
    id: JobId,
    /// `None`: it was answered.
    command: Option<CommandId>,
    resource: Resource,
    order: Order,
    /// From then on an acquire is undone.
    call_off: Time,
    /// From then on its caller doesn't wait.
    answer_by: Time,
    stage: Stage,
    /// The last I/O that failed.
    trouble: Option<Trouble>,
    damaged: BTreeMap<HostId, Defect>,
    sharers: BTreeSet<Owner>,
    lost_before: Option<Loss>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Waits until then, or until no write of the value block is in flight.
    Value(Time),
    /// Waits for another operation on the resource.
    Queued,
    /// Waits, with what it releases, until no write of this host is in flight.
    Settling(Block),
    Going(Box<Operation>, Waits),
}

/// What an operation waits for, and the round to report it with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Waits {
    /// Each for a disk; `since`: which scan chose what is read.
    Ios {
        round: u32,
        ios: BTreeMap<IoId, usize>,
        since: Time,
    },
    Scan(u32),
    Settled(u32),
    Time(u32, Time),
}

impl Member {
    pub(super) fn subject(&self, resource: &Resource) -> Subject {
        Subject {
            me: self.me(),
            geometry: self.terms.geometry,
            lockspace: self.terms.lockspace,
            resource: resource.name,
            nonce: self.terms.nonce,
            timeouts: self.terms.timeouts,
            disks: self.disks,
        }
    }

    /// Begins an operation; `command` is who wants to know.
    pub(super) fn operate(&mut self, command: Option<CommandId>, resource: Resource, order: Order) {
        let timeouts = self.terms.timeouts;
        let (acquires, deadline) = match &order {
            Order::Acquire(_, deadline) | Order::Regain { deadline, .. } => (true, *deadline),
            Order::Repair(deadline) => (true, Some(*deadline)),
            Order::Complete(_) | Order::Rebuild(_) => (true, None),
            Order::Convert { deadline, .. } | Order::HandOver { deadline, .. } => (false, *deadline),
            Order::Release { timeout, .. } => (false, Some(self.now + *timeout)),
        };
        let releases = matches!(order, Order::Release { .. });
        let deadline = deadline.unwrap_or(self.now + timeouts.fail());
        let call_off = if releases { Time::MAX } else { deadline };
        let answer_by = if releases { deadline } else { deadline + timeouts.io() * 2 };
        let job = Running::new(self.next_job(), command, resource, order, (call_off, answer_by));
        if acquires && self.phase != Phase::Open {
            return job.answers(self, Operated::Lost(Loss::Left));
        }
        job.begin(self);
    }

    /// Releases what was given up while an operation on it was under way: its place is taken, `own` is its block.
    /// Nobody waits for it.
    pub(super) fn release_own(&mut self, resource: Resource, held: Version, own: Block) {
        let order = Order::Release { held, timeout: Duration::ZERO, settled: true };
        let mut job = Running::new(self.next_job(), None, resource, order, (Time::MAX, self.now));
        if self.account.writes_in_flight() > 0 {
            job.stage = Stage::Settling(own);
            self.unsettled.insert(job.id);
            return job.wait(self);
        }
        let begun = self.released(&resource, held, own);
        job.drive(self, begun);
    }

    /// Begins a release of what was held at `held`.
    fn released(&self, resource: &Resource, held: Version, own: Block) -> (Operation, resource::Effect) {
        match self.leases.is_of_another_area((resource.offset, held)) {
            true => Operation::disown(self.subject(resource), own, self.now),
            false => Operation::release(self.subject(resource), own, self.now),
        }
    }
}

impl Running {
    const fn new(
        id: JobId,
        command: Option<CommandId>,
        resource: Resource,
        order: Order,
        (call_off, answer_by): (Time, Time),
    ) -> Running {
        Running {
            id,
            command,
            resource,
            order,
            call_off,
            answer_by,
            stage: Stage::Queued,
            trouble: None,
            damaged: BTreeMap::new(),
            sharers: BTreeSet::new(),
            lost_before: None,
        }
    }

    pub(super) const fn id(&self) -> JobId {
        self.id
    }

    /// A read that it waits for goes on under another name.
    pub(super) fn read_again(&mut self, before: IoId, after: IoId) {
        if let Stage::Going(_, Waits::Ios { ios, .. }) = &mut self.stage
            && let Some(disk) = ios.remove(&before)
        {
            ios.insert(after, disk);
        }
    }

    /// What is held when it begins; `None`: nothing.
    const fn held(&self) -> Option<Version> {
        match self.order {
            Order::Convert { held, .. } | Order::Release { held, .. } | Order::HandOver { held, .. } => Some(held),
            Order::Acquire(..) | Order::Complete(_) | Order::Rebuild(_) | Order::Repair(_) | Order::Regain { .. } => {
                None
            }
        }
    }

    /// Whether it is done also to what is lost.
    const fn gives_back(&self) -> bool {
        matches!(self.order, Order::Release { .. })
    }

    /// Why what it is about is lost, if it is.
    fn loss(&self, member: &mut Member) -> Option<Loss> {
        self.held().and_then(|held| member.lease_loss((self.resource.offset, held)))
    }

    fn answers(mut self, member: &mut Member, operated: Operated) {
        self.answer(member, operated);
    }

    fn answer(&mut self, member: &mut Member, operated: Operated) {
        if let Some(command) = self.command.take() {
            for at in [self.call_off, self.answer_by] {
                member.timers.remove(&(at, Timer::Job(self.id)));
            }
            member.effects.push(Effect::Answer(command, Answer::Operated(operated)));
        }
    }

    fn wait(self, member: &mut Member) {
        let id = self.id;
        for at in [self.call_off, self.answer_by] {
            if self.command.is_some() && at > member.now {
                member.wakes(at, Timer::Job(id));
            }
        }
        member.keep_operation(self);
    }

    /// The bytes of the value block.
    fn value(&self, member: &Member) -> Option<Range<u64>> {
        let at = self.resource.offset + member.terms.geometry.value_offset()?;
        Some(at..at + member.terms.geometry.sector_bytes() as u64)
    }

    fn begin(mut self, member: &mut Member) {
        match self.loss(member) {
            Some(loss) if !self.gives_back() => return self.answers(member, Operated::Lost(loss)),
            loss => self.lost_before = loss,
        }
        // A value that lands later would spoil the next owner's; those who share rely on what they read.
        // A release that waits for every write takes its turn first, so that nothing else begins meanwhile.
        let rests = self.held().is_none()
            || !Rule::ValueIsSettled.is_in_force()
            || matches!(
                self.order,
                Order::Convert { to: LeaseMode::Exclusive, .. } | Order::Release { settled: true, .. }
            );
        let in_flight =
            self.value(member).filter(|_| !rests).is_some_and(|range| member.account.writes_anywhere(&range));
        if !in_flight {
            return self.take_turn(member);
        }
        let patience = member.now + member.terms.timeouts.fail();
        let until = match self.order {
            // Nobody waits for its answer: only the end of the write counts.
            Order::Release { .. } if self.command.is_none() => Time::MAX,
            Order::Release { .. } => self.answer_by,
            _ => patience.min(self.call_off),
        };
        self.stage = Stage::Value(until);
        member.wakes(until, Timer::Job(self.id));
        member.unsettled.insert(self.id);
        self.wait(member);
    }

    /// Begins the operation, unless another one on the resource is under way.
    fn take_turn(mut self, member: &mut Member) {
        let offset = self.resource.offset;
        // It may have waited for one by which it was lost.
        if let Some(loss) = self.loss(member).filter(|_| !self.gives_back()) {
            return self.answers(member, Operated::Lost(loss));
        }
        let (own, mode) = match self.held() {
            None => match member.leases.begin(&self.resource) {
                Ok(own) => (own, LeaseMode::Exclusive),
                // What this host still gives back is waited for, as others are.
                Err(false) if self.call_off > member.now && self.waits() => return self.queues(member),
                Err(_) => return self.answers(member, Operated::Occupied),
            },
            Some(held) => match member.leases.take(offset, held) {
                Take::Taken(own, mode) => (Some(own), mode),
                Take::UnderWay if self.answer_by > member.now => return self.queues(member),
                Take::UnderWay => return self.had_no_turn(member),
                Take::Gone => {
                    let end = self.lost_before.clone().map_or(Operated::NotHeld, Operated::Lost);
                    return self.answers(member, end);
                }
            },
        };
        let (subject, now) = (member.subject(&self.resource), member.now);
        let known = own.clone().unwrap_or_default();
        let begun = match &self.order {
            Order::Acquire(wish, _) => Operation::acquire(subject, own, *wish, now),
            Order::Complete(version) => Operation::complete(subject, *version, now),
            Order::Rebuild(rest) => Operation::rebuild(subject, own, rest.clone(), now),
            Order::Repair(_) => Operation::repair(subject, own, now),
            Order::Regain { to, version, .. } => Operation::regain(subject, own, *to, *version, now),
            Order::Convert { to, held, .. } if *to == mode => {
                let held = *held;
                member.put_back(&self.resource, mode, held, own);
                let outcome = Outcome::Held(held);
                return self.concludes(member, outcome, None);
            }
            Order::Convert { to: LeaseMode::Exclusive, deadline, .. } => {
                member.leases.upgrades(offset);
                Operation::convert(subject, known, LeaseMode::Exclusive, deadline.is_some(), now)
            }
            Order::Convert { to, deadline, .. } => Operation::convert(subject, known, *to, deadline.is_some(), now),
            Order::HandOver { held, to, .. } => Operation::hand_over(subject, known, *held, *to, now),
            Order::Release { .. } if self.must_settle(member) => {
                self.stage = Stage::Settling(known);
                member.unsettled.insert(self.id);
                self.expire(member, None);
                return self.wait(member);
            }
            Order::Release { held, .. } => member.released(&self.resource, *held, known),
        };
        self.drive(member, begun);
    }

    /// Whether a release may not begin yet. What a look writes again says that this is held: it would be over what says
    /// that it is not.
    fn must_settle(&self, member: &Member) -> bool {
        let (offset, held) = (self.resource.offset, self.held().unwrap_or_default());
        let all = matches!(self.order, Order::Release { settled: true, .. });
        all && member.account.writes_in_flight() > 0 || member.account.is_pending(Purpose::Restore(offset, held))
    }

    const fn waits(&self) -> bool {
        matches!(self.order, Order::Acquire(_, Some(_)) | Order::Repair(_) | Order::Regain { deadline: Some(_), .. })
    }

    fn queues(mut self, member: &mut Member) {
        member.leases.queue(self.resource.offset, self.id);
        self.stage = Stage::Queued;
        self.wait(member);
    }

    /// Its time is up, and another operation on what it is about is under way. What that leaves held is released, where
    /// this is a release.
    fn had_no_turn(self, member: &mut Member) {
        member.leases.unqueue(self.resource.offset, self.id);
        if let Order::Release { held, .. } = self.order {
            member.leases.give_up((self.resource.offset, held));
        }
        let end = self.lost_before.clone().map_or(Operated::NotHeld, Operated::Lost);
        self.answers(member, end);
    }

    pub(super) fn happened(mut self, member: &mut Member, what: Happened) {
        match std::mem::replace(&mut self.stage, Stage::Queued) {
            Stage::Value(until) => self.value_waits(member, until),
            Stage::Queued => match what {
                Happened::Turn => self.take_turn(member),
                _ if member.phase != Phase::Open && self.held().is_none() => {
                    member.leases.unqueue(self.resource.offset, self.id);
                    self.answers(member, Operated::Lost(Loss::Left));
                }
                _ if member.now >= self.call_off.min(self.answer_by) && self.held().is_none() => {
                    member.leases.unqueue(self.resource.offset, self.id);
                    self.answers(member, Operated::Occupied);
                }
                _ if member.now >= self.answer_by => self.had_no_turn(member),
                _ => self.wait(member),
            },
            Stage::Settling(own) if self.must_settle(member) => {
                self.stage = Stage::Settling(own);
                self.expire(member, None);
                self.wait(member);
            }
            Stage::Settling(own) => {
                member.unsettled.remove(&self.id);
                let begun = member.released(&self.resource, self.held().unwrap_or_default(), own);
                self.drive(member, begun);
            }
            Stage::Going(operation, waits) => self.goes_on(member, *operation, waits, what),
        }
    }

    fn value_waits(mut self, member: &mut Member, until: Time) {
        let in_flight = self.value(member).is_some_and(|range| member.account.writes_anywhere(&range));
        if in_flight && member.now < until {
            self.stage = Stage::Value(until);
            return self.wait(member);
        }
        member.unsettled.remove(&self.id);
        match self.order {
            _ if !in_flight => self.take_turn(member),
            Order::Release { held, timeout, .. } => {
                let resource = self.resource;
                let end = self.lost_before.clone().map_or(Operated::Unfinished { proposed: None }, Operated::Lost);
                self.answer(member, end);
                member.operate(None, resource, Order::Release { held, timeout, settled: true });
            }
            _ => self.answers(member, Operated::ValueInFlight),
        }
    }

    /// Its caller no longer waits.
    fn expire(&mut self, member: &mut Member, operation: Option<&mut Operation>) {
        if self.command.is_none() || member.now < self.answer_by {
            return;
        }
        let mut proposed = None;
        if let Some(operation) = operation {
            // It may be held alone by then, at a version that nobody is told of.
            if operation.is_exposed()
                && let Some(held) = member.leases.version_before(self.resource.offset)
            {
                member.lose((self.resource.offset, held), holding::Loss::Unverified);
            }
            proposed = operation.proposed();
            operation.call_off();
        }
        let end = self.lost_before.clone().map_or(Operated::Unfinished { proposed }, Operated::Lost);
        self.answer(member, end);
    }

    fn is_called_off(&self, member: &Member) -> bool {
        member.now >= self.call_off || member.phase != Phase::Open || self.command.is_none()
    }

    fn goes_on(mut self, member: &mut Member, operation: Operation, waits: Waits, what: Happened) {
        let mut operation = Box::new(operation);
        let (round, event) = match (waits, what) {
            (Waits::Ios { round, mut ios, since }, Happened::Read(io, span, sectors)) if ios.contains_key(&io) => {
                let disk = ios.remove(&io).unwrap_or_default();
                let view = AreaView::of(&sectors, &member.terms, self.resource.offset);
                self.note(&view);
                let event = Event::Read { disk, span, since, view };
                return self.one_of(member, operation, (round, ios, since), event);
            }
            (Waits::Ios { round, mut ios, since }, Happened::Failed(io, trouble)) if ios.contains_key(&io) => {
                let disk = ios.remove(&io).unwrap_or_default();
                self.trouble = Some(trouble);
                return self.one_of(member, operation, (round, ios, since), Event::ReadFailed { disk });
            }
            (Waits::Ios { round, mut ios, since }, Happened::Wrote(io, _, written, trouble))
                if ios.contains_key(&io) =>
            {
                let disk = ios.remove(&io).unwrap_or_default();
                // What an undoing writes well explains nothing.
                self.trouble = trouble.or(self.trouble);
                return self.one_of(member, operation, (round, ios, since), Event::Wrote { disk, written });
            }
            (Waits::Scan(round), Happened::Scanned) => (round, Event::Scanned),
            (Waits::Settled(round), _) if !member.writes_to_area(&self.resource) => {
                member.unsettled.remove(&self.id);
                (round, Event::Settled)
            }
            (Waits::Time(round, until), _) if member.now >= until || self.wakes_to_undo(member) => (round, Event::Woke),
            // Its time is up, or another's I/O has ended.
            (waits, _) => {
                self.expire(member, Some(&mut operation));
                self.stage = Stage::Going(operation, waits);
                return self.wait(member);
            }
        };
        self.step(member, operation, round, event);
    }

    /// Whether a wait ends early: the operation is to be called off, and does not know yet.
    fn wakes_to_undo(&self, member: &Member) -> bool {
        self.command.is_some() && self.is_called_off(member) && member.now < self.answer_by
    }

    /// One of several disks has answered.
    fn one_of(
        mut self,
        member: &mut Member,
        mut operation: Box<Operation>,
        (round, ios, since): (u32, BTreeMap<IoId, usize>, Time),
        event: Event,
    ) {
        let random = member.draw();
        match operation.step(round, event, &mut member.scans.observer, member.now, random) {
            Some(effect) => self.drive(member, (*operation, effect)),
            None => {
                self.stage = Stage::Going(operation, Waits::Ios { round, ios, since });
                self.wait(member);
            }
        }
    }

    fn step(mut self, member: &mut Member, mut operation: Box<Operation>, round: u32, event: Event) {
        let random = member.draw();
        match operation.step(round, event, &mut member.scans.observer, member.now, random) {
            Some(effect) => self.drive(member, (*operation, effect)),
            None => {
                let waits = Waits::Time(round, member.now + member.terms.timeouts.poll());
                self.stage = Stage::Going(operation, waits);
                self.wait(member);
            }
        }
    }

    fn note(&mut self, view: &AreaView) {
        let bad = view.blocks.iter().filter_map(|(host, seen)| match seen {
            Seen::Bad(defect) => Some((*host, defect.clone())),
            Seen::Good(_) => None,
        });
        self.damaged = bad.collect();
        self.sharers = view.sharers().collect();
    }

    /// Carries effects out until one has to be waited for.
    fn drive(mut self, member: &mut Member, (mut operation, mut effect): (Operation, resource::Effect)) {
        let offset = self.resource.offset;
        loop {
            // Nothing is written, and nothing is answered, once the host id is lost.
            if !member.may_write() {
                return self.ends_with_loss(member);
            }
            if self.is_called_off(member) {
                operation.call_off();
            }
            if !matches!(effect, resource::Effect::Done(_)) {
                self.expire(member, Some(&mut operation));
            }
            if operation.has_ceded()
                && let Some(version) = member.leases.version_before(offset)
            {
                member.let_go((offset, version));
            }
            if operation.is_exposed()
                && let Some(version) = member.leases.version_before(offset)
                && let Some(holding) = member.leases.holding((offset, version))
            {
                holding.expose();
            }
            let geometry = member.terms.geometry;
            let waits = match effect {
                resource::Effect::Read(round) => self.reads(member, round),
                resource::Effect::WriteBlock(round, block) => {
                    let at = offset + geometry.block_offset(member.me().host);
                    match self.writes(member, &mut operation, round, at, &block.encode(geometry, at)) {
                        Ok(waits) => waits,
                        Err(next) => {
                            effect = next;
                            continue;
                        }
                    }
                }
                resource::Effect::WriteLeader(round, leader) => {
                    match self.writes(member, &mut operation, round, offset, &leader.encode(offset)) {
                        Ok(waits) => waits,
                        Err(next) => {
                            effect = next;
                            continue;
                        }
                    }
                }
                resource::Effect::Scan(round) => {
                    member.want_scan(self.id);
                    Waits::Scan(round)
                }
                resource::Effect::Settle(round) if member.writes_to_area(&self.resource) => {
                    member.unsettled.insert(self.id);
                    Waits::Settled(round)
                }
                resource::Effect::Settle(round) => {
                    let random = member.draw();
                    let next = operation.step(round, Event::Settled, &mut member.scans.observer, member.now, random);
                    effect = next.unwrap_or(resource::Effect::Wait(round, member.now));
                    continue;
                }
                resource::Effect::Wait(round, until) => {
                    let undoing = self.is_called_off(member);
                    let until = if undoing { until } else { until.min(self.call_off) };
                    member.wakes(until, Timer::Job(self.id));
                    Waits::Time(round, until)
                }
                resource::Effect::Done(outcome) => return self.ends(member, operation, outcome),
            };
            self.stage = Stage::Going(Box::new(operation), waits);
            return self.wait(member);
        }
    }

    /// How long an I/O is waited for, of which the caller's time is to allow so many. The caller is answered in time
    /// whatever this is, so it need not come to nothing in the end.
    fn patience(&self, member: &Member, times: u32) -> Duration {
        let io = member.terms.timeouts.io();
        match self.command {
            Some(_) => io.min(self.answer_by.since(member.now) / times).max(io / 8),
            None => io,
        }
    }

    fn reads(&self, member: &mut Member, round: u32) -> Waits {
        let since = member.scans.coverage.since.unwrap_or_default();
        let extents = vec![member.area_extent(&self.resource)];
        // One that takes too long is followed by another.
        let expires = member.now + self.patience(member, 2);
        let disks = 0..member.disks;
        let read = |disk| (member.read(Purpose::Job(self.id), disk, false, extents.clone(), expires, true), disk);
        let ios = disks.map(read).collect();
        Waits::Ios { round, ios, since }
    }

    /// `Err`: nothing is waited for, the operation goes on with this.
    fn writes(
        &mut self,
        member: &mut Member,
        operation: &mut Operation,
        round: u32,
        at: u64,
        bytes: &[u8],
    ) -> Result<Waits, resource::Effect> {
        let expires = member.now + self.patience(member, 1);
        let mut ios = BTreeMap::new();
        let mut next = None;
        for disk in 0..member.disks {
            let window = (member.tenure.deadline(), expires);
            match member.write(Purpose::Job(self.id), disk, false, at, bytes.to_vec(), window) {
                Submitted::Yes(io) => drop(ios.insert(io, disk)),
                Submitted::Busy | Submitted::Over => {
                    let event = Event::Wrote { disk, written: Written::InFlight };
                    let random = member.draw();
                    let step = operation.step(round, event, &mut member.scans.observer, member.now, random);
                    next = next.or(step);
                }
            }
        }
        match next {
            Some(effect) => Err(effect),
            None => Ok(Waits::Ios { round, ios, since: Time::ZERO }),
        }
    }

    /// The membership is lost: nothing of the operation is gone on with.
    pub(super) fn ends_with_loss(self, member: &mut Member) {
        member.leases.end(self.resource.offset, State::Idle, None);
        let loss = member.why();
        self.answers(member, Operated::Lost(loss));
    }

    /// The operation is over: keeps what is held then. What was given up meanwhile is released.
    ///
    /// A lease that was lost meanwhile stays lost under the version that its holder knows, whatever the operation has
    /// brought: what is on disk keeps others away until it is released.
    fn ends(mut self, member: &mut Member, operation: Operation, outcome: Outcome) {
        let (offset, now) = (self.resource.offset, member.now);
        let own = operation.own_block().cloned();
        // What was handed over is not gone on with, though it may have been acquired again.
        let before = member.leases.version_before(offset).filter(|_| !operation.has_ceded());
        let (mode, version) = match (operation.leaves(&outcome), &outcome, before) {
            (After::Held(mode), Outcome::Held(version), _) => (mode, *version),
            (After::Held(mode), _, Some(version)) => (mode, version),
            (After::Lost, outcome, Some(version)) => {
                member.lose((offset, version), outcome.why_lost());
                (LeaseMode::Shared, version)
            }
            (After::Nothing, ..) | (_, _, None) => {
                member.leases.end(offset, State::Idle, own);
                return self.concludes(member, outcome, Some(operation));
            }
        };
        let subject = member.subject(&self.resource);
        let lost = match before {
            Some(before) => {
                let loss = member.lease_loss((offset, before));
                if loss.is_none()
                    && matches!(outcome, Outcome::Held(_))
                    && let Some(holding) = member.leases.holding((offset, before)).map(|holding| holding.clone())
                {
                    let converted = holding.converted(&subject, operation.looked(), now);
                    member.leases.hold_on(&self.resource, before, version, converted);
                    member.revision += 1;
                }
                loss
            }
            None => {
                let holding = Holding::new(&subject, operation.looked(), operation.passed().clone());
                member.leases.hold(&self.resource, version, version, holding);
                member.revision += 1;
                None
            }
        };
        let version = before.filter(|_| lost.is_some()).unwrap_or(version);
        member.put_back(&self.resource, mode, version, own);
        match lost {
            Some(loss) => self.answer(member, Operated::Lost(loss)),
            None => self.concludes(member, outcome, Some(operation)),
        }
        member.look_when_due((offset, version));
    }

    fn concludes(mut self, member: &mut Member, outcome: Outcome, operation: Option<Operation>) {
        if self.command.is_none()
            && let (Outcome::Held(held), None) = (&outcome, self.held())
        {
            // It could not be called off any more, and nobody knows of it.
            let release = Order::Release { held: *held, timeout: Duration::ZERO, settled: false };
            member.operate(None, self.resource, release);
        }
        let overridden = operation.as_ref().map(|operation| member.act_until(operation.overridden()));
        let over = Over {
            lost: self.lost_before.take(),
            overridden: overridden.unwrap_or_default(),
            proposed: operation.as_ref().and_then(Operation::proposed),
            closing: member.phase != Phase::Open,
            trouble: self.trouble,
            damaged: std::mem::take(&mut self.damaged),
            sharers: std::mem::take(&mut self.sharers),
            outcome,
        };
        let offset = self.resource.offset;
        self.answer(member, Operated::Over(Box::new(over)));
        member.next_turn(offset);
    }
}
