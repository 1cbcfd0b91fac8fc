//! What this host says to others: whom its delta record calls, and the event that it has for them. It goes to disk with
//! the renewals, the next of which is made at once.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::member::Member;
use super::pulse::Until;
use crate::error::LossReason;
use crate::format::{Calls, HostEvent};
use crate::types::{HostId, Time};

/// For how many I/O timeouts a host is called: as sanlock hosts do it.
const STANDS: u32 = 6;

/// The longest pause between two looks at whether a call stands on disk.
const PATIENCE: Duration = Duration::from_millis(100);

/// The calls that stand in the own record, or are to.
#[derive(Debug, Default)]
pub(crate) struct Outbox(Mutex<BTreeMap<HostId, Call>>);

#[derive(Debug)]
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
    fn call(&self, host: HostId, span: Duration, event: Option<HostEvent>, now: Time) -> Result<(), Duration> {
        let mut calls = self.0.lock();
        if event.is_some() {
            let others = calls.values().filter(|call| call.event.is_some_and(|other| Some(other) != event));
            if let Some(left) = others.map(|call| call.until.map_or(call.span, |until| until.since(now))).max() {
                return Err(left);
            }
        }
        // A request to a host that is told an event leaves the event standing.
        let event = event.or(calls.get(&host).and_then(|call| call.event));
        calls.insert(host, Call { span, until: None, event });
        Ok(())
    }

    /// What the record is to say now.
    pub(crate) fn said(&self, now: Time) -> Calls {
        let mut calls = self.0.lock();
        calls.retain(|_, call| call.until.is_none_or(|until| now < until));
        let mut said = Calls { event: calls.values().find_map(|call| call.event), ..Calls::default() };
        calls.keys().for_each(|host| said.hosts.insert(*host));
        said
    }

    /// The record that says so is on disk.
    pub(crate) fn stands(&self, said: &Calls, now: Time) {
        for (host, call) in self.0.lock().iter_mut() {
            let carried = said.hosts.contains(*host) && (call.event.is_none() || call.event == said.event);
            if carried && call.until.is_none() {
                call.until = Some(now + call.span);
            }
        }
    }

    /// Whether the call of `host` is on disk, or was.
    fn is_on_disk(&self, host: HostId) -> bool {
        self.0.lock().get(&host).is_none_or(|call| call.until.is_some())
    }
}

/// Why a host was not called.
pub(crate) enum NotCalled {
    /// Another event stands for this long.
    Busy(Duration),
    Lost(LossReason),
}

impl Member {
    /// How long `host` is called: six times the longer T of its record and of the lockspace.
    pub(crate) fn call_span(&self, host: HostId) -> Duration {
        let own = self.terms.timeouts.io();
        let theirs = self.hosts.with_observer(|observer| Some(observer.record(host)?.good()?.timeouts(own).io()));
        theirs.unwrap_or(own).max(own) * STANDS
    }

    /// Calls these hosts, and waits until that stands on disk: one renewal, which is made at once.
    pub(crate) fn call(&self, hosts: &[HostId], event: Option<HostEvent>) -> Result<(), NotCalled> {
        self.pulse.held().map_err(NotCalled::Lost)?;
        for host in hosts {
            self.outbox.call(*host, self.call_span(*host), event, self.io.now()).map_err(NotCalled::Busy)?;
        }
        self.pulse.hurry();
        while !hosts.iter().all(|host| self.outbox.is_on_disk(*host)) {
            let status = self.pulse.status();
            self.pulse.held().map_err(NotCalled::Lost)?;
            if self.pulse.has_ended(Until::Stopped) {
                return Err(NotCalled::Lost(LossReason::Left));
            }
            self.pulse.changed(&status, PATIENCE);
        }
        Ok(())
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
        let outbox = Outbox::default();
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
        let outbox = Outbox::default();
        let event = |event| Some(HostEvent { generation: 1, event, data: 0 });
        outbox.call(id(3), SPAN, None, at(0)).expect("room");
        let without = outbox.said(at(0));
        outbox.call(id(3), SPAN, event(7), at(0)).expect("room");
        // The bit alone does not tell the event.
        outbox.stands(&without, at(0));
        assert!(!outbox.is_on_disk(id(3)));
        assert_eq!(outbox.call(id(4), SPAN, event(8), at(0)), Err(SPAN));
        outbox.call(id(4), SPAN, event(7), at(0)).expect("the same one");
        outbox.stands(&outbox.said(at(1)), at(1));
        assert_eq!(outbox.call(id(4), SPAN, event(8), at(3)), Err(Duration::from_secs(4)));
        // A request to one of them neither takes the event away nor needs another.
        outbox.call(id(3), SPAN, None, at(3)).expect("room");
        assert_eq!(outbox.said(at(4)).event, event(7));
        outbox.stands(&outbox.said(at(4)), at(4));
        assert_eq!(outbox.said(at(10)), Calls::default());
        outbox.call(id(4), SPAN, event(8), at(10)).expect("room");
    }
}
