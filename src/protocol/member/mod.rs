//! A host's membership in one lockspace, whole, as one machine: what it writes, when, and what it tells its callers.
//!
//! It is told what happens with [`Member::step`]: an I/O has ended, a caller wants something, time has passed. What it
//! wants done it leaves in [`Member::take_effects`]. The engine carries that out on real disks, the simulator on
//! made-up ones; neither of them decides anything.
//!
//! Not in here: joining, and going on with what an earlier process held, which come before ([`super::delta`],
//! [`super::resumption`]); the local lock; threads and clocks.
//!
//! | file | what it decides |
//! |---|---|
//! | `effect.rs`, `command.rs` | nothing: what goes in and out |
//! | `account.rs` | what is in flight |
//! | `renewal.rs` | when the host id is renewed |
//! | `scans.rs` | when whose records are read |
//! | `leases.rs` | what is held of each resource, and until when |
//! | `operations.rs` | acquires, conversions, handovers, releases |
//! | `looks.rs` | looking at what is held |
//! | `errands.rs` | procedures for a caller: declare, mend, create |
//! | `writes.rs` | single writes for a caller: values, requests, the index |
//! | `outbox.rs`, `notices.rs` | what this host says to others, and they to it |
//! | `leaving.rs` | the end |
//!
//! Invariants:
//! - Nothing is submitted once the host id is lost, of whatever operation. Each write names the moment before which it
//!   is submitted, and the carrier keeps to that ([`Effect::Write`]).
//! - One write is in flight for each sector at most.
//! - Each command is answered once, and each that has a deadline by then.

mod account;
mod command;
mod effect;
mod errands;
mod leases;
mod leaving;
mod looks;
mod notices;
mod operations;
mod outbox;
mod renewal;
mod scans;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::delta::{self, Tenure, Terms};
use super::holding;
use super::liveness::Observer;
use super::procedure::{Extent, Sectors};
use super::rules::Rule;
use super::{Seen, Span, Written, split_mix};
use crate::format::Block;
use crate::types::{LeaseMode, Name, Owner, Resource, Time, Version};
use account::{Account, Pending, Purpose};
use errands::{Errand, Work};
use leaving::{Closing, Finishing, Phase};
use looks::Looking;
use notices::Told;
use operations::Running;
use outbox::Outbox;
use renewal::Renewal;
use scans::Scans;
use writes::Writing;

pub use account::{IoId, Trouble};
pub use command::{
    Answer, Command, CommandId, Finish, NotCalled, NotClosed, NotFinished, Operated, Order, Over, Unwritten,
};
pub use effect::{Effect, Event};
pub use leases::{Key, Leases};
pub use notices::Notice;
pub use scans::Coverage;

/// Names something that a membership does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct JobId(u64);

/// Something that a membership does for a while, for a caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Job {
    Operation(Box<Running>),
    Errand(Box<Errand>),
    Writing(Writing),
    Finishing(Finishing),
}

/// What a job is told.
#[derive(Clone, Debug)]
enum Happened {
    Read(IoId, Span, Sectors),
    /// A read failed, or took too long.
    Failed(IoId, Trouble),
    Wrote(IoId, Span, Written, Option<Trouble>),
    /// It was too late for its write.
    TooLate,
    /// The scan that it waited for is over, or has failed.
    Scanned,
    /// No operation is under way on its resource.
    Turn,
    /// What it waits for may have come: a write has ended, or the membership is about to end.
    Nudge,
    /// What it waits for may be due.
    Time,
}

/// What is due at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
    Io(IoId),
    Renewal,
    Scan,
    Lease(Key),
    Job(JobId),
    Closing,
    Deadline,
}

/// Why a membership or a lease is no more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// The host id is lost.
    Host(delta::Loss),
    /// The lease is lost alone.
    Lease(holding::Loss),
    /// The membership was left, or is about to be.
    Left,
    /// The membership was left to another process.
    Detached,
    /// A thread of its carrier's, or the program when it was called back, has panicked.
    Panicked,
}

/// What became of a write that was to be submitted.
enum Submitted {
    Yes(IoId),
    /// Another one is in flight to its sectors.
    Busy,
    /// The host id is lost, or the membership is about to end.
    Over,
}

/// A membership.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    terms: Terms,
    /// How many host ids the lockspace has.
    hosts: u64,
    /// How many disks hold a copy of each resource. The records are on the first.
    disks: usize,
    tenure: Tenure,
    over: Option<Loss>,
    phase: Phase,
    account: Account,
    renewal: Renewal,
    scans: Scans,
    outbox: Outbox,
    told: Told,
    leases: Leases,
    /// What was held when the look began that is under way.
    looking: BTreeMap<Key, Looking>,
    /// What failed last about a lease since a look showed it as it is to be.
    troubles: BTreeMap<Key, Trouble>,
    /// Leases that are looked at when a scan of all ids is over.
    after_scan: BTreeSet<Key>,
    /// Under which version this membership has written the value of the resource at each place.
    values: BTreeMap<u64, Version>,
    jobs: BTreeMap<JobId, Job>,
    /// Jobs that wait until writes have ended.
    unsettled: BTreeSet<JobId>,
    next_job: u64,
    closing: Option<Closing>,
    /// Nothing is renewed any more, though the host id may be held.
    abandoned: bool,
    timers: BTreeSet<(Time, Timer)>,
    effects: Vec<Effect>,
    /// Counts what those who watch the membership and its leases may see.
    revision: u64,
    now: Time,
    random: u64,
}

impl Member {
    /// A membership that holds its host id since a moment ago. The lockspace has `hosts` ids, the largest there may be
    /// unless it is made up; `disks` hold a copy of each resource. `listens`: notices are told. Records are read
    /// `every` so often. `seen` is what was seen of the records while it joined.
    pub fn new(
        terms: Terms,
        tenure: Tenure,
        (hosts, disks): (u64, usize),
        listens: bool,
        every: Duration,
        seen: (Observer, Coverage),
        now: Time,
    ) -> Member {
        let mut member = Member {
            hosts,
            disks,
            over: None,
            phase: Phase::Open,
            account: Account::default(),
            renewal: Renewal::new(now),
            scans: Scans::new(seen, listens, every, now),
            outbox: Outbox::default(),
            told: Told::default(),
            leases: Leases::default(),
            looking: BTreeMap::new(),
            troubles: BTreeMap::new(),
            after_scan: BTreeSet::new(),
            values: BTreeMap::new(),
            jobs: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            next_job: 0,
            closing: None,
            abandoned: false,
            timers: BTreeSet::new(),
            effects: Vec::new(),
            revision: 0,
            now,
            random: 0,
            tenure,
            terms,
        };
        member.renew_if_due();
        member.scan_if_due();
        member.wakes(member.tenure.deadline(), Timer::Deadline);
        member
    }

    /// Takes in what happened at `now`. `random` is any number, another one each time.
    pub fn step(&mut self, event: Event, now: Time, random: u64) {
        self.now = self.now.max(now);
        self.random = random;
        self.tick();
        match event {
            Event::Read(io, sectors) => self.io_ended(io, |member, pending| member.read_ended(io, pending, &sectors)),
            Event::ReadFailed(io) | Event::WriteFailed(io) => self.io_ended(io, |member, pending| {
                member.io_failed(io, pending, Written::Failed);
            }),
            Event::Written(io) => self.io_ended(io, |member, pending| member.written(io, pending)),
            Event::TooLate(io) => self.io_ended(io, |member, pending| {
                if let Purpose::Job(job) = pending.purpose {
                    member.tell(job, Happened::TooLate);
                }
            }),
            Event::Gone(path) => {
                self.tenure.gone(self.now, &path);
                self.revision += 1;
            }
            Event::Command(command, what) => self.command(command, what),
            Event::Ticked => {}
        }
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= self.now) {
            self.timers.remove(&(at, timer));
            self.is_due(timer);
        }
        self.end_if_lost();
        self.close_if_idle();
    }

    /// Another one whenever there may be something new to see for those who watch the membership and its leases.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// What is to be done, in this order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When it is to be told at the latest that time has passed.
    pub fn wakes_at(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn command(&mut self, command: CommandId, what: Command) {
        match what {
            Command::Operate(resource, order) => match self.held() {
                true => self.operate(Some(command), resource, order),
                false => {
                    let lost = Answer::Operated(Operated::Lost(self.why()));
                    self.effects.push(Effect::Answer(command, lost));
                }
            },
            Command::Declare(target) => {
                let known = self.scans.observer.record(target.host).and_then(Seen::good).cloned();
                let known = known.zip(self.scans.observer.first_seen(target.host));
                let declaration = super::declare::Declaration::new(self.me().host, target, self.terms.clone(), known);
                self.begin_errand(command, Work::Declare(Box::new(declaration)), None);
            }
            Command::Mend { host, shown, fenced, deadline } => {
                let mending =
                    super::mend::Mending::new(self.me().host, host, self.terms.clone(), shown, fenced, deadline);
                self.begin_errand(command, Work::Mend(Box::new(mending)), None);
            }
            Command::Create { name, guard, index, device_bytes } => {
                let order = super::catalog::create::Order {
                    me: self.me(),
                    terms: self.terms.clone(),
                    name,
                    guard: guard.1,
                    area_sectors: self.area_sectors(),
                    device_bytes,
                };
                let create = super::catalog::create::Create::new(order, index);
                self.begin_errand(command, Work::Create(Box::new(create)), Some((guard.0.offset, guard.1)));
            }
            Command::WriteIndex { guard, offset, sector } => {
                self.write_index(command, (guard.0.offset, guard.1), offset, sector);
            }
            Command::WriteValue { resource, version, sector } => self.write_value(command, resource, version, sector),
            Command::WriteRequest(resource, request) => self.write_request(command, resource, request),
            Command::Call(hosts, event) => self.call(command, hosts, event),
            Command::Close { but } => self.close(command, but),
            Command::Finish(how) => self.finish(command, how),
        }
    }

    /// How many sectors of an area are used: all that it has, unless the lockspace is made up.
    fn area_sectors(&self) -> u64 {
        match self.hosts == self.terms.geometry.max_hosts() {
            true => self.terms.geometry.sectors_per_area() as u64,
            false => self.hosts + 2,
        }
    }

    // What others ask, at any time.

    /// Host id and generation.
    pub const fn me(&self) -> Owner {
        self.tenure.me()
    }

    /// The lockspace.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The host id.
    pub const fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// The leases.
    pub fn leases(&mut self) -> &mut Leases {
        &mut self.leases
    }

    /// What was seen of the delta records.
    pub fn observer(&mut self) -> &mut Observer {
        &mut self.scans.observer
    }

    /// Whose blocks a read of an area must cover.
    pub const fn coverage(&self) -> Coverage {
        self.scans.coverage
    }

    /// What the last renewal failed with.
    pub const fn trouble(&self) -> Option<Trouble> {
        self.renewal.trouble
    }

    /// What failed last about a lease since a look showed it as it is to be.
    pub fn trouble_of(&self, key: Key) -> Option<Trouble> {
        self.troubles.get(&key).copied()
    }

    /// Whether it is about to end, or has ended.
    pub fn is_closing(&self) -> bool {
        self.phase != Phase::Open
    }

    /// How many writes are in flight.
    pub fn writes_in_flight(&self) -> usize {
        self.account.writes_in_flight()
    }

    /// Why the host id is lost at `now`; `None`: it is held until [`Tenure::deadline`].
    pub fn loss(&mut self, now: Time) -> Option<Loss> {
        self.tenure.tick(now);
        match (&self.over, self.tenure.lost()) {
            (Some(loss), _) => Some(loss.clone()),
            (None, Some(loss)) => Some(Loss::Host(loss.clone())),
            (None, None) if !self.tenure.held(now) => Some(Loss::Host(delta::Loss::Expired)),
            (None, None) => None,
        }
    }

    /// Why a lease is lost at `now`, and since when if that is known; `None`: it is held until [`Member::held_until`].
    pub fn loss_of(&mut self, key: Key, now: Time) -> Option<(Option<Time>, Loss)> {
        if let Some((since, loss)) = self.leases.known_lost(key) {
            return Some((Some(since), Loss::Lease(loss)));
        }
        if let Some(loss) = self.loss(now) {
            return Some((None, loss));
        }
        if let Some((since, loss)) = self.leases.lost(key, now) {
            return Some((Some(since), Loss::Lease(loss)));
        }
        self.leases.holding_at(key).is_none().then_some((None, Loss::Left))
    }

    /// Until when a lease is held if no further renewal is confirmed and no further look succeeds.
    pub fn held_until(&self, key: Key) -> Time {
        self.leases.deadline(key).map_or(self.tenure.deadline(), |own| own.min(self.tenure.deadline()))
    }

    /// The name of the host that `owner` is, if its record as last read is of that generation.
    pub fn name_of(&self, owner: Owner) -> Option<Name> {
        let record = self.scans.observer.record(owner.host)?.good()?;
        (record.generation == owner.generation.get()).then_some(record.host_name)
    }

    /// Goes on with a lease that an earlier process of this generation acquired; `own` is its block. The read that
    /// showed it began at `looked`.
    pub fn adopt(
        &mut self,
        resource: &Resource,
        (mode, version): (LeaseMode, Version),
        own: Block,
        looked: Time,
        passed: BTreeSet<(Owner, Version)>,
    ) {
        self.leases.adopt(resource, mode, version, own);
        let unseen = if mode == LeaseMode::Exclusive { self.unseen() } else { Time::MAX };
        let holding = holding::Holding::new(&self.subject(resource), looked, passed).adopted(unseen);
        self.leases.hold(resource, version, version, holding);
        self.look_when_due((resource.offset, version));
    }

    /// Ceases to answer for a lease.
    pub fn let_go(&mut self, key: Key) {
        self.leases.let_go(key);
        self.troubles.remove(&key);
        self.revision += 1;
    }

    /// A thread that panicked has left something undone that nobody knows: the membership is over.
    pub fn panicked(&mut self) {
        self.end(Loss::Panicked);
    }

    /// Latches the loss of a lease that was found to be taken.
    pub fn lose_lease(&mut self, key: Key, loss: holding::Loss) {
        self.lose(key, loss);
    }

    /// Until when those may still act from whom something was taken by force before now.
    fn act_until(&self, overridden: &BTreeSet<Owner>) -> Vec<(Owner, Time)> {
        let until = |owner: &Owner| (*owner, self.scans.observer.acts_until(owner.host, self.now));
        overridden.iter().map(until).collect()
    }

    // I/O.

    fn held(&self) -> bool {
        self.over.is_none() && self.tenure.held(self.now)
    }

    /// Whether anything may be submitted.
    fn may_write(&self) -> bool {
        let held = match (Rule::DeadlineBeforeWrite.is_in_force(), Rule::LostIsLatched.is_in_force()) {
            (true, true) => self.tenure.held(self.now),
            _ => self.tenure.lost().is_none(),
        };
        self.over.is_none() && held
    }

    fn read(
        &mut self,
        purpose: Purpose,
        disk: usize,
        urgent: bool,
        extents: Vec<Extent>,
        expires: Time,
        again: bool,
    ) -> IoId {
        let again = again.then(|| extents.clone());
        let io = self.account.read(purpose, disk, (self.now, expires), again);
        self.wakes(expires, Timer::Io(io));
        self.effects.push(Effect::Read { io, disk, urgent, extents });
        io
    }

    /// Submits a write before the first of two moments; from the second on it counts as in flight.
    fn write(
        &mut self,
        purpose: Purpose,
        disk: usize,
        urgent: bool,
        offset: u64,
        bytes: Vec<u8>,
        (before, expires): (Time, Time),
    ) -> Submitted {
        let only_record = self.phase == Phase::Stopped && !urgent;
        if !self.may_write() || only_record {
            return Submitted::Over;
        }
        let range = offset..offset + bytes.len() as u64;
        if self.account.writes(disk, &range) && Rule::OneWriteInFlight.is_in_force() {
            return Submitted::Busy;
        }
        let io = self.account.write(purpose, disk, (self.now, expires), range);
        self.wakes(expires, Timer::Io(io));
        self.effects.push(Effect::Write { io, disk, urgent, offset, bytes, before });
        Submitted::Yes(io)
    }

    /// Whether a write of this host is in flight to an area.
    fn writes_to_area(&self, resource: &Resource) -> bool {
        let range = resource.offset..resource.offset + self.terms.geometry.area_bytes();
        self.account.writes_anywhere(&range)
    }

    /// The leader, the request and the blocks of the ids in use.
    fn area_extent(&self, resource: &Resource) -> Extent {
        let highest = self.scans.coverage.highest.max(self.me().host.get());
        Extent { offset: resource.offset, sectors: highest + 2 }
    }

    /// An I/O is over. A write that was told to be in flight before ends nothing but the wait for it.
    fn io_ended(&mut self, io: IoId, tell: impl FnOnce(&mut Member, &Pending)) {
        let Some((pending, late)) = self.account.ends(io) else { return };
        self.timers.remove(&(pending.expires, Timer::Io(io)));
        if !late {
            tell(self, &pending);
        }
        if pending.is_write() {
            for job in self.unsettled.clone() {
                self.tell(job, Happened::Nudge);
            }
            self.nudge_finishing();
        }
    }

    fn read_ended(&mut self, io: IoId, pending: &Pending, sectors: &Sectors) {
        match pending.purpose {
            Purpose::Renewal => self.read_own(sectors),
            Purpose::Scan => self.scanned(pending, Some(sectors)),
            Purpose::Look(offset, version) => self.looked((offset, version), pending, sectors),
            Purpose::Request(offset, version) => self.read_request((offset, version), sectors),
            Purpose::Restore(..) => {}
            Purpose::Job(job) => {
                let span = Span { started: pending.started, ended: self.now };
                self.tell(job, Happened::Read(io, span, sectors.clone()));
            }
        }
    }

    fn written(&mut self, io: IoId, pending: &Pending) {
        match pending.purpose {
            Purpose::Renewal => self.renewed(pending),
            Purpose::Restore(offset, version) => self.restored((offset, version)),
            Purpose::Job(job) => {
                let span = Span { started: pending.started, ended: self.now };
                self.tell(job, Happened::Wrote(io, span, Written::Done, None));
            }
            Purpose::Scan | Purpose::Look(..) | Purpose::Request(..) => {}
        }
    }

    /// An I/O has failed, or has taken too long.
    fn io_failed(&mut self, io: IoId, pending: &Pending, written: Written) {
        let trouble = Trouble { io, waited: pending.waited() };
        match pending.purpose {
            Purpose::Renewal => self.renewal_failed(io, pending),
            Purpose::Scan => self.scanned(pending, None),
            Purpose::Look(offset, version) => {
                self.looking.remove(&(offset, version));
                self.troubles.insert((offset, version), trouble);
            }
            Purpose::Restore(offset, version) => {
                self.troubles.insert((offset, version), trouble);
            }
            Purpose::Request(..) => {}
            Purpose::Job(job) if pending.is_write() => {
                let span = Span { started: pending.started, ended: self.now };
                self.tell(job, Happened::Wrote(io, span, written, Some(trouble)));
            }
            Purpose::Job(job) => self.tell(job, Happened::Failed(io, trouble)),
        }
    }

    // Time.

    fn wakes(&mut self, at: Time, timer: Timer) {
        if at < Time::MAX {
            self.timers.insert((at, timer));
        }
    }

    fn is_due(&mut self, timer: Timer) {
        match timer {
            Timer::Io(io) => {
                let Some(pending) = self.account.expires(io, self.now) else { return };
                match &pending.again {
                    Some(extents) if self.held() => {
                        let expires = self.now + pending.waited();
                        let (purpose, disk, extents) = (pending.purpose, pending.disk, extents.clone());
                        let again = self.read(purpose, disk, false, extents, expires, false);
                        self.read_again(purpose, io, again);
                    }
                    _ => self.io_failed(io, &pending, Written::InFlight),
                }
            }
            Timer::Renewal => self.renew_if_due(),
            Timer::Scan => self.scan_if_due(),
            Timer::Lease(key) => self.look_if_due(key),
            Timer::Job(job) => self.tell(job, Happened::Time),
            Timer::Closing => self.close_if_idle(),
            Timer::Deadline => self.tick(),
        }
    }

    /// A read that took too long goes on under another name.
    fn read_again(&mut self, purpose: Purpose, before: IoId, after: IoId) {
        if let Purpose::Job(job) = purpose
            && let Some(Job::Operation(running)) = self.jobs.get_mut(&job)
        {
            running.read_again(before, after);
        }
    }

    fn tick(&mut self) {
        if Rule::DeadlineBeforeWrite.is_in_force() {
            self.tenure.tick(self.now);
        }
    }

    // Jobs.

    fn next_job(&mut self) -> JobId {
        self.next_job += 1;
        JobId(self.next_job)
    }

    fn keep_operation(&mut self, job: Running) {
        self.jobs.insert(job.id(), Job::Operation(Box::new(job)));
    }

    fn keep_errand(&mut self, job: Errand) {
        self.jobs.insert(job.id(), Job::Errand(Box::new(job)));
    }

    fn keep_write(&mut self, job: Writing) {
        self.jobs.insert(job.id(), Job::Writing(job));
    }

    fn keep_finishing(&mut self, job: Finishing) {
        self.jobs.insert(job.id(), Job::Finishing(job));
    }

    fn tell(&mut self, job: JobId, what: Happened) {
        match self.jobs.remove(&job) {
            Some(Job::Operation(job)) => job.happened(self, what),
            Some(Job::Errand(job)) => job.happened(self, what),
            Some(Job::Writing(job)) => job.happened(self, what),
            Some(Job::Finishing(job)) => job.happened(self, what),
            None => {}
        }
    }

    fn nudge_all(&mut self) {
        for job in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.tell(job, Happened::Nudge);
        }
    }

    fn nudge_finishing(&mut self) {
        let finishing = |(id, job): (&JobId, &Job)| matches!(job, Job::Finishing(_)).then_some(*id);
        if self.phase == Phase::Stopped
            && let Some(job) = self.jobs.iter().find_map(finishing)
        {
            self.tell(job, Happened::Nudge);
        }
    }

    fn has_errands(&self) -> bool {
        self.jobs.values().any(|job| matches!(job, Job::Errand(_) | Job::Writing(_)))
    }

    /// An operation on the resource is over: the next one that waits for it begins.
    fn next_turn(&mut self, offset: u64) {
        for job in self.leases.queued(offset) {
            self.tell(job, Happened::Turn);
        }
    }

    /// Ends work on what is held, which stays held; unless it was given up meanwhile: then nobody waits for its
    /// release.
    fn put_back(&mut self, resource: &Resource, mode: LeaseMode, version: Version, own: Option<Block>) {
        if let Some(own) = self.leases.end(resource.offset, leases::State::Held(mode, version), own) {
            self.release_own(*resource, version, own);
            self.let_go((resource.offset, version));
        }
        self.next_turn(resource.offset);
    }

    fn look_after_scan(&mut self, key: Key) {
        self.after_scan.insert(key);
        self.scan_all();
    }

    fn lease_loss(&mut self, key: Key) -> Option<Loss> {
        self.loss_of(key, self.now).map(|(_, loss)| loss)
    }

    /// Why nothing goes on.
    fn why(&mut self) -> Loss {
        self.loss(self.now).unwrap_or(Loss::Left)
    }

    /// Stops renewing: what is held runs out. Until then it can be given back.
    pub fn abandon(&mut self) {
        self.stop_renewing();
        self.abandoned = true;
        self.revision += 1;
    }

    /// Whether nothing is renewed any more, though the host id may be held.
    pub const fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Whether nothing comes of it any more at `now`: it was abandoned, or is over, and is lost.
    pub fn has_ended(&mut self, now: Time) -> bool {
        (self.abandoned || self.over.is_some()) && self.loss(now).is_some() && self.jobs.is_empty()
    }

    /// The membership is over.
    fn end(&mut self, why: Loss) {
        self.over.get_or_insert(why);
        self.revision += 1;
    }

    /// Once the host id is lost nothing goes on.
    fn end_if_lost(&mut self) {
        if self.may_write() {
            return;
        }
        let loss = self.why();
        if !self.jobs.is_empty() || !self.timers.is_empty() {
            self.revision += 1;
        }
        self.calls_are_lost(&loss);
        for (_, job) in std::mem::take(&mut self.jobs) {
            match job {
                Job::Operation(job) => job.ends_with_loss(self),
                Job::Errand(job) => job.ends_with_loss(self),
                Job::Writing(job) => job.ends_with_loss(self),
                Job::Finishing(job) => job.ends_with_loss(self),
            }
        }
        self.unsettled.clear();
        self.timers.retain(|(_, timer)| matches!(timer, Timer::Io(_)));
    }

    /// A random number.
    fn draw(&mut self) -> u64 {
        split_mix(&mut self.random)
    }
}
