//! The resource index: which resource stands where. Its entries are hints; the leader of an area says what it is.

use std::time::Duration;

use crate::disk::Lane;
use crate::engine::io::Io;
use crate::error::{Damage, DiskError, FindError};
use crate::format::{Corrupt, Geometry, IndexEntry, IndexHeader, Leader};
use crate::protocol::delta::Terms;
use crate::protocol::{Defect, Seen, reading};
use crate::types::{Name, Resource};

/// The name of the lease that guards the index.
const GUARD: Name = {
    let text = b"rindex_lease";
    let mut field = [0; Name::FIELD];
    let mut at = 0;
    while at < text.len() {
        field[at] = text[at];
        at += 1;
    }
    Name::from_field(field)
};

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

/// The index as it was read.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) header: IndexHeader,
    /// Every entry, free and damaged ones too, in their order.
    pub(crate) entries: Vec<Result<Option<IndexEntry>, Corrupt>>,
    device: String,
    len: u64,
}

impl Index {
    /// Where the index starts on a device that leasehold formatted.
    pub(crate) const fn offset(geometry: Geometry) -> u64 {
        geometry.area_bytes()
    }

    /// The lease that guards the index, one area further.
    pub(crate) const fn guard(geometry: Geometry) -> Resource {
        Resource { name: GUARD, offset: 2 * geometry.area_bytes() }
    }

    /// The header alone: whether there is an index, and of what size.
    pub(crate) fn header(io: &Io, terms: &Terms) -> Result<IndexHeader, FindError> {
        let geometry = terms.geometry;
        let at = Index::offset(geometry);
        let sector = geometry.sector_bytes();
        let timeout = terms.timeouts.io();
        let damage = |reason: Corrupt| {
            FindError::from(Damage { device: io.device(), offset: at, what: "resource index", reason: reason.into() })
        };
        if io.disk().len() < at + geometry.area_bytes() {
            return Err(FindError::NoIndex { device: io.device() });
        }
        let (_, bytes) = io.read(Lane::General, at, sector, timeout)?;
        let header = match IndexHeader::decode(&bytes, at) {
            Ok(header) => header,
            Err(reason) => {
                return Err(match Index::was_made(io, geometry, &bytes, timeout)? {
                    true => damage(reason),
                    false => FindError::NoIndex { device: io.device() },
                });
            }
        };
        if header.geometry != geometry || header.lockspace != terms.lockspace {
            return Err(damage(Corrupt::IndexEntry { offset: header.offset, name: header.lockspace }));
        }
        Ok(header)
    }

    pub(crate) fn read(io: &Io, terms: &Terms) -> Result<Index, FindError> {
        let header = Index::header(io, terms)?;
        Ok(Index::read_entries(io, terms, header)?)
    }

    /// The entries that belong to `header`, whatever stands in its own place.
    pub(crate) fn read_entries(io: &Io, terms: &Terms, header: IndexHeader) -> Result<Index, DiskError> {
        let sector = terms.geometry.sector_bytes();
        let len = (header.max_resources as usize * IndexEntry::BYTES).next_multiple_of(sector);
        let (_, bytes) = io.read(Lane::General, header.offset + sector as u64, len, terms.timeouts.io())?;
        let (entries, _) = bytes.as_chunks::<{ IndexEntry::BYTES }>();
        let entries = entries
            .iter()
            .zip(0..header.max_resources)
            .map(|(bytes, number)| match IndexEntry::decode(bytes)? {
                // An entry that points elsewhere is not one that anybody wrote here.
                Some(entry) if entry.offset != header.resource_offset(number) => {
                    Err(Corrupt::IndexEntry { offset: entry.offset, name: entry.name })
                }
                entry => Ok(entry),
            })
            .collect();
        Ok(Index { header, entries, device: io.device(), len: io.disk().len() })
    }

    /// The index under the header that it had when nothing else was said, with room for all entries that stand there.
    pub(crate) fn guess(io: &Io, terms: &Terms) -> Result<Index, DiskError> {
        let (geometry, lockspace) = (terms.geometry, terms.lockspace);
        let most = geometry.max_index_entries();
        let header =
            |max_resources| IndexHeader { geometry, max_resources, offset: Index::offset(geometry), lockspace };
        let mut index = Index::read_entries(io, terms, header(most))?;
        let last = index.entries.iter().rposition(|entry| matches!(entry, Ok(Some(_))));
        let used = last.map_or(0, |last| u32::try_from(last + 1).unwrap_or(most));
        index.header = header(used.max(IndexHeader::DEFAULT_MAX_RESOURCES).min(most));
        index.entries.truncate(index.header.max_resources as usize);
        Ok(index)
    }

    /// Whether there ever was an index where `first` stands for its header: else there is nothing, or a resource, and
    /// no lease that guards an index.
    fn was_made(io: &Io, geometry: Geometry, first: &[u8], timeout: Duration) -> Result<bool, DiskError> {
        let resource = Leader::decode(first, Index::offset(geometry)).is_ok();
        if !resource && first.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        let guard = Index::guard(geometry);
        if guard.offset + geometry.area_bytes() > io.disk().len() {
            return Ok(false);
        }
        let (_, bytes) = io.read(Lane::General, guard.offset, geometry.sector_bytes(), timeout)?;
        Ok(Leader::decode(&bytes, guard.offset).is_ok_and(|leader| leader.resource == GUARD))
    }

    /// The resources that are listed, in the order of their areas.
    pub(crate) fn resources(&self) -> impl Iterator<Item = Resource> + '_ {
        self.entries
            .iter()
            .filter_map(|entry| entry.as_ref().ok()?.as_ref())
            .map(|entry| Resource { name: entry.name, offset: entry.offset })
    }

    /// The first resource of that name. When there is none, but an entry is damaged, that is the error.
    pub(crate) fn find(&self, name: Name) -> Result<Resource, FindError> {
        if let Some(found) = self.resources().find(|resource| resource.name == name) {
            return Ok(found);
        }
        if let Some(damage) = self.damages().next() {
            return Err(damage.into());
        }
        Err(FindError::NotFound {
            device: self.device.clone(),
            name,
            known: self.resources().map(|resource| resource.name).collect(),
        })
    }

    /// The entries that can't be read.
    pub(crate) fn damages(&self) -> impl Iterator<Item = Damage> + '_ {
        self.entries.iter().zip(0..).filter_map(|(entry, number)| Some(self.damage(number, entry.as_ref().err()?)))
    }

    /// What is wrong with entry number `number`.
    pub(crate) fn damage(&self, number: u32, reason: &Corrupt) -> Damage {
        let offset = self.header.offset + self.header.geometry.index_entry_offset(number);
        Damage { device: self.device.clone(), offset, what: "index entry", reason: reason.clone().into() }
    }

    /// How many entries can be used: the index may have more than the device has room for.
    pub(crate) fn room(&self) -> u32 {
        let area = self.header.geometry.area_bytes();
        let behind = self.len.saturating_sub(self.header.resource_offset(0)) / area;
        self.header.max_resources.min(u32::try_from(behind).unwrap_or(u32::MAX))
    }
}
