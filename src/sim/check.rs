//! The properties, checked at every step. What it watches of host ids and of each resource has a file each.

mod host_ids;
mod leases;
mod resource;
mod shown;

use std::collections::{BTreeMap, BTreeSet};

use super::counters::Counters;
use super::storage::Area;
use crate::types::{HostId, Time};
use resource::Resource;

/// A right of a machine that ends at a moment of the world's time.
#[derive(Clone, Copy)]
struct Right<T> {
    what: T,
    until: Time,
}

/// Watches a run.
pub(super) struct Checker {
    pub(super) counters: Counters,
    failure: Option<String>,
    machines: usize,
    /// For each machine, its host id.
    tenures: Vec<Option<Right<HostId>>>,
    generations: BTreeMap<HostId, u64>,
    /// Of ids of which an earlier generation was declared dead late: until when its holder may not know that it is
    /// lost.
    declared_late: BTreeMap<HostId, Time>,
    /// The generation that the next one exceeds at least, of ids whose record was set back.
    put_back: BTreeMap<HostId, u64>,
    /// Ids whose record a join that failed put over that of their holder, late: its machine takes them as its own.
    raced: BTreeSet<HostId>,
    resources: BTreeMap<Area, Resource>,
}

impl Checker {
    pub(super) fn new(machines: usize) -> Checker {
        Checker {
            counters: Counters::default(),
            failure: None,
            machines,
            tenures: vec![None; machines],
            generations: BTreeMap::new(),
            declared_late: BTreeMap::new(),
            put_back: BTreeMap::new(),
            raced: BTreeSet::new(),
            resources: BTreeMap::new(),
        }
    }

    /// What is watched of a resource.
    pub(super) fn of(&mut self, area: Area) -> &mut Resource {
        self.resources.entry(area).or_insert_with(|| Resource::new(area, self.machines))
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
