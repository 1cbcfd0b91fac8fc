//! A lockspace with an index: which resources are listed, and somebody who deletes one now and then.

use leasehold::format::{IndexEntry, IndexHeader, Leader};
use leasehold::protocol::Seen;
use leasehold::protocol::catalog::index::Index;
use leasehold::{Name, Resource, Version};

use super::env::{Env, name};
use super::host::terms;
use super::storage::{Area, SECTOR};

impl Env {
    /// Whether there is an index, so that resources are made and deleted.
    pub(super) const fn has_index(&self) -> bool {
        self.options.places > 0
    }

    fn index_header(&self) -> IndexHeader {
        Index::usual_header(&terms(self.options.timeouts, self.storage.nonce), self.options.places as u32)
    }

    /// Bytes of the device: room for as many resources as the index lists.
    pub(super) fn device_bytes(&self) -> u64 {
        Area::of_resource(self.options.places).offset()
    }

    /// Writes an index that lists what is there from the start, and its guard. What stands in the other places is of no
    /// resource.
    pub(super) fn format_index(&mut self) {
        let header = self.index_header();
        let mut entries = Vec::new();
        for area in (0..self.options.places).map(Area::of_resource) {
            let listed = area.number() < self.options.resources;
            let entry = listed.then(|| IndexEntry { offset: area.offset(), name: area.name() });
            entries.extend(entry.map_or([0; IndexEntry::BYTES], |entry| entry.encode()));
        }
        entries.resize(SECTOR as usize, 0);
        self.storage.put(0, header.offset, header.encode().into());
        self.storage.put(0, header.offset + SECTOR, entries.into());
        self.lead(Area::GUARD, Version::default(), None);
    }

    /// A leader that names nobody.
    fn lead(&mut self, area: Area, version: Version, deleted: Option<Name>) {
        let at = area.offset();
        let leader = self.made_leader(deleted.unwrap_or(area.resource().name()), version);
        self.storage.put(0, at, Leader { cleared: deleted.is_some(), ..leader }.encode(at).into());
    }

    /// The index as it stands on disk.
    pub(super) fn index(&self) -> Index {
        let header = self.index_header();
        let entries = self.storage.sector(0, header.offset + SECTOR);
        Index::decode(header, &entries)
    }

    /// The resource in the area, as who looks for it by its name finds it: it is listed, and its leader names it.
    pub(super) fn resource_in(&self, area: Area) -> Option<Resource> {
        if !self.has_index() || area == Area::GUARD {
            return Some(area.resource());
        }
        let listed = self.index().resources().find(|resource| resource.offset() == area.offset())?;
        match self.storage.leader(0, area) {
            Seen::Good(leader) if !leader.cleared && leader.resource == listed.name() => Some(listed),
            Seen::Good(_) | Seen::Bad(_) => None,
        }
    }

    /// A name that somebody may make a resource of.
    pub(super) fn any_name(&mut self) -> Name {
        let number = self.random.below(self.options.places as u64);
        name(format!("made{number}").as_bytes())
    }

    /// Somebody deletes the resource in the area, as sanlock's command does, while nobody has anything to do with it.
    pub(super) fn delete(&mut self, area: Area) {
        let Some(resource) = self.resource_in(area) else { return };
        let Seen::Good(leader) = self.storage.leader(0, area) else { return };
        if !leader.is_free() || self.check.of(area).is_held(self.now) {
            return;
        }
        self.trace(|| format!("{} is deleted, in the area at {}", resource.name(), area.offset()));
        self.check.counters.deleted += 1;
        self.lead(area, leader.version, Some(resource.name()));
        let header = self.index_header();
        let number = area.number() as u32;
        let at = Index::entry_sector(&header, number);
        let sector = Index::with_entry(&header, number, self.storage.sector(0, at).to_vec(), None);
        self.storage.put(0, at, sector.into());
        self.changed(area.offset());
        if self.random.chance(self.options.faults.rot_deleted) {
            self.rot(area.offset());
        }
    }

    /// A sector of an area is about to be cleared: only where there is no resource, and nobody ever owned one; unless
    /// another machine was given the id of whoever clears, by a late join.
    pub(super) fn is_cleared(&mut self, host: usize, offset: u64) {
        let Some(area) = Area::at(offset) else { return };
        let is_there = self.storage.leader(0, area).good().is_some_and(|leader| !leader.cleared);
        if !is_there && !self.check.of(area).was_owned() {
            return;
        }
        // The machine keeps the lock of the id until the write is over.
        match self.machines[host].locked.is_some_and(|(id, _)| self.check.is_outrun(host, id, self.now)) {
            true => self.check.of(area).meets(),
            false => self.check.fail(format!("W: machine {host} clears the sector {offset} of the area of a resource")),
        }
    }
}
