//! What a process does with a resource: it acquires, converts, hands over and releases, as chance has it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::slot::Held;
use super::{Begun, End, Member, Signal, Tag, Wanted};
use crate::format::Geometry;
use crate::protocol::Written;
use crate::protocol::area::AreaView;
use crate::protocol::holding::Holding;
use crate::protocol::resource::{After, Basis, Effect, Event, Operation, Outcome, Refusal, Subject, Wish};
use crate::protocol::rules::in_force;
use crate::sim::env::{Env, NONCE, lockspace};
use crate::sim::storage::{Area, Sector, readable};
use crate::types::{LeaseMode, Owner, Time, Version};

impl Member {
    pub(super) fn subject(&self, env: &Env, area: Area) -> Subject {
        Subject {
            me: self.tenure.me(),
            geometry: Geometry::default(),
            lockspace: lockspace(),
            nonce: NONCE,
            resource: area.name(),
            timeouts: self.timeouts,
            disks: env.options.disks,
        }
    }

    pub(super) fn begin(
        &mut self,
        index: usize,
        env: &mut Env,
        area: Area,
        (operation, effect): (Operation, Effect),
    ) -> Option<End> {
        self.slot(area).operation = Some(operation);
        self.drive(index, env, area, Some(effect))
    }

    pub(super) fn act(&mut self, index: usize, env: &mut Env, area: Area) -> Option<End> {
        let leaving = self.leaving;
        let (now, subject) = (env.local(index), self.subject(env, area));
        let slot = self.slot(area);
        if slot.operation.is_some() || leaving && slot.held.is_none() {
            return None;
        }
        slot.begun += 1;
        slot.expected = None;
        slot.receiving = false;
        slot.settling = None;
        let modes = env.options.modes;
        if let Some(held) = &mut slot.held {
            held.holding.tick(now);
        }
        let wait = env.quiet || env.random.chance(700);
        let converts =
            |held: &Held, env: &mut Env| !env.quiet && !held.holding.is_lost() && env.random.chance(modes.converts);
        let begun = match slot.held.clone() {
            Some(held) => {
                let own = slot.own.clone();
                if let Some(begun) = self.hand_over(env, area, &held, now) {
                    begun
                } else if let Some(own) = own.filter(|_| modes.converts > 0 && !leaving && converts(&held, env)) {
                    let to = other(held.mode);
                    env.trace(|| format!("host {index} converts to {to}, wait {wait}"));
                    if to == LeaseMode::Shared {
                        env.check.of(area).shares(index);
                    }
                    Operation::convert(subject, own, to, wait, now)
                } else {
                    self.give_back(index, env, area)?
                }
            }
            // What it still has of other resources it releases first.
            None if !env.quiet && env.random.chance(env.options.leaves) => {
                self.leaving = true;
                return None;
            }
            None if std::mem::take(&mut slot.rebuilds) => {
                env.trace(|| format!("host {index} rebuilds the leader"));
                Operation::rebuild(subject, slot.own.clone(), None, now)
            }
            None => {
                let wish = wish(env, area, wait);
                slot.receiving = wish.basis == Basis::HandedOver;
                slot.expected = match wish.basis {
                    Basis::Any | Basis::HandedOver => None,
                    Basis::Unchanged(version) | Basis::Forced(version) => Some(version),
                };
                env.trace(|| format!("host {index} acquires: {wish:?}"));
                Operation::acquire(subject, slot.own.clone(), wish, now)
            }
        };
        if wait && !env.quiet && env.random.chance(600) {
            let patience = env.random.span(Duration::ZERO, self.timeouts.dead() * 2);
            let of = self.begun(area);
            env.signal_after(index, patience, Signal::CallOff { of });
        }
        self.begin(index, env, area, begun)
    }

    /// The operation that was begun last on a resource.
    fn begun(&mut self, area: Area) -> Begun {
        Begun { area, number: self.slot(area).begun }
    }

    pub(super) fn step(&mut self, index: usize, env: &mut Env, (of, round): (Begun, u32), event: Event) -> Option<End> {
        if of != self.begun(of.area) {
            return None;
        }
        let effect = self.next(index, env, of.area, round, event);
        self.drive(index, env, of.area, effect)
    }

    /// What the operation under way on a resource does next.
    fn next(&mut self, index: usize, env: &mut Env, area: Area, round: u32, event: Event) -> Option<Effect> {
        let (now, random) = (env.local(index), env.random.next());
        let operation = self.slots.get_mut(&area)?.operation.as_mut()?;
        operation.step(round, event, &mut self.observer, now, random)
    }

    /// Carries out effects until one has to be waited for.
    pub(super) fn drive(&mut self, index: usize, env: &mut Env, area: Area, mut next: Option<Effect>) -> Option<End> {
        while let Some(effect) = next.take() {
            let now = env.local(index);
            if !self.tenure.held(now) {
                return Some(End::Lost);
            }
            let slot = self.slot(area);
            let exposed = slot.operation.as_ref().filter(|operation| operation.is_exposed());
            if let (Some(_), Some(held)) = (exposed, &mut slot.held) {
                held.holding.expose();
            }
            self.cede(index, env, area);
            match effect {
                Effect::Read(round) => self.read(index, env, area, round),
                Effect::WriteBlock(round, block) => {
                    env.check.counters.burns +=
                        u64::from(block.extension.as_ref().is_some_and(|extension| extension.burned.is_some()));
                    env.check.of(area).proposes(self.tenure.me(), &block);
                    env.trace(|| format!("host {index}: {block:?}"));
                    let at = area.block_at(self.tenure.me().host);
                    next = self.write(index, env, (area, round), at, &block.encode(Geometry::default(), at));
                }
                Effect::WriteLeader(round, leader) => {
                    let at = area.offset();
                    next = self.write(index, env, (area, round), at, &leader.encode(at));
                }
                Effect::Scan(round) => {
                    let of = self.begun(area);
                    self.scan(index, env, Some(Wanted::Operation(of, round)));
                }
                Effect::Settle(round) => {
                    if env.storage.writing(index, |_, at| area.has(at)) {
                        self.slot(area).settling = Some(round);
                    } else {
                        next = self.next(index, env, area, round, Event::Settled);
                    }
                }
                Effect::Wait(round, until) => {
                    let of = self.begun(area);
                    env.signal(index, until, Signal::Woke { of, round });
                }
                Effect::Done(outcome) => self.done(index, env, area, &outcome),
            }
        }
        None
    }

    /// Reads the blocks of the ids that the last scan showed in use, or now and then those of all.
    fn read(&mut self, index: usize, env: &mut Env, area: Area, round: u32) {
        let (since, mut hosts) = self.known.clone().unwrap_or((Time::ZERO, BTreeSet::new()));
        if env.random.chance(200) {
            hosts = env.known_ids().collect();
        }
        let offsets = area.offsets(hosts);
        let of = self.begun(area);
        for disk in 0..env.options.disks {
            env.read(index, Tag::Operation { of, round, disk, since }, disk, offsets.clone());
        }
    }

    fn write(
        &mut self,
        index: usize,
        env: &mut Env,
        (area, round): (Area, u32),
        at: u64,
        bytes: &[u8],
    ) -> Option<Effect> {
        let mut next = None;
        let of = self.begun(area);
        for disk in 0..env.options.disks {
            if in_force!(OneWriteInFlight) && env.storage.writing(index, |on, offset| (on, offset) == (disk, at)) {
                let event = Event::Wrote { disk, written: Written::InFlight };
                let now = self.next(index, env, area, round, event);
                next = next.or(now);
            } else {
                let tag = Tag::Operation { of, round, disk, since: Time::ZERO };
                env.write(index, tag, disk, at, bytes.to_vec());
            }
        }
        next
    }

    fn done(&mut self, index: usize, env: &mut Env, area: Area, outcome: &Outcome) {
        let (me, now) = (self.tenure.me(), env.local(index));
        env.trace(|| format!("host {index}: {me} answers {outcome:?}"));
        let subject = self.subject(env, area);
        let slot = self.slots.entry(area).or_default();
        let Some(operation) = slot.operation.take() else { return };
        slot.own = operation.own_block().cloned();
        slot.rebuilds = matches!(outcome, Outcome::Refused(Refusal::LeaderDamaged(_)));
        let before = slot.held.take();
        let check = env.check.of(area);
        let rest = match (operation.leaves(outcome), outcome) {
            (After::Held(mode), Outcome::Held(version)) => {
                if let Some(expected) = slot.expected {
                    check.follows(expected, *version, me);
                }
                let holding = match before {
                    Some(before) => before.holding.converted(&subject, operation.looked(), now),
                    None => Holding::new(&subject, operation.looked(), operation.passed().clone()),
                };
                if slot.receiving {
                    check.received(me);
                }
                let held = Held { mode, version: *version, holding, signalled: Time::MAX };
                slot.held = Some(held.clone());
                let until = self.acts_until(index, env, &held);
                let told = |host| env.machines[index].clock.world(self.observer.acts_until(host, now));
                let taken: BTreeMap<Owner, Time> =
                    operation.overridden().iter().map(|owner| (*owner, told(owner.host))).collect();
                env.check.of(area).held(index, me, (mode, *version), &taken, env.now, until, &env.storage);
                if env.quiet {
                    env.acquired.insert((index, area));
                }
                self.verify_later(index, env, area);
                // Who is to hear of those who ask holds for long enough.
                let often = if env.options.modes.received > 0 { 600 } else { 150 };
                let long = !env.quiet && env.random.chance(often);
                if long { env.random.millis(1, 1_500) } else { env.random.span(Duration::ZERO, env.options.rest) }
            }
            (After::Held(LeaseMode::Exclusive), _) => {
                slot.held = before;
                env.random.span(Duration::ZERO, env.options.rest)
            }
            (After::Held(LeaseMode::Shared), _) => {
                slot.held = before;
                check.ended(me, false, true, &env.storage);
                env.random.span(Duration::ZERO, env.options.rest)
            }
            (After::Lost, _) => {
                slot.held = before;
                if let Some(held) = &mut slot.held {
                    let loss = outcome.why_lost();
                    check.loses(me, held.version, &loss);
                    held.holding.lose(loss, now);
                }
                self.verify_later(index, env, area);
                env.random.span(Duration::ZERO, env.options.rest)
            }
            (After::Nothing, Outcome::HandedOver(version)) => {
                check.handed_over(me, slot.destination, *version, &env.storage);
                env.random.span(Duration::ZERO, env.options.rest)
            }
            (After::Nothing, _) => {
                check.ended(me, *outcome == Outcome::Released, false, &env.storage);
                env.random.span(Duration::ZERO, env.options.rest)
            }
        };
        env.signal_after(index, rest, Signal::Act { area });
    }
}

/// What a process wants of a resource that it does not hold.
fn wish(env: &mut Env, area: Area, wait: bool) -> Wish {
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
    let known = Version::new(env.check.of(area).latest_decided().get().saturating_sub(env.random.below(2)));
    match forced {
        true => Wish { mode: LeaseMode::Exclusive, wait, basis: Basis::Forced(known) },
        false if env.random.chance(modes.unchanged) => Wish { mode, wait, basis: Basis::Unchanged(known) },
        false => Wish { mode, wait, basis: Basis::Any },
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
    let blocks = offsets.iter().zip(sectors).skip(1);
    let blocks = blocks.filter_map(|(at, sector)| Some((Area::at(*at)?.host_at(*at)?, readable(sector))));
    AreaView::decode(readable(&sectors[0]), blocks, offsets[0], Geometry::default(), NONCE)
}
