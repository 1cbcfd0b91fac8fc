//! A machine's process: drives the state machines of [`crate::protocol`] as the engine does, with one renewal, one scan
//! and one operation at a time.
//!
//! What it answers for itself, and the machines rely on:
//! - The deadline is checked before each effect and before each write. After the loss nothing more is submitted.
//! - While a write is in flight to a sector, nothing else is written there.
//! - A new process waits until the writes of the one before it are over: they keep the local lock.

mod declaring;
mod handing;
mod resuming;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use self::resuming::Token;
use super::env::{self, Env, NONCE, lockspace, name};
use super::storage::{AREA, Sector, block_at, delta_at, seen};
use crate::format::{Block, DeltaRecord, Geometry, Leader};
use crate::protocol::area::AreaView;
use crate::protocol::declare::Declaration;
use crate::protocol::delta::{self, Acquire, Identity, Refusal, Tenure, Terms, may_release};
use crate::protocol::holding::Holding;
use crate::protocol::liveness::Observer;
use crate::protocol::resource::{self, After, Basis, Effect, Event, Operation, Outcome, Subject, Wish};
use crate::protocol::resumption::Resume;
use crate::protocol::rules::in_force;
use crate::protocol::{Seen, Span, Written};
use crate::timeouts::Timeouts;
use crate::types::{HostId, LeaseMode, Owner, Time, Version};

/// What happens to a process.
#[derive(Clone, Debug)]
pub(super) enum Signal {
    /// A process starts, or tries again to join.
    Start,
    /// The join's wait is over.
    JoinWoke,
    /// The declaration's wait is over.
    DeclarationWoke,
    /// A renewal may be due.
    Renew,
    /// A scan is due.
    Scan,
    /// What is held is to be looked at.
    Verify { version: Version },
    /// The wait of an operation is over.
    Woke { operation: u64, round: u32 },
    /// The caller's deadline.
    CallOff { operation: u64 },
    /// The caller wants what comes next.
    Act,
    /// The deadline of the host id may have passed.
    Deadline,
    /// An I/O was completed, or timed out.
    Io(Completion),
}

/// What an I/O is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Join,
    Renew,
    Leave,
    Declare,
    Resume,
    /// Looking for the lease that an earlier process had, as it is known to have held it.
    TakeUp {
        listed: Option<(LeaseMode, Version)>,
    },
    Scan {
        known_from: Time,
        wanted_by: Option<(u64, u32)>,
    },
    Verify {
        version: Version,
    },
    Area {
        operation: u64,
        round: u32,
        disk: usize,
        since: Time,
    },
}

impl Tag {
    /// Whether it is a write to the record of an id that its host does not hold: another one may, by the time it lands.
    pub(super) const fn races(self) -> bool {
        matches!(self, Tag::Join | Tag::Declare)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Completion {
    pub(super) tag: Tag,
    pub(super) started: Time,
    /// Its time-out was signalled before.
    pub(super) late: bool,
    /// It read a stale copy.
    pub(super) stale: bool,
    pub(super) answer: Answer,
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Read(Rc<[u64]>, Vec<Sector>),
    Failed,
    Wrote(Written),
}

pub(super) struct Host {
    index: usize,
    /// The host id that this machine holds or held without releasing it.
    id: Option<HostId>,
    /// What it held last.
    latest: Option<Owner>,
    /// What the process before left.
    token: Option<Token>,
    process: Process,
}

enum Process {
    None,
    Joining(HostId, Box<Acquire>),
    Resuming(Token, Box<Resume>),
    Member(Box<Member>),
}

struct Member {
    tenure: Tenure,
    timeouts: Timeouts,
    observer: Observer,
    /// Scans under way.
    scanning: u32,
    /// The ids that the last complete scan showed in use, and when it started.
    known: Option<(Time, BTreeSet<HostId>)>,
    renewal_started: Time,
    operation: Option<Operation>,
    operations: u64,
    /// The version that an acquire under way is to take the resource from.
    expected: Option<Version>,
    /// The round of the effect that waits for writes in flight.
    settling: Option<u32>,
    own: Option<Block>,
    held: Option<Held>,
    leaving: bool,
    declaration: Option<(HostId, Declaration)>,
    /// It found the leader damaged.
    rebuilds: bool,
    /// Who asked for what is held when it was last looked at.
    asked: Option<Owner>,
    /// To whom this host hands over, or did last.
    destination: Option<Owner>,
    /// The acquire under way is for what is handed over.
    receiving: bool,
}

/// A lease that a process holds, or has lost alone and not given back yet.
#[derive(Clone, Copy)]
struct Held {
    mode: LeaseMode,
    version: Version,
    holding: Holding,
}

impl Host {
    pub(super) fn new(index: usize) -> Host {
        Host { index, id: None, latest: None, token: None, process: Process::None }
    }

    pub(super) const fn id(&self) -> Option<HostId> {
        self.id
    }

    pub(super) const fn latest(&self) -> Option<Owner> {
        self.latest
    }

    pub(super) fn process_is_gone(&mut self) {
        self.process = Process::None;
    }

    pub(super) fn handle(&mut self, env: &mut Env, signal: Signal) {
        let now = env.local(self.index);
        let index = self.index;
        match &mut self.process {
            Process::None => {
                if let Signal::Start = signal {
                    self.start(env);
                }
            }
            Process::Joining(..) => self.joining(env, signal),
            Process::Resuming(..) => self.resuming(env, signal),
            Process::Member(member) => {
                if in_force!(DeadlineBeforeWrite) {
                    member.tenure.tick(now);
                }
                let stops = !member.tenure.held(now) && in_force!(DeadlineBeforeWrite) && in_force!(LostIsLatched);
                let end = if stops { Some(End::Lost) } else { member.handle(index, env, signal) };
                if let Some(end) = end {
                    self.ended(env, end);
                }
            }
        }
    }

    fn start(&mut self, env: &mut Env) {
        let index = self.index;
        if env.storage.writing(index, |_, _| true) && in_force!(LocalLock) {
            env.signal_after(index, Duration::from_millis(10), Signal::Start);
            return;
        }
        let picked = match self.id {
            Some(id) => Some(id),
            None if index == env.options.hosts => HostId::new(env.ids()),
            // Few enough that hosts meet.
            None => HostId::new(1 + env.random.below(env.ids() - 1)),
        };
        let Some(id) = picked else { return };
        let token = self.token.take();
        let identity = Identity {
            name: name(b"host"),
            machine: index as u64 + 1,
            boot: env.machines[index].boot,
            session: env.random.next() as u32,
        };
        let terms = Terms {
            geometry: Geometry::default(),
            lockspace: lockspace(),
            nonce: NONCE,
            timeouts: env.timeouts(index),
        };
        if let Some(token) = token {
            return self.resume(env, token, identity, terms);
        }
        self.process = Process::Joining(id, Box::new(Acquire::new(id, identity, terms, env.random.next())));
        env.trace(|| format!("host {index} joins as {id}"));
        env.read(index, Tag::Join, 0, vec![delta_at(id)]);
    }

    fn joining(&mut self, env: &mut Env, signal: Signal) {
        let (index, now) = (self.index, env.local(self.index));
        let Process::Joining(id, acquire) = &mut self.process else { return };
        let (id, at) = (*id, delta_at(*id));
        let event = match signal {
            Signal::JoinWoke => delta::Event::Woke(now),
            Signal::Io(Completion { answer: Answer::Wrote(Written::InFlight), .. })
                if !in_force!(JoinWriteIsPrompt) =>
            {
                return;
            }
            Signal::Io(Completion { tag: Tag::Join, started, late, answer, .. })
                if !late || !in_force!(JoinWriteIsPrompt) =>
            {
                let span = Span { started, ended: now };
                match answer {
                    Answer::Read(_, sectors) => {
                        delta::Event::Read(span, seen(&sectors[0], |sector| DeltaRecord::decode(sector, at)))
                    }
                    Answer::Failed => delta::Event::ReadFailed,
                    Answer::Wrote(written) => delta::Event::Wrote(span, written),
                }
            }
            _ => return,
        };
        match acquire.step(event) {
            delta::Effect::Read => env.read(index, Tag::Join, 0, vec![at]),
            delta::Effect::Write(record) => {
                self.id = Some(id);
                env.write(index, Tag::Join, 0, at, record.encode(at));
            }
            delta::Effect::Wait(until) => env.signal(index, until, Signal::JoinWoke),
            delta::Effect::Done(Ok(tenure)) => {
                env.trace(|| format!("host {index} holds {}", tenure.me()));
                self.latest = Some(tenure.me());
                let until = env.machines[index].clock.world(tenure.deadline());
                env.check.joined(index, tenure.me(), env.now, until);
                env.signal(index, tenure.deadline(), Signal::Deadline);
                env.signal(index, now, Signal::Renew);
                env.signal(index, now, Signal::Scan);
                let rest = if env.quiet { Duration::ZERO } else { env.random.span(Duration::ZERO, env.options.rest) };
                env.signal_after(index, rest, Signal::Act);
                self.process =
                    Process::Member(Box::new(Member::new(*tenure, env.options.timeouts, env.timeouts(index))));
            }
            delta::Effect::Done(Err(refusal)) => {
                env.trace(|| format!("host {index} could not join as {id}: {refusal:?}"));
                env.check.counters.refusals += 1;
                if refusal != Refusal::Storage {
                    self.id = None;
                }
                self.ended(env, End::Refused);
            }
        }
    }

    fn ended(&mut self, env: &mut Env, end: End) {
        let index = self.index;
        env.trace(|| format!("host {index}: its process ends, {end:?}"));
        match end {
            End::Lost => env.check.counters.losses += 1,
            End::Left { released: true } => self.id = None,
            End::Left { released: false } | End::Refused => {}
        }
        env.check.left(index);
        self.process = Process::None;
        env.machines[index].epoch += 1;
        let rest = env.random.millis(1, 100);
        env.signal_after(index, rest, Signal::Start);
    }
}

/// How a process ended.
#[derive(Debug)]
enum End {
    Lost,
    /// In the orderly way; the write that releases the id may have failed.
    Left {
        released: bool,
    },
    Refused,
}

impl Member {
    fn new(tenure: Tenure, lockspace: Timeouts, own: Timeouts) -> Member {
        Member {
            tenure,
            observer: Observer::new(lockspace),
            timeouts: own,
            scanning: 0,
            known: None,
            renewal_started: Time::ZERO,
            operation: None,
            operations: 0,
            expected: None,
            settling: None,
            own: None,
            held: None,
            leaving: false,
            declaration: None,
            rebuilds: false,
            asked: None,
            destination: None,
            receiving: false,
        }
    }

    fn handle(&mut self, index: usize, env: &mut Env, signal: Signal) -> Option<End> {
        let (now, me) = (env.local(index), self.tenure.me());
        match signal {
            Signal::Renew => {
                self.renewal_started = now;
                env.read(index, Tag::Renew, 0, vec![delta_at(me.host)]);
            }
            Signal::Scan => {
                if self.scanning == 0 {
                    self.scan(index, env, None);
                }
                env.signal_after(index, env.options.scan, Signal::Scan);
            }
            Signal::Verify { version } => self.verify(index, env, version),
            Signal::Act => return self.act(index, env),
            Signal::CallOff { operation } if operation == self.operations => {
                if let Some(operation) = &mut self.operation {
                    env.trace(|| format!("host {index} calls off"));
                    operation.call_off();
                }
            }
            Signal::Woke { operation, round } if operation == self.operations => {
                return self.step(index, env, round, Event::Woke);
            }
            Signal::DeclarationWoke => self.declaring(index, env, delta::Event::Woke(now)),
            Signal::Io(completion) => return self.completed(index, env, completion),
            Signal::Start | Signal::JoinWoke | Signal::Deadline => {}
            Signal::Woke { .. } | Signal::CallOff { .. } => {}
        }
        None
    }

    fn scan(&mut self, index: usize, env: &mut Env, wanted_by: Option<(u64, u32)>) {
        self.scanning += 1;
        let offsets = env.known_ids().map(delta_at).collect();
        let known_from = env.local(index);
        env.read(index, Tag::Scan { known_from, wanted_by }, 0, offsets);
    }

    fn completed(&mut self, index: usize, env: &mut Env, completion: Completion) -> Option<End> {
        let Completion { tag, started, late, stale, answer } = completion;
        let span = Span { started, ended: env.local(index) };
        match (tag, answer) {
            (Tag::Renew, Answer::Read(_, sectors)) => self.renew(index, env, &sectors[0]),
            (Tag::Renew, Answer::Failed) => {
                env.signal_after(index, Duration::from_millis(5), Signal::Renew);
                None
            }
            (Tag::Renew, Answer::Wrote(written)) => {
                self.tenure.renewed(span, written, span.ended);
                self.renewed(index, env);
                match written {
                    Written::Done => {
                        env.signal(index, self.renewal_started + self.timeouts.renewal(), Signal::Renew);
                    }
                    Written::Failed => env.signal_after(index, Duration::from_millis(5), Signal::Renew),
                    // Nothing more is written there until it is over.
                    Written::InFlight => {}
                }
                None
            }
            (Tag::Leave, Answer::Wrote(written)) => Some(End::Left { released: written == Written::Done }),
            (Tag::Scan { known_from, wanted_by }, answer) => {
                self.scanning -= 1;
                if let Answer::Read(offsets, sectors) = answer {
                    self.scanned(env, (known_from, stale), span, &offsets, &sectors);
                }
                let (_, round) = wanted_by.filter(|(operation, _)| *operation == self.operations)?;
                self.step(index, env, round, Event::Scanned)
            }
            (Tag::Area { operation, round, disk, since }, answer) => {
                let current = operation == self.operations;
                // Of several disks, one may still write what a majority has; then nobody waits for it, but to settle.
                if let (Answer::Wrote(_), true) = (&answer, late || !current || self.settling.is_some()) {
                    let settled = self.settling.filter(|_| !env.storage.writing(index, |_, at| at >= AREA))?;
                    self.settling = None;
                    return self.step(index, env, settled, Event::Settled);
                }
                let event = match answer {
                    Answer::Read(offsets, sectors) => Event::Read { disk, span, since, view: view(&offsets, &sectors) },
                    Answer::Failed => Event::ReadFailed { disk },
                    Answer::Wrote(written) => Event::Wrote { disk, written },
                };
                if current { self.step(index, env, round, event) } else { None }
            }
            (Tag::Verify { version }, answer) => {
                if let Answer::Read(offsets, sectors) = answer {
                    self.verified(index, env, version, started, &view(&offsets, &sectors));
                }
                env.signal_after(index, self.timeouts.renewal(), Signal::Verify { version });
                None
            }
            (Tag::Declare, answer) => {
                self.declared(index, env, span, answer);
                None
            }
            (Tag::TakeUp { listed }, answer) => self.take_up(index, env, listed, started, answer),
            (Tag::Join | Tag::Resume | Tag::Leave, _) => None,
        }
    }

    /// The deadline is where the tenure has it now.
    fn renewed(&self, index: usize, env: &mut Env) {
        let deadline = self.tenure.deadline();
        env.check.renewed(index, env.machines[index].clock.world(deadline));
        self.extend(index, env);
        env.signal(index, deadline, Signal::Deadline);
    }

    fn subject(&self, env: &Env) -> Subject {
        Subject {
            me: self.tenure.me(),
            geometry: Geometry::default(),
            lockspace: lockspace(),
            resource: env::resource(),
            timeouts: self.timeouts,
            disks: env.options.disks,
        }
    }

    fn begin(&mut self, index: usize, env: &mut Env, (operation, effect): (Operation, Effect)) -> Option<End> {
        self.operation = Some(operation);
        self.drive(index, env, Some(effect))
    }

    fn renew(&mut self, index: usize, env: &mut Env, sector: &[u8]) -> Option<End> {
        let (now, at) = (env.local(index), delta_at(self.tenure.me().host));
        let seen = seen(sector, |sector| DeltaRecord::decode(sector, at));
        let may_leave = self.leaving && may_release(!env.storage.writing(index, |_, _| true));
        let record = match may_leave {
            true => self.tenure.release(now, &seen),
            false => self.tenure.renew(now, &seen),
        };
        let Ok(record) = record else {
            return Some(End::Lost);
        };
        if may_leave {
            env.trace(|| format!("host {index} leaves"));
            if env.storage.writing(index, |_, _| true) {
                env.check.fail(format!("W: machine {index} releases its host id while it has a write in flight"));
            }
            env.check.left(index);
        }
        let tag = if may_leave { Tag::Leave } else { Tag::Renew };
        env.write(index, tag, 0, at, record.encode(at));
        None
    }

    /// When it began, and whether it read a stale copy.
    fn scanned(
        &mut self,
        env: &mut Env,
        (known_from, stale): (Time, bool),
        span: Span,
        offsets: &[u64],
        sectors: &[Sector],
    ) {
        let records: Vec<(HostId, Seen<DeltaRecord>)> = env
            .known_ids()
            .zip(offsets.iter().zip(sectors))
            .map(|(host, (at, sector))| (host, seen(sector, |sector| DeltaRecord::decode(sector, *at))))
            .collect();
        let own = records.iter().find(|(host, _)| *host == self.tenure.me().host).and_then(|(_, value)| value.good());
        let content = own.and_then(|record| self.tenure.recognises(record));
        let used = |value: &Seen<DeltaRecord>| value.good().is_none_or(|record| record.generation != 0);
        let known = records.iter().filter(|(_, value)| used(value) || stale).map(|(host, _)| *host).collect();
        let counts = content.is_some() || !in_force!(ConfirmedByMirror);
        if counts && self.known.as_ref().is_none_or(|(from, _)| *from <= known_from) {
            self.known = Some((known_from, known));
        }
        for (host, value) in records {
            self.observer.observe(host, span, content, value);
        }
    }

    fn act(&mut self, index: usize, env: &mut Env) -> Option<End> {
        self.declare(index, env);
        if self.operation.is_some() || self.leaving {
            return None;
        }
        let now = env.local(index);
        let timeouts = self.timeouts;
        let subject = self.subject(env);
        self.operations += 1;
        self.expected = None;
        self.receiving = false;
        self.settling = None;
        let modes = env.options.modes;
        if let Some(held) = &mut self.held {
            held.holding.tick(now);
        }
        let wait = env.quiet || env.random.chance(700);
        let converts =
            |held: &Held, env: &mut Env| !env.quiet && !held.holding.is_lost() && env.random.chance(modes.converts);
        let begun = match self.held {
            Some(held) => {
                let Some(own) = self.own.clone() else {
                    env.check.fail(format!("S4: host {index} holds, but does not know its own block"));
                    return None;
                };
                if let Some(begun) = self.hand_over(env, &held, now) {
                    begun
                } else if modes.converts > 0 && converts(&held, env) {
                    let to = other(held.mode);
                    env.trace(|| format!("host {index} converts to {to}, wait {wait}"));
                    if to == LeaseMode::Shared {
                        env.check.shares(index);
                    }
                    Operation::convert(subject, own, to, wait, now)
                } else {
                    env.trace(|| format!("host {index} releases"));
                    env.check.stopped(index);
                    self.held = None;
                    Operation::release(subject, own, now)
                }
            }
            None if !env.quiet && env.random.chance(env.options.leaves) => {
                self.leaving = true;
                return None;
            }
            None if std::mem::take(&mut self.rebuilds) => {
                env.trace(|| format!("host {index} rebuilds the leader"));
                Operation::rebuild(subject, self.own.clone(), None, now)
            }
            None => {
                let wish = self.wish(env, wait);
                self.receiving = wish.basis == Basis::HandedOver;
                self.expected = match wish.basis {
                    Basis::Any | Basis::HandedOver => None,
                    Basis::Unchanged(version) | Basis::Forced(version) => Some(version),
                };
                env.trace(|| format!("host {index} acquires: {wish:?}"));
                Operation::acquire(subject, self.own.clone(), wish, now)
            }
        };
        if wait && !env.quiet && env.random.chance(600) {
            let patience = env.random.span(Duration::ZERO, timeouts.dead() * 2);
            env.signal_after(index, patience, Signal::CallOff { operation: self.operations });
        }
        self.begin(index, env, begun)
    }

    fn wish(&self, env: &mut Env, wait: bool) -> Wish {
        let modes = env.options.modes;
        if env.quiet || modes.shared + modes.forced + modes.received == 0 {
            return Wish::exclusive(wait);
        }
        if env.random.chance(modes.received) {
            return Wish { basis: Basis::HandedOver, ..Wish::exclusive(wait) };
        }
        let mode = if env.random.chance(modes.shared) { LeaseMode::Shared } else { LeaseMode::Exclusive };
        let forced = env.random.chance(modes.forced);
        // What a manager knows, or knew before.
        let known = Version::new(env.check.latest_decided().get().saturating_sub(env.random.below(2)));
        match forced {
            true => Wish { mode: LeaseMode::Exclusive, wait, basis: Basis::Forced(known) },
            false if env.random.chance(modes.unchanged) => Wish { mode, wait, basis: Basis::Unchanged(known) },
            false => Wish { mode, wait, basis: Basis::Any },
        }
    }

    /// Looks at what is held, as the engine does.
    fn verify(&mut self, index: usize, env: &mut Env, version: Version) {
        if self.looked_at(version).is_none() {
            return;
        }
        let hosts = self.known.iter().flat_map(|(_, hosts)| hosts.iter().copied().map(block_at));
        let offsets: Vec<u64> = std::iter::once(AREA).chain(hosts).collect();
        env.read(index, Tag::Verify { version }, 0, offsets);
    }

    fn verified(&mut self, index: usize, env: &mut Env, version: Version, started: Time, view: &AreaView) {
        let (me, now) = (self.tenure.me(), env.local(index));
        self.listen(view, version);
        let Some(held) = self.looked_at(version) else { return };
        held.holding.looked(started, view.fenced(me, version).is_some(), now);
        if held.holding.is_lost() {
            env.trace(|| format!("host {index}: version {version} was taken from {me}"));
            env.check.counters.fenced += 1;
        }
        self.extend(index, env);
    }

    /// What is held at `version`, if it can be taken by force and is not known to be.
    fn looked_at(&mut self, version: Version) -> Option<&mut Held> {
        let held = self.held.as_mut().filter(|held| held.version == version && held.mode == LeaseMode::Exclusive);
        held.filter(|held| !held.holding.is_lost())
    }

    /// Says until when what is held may be acted on.
    fn extend(&self, index: usize, env: &mut Env) {
        let Some(held) = self.held.filter(|held| !held.holding.is_lost()) else { return };
        env.check.extended(index, self.tenure.me(), env.now, self.acts_until(index, env, &held));
    }

    fn acts_until(&self, index: usize, env: &Env, held: &Held) -> Time {
        let ends = held.holding.deadline().unwrap_or(Time::MAX);
        env.machines[index].clock.world(self.tenure.deadline().min(ends) + self.timeouts.fence())
    }

    fn step(&mut self, index: usize, env: &mut Env, round: u32, event: Event) -> Option<End> {
        let (now, random) = (env.local(index), env.random.next());
        let effect = self.operation.as_mut()?.step(round, event, &mut self.observer, now, random);
        self.drive(index, env, effect)
    }

    /// Carries out effects until one has to be waited for.
    fn drive(&mut self, index: usize, env: &mut Env, mut next: Option<Effect>) -> Option<End> {
        while let Some(effect) = next.take() {
            let now = env.local(index);
            if !self.tenure.held(now) {
                return Some(End::Lost);
            }
            let exposed = self.operation.as_ref().filter(|operation| operation.is_exposed());
            if let (Some(operation), Some(held)) = (exposed, &mut self.held) {
                held.holding.expose(operation.looked());
                self.extend(index, env);
            }
            self.cede(index, env);
            match effect {
                Effect::Read(round) => self.read(index, env, round),
                Effect::WriteBlock(round, block) => {
                    env.check.counters.burns +=
                        u64::from(block.extension.as_ref().is_some_and(|extension| extension.burned.is_some()));
                    env.check.proposes(self.tenure.me(), &block);
                    env.trace(|| format!("host {index}: {block:?}"));
                    let at = block_at(self.tenure.me().host);
                    next = self.write(index, env, round, at, &block.encode(Geometry::default(), at));
                }
                Effect::WriteLeader(round, leader) => {
                    next = self.write(index, env, round, AREA, &leader.encode(AREA));
                }
                Effect::Scan(round) => self.scan(index, env, Some((self.operations, round))),
                Effect::Settle(round) => {
                    if env.storage.writing(index, |_, at| at >= AREA) {
                        self.settling = Some(round);
                    } else {
                        let random = env.random.next();
                        let operation = self.operation.as_mut()?;
                        next = operation.step(round, Event::Settled, &mut self.observer, now, random);
                    }
                }
                Effect::Wait(round, until) => {
                    env.signal(index, until, Signal::Woke { operation: self.operations, round });
                }
                Effect::Done(outcome) => self.done(index, env, &outcome),
            }
        }
        None
    }

    /// Reads the blocks of the ids that the last scan showed in use, or now and then those of all.
    fn read(&self, index: usize, env: &mut Env, round: u32) {
        let (since, mut hosts) = self.known.clone().unwrap_or((Time::ZERO, BTreeSet::new()));
        if env.random.chance(200) {
            hosts = env.known_ids().collect();
        }
        let offsets: Vec<u64> = std::iter::once(AREA).chain(hosts.into_iter().map(block_at)).collect();
        for disk in 0..env.options.disks {
            let tag = Tag::Area { operation: self.operations, round, disk, since };
            env.read(index, tag, disk, offsets.clone());
        }
    }

    fn write(&mut self, index: usize, env: &mut Env, round: u32, at: u64, bytes: &[u8]) -> Option<Effect> {
        let mut next = None;
        for disk in 0..env.options.disks {
            if in_force!(OneWriteInFlight) && env.storage.writing(index, |on, offset| (on, offset) == (disk, at)) {
                let event = Event::Wrote { disk, written: Written::InFlight };
                let (now, random) = (env.local(index), env.random.next());
                next = next.or(self.operation.as_mut()?.step(round, event, &mut self.observer, now, random));
            } else {
                let tag = Tag::Area { operation: self.operations, round, disk, since: Time::ZERO };
                env.write(index, tag, disk, at, bytes.to_vec());
            }
        }
        next
    }

    fn done(&mut self, index: usize, env: &mut Env, outcome: &Outcome) {
        let (me, now) = (self.tenure.me(), env.local(index));
        env.trace(|| format!("host {index}: {me} answers {outcome:?}"));
        let Some(operation) = self.operation.take() else { return };
        self.own = operation.own_block().cloned();
        self.rebuilds = matches!(outcome, Outcome::Refused(resource::Refusal::LeaderDamaged(_)));
        let before = self.held.take();
        let rest = match (operation.leaves(outcome), outcome) {
            (After::Held(mode), Outcome::Held(version)) => {
                if self.expected.is_some_and(|expected| *version != expected.after(1)) {
                    env.check.fail(format!("S2: {me} holds version {version}, not the one after {:?}", self.expected));
                }
                // Of several disks none is looked at: nothing is taken by force there.
                let guarded = if env.options.disks == 1 { mode } else { LeaseMode::Shared };
                let holding = match before {
                    Some(before) => before.holding.converted(guarded, operation.looked(), now),
                    None => Holding::new(guarded, operation.looked(), self.timeouts.fail()),
                };
                if self.receiving {
                    env.check.received(me);
                }
                let held = Held { mode, version: *version, holding };
                let until = self.acts_until(index, env, &held);
                let told = |host| env.machines[index].clock.world(self.observer.acts_until(host, now));
                let taken: BTreeMap<Owner, Time> =
                    operation.overridden().iter().map(|owner| (*owner, told(owner.host))).collect();
                env.check.held(index, me, (mode, *version), &taken, env.now, until, &env.storage);
                self.held = Some(held);
                if env.quiet {
                    env.acquired.insert(index);
                }
                if mode == LeaseMode::Exclusive {
                    env.signal(index, now, Signal::Verify { version: *version });
                }
                // Who is to hear of those who ask holds for long enough.
                let often = if env.options.modes.received > 0 { 600 } else { 150 };
                let long = !env.quiet && env.random.chance(often);
                if long { env.random.millis(1, 1_500) } else { env.random.span(Duration::ZERO, env.options.rest) }
            }
            (After::Held(LeaseMode::Exclusive), _) => {
                self.held = before;
                env.random.span(Duration::ZERO, env.options.rest)
            }
            (After::Held(LeaseMode::Shared), _) => {
                self.held = before;
                env.check.ended(me, false, true, &env.storage);
                env.random.span(Duration::ZERO, env.options.rest)
            }
            (After::Lost, _) => {
                self.held = before;
                if let Some(held) = &mut self.held {
                    held.holding.lose();
                }
                env.check.counters.fenced += 1;
                env.random.span(Duration::ZERO, env.options.rest)
            }
            (After::Nothing, Outcome::HandedOver(version)) => {
                env.check.handed_over(me, self.destination, *version, &env.storage);
                env.random.span(Duration::ZERO, env.options.rest)
            }
            (After::Nothing, _) => {
                env.check.ended(me, *outcome == Outcome::Released, false, &env.storage);
                env.random.span(Duration::ZERO, env.options.rest)
            }
        };
        env.signal_after(index, rest, Signal::Act);
    }
}

const fn other(mode: LeaseMode) -> LeaseMode {
    match mode {
        LeaseMode::Exclusive => LeaseMode::Shared,
        LeaseMode::Shared => LeaseMode::Exclusive,
    }
}

/// What a read of the leader and of some blocks showed.
fn view(offsets: &[u64], sectors: &[Sector]) -> AreaView {
    let sector_bytes = Geometry::default().sector_bytes() as u64;
    let decode = |(at, sector): (&u64, &Sector)| {
        let host = HostId::new((at - AREA) / sector_bytes - 1)?;
        let block = seen(sector, |sector| Block::decode(sector, *at));
        (block != Seen::Good(Block::default())).then_some((host, block))
    };
    AreaView {
        leader: seen(&sectors[0], |sector| Leader::decode(sector, AREA)),
        blocks: offsets.iter().zip(sectors).skip(1).filter_map(decode).collect(),
    }
}
