//! The resource index as it was read. Its entries are hints; the leader of an area says what it is.

use crate::format::{Corrupt, Geometry, IndexEntry, IndexHeader};
use crate::protocol::delta::Terms;
use crate::types::{Name, Resource};

/// The name of the lease that guards the index.
pub const GUARD: Name = {
    let text = b"rindex_lease";
    let mut field = [0; Name::FIELD];
    let mut at = 0;
    while at < text.len() {
        field[at] = text[at];
        at += 1;
    }
    Name::from_field(field)
};

/// Header and entries of an index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Index {
    /// The header.
    pub header: IndexHeader,
    /// Every entry, free and damaged ones too, in their order.
    pub entries: Vec<Result<Option<IndexEntry>, Corrupt>>,
}

impl Index {
    /// Where the index starts on a device that leasehold formatted.
    pub const fn offset(geometry: Geometry) -> u64 {
        geometry.area_bytes()
    }

    /// The lease that guards the index, one area further.
    pub const fn guard(geometry: Geometry) -> Resource {
        Resource { name: GUARD, offset: 2 * geometry.area_bytes() }
    }

    /// The header of the index of this lockspace, from its sector.
    ///
    /// # Errors
    /// What is wrong with it; also when it belongs to another lockspace.
    pub fn header(sector: &[u8], terms: &Terms) -> Result<IndexHeader, Corrupt> {
        let header = IndexHeader::decode(sector, Index::offset(terms.geometry))?;
        match header.geometry == terms.geometry && header.lockspace == terms.lockspace {
            true => Ok(header),
            false => Err(Corrupt::IndexEntry { offset: header.offset, name: header.lockspace }),
        }
    }

    /// The header that an index has when nothing else was said, with room for `max_resources`.
    pub fn usual_header(terms: &Terms, max_resources: u32) -> IndexHeader {
        let (geometry, lockspace) = (terms.geometry, terms.lockspace);
        IndexHeader { geometry, max_resources, offset: Index::offset(geometry), lockspace }
    }

    /// Where the entries of `header` start, and how many sectors they fill.
    pub fn entries_extent(header: &IndexHeader) -> (u64, u64) {
        let sector = header.geometry.sector_bytes() as u64;
        let bytes = u64::from(header.max_resources) * IndexEntry::BYTES as u64;
        (header.offset + sector, bytes.div_ceil(sector))
    }

    /// The index of `header`, whose entries' sectors hold `bytes`.
    pub fn decode(header: IndexHeader, bytes: &[u8]) -> Index {
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
        Index { header, entries }
    }

    /// The resources that are listed, in the order of their areas.
    pub fn resources(&self) -> impl Iterator<Item = Resource> + '_ {
        let listed = self.entries.iter().filter_map(|entry| entry.as_ref().ok()?.as_ref());
        listed.map(Index::listed)
    }

    /// The resource of an entry.
    pub const fn listed(entry: &IndexEntry) -> Resource {
        Resource { name: entry.name, offset: entry.offset }
    }

    /// The entries that can't be read, by their numbers.
    pub fn damaged(&self) -> impl Iterator<Item = (u32, &Corrupt)> {
        self.entries.iter().zip(0..).filter_map(|(entry, number)| Some((number, entry.as_ref().err()?)))
    }

    /// How many entries can be used on a device of `len` bytes: the index may have more than the device has room for.
    pub fn room(&self, len: u64) -> u32 {
        let behind = len.saturating_sub(self.header.resource_offset(0)) / self.header.geometry.area_bytes();
        self.header.max_resources.min(u32::try_from(behind).unwrap_or(u32::MAX))
    }

    /// Where the sector starts that entry `number` stands in.
    pub const fn entry_sector(header: &IndexHeader, number: u32) -> u64 {
        let sector = header.geometry.sector_bytes() as u64;
        (header.offset + header.geometry.index_entry_offset(number)) / sector * sector
    }

    /// That sector with the entry naming `name`, or nothing. Entries share a sector: the others stay as they were read.
    pub fn with_entry(header: &IndexHeader, number: u32, mut sector: Vec<u8>, name: Option<Name>) -> Vec<u8> {
        let within = (header.offset + header.geometry.index_entry_offset(number)) as usize % sector.len();
        let entry = name.map(|name| IndexEntry { offset: header.resource_offset(number), name });
        let bytes = entry.map_or([0; IndexEntry::BYTES], |entry| entry.encode());
        sector[within..within + IndexEntry::BYTES].copy_from_slice(&bytes);
        sector
    }
}
