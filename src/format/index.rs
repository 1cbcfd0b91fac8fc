//! The resource index: names of resources, and where their areas are.

use super::bytes::raw_record;
use super::leader::same_version;
use super::{Corrupt, Field, Geometry, SectorSize};
use crate::types::Name;

const MAGIC: u32 = 0x0104_2018;
const VERSION: u32 = 0x0001_0002;

raw_record! {
    /// An index header as it stands on disk, unchecked.
    RawIndexHeader 0..80 {
        0 magic: u32 as Hex,
        4 version: u32 as Hex,
        8 flags: u32 as Hex,
        12 sector_size: u32 as Number,
        16 max_resources: u32 as Number,
        20 unused: u32 as Number,
        24 rx_offset: u64 as Number,
        32 lockspace_name: Name as Text,
    }
}

raw_record! {
    /// An index entry as it stands on disk, unchecked.
    RawIndexEntry 0..64 {
        0 res_offset: u64 as Number,
        8 flags: u32 as Hex,
        12 unused: u32 as Number,
        16 name: Name as Text,
    }
}

/// The first sector of an index area. It has no checksum.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IndexHeader {
    /// Sector and area size of the index and of all resources in it.
    pub geometry: Geometry,
    /// How many entries the index has: 1 to [`Geometry::max_index_entries`].
    pub max_resources: u32,
    /// Where on its device this header stands, in bytes.
    pub offset: u64,
    /// The lockspace's name.
    pub lockspace: Name,
}

impl IndexHeader {
    /// How many entries an index has when nothing else is said.
    pub const DEFAULT_MAX_RESOURCES: u32 = 4096;

    /// Reads a header from its sector, which stands at byte `at` of its device.
    ///
    /// # Errors
    /// [`Corrupt`], with the first check that failed; also when the header says that it stands elsewhere.
    pub fn decode(sector: &[u8], at: u64) -> Result<IndexHeader, Corrupt> {
        let size = SectorSize::of(sector)?;
        let raw = RawIndexHeader::read(sector);
        if raw.magic != MAGIC {
            return Err(Corrupt::Magic { found: raw.magic, expected: MAGIC });
        }
        same_version(raw.version, VERSION)?;
        let geometry = Geometry::from_index(size, raw.sector_size, raw.flags)?;
        let max = geometry.max_index_entries();
        if raw.max_resources == 0 || raw.max_resources > max {
            return Err(Corrupt::MaxResources { found: raw.max_resources, max });
        }
        if raw.rx_offset != at {
            return Err(Corrupt::Position { found: raw.rx_offset, expected: at });
        }
        Ok(IndexHeader {
            geometry,
            max_resources: raw.max_resources,
            offset: raw.rx_offset,
            lockspace: raw.lockspace_name,
        })
    }

    /// The sector that holds this header, at [`IndexHeader::offset`].
    pub fn encode(&self) -> Vec<u8> {
        let mut sector = vec![0; self.geometry.sector_bytes()];
        let raw = RawIndexHeader {
            magic: MAGIC,
            version: VERSION,
            flags: self.geometry.area().index_flag(),
            sector_size: self.geometry.sector_bytes() as u32,
            max_resources: self.max_resources,
            unused: 0,
            rx_offset: self.offset,
            lockspace_name: self.lockspace,
        };
        raw.write(&mut sector);
        sector
    }

    /// Where on the device the area of entry number `entry`, counted from 0, starts: the index and the lease that
    /// guards it come before.
    pub const fn resource_offset(&self, entry: u32) -> u64 {
        self.offset.saturating_add((2 + entry as u64).saturating_mul(self.geometry.area_bytes()))
    }
}

/// An entry of the index that is in use. A free one is all zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IndexEntry {
    /// Where on the device the resource's area starts, in bytes.
    pub offset: u64,
    /// The resource's name.
    pub name: Name,
}

impl IndexEntry {
    /// Bytes of an entry. They stand side by side from the second sector of the area on.
    pub const BYTES: usize = 64;

    /// Reads an entry; `None` is a free one.
    ///
    /// # Errors
    /// [`Corrupt::IndexEntry`] when it has a name without an offset or an offset without a name.
    pub fn decode(bytes: &[u8; IndexEntry::BYTES]) -> Result<Option<IndexEntry>, Corrupt> {
        let raw = RawIndexEntry::read(bytes);
        match (raw.res_offset, raw.name.is_empty()) {
            (0, true) => Ok(None),
            (0, false) | (_, true) => Err(Corrupt::IndexEntry { offset: raw.res_offset, name: raw.name }),
            (offset, false) => Ok(Some(IndexEntry { offset, name: raw.name })),
        }
    }

    /// The bytes of this entry.
    pub fn encode(&self) -> [u8; IndexEntry::BYTES] {
        let mut bytes = [0; IndexEntry::BYTES];
        RawIndexEntry { res_offset: self.offset, flags: 0, unused: 0, name: self.name }.write(&mut bytes);
        bytes
    }
}

/// The fields of a header's sector, valid or not.
pub(super) fn header_fields(sector: &[u8]) -> Vec<Field> {
    RawIndexHeader::read(sector).fields()
}

/// The fields of an entry, valid or not.
pub(super) fn entry_fields(bytes: &[u8]) -> Vec<Field> {
    RawIndexEntry::read(bytes).fields()
}
