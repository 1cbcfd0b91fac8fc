//! The index as the areas say it ought to be.

use std::collections::BTreeSet;

use super::{RepairError, Repaired};
use crate::disk::Lane;
use crate::error::{Damage, DiskError};
use crate::index::{self, Area};
use crate::lockspace::{FIRST_READ, Lockspace};
use crate::membership::Membership;
use crate::protocol::catalog::index::Index;
use crate::types::{Name, Resource, Version};

/// An entry of the index that does not say what stands in its area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryFlaw {
    /// Which entry, from 0.
    pub number: u32,
    /// What is wrong with its bytes. `None`: they are a valid entry, or a free one, but not what belongs there.
    pub damage: Option<Damage>,
    /// What belongs there: the name of a resource, or nothing. `Err`: the area is damaged, too, so nobody can say.
    pub right: Result<Option<Name>, ()>,
}

impl Lockspace {
    /// The entries that don't say what stands in their areas.
    pub(super) fn flaws(&self, index: &Index) -> Result<Vec<EntryFlaw>, DiskError> {
        let numbered = || (0..index.header.max_resources).zip(&index.entries);
        let mut areas = Vec::new();
        for (number, _) in numbered() {
            areas.push(match number < index.room(self.io.disk().len()) {
                true => Area::read(&self.io, &self.terms, index.header.resource_offset(number), FIRST_READ)?,
                // The device ends before it.
                false => Area::Other,
            });
        }
        // Names that an entry and its area agree on. No other area gets one of them: two resources of one name could
        // both be held.
        let mut names: BTreeSet<Name> = BTreeSet::new();
        for ((_, entry), area) in numbered().zip(&areas) {
            if let (Ok(Some(entry)), Area::Resource(name)) = (entry, area)
                && entry.name == *name
            {
                names.insert(*name);
            }
        }
        let mut flaws = Vec::new();
        for ((number, entry), area) in numbered().zip(&areas) {
            let now = entry.as_ref().map(|entry| entry.as_ref().map(|entry| entry.name));
            let right = match (&now, area) {
                (Ok(Some(named)), Area::Resource(name)) if named == name => continue,
                (_, Area::Resource(name)) => Ok(names.insert(*name).then_some(*name)),
                (Ok(Some(_)) | Err(_), Area::Cleared) | (Err(_), Area::Other) => Ok(None),
                (Err(_), Area::Damaged) => Err(()),
                (Ok(_), _) => continue,
            };
            if now.is_err() || now.as_ref().ok() != right.as_ref().ok() {
                let damage = now.err().map(|reason| index::damage(&self.io, index, number, reason));
                flaws.push(EntryFlaw { number, damage, right });
            }
        }
        Ok(flaws)
    }
}

impl Membership {
    /// Writes the index as the areas say, under the lease that guards it, which is held at that version.
    pub(super) fn repair_index(&self, guard: (Resource, Version)) -> Result<Repaired, RepairError> {
        let lockspace = &self.lockspace;
        let Some((header, index)) = lockspace.index_or_guess()? else { return Ok(Repaired::Sound) };
        let flaws = lockspace.flaws(&index)?;
        let mut entries = 0;
        for flaw in &flaws {
            if let Ok(name) = flaw.right {
                let offset = Index::entry_sector(&index.header, flaw.number);
                let (size, timeout) = (lockspace.geometry().sector_bytes(), lockspace.timeouts().io());
                let (_, sector) = self.member.io.read(Lane::General, offset, size, timeout)?;
                let sector = Index::with_entry(&index.header, flaw.number, sector, name);
                self.member.write_index(guard, offset, sector)?;
                entries += 1;
            }
        }
        // It makes the entries valid.
        if header.is_some() {
            self.member.write_index(guard, index.header.offset, index.header.encode())?;
        }
        match (header.is_some() || entries > 0, flaws.into_iter().find_map(|flaw| flaw.right.err().and(flaw.damage))) {
            (_, Some(damage)) => Err(RepairError::Damaged(damage)),
            (true, None) => Ok(Repaired::Index { entries }),
            (false, None) => Ok(Repaired::Sound),
        }
    }
}
