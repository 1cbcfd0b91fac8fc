//! A process begins: it joins, or goes on with what the one before it had.

use std::time::Duration;

use super::{Answer, Completion, End, Host, Member, Process, Signal, Tag, terms};
use crate::protocol::delta::{self, Acquire, Refusal};
use crate::protocol::rules::in_force;
use crate::protocol::{Span, Written};
use crate::sim::env::Env;
use crate::sim::storage::{Area, delta_at};
use crate::types::HostId;

impl Host {
    pub(super) fn start(&mut self, env: &mut Env) {
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
        let identity = env.identity(index);
        let terms = terms(env.timeouts(index));
        if let Some(token) = token {
            return self.resume(env, token, identity, terms);
        }
        self.process = Process::Joining(id, Box::new(Acquire::new(id, identity, terms, env.random.next())));
        env.trace(|| format!("host {index} joins as {id}"));
        env.read(index, Tag::Join, 0, vec![delta_at(id)]);
    }

    pub(super) fn joining(&mut self, env: &mut Env, signal: Signal) {
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
                answer.of_record(Span { started, ended: now }, at)
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
                env.signal_after(index, rest, Signal::Act { area: Area::of_resource(0) });
                for area in env.areas().skip(1) {
                    let rest = env.random.span(Duration::ZERO, env.options.rest);
                    env.signal_after(index, rest, Signal::Act { area });
                }
                let mut member = Member::new(*tenure, env.options.timeouts, env.timeouts(index));
                member.recall_sightings(index, env);
                self.process = Process::Member(Box::new(member));
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
}
