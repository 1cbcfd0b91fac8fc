//! The properties, checked at every step. What it watches of host ids and of each resource has a file each.

mod host_ids;
mod leases;
mod messages;
mod resource;
mod shown;
mod wiped;

use std::collections::{BTreeMap, BTreeSet};

use leasehold::{HostId, Name, Time};

use super::counters::Counters;
use super::env::NONCE;
use super::storage::Area;
use messages::Messages;
use resource::Resource;

/// A right of a machine that ends at a moment of the world's time.
#[derive(Clone, Copy)]
struct Right<T> {
    what: T,
    until: Time,
}

/// A host id that is held, and in which formatting of the device.
#[derive(Clone, Copy)]
struct Tenure {
    id: HostId,
    nonce: u32,
    /// It is of a former lockspace, and may be renewed until then.
    strays: Option<Time>,
}

/// Watches a run.
pub(super) struct Checker {
    pub(super) counters: Counters,
    failure: Option<String>,
    machines: usize,
    /// For each machine, its host id.
    tenures: Vec<Option<Right<Tenure>>>,
    /// Of the lockspace that there is.
    nonce: u32,
    /// When that was formatted to the end, where all records were of it.
    complete: Option<Time>,
    /// The latest of each host id, and all there were.
    generations: BTreeMap<HostId, (u64, BTreeSet<u64>)>,
    /// The generation that the next one exceeds at least, of ids whose record was set back.
    put_back: BTreeMap<HostId, u64>,
    /// Ids of which a generation was taken after that: it jumped, and so does the one after the next time.
    jumped: BTreeSet<HostId>,
    /// Ids whose record a join that failed put over that of their holder, late: its machine takes them as its own.
    raced: BTreeSet<HostId>,
    /// Of these, those whose record a write of the holder before the race has hit since: its machine may take the id at
    /// once, which is a known limit (docs/design/limits.md).
    misnamed: BTreeSet<HostId>,
    /// Ids whose record a late write of a former lockspace has hit.
    revived: BTreeSet<HostId>,
    resources: BTreeMap<Area, Resource>,
    /// What hosts say to each other.
    pub(super) messages: Messages,
    /// What each machine called what it held last in an area.
    names: BTreeMap<(Area, usize), Name>,
}

impl Checker {
    pub(super) fn new(machines: usize) -> Checker {
        Checker {
            counters: Counters::default(),
            failure: None,
            machines,
            tenures: vec![None; machines],
            nonce: NONCE,
            complete: None,
            generations: BTreeMap::new(),
            put_back: BTreeMap::new(),
            jumped: BTreeSet::new(),
            raced: BTreeSet::new(),
            revived: BTreeSet::new(),
            misnamed: BTreeSet::new(),
            resources: BTreeMap::new(),
            messages: Messages::default(),
            names: BTreeMap::new(),
        }
    }

    /// What is watched of a resource.
    pub(super) fn of(&mut self, area: Area) -> &mut Resource {
        self.resources.entry(area).or_insert_with(|| Resource::new(area, self.machines))
    }

    /// What a machine has just begun to hold is the only resource of its name that anybody holds.
    pub(super) fn is_called(&mut self, area: Area, host: usize, name: Name, now: Time) {
        self.names.insert((area, host), name);
        let held = |(at, other): &(Area, usize)| *at != area && self.resources[at].is_held_by(*other, now);
        if let Some(((at, other), _)) = self.names.iter().find(|(key, it)| **it == name && held(key)) {
            let (here, there) = (area.offset(), at.offset());
            self.fail(format!("S1: machine {host} holds {name} at {here} while machine {other} does at {there}"));
        }
    }

    pub(super) fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    pub(super) fn take_failure(&mut self) -> Option<String> {
        self.failure.take().or_else(|| self.resources.values_mut().find_map(Resource::take_failure))
    }

    /// How often things happened.
    pub(super) fn counters(&self) -> Counters {
        let mut sum = self.counters.clone();
        self.resources.values().for_each(|resource| sum += resource.counters.clone());
        sum
    }

    /// Everything on the machine has stopped.
    pub(super) fn rebooted(&mut self, host: usize) {
        self.tenures[host] = None;
        self.resources.values_mut().for_each(|resource| resource.stopped(host));
    }
}
