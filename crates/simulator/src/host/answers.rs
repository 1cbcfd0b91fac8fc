//! What a program is told, and what the checker makes of that.

use std::collections::BTreeMap;
use std::time::Duration;

use leasehold::protocol::declare::Declared;
use leasehold::protocol::member::{Answer, Command, CommandId, Finish, Operated, Order, Over};
use leasehold::protocol::mend::Mended;
use leasehold::protocol::resource::{Basis, Outcome, Refusal, Wish};
use leasehold::{LeaseMode, Owner, Time, Version};

use super::Member;
use super::program::Asked;
use crate::env::Env;
use crate::storage::Area;

impl Member {
    pub(super) fn answered(&mut self, index: usize, env: &mut Env, command: CommandId, answer: Answer) {
        let Some(asked) = self.program.answered(command) else { return };
        match (asked, answer) {
            (Asked::Operation(area, order), Answer::Operated(operated)) => {
                let rest = self.operated(index, env, area, &order, operated);
                self.act_later(index, env, area, rest);
            }
            (Asked::Declaration, Answer::Declared(declared, _)) => {
                env.trace(|| format!("host {index} declared: {declared:?}"));
                env.check.counters.declared += u64::from(declared == Ok(Ok(Declared::Dead)));
                if self.program.leaving {
                    self.leave_if_idle(index, env);
                }
            }
            (Asked::Declaration, Answer::Mended(mended, _)) => {
                env.trace(|| format!("host {index} mended: {mended:?}"));
                env.check.counters.mended += u64::from(matches!(mended, Ok(Ok(Mended::Written(_)))));
                if self.program.leaving {
                    self.leave_if_idle(index, env);
                }
            }
            (Asked::Creation, Answer::Created(created, _)) => {
                env.trace(|| format!("host {index} made: {created:?}"));
                env.check.counters.made += u64::from(matches!(created, Ok(Ok(_))));
                let rest = env.random.span(Duration::ZERO, env.options.rest);
                self.act_later(index, env, Area::GUARD, rest);
            }
            (Asked::Message(area, message), answer) => self.message_ended(index, env, area, message, &answer),
            (Asked::Close, Answer::Closed(Ok(()))) => {
                self.ask(index, env, Asked::Finish, Command::Finish(Finish::Release));
            }
            // Something is being undone; it is tried again.
            (Asked::Close, _) => {
                for area in env.areas() {
                    self.act_later(index, env, area, Duration::from_millis(20));
                }
            }
            (Asked::Finish, Answer::Finished(finished)) => {
                env.trace(|| format!("host {index} has left: {finished:?}"));
                self.leaves(self.program.let_go);
            }
            _ => {}
        }
    }

    /// How long the program rests then.
    fn operated(&mut self, index: usize, env: &mut Env, area: Area, order: &Order, operated: Operated) -> Duration {
        let me = self.machine.me();
        env.trace(|| format!("host {index}: {me} is answered {operated:?}"));
        let short = env.random.span(Duration::ZERO, env.options.rest);
        if let Order::Release { held, .. } = order {
            self.machine.let_go((area.offset(), *held));
        }
        match operated {
            Operated::Over(over) => self.over(index, env, area, order, *over).unwrap_or(short),
            Operated::Lost(_) => {
                self.observe(index, env);
                self.program.loses(area);
                short
            }
            Operated::Unfinished { .. } => {
                // What becomes of a change to exclusive the holder does not know; it is shared, or lost.
                if let (Order::Convert { .. }, Some((_, version))) = (order, self.program.held_at(area)) {
                    self.program.holds(area, (LeaseMode::Shared, version));
                }
                short
            }
            Operated::Occupied | Operated::NotHeld | Operated::ValueInFlight => short,
        }
    }

    fn over(&mut self, index: usize, env: &mut Env, area: Area, order: &Order, over: Over) -> Option<Duration> {
        let (me, before) = (self.machine.me(), self.program.held_at(area));
        let damaged = matches!(over.outcome, Outcome::Refused(Refusal::LeaderDamaged(_)));
        self.program.finds_leader_damaged(area, damaged);
        if let (Outcome::Blocked(blocker), Some(ordered)) = (&over.outcome, self.program.ordered_at(area)) {
            env.check.of(area).blocked(me, blocker, ordered);
        }
        if let Order::Acquire(Wish { basis: Basis::Forced(version), .. }, _) = order
            && !matches!(over.outcome, Outcome::Held(_))
        {
            let told = passed_over(index, env, &over);
            env.check.of(area).passes_over(index, *version, &told);
        }
        let gives_up = matches!(over.outcome, Outcome::Released | Outcome::HandedOver(_))
            || matches!((&over.outcome, order), (Outcome::Held(_), Order::Convert { to: LeaseMode::Shared, .. }));
        if gives_up {
            env.value_is_settled(index, area);
        }
        match (&over.outcome, order) {
            (Outcome::Held(version), _) => return Some(self.holds(index, env, area, order, (*version, &over))),
            (Outcome::HandedOver(version), Order::HandOver { to, .. } | Order::Regain { to, .. }) => {
                self.program.holds_nothing(area);
                env.check.of(area).handed_over(me, Some(*to), *version, &env.storage);
            }
            // Its block may say anything.
            (Outcome::Refused(Refusal::NotHeld(_)), _) => {}
            (outcome, Order::Release { .. }) => {
                env.check.of(area).ended(me, *outcome == Outcome::Released, false, &env.storage);
            }
            (_, Order::Convert { .. } | Order::HandOver { .. }) => match before {
                Some((LeaseMode::Shared, _)) => env.check.of(area).ended(me, false, true, &env.storage),
                Some((LeaseMode::Exclusive, _)) => {}
                None => env.check.of(area).ended(me, false, false, &env.storage),
            },
            (
                _,
                Order::Acquire(..) | Order::Complete(_) | Order::Rebuild(_) | Order::Repair(_) | Order::Regain { .. },
            ) => {
                env.check.of(area).ended(me, false, false, &env.storage);
            }
        }
        None
    }

    fn holds(
        &mut self,
        index: usize,
        env: &mut Env,
        area: Area,
        order: &Order,
        (version, over): (Version, &Over),
    ) -> Duration {
        let me = self.machine.me();
        env.check.acts(index);
        let mode = match order {
            Order::Acquire(wish, _) => wish.mode,
            Order::Convert { to, .. } => *to,
            _ => LeaseMode::Exclusive,
        };
        if let Order::Acquire(wish, _) = order {
            match wish.basis {
                Basis::Any => {}
                Basis::HandedOver => env.check.of(area).received(me),
                Basis::Unchanged(expected) | Basis::Forced(expected) => {
                    env.check.of(area).follows(expected, version, me);
                }
            }
        }
        self.program.holds(area, (mode, version));
        let until = self.acts_until(index, env, (area.offset(), version));
        self.program.extends(area, until);
        let taken = passed_over(index, env, over);
        let (resource, now) = (env.check.of(area), env.now);
        match order {
            // A process before it held that already, and its token does not say so.
            Order::Complete(_) if resource.still_has(index, me, version) => {
                resource.took_up(index, me, (mode, version), &taken, now, until, &env.storage);
            }
            _ => resource.held(index, me, (mode, version), &taken, now, until, &env.storage),
        }
        if let Some(resource) = self.program.resource_at(area) {
            env.check.is_called(area, index, resource.name(), env.now);
        }
        if area == Area::GUARD {
            self.program.reads(env.index());
        }
        if env.quiet {
            env.acquired.insert((index, area));
        }
        // Who is to hear of those who ask holds for long enough.
        let often = if env.options.modes.received > 0 { 600 } else { 150 };
        let long = !env.quiet && env.random.chance(often);
        if long { env.random.millis(1, 1_500) } else { env.random.span(Duration::ZERO, env.options.rest) }
    }
}

/// Who was passed over, and until when they may act.
fn passed_over(index: usize, env: &Env, over: &Over) -> BTreeMap<Owner, Time> {
    let clock = &env.machines[index].clock;
    over.overridden.iter().map(|(owner, until)| (*owner, clock.world(*until))).collect()
}
