//! A process begins: it joins, or goes on with what the one before it had.

use std::time::Duration;

use super::procedures::Next;
use super::{End, Host, Member, Process, Signal, Tag, terms};
use crate::protocol::declare::declared_by;
use crate::protocol::delta::{Acquire, Bid, Refusal};
use crate::protocol::liveness::Observer;
use crate::protocol::procedure::Event;
use crate::protocol::rules::in_force;
use crate::sim::Kind;
use crate::sim::env::Env;
use crate::sim::storage::{Area, delta_at};
use crate::types::{HostId, Time};

impl Host {
    pub(super) fn start(&mut self, env: &mut Env) {
        let index = self.index;
        if env.storage.writing(index, |_, _| true) && in_force!(LocalLock) {
            env.signal_after(index, Duration::from_millis(10), Signal::Start);
            return;
        }
        let another = env.kind(index) == Kind::Process && env.random.chance(300);
        let picked = match self.id.filter(|_| !another) {
            Some(id) => Some(id),
            None if index == env.options.hosts => HostId::new(env.ids()),
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
        let terms = terms(env.timeouts(index));
        if let Some(token) = token {
            return self.resume(env, token, identity, terms);
        }
        let bid = Bid::new(id, env.options.timeouts.dead().max(env.options.slower.dead()));
        let vouches = env.may_vouch(index, id);
        let bid = if vouches { bid.vouched() } else { bid };
        let word = env.storage.delta(delta_at(id)).good().and_then(declared_by);
        env.check.counters.vouched += u64::from(vouches && word.is_some());
        let acquire = Acquire::new(bid, identity, terms, env.random.next()).by_boot_time();
        self.process = Process::Joining(id, Box::new(acquire));
        env.trace(|| format!("host {index} joins as {id}"));
        self.go_on_joining(env, Event::Begun(env.local(index)));
    }

    pub(super) fn joining(&mut self, env: &mut Env, signal: Signal) {
        if let Some(event) = signal.event_of(Tag::Join, env.local(self.index)) {
            self.go_on_joining(env, event);
        }
    }

    fn go_on_joining(&mut self, env: &mut Env, event: Event) {
        let (index, now) = (self.index, env.local(self.index));
        let Process::Joining(id, acquire) = &mut self.process else { return };
        let id = *id;
        let mut observer = Observer::new(env.options.timeouts);
        match env.carry_out((index, Tag::Join), Time::MAX, &mut **acquire, &mut observer, event) {
            Next::Waits => {}
            Next::Writes => self.id = Some(id),
            Next::Over(Ok(tenure)) => {
                env.trace(|| format!("host {index} holds {}", tenure.me()));
                self.latest = Some(tenure.me());
                let until = env.machines[index].clock.world(tenure.deadline());
                env.check.joined(index, tenure.me(), env.now, until);
                env.signal(index, tenure.deadline(), Signal::Deadline);
                env.signal(index, now, Signal::Renew);
                env.signal(index, now, Signal::Scan);
                let rest = if env.quiet { Duration::ZERO } else { env.random.span(Duration::ZERO, env.options.rest) };
                env.signal_after(index, rest, Signal::Act { area: Area::of_resource(0) });
                for area in env.areas().skip(1) {
                    let rest = env.random.span(Duration::ZERO, env.options.rest);
                    env.signal_after(index, rest, Signal::Act { area });
                }
                let mut member = Member::new(*tenure, env.options.timeouts, env.timeouts(index));
                member.recall_sightings(index, env);
                self.process = Process::Member(Box::new(member));
            }
            Next::Over(Err(refusal)) => {
                env.trace(|| format!("host {index} could not join as {id}: {refusal:?}"));
                env.check.counters.refusals += 1;
                if refusal != Refusal::Storage {
                    self.id = None;
                }
                self.ended(env, End::Refused);
            }
        }
    }
}
