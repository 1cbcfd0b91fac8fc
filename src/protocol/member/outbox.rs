//! What this host says to others: whom its delta record calls, and the event that it has for them. It goes to disk with
//! the renewals, the next of which is made at once.

use std::collections::BTreeMap;
use std::time::Duration;

use super::command::{Answer, CommandId, NotCalled};
use super::effect::Effect;
use super::{Loss, Member};
use crate::format::{Calls, HostEvent};
use crate::protocol::Seen;
use crate::types::{HostId, Time};

/// For how many I/O timeouts a host is called: as sanlock hosts do it.
const STANDS: u32 = 6;

/// The calls that stand in the own record, or are to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Outbox {
    calls: BTreeMap<HostId, Call>,
    /// Callers that wait until their calls stand on disk.
    waiting: Vec<(CommandId, Vec<HostId>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Call {
    /// How long it stands once it is on disk.
    span: Duration,
    /// `None` until it is known to be on disk.
    until: Option<Time>,
    event: Option<HostEvent>,
}

impl Outbox {
    /// Calls `host`, or goes on calling it, for `span` from when it stands on disk.
    ///
    /// # Errors
    /// A record has room for one event: another one stands for this long still.
    fn call(&mut self, host: HostId, span: Duration, event: Option<HostEvent>, now: Time) -> Result<(), Duration> {
        if event.is_some() {
            let others = self.calls.values().filter(|call| call.event.is_some_and(|other| Some(other) != event));
            if let Some(left) = others.map(|call| call.until.map_or(call.span, |until| until.since(now))).max() {
                return Err(left);
            }
        }
        // A request to a host that is told an event leaves the event standing.
        let event = event.or(self.calls.get(&host).and_then(|call| call.event));
        self.calls.insert(host, Call { span, until: None, event });
        Ok(())
    }

    /// What the record is to say now.
    pub(super) fn said(&mut self, now: Time) -> Calls {
        self.calls.retain(|_, call| call.until.is_none_or(|until| now < until));
        let mut said = Calls { event: self.calls.values().find_map(|call| call.event), ..Calls::default() };
        self.calls.keys().for_each(|host| said.hosts.insert(*host));
        said
    }

    /// The record that says so is on disk.
    pub(super) fn stands(&mut self, said: &Calls, now: Time) {
        for (host, call) in &mut self.calls {
            let carried = said.hosts.contains(*host) && (call.event.is_none() || call.event == said.event);
            if carried && call.until.is_none() {
                call.until = Some(now + call.span);
            }
        }
    }

    /// Whether the call of `host` is on disk, or was.
    fn is_on_disk(&self, host: HostId) -> bool {
        self.calls.get(&host).is_none_or(|call| call.until.is_some())
    }
}

impl Member {
    /// How long `host` is called: six times the longer T of its record and of the lockspace.
    pub fn call_span(&self, host: HostId) -> Duration {
        let own = self.terms.timeouts.io();
        let record = self.scans.observer.record(host).and_then(Seen::good);
        record.map_or(own, |record| record.timeouts(own).io()).max(own) * STANDS
    }

    /// Calls these hosts; answers when that stands on disk: one renewal, which is made at once.
    pub(super) fn call(&mut self, command: CommandId, hosts: Vec<HostId>, event: Option<HostEvent>) {
        if !self.held() {
            let loss = self.why();
            return self.called(command, Err(NotCalled::Lost(loss)));
        }
        for host in &hosts {
            let span = self.call_span(*host);
            if let Err(left) = self.outbox.call(*host, span, event, self.now) {
                return self.called(command, Err(NotCalled::Busy(left)));
            }
        }
        self.outbox.waiting.push((command, hosts));
        self.hurry();
    }

    fn called(&mut self, command: CommandId, result: Result<(), NotCalled>) {
        self.effects.push(Effect::Answer(command, Answer::Called(result)));
    }

    /// A renewal is confirmed: answers whose calls it carried.
    pub(super) fn calls_stand(&mut self) {
        let waiting = std::mem::take(&mut self.outbox.waiting);
        for (command, hosts) in waiting {
            match hosts.iter().all(|host| self.outbox.is_on_disk(*host)) {
                true => self.called(command, Ok(())),
                false => self.outbox.waiting.push((command, hosts)),
            }
        }
        if !self.outbox.waiting.is_empty() {
            self.hurry_next();
        }
    }

    pub(super) fn calls_are_lost(&mut self, loss: &Loss) {
        for (command, _) in std::mem::take(&mut self.outbox.waiting) {
            self.called(command, Err(NotCalled::Lost(loss.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(6);

    fn id(number: u64) -> HostId {
        HostId::new(number).expect("in range")
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_call_stands_for_its_time_from_when_it_is_on_disk() {
        let mut outbox = Outbox::default();
        outbox.call(id(3), SPAN, None, at(0)).expect("room");
        // However long the write takes that carries it.
        let said = outbox.said(at(100));
        assert!(said.hosts.contains(id(3)) && !outbox.is_on_disk(id(3)));
        outbox.stands(&said, at(100));
        assert!(outbox.is_on_disk(id(3)));
        assert!(outbox.said(at(105)).hosts.contains(id(3)));
        assert!(outbox.said(at(106)).hosts.is_empty());
        // A record that was composed before a call does not carry it.
        let before = outbox.said(at(200));
        outbox.call(id(3), SPAN, None, at(200)).expect("room");
        outbox.stands(&before, at(201));
        assert!(!outbox.is_on_disk(id(3)));
    }

    #[test]
    fn one_event_stands_at_a_time_and_goes_with_its_calls() {
        let mut outbox = Outbox::default();
        let event = |event| Some(HostEvent { generation: 1, event, data: 0 });
        outbox.call(id(3), SPAN, None, at(0)).expect("room");
        let without = outbox.said(at(0));
        outbox.call(id(3), SPAN, event(7), at(0)).expect("room");
        // The bit alone does not tell the event.
        outbox.stands(&without, at(0));
        assert!(!outbox.is_on_disk(id(3)));
        assert_eq!(outbox.call(id(4), SPAN, event(8), at(0)), Err(SPAN));
        outbox.call(id(4), SPAN, event(7), at(0)).expect("the same one");
        outbox.stands(&outbox.clone().said(at(1)), at(1));
        assert_eq!(outbox.call(id(4), SPAN, event(8), at(3)), Err(Duration::from_secs(4)));
        // A request to one of them neither takes the event away nor needs another.
        outbox.call(id(3), SPAN, None, at(3)).expect("room");
        assert_eq!(outbox.said(at(4)).event, event(7));
        outbox.stands(&outbox.clone().said(at(4)), at(4));
        assert_eq!(outbox.said(at(10)), Calls::default());
        outbox.call(id(4), SPAN, event(8), at(10)).expect("room");
    }
}
