//! What a program leaves for others beside what it holds: values, requests and events.

use std::time::Duration;

use leasehold::format::{DeltaRecord, Force, Geometry, HostBitmap, HostEvent, Request, Value, ValueOrigin};
use leasehold::protocol::member::{Answer, Command, Notice};
use leasehold::{HostId, Owner, Version};

use super::program::Asked;
use super::{Answer as Io, Member, Tag};
use crate::env::Env;
use crate::storage::{Area, delta_at, readable};

/// What a program does that has nothing to do with ownership.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// Writes a value, which is a number, under what it owns.
    Value(Version, u64),
    /// Asks for what that host owns.
    Request(HostId),
    /// Calls a host, for a request or with an event.
    Call(HostId, Option<HostEvent>),
}

impl Member {
    /// Does something of that kind, now and then; whether it does now.
    pub(super) fn has_message(&mut self, index: usize, env: &mut Env, area: Area) -> bool {
        let often = env.options.messages;
        if often == 0 || env.quiet || self.program.leaving || !env.random.chance(often) {
            return false;
        }
        match (self.program.owned_at(area), env.random.below(4)) {
            (Some(version), 0..2) => self.writes_value(index, env, area, version),
            (Some(version), 2) => self.reads_value(index, env, area, version),
            (None, 0..3) => return self.asks(index, env, area),
            (_, _) => return self.sends(index, env, area),
        }
        true
    }

    fn says(&mut self, index: usize, env: &mut Env, area: Area, message: Message, command: Command) {
        env.trace(|| format!("host {index}: {message:?}"));
        self.program.begins(area);
        self.ask(index, env, Asked::Message(area, message), command);
    }

    fn writes_value(&mut self, index: usize, env: &mut Env, area: Area, version: Version) {
        let (number, me) = (env.check.messages.number(), self.machine.me());
        let data = number.to_be_bytes();
        let sector = Value::encode(&data, version, me, Geometry::default(), area.value_at()).unwrap_or_default();
        let command = Command::WriteValue { resource: area.resource(), version, sector };
        self.says(index, env, area, Message::Value(version, number), command);
    }

    /// A value goes to disk only by the right of a lease.
    pub(super) fn is_about_to_write_value(&self, index: usize, env: &mut Env, area: Area) {
        let now = env.now;
        if !env.check.of(area).is_held_by(index, now) || self.program.owned_at(area).is_none() {
            env.check.fail(format!("V: machine {index} writes the value of what it does not own"));
        }
    }

    fn reads_value(&mut self, index: usize, env: &mut Env, area: Area, version: Version) {
        env.trace(|| format!("host {index} reads the value"));
        self.program.begins(area);
        let confirmed = env.check.confirmed(area, self.machine.me(), version, env.now);
        let timeout = self.machine.terms().timeouts.io();
        env.read(index, Tag::Value { area, version, confirmed }, 0, vec![area.value_at()], Some(timeout));
    }

    pub(super) fn value_read(
        &mut self,
        index: usize,
        env: &mut Env,
        (area, version): (Area, Version),
        confirmed: Option<(Version, u64)>,
        answer: Io,
    ) {
        self.program.is_over(area);
        self.act_later(index, env, area, Duration::ZERO);
        let me = self.machine.me();
        let Io::Read(_, sectors) = answer else { return };
        let value = readable(&sectors[0]).ok().and_then(|sector| Value::decode(sector, area.value_at()).ok()?);
        if self.program.owned_at(area) != Some(version) {
            return;
        }
        if self.machine.is_overwritten(&area.resource(), version, value.as_ref()) {
            return;
        }
        // Whoever has not written yet goes by the version before.
        let newest = value.filter(|value| value.is_latest(Version::new(version.get() - 1)));
        let number = |value: &Value| Some(u64::from_be_bytes(value.data.as_slice().try_into().ok()?));
        let read = newest.and_then(|value| Some((value.origin, number(&value)?)));
        // Else nobody vouches for it, or a late write of an earlier owner has put an old one back.
        if let Some((ValueOrigin::Lease { version, .. }, number)) = read {
            env.check.read_newest(me, (version, number), confirmed);
        }
    }

    /// Asks the owner of what another host has for it.
    fn asks(&mut self, index: usize, env: &mut Env, area: Area) -> bool {
        let owner =
            env.storage.leader(0, area).good().filter(|leader| !leader.is_free()).and_then(|leader| leader.owner);
        let Some(owner) = owner.filter(|owner| owner.host != self.machine.me().host) else { return false };
        // Or for one that is over by now.
        let latest = env.storage.latest_shown(area, env.known_ids());
        let version = Version::new((latest.get() + 1).saturating_sub(env.random.below(3) / 2));
        env.check.messages.asks(area, version);
        let request = Request { version, force: Force::Graceful };
        env.trace(|| format!("host {index} wants version {version}"));
        let command = Command::WriteRequest(area.resource(), request);
        self.says(index, env, area, Message::Request(owner.host), command);
        true
    }

    /// Sends an event to somebody whose record it has seen: to any generation, to that one, or to the one before it.
    fn sends(&mut self, index: usize, env: &mut Env, area: Area) -> bool {
        let Some(Owner { host, generation }) = self.somebody(env) else { return false };
        let generation = [0, generation.get(), generation.get() - 1][env.random.below(3) as usize];
        let event = HostEvent { generation, event: 1, data: env.check.messages.number() };
        env.check.messages.sends(self.machine.me().host, &event);
        let command = Command::Call(vec![host], Some(event));
        self.says(index, env, area, Message::Call(host, Some(event)), command);
        true
    }

    pub(super) fn message_ended(&mut self, index: usize, env: &mut Env, area: Area, message: Message, answer: &Answer) {
        env.trace(|| format!("host {index} is answered {answer:?}"));
        match (message, answer) {
            (Message::Value(version, number), Answer::Wrote(Ok(()))) => env.check.wrote_value(area, version, number),
            (Message::Request(owner), Answer::Wrote(Ok(()))) => {
                let command = Command::Call(vec![owner], None);
                return self.says(index, env, area, Message::Call(owner, None), command);
            }
            (Message::Call(host, event), Answer::Called(Ok(()))) => self.call_stands(env, host, event),
            _ => {}
        }
        // Long enough for late values of those who died.
        let long = self.program.owned_at(area).is_some() && env.random.chance(300);
        let most = if long { self.machine.terms().timeouts.dead() * 2 } else { env.options.rest };
        let rest = env.random.span(Duration::ZERO, most);
        self.act_later(index, env, area, rest);
    }

    /// It is said that a call stands on disk. Another record may stand there by now.
    fn call_stands(&self, env: &mut Env, host: HostId, event: Option<HostEvent>) {
        let me = self.machine.me();
        let at = delta_at(me.host);
        let sector = env.storage.sector(0, at);
        let ours = DeltaRecord::decode(&sector, at).is_ok_and(|record| record.owner() == Some(me) && !record.is_free());
        let called = HostBitmap::decode(&sector).is_ok_and(|hosts| hosts.contains(host));
        let sent = event.is_none() || HostEvent::decode(&sector).ok().flatten() == event;
        if ours && !(called && sent) {
            env.check.fail(format!("N: {me} calls {host} with {event:?}, which does not stand on disk"));
        }
    }

    pub(super) fn is_told(&mut self, index: usize, env: &mut Env, notice: Notice) {
        let me = self.machine.me();
        match notice {
            Notice::HandoverAsked { from, resource, .. } => self.program.is_asked(resource, from),
            Notice::Request { resource, held, version, due, .. } => {
                env.trace(|| format!("host {index} is asked for version {version} of {resource}"));
                if let Some(area) = env.areas().find(|area| area.resource().name() == resource) {
                    env.check.told_request(me, area, held, version);
                }
                if due {
                    self.program.yields(resource);
                }
            }
            Notice::Event { from, event, .. } => {
                env.trace(|| format!("host {index} is told {event:?} by {from}"));
                env.check.told_event(me, from, &event);
            }
            other => unreachable!("the simulator does not know this notice: {other:?}"),
        }
    }
}

impl Env {
    /// A host says that it gave a resource up, or shares it.
    pub(super) fn value_is_settled(&mut self, index: usize, area: Area) {
        let at = area.value_at();
        if self.storage.writing(index, |_, offset| offset == at) {
            self.check.fail(format!("V: machine {index} gives a resource up while it writes the value"));
        }
    }
}
