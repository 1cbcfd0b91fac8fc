//! What hosts leave for each other beside their ballots (V, N): values, requests and events.

use std::collections::{BTreeMap, BTreeSet};

use leasehold::format::HostEvent;
use leasehold::{HostId, LeaseMode, Owner, Time, Version};

use super::Checker;
use crate::storage::Area;

/// What was written and sent.
#[derive(Default)]
pub(crate) struct Messages {
    /// The numbers that are the data of values, of each resource and version: those whose write was confirmed.
    values: BTreeMap<Area, BTreeSet<(Version, u64)>>,
    requests: BTreeSet<(Area, Version)>,
    /// By the number that is its data, who sent it.
    events: BTreeMap<u64, HostId>,
    count: u64,
}

impl Messages {
    /// A number that no other message has.
    pub(crate) fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Somebody asks for that version.
    pub(crate) fn asks(&mut self, area: Area, version: Version) {
        self.requests.insert((area, version));
    }

    /// `from` sends an event.
    pub(crate) fn sends(&mut self, from: HostId, event: &HostEvent) {
        self.events.insert(event.data, from);
    }
}

impl Checker {
    /// A value was written, as its owner is told.
    pub(crate) fn wrote_value(&mut self, area: Area, version: Version, number: u64) {
        self.counters.values += 1;
        self.messages.values.entry(area).or_default().insert((version, number));
    }

    /// The newest value that was confirmed, of those that a machine may know of which holds `version`.
    pub(crate) fn confirmed(&mut self, area: Area, me: Owner, version: Version, now: Time) -> Option<(Version, u64)> {
        // Its lease was taken by force, and it writes values until it sees that: over those of the owner after it, too.
        let told = self.of(area).passed(me, (LeaseMode::Exclusive, version));
        let unseen = told.is_some_and(|told| now < told.until());
        let last = if unseen { version } else { Version::new(u64::MAX) };
        self.messages.values.get(&area)?.range(..=(last, u64::MAX)).next_back().copied()
    }

    /// A machine says of the value that it read that it is surely the newest; `confirmed` was when it began to read.
    pub(crate) fn read_newest(
        &mut self,
        me: Owner,
        (version, number): (Version, u64),
        confirmed: Option<(Version, u64)>,
    ) {
        self.counters.newest += 1;
        if let Some(later) = confirmed.filter(|confirmed| *confirmed > (version, number)) {
            self.fail(format!("V: {me} takes value {number} of version {version} for the newest, not {later:?}"));
        }
    }

    /// A machine is told of a request for `version`.
    pub(crate) fn told_request(&mut self, me: Owner, area: Area, held: Version, version: Version) {
        self.counters.requests += 1;
        if !self.messages.requests.contains(&(area, version)) {
            self.fail(format!("N: {me} is told of a request for version {version}, which nobody made"));
        }
        if version <= held {
            self.fail(format!("N: {me} holds version {held}, and is asked for version {version}"));
        }
    }

    /// A machine is told of an event.
    pub(crate) fn told_event(&mut self, me: Owner, from: HostId, event: &HostEvent) {
        self.counters.events += 1;
        if self.messages.events.get(&event.data) != Some(&from) {
            self.fail(format!("N: {me} is told that {from} sent {event:?}"));
        }
        if event.generation != 0 && event.generation != me.generation.get() {
            self.fail(format!("N: {me} is told {event:?}, which is not for it"));
        }
    }
}
