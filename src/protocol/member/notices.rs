//! What other hosts have to say to this one: requests to yield a resource, and events. A host that has something to say
//! sets this host's bit in its own delta record for a while; what it is stands in that record, or in the resource's
//! area.
//!
//! They are only passed on. A bit, an event and a request have no checksum on a sanlock host's disk, so nothing that a
//! lease depends on may follow from them.

use std::collections::{BTreeMap, BTreeSet};

use super::Member;
use super::account::Purpose;
use super::effect::Effect;
use super::leases::Key;
use crate::format::{DeltaRecord, Force, HostBitmap, HostEvent, Request};
use crate::protocol::procedure::{Extent, Sectors};
use crate::protocol::rules::Rule;
use crate::protocol::{Seen, reading};
use crate::types::{HostId, Name, Owner, Version};

/// What another host says to this one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Notice {
    /// A host asks this one to yield a resource that it holds. Told once for each lease and each request.
    Request {
        /// A host that calls at present: the one that asks, unless several call at the same time.
        from: HostId,
        /// Its name.
        name: Name,
        /// The resource.
        resource: Name,
        /// The version that is held.
        held: Version,
        /// The version that the other host wants to own; larger than `held`.
        version: Version,
        /// What it asks for.
        force: Force,
        /// Whether that version is the one that comes next. Only then is there something to do: a request for a later
        /// one would, as nobody clears it, end every owner until then.
        due: bool,
    },
    /// A host asks to be handed a resource that this one holds: see [`Lease::prepare_handover`]. Told once for each
    /// lease and each process that asks.
    ///
    /// [`Lease::prepare_handover`]: crate::Lease::prepare_handover
    HandoverAsked {
        /// Who asks: the process of that host that holds its id now.
        from: Owner,
        /// Its name, if its record was read.
        name: Option<Name>,
        /// The resource.
        resource: Name,
        /// The version that is held.
        held: Version,
    },
    /// A host has sent an event to this host: numbers that mean what the two agree on. Told again when that host calls
    /// again, for whatever reason, and has not withdrawn it.
    Event {
        /// The sender.
        from: HostId,
        /// Its name.
        name: Name,
        /// The numbers.
        event: HostEvent,
    },
}

/// What was told already: each notice is told once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Told {
    /// The events of those who call at present.
    events: BTreeMap<HostId, HostEvent>,
    /// By the place of the resource, for the version that is held.
    requests: BTreeMap<u64, (Version, Request)>,
    /// Who asks to be handed which lease.
    destinations: BTreeSet<(u64, Version, Owner)>,
    /// The first of those who call at present.
    caller: Option<(HostId, Name)>,
}

impl Member {
    /// Takes in the calls that one scan has shown.
    pub(super) fn hear(&mut self, sectors: &Sectors, records: &[(HostId, Seen<DeltaRecord>)]) {
        if !self.scans.listens {
            return;
        }
        let me = self.me();
        let mut calls = Vec::new();
        for ((host, seen), sector) in records.iter().zip(sectors.iter()) {
            if let (Seen::Good(record), Ok(sector)) = (seen, sector) {
                calls.extend(call(sector, *host, record, me).map(|event| (*host, record.host_name, event)));
            }
        }
        self.told.events.retain(|host, _| calls.iter().any(|(caller, ..)| caller == host));
        for (from, name, event) in &calls {
            let Some(event) = *event else { continue };
            if self.told.events.insert(*from, event) != Some(event) {
                self.effects.push(Effect::Tell(Notice::Event { from: *from, name: *name, event }));
            }
        }
        self.told.caller = calls.first().map(|(host, name, _)| (*host, *name));
        if self.told.caller.is_some() {
            self.look_for_requests();
        }
    }

    /// Somebody calls: reads the requests for what is held. One that can't be read is looked at again with the next
    /// scan, while somebody calls.
    fn look_for_requests(&mut self) {
        let held: Vec<Key> = self.leases.held().map(|(resource, _, version)| (resource.offset, version)).collect();
        self.told.requests.retain(|offset, (version, _)| held.contains(&(*offset, *version)));
        for (offset, version) in held {
            let extents = vec![Extent { offset, sectors: 2 }];
            let expires = self.now + self.terms.timeouts.io();
            self.read(Purpose::Request(offset, version), 0, false, extents, expires, false);
        }
    }

    /// The request in an area was read, and its leader.
    pub(super) fn read_request(&mut self, (offset, held): Key, sectors: &Sectors) {
        let mut sectors = sectors.iter();
        let (Some(Ok(leader)), Some(Ok(request))) = (sectors.next(), sectors.next()) else { return };
        let Ok(request) = Request::decode(request) else { return };
        let leader = reading::leader(Ok(leader), offset, self.terms.nonce);
        let latest = leader.good().map_or(held, |leader| leader.version.max(held));
        let still = self.leases.held().any(|(resource, _, version)| (resource.offset, version) == (offset, held));
        let is_later = request.version > held || !Rule::RequestIsLater.is_in_force();
        let asks = request.force != Force::None && is_later && still;
        let (Some((from, name)), Some(resource)) = (self.told.caller, self.leases.resource(offset)) else { return };
        if asks && self.told.requests.insert(offset, (held, request)) != Some((held, request)) {
            // Hosts that share a resource hold several versions.
            let Request { version, force } = request;
            let (due, resource) = (version <= latest.after(1), resource.name);
            self.effects.push(Effect::Tell(Notice::Request { from, name, resource, held, version, force, due }));
        }
    }

    /// They were seen when what is held was looked at last.
    pub(super) fn look_for_destinations(&mut self) {
        if !self.scans.listens {
            return;
        }
        let asking: Vec<_> = self.leases.asking().collect();
        let before = std::mem::take(&mut self.told.destinations);
        for (resource, held, from) in asking {
            if self.scans.observer.judge(from, self.now).is_gone() {
                continue;
            }
            let key = (resource.offset, held, from);
            self.told.destinations.insert(key);
            if !before.contains(&key) {
                let (name, resource) = (self.name_of(from), resource.name);
                self.effects.push(Effect::Tell(Notice::HandoverAsked { from, name, resource, held }));
            }
        }
    }
}

/// Whether `sector`, which holds the valid `record` of `host`, calls `me`; and the event for this generation, if there
/// is any.
fn call(sector: &[u8], host: HostId, record: &DeltaRecord, me: Owner) -> Option<Option<HostEvent>> {
    if host == me.host || record.is_free() || !HostBitmap::decode(sector).ok()?.contains(me.host) {
        return None;
    }
    let ours = |event: &HostEvent| event.generation == 0 || event.generation == me.generation.get();
    let mine = |event: &HostEvent| ours(event) || !Rule::EventIsForUs.is_in_force();
    Some(HostEvent::decode(sector).ok()?.filter(mine))
}
