//! What a process does with the resource: it acquires, converts, hands over and releases, as chance has it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{End, Held, Member, Signal, Tag, Wanted};
use crate::format::Geometry;
use crate::protocol::Written;
use crate::protocol::area::AreaView;
use crate::protocol::holding::{Holding, Loss};
use crate::protocol::resource::{After, Basis, Effect, Event, Operation, Outcome, Refusal, Subject, Wish};
use crate::protocol::rules::in_force;
use crate::sim::env::{self, Env, NONCE, lockspace};
use crate::sim::storage::{AREA, Sector, block_at, readable};
use crate::types::{HostId, LeaseMode, Owner, Time, Version};

impl Member {
    pub(super) fn subject(&self, env: &Env) -> Subject {
        Subject {
            me: self.tenure.me(),
            geometry: Geometry::default(),
            lockspace: lockspace(),
            nonce: NONCE,
            resource: env::resource(),
            timeouts: self.timeouts,
            disks: env.options.disks,
        }
    }

    pub(super) fn begin(
        &mut self,
        index: usize,
        env: &mut Env,
        (operation, effect): (Operation, Effect),
    ) -> Option<End> {
        self.operation = Some(operation);
        self.drive(index, env, Some(effect))
    }

    pub(super) fn act(&mut self, index: usize, env: &mut Env) -> Option<End> {
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
        let begun = match &self.held {
            Some(held) => {
                let held = held.clone();
                if let Some(begun) = self.hand_over(env, &held, now) {
                    begun
                } else if let Some(own) = self.own.clone().filter(|_| modes.converts > 0 && converts(&held, env)) {
                    let to = other(held.mode);
                    env.trace(|| format!("host {index} converts to {to}, wait {wait}"));
                    if to == LeaseMode::Shared {
                        env.check.shares(index);
                    }
                    Operation::convert(subject, own, to, wait, now)
                } else {
                    self.give_back(index, env)?
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

    pub(super) fn wish(&self, env: &mut Env, wait: bool) -> Wish {
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

    pub(super) fn step(&mut self, index: usize, env: &mut Env, round: u32, event: Event) -> Option<End> {
        let (now, random) = (env.local(index), env.random.next());
        let effect = self.operation.as_mut()?.step(round, event, &mut self.observer, now, random);
        self.drive(index, env, effect)
    }

    /// Carries out effects until one has to be waited for.
    pub(super) fn drive(&mut self, index: usize, env: &mut Env, mut next: Option<Effect>) -> Option<End> {
        while let Some(effect) = next.take() {
            let now = env.local(index);
            if !self.tenure.held(now) {
                return Some(End::Lost);
            }
            let exposed = self.operation.as_ref().filter(|operation| operation.is_exposed());
            if let (Some(_), Some(held)) = (exposed, &mut self.held) {
                held.holding.expose();
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
                Effect::Scan(round) => self.scan(index, env, Some(Wanted::Operation(self.operations, round))),
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
    pub(super) fn read(&self, index: usize, env: &mut Env, round: u32) {
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

    pub(super) fn write(&mut self, index: usize, env: &mut Env, round: u32, at: u64, bytes: &[u8]) -> Option<Effect> {
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

    pub(super) fn done(&mut self, index: usize, env: &mut Env, outcome: &Outcome) {
        let (me, now) = (self.tenure.me(), env.local(index));
        env.trace(|| format!("host {index}: {me} answers {outcome:?}"));
        let Some(operation) = self.operation.take() else { return };
        self.own = operation.own_block().cloned();
        self.rebuilds = matches!(outcome, Outcome::Refused(Refusal::LeaderDamaged(_)));
        let before = self.held.take();
        let rest = match (operation.leaves(outcome), outcome) {
            (After::Held(mode), Outcome::Held(version)) => {
                if let Some(expected) = self.expected {
                    env.check.follows(expected, *version, me);
                }
                let subject = self.subject(env);
                let holding = match before {
                    Some(before) => before.holding.converted(&subject, operation.looked(), now),
                    None => Holding::new(&subject, operation.looked(), operation.overridden().clone()),
                };
                if self.receiving {
                    env.check.received(me);
                }
                let held = Held { mode, version: *version, holding, signalled: Time::MAX };
                let until = self.acts_until(index, env, &held);
                let told = |host| env.machines[index].clock.world(self.observer.acts_until(host, now));
                let taken: BTreeMap<Owner, Time> =
                    operation.overridden().iter().map(|owner| (*owner, told(owner.host))).collect();
                env.check.held(index, me, (mode, *version), &taken, env.now, until, &env.storage);
                self.held = Some(held);
                if env.quiet {
                    env.acquired.insert(index);
                }
                self.verify_later(index, env);
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
                    held.holding.lose(why(outcome), now);
                }
                self.verify_later(index, env);
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

/// Why what was held is lost.
fn why(outcome: &Outcome) -> Loss {
    match outcome {
        Outcome::Refused(Refusal::Overtaken { owner, version }) => Loss::Taken { owner: *owner, version: *version },
        Outcome::Refused(Refusal::NotHeld(loss)) => loss.clone(),
        _ => Loss::Unverified,
    }
}

const fn other(mode: LeaseMode) -> LeaseMode {
    match mode {
        LeaseMode::Exclusive => LeaseMode::Shared,
        LeaseMode::Shared => LeaseMode::Exclusive,
    }
}

/// What a read of the leader and of some blocks showed.
pub(super) fn view(offsets: &[u64], sectors: &[Sector]) -> AreaView {
    let geometry = Geometry::default();
    let host = |at: u64| HostId::new((at - AREA) / geometry.sector_bytes() as u64 - 1);
    let blocks = offsets.iter().zip(sectors).skip(1);
    let blocks = blocks.filter_map(|(at, sector)| Some((host(*at)?, readable(sector))));
    AreaView::decode(readable(&sectors[0]), blocks, AREA, geometry, NONCE)
}
