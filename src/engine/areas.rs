//! Reads resources' areas.

use std::collections::BTreeMap;
use std::time::Duration;

use super::io::{Io, Sectors};
use super::member::Member;
use crate::error::DiskError;
use crate::format::{Block, Geometry, Leader};
use crate::protocol::area::AreaView;
use crate::protocol::{Defect, Seen, Span};
use crate::types::{HostId, Resource};

impl Member {
    /// Reads the leader and the blocks of the ids in use.
    pub(crate) fn read_area(&self, resource: &Resource) -> Result<(Span, AreaView), DiskError> {
        self.read_area_within(resource, self.terms.timeouts.io())
    }

    /// As [`Member::read_area`], with another timeout.
    pub(super) fn read_area_within(
        &self,
        resource: &Resource,
        timeout: Duration,
    ) -> Result<(Span, AreaView), DiskError> {
        let highest = self.hosts.coverage().highest.max(self.host().get());
        view_up_to(&self.io, self.terms.geometry, resource, highest, timeout)
    }
}

/// The leader and the blocks of all hosts that there is room for.
pub(crate) fn whole_view(
    io: &Io,
    geometry: Geometry,
    resource: &Resource,
    timeout: Duration,
) -> Result<AreaView, DiskError> {
    Ok(view_up_to(io, geometry, resource, geometry.max_hosts(), timeout)?.1)
}

/// The leader and the blocks of the hosts up to the id `highest`.
pub(crate) fn view_up_to(
    io: &Io,
    geometry: Geometry,
    resource: &Resource,
    highest: u64,
    timeout: Duration,
) -> Result<(Span, AreaView), DiskError> {
    let (span, sectors) = io.read_sectors(resource.offset, 0..highest + 2, geometry.sector_bytes(), timeout)?;
    Ok((span, view(&sectors, geometry, resource.offset)))
}

/// What the sectors of an area from its start say.
pub(crate) fn view(sectors: &Sectors, geometry: Geometry, area: u64) -> AreaView {
    let mut sectors = sectors.iter();
    let first = sectors.next().unwrap_or(Err(Defect::Unreadable));
    let leader = first.and_then(|sector| Ok(Leader::decode(sector, area)?)).into();
    // The request record comes first.
    let blocks = sectors.skip(1).zip(1..).filter_map(|(sector, id)| {
        let host = HostId::new(id)?;
        if sector.as_ref().is_ok_and(|sector| sector.iter().all(|byte| *byte == 0)) {
            return None;
        }
        let block = sector.and_then(|sector| Ok(Block::decode(sector, area + geometry.block_offset(host))?));
        Some((host, block.into()))
    });
    AreaView { leader, blocks: blocks.collect() }
}

/// The blocks that are damaged.
pub(super) fn damaged(view: &AreaView) -> BTreeMap<HostId, Defect> {
    let bad = view.blocks.iter().filter_map(|(host, seen)| match seen {
        Seen::Bad(defect) => Some((*host, defect.clone())),
        Seen::Good(_) => None,
    });
    bad.collect()
}
