//! What other hosts have to say to this one: requests to yield a resource, and events. A host that has something to say
//! sets this host's bit in its own delta record for a while; what it is stands in that record, or in the resource's
//! area.
//!
//! They are only passed on. A bit, an event and a request have no checksum on a sanlock host's disk, so nothing that a
//! lease depends on may follow from them.

use std::collections::{BTreeMap, BTreeSet};

use super::member::Member;
use crate::disk::Lane;
use crate::format::{DeltaRecord, Force, HostBitmap, HostEvent, Request};
use crate::protocol::reading;
use crate::types::{HostId, Name, Owner, Version};

/// What another host says to this one.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// anew, for whatever reason, and has not withdrawn it.
    Event {
        /// The sender.
        from: HostId,
        /// Its name.
        name: Name,
        /// The numbers.
        event: HostEvent,
    },
}

/// What a program is told of notices with.
pub(crate) type TellNotice = Box<dyn Fn(&Notice) + Send>;

/// A host whose record has this host's bit set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    host: HostId,
    name: Name,
    /// An event for this generation, if there is any.
    event: Option<HostEvent>,
}

impl Call {
    /// Whether `sector`, which holds the valid `record` of `host`, calls `me`.
    pub(crate) fn find(sector: &[u8], host: HostId, record: &DeltaRecord, me: Owner) -> Option<Call> {
        if host == me.host || record.is_free() || !HostBitmap::decode(sector).ok()?.contains(me.host) {
            return None;
        }
        let mine = |event: &HostEvent| event.generation == 0 || event.generation == me.generation.get();
        let event = HostEvent::decode(sector).ok()?.filter(mine);
        Some(Call { host, name: record.host_name, event })
    }
}

/// Tells each notice once.
pub(crate) struct Notices {
    tell: TellNotice,
    /// The events of those who call at present.
    events: BTreeMap<HostId, HostEvent>,
    /// By the place of the resource, for the version that is held.
    requests: BTreeMap<u64, (Version, Request)>,
    /// Who asks to be handed which lease.
    destinations: BTreeSet<(u64, Version, Owner)>,
}

impl Notices {
    pub(crate) fn new(tell: TellNotice) -> Notices {
        Notices { tell, events: BTreeMap::new(), requests: BTreeMap::new(), destinations: BTreeSet::new() }
    }

    /// Takes in the calls that one scan has shown.
    pub(crate) fn take_in(&mut self, calls: &[Call], member: &Member) {
        self.events.retain(|host, _| calls.iter().any(|call| call.host == *host));
        for Call { host, name, event } in calls {
            let Some(event) = *event else { continue };
            if self.events.insert(*host, event) != Some(event) {
                (self.tell)(&Notice::Event { from: *host, name: *name, event });
            }
        }
        if let Some(first) = calls.first() {
            self.look_for_requests(first, member);
        }
        self.look_for_destinations(member);
    }

    /// They were seen when what is held was looked at last.
    fn look_for_destinations(&mut self, member: &Member) {
        let asking = member.resources.asking();
        let before = std::mem::take(&mut self.destinations);
        for (resource, held, from) in asking.into_iter().filter(|(.., from)| member.may_be_there(*from)) {
            let key = (resource.offset, held, from);
            self.destinations.insert(key);
            if !before.contains(&key) {
                let (name, resource) = (member.hosts.name_of(from), resource.name);
                (self.tell)(&Notice::HandoverAsked { from, name, resource, held });
            }
        }
    }

    fn look_for_requests(&mut self, caller: &Call, member: &Member) {
        let held = member.resources.held();
        self.requests.retain(|offset, (version, _)| {
            held.iter().any(|(resource, held)| (resource.offset, held) == (*offset, version))
        });
        for (resource, held) in held {
            // One that can't be read is looked at again with the next scan, while somebody calls.
            let Some((request, next)) = read(member, resource.offset, held) else { continue };
            let asks = request.force != Force::None && request.version > held;
            if asks && self.requests.insert(resource.offset, (held, request)) != Some((held, request)) {
                let Request { version, force } = request;
                let (from, name, resource, due) = (caller.host, caller.name, resource.name, version <= next);
                (self.tell)(&Notice::Request { from, name, resource, held, version, force, due });
            }
        }
    }
}

/// The request in the area at `offset`, and the version that comes next there: hosts that share a resource hold
/// several.
fn read(member: &Member, offset: u64, held: Version) -> Option<(Request, Version)> {
    let sector = member.terms.geometry.sector_bytes();
    let (_, sectors) = member.io.read(Lane::General, offset, 2 * sector, member.terms.timeouts.io()).ok()?;
    let (leader, request) = sectors.split_at(sector);
    let leader = reading::leader(Ok(leader), offset, member.terms.nonce);
    let latest = leader.good().map_or(held, |leader| leader.version.max(held));
    Some((Request::decode(request).ok()?, latest.after(1)))
}
