//! Reads resources' areas.

use std::time::Duration;

use super::io::Io;
use crate::error::DiskError;
use crate::protocol::Span;
use crate::protocol::area::AreaView;
use crate::protocol::delta::Terms;
use crate::types::Resource;

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
