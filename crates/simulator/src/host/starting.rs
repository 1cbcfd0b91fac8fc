//! A process begins: it joins, goes on with what the one before it had, or formats the device.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use leasehold::format::Geometry;
use leasehold::protocol::area::AreaView;
use leasehold::protocol::catalog::format::{self, Format};
use leasehold::protocol::declare::declared_by;
use leasehold::protocol::delta::{Acquire, Bid, Refusal, Tenure};
use leasehold::protocol::holding::Loss;
use leasehold::protocol::liveness::Observer;
use leasehold::protocol::member::{Coverage, Member as Machine, Order};
use leasehold::protocol::procedure::{Effect, Event, Procedure, Window};
use leasehold::protocol::resumption::{self, Resume, Standing};
use leasehold::protocol::rules::Rule;
use leasehold::protocol::{Span, Written};
use leasehold::{HostId, LeaseMode, Owner, Time, Version};

use super::carrying::{joined, offsets};
use super::program::Program;
use super::{Answer, Completion, End, Host, Member, Process, Signal, Starts, Tag, terms};
use crate::Kind;
use crate::env::Env;
use crate::storage::{Area, SECTOR, delta_at, readable};

/// A procedure that gets a host id, or formats the device.
pub(super) struct Starting {
    way: Way,
    observer: Observer,
}

pub(super) enum Way {
    Join(HostId, Box<Acquire>),
    Resume(Token, Box<Resume>),
    /// The format, and the sizes that it is to.
    Format(Box<Format>, Geometry),
}

impl Way {
    /// Bytes of the sectors that the procedure reads.
    const fn sector_bytes(&self) -> u64 {
        match self {
            Way::Join(..) | Way::Resume(..) => SECTOR,
            Way::Format(_, geometry) => geometry.sector_bytes() as u64,
        }
    }
}

/// What a process leaves to the next one of its machine.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) me: Owner,
    pub(super) listed: BTreeMap<Area, (LeaseMode, Version)>,
}

enum Got {
    Tenure(Box<Tenure>),
    NotJoined(Refusal),
    NotResumed(resumption::Refusal),
    Formatted(Result<(), format::Refusal>),
}

impl Host {
    pub(super) fn start(&mut self, env: &mut Env) {
        let index = self.index;
        if let Some(host) = env.sanlock_id(index) {
            self.start_sanlock(env, host);
        } else if env.storage.writing(index, |_, _| true) && Rule::LocalLock.is_in_force() {
            env.signal_after(index, Duration::from_millis(10), Signal::Start);
        } else if env.options.faults.formats > 0 {
            self.open(env);
        } else {
            self.begin(env);
        }
    }

    /// Joins the lockspace that there is, or goes on in it.
    pub(super) fn begin(&mut self, env: &mut Env) {
        let index = self.index;
        let another = env.kind(index) == Kind::Process && env.random.chance(300);
        let picked = match self.id.filter(|_| !another) {
            Some(id) => Some(id),
            // Any write of a format may land on its record.
            None if index == env.options.hosts && env.options.faults.formats == 0 => HostId::new(env.ids()),
            // A record of a later generation, late or not, is the death of the one before it to a sanlock host. So each
            // machine has an id of its own there.
            None if env.sanlock_hosts() > 0 => HostId::new(index as u64 + 1),
            None if env.options.new_ids => env.unused_id(),
            // Few enough that hosts meet.
            None => HostId::new(1 + env.random.below(env.ids() - 1)),
        };
        let token = self.token.take();
        let Some(id) = token.as_ref().map(|token| token.me.host).or(picked) else { return };
        if !env.lock(index, id) {
            env.trace(|| format!("host {index} finds {id} locked"));
            self.id = None;
            let rest = env.random.millis(1, 100);
            env.signal_after(index, rest, Signal::Start);
            return;
        }
        let identity = env.identity(index);
        let terms = terms(env.timeouts(index), self.nonce);
        let way = match token {
            Some(token) => {
                env.trace(|| format!("host {index} resumes {}", token.me));
                let resume = Resume::new(token.me, identity, terms);
                Way::Resume(token, Box::new(resume))
            }
            None => {
                env.trace(|| format!("host {index} joins as {id}"));
                let bid = Bid::new(id, env.options.timeouts.dead().max(env.options.slower.dead()));
                let vouches = env.may_vouch(index, id);
                let bid = if vouches { bid.vouched() } else { bid };
                let word = env.storage.delta(delta_at(id)).good().and_then(declared_by);
                env.check.counters.vouched += u64::from(vouches && word.is_some());
                let alike = env.options.faults.alike;
                let alike = alike > 0 && env.random.chance(alike);
                // The low bits say how much a join passes over.
                let random = if alike { env.random.next() << 10 } else { env.random.next() };
                let acquire = Acquire::new(bid, identity, terms, random).by_boot_time();
                Way::Join(id, Box::new(acquire))
            }
        };
        self.starts(env, way);
    }

    pub(super) fn starts(&mut self, env: &mut Env, way: Way) {
        let observer = Observer::new(env.options.timeouts);
        self.process = Process::Starting(Box::new(Starting { way, observer }));
        let begun = Event::Begun(env.local(self.index));
        self.procedure(env, begun);
    }

    pub(super) fn starting(&mut self, env: &mut Env, signal: Signal) {
        let now = env.local(self.index);
        let event = match signal {
            Signal::Woke => Event::Woke(now),
            Signal::Io(Completion { answer: Answer::Wrote(Written::InFlight), .. })
                if !Rule::JoinWriteIsPrompt.is_in_force() =>
            {
                return;
            }
            Signal::Io(Completion { tag: Tag::Starting(_), started, late, answer })
                if !late || !Rule::JoinWriteIsPrompt.is_in_force() =>
            {
                let span = Span { started, ended: now };
                let Process::Starting(starting) = &self.process else { return };
                match answer {
                    Answer::Read(_, sectors) => match joined(&sectors, starting.way.sector_bytes()) {
                        sectors if sectors.all_unreadable() => Event::ReadFailed,
                        sectors => Event::Read(span, sectors),
                    },
                    Answer::Failed => Event::ReadFailed,
                    Answer::Wrote(written) => Event::Wrote(span, written),
                    Answer::TooLate => Event::TooLate(now),
                }
            }
            _ => return,
        };
        self.procedure(env, event);
    }

    /// Tells the procedure what happened, and carries out what it wants done.
    fn procedure(&mut self, env: &mut Env, mut event: Event) {
        let index = self.index;
        loop {
            let Process::Starting(starting) = &mut self.process else { return };
            let effect = match &mut starting.way {
                Way::Join(_, acquire) => acquire.step(event, &mut starting.observer).map(|end| match end {
                    Ok(tenure) => Got::Tenure(tenure),
                    Err(refusal) => Got::NotJoined(refusal),
                }),
                Way::Resume(_, resume) => resume.step(event, &mut starting.observer).map(|end| match end {
                    Ok(tenure) => Got::Tenure(tenure),
                    Err(refusal) => Got::NotResumed(refusal),
                }),
                Way::Format(format, _) => format.step(event, &mut starting.observer).map(Got::Formatted),
            };
            match effect {
                Effect::Read { extents, timeout } => {
                    let offsets = offsets(&extents, starting.way.sector_bytes());
                    return env.read(index, Tag::Starting(Starts::Reads), 0, offsets, Some(timeout));
                }
                Effect::Write(write) if env.is_writing(index, &write) => {
                    let now = env.local(index);
                    event = Event::Wrote(Span { started: now, ended: now }, Written::InFlight);
                }
                Effect::Write(write) => {
                    let starts = match &starting.way {
                        Way::Join(id, _) => {
                            self.id = Some(*id);
                            Starts::Joins
                        }
                        Way::Resume(..) => Starts::Resumes,
                        Way::Format(..) => Starts::Formats,
                    };
                    let Window { before, timeout } = write.window;
                    let what = (write.offset, &write.bytes[..]);
                    return env.write(index, Tag::Starting(starts), 0, what, before, Some(timeout));
                }
                Effect::Wait(until) => return env.signal(index, until, Signal::Woke),
                Effect::Done(got) => return self.got(env, got),
            }
        }
    }

    fn got(&mut self, env: &mut Env, got: Got) {
        let index = self.index;
        let Process::Starting(starting) = std::mem::replace(&mut self.process, Process::None) else { return };
        match (starting.way, got) {
            (Way::Join(..), Got::Tenure(tenure)) => {
                let me = tenure.me();
                env.trace(|| format!("host {index} holds {me}"));
                self.latest = Some(me);
                let until = env.machines[index].clock.world(tenure.deadline());
                env.check.joined(index, (me, self.nonce), env.now, until);
                let mut member = Member::new(index, env, self.nonce, *tenure);
                member.passes(index, env);
                for area in env.areas() {
                    let rest =
                        if env.quiet { Duration::ZERO } else { env.random.span(Duration::ZERO, env.options.rest) };
                    env.signal_after(index, rest, Signal::Act { area });
                }
                self.process = Process::Member(Box::new(member));
            }
            (Way::Resume(token, _), Got::Tenure(tenure)) => {
                env.trace(|| format!("host {index} goes on with {}", token.me));
                env.resumed = Some(token.me);
                let mut member = Member::new(index, env, self.nonce, *tenure);
                env.check.renewed(index, env.machines[index].clock.world(member.machine.tenure().deadline()));
                member.passes(index, env);
                for area in env.areas() {
                    member.look_for_lease(index, env, (area, token.listed.get(&area).copied()));
                }
                self.process = Process::Member(Box::new(member));
            }
            (Way::Join(id, _), Got::NotJoined(refusal)) => {
                env.trace(|| format!("host {index} could not join as {id}: {refusal:?}"));
                env.check.counters.refusals += 1;
                if refusal != Refusal::Storage {
                    // The one that is alone at the end has time to try each id once.
                    let tries_all = index == env.options.hosts && env.options.faults.formats > 0;
                    self.id = HostId::new(id.get() % (env.ids() - 1) + 1).filter(|_| tries_all);
                }
                self.ended(env, End::Refused);
            }
            (Way::Resume(token, _), Got::NotResumed(refusal)) => {
                env.trace(|| format!("host {index} could not resume {}: {refusal:?}", token.me));
                // It may still be in time to try again.
                self.token = (refusal == resumption::Refusal::Storage).then_some(token);
                self.ended(env, End::Refused);
            }
            (Way::Format(..), Got::Formatted(end)) => {
                env.trace(|| format!("host {index} has formatted: {end:?}"));
                env.check.counters.formats += u64::from(end.is_ok());
                env.check.counters.not_formatted += u64::from(end.is_err());
                self.ended(env, End::Refused);
            }
            (_, Got::Formatted(_) | Got::NotResumed(_) | Got::NotJoined(_) | Got::Tenure(_)) => {}
        }
    }

    /// The process is killed. Its successor goes on with what it had, if there is anything.
    pub(crate) fn leaves_token(&mut self) -> bool {
        if let Process::Member(member) = &self.process {
            self.token = Some(Token { me: member.machine.me(), listed: member.program.listed() });
        }
        self.token.is_some()
    }
}

impl Member {
    fn new(index: usize, env: &Env, nonce: u32, tenure: Tenure) -> Member {
        let (terms, now) = (terms(env.timeouts(index), nonce), env.local(index));
        let nothing = (Observer::new(env.options.timeouts), Coverage { highest: 0, since: None });
        let all = (env.highest_id(), env.options.disks);
        let listens = env.options.modes.received + env.options.messages > 0;
        let deadline = tenure.deadline();
        let machine = Machine::new(terms, tenure, all, listens, env.options.scan, nothing, now);
        let mut member =
            Member { machine, program: Program::default(), deadline, ticks: None, kept: None, ended: None };
        member.recall_sightings(index, env);
        member
    }

    fn look_for_lease(&mut self, index: usize, env: &mut Env, (area, listed): (Area, Option<(LeaseMode, Version)>)) {
        self.program.seeks(area, true);
        let timeout = self.machine.terms().timeouts.io();
        let offsets = area.offsets(env.known_ids());
        env.read(index, Tag::TakeUp { area, listed }, 0, offsets, Some(timeout));
    }

    /// The resource was read, or could not be.
    pub(super) fn take_up(
        &mut self,
        index: usize,
        env: &mut Env,
        (area, listed): (Area, Option<(LeaseMode, Version)>),
        started: Time,
        answer: Answer,
    ) {
        let Answer::Read(offsets, sectors) = answer else {
            return self.look_for_lease(index, env, (area, listed));
        };
        self.program.seeks(area, false);
        let me = self.machine.me();
        let blocks = offsets.iter().zip(&sectors).skip(1);
        let blocks = blocks.filter_map(|(at, sector)| Some((area.host_at(*at)?, readable(sector))));
        let view = AreaView::decode(
            readable(&sectors[0]),
            blocks,
            area.offset(),
            Geometry::default(),
            self.machine.terms().nonce,
        );
        let Ok((standing, own)) = Standing::of(me, &view, listed, self.machine.observer()) else {
            // The program is told that its lease is gone.
            env.check.of(area).stopped(index);
            return env.signal_after(index, Duration::ZERO, Signal::Act { area });
        };
        env.trace(|| format!("host {index} finds {standing:?}"));
        let (now, resource) = (env.local(index), area.resource());
        let claims: BTreeSet<(Owner, Version)> = view.claimed_by_others(me.host).collect();
        let rest = match standing {
            Standing::Held(mode, version) => {
                let passed = match mode {
                    LeaseMode::Exclusive => view.overridden(me, version, self.machine.observer(), now),
                    LeaseMode::Shared => BTreeSet::new(),
                };
                self.machine.adopt(&resource, (mode, version), own, started, claims);
                self.goes_on(index, env, area, (mode, version), &passed);
                env.random.span(Duration::ZERO, env.options.rest)
            }
            Standing::Upgrading(version) => {
                self.machine.adopt(&resource, (LeaseMode::Shared, version), own, started, claims);
                self.goes_on(index, env, area, (LeaseMode::Shared, version), &BTreeSet::new());
                let order = Order::Convert { to: LeaseMode::Exclusive, held: version, deadline: Some(now) };
                return self.order(index, env, area, order);
            }
            Standing::Open(version) => return self.order(index, env, area, Order::Complete(version)),
            Standing::Superseded { mode, version, by, owner } => {
                self.machine.adopt(&resource, (mode, version), own, started, claims);
                self.stops(env, area, (mode, version), Loss::Taken { owner, version: by })
            }
            Standing::Unverified(mode, version) => {
                self.machine.adopt(&resource, (mode, version), own, started, claims);
                self.stops(env, area, (mode, version), Loss::Unverified)
            }
            Standing::Leftover => {
                let version = own.instance;
                self.machine.adopt(&resource, (LeaseMode::Exclusive, version), own, started, claims);
                let order = Order::Release { held: version, timeout: env.options.timeouts.fail(), settled: false };
                return self.order(index, env, area, order);
            }
            Standing::Nothing => Duration::ZERO,
        };
        self.passes(index, env);
        env.signal_after(index, rest, Signal::Act { area });
    }

    /// The program stops within G, then the lease is given back.
    fn stops(&mut self, env: &mut Env, area: Area, (mode, version): (LeaseMode, Version), loss: Loss) -> Duration {
        env.check.of(area).loses(self.machine.me(), version, &loss);
        self.machine.lose_lease((area.offset(), version), loss);
        self.program.holds(area, (mode, version));
        self.program.loses(area);
        self.machine.terms().timeouts.fence()
    }

    /// `passed`: those it was taken from by force.
    fn goes_on(
        &mut self,
        index: usize,
        env: &mut Env,
        area: Area,
        (mode, version): (LeaseMode, Version),
        passed: &BTreeSet<Owner>,
    ) {
        let until = self.acts_until(index, env, (area.offset(), version));
        let now = env.local(index);
        let observer = self.machine.observer();
        let bound = |owner: &Owner| env.machines[index].clock.world(observer.acts_until(owner.host, now));
        let told = passed.iter().map(|owner| (*owner, bound(owner))).collect();
        let me = self.machine.me();
        env.check.acts(index);
        env.check.of(area).took_up(index, me, (mode, version), &told, env.now, until, &env.storage);
        self.program.holds(area, (mode, version));
        self.program.extends(area, until);
    }
}
