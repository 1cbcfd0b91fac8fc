//! Acquires a host id: the one that was asked for, or one that is free.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::hosts::Hosts;
use super::identity::{self, HostLock, LocalLock};
use super::io::Io;
use super::member::{Member, Tell};
use super::procedure::{Driver, Warrant};
use super::pulse::LONGEST_WAIT;
use super::sightings::{Keeper, Place};
use crate::disk::Lane;
use crate::error::{Damage, JoinError};
use crate::protocol::choice::choose;
use crate::protocol::delta::{Acquire, Bid, Identity, Refusal, Tenure, Terms};
use crate::protocol::identity::{Unidentified, hash};
use crate::types::{HostId, Name, Time};

/// What a join is given.
pub(crate) struct Request {
    pub(crate) host: Option<HostId>,
    /// The caller vouches for all who held that id.
    pub(crate) vouches: bool,
    pub(crate) name: Name,
    pub(crate) machine: Option<String>,
    pub(crate) remember: Place,
    pub(crate) tell: Tell,
}

/// Lets another thread end a join.
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    cancelled: Mutex<bool>,
    changed: Condvar,
}

impl Cancel {
    pub(crate) fn cancel(&self) {
        *self.cancelled.lock() = true;
        self.changed.notify_all();
    }
}

/// A join ends when another thread cancels it.
impl Warrant for Cancel {
    type End = JoinError;

    fn until(&self) -> Result<Time, JoinError> {
        if *self.cancelled.lock() { Err(JoinError::Cancelled) } else { Ok(Time::MAX) }
    }

    fn sleep(&self, io: &Io, time: Time) -> Result<(), JoinError> {
        let mut cancelled = self.cancelled.lock();
        loop {
            let now = io.now();
            if *cancelled {
                return Err(JoinError::Cancelled);
            }
            if now >= time {
                return Ok(());
            }
            self.changed.wait_for(&mut cancelled, time.since(now).min(LONGEST_WAIT));
        }
    }
}

/// At most this many ids are tried before an automatic join gives up: each was taken by another host in between.
const MAX_ATTEMPTS: usize = 16;

/// How often an id is tried while only reads take too long: a disk, or this machine, may stall for a moment.
const READ_ATTEMPTS: usize = 3;

pub(crate) fn join(io: Io, terms: Terms, request: Request, cancel: &Cancel) -> Result<Arc<Member>, JoinError> {
    let machine = identity::machine(request.machine.as_deref());
    let identity =
        Identity { name: request.name, machine: machine.ok(), boot: identity::boot(), session: rand::random() };
    let hosts = Hosts::new(&terms, terms.timeouts.io());
    let keeper = Keeper::of(&request.remember, &io, &terms);
    hosts.recall(keeper.as_ref());
    hosts.scan_to_join(&io)?;
    let joiner = Joiner { io: &io, terms: &terms, identity: &identity, unidentified: machine.err(), cancel };
    let tenure = match request.host {
        Some(host) => {
            let max = terms.geometry.max_hosts();
            if host.get() > max {
                return Err(JoinError::TooLarge { device: io.device(), host: host.get(), max });
            }
            joiner.take(host, request.vouches, &hosts)?
        }
        None => joiner.take_any(&hosts)?,
    };
    let member = Member::start(io, terms, hosts, tenure, request.tell)?;
    if let Some(keeper) = keeper {
        member.keep_sightings(keeper);
    }
    Ok(member)
}

/// Why a host id was not locked.
pub(crate) enum LockError {
    /// Another process has it, or a write that it left in flight.
    HeldHere,
    /// The system refused.
    System { what: &'static str, source: std::io::Error },
}

/// Locks a host id for as long as `io`, or a write that it began, is there: one lock for processes that open this
/// device node, one for those that came by another.
pub(crate) fn lock_host(io: &Io, terms: &Terms, host: HostId) -> Result<(), LockError> {
    let key = match terms.nonce {
        0 => hash(&[&terms.lockspace.to_string()]),
        nonce => u64::from(nonce),
    };
    let taken = LocalLock::take(key, host)
        .map_err(|source| LockError::System { what: "the host-local lock could not be taken", source })?;
    let local = taken.ok_or(LockError::HeldHere)?;
    let (at, sector) = (terms.geometry.delta_offset(host), terms.geometry.sector_bytes());
    let taken = HostLock::take(local, io.disk().clone(), at, sector as u64).map_err(|fault| {
        let source = std::io::Error::other(fault);
        LockError::System { what: "the device's record could not be locked", source }
    })?;
    io.keep(taken.ok_or(LockError::HeldHere)?);
    Ok(())
}

struct Joiner<'join> {
    io: &'join Io,
    terms: &'join Terms,
    identity: &'join Identity,
    /// Why it names no machine.
    unidentified: Option<Unidentified>,
    cancel: &'join Cancel,
}

impl Joiner<'_> {
    fn take_any(&self, hosts: &Hosts) -> Result<Tenure, JoinError> {
        let mut tried = BTreeSet::new();
        let mut last = JoinError::NoneFree { device: self.io.device() };
        while tried.len() < MAX_ATTEMPTS {
            let (now, random) = (self.io.now(), rand::random());
            let chosen = hosts
                .with_observer(|observer| choose(observer, self.identity, self.terms.timeouts, &tried, now, random));
            let Some(host) = chosen else { break };
            tried.insert(host);
            match self.take(host, false, hosts) {
                Ok(tenure) => return Ok(tenure),
                Err(error @ (JoinError::Cancelled | JoinError::Disk(_) | JoinError::System { .. })) => {
                    return Err(error);
                }
                Err(error) => last = error,
            }
            hosts.scan_to_join(self.io)?;
        }
        Err(last)
    }

    fn take(&self, host: HostId, vouches: bool, hosts: &Hosts) -> Result<Tenure, JoinError> {
        lock_host(self.io, self.terms, host).map_err(|error| match error {
            LockError::HeldHere => JoinError::HeldHere { device: self.io.device(), host },
            LockError::System { what, source } => JoinError::System { what, source },
        })?;
        let bid = Bid::new(host, hosts.with_observer(|observer| observer.longest_dead()));
        let bid = if vouches { bid.vouched() } else { bid };
        let mut result = self.attempt(host, bid, hosts);
        for _ in 1..READ_ATTEMPTS {
            // A read that took too long; nothing was written, or it is over and counted for nothing.
            let slow = matches!(&result, Err(JoinError::Disk(error)) if error.is_timeout() && !error.write);
            if !slow {
                break;
            }
            result = self.attempt(host, bid, hosts);
        }
        // An id that may have been written stays locked while a write is in flight.
        if result.is_err() && self.io.writes_in_flight() == 0 {
            self.io.let_go();
        }
        result
    }

    fn attempt(&self, host: HostId, bid: Bid, hosts: &Hosts) -> Result<Tenure, JoinError> {
        let mut acquire = Acquire::new(bid, self.identity.clone(), self.terms.clone(), rand::random());
        if self.io.clock().is_boot_time() {
            acquire = acquire.by_boot_time();
        }
        let driver = Driver { io: self.io, lane: Lane::Renewal, geometry: self.terms.geometry, hosts };
        let (joined, failure) = driver.carry_out(acquire, self.cancel)?;
        joined.map(|tenure| *tenure).map_err(|refusal| match (refusal, failure) {
            (Refusal::Storage, Some(error)) => error.into(),
            (refusal, _) => self.refused(host, refusal),
        })
    }

    fn refused(&self, host: HostId, refusal: Refusal) -> JoinError {
        let device = self.io.device();
        let attempt = |reason| JoinError::Attempt { device: device.clone(), host, reason };
        match refusal {
            Refusal::Live(record) => {
                JoinError::Live { device, host, name: record.host_name, generation: record.generation }
            }
            Refusal::NotReleased(record) => {
                let (name, generation, unidentified) = (record.host_name, record.generation, self.unidentified);
                JoinError::NotReleased { device, host, name, generation, unidentified }
            }
            Refusal::Declared(record) => {
                JoinError::Declared { device, host, name: record.host_name, generation: record.generation }
            }
            Refusal::Damaged(reason) => {
                let offset = self.terms.geometry.delta_offset(host);
                Damage { device, offset, what: "host record", reason }.into()
            }
            Refusal::Foreign(record) => {
                JoinError::Foreign { device, host, found: record.owner_id, lockspace: record.lockspace }
            }
            Refusal::Outrun => attempt("another host took it at the same time"),
            Refusal::Storage => attempt("the storage was too slow for it"),
            Refusal::SlowPeer => {
                attempt("a sanlock host held it last, with an I/O timeout that this lockspace's are too short for")
            }
        }
    }
}
