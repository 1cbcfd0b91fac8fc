//! Looks for what is damaged. Writes nothing.

use std::collections::BTreeSet;

use super::Finding;
use crate::disk::{Fault, Lane};
use crate::engine::areas::whole_view;
use crate::error::{Damage, DiskCause, DiskError, FindError};
use crate::format::numbers::{Numbers, is_reached};
use crate::format::{Leader, Request};
use crate::index;
use crate::lockspace::{FIRST_READ, Lockspace};
use crate::protocol::catalog::index::Index;
use crate::protocol::{Defect, Seen, reading};
use crate::types::{HostId, Owner, Resource};

impl Lockspace {
    /// What is damaged, in the order in which it is best repaired: the hosts' records, what guards the index, the
    /// index, then the resources. After the index was repaired there may be more resources to look at. Reads every
    /// area.
    ///
    /// # Errors
    /// When the device can't be read.
    pub fn examine(&self) -> Result<Vec<Finding>, DiskError> {
        let geometry = self.terms.geometry;
        let (_, sectors) = self.io.read_sectors(0, 0..geometry.max_hosts(), geometry.sector_bytes(), FIRST_READ)?;
        let hosts = sectors.iter().zip(1..).filter_map(|(sector, id)| Some((HostId::new(id)?, sector)));
        let mut findings: Vec<Finding> = hosts
            .filter_map(|(host, sector)| {
                let at = geometry.delta_offset(host);
                let seen = reading::within_reach(reading::record(sector, at, self.terms.nonce));
                let reason = seen.bad()?.clone();
                let damage = self.damage(at, "host record", reason);
                Some(Finding::HostRecord { host, damage })
            })
            .collect();
        let found = self.index_or_guess()?;
        let resources = self.all_resources(found.as_ref().map(|(_, index)| index))?;
        if let Some((header, index)) = found {
            findings.extend(self.examine_area(self.index_guard())?);
            let entries = self.flaws(&index)?;
            if header.is_some() || !entries.is_empty() {
                findings.push(Finding::Index { header, entries });
            }
        }
        for resource in resources {
            findings.extend(self.examine_area(resource)?);
        }
        Ok(findings)
    }

    /// Every resource that the index or a leader names.
    fn all_resources(&self, index: Option<&Index>) -> Result<Vec<Resource>, DiskError> {
        let mut all: Vec<Resource> = index.into_iter().flat_map(Index::resources).collect();
        let unlisted = self.search()?.into_iter().filter(|found| all.iter().all(|known| known.offset != found.offset));
        let unlisted: Vec<Resource> = unlisted.collect();
        all.extend(unlisted);
        Ok(all)
    }

    /// The index, if there is one; where its header is damaged, what is wrong with it, and the index under a header
    /// that is guessed.
    pub(super) fn index_or_guess(&self) -> Result<Option<(Option<Damage>, Index)>, DiskError> {
        let damage = match index::read(&self.io, &self.terms) {
            Ok(index) => return Ok(Some((None, index))),
            Err(FindError::Damaged(damage)) => damage,
            Err(FindError::Disk(error)) => self.unreadable(error, "resource index")?,
            // There is none; nothing else can be wrong with all of it.
            Err(_) => return Ok(None),
        };
        Ok(Some((Some(damage), index::guess(&self.io, &self.terms)?)))
    }

    /// What is damaged in the area of a resource. It may be one that neither the index nor its own leader names any
    /// more: see [`Lockspace::resource_at`].
    ///
    /// # Errors
    /// When the area can't be read.
    pub fn examine_area(&self, resource: Resource) -> Result<Vec<Finding>, DiskError> {
        let geometry = self.geometry();
        let view = match whole_view(&self.io, &self.terms, &resource, FIRST_READ) {
            Ok(view) => view.within_reach(None),
            Err(error) => {
                let damage = Damage { offset: resource.offset, ..self.unreadable(error, "leader")? };
                return Ok(vec![Finding::Leader { resource, damage }]);
            }
        };
        let mut findings = Vec::new();
        if let Seen::Bad(reason) = &view.leader {
            let damage = self.damage(resource.offset, "leader", reason.clone());
            findings.push(Finding::Leader { resource, damage });
        }
        let at = resource.offset + geometry.request_offset();
        let request = match self.io.read(Lane::General, at, geometry.sector_bytes(), FIRST_READ) {
            // One that was never written asks for nothing.
            Ok((_, sector)) if sector.iter().all(|byte| *byte == 0) => None,
            Ok((_, sector)) => {
                let flaw = Request::decode(&sector).map_or_else(Some, |request| request.beyond_reach());
                flaw.map(|reason| self.damage(at, "request", reason.into()))
            }
            Err(error) => Some(self.unreadable(error, "request")?),
        };
        findings.extend(request.map(|damage| Finding::Request { resource, damage }));
        for (host, seen) in &view.blocks {
            if let Seen::Bad(reason) = seen {
                let damage = self.damage(resource.offset + geometry.block_offset(*host), "block", reason.clone());
                findings.push(Finding::Block { resource, host: *host, damage });
            }
        }
        Ok(findings)
    }

    /// What sanlock would read of the leader of a resource, if it is no valid one of this lockspace.
    pub(super) fn damaged_leader(&self, resource: &Resource) -> Result<Option<Option<Leader>>, DiskError> {
        match self.io.read(Lane::General, resource.offset, self.geometry().sector_bytes(), FIRST_READ) {
            Ok((_, sector)) => {
                let leader = reading::leader(Ok(&sector), resource.offset, self.terms.nonce);
                Ok(reading::within_reach(leader)
                    .bad()
                    .map(|defect| reading::rest(defect, &sector, Leader::decode_base)))
            }
            Err(error) => self.unreadable(error, "leader").map(|_| Some(None)),
        }
    }

    /// The largest generation of a host that any leader or block shows, of those that hosts reach.
    pub(super) fn generation_shown(&self, host: HostId) -> Result<u64, DiskError> {
        let mut shown = BTreeSet::from([0]);
        let index = self.index_or_guess()?.map(|(_, index)| index);
        let guard = index.is_some().then(|| self.index_guard());
        for resource in self.all_resources(index.as_ref())?.into_iter().chain(guard) {
            let view = match whole_view(&self.io, &self.terms, &resource, FIRST_READ) {
                Ok(view) => view,
                Err(error) => {
                    self.unreadable(error, "leader")?;
                    continue;
                }
            };
            let generation = |owner: Owner| if owner.host == host { owner.generation.get() } else { 0 };
            if let Seen::Good(leader) = &view.leader {
                let wrote = if leader.writer.id == host.get() { leader.writer.generation } else { 0 };
                shown.extend([wrote, leader.owner.map_or(0, generation)]);
            }
            for (whose, block) in view.good_blocks() {
                let wrote =
                    block.extension.as_ref().filter(|_| whose == host).map_or(0, |extension| extension.generation);
                let shares = block.shared.filter(|_| whose == host).map_or(0, |generation| generation.get());
                shown.extend([wrote, shares, block.inp.map_or(0, generation)]);
            }
        }
        Ok(shown.into_iter().rev().find(|number| is_reached(*number)).unwrap_or_default())
    }

    /// A sector that the disk says it can't read is damaged; any other error says nothing of it.
    fn unreadable(&self, error: DiskError, what: &'static str) -> Result<Damage, DiskError> {
        match error.cause {
            DiskCause::Fault(Fault::Os { .. }) => Ok(self.damage(error.offset, what, Defect::Unreadable)),
            _ => Err(error),
        }
    }
}
