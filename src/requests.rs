//! Asking the owner of a resource to yield it, and telling other hosts events. Both have sanlock's meaning on disk, and
//! reach hosts of both kinds.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::calls::NotCalled;
use crate::engine::values::WriteError;
use crate::error::{EventError, Holder, RequestError};
use crate::format::numbers::Numbers;
use crate::format::{Force, HostEvent, Request};
use crate::membership::Membership;
use crate::protocol::liveness::Verdict;
use crate::protocol::resource::Blocker;
use crate::types::{HostId, Owner, Resource, Version};

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requested {
    /// Nobody who may be active holds the resource: it can be acquired. Nothing was written.
    NotHeld,
    /// The request stands on disk, and who holds the resource is called. Whether they yield, and when, is for them to
    /// decide: see [`Membership::still_held`].
    Asked {
        /// Those who were asked; at least one, this host not among them.
        holders: Vec<Holder>,
        /// The version that the request is for. It asks nothing of an owner that has this version or a later one.
        version: Version,
        /// How long they are called from now on. Who hasn't looked by then, because its host or its storage was slow,
        /// has to be asked again.
        stands: Duration,
    },
    /// The request record was cleared.
    Cleared,
}

/// Who holds a resource, as leader and blocks show it.
struct Standing {
    /// The latest version that anybody has or had, as far as it shows.
    latest: Version,
    /// Who may be active of those who hold it.
    holders: BTreeMap<HostId, Holder>,
}

impl Membership {
    /// Asks the present holders of a resource to yield it: the request names the version that comes next and so has no
    /// effect on any other owner than the present one, however long it stands. Takes a few I/Os and a renewal, which is
    /// made at once; F at most, because then it succeeded or the membership is lost. To ask again is safe.
    ///
    /// It doesn't reserve the resource: who acquires first gets it. Of several requests at a time for one resource the
    /// last one written counts; all who are called look at that. With [`Force::None`] the record is cleared, whoever
    /// asked. Nobody needs to.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn request(&self, resource: &Resource, force: Force) -> Result<Requested, RequestError> {
        let me = self.owner().host;
        if force == Force::None {
            self.member().write_request(resource, Request::default())?;
            return Ok(Requested::Cleared);
        }
        let Standing { latest, mut holders } = self.standing(resource)?;
        let here = holders.remove(&me).is_some();
        if holders.is_empty() {
            return if here { Err(RequestError::HeldHere { resource: resource.name }) } else { Ok(Requested::NotHeld) };
        }
        let version = latest.after(1);
        let next = Request { version, force };
        if let Some(reason) = next.beyond_reach() {
            return Err(self.lockspace().damage(resource.offset, "leader", reason.into()).into());
        }
        self.member().write_request(resource, next)?;
        let hosts: Vec<HostId> = holders.keys().copied().collect();
        let stands = hosts.iter().map(|host| self.member().call_span(*host)).max().unwrap_or_default();
        match self.member().call(&hosts, None) {
            Ok(()) => Ok(Requested::Asked { holders: holders.into_values().collect(), version, stands }),
            Err(NotCalled::Lost(reason)) => Err(RequestError::Lost(reason)),
            Err(NotCalled::Busy(_)) => unreachable!("a call without an event has room"),
        }
    }

    /// Whether anybody who may be active holds a version of the resource below `version`: whether those who were asked
    /// with [`Membership::request`] have still to yield. Takes one read.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn still_held(&self, resource: &Resource, version: Version) -> Result<bool, RequestError> {
        Ok(self.standing(resource)?.holders.values().any(|holder| holder.version < version))
    }

    /// Tells a host an event: numbers that mean what the two agree on. Its program is told by
    /// [`on_notice`](crate::JoinOptions::on_notice) or, on a sanlock host, by what has registered for it. `generation`
    /// 0 is for whoever holds the id. Takes a renewal, which is made at once.
    ///
    /// It stands in this host's record for six I/O timeouts, and is not acknowledged. The record has room for one: the
    /// same event may be sent to several hosts, another one only when it is withdrawn. A host that is called meanwhile
    /// for another reason takes the event for its own if the generations are the same.
    ///
    /// # Errors
    /// See [`EventError`].
    pub fn send_event(&self, host: HostId, event: HostEvent) -> Result<(), EventError> {
        if event.event == 0 && event.data == 0 {
            return Err(EventError::Empty);
        }
        self.member().pulse.held().map_err(EventError::Lost)?;
        let there = self.member().with_observer(|observer| {
            let record = observer.record(host).and_then(|seen| seen.good());
            record.is_some_and(|record| !record.is_free() && [0, record.generation].contains(&event.generation))
        });
        if !there || host == self.owner().host {
            return Err(EventError::NotThere { host, generation: event.generation });
        }
        self.member().call(&[host], Some(event)).map_err(|error| match error {
            NotCalled::Busy(left) => EventError::Busy { left },
            NotCalled::Lost(reason) => EventError::Lost(reason),
        })
    }

    fn standing(&self, resource: &Resource) -> Result<Standing, RequestError> {
        let member = self.member();
        member.pulse.held().map_err(RequestError::Lost)?;
        let (_, view) = member.read_area(resource)?;
        let leader = self.lockspace().leader(&view, resource)?;
        let mut standing = Standing { latest: leader.version, holders: BTreeMap::new() };
        let now = member.io.now();
        for (version, owner, hold) in view.holders(leader, Version::new(u64::MAX)) {
            let Owner { host, .. } = owner;
            if let Verdict::Active { dead_at } = member.with_observer(|observer| observer.judge(owner, now)) {
                standing.latest = standing.latest.max(version);
                // Whoever owns it and shares it is the owner.
                let blocker = Blocker { host, owner: Some(owner), version, free_at: dead_at, hold };
                standing.holders.entry(host).or_insert_with(|| member.holder(&blocker));
            }
        }
        Ok(standing)
    }
}

impl From<WriteError> for RequestError {
    fn from(error: WriteError) -> RequestError {
        match error {
            WriteError::Lost(reason) => RequestError::Lost(reason),
            WriteError::Disk(error) => error.into(),
        }
    }
}
