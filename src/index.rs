//! Reads the resource index, and what stands in the areas behind its entries.

use std::time::Duration;

use crate::disk::Lane;
use crate::engine::io::Io;
use crate::error::{Damage, DiskError, FindError};
use crate::format::{Corrupt, IndexHeader, Leader};
use crate::protocol::catalog::index::{GUARD, Index};
use crate::protocol::delta::Terms;
use crate::protocol::{Defect, Seen, reading};
use crate::types::{Name, Resource};

/// What the first sector of an area shows.
pub(crate) enum Area {
    /// A resource of the lockspace.
    Resource(Name),
    /// A resource that was deleted.
    Cleared,
    /// Nothing, the lease that guards the index, or something of another lockspace or formatting.
    Other,
    Damaged,
}

impl Area {
    /// What the area at `offset` shows. One that can't be read is damaged.
    pub(crate) fn read(io: &Io, terms: &Terms, offset: u64, timeout: Duration) -> Result<Area, DiskError> {
        let sector = match io.read(Lane::General, offset, terms.geometry.sector_bytes(), timeout) {
            Ok((_, sector)) => sector,
            Err(error) if error.is_timeout() => return Err(error),
            Err(_) => return Ok(Area::Damaged),
        };
        Ok(match reading::leader(Ok(&sector), offset, terms.nonce) {
            Seen::Good(leader) if leader.lockspace != terms.lockspace || leader.resource == GUARD => Area::Other,
            Seen::Good(leader) if leader.cleared => Area::Cleared,
            Seen::Good(leader) => Area::Resource(leader.resource),
            Seen::Bad(Defect::OtherFormatting { .. }) => Area::Other,
            Seen::Bad(_) if sector.iter().all(|byte| *byte == 0) => Area::Other,
            Seen::Bad(_) => Area::Damaged,
        })
    }
}

/// The header of the index alone: whether there is one, and of what size.
pub(crate) fn read_header(io: &Io, terms: &Terms) -> Result<IndexHeader, FindError> {
    let geometry = terms.geometry;
    let at = Index::offset(geometry);
    let sector = geometry.sector_bytes();
    let timeout = terms.timeouts.io();
    if io.disk().len() < at + geometry.area_bytes() {
        return Err(FindError::NoIndex { device: io.device() });
    }
    let (_, bytes) = io.read(Lane::General, at, sector, timeout)?;
    Index::header(&bytes, terms).or_else(|reason| match was_made(io, terms, &bytes, timeout)? {
        true => Err(Damage { device: io.device(), offset: at, what: "resource index", reason: reason.into() }.into()),
        false => Err(FindError::NoIndex { device: io.device() }),
    })
}

/// The index.
pub(crate) fn read(io: &Io, terms: &Terms) -> Result<Index, FindError> {
    let header = read_header(io, terms)?;
    Ok(read_entries(io, terms, header)?)
}

/// The entries that belong to `header`, whatever stands in its own place.
fn read_entries(io: &Io, terms: &Terms, header: IndexHeader) -> Result<Index, DiskError> {
    let (offset, sectors) = Index::entries_extent(&header);
    let len = sectors as usize * terms.geometry.sector_bytes();
    let (_, bytes) = io.read(Lane::General, offset, len, terms.timeouts.io())?;
    Ok(Index::decode(header, &bytes))
}

/// The index under the header that it had when nothing else was said, with room for all entries that stand there.
pub(crate) fn guess(io: &Io, terms: &Terms) -> Result<Index, DiskError> {
    let most = terms.geometry.max_index_entries();
    let mut index = read_entries(io, terms, Index::usual_header(terms, most))?;
    let last = index.entries.iter().rposition(|entry| matches!(entry, Ok(Some(_))));
    let used = last.map_or(0, |last| u32::try_from(last + 1).unwrap_or(most));
    index.header = Index::usual_header(terms, used.max(IndexHeader::DEFAULT_MAX_RESOURCES).min(most));
    index.entries.truncate(index.header.max_resources as usize);
    Ok(index)
}

/// Whether there ever was an index where `first` stands for its header: else there is nothing, or a resource, and no
/// lease that guards an index.
fn was_made(io: &Io, terms: &Terms, first: &[u8], timeout: Duration) -> Result<bool, DiskError> {
    let geometry = terms.geometry;
    let resource = Leader::decode(first, Index::offset(geometry)).is_ok();
    if !resource && first.iter().any(|byte| *byte != 0) {
        return Ok(true);
    }
    let guard = Index::guard(geometry);
    if guard.offset() + geometry.area_bytes() > io.disk().len() {
        return Ok(false);
    }
    let (_, bytes) = io.read(Lane::General, guard.offset(), geometry.sector_bytes(), timeout)?;
    Ok(Leader::decode(&bytes, guard.offset()).is_ok_and(|leader| leader.resource == GUARD))
}

/// The first resource of that name. When there is none, but an entry is damaged, that is the error.
pub(crate) fn find(io: &Io, index: &Index, name: Name) -> Result<Resource, FindError> {
    if let Some(found) = index.resources().find(|resource| resource.name == name) {
        return Ok(found);
    }
    if let Some(damage) = damages(io, index).next() {
        return Err(damage.into());
    }
    let known = index.resources().map(|resource| resource.name).collect();
    Err(FindError::NotFound { device: io.device(), name, known })
}

/// The entries that can't be read.
pub(crate) fn damages(io: &Io, index: &Index) -> impl Iterator<Item = Damage> {
    index.damaged().map(|(number, reason)| damage(io, index, number, reason))
}

/// What is wrong with entry `number`.
pub(crate) fn damage(io: &Io, index: &Index, number: u32, reason: &Corrupt) -> Damage {
    let offset = index.header.offset + index.header.geometry.index_entry_offset(number);
    Damage { device: io.device(), offset, what: "index entry", reason: reason.clone().into() }
}
