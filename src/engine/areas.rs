//! Reads resources' areas.

use std::collections::BTreeMap;
use std::time::Duration;

use super::io::Io;
use super::member::Member;
use crate::error::DiskError;
use crate::protocol::area::AreaView;
use crate::protocol::delta::Terms;
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
        view_up_to(&self.io, &self.terms, resource, highest, timeout)
    }
}

/// The leader and the blocks of all hosts that there is room for.
pub(crate) fn whole_view(
    io: &Io,
    terms: &Terms,
    resource: &Resource,
    timeout: Duration,
) -> Result<AreaView, DiskError> {
    Ok(view_up_to(io, terms, resource, terms.geometry.max_hosts(), timeout)?.1)
}

/// The leader and the blocks of the hosts up to the id `highest`.
pub(crate) fn view_up_to(
    io: &Io,
    terms: &Terms,
    resource: &Resource,
    highest: u64,
    timeout: Duration,
) -> Result<(Span, AreaView), DiskError> {
    let size = terms.geometry.sector_bytes();
    let (span, sectors) = io.read_sectors(resource.offset, 0..highest + 2, size, timeout)?;
    Ok((span, AreaView::of(&sectors, terms, resource.offset)))
}

/// The blocks that are damaged.
pub(super) fn damaged(view: &AreaView) -> BTreeMap<HostId, Defect> {
    let bad = view.blocks.iter().filter_map(|(host, seen)| match seen {
        Seen::Bad(defect) => Some((*host, defect.clone())),
        Seen::Good(_) => None,
    });
    bad.collect()
}
