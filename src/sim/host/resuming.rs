//! A process that goes on with the host id and the lease of the one before it, as the engine does: see
//! [`crate::protocol::resumption`]. Its token was taken after the last acquire.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::procedures::Next;
use super::slot::Held;
use super::{Answer, End, Host, Member, Process, Signal, Tag, view};
use crate::protocol::delta::{Identity, Terms};
use crate::protocol::holding::{Holding, Loss};
use crate::protocol::liveness::Observer;
use crate::protocol::procedure::Event;
use crate::protocol::resource::Operation;
use crate::protocol::resumption::{Refusal, Resume, Standing};
use crate::sim::env::Env;
use crate::sim::storage::Area;
use crate::types::{LeaseMode, Owner, Time, Version};

/// What a process leaves to the next one of its machine.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) me: Owner,
    pub(super) listed: BTreeMap<Area, (LeaseMode, Version)>,
}

impl Host {
    /// The process is killed. Its successor goes on with what it had, if there is anything.
    pub(in crate::sim) fn leaves_token(&mut self) -> bool {
        if let Process::Member(member) = &self.process {
            let held = member.slots.iter().filter_map(|(area, slot)| Some((*area, slot.held.as_ref()?)));
            let held = held.filter(|(_, held)| !held.holding.is_lost());
            let listed = held.map(|(area, held)| (area, (held.mode, held.version))).collect();
            self.token = Some(Token { me: member.tenure.me(), listed });
        }
        self.token.is_some()
    }

    /// Whether this host would take over what that generation has.
    pub(in crate::sim) fn takes_for_gone(&mut self, env: &Env, other: Owner) -> Option<usize> {
        let now = env.local(self.index);
        let Process::Member(member) = &mut self.process else { return None };
        member.observer.judge(other, now).is_gone().then_some(self.index)
    }

    /// Begins to go on with what the token names.
    pub(super) fn resume(&mut self, env: &mut Env, token: Token, identity: Identity, terms: Terms) {
        let index = self.index;
        env.trace(|| format!("host {index} resumes {}", token.me));
        let me = token.me;
        self.process = Process::Resuming(token, Box::new(Resume::new(me, identity, terms)));
        self.go_on_resuming(env, Event::Begun(env.local(index)));
    }

    pub(super) fn resuming(&mut self, env: &mut Env, signal: Signal) {
        if let Some(event) = signal.event_of(Tag::Resume, env.local(self.index)) {
            self.go_on_resuming(env, event);
        }
    }

    fn go_on_resuming(&mut self, env: &mut Env, event: Event) {
        let (index, now) = (self.index, env.local(self.index));
        let Process::Resuming(token, resume) = &mut self.process else { return };
        let token = token.clone();
        let mut observer = Observer::new(env.options.timeouts);
        match env.carry_out((index, Tag::Resume), Time::MAX, &mut **resume, &mut observer, event) {
            Next::Waits | Next::Writes => {}
            Next::Over(Ok(tenure)) => {
                env.trace(|| format!("host {index} goes on with {}", token.me));
                env.resumed = Some(token.me);
                let mut member = Member::new(*tenure, env.options.timeouts, env.timeouts(index));
                member.recall_sightings(index, env);
                // The own block is always read.
                member.known = Some((Time::ZERO, [token.me.host].into()));
                member.renewed(index, env);
                for area in env.areas() {
                    member.slot(area).taking_up = true;
                    member.look_for_lease(index, env, (area, token.listed.get(&area).copied()));
                }
                env.signal(index, now, Signal::Renew);
                env.signal(index, now, Signal::Scan);
                self.process = Process::Member(Box::new(member));
            }
            Next::Over(Err(refusal)) => self.not_resumed(env, token, refusal),
        }
    }

    fn not_resumed(&mut self, env: &mut Env, token: Token, refusal: Refusal) {
        env.trace(|| format!("host {} could not resume {}: {refusal:?}", self.index, token.me));
        // It may still be in time to try again.
        self.token = (refusal == Refusal::Storage).then_some(token);
        self.ended(env, End::Refused);
    }
}

impl Member {
    fn look_for_lease(&self, index: usize, env: &mut Env, (area, listed): (Area, Option<(LeaseMode, Version)>)) {
        let offsets = area.offsets(env.known_ids());
        env.read(index, Tag::TakeUp { area, listed }, 0, offsets);
    }

    /// The resource was read, or could not be.
    pub(super) fn take_up(
        &mut self,
        index: usize,
        env: &mut Env,
        (area, listed): (Area, Option<(LeaseMode, Version)>),
        started: Time,
        answer: Answer,
    ) -> Option<End> {
        let Answer::Read(offsets, sectors) = answer else {
            self.look_for_lease(index, env, (area, listed));
            return None;
        };
        self.slot(area).taking_up = false;
        let me = self.tenure.me();
        let view = view(&offsets, &sectors);
        let Ok((standing, own)) = Standing::of(me, &view, listed) else {
            // The program is told that its lease is gone.
            env.check.of(area).stopped(index);
            env.signal_after(index, Duration::ZERO, Signal::Act { area });
            return None;
        };
        env.trace(|| format!("host {index} finds {standing:?}"));
        self.slot(area).own = Some(own.clone());
        let (now, subject) = (env.local(index), self.subject(env, area));
        let mut holding = Holding::new(&subject, started, view.claimed_by_others(me.host).collect());
        let rest = match standing {
            Standing::Held(mode, version) => {
                let passed = match mode {
                    LeaseMode::Exclusive => view.overridden(me, version, &mut self.observer, now),
                    LeaseMode::Shared => BTreeSet::new(),
                };
                self.goes_on(index, env, area, (mode, version), passed, holding);
                env.random.span(Duration::ZERO, env.options.rest)
            }
            Standing::Upgrading(version) => {
                self.goes_on(index, env, area, (LeaseMode::Shared, version), BTreeSet::new(), holding);
                let (mut operation, effect) = Operation::convert(subject, own, LeaseMode::Exclusive, true, now);
                operation.call_off();
                return self.begin(index, env, area, (operation, effect));
            }
            Standing::Open(version) => return self.begin(index, env, area, Operation::complete(subject, version, now)),
            Standing::Superseded { mode, version, by, owner } => {
                // The program stops within G, then it is given back.
                holding.lose(Loss::Taken { owner, version: by }, now);
                self.slot(area).held = Some(Held { mode, version, holding, signalled: Time::MAX });
                self.verify_later(index, env, area);
                env.check.counters.fenced += 1;
                self.timeouts.fence()
            }
            Standing::Leftover => return self.begin(index, env, area, Operation::release(subject, own, now)),
            Standing::Nothing => Duration::ZERO,
        };
        env.signal_after(index, rest, Signal::Act { area });
        None
    }

    /// `passed`: those it was taken from by force.
    fn goes_on(
        &mut self,
        index: usize,
        env: &mut Env,
        area: Area,
        (mode, version): (LeaseMode, Version),
        passed: BTreeSet<Owner>,
        holding: Holding,
    ) {
        let held = Held { mode, version, holding, signalled: Time::MAX };
        let until = self.acts_until(index, env, &held);
        let now = env.local(index);
        let bound = |owner: &Owner| env.machines[index].clock.world(self.observer.acts_until(owner.host, now));
        let told = passed.iter().map(|owner| (*owner, bound(owner))).collect();
        env.check.of(area).took_up(index, self.tenure.me(), (mode, version), &told, env.now, until, &env.storage);
        self.slot(area).held = Some(held);
        self.verify_later(index, env, area);
    }
}
