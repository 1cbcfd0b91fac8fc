//! What a program does with its membership: it acquires, converts, hands over and releases, declares others dead, and
//! leaves, as chance has it.

use std::collections::BTreeMap;
use std::time::Duration;

use leasehold::protocol::catalog::index::Index;
use leasehold::protocol::member::{Command, CommandId, Event, Order};
use leasehold::protocol::resource::{Basis, Wish};
use leasehold::{Generation, HostId, LeaseMode, Name, Owner, Resource, Time, Version};

use super::messages::Message;
use super::{Member, Signal};
use crate::env::Env;
use crate::storage::{Area, delta_at};

/// What a program knows.
#[derive(Default)]
pub(super) struct Program {
    uses: BTreeMap<Area, Use>,
    commands: BTreeMap<CommandId, Asked>,
    count: u64,
    pub(super) leaving: bool,
    /// What is to be made, as soon as the guard of the index is held.
    makes: Option<Name>,
    /// The index as it was read then.
    index: Option<Box<Index>>,
    /// The host id was given back.
    pub(super) let_go: bool,
}

/// What a command was for.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Operation(Area, Order),
    Declaration,
    Creation,
    Message(Area, Message),
    Close,
    Finish,
}

/// What a program does with one resource.
#[derive(Default)]
struct Use {
    /// What was found there when it was ordered.
    resource: Option<Resource>,
    held: Option<Held>,
    /// An order is under way.
    busy: bool,
    /// When the last order was given, in the world's time.
    ordered: Time,
    /// What the process before had of it is being looked for.
    sought: bool,
    /// The leader was found damaged.
    rebuilds: bool,
    /// Who asked for what is held.
    asked: Option<Owner>,
    /// Another host asked to be let have it.
    yields: bool,
}

#[derive(Clone, Copy)]
struct Held {
    mode: LeaseMode,
    version: Version,
    lost: bool,
    /// Until when it may be acted on, as the checker knows it.
    until: Option<Time>,
    /// When the last look began that has shown it.
    looked: Option<Time>,
}

impl Program {
    fn of(&mut self, area: Area) -> &mut Use {
        self.uses.entry(area).or_default()
    }

    /// What is held, or was lost and not given back.
    pub(super) fn held(&self) -> Vec<(Area, Version)> {
        self.uses.iter().filter_map(|(area, it)| Some((*area, it.held?.version))).collect()
    }

    /// Whether it has, or is after, what stands in the area.
    pub(super) fn uses(&self, area: Area) -> bool {
        self.uses.get(&area).is_some_and(|it| it.busy || it.held.is_some())
    }

    /// What was ordered there last.
    pub(super) fn resource_at(&self, area: Area) -> Option<Resource> {
        self.uses.get(&area)?.resource
    }

    /// The guard is held: the index is read.
    pub(super) fn reads(&mut self, index: Index) {
        self.index = Some(Box::new(index));
    }

    pub(super) fn held_at(&self, area: Area) -> Option<(LeaseMode, Version)> {
        self.uses.get(&area)?.held.map(|held| (held.mode, held.version))
    }

    /// When the last order for a resource was given, in the world's time.
    pub(super) fn ordered_at(&self, area: Area) -> Option<Time> {
        self.uses.get(&area).map(|it| it.ordered)
    }

    /// What a token lists.
    pub(super) fn listed(&self) -> BTreeMap<Area, (LeaseMode, Version)> {
        let held = self.uses.iter().filter_map(|(area, it)| Some((*area, it.held.filter(|held| !held.lost)?)));
        held.map(|(area, held)| (area, (held.mode, held.version))).collect()
    }

    pub(super) fn holds(&mut self, area: Area, (mode, version): (LeaseMode, Version)) {
        self.of(area).held = Some(Held { mode, version, lost: false, until: None, looked: None });
    }

    pub(super) fn holds_nothing(&mut self, area: Area) {
        self.of(area).held = None;
    }

    /// It may be acted on until then; whether that is news.
    pub(super) fn extends(&mut self, area: Area, until: Time) -> bool {
        let held = self.of(area).held.as_mut();
        held.is_some_and(|held| !held.lost && held.until.replace(until) != Some(until))
    }

    /// A look that began then has shown it; whether that is another one than before.
    pub(super) fn sees(&mut self, area: Area, began: Time) -> bool {
        let held = self.of(area).held.as_mut();
        held.is_some_and(|held| held.looked.replace(began).is_some_and(|before| before != began))
    }

    /// It is lost; whether that is news.
    pub(super) fn loses(&mut self, area: Area) -> bool {
        self.of(area).held.as_mut().is_some_and(|held| !std::mem::replace(&mut held.lost, true))
    }

    /// It is another's; whether it was held.
    pub(super) fn cedes(&mut self, area: Area) -> bool {
        self.of(area).held.take().is_some()
    }

    pub(super) fn seeks(&mut self, area: Area, sought: bool) {
        self.of(area).sought = sought;
    }

    fn named(&mut self, resource: Name) -> Option<&mut Use> {
        self.uses.values_mut().find(|it| it.resource.is_some_and(|it| it.name() == resource))
    }

    pub(super) fn is_asked(&mut self, resource: Name, from: Owner) {
        if let Some(it) = self.named(resource) {
            it.asked = Some(from);
        }
    }

    pub(super) fn yields(&mut self, resource: Name) {
        if let Some(it) = self.named(resource) {
            it.yields = true;
        }
    }

    /// What is done with the resource has begun, and nothing else is until it is over.
    pub(super) fn begins(&mut self, area: Area) {
        self.of(area).busy = true;
    }

    pub(super) fn is_over(&mut self, area: Area) {
        self.of(area).busy = false;
    }

    /// What is held alone and was not lost.
    pub(super) fn owned_at(&self, area: Area) -> Option<Version> {
        let held = self.uses.get(&area)?.held.filter(|held| !held.lost && held.mode == LeaseMode::Exclusive)?;
        Some(held.version)
    }

    pub(super) fn finds_leader_damaged(&mut self, area: Area, damaged: bool) {
        self.of(area).rebuilds = damaged;
    }

    pub(super) fn answered(&mut self, command: CommandId) -> Option<Asked> {
        let asked = self.commands.remove(&command);
        match &asked {
            Some(Asked::Operation(area, _) | Asked::Message(area, _)) => self.is_over(*area),
            Some(Asked::Creation) => self.is_over(Area::GUARD),
            _ => {}
        }
        asked
    }

    fn is_idle(&self) -> bool {
        self.commands.is_empty() && self.uses.values().all(|it| it.held.is_none() && !it.sought)
    }
}

impl Member {
    pub(super) fn order(&mut self, index: usize, env: &mut Env, area: Area, order: Order) {
        let it = self.program.of(area);
        (it.busy, it.ordered) = (true, env.now);
        env.check.of(area).ordered(index, env.now);
        let resource = *it.resource.get_or_insert(area.resource());
        self.ask(index, env, Asked::Operation(area, order.clone()), Command::Operate(resource, order));
    }

    pub(super) fn ask(&mut self, index: usize, env: &mut Env, asked: Asked, command: Command) {
        self.program.count += 1;
        let id = CommandId(self.program.count);
        self.program.commands.insert(id, asked);
        self.step(index, env, Event::Command(id, command));
    }

    pub(super) fn act(&mut self, index: usize, env: &mut Env, area: Area) {
        let (now, leaving) = (env.local(index), self.program.leaving);
        if self.program.of(area).busy {
            return;
        }
        if area == Area::GUARD {
            return self.make(index, env);
        }
        if self.has_message(index, env, area) {
            return;
        }
        let timeouts = self.machine.terms().timeouts;
        let modes = env.options.modes;
        let wait = env.quiet || env.random.chance(700);
        let deadline = match wait {
            true if !env.quiet && env.random.chance(600) => {
                Some(now + env.random.span(Duration::ZERO, timeouts.dead() * 2))
            }
            true => Some(now + Duration::from_secs(3_600)),
            false => None,
        };
        let release = |held| Order::Release { held, timeout: timeouts.fail(), settled: false };
        let (held, rebuilds) = (self.program.of(area).held, self.program.of(area).rebuilds);
        let order = match held {
            Some(held) => {
                let yields = std::mem::take(&mut self.program.of(area).yields);
                if let Some(to) = self.hands_over(env, area, &held) {
                    Order::HandOver { held: held.version, to, deadline }
                } else if !env.quiet
                    && !held.lost
                    && !leaving
                    && !yields
                    && modes.converts > 0
                    && env.random.chance(modes.converts)
                {
                    let to = other(held.mode);
                    env.trace(|| format!("host {index} converts to {to}, wait {wait}"));
                    if to == LeaseMode::Shared {
                        env.check.of(area).shares(index);
                    }
                    Order::Convert { to, held: held.version, deadline }
                } else {
                    env.trace(|| format!("host {index} releases"));
                    env.check.of(area).releases(index);
                    self.program.holds_nothing(area);
                    release(held.version)
                }
            }
            None if leaving => return self.leave_if_idle(index, env),
            None if !env.quiet && env.random.chance(env.options.leaves) => {
                // What it still has of other resources it releases first.
                self.program.leaving = true;
                return self.leave_if_idle(index, env);
            }
            None if !self.finds(env, area) || self.makes_another(env) => {
                self.begin_making(index, env);
                let rest = env.random.span(Duration::ZERO, env.options.rest * 2);
                return self.act_later(index, env, area, rest);
            }
            None if rebuilds => {
                env.trace(|| format!("host {index} rebuilds the leader"));
                Order::Rebuild(None)
            }
            None => {
                let wish = wish(env, area, wait);
                env.trace(|| format!("host {index} acquires: {wish:?}"));
                Order::Acquire(wish, deadline)
            }
        };
        self.order(index, env, area, order);
    }

    /// Whether there is a resource in the area.
    fn finds(&mut self, env: &Env, area: Area) -> bool {
        let found = env.resource_in(area);
        self.program.of(area).resource = found;
        found.is_some()
    }

    fn makes_another(&self, env: &mut Env) -> bool {
        env.has_index() && !env.quiet && env.random.chance(env.options.makes)
    }

    /// Acquires the guard of the index, unless it is on its way already.
    fn begin_making(&mut self, index: usize, env: &mut Env) {
        let guard = self.program.of(Area::GUARD);
        if env.quiet || guard.busy || guard.held.is_some() {
            return;
        }
        let name = env.any_name();
        env.trace(|| format!("host {index} makes {name}"));
        self.program.makes = Some(name);
        let deadline = env.local(index) + self.machine.terms().timeouts.dead();
        self.order(index, env, Area::GUARD, Order::Acquire(Wish::exclusive(true), Some(deadline)));
    }

    /// The guard is held, if anything: what is to be made is made, then it is given back.
    fn make(&mut self, index: usize, env: &mut Env) {
        let Some(held) = self.program.of(Area::GUARD).held else {
            if self.program.leaving {
                self.leave_if_idle(index, env);
            }
            return;
        };
        if let (Some(name), Some(read), false) = (self.program.makes.take(), self.program.index.take(), held.lost) {
            self.program.begins(Area::GUARD);
            let (guard, device_bytes) = ((Area::GUARD.resource(), held.version), env.device_bytes());
            let command = Command::Create { name, guard, index: *read, device_bytes };
            return self.ask(index, env, Asked::Creation, command);
        }
        env.check.of(Area::GUARD).releases(index);
        self.program.holds_nothing(Area::GUARD);
        let timeout = self.machine.terms().timeouts.fail();
        self.order(index, env, Area::GUARD, Order::Release { held: held.version, timeout, settled: true });
    }

    /// To whom what is held is handed over: who asks for it, or now and then somebody who may not.
    fn hands_over(&mut self, env: &mut Env, area: Area, held: &Held) -> Option<Owner> {
        let modes = env.options.modes;
        if env.quiet || modes.received == 0 || held.lost || self.program.leaving {
            return None;
        }
        let to = match self.program.of(area).asked.take() {
            Some(to) => Some(to).filter(|_| env.random.chance(700)),
            None if env.random.chance(50) => self.somebody(env),
            None => None,
        }?;
        env.trace(|| format!("{} hands version {} over to {to}", self.machine.me(), held.version));
        Some(to)
    }

    pub(super) fn somebody(&mut self, env: &mut Env) -> Option<Owner> {
        let host = HostId::new(1 + env.random.below(env.ids())).filter(|host| *host != self.machine.me().host)?;
        let record = self.machine.observer().record(host)?.good()?;
        Some(Owner { host, generation: Generation::new(record.generation)? })
    }

    /// Declares a machine dead of which it is true that it was without power, now and then; or mends its record where
    /// that is damaged.
    pub(super) fn declare(&mut self, index: usize, env: &mut Env) {
        let declares = env.options.faults.declares;
        let declaring = self.program.commands.values().any(|asked| matches!(asked, Asked::Declaration));
        if declares == 0 || declaring || env.fenced.is_empty() || !env.random.chance(declares) {
            return;
        }
        let damaged: Vec<Owner> = env.known_ids().filter_map(|id| env.fenced_and_damaged(id)).collect();
        let me = self.machine.me().host;
        if let Some(target) = damaged.into_iter().find(|target| target.host != me) {
            env.trace(|| format!("host {index} mends the record of {target}"));
            let deadline = env.local(index) + self.machine.terms().timeouts.dead();
            let shown = target.generation.get();
            let command = Command::Mend { host: target.host, shown, fenced: true, deadline };
            return self.ask(index, env, Asked::Declaration, command);
        }
        // Those of long ago have come back, or have been declared dead.
        let recent = env.fenced.len().saturating_sub(4);
        let fenced = env.fenced[recent + env.random.below((env.fenced.len() - recent) as u64) as usize];
        let target = fenced.owner;
        if target.host == me || env.is_of_another(fenced) {
            return;
        }
        env.trace(|| format!("host {index} declares {target} dead"));
        self.ask(index, env, Asked::Declaration, Command::Declare(target));
    }

    pub(super) fn leave_if_idle(&mut self, index: usize, env: &mut Env) {
        if self.program.is_idle() {
            self.ask(index, env, Asked::Close, Command::Close { but: None });
        }
    }

    pub(super) fn act_later(&self, index: usize, env: &mut Env, area: Area, rest: Duration) {
        env.signal_after(index, rest, Signal::Act { area });
    }
}

const fn other(mode: LeaseMode) -> LeaseMode {
    match mode {
        LeaseMode::Exclusive => LeaseMode::Shared,
        LeaseMode::Shared => LeaseMode::Exclusive,
    }
}

/// What a program wants of a resource that it does not hold.
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

impl Env {
    /// Who held the id last, if that one lost its power since and the record is damaged.
    fn fenced_and_damaged(&self, id: HostId) -> Option<Owner> {
        let latest = self.check.latest(id).filter(|latest| self.fenced.iter().any(|fenced| fenced.owner == *latest))?;
        self.storage.delta(delta_at(id)).bad().map(|_| latest)
    }
}
